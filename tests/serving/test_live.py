"""/v1/live over real WebSockets: on generators that say their prompt again, and one that is let on step by step."""

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from millis.backends.fake_generator import FakeGenerator
from millis.backends.generator import GeneratorSettings
from millis.security.keys import KeyFile
from millis.serving.gate import Gate
from millis.serving.generating import Talker
from millis.serving.live import Live
from millis.serving.observing import Observer
from millis.serving.settings import Limits, ServeSettings
from millis.serving.supervisor import Supervisor
from millis.telemetry.logs import Log
from millis.telemetry.metrics import Metrics
from millis.telemetry.slowest import Slowest
from speaking import make_echo_bundle


def make_bundles(folder: Path) -> tuple[str, ...]:
    bundles = (
        make_echo_bundle(folder, context=100_000),
        make_echo_bundle(folder, name="en-zh", task="translate", instruction="Into Chinese: {text}", context=100_000),
    )
    return tuple(str(one.path) for one in bundles)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    bundles = make_bundles(tmp_path_factory.mktemp("live"))
    with Supervisor(ServeSettings(bundles=bundles, port=0, limits=Limits(messages_per_s=1000, body_bytes=200_000))) as one:
        yield one


def at(server: Supervisor) -> str:
    return server.url.replace("http", "ws") + "/v1/live"


def say(connection: ClientConnection, text: str, **more: Any) -> None:
    connection.send(json.dumps({"input": text, "task": "translate", **more}))


def hear(connection: ClientConnection) -> tuple[str, dict[str, Any]]:
    """Read an answer to its end: what it says, and its last message."""
    text = ""
    while True:
        said = json.loads(connection.recv(timeout=20))
        text += said.get("delta", "")
        if "done" in said or "error" in said:
            return text, said


def test_a_text_is_answered_as_it_grows_and_its_end_says_what_it_took(server: Supervisor) -> None:
    with connect(at(server)) as connection:
        say(connection, "good morning, 世界 🙂", id=7)
        text, last = hear(connection)
        assert text == "user\nInto Chinese: good morning, 世界 🙂"
        assert (last["id"], last["finish_reason"], last["model"], last["rung"]) == (7, "stop", "en-zh", "fake")
        assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"]
        assert 0 < last["first_ms"] <= last["total_ms"]
        say(connection, "hello", task="chat", id="b", max_tokens=4)
        text, last = hear(connection)
        assert (text, last["id"], last["finish_reason"], last["model"]) == ("use", "b", "length", "echo")
    assert 'route="/v1/live",status="200"' in httpx.get(f"{server.url}/metrics").text


def test_a_new_text_takes_the_place_of_the_one_before(server: Supervisor) -> None:
    with connect(at(server)) as connection:
        say(connection, "long " * 9_000, id=1)
        assert json.loads(connection.recv(timeout=20))["id"] == 1
        say(connection, "short", id=2)
        text, last = hear(connection)
        assert (last["id"], last["finish_reason"]) == (1, "replaced")
        assert len(text) < 45_000
        assert hear(connection)[0] == "user\nInto Chinese: short"
        say(connection, "long " * 9_000, id=3)
        say(connection, "", id=4)
        assert hear(connection)[1]["finish_reason"] == "replaced"
        text, last = hear(connection)
        assert (text, last["id"], last["usage"]["total_tokens"]) == ("", 4, 0)


def test_a_deadline_ends_an_answer_and_says_whether_it_is_whole(server: Supervisor) -> None:
    with connect(at(server)) as connection:
        say(connection, "One sentence. " + "and so on " * 4_000, deadline_ms=80)
        text, last = hear(connection)
        if last.get("finish_reason") == "deadline":
            assert last["whole"] is text.endswith("One sentence.")
        else:
            assert last["error"]["status"] in (503, 504)


BAD = {
    "no JSON": ("{", 400),
    "deep": ("[" * 50_000, 422),
    "a list": ("[]", 422),
    "no input": ({"task": "chat"}, 422),
    "input of numbers": ({"input": 3, "task": "chat"}, 422),
    "no task": ({"input": "a"}, 422),
    "another task": ({"input": "a", "task": "ner"}, 422),
    "a task that nobody serves": ({"input": "a", "task": "summarise"}, 404),
    "another model": ({"input": "a", "task": "chat", "model": "en-zh"}, 404),
    "unknown key": ({"input": "a", "task": "chat", "beams": 3}, 422),
    "no tokens": ({"input": "a", "task": "chat", "max_tokens": 0}, 422),
    "no time": ({"input": "a", "task": "chat", "deadline_ms": 0}, 422),
    "half a surrogate": ('{"input": "\\ud800", "task": "chat"}', 400),
    "too many characters": ({"input": "x" * 60_000, "task": "chat"}, 413),
}  # fmt: skip


