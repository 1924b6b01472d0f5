"""OpenAI's own client against a server that chats: on a fake that says its prompt again, and on a tiny real Llama."""

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from making import make_fake_bundle
from millis.contract import Contract
from millis.security.keys import KeyFile
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from speaking import make_echo_bundle, make_speaker

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    from millis.compressing.packing import pack

    folder: Path = tmp_path_factory.mktemp("chats")
    base = make_speaker(folder / "base")
    tiny = pack(str(base), folder / "tiny.millis", contract=Contract(p99="1 s"), rungs=("fp32",))
    bundles = (make_echo_bundle(folder), tiny, make_fake_bundle(folder, name="tags"))
    with Supervisor(ServeSettings(bundles=tuple(str(one.path) for one in bundles), port=0)) as server:
        yield server


@pytest.fixture(scope="module")
def url(server: Supervisor) -> str:
    return server.url


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)


def chat(client: openai.OpenAI, **wishes: Any) -> Any:
    return client.chat.completions.create(**{"model": "echo", "messages": HELLO, **wishes})


def complete(client: openai.OpenAI, **wishes: Any) -> Any:
    return client.completions.create(**{"model": "echo", "prompt": "hello", "max_tokens": 5, **wishes})


def post(url: str, body: Any, *, path: str = "chat/completions", headers: dict[str, str] | None = None) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{url}/v1/{path}", content=content, headers=headers, timeout=20)


def test_chat_is_answered_by_the_template_and_ends_at_the_stop_piece(client: openai.OpenAI) -> None:
    answer = chat(client)
    assert answer.choices[0].message.content == "user\nhello"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.object, answer.model) == ("chat.completion", "echo")
    assert answer.id.startswith("chatcmpl-")
    assert abs(answer.created - time.time()) < 60


def test_usage_counts_pieces(client: openai.OpenAI) -> None:
    usage = complete(client, prompt="hé").usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 5, 8)


