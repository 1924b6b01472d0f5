"""/v1/translate and /v1/summarise: by a fake that says its prompt again, and by a tiny real model packed for it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import millis
from fitting import run_millis
from millis.contract import Contract
from millis.errors import InvalidValue
from millis.security.keys import KeyFile
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from millis.tasks.chat import Chat
from millis.tasks.instructing import check_instruction
from speaking import END, START, make_echo_bundle, make_speaker


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("rewriting")
    bundles = (
        make_echo_bundle(folder, name="en-zh", task="translate", instruction="Into Chinese: {text}"),
        make_echo_bundle(folder, name="short", task="summarise", instruction="{text} In short:"),
    )
    with Supervisor(ServeSettings(bundles=tuple(str(one.path) for one in bundles), port=0)) as server:
        yield server.url


def post(url: str, route: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/{route}", json=body, timeout=20)


def test_a_text_is_put_into_the_instruction_and_a_list_is_answered_in_its_order(url: str) -> None:
    one = post(url, "translate", input="你好, {text}!").json()
    assert (one["model"], one["rung"]) == ("en-zh", "fake")
    assert one["results"] == [{"text": "user\nInto Chinese: 你好, {text}!", "finish_reason": "stop"}]
    assert one["usage"]["total_tokens"] == one["usage"]["prompt_tokens"] + one["usage"]["completion_tokens"]
    texts = [f"text {i}" for i in range(12)]  # more than grow at once
    answers = [result["text"] for result in post(url, "summarise", input=texts).json()["results"]]
    assert answers == [f"user\n{text} In short:" for text in texts]


def test_the_client_asks_for_translations_and_summaries(url: str) -> None:
    with millis.Client(url) as client:
        assert client.translate("good morning", deadline_ms=5000).result["text"] == "user\nInto Chinese: good morning"
        short = client.summarise(["one", "two"], max_tokens=3)
        assert [result["finish_reason"] for result in short.results] == ["length", "length"]


def test_an_answer_is_streamed_and_says_how_it_ended(url: str) -> None:
    events = []
    with httpx.stream("POST", f"{url}/v1/translate", json={"input": "hello", "stream": True, "max_tokens": 9}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    *parts, usage, done = events
    assert done == "[DONE]"
    assert "".join(json.loads(part)["text"] for part in parts) == "user\nInt"
    assert json.loads(parts[-1])["finish_reason"] == "length"
    assert json.loads(usage)["usage"]["completion_tokens"] == 9


def test_a_deadline_ends_the_answer_and_says_whether_it_is_whole(tmp_path: Path) -> None:
    bundle = make_echo_bundle(tmp_path, task="translate", instruction="{text}", context=100_000)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        text = "One sentence. " + "and so on " * 2000
        answer = httpx.post(f"{server.url}/v1/translate", json={"input": text}, headers={"X-Deadline-Ms": "60"}, timeout=20)
    if answer.status_code == 200 and answer.json()["results"][0]["finish_reason"] == "deadline":
        assert answer.json()["results"][0]["whole"] is True
        assert answer.json()["results"][0]["text"].endswith("One sentence.")
    else:
        assert answer.status_code in (200, 503, 504)


def test_of_a_list_that_its_deadline_cuts_what_was_written_is_given(tmp_path: Path) -> None:
    bundle = make_echo_bundle(tmp_path, task="translate", instruction="{text}", context=4096, pause_ms=5)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        texts = ["潮水来了。然后" + "又走了" * 100] * 12  # four at once, and each would take five seconds
        ask = {"url": f"{server.url}/v1/translate", "headers": {"X-Deadline-Ms": "600"}, "timeout": 20}
        results = httpx.post(**ask, json={"input": texts}).json()["results"]
        body = {"messages": [{"role": "user", "content": texts[0]}], "n": 8}
        ask["url"] = f"{server.url}/v1/chat/completions"
        answer = httpx.post(**ask, json=body)
        events = [line for line in httpx.post(**ask, json={**body, "stream": True}).text.splitlines() if line]
    assert [one["whole"] for one in results] == [True] * 4 + [False] * 8
    assert {one["text"] for one in results} == {"user\n潮水来了。", ""}
    assert {one["finish_reason"] for one in results} == {"deadline"}
    assert [bool(one["message"]["content"]) for one in answer.json()["choices"]] == [True] * 4 + [False] * 4
    assert answer.headers["x-millis-whole"] == "false"
    assert events[-1] == "data: [DONE]"
    assert sum('"finish_reason":"deadline"' in one for one in events) == 8


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"input": ""}, 422, "no text came"),
        ({"input": ["a", ""]}, 422, "text 1 of the list is empty"),
        ({"input": 3}, 422, "input"),
        ({"input": ["a", "b"], "stream": True}, 422, "stream came with a list"),
        ({"input": "a", "max_tokens": 0}, 422, "max_tokens"),
        ({"input": "a", "temperature": 1}, 422, "a key that is not known came"),
        ({"input": "a", "model": "short"}, 404, "choose one of en-zh"),
        ({"input": ["a"] * 100_000}, 413, "texts"),
        ({"input": "word " * 100}, 400, "the prompt has"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence(url: str, body: dict[str, Any], status: int, says: str) -> None:
    refused = post(url, "translate", **body)
    assert refused.status_code == status, refused.text
    assert refused.headers["content-type"] == "application/problem+json"
    assert says in refused.json()["detail"]


def test_a_key_is_for_the_task_or_the_model(tmp_path: Path) -> None:
    bundle = make_echo_bundle(tmp_path, task="translate", instruction="{text}")
    keys = KeyFile(tmp_path / "keys")
    mine, other = (keys.create(name=scope, scopes=(scope,))[0] for scope in ("translate", "summarise"))
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, keys=str(tmp_path / "keys"))) as server:
        statuses = [
            httpx.post(f"{server.url}/v1/translate", json={"input": "a"}, headers={"X-API-Key": key}).status_code
            for key in (mine, other)
        ]
    assert statuses == [200, 403]


@pytest.mark.slow
def test_a_model_is_packed_for_a_task_and_answers_as_it_does_under_openais_route(tmp_path: Path) -> None:
    from millis.compressing.packing import pack

    base = make_speaker(tmp_path / "base")
    out = tmp_path / "zh.millis"
    done = run_millis("pack", base, "-o", out, "--task", "translate", "--rungs", "fp32", "--instruction", "To Chinese: {text}")
    assert done.returncode == 0, done.stderr
    with Supervisor(ServeSettings(bundles=(str(tmp_path / "zh.millis"),), port=0)) as server:
        answer = post(server.url, "translate", input="tide", max_tokens=8).json()["results"][0]["text"]
        messages = [{"role": "user", "content": "To Chinese: tide"}]
        told = post(server.url, "chat/completions", messages=messages, max_tokens=8, temperature=0).json()
    assert answer == told["choices"][0]["message"]["content"].strip()
    for task, instruction, says in (("translate", "none", "0 places"), ("translate", "", "0 places"), ("sing", None, "choose one of chat"), ("chat", "{text}", "leave it out")):
        with pytest.raises(InvalidValue, match=says):
            pack(str(base), tmp_path / "no.millis", contract=Contract(p99="1 s"), task=task, instruction=instruction)


def test_an_instruction_has_one_place_for_the_text() -> None:
    assert check_instruction("Do {text}") == "Do {text}"
    for wrong in ("{text} {text}", "none", "{text}" + "x" * 5000):
        with pytest.raises(InvalidValue):
            check_instruction(wrong)


def test_an_answer_ends_with_what_the_template_puts_behind_it(tmp_path: Path) -> None:
    bundle = make_echo_bundle(tmp_path)
    said = bundle.manifest.task_settings
    for stop_ids in ([START, END], [END, START]):
        assert Chat(bundle.path, settings={**said, "stop_ids": stop_ids}).end_of_answer() == END
    (bundle.path / "chat_template.jinja").unlink()
    assert Chat(bundle.path, settings={**said, "stop_ids": [START, END]}).end_of_answer() == START