def test_what_cannot_be_is_told_and_the_connection_goes_on(server: Supervisor) -> None:
    with connect(at(server)) as connection:
        for case, (message, status) in BAD.items():
            is_text = isinstance(message, str)
            connection.send(message if is_text else json.dumps({**message, "id": case}))
            said = json.loads(connection.recv(timeout=20))
            assert said["error"]["status"] == status, (case, said)
            assert said["id"] == (None if is_text else case)
        say(connection, "on")
        assert hear(connection)[0] == "user\nInto Chinese: on"


@pytest.mark.parametrize(
    ("message", "code"), [(b'{"input": "a", "task": "chat"}', 1003), ("x" * 300_000, 1009)], ids=["binary", "too large"]
)
def test_what_is_no_message_closes_the_connection(server: Supervisor, message: Any, code: int) -> None:
    with connect(at(server)) as connection:
        connection.send(message)
        with pytest.raises(ConnectionClosed) as caught:
            connection.recv(timeout=20)
        assert caught.value.rcvd.code == code


def test_half_a_character_closes_the_connection(server: Supervisor) -> None:
    with connect(at(server)) as connection:
        connection.send(b'{"input": "\xc3', text=True)
        with pytest.raises(ConnectionClosed) as caught:
            connection.recv(timeout=20)
        assert caught.value.rcvd.code == 1007


def test_other_places_and_other_sites_are_refused(server: Supervisor) -> None:
    for path, origin, status in (("/v1/ner", None, 404), ("/v1/live", "http://elsewhere.example", 403)):
        with pytest.raises(InvalidStatus) as caught, connect(at(server).replace("/v1/live", path), origin=origin):
            pass
        assert caught.value.response.status_code == status
        assert json.loads(caught.value.response.body)["status"] == status
    with connect(at(server), origin=server.url):
        pass
    assert httpx.get(f"{server.url}/v1/live").status_code == 404