def test_system_and_parts_of_text_are_read(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(client, messages=[{"role": "user", "content": parts}]).choices[0].message.content == "user\nab"
    system = [{"role": "developer", "content": "short"}, *HELLO]
    assert chat(client, messages=system).choices[0].message.content == "system\nshort"


def test_an_answer_may_be_sent_back_as_it_came(client: openai.OpenAI) -> None:
    mine = chat(client).choices[0].message
    for said in (mine, mine.model_dump()):
        again = chat(client, messages=[*HELLO, said, {"role": "user", "content": "more"}])
        assert again.usage.prompt_tokens > 30
    calls = "calls of tools are not supported here: leave that message out"
    refused = (
        ("tool_calls", [{"id": "a"}], calls), ("function_call", {"name": "f"}, calls),
        ("refusal", "no", "leave out the rest"), ("audio", {"id": "a"}, "leave out the rest"),
    )  # fmt: skip
    for name, value, sentence in refused:
        with pytest.raises(openai.BadRequestError, match=sentence):
            chat(client, messages=[*HELLO, {"role": "assistant", "content": "x", name: value}])


def test_stream_gives_the_same_text_piece_by_piece(client: openai.OpenAI) -> None:
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(texts) == "user\nhello"
    assert len(texts) > 5
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 11  # its first piece is special and has no text
    assert len({chunk.id for chunk in chunks}) == 1


def test_stream_without_usage_has_none(client: openai.OpenAI) -> None:
    assert all(chunk.usage is None for chunk in chat(client, stream=True))


def test_characters_of_several_pieces_come_whole(client: openai.OpenAI) -> None:
    said = [{"role": "user", "content": "héllo 你好 🙂"}]
    texts = [chunk.choices[0].delta.content for chunk in chat(client, messages=said, stream=True)]
    assert "".join(texts) == "user\nhéllo 你好 🙂"
    assert not any("\ufffd" in text for text in texts)


def test_max_tokens_ends_an_answer(client: openai.OpenAI) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        choice = chat(client, **{name: 3}).choices[0]
        assert (choice.finish_reason, choice.message.content) == ("length", "us")


@pytest.mark.parametrize(("stop", "text"), [("ll", "user\nhe"), (["zz", "o", "lo"], "user\nhel"), ("user", "")])
def test_stop_strings_end_an_answer_before_them(client: openai.OpenAI, stop: Any, text: str) -> None:
    choice = chat(client, stop=stop).choices[0]
    assert (choice.message.content, choice.finish_reason) == (text, "stop")
    streamed = "".join(chunk.choices[0].delta.content for chunk in chat(client, stop=stop, stream=True))
    assert streamed == text


def test_beginning_of_a_stop_that_does_not_come_is_given(client: openai.OpenAI) -> None:
    assert chat(client, stop="lox").choices[0].message.content == "user\nhello"


def test_several_answers_have_each_their_place(client: openai.OpenAI) -> None:
    answer = chat(client, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {"user\nhello"}
    chunks = list(chat(client, n=2, stream=True))
    for i in range(2):
        mine = [c for chunk in chunks for c in chunk.choices if c.index == i]
        assert "".join(c.delta.content for c in mine) == "user\nhello"
        assert [c.finish_reason for c in mine if c.finish_reason] == ["stop"]


def test_completions_take_text_and_token_ids(client: openai.OpenAI) -> None:
    assert complete(client).choices[0].text == "hello"
    text = complete(client, prompt=[1, 2, 3], max_tokens=3)
    assert (text.object, text.choices[0].finish_reason) == ("text_completion", "length")
    assert text.choices[0].text == complete(client, prompt=[[1, 2, 3]], max_tokens=3).choices[0].text
    assert "".join(chunk.choices[0].text for chunk in complete(client, stream=True)) == "hello"


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert {"echo", "tiny", "tags"} <= {model.id for model in client.models.list()}


BAD = {
    "no messages": ({"messages": []}, "0 messages"),
    "unknown role": ({"messages": [{"role": "wizard", "content": "x"}]}, "role that is not known"),
    "tool's role": ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "role that is not known"),
    "no content": ({"messages": [{"role": "user", "content": ""}]}, "no content"),
    "null content": ({"messages": [{"role": "user", "content": None}]}, "no content"),
    "content of numbers": ({"messages": [{"role": "user", "content": 3}]}, "no content"),
    "picture": ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "text"),
    "message of text": ({"messages": ["hello"]}, "role and content"),
    "n of a million": ({"n": 1_000_000}, "n cannot be 1,000,000: give 1 to 8"),
    "n beyond all bounds": ({"n": 10**400}, "n cannot be 10,000,000,000,000,0...: give 1 to 8"),
    "tokens beyond all bounds": ({"max_tokens": 10**400}, "give 1 to 1,000,000,000"),
    "n of none": ({"n": 0}, "1 to 8"),
    "negative temperature": ({"temperature": -1}, "temperature cannot be -1"),
    "hot": ({"temperature": 2.5}, "0 to 2"),
    "top_p below nothing": ({"top_p": -0.1}, "top_p cannot be -0.1: give 0 to 1"),
    "top_p above one": ({"top_p": 1.5}, "top_p"),
    "penalty": ({"frequency_penalty": 3}, "-2 to 2"),
    "ten thousand stops": ({"stop": ["x"] * 10_000}, "10,000 strings"),
    "empty stop": ({"stop": ""}, "stop has a string of 0 characters"),
    "long stop": ({"stop": ["x", "x" * 1000]}, "stop has a string of 1,000 characters"),
    "no tokens": ({"max_tokens": 0}, "max_tokens"),
    "negative tokens": ({"max_tokens": -5}, "max_tokens"),
    "two limits": ({"max_tokens": 3, "max_completion_tokens": 4}, "differ"),
    "huge seed": ({"seed": 1 << 70}, "seed|64|Integer|integer|read"),
    "tools": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    "tool choice": ({"tool_choice": "auto"}, "tool_choice"),
    "schema": ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
    "alternatives": ({"logprobs": True, "top_logprobs": 3}, "top_logprobs"),
    "bias": ({"logit_bias": {"5": 1}}, "logit_bias"),
    "unknown member": ({"beams": 3}, "beams"),
    "wrong type": ({"temperature": "hot"}, "temperature"),
    "usage without stream": ({"stream_options": {"include_usage": True}}, "stream"),
    "template's own": ({"messages": [*HELLO, {"role": "system", "content": "late"}]}, "template"),
    "long prompt": ({"messages": [{"role": "user", "content": "x" * 300}]}, "tokens"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused_in_openais_shape(url: str, case: str) -> None:
    wishes, words = BAD[case]
    answer = post(url, {"model": "echo", "messages": HELLO, **wishes})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert any(word in error["message"] for word in words.split("|")), error["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b'{"messages": [{"role": "user", "content": "\xc3"}]}', b"[" * 100_000, b"[]", b"null",
     b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
     b'{"model": "echo", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
     b'{"model": "echo", "messages": [{"role": "user", "content": "\\ud800"}]}'],
)  # fmt: skip
def test_broken_bodies_are_refused(url: str, body: bytes) -> None:
    for path in ("chat/completions", "completions"):
        answer = post(url, body, path=path)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"
        if path == "chat/completions":
            assert ("surrogate pair" in answer.text) == (b"ud800" in body)


@pytest.mark.parametrize(
    "wishes",
    [{"prompt": ""}, {"prompt": []}, {"prompt": ["a", "b"]}, {"prompt": [-1]}, {"prompt": [300]}, {"prompt": [1.5]},
     {"prompt": 3}, {"echo": True}, {"suffix": "x"}, {"best_of": 3}, {"logprobs": 2}, {"prompt": "x" * 300}],
)  # fmt: skip
def test_completions_refuse_what_cannot_be(client: openai.OpenAI, wishes: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        complete(client, **wishes)


def test_an_unknown_model_is_refused_and_who_names_none_gets_the_first(url: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="echo, tiny"):
        chat(client, model="gpt-5")
    assert post(url, {"messages": HELLO}).json()["model"] == "echo"


def test_too_much_text_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        chat(client, messages=[{"role": "user", "content": "x" * 60_000}])
    assert caught.value.status_code == 413


def test_get_is_no_way_to_chat(url: str) -> None:
    assert httpx.get(f"{url}/v1/chat/completions").status_code == 405


# On the real engine


def test_engine_says_what_torch_says(client: openai.OpenAI, url: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(make_speaker(tmp_path / "base"))
    prompt = [5, 77, 130, 9, 61, 200]
    want = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :].tolist()
    answer = client.completions.create(
        model="tiny", prompt=prompt, max_tokens=12, temperature=0, logprobs=0
    )
    from speaking import END, make_byte_tokenizer

    spoken = [i for i in want if i != END]
    assert len(spoken) > 2
    assert answer.choices[0].logprobs.tokens == [make_byte_tokenizer().decode([i]) for i in spoken]
    logits = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    assert answer.choices[0].logprobs.token_logprobs[0] == pytest.approx(float(logits.max()), abs=0.05)


def test_seed_decides_what_is_drawn(client: openai.OpenAI) -> None:
    def draw(seed: int) -> str:
        return str(complete(client, model="tiny", seed=seed, temperature=1.5, max_tokens=30).choices[0].text)

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(6)}) > 3


def test_likeliest_pieces_are_no_matter_of_seeds(client: openai.OpenAI) -> None:
    texts = {complete(client, model="tiny", seed=s, temperature=0, max_tokens=20).choices[0].text for s in range(3)}
    assert len(texts) == 1


def test_temperature_or_top_p_next_to_nothing_takes_the_likeliest_and_disturbs_nobody(client: openai.OpenAI) -> None:
    wishes: dict[str, Any] = {"model": "tiny", "prompt": [5, 77, 130], "max_tokens": 100}
    beside = complete(client, stream=True, temperature=0, **wishes)
    text = next(beside).choices[0].text
    answers = {complete(client, temperature=t, seed=1, **wishes).choices[0].text for t in (0, 1e-300, 1e-40, 1e-20)}
    answers |= {complete(client, top_p=share, seed=1, **wishes).choices[0].text for share in (0, 1e-300)}
    assert answers == {text + "".join(chunk.choices[0].text for chunk in beside)}


def test_logprobs_of_a_chat_are_negative_and_one_for_each_piece(client: openai.OpenAI) -> None:
    answer = chat(client, model="tiny", max_tokens=8, logprobs=True, temperature=1, seed=3)
    rows = answer.choices[0].logprobs.content
    assert len(rows) == answer.usage.completion_tokens
    assert all(-50 < row.logprob <= 0 for row in rows)
    assert any(row.logprob < -0.01 for row in rows)


def test_penalties_make_pieces_come_again_less_often(client: openai.OpenAI) -> None:
    def count_repeats(**penalty: float) -> int:
        wishes: dict[str, Any] = {"model": "tiny", "prompt": [5, 77, 130], "max_tokens": 100, "temperature": 0}
        tokens = complete(client, logprobs=0, **wishes, **penalty).choices[0].logprobs.tokens
        return len(tokens) - len(set(tokens))

    plain = count_repeats()
    assert count_repeats(frequency_penalty=2) < plain
    assert count_repeats(presence_penalty=2) < plain
    assert count_repeats(presence_penalty=-2) > plain


def test_answers_end_where_the_context_does(client: openai.OpenAI) -> None:
    answer = complete(client, model="tiny", prompt=[9] * 250, max_tokens=1000, temperature=0)
    assert answer.usage.total_tokens <= 256


def test_eight_answers_at_once_are_those_of_each_alone(client: openai.OpenAI) -> None:
    from concurrent.futures import ThreadPoolExecutor

    prompts = [[i, 2 * i, 3 * i % 256, 7] for i in range(1, 9)]

    def say(prompt: list[int]) -> str:
        return str(complete(client, model="tiny", prompt=prompt, temperature=0, max_tokens=12).choices[0].text)

    alone = [say(prompt) for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(say, prompts)) == alone


def test_an_encoder_in_the_same_server_still_answers(url: str) -> None:
    assert httpx.post(f"{url}/v1/ner", json={"input": "Maria wrote"}).status_code == 200
    health = httpx.get(f"{url}/health").json()
    assert set(health["models"]) == {"echo", "tiny", "tags"}


def test_times_and_tokens_are_in_the_metrics(url: str, client: openai.OpenAI) -> None:
    chat(client)
    text = httpx.get(f"{url}/metrics").text
    assert 'millis_first_token_seconds_count{model="echo"}' in text
    assert 'millis_output_tokens_total{model="echo"}' in text
    assert 'millis_requests_total{route="/v1/chat/completions",status="200"}' in text


def test_an_answer_that_waits_for_its_first_sentence_counts_its_pieces_times(tmp_path: Path) -> None:
    bundle = make_echo_bundle(tmp_path, pause_ms=10)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        body = {"prompt": "no end", "max_tokens": 21}
        answer = post(server.url, body, path="completions", headers={"X-Deadline-Ms": "20000"})
        assert answer.json()["choices"][0]["finish_reason"] == "length"
        lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    said = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(said['millis_output_token_seconds_count{model="echo"}']) == 1
    assert float(said['millis_output_token_seconds_sum{model="echo"}']) > 0.005


# Deadlines and clients that go


def test_too_short_a_deadline_is_refused_before_work(url: str) -> None:
    body = {"model": "tiny", "prompt": [1] * 200, "max_tokens": 5}
    answer = post(url, body, path="completions", headers={"X-Deadline-Ms": "0.5"})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "deadline_too_short"
    assert "of the prompt's 200 tokens is predicted" in answer.json()["error"]["message"]
    assert "waiting does not help" in answer.json()["error"]["message"]
    assert answer.headers["server-timing"].startswith("total;dur=")
    assert "retry-after" not in answer.headers


def test_deadline_that_is_long_changes_nothing(url: str) -> None:
    answer = post(url, {"model": "echo", "messages": HELLO}, headers={"X-Deadline-Ms": "10000"})
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    assert "x-millis-whole" not in answer.headers


def test_nonsense_deadline_is_refused(url: str) -> None:
    for said in ("NaN", "-5", "soon"):
        assert post(url, {"model": "echo", "messages": HELLO}, headers={"X-Deadline-Ms": said}).status_code == 400


def test_streams_that_are_dropped_leave_nothing_behind(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"model": "tiny", "prompt": [3, 4], "max_tokens": 250, "stream": True}).encode()
    for _ in range(40):
        with socket.create_connection((host, int(port)), timeout=5) as one:
            head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            one.sendall(head + body)
            one.recv(1)
    began = time.perf_counter()
    answer = post(url, {"model": "tiny", "prompt": [3, 4], "max_tokens": 2}, path="completions")
    assert answer.status_code == 200
    assert time.perf_counter() - began < 5
    assert 'status="499"' in httpx.get(f"{url}/metrics").text


