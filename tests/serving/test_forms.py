"""Answers held to JSON and to schemas, through OpenAI's own client: every text that the engine can draw keeps to them.

Whatever the tiny model says is drawn with its temperature at the top, so that nothing but the grammar makes it JSON.
"""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import httpx
import jsonschema_rs
import openai
import pytest

from millis.contract import Contract
from millis.errors import InvalidRequest
from millis.serving.forms import Forms
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from speaking import make_echo_bundle, make_speaker

HELLO = [{"role": "user", "content": "hello"}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 4}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from millis.compressing.packing import pack

    folder: Path = tmp_path_factory.mktemp("forms")
    tiny = pack(str(make_speaker(folder / "base")), folder / "tiny.millis", contract=Contract(p99="1 s"), rungs=("fp32",))
    with Supervisor(ServeSettings(bundles=(str(tiny.path), str(make_echo_bundle(folder).path)), port=0)) as server:
        yield server.url


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30)


def held(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, **more}}


def ask(client: openai.OpenAI, schema: Any, **wishes: Any) -> Any:
    wishes = {"model": "tiny", "messages": HELLO, "temperature": 2, "max_tokens": 200, **wishes}
    return client.chat.completions.create(response_format=held(schema, strict=True), **wishes)


SCHEMAS = {
    "object": PERSON,
    "what may be missing": {"type": "object", "properties": {n: {"type": "boolean"} for n in "abcd"}, "required": ["c"]},
    "array": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
    "array of at most": {"type": "array", "items": {"type": "null"}, "maxItems": 2},
    "array of at least": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 1},
    "empty array": {"type": "array", "maxItems": 0},
    "enum": {"enum": ["red", "grün", '"\\\n', 7, None, {"a": [1.5, True]}]},
    "const": {"const": "on"},
    "typed enum": {"type": "string", "enum": ["a", "b"]},
    "either": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    "several types": {"type": ["string", "null"], "maxLength": 3},
    "at least": {"type": "string", "minLength": 3},
    "length": {"type": "string", "minLength": 2, "maxLength": 5},
    "number": {"type": "number"},
    "from nought": {"type": "integer", "minimum": 0},
    "from one": {"type": "integer", "minimum": 1},
    "range": {"type": "integer", "minimum": -3, "maximum": 12},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "moment": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid"},
    "map": {"type": "object", "additionalProperties": {"type": "integer"}},
    "no member": {"type": "object", "properties": {}},
    "odd names": {"type": "object", "properties": {'a "quoted" \\ näme\n': {"const": 1}, "": {"const": 2}}, "required": ["", 'a "quoted" \\ näme\n']},
    "tree": {"$defs": {"node": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["next"]}}, "$ref": "#/$defs/node"},
    "itself": {"type": "object", "properties": {"below": {"type": "array", "items": {"$ref": "#"}, "maxItems": 1}}},
    "notes": {"title": "T", "description": "D", "type": "boolean", "default": True, "$schema": "https://json-schema.org/draft/2020-12/schema"},
}  # fmt: skip


@pytest.mark.parametrize("case", SCHEMAS)
def test_whatever_is_drawn_keeps_to_the_schema(client: openai.OpenAI, case: str) -> None:
    schema = SCHEMAS[case]
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    choices = ask(client, schema, n=8, seed=1).choices
    ended = [json.loads(choice.message.content) for choice in choices if choice.finish_reason == "stop"]
    assert ended, [choice.message.content for choice in choices]
    for value in ended:
        validator.validate(value)


def test_json_object_is_an_object_of_anything(client: openai.OpenAI) -> None:
    choices = [
        choice for seed in range(6) for choice in client.chat.completions.create(
            model="tiny", messages=HELLO, response_format={"type": "json_object"}, n=8, temperature=2, max_tokens=240, seed=seed
        ).choices
    ]  # fmt: skip
    for choice in choices:
        text = choice.message.content
        assert text.startswith("{")
        assert not any(sign < " " or sign == "\ufffd" for sign in text.rstrip("\ufffd")), "what is cut may end in half a character"
        assert choice.finish_reason == "length" or isinstance(json.loads(text), dict)
    drawn = "".join(choice.message.content for choice in choices)
    for first, last in ("\u0800\u0fff", "\ud000\ud7ff", "\U00010000\U0003ffff"):
        assert any(first <= sign <= last for sign in drawn), "first bytes whose second bytes are fewer than others'"