def test_keys_hold_for_the_connection_and_for_every_message(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    mine, chat, slow = (
        keys.create(name=name, scopes=(scope,), rate_per_s=rate)[0]
        for name, scope, rate in (("mine", "translate", None), ("chat", "chat", None), ("slow", "translate", 2))
    )
    settings = ServeSettings(bundles=make_bundles(tmp_path), port=0, keys=str(keys.path), audit=str(tmp_path / "audit"))
    with Supervisor(settings) as server:
        with pytest.raises(InvalidStatus) as caught, connect(at(server)):
            pass
        assert caught.value.response.status_code == 401
        with connect(at(server), additional_headers={"Authorization": f"Bearer {mine}"}) as connection:
            say(connection, "a")
            assert hear(connection)[1]["finish_reason"] == "stop"
        with connect(at(server), subprotocols=["millis", f"key.{mine}"]) as connection:
            assert connection.subprotocol == "millis"
            say(connection, "a", task="chat")
            assert hear(connection)[1]["error"]["status"] == 403
        with connect(at(server), additional_headers={"X-API-Key": slow}) as connection:
            say(connection, "a")
            assert hear(connection)[1]["finish_reason"] == "stop"
            say(connection, "a")
            assert hear(connection)[1]["error"]["status"] == 429
        with connect(at(server), additional_headers={"X-API-Key": chat}) as connection:
            say(connection, "a", task="chat")
            assert hear(connection)[1]["finish_reason"] == "stop"
            keys.revoke(chat.split("_")[1])
            until = time.monotonic() + 10
            while "error" not in (last := _ask_again(connection)) and time.monotonic() < until:
                pass
            assert last["error"]["status"] == 401
    assert "ERROR" not in capfd.readouterr().err
    lines = b"".join(one.read_bytes() for one in (tmp_path / "audit").iterdir() if one.is_file())
    assert b"GET /v1/live" in lines
    assert not any(key.split("_")[2].encode() in lines for key in (mine, chat, slow))


def _ask_again(connection: ClientConnection) -> dict[str, Any]:
    say(connection, "a", task="chat", max_tokens=1)
    while (last := hear(connection)[1]).get("error", {}).get("status") == 429:
        threading.Event().wait(0.05)
        say(connection, "a", task="chat", max_tokens=1)
    return last


def test_who_types_too_fast_or_not_at_all_is_told(tmp_path: Path) -> None:
    limits = Limits(messages_per_s=2, silent_s=0.3)
    with Supervisor(ServeSettings(bundles=make_bundles(tmp_path), port=0, limits=limits)) as server, connect(at(server)) as connection:
        for _ in range(3):
            say(connection, "a")
        statuses = [hear(connection)[1].get("error", {}).get("status") for _ in range(3)]
        assert 429 in statuses
        with pytest.raises(ConnectionClosed) as caught:
            connection.recv(timeout=20)
        assert caught.value.rcvd.code == 4408


def _rss_mb(server: Supervisor) -> float:
    (pid,) = server.pids
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _open(server: Supervisor, head: str, body: bytes) -> None:
    """Ask, read a first piece of the answer, and go without a word."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as one:
        one.sendall(head.encode() + body)
        one.recv(100)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


UPGRADE = (
    "GET /v1/live HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.mark.parametrize("kind", ["events", "sockets"])
def test_a_thousand_streams_opened_and_dropped_leave_nothing_and_disturb_nobody(server: Supervisor, kind: str) -> None:
    body = json.dumps({"model": "echo", "prompt": "xyz", "max_tokens": 400, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    if kind == "sockets":
        text = json.dumps({"input": "x" * 100, "task": "chat"}).encode()
        head, body = UPGRADE, bytes([0x81, 0x80 | 126, 0, len(text), 0, 0, 0, 0]) + text
    for _ in range(100):
        _open(server, head, body)
    before = _rss_mb(server)
    with connect(at(server)) as other:
        for i in range(1_000):
            _open(server, head, body)
            if i % 100 == 0:
                say(other, f"still {i}", id=i)
                assert hear(other)[0] == f"user\nInto Chinese: still {i}"
    assert _rss_mb(server) - before < 8
    ask = {"model": "echo", "prompt": "x", "max_tokens": 1}
    assert httpx.post(f"{server.url}/v1/completions", json=ask, timeout=5).status_code == 200


class _Slow(FakeGenerator):
    """Lets as many steps through as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Semaphore(0)

    def _step(self, answers: Any) -> None:
        if not self._is_closing:
            self.gate.acquire()
        super()._step(answers)


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Metrics:
    return Metrics(folder=tmp_path_factory.mktemp("metrics"))  # a process has one


def _make_live(folder: Path, generator: FakeGenerator, *, metrics: Metrics) -> tuple[Live, Talker]:
    talker = Talker(make_echo_bundle(folder, task="translate", instruction="{text}"), generator)
    generator.load(folder, settings=GeneratorSettings())
    observer = Observer(metrics=metrics, log=Log("text"), slowest=Slowest(folder / "slow"), executor=None)  # type: ignore[arg-type]
    observer.expect((), (talker,))
    live = Live(gate=Gate(tell=print), limits=Limits(), observer=observer)
    live.talkers = (talker,)
    return live, talker


def test_the_engine_stops_within_a_step_of_the_next_text(tmp_path: Path, metrics: Metrics) -> None:
    generator = _Slow()
    live, talker = _make_live(tmp_path, generator, metrics=metrics)

    async def work() -> None:
        to_server: asyncio.Queue[Any] = asyncio.Queue()
        to_client: asyncio.Queue[Any] = asyncio.Queue()
        scope = {"type": "websocket", "path": "/v1/live", "headers": [], "subprotocols": []}
        to_server.put_nowait({"type": "websocket.connect"})
        running = asyncio.create_task(live(scope, to_server.get, to_client.put))
        assert (await to_client.get())["type"] == "websocket.accept"

        def type_in(text: str, id: int) -> None:
            to_server.put_nowait({"type": "websocket.receive", "text": json.dumps({"input": text, "task": "translate", "id": id})})

        type_in("a long text that goes on and on", 1)
        generator.gate.release(3)
        while (await to_client.get())["text"] != '{"id":1,"delta":"s"}':
            pass
        type_in("b", 2)
        assert json.loads((await to_client.get())["text"]) == {"id": 1, "done": True, "finish_reason": "replaced"}
        assert talker.n_answers <= 1
        generator.gate.release(100)
        said = json.loads((await to_client.get())["text"])
        while "done" not in said:
            assert said["id"] == 2
            said = json.loads((await to_client.get())["text"])
        assert said["finish_reason"] == "stop"
        assert generator.n_steps <= 4 + said["usage"]["completion_tokens"] + 2
        to_server.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await running

    try:
        asyncio.run(asyncio.wait_for(work(), 20))
    finally:
        generator.gate.release(1000)
        talker.close()


def test_texts_that_come_at_once_and_a_client_that_goes_with_them_are_each_accounted_for(
    tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, talker = _make_live(tmp_path, FakeGenerator(), metrics=metrics)
    ended: list[int] = []
    monkeypatch.setattr(live.gate, "note", lambda scope, *, status, **more: ended.append(int(status)))

    async def work() -> None:
        came = [
            {"type": "websocket.connect"},
            *({"type": "websocket.receive", "text": json.dumps({"input": text, "task": "translate"})} for text in "abc"),
            {"type": "websocket.disconnect", "code": 1000},
        ]  # fmt: skip

        async def receive() -> dict[str, Any]:
            return came.pop(0)

        async def send(message: Any) -> None:
            pass

        await live({"type": "websocket", "path": "/v1/live", "headers": [], "subprotocols": []}, receive, send)

    try:
        asyncio.run(asyncio.wait_for(work(), 20))
    finally:
        talker.close()
    assert ended == [101, 499, 499, 499]
