"""What encoders find in a text while it is typed, at /v1/live over real WebSockets."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from making import make_fake_bundle
from millis.security.keys import KeyFile
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    folder = tmp_path_factory.mktemp("live")
    bundles = (
        make_fake_bundle(folder), make_fake_bundle(folder, name="labels", task="classify"), make_fake_bundle(folder, name="qa", task="qa"),
        make_fake_bundle(folder, name="slow", delay_ms=60),
    )  # fmt: skip
    with Supervisor(ServeSettings(bundles=tuple(str(one.path) for one in bundles), port=0, threads=1)) as one:
        yield one


def open_live(server: Supervisor, **named: Any) -> connect:
    return connect(f"{server.url.replace('http', 'ws')}/v1/live", **named)


def ask(connection: ClientConnection, **message: Any) -> dict[str, Any]:
    connection.send(json.dumps(message))
    said: dict[str, Any] = json.loads(connection.recv(timeout=20))
    return said


def test_a_text_is_answered_as_over_http(server: Supervisor) -> None:
    asked: list[tuple[str, dict[str, Any]]] = [
        ("ner", {"input": "maria garcia of northwind 😀"}), ("ner", {"input": ["maria", "eu"], "model": "fake"}),
        ("classify", {"input": "hello world", "top_k": 2}), ("qa", {"question": "who", "context": "maria wrote"}),
    ]  # fmt: skip
    with open_live(server) as connection:
        for task, question in asked:
            said = ask(connection, task=task, id="a", deadline_ms=5_000, **question)
            assert said["answer"] == httpx.post(f"{server.url}/v1/{task}", json=question).json()
            assert (said["id"], said["done"], said["finish_reason"]) == ("a", True, "stop")
            assert said["total_ms"] > 0
    assert 'route="/v1/live",status="200"' in httpx.get(f"{server.url}/metrics").text


def test_what_cannot_be_answered_is_told_and_the_next_text_is_answered(server: Supervisor) -> None:
    bad: list[tuple[dict[str, Any], int]] = [
        ({"input": 3}, 422), ({"input": "a", "beams": 2}, 422), ({"input": "a", "model": "nobody"}, 404), ({"input": "a", "deadline_ms": 0}, 422),
        ({"input": "x" * 60_000}, 413), ({}, 422), ({"input": "a", "model": "slow", "deadline_ms": 5}, 503), ({"input": "a", "task": "rerank"}, 422),
    ]  # fmt: skip
    with open_live(server, additional_headers={"X-Deadline-Ms": "1"}) as connection:
        for message, status in bad:
            said = ask(connection, **{"task": "ner", "id": 1, **message})
            assert (said["id"], said["error"]["status"]) == (1, status), (message, said)
        assert ask(connection, task="ner", input="", id=2) == {"id": 2, "done": True, "finish_reason": "stop"}
        assert "answer" in ask(connection, task="ner", input="maria")


def test_only_the_newest_of_texts_that_are_typed_is_run(server: Supervisor) -> None:
    with open_live(server) as connection:
        for i in range(6):
            connection.send(json.dumps({"input": "maria " * (i + 1), "task": "ner", "model": "slow", "id": i}))
            time.sleep(0.005)  # as one types
        said = [json.loads(connection.recv(timeout=20)) for _ in range(6)]
    assert [(one["id"], one["finish_reason"]) for one in said] == [*((i, "replaced") for i in range(5)), (5, "stop")]
    assert said[-1]["total_ms"] < 60 * 3  # that which ran, and itself
    assert 'route="/v1/live",status="499"' in httpx.get(f"{server.url}/metrics").text


def test_each_text_needs_the_scope_and_stands_in_the_audit_log(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    key, other = (keys.create(name=scope, scopes=[scope])[0] for scope in ("ner", "qa"))
    bundle, audit = make_fake_bundle(tmp_path), tmp_path / "audit"
    settings = ServeSettings(bundles=(str(bundle.path),), port=0, keys=str(keys.path), audit=str(audit))
    with Supervisor(settings) as server:
        with open_live(server, additional_headers={"X-API-Key": other}) as connection:
            assert ask(connection, task="ner", input="maria")["error"]["status"] == 403
        with open_live(server, subprotocols=["millis", f"key.{key}"]) as connection:
            assert "answer" in ask(connection, task="ner", input="maria")
    lines = [json.loads(line) for file in audit.glob("*.jsonl") for line in file.read_text().splitlines()]
    ended = [(one["outcome"], one.get("on", "")) for one in lines if one["what"] == "GET /v1/live" and one["outcome"] != "101"]
    assert ended == [("403", ""), ("200", "fake")]