def test_streams_and_completions_are_held_too(client: openai.OpenAI) -> None:
    text = "".join(chunk.choices[0].delta.content for chunk in ask(client, PERSON, stream=True, seed=4))
    assert set(json.loads(text)) == {"name", "age"}
    answer = client.completions.create(
        model="tiny", prompt="hello", max_tokens=400, temperature=2, seed=4, extra_body={"response_format": held(PERSON)}
    )
    assert set(json.loads(answer.choices[0].text)) == {"name", "age"}


def test_an_answer_that_max_tokens_cut_says_so(client: openai.OpenAI) -> None:
    choice = ask(client, PERSON, max_tokens=3).choices[0]
    assert (choice.finish_reason, choice.message.content[:2]) == ("length", '{"')


def test_half_a_form_is_not_whole_at_the_deadline(url: str) -> None:
    body = {"model": "tiny", "messages": HELLO, "temperature": 0, "response_format": held({"type": "string"})}
    ask = {"url": f"{url}/v1/chat/completions", "json": body, "timeout": 20}
    httpx.post(**ask)  # tried, and ready
    answer = httpx.post(**ask, headers={"X-Deadline-Ms": "60"})
    if answer.status_code == 200 and answer.json()["choices"][0]["finish_reason"] == "deadline":
        assert answer.headers["x-millis-whole"] == "false"
    else:
        assert answer.status_code in (200, 503, 504)


DEEP: Any = {"type": "null"}
for _ in range(40):
    DEEP = {"type": "array", "items": DEEP}

BAD = {
    "no schema": (7, "is no schema"),
    "false": (False, "is no schema"),
    "unknown type": ({"type": "nonsense"}, "needs a type"),
    "remote": ({"$ref": "https://example.com/schema.json"}, "nothing is fetched"),
    "file": ({"$ref": "file:///etc/passwd"}, "nothing is fetched"),
    "not there": ({"$ref": "#/$defs/nope"}, "nothing is fetched"),
    "itself": ({"$ref": "#"}, "never ends"),
    "never ends": ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "never ends"),
    "two that never end": ({"$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/b"}, "minItems": 1}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}, "never ends"),
    "comes back to itself": ({"anyOf": [{"type": "null"}, {"$ref": "#"}]}, "comes back to itself"),
    "deep": (DEEP, "deep"),
    "large": ({"enum": ["x" * 100 + str(i) for i in range(1000)]}, "bytes"),
    "pattern": ({"type": "string", "pattern": "(a+)+$"}, "'pattern'"),
    "all of": ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "needs a type"),
    "bounds of a number": ({"type": "number", "minimum": 0.5}, "'minimum'"),
    "empty range": ({"type": "integer", "minimum": 5, "maximum": 3}, "bounds"),
    "wide range": ({"type": "integer", "minimum": 0, "maximum": 10**9}, "bounds"),
    "empty enum": ({"enum": []}, "at least one"),
    "enum of another type": ({"type": "integer", "enum": ["a"]}, "not of its type"),
    "lengths crossed": ({"type": "string", "minLength": 3, "maxLength": 2}, "above"),
    "huge repeat": ({"type": "array", "minItems": 10**6}, "minItems"),
    "huge length": ({"type": "string", "maxLength": 10**6}, "maxLength"),
    "required of none": ({"type": "object", "required": ["a"], "properties": {}}, "requires"),
    "much when written out": ({"type": "object", "properties": {f"p{i}": {"type": "integer", "minimum": i, "maximum": i + 999} for i in range(20)}}, "written out"),
    "unknown format": ({"type": "string", "format": "email"}, "format"),
    "format of no text": ({"type": "string", "format": {}}, "format"),
    "no choices": ({"anyOf": []}, "anyOf"),
    "tables of no schema": ({"$defs": 3, "type": "null"}, "$defs"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_schema_that_cannot_be_is_refused_by_name(client: openai.OpenAI, case: str) -> None:
    schema, words = BAD[case]
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, schema)
    assert caught.value.code == "invalid_schema"
    assert caught.value.type == "invalid_request_error"
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "form",
    [{}, {"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {}}, {"type": "json_object", "more": 1},
     {"type": "json_schema", "json_schema": {"name": "x y", "schema": PERSON}}, {"type": "json_schema", "json_schema": {"name": "x"}},
     {"type": "json_schema", "json_schema": {"name": "x", "schema": PERSON, "strict": "yes"}}],
)  # fmt: skip
def test_a_response_format_of_another_shape_is_refused(url: str, form: Any) -> None:
    for path, body in (("chat/completions", {"messages": HELLO}), ("completions", {"prompt": "x"})):
        answer = httpx.post(f"{url}/v1/{path}", json={"model": "tiny", "response_format": form, **body})
        assert answer.status_code == 400
        assert "response_format" in answer.json()["error"]["message"]