def test_an_engine_that_is_killed_is_started_again_while_others_answer(server: Supervisor) -> None:
    (worker,) = server.pids
    children = [one for task in Path(f"/proc/{worker}/task").glob("*/children") for one in task.read_text().split()]
    (engine,) = [int(one) for one in children if b"millis.backends.apart_engine" in Path(f"/proc/{one}/cmdline").read_bytes()]
    os.kill(engine, signal.SIGKILL)
    wishes, deadline = {"model": "tiny", "prompt": [3, 4], "max_tokens": 2}, time.monotonic() + 20
    while (answer := post(server.url, wishes, path="completions")).status_code != 200:
        assert answer.json()["error"]["type"] == "server_error"
        assert post(server.url, {"model": "echo", "messages": HELLO}).status_code == 200
        assert time.monotonic() < deadline
    assert server.pids == [worker]


def test_keys_are_asked_for(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    secret = keys.create(name="me", scopes=("chat",))[0]
    other = keys.create(name="other", scopes=("ner",))[0]
    bundle = make_echo_bundle(tmp_path)
    settings = ServeSettings(bundles=(str(bundle.path),), port=0, keys=str(tmp_path / "keys.json"))
    with Supervisor(settings) as server:
        def ask(key: str) -> Any:
            return chat(openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0))

        assert ask(secret).choices[0].finish_reason == "stop"
        with pytest.raises(openai.PermissionDeniedError):
            ask(other)
        with pytest.raises(openai.AuthenticationError) as caught:
            ask("wrong")
        assert caught.value.type == "authentication_error"


def test_a_client_that_finds_every_slot_taken_is_refused_before_its_deadline(tmp_path: Path) -> None:
    bundle = make_echo_bundle(tmp_path, pause_ms=20)
    asked = {"model": "echo", "prompt": "hello", "max_tokens": 200}
    with contextlib.ExitStack() as stack, Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        said = []
        for _ in range(4):
            body = stack.enter_context(
                httpx.stream("POST", f"{server.url}/v1/completions", json={**asked, "stream": True}, timeout=20)
            )
            said.append(body.iter_lines())  # kept: a body that nobody reads any more is closed
            next(said[-1])
        began = time.perf_counter()
        refused = post(server.url, {**asked, "max_tokens": 1}, path="completions", headers={"X-Deadline-Ms": "1000"})
        assert time.perf_counter() - began < 0.5
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "would_be_late")
        assert 1 <= int(refused.headers["retry-after"]) <= 4
        stack.close()
        assert post(server.url, {**asked, "max_tokens": 1}, path="completions").is_success  # once the server saw them go
        assert post(server.url, {**asked, "max_tokens": 1}, path="completions", headers={"X-Deadline-Ms": "1000"}).is_success
