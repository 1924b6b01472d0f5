"""What OpenAI publishes of its shapes, member by member: answers, events, errors and what stands in them.

Answers are read as bytes and held against the types of OpenAI's own client, strictly: nothing missing, nothing more.
"""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import httpx
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatAsked
from openai.types.completion_create_params import CompletionCreateParamsBase as TextAsked
from pydantic import BaseModel

from millis.security.keys import KeyFile
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from speaking import make_echo_bundle

HELLO = [{"role": "user", "content": "hello"}]
ROUTES = {"chat/completions": {"messages": HELLO}, "completions": {"prompt": "hello", "max_tokens": 5}}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    bundle = make_echo_bundle(tmp_path_factory.mktemp("shapes"))
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        yield server.url


def post(url: str, path: str, **wishes: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/{path}", json={"model": "echo", **ROUTES[path], **wishes}, timeout=20)


def stream(url: str, path: str, **wishes: Any) -> list[Any]:
    lines = post(url, path, stream=True, **wishes).text.splitlines()
    told = [line.removeprefix("data: ") for line in lines if line]
    assert told[-1] == "[DONE]"
    return [json.loads(one) for one in told[:-1]]


def list_unknown(read: Any) -> list[str]:
    """List members that OpenAI's types do not have, at any depth."""
    if isinstance(read, list):
        return [name for one in read for name in list_unknown(one)]
    if not isinstance(read, BaseModel):
        return []
    own = [name for field in type(read).model_fields for name in list_unknown(getattr(read, field))]
    return [*(read.model_extra or {}), *own]


def hold(kind: type[BaseModel], document: Any) -> None:
    assert list_unknown(kind.model_validate_json(json.dumps(document), strict=True)) == []


@pytest.mark.parametrize("wishes", [{}, {"n": 2}, {"stop": "ll"}, {"max_tokens": 2}, {"logprobs": True}])
def test_answers_and_chunks_are_of_openais_types(url: str, wishes: dict[str, Any]) -> None:
    hold(ChatCompletion, post(url, "chat/completions", **wishes).json())
    for options in ({}, {"stream_options": {"include_usage": True}}):
        for chunk in stream(url, "chat/completions", **options, **wishes):
            hold(ChatCompletionChunk, chunk)
    if "logprobs" in wishes:
        wishes = {"logprobs": 0}
    hold(Completion, post(url, "completions", **wishes).json())
    for chunk in stream(url, "completions", **wishes):
        assert chunk["object"] == "text_completion"


def test_message_has_what_it_could_have_had(url: str) -> None:
    message = post(url, "chat/completions").json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "user\nhello", "refusal": None, "annotations": []}


def test_usage_is_null_until_the_last_chunk_where_it_was_asked_for(url: str) -> None:
    for path in ROUTES:
        *before, last = stream(url, path, stream_options={"include_usage": True})
        assert all(chunk["usage"] is None for chunk in before)
        assert (last["choices"], last["usage"]["prompt_tokens"] > 0) == ([], True)
        assert not any("usage" in chunk for chunk in stream(url, path))


def test_usage_of_several_answers_in_a_stream_is_their_sum(url: str) -> None:
    one, three = (
        stream(url, "chat/completions", n=n, stream_options={"include_usage": True})[-1]["usage"] for n in (1, 3)
    )
    assert three["completion_tokens"] == 3 * one["completion_tokens"]
    assert three["prompt_tokens"] == one["prompt_tokens"]


def test_pieces_of_a_character_have_their_own_bytes(url: str) -> None:
    rows = post(url, "chat/completions", messages=[{"role": "user", "content": "é好"}], logprobs=True).json()
    bytes_of = [row["bytes"] for row in rows["choices"][0]["logprobs"]["content"]]
    assert bytes_of[0] is None  # a special piece, of which no text comes
    assert bytes_of[-5:] == [[byte] for byte in "é好".encode()]
    spoken = b"".join(bytes(one) for one in bytes_of[1:]).decode()
    assert spoken == rows["choices"][0]["message"]["content"]


def test_completions_say_where_each_piece_begins_in_the_text(url: str) -> None:
    wishes = {"prompt": "aé好b", "max_tokens": 7, "logprobs": 0}
    logprobs = post(url, "completions", **wishes).json()["choices"][0]["logprobs"]
    assert logprobs["text_offset"] == [0, 1, 1, 2, 2, 2, 3]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == 7
    assert set(logprobs) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    streamed = [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in stream(url, "completions", **wishes)]
    assert [at for part in streamed for at in part] == logprobs["text_offset"]