def test_a_model_that_cannot_be_held_says_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="cannot hold its answers to a form"):
        ask(client, PERSON, model="echo")


def test_a_schema_that_costs_too_much_is_refused_while_others_are_served(client: openai.OpenAI) -> None:
    heavy = {"type": "object", "properties": {f"p{i}": {"type": "string", "minLength": i % 90, "maxLength": 100} for i in range(260)}}
    with ThreadPoolExecutor(2) as pool:
        refused = pool.submit(ask, client, heavy)
        for _ in range(20):
            assert client.completions.create(model="tiny", prompt="hello", max_tokens=2).choices[0].finish_reason
        with pytest.raises(openai.BadRequestError, match="cannot be held to this schema"):
            refused.result()
    assert json.loads(ask(client, PERSON).choices[0].message.content)


def test_held_and_free_answers_grow_side_by_side(client: openai.OpenAI) -> None:
    def free(seed: int) -> str:
        return str(client.completions.create(model="tiny", prompt=[seed, 9], max_tokens=20, temperature=0).choices[0].text)

    alone = [free(i) for i in range(6)]
    with ThreadPoolExecutor(8) as pool:
        forms = [pool.submit(ask, client, PERSON, seed=i) for i in range(6)]
        assert list(pool.map(free, range(6))) == alone
        for one in forms:
            assert set(json.loads(one.result().choices[0].message.content)) == {"name", "age"}


def test_a_form_that_many_ask_for_at_once_is_tried_once_and_outlives_who_asked_first() -> None:
    tried: list[str] = []
    go_on = threading.Event()

    def accept(grammar: str) -> None:
        tried.append(grammar)
        assert go_on.wait(20)

    async def ask() -> None:
        forms = Forms(accept)
        first, *many = [asyncio.create_task(forms.accept("a")) for _ in range(20)]
        with pytest.raises(InvalidRequest, match="deadline") as late:
            await forms.accept("a", until_ns=perf_counter_ns() + 1e6)
        assert late.value.status == 504
        first.cancel()
        go_on.set()
        await asyncio.gather(*many)
        await forms.accept("a")

    asyncio.run(ask())
    assert tried == ["a"]


def test_new_forms_beyond_those_that_wait_are_refused_also_when_their_clients_have_left() -> None:
    go_on = threading.Event()

    def accept(grammar: str) -> None:
        assert go_on.wait(20)

    async def ask() -> None:
        forms = Forms(accept)
        gone = [asyncio.create_task(forms.accept(f"{i}")) for i in range(8)]
        await asyncio.sleep(0)
        for one in gone:
            one.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        with pytest.raises(InvalidRequest, match="8 answer formats") as busy:
            await forms.accept("another")
        assert busy.value.status == 503
        go_on.set()
        await forms.accept("7")
        await forms.accept("another")

    asyncio.run(ask())