@pytest.mark.parametrize("stop", ["好", "é好", "\nh"])
def test_a_stop_of_several_pieces_leaves_nothing_of_itself(url: str, stop: str) -> None:
    said = [{"role": "user", "content": "hé好!"}]
    whole = post(url, "chat/completions", messages=said, stop=stop).json()["choices"][0]
    assert (whole["message"]["content"], whole["finish_reason"]) == ("user\nhé好!".partition(stop)[0], "stop")
    chunks = stream(url, "chat/completions", messages=said, stop=stop)
    assert "".join(one["choices"][0]["delta"]["content"] for one in chunks) == whole["message"]["content"]


WRONG = {
    "temperature": -1, "top_p": 7, "n": 1_000_000, "stop": ["x"] * 10_000, "seed": 1 << 62 << 1, "max_tokens": 0,
    "presence_penalty": 3, "frequency_penalty": -3, "logit_bias": {"5": 1}, "stream_options": {"include_usage": True},
    "response_format": {"type": "xml"}, "beams": 3, "stream": "yes", "user": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_an_error_names_the_member_that_cannot_be(url: str, name: str) -> None:
    for path in ROUTES:
        answer = post(url, path, **{name: WRONG[name]})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == name, answer.text


def test_an_error_names_the_member_of_one_route(url: str) -> None:
    chat: tuple[dict[str, Any], ...] = (
        {"messages": []}, {"messages": [{"role": "wizard", "content": "x"}]}, {"messages": [{"role": "user"}]},
        {"tools": [{}]}, {"top_logprobs": 2}, {"modalities": ["audio"]},
    )  # fmt: skip
    text: tuple[dict[str, Any], ...] = ({"prompt": ""}, {"prompt": [300]}, {"echo": True}, {"suffix": "x"}, {"best_of": 4}, {"logprobs": 3})
    for path, wrong in (("chat/completions", chat), ("completions", text)):
        for one in wrong:
            error = post(url, path, **one).json()["error"]
            assert error["param"] == next(iter(one)), error


WORKS = {
    "model", "messages", "prompt", "stream", "stream_options", "n", "stop", "seed", "temperature", "top_p", "max_tokens",
    "max_completion_tokens", "frequency_penalty", "presence_penalty", "logprobs", "response_format",
}  # fmt: skip
CHANGES_NOTHING: dict[str, tuple[Any, ...]] = {
    "user": ("me",), "metadata": ({"a": "b"},), "safety_identifier": ("me",), "prompt_cache_key": ("me",),
    "store": (False,), "service_tier": ("auto", "default"), "parallel_tool_calls": (True, False),
    "reasoning_effort": ("none",), "verbosity": ("medium",), "modalities": (["text"],), "tools": ([],),
    "tool_choice": ("none",), "functions": ([],), "function_call": ("none",), "logit_bias": ({},), "top_logprobs": (0,),
    "echo": (False,), "suffix": ("",), "best_of": (1,),
}  # fmt: skip
UNSUPPORTED: dict[str, Any] = {
    "store": True, "service_tier": "flex", "reasoning_effort": "low", "verbosity": "high", "tool_choice": "auto",
    "modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "mp3"}, "function_call": {"name": "f"},
    "prediction": {"type": "content", "content": "x"}, "web_search_options": {}, "moderation": {"model": "x"},
    "prompt_cache_options": {"mode": "explicit"}, "prompt_cache_retention": "24h", "functions": [{"name": "f"}],
    "tools": [{"type": "function", "function": {"name": "f"}}], "logit_bias": {"5": 1}, "top_logprobs": 2,
    "echo": True, "suffix": "x", "best_of": 3,
}  # fmt: skip


@pytest.mark.parametrize(("path", "asked"), [("chat/completions", ChatAsked), ("completions", TextAsked)])
def test_a_member_of_openais_client_works_or_is_refused_by_name(url: str, path: str, asked: Any) -> None:
    def say(**wishes: Any) -> Any:
        answer = post(url, path, temperature=0, **wishes).json()
        return answer["choices"] if "choices" in answer else answer["error"]

    plain = say()
    for name in {*get_type_hints(asked), "stream"}:
        assert name in WORKS | CHANGES_NOTHING.keys() | UNSUPPORTED.keys()
        for value in (*CHANGES_NOTHING.get(name, ()), *((None,) if name not in ROUTES[path] else ())):
            told = say(**{name: value}) if name != "temperature" else plain
            assert told == plain or name == "max_tokens", (name, value, told)
        if name in UNSUPPORTED:
            error = say(**{name: UNSUPPORTED[name]})
            assert (error["code"], error["param"]) == ("unsupported", name), error
            assert "which is not supported here: leave it out" in error["message"]


def test_a_stream_is_never_padded(url: str) -> None:
    wishes = {"stream": True, "stream_options": {"include_obfuscation": False}}
    assert post(url, "chat/completions", **wishes).is_success
    wishes["stream_options"] = {"include_obfuscation": True}
    error = post(url, "chat/completions", **wishes).json()["error"]
    assert (error["code"], error["param"]) == ("unsupported", "stream_options")


def test_an_error_that_is_of_no_member_names_none(url: str) -> None:
    answer = httpx.post(f"{url}/v1/chat/completions", content=b"{")
    assert answer.json()["error"]["param"] is None


def test_a_prompt_longer_than_the_context_has_openais_code(url: str) -> None:
    answers = (
        post(url, "chat/completions", messages=[{"role": "user", "content": "x" * 300}]),
        post(url, "completions", prompt="x" * 300),
    )
    for answer, name in zip(answers, ("messages", "prompt"), strict=True):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", name)


def test_an_unknown_model_has_openais_code(url: str) -> None:
    for path in ROUTES:
        answer = post(url, path, model="gpt-5")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")


def test_keys_that_are_wrong_or_asked_too_often_have_openais_codes(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    secret = keys.create(name="me", scopes=("chat",), rate_per_s=1)[0]
    bundle = make_echo_bundle(tmp_path)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, keys=str(keys.path))) as server:
        def ask(key: str) -> Any:
            body = {"model": "echo", "messages": HELLO}
            headers = {"Authorization": f"Bearer {key}"}
            return httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers).json().get("error")

        assert (ask("wrong")["code"], ask("wrong")["type"]) == ("invalid_api_key", "authentication_error")
        errors = [ask(secret) for _ in range(20)]
    assert errors[0] is None
    assert {(one["code"], one["type"]) for one in errors if one} == {("rate_limit_exceeded", "rate_limit_error")}


def test_a_character_that_is_cut_between_two_packets_is_read_whole_and_half_a_one_is_refused(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"messages": [{"role": "user", "content": "é"}]}, ensure_ascii=False).encode()
    cut = body.index("é".encode()) + 1
    for rest, status in ((body[cut:], b"200"), (b"\"" + body[cut + 1:], b"400")):
        with socket.create_connection((host, int(port)), timeout=10) as one:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n")
            for part in (body[:cut], rest):
                one.sendall(b"%x\r\n%b\r\n" % (len(part), part))
            one.sendall(b"0\r\n\r\n")
            said = b"".join(iter(lambda: one.recv(65536), b""))
        assert said.split(b" ", 2)[1] == status
        assert ('user\\n\u00e9'.encode() in said) is (status == b"200")


MEMBERS = (
    "model", "messages", "prompt", "stream", "stream_options", "n", "stop", "seed", "temperature", "top_p", "max_tokens",
    "max_completion_tokens", "frequency_penalty", "presence_penalty", "logit_bias", "user", "metadata", "safety_identifier",
    "response_format", "logprobs", "top_logprobs", "tools", "tool_choice", "functions", "modalities", "echo", "best_of", "suffix",
)  # fmt: skip
ODD = (
    "null", "true", "-1", "0", "1.5", "1e400", "NaN", "-0.0", str(10**30), '""', '"\\u0000"', '"\u202e\U0001f642"', '"\\ud800"', "[]",
    "[[]]", "[null]", '["", ""]', "{}", '{"": {}}', '{"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}',
    "[" * 1000 + "]" * 1000, '[{"role": "user", "content": [{"type": "text", "text": "\\ud83d"}]}]',
)  # fmt: skip


@pytest.mark.parametrize("path", ROUTES)
def test_whatever_a_member_is_the_answer_is_one_of_openais(url: str, path: str) -> None:
    with httpx.Client(timeout=20) as client:
        for name in MEMBERS:
            for odd in ODD:
                rest = {"model": "echo", **ROUTES[path]}
                rest.pop(name, None)
                body = json.dumps(rest)[:-1] + f', "{name}": {odd}}}'
                answer = client.post(f"{url}/v1/{path}", content=body.encode())
                if answer.status_code != 200:
                    assert 400 <= answer.status_code < 500, (name, odd, answer.text)
                    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
