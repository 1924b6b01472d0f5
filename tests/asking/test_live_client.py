"""AsyncClient.live against a real server, and against servers that misbehave."""

import asyncio
import ssl
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_client import saying
from websockets.sync.server import ServerConnection, serve

import millis
from making import make_certificate, make_fake_bundle
from millis.errors import InvalidRequest, InvalidValue, RunFailed, TimedOut
from millis.security.keys import KeyFile
from millis.serving.settings import Limits, ServeSettings
from millis.serving.supervisor import Supervisor
from speaking import make_echo_bundle


class Place:
    """A running server and its keys."""

    def __init__(self, server: Supervisor, keys: dict[str, str]) -> None:
        self.url, self.keys = server.url, keys

    def run(self, work: Callable[[millis.AsyncClient], Awaitable[Any]], *, key: str = "all", **named: Any) -> Any:
        """Do something with a client on an event loop."""
        return _run(self.url, work, key=self.keys[key], **named)


def _run(url: str, work: Callable[[millis.AsyncClient], Awaitable[Any]], **named: Any) -> Any:
    async def go() -> Any:
        async with millis.AsyncClient(url, **named) as client:
            return await asyncio.wait_for(work(client), 20)

    return asyncio.run(go())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("live")
    keys = KeyFile(folder / "keys.json")
    known = {name: keys.create(name=name, scopes=[scope])[0] for name, scope in (("all", "*"), ("chat", "chat"))}
    bundles = (
        make_fake_bundle(folder),
        make_echo_bundle(folder, context=100_000),
        make_echo_bundle(folder, name="en-zh", task="translate", instruction="Into Chinese: {text}", context=100_000),
    )
    settings = ServeSettings(
        bundles=tuple(str(one.path) for one in bundles), port=0, keys=str(keys.path), limits=Limits(silent_s=0.5)
    )
    with Supervisor(settings) as server:
        yield Place(server, known)


def test_deltas_come_as_they_are_written_and_the_end_says_what_it_took(place: Place) -> None:
    async def work(client: millis.AsyncClient) -> None:
        async with client.live("translate", max_tokens=1000) as live:
            answer = await live.send("good morning, 世界 🙂")
            parts = [part async for part in answer]
            assert "".join(parts) == "user\nInto Chinese: good morning, 世界 🙂"
            assert len(parts) > 1
            assert answer.end is not None
            assert (answer.end["finish_reason"], answer.end["model"]) == ("stop", "en-zh")
            assert [part async for part in answer] == []
            short = await live.send("hello", task="chat", max_tokens=4)
            assert await short.text() == "use"
            assert short.end is not None
            assert (short.end["finish_reason"], short.end["model"]) == ("length", "echo")

    place.run(work)


def test_a_new_text_ends_the_answer_to_the_one_before(place: Place) -> None:
    async def work(client: millis.AsyncClient) -> None:
        async with client.live("translate") as live:
            before = await live.send("long " * 9_000)
            assert await anext(aiter(before))
            typing = asyncio.create_task(before.text())
            after = await live.send("short")
            assert await after.text() == "user\nInto Chinese: short"
            assert len(await typing) < 45_000
            assert before.end == {"finish_reason": "replaced"}

    place.run(work)


def test_what_is_found_in_a_text_comes_with_its_end(place: Place) -> None:
    async def work(client: millis.AsyncClient) -> None:
        async with client.live("ner", rung="fake") as live:
            answer = await live.send("maria garcia")
            assert await answer.text() == ""
            assert answer.end is not None
            assert answer.end["answer"]["results"] == (await client.ner("maria garcia")).results

    place.run(work)


def test_what_is_refused_is_an_error_and_the_next_text_is_answered(place: Place) -> None:
    async def work(client: millis.AsyncClient) -> None:
        async with client.live("chat") as live:
            for chosen, status in (({"task": "translate"}, 403), ({"model": "nobody"}, 404), ({"beams": 2}, 422)):
                refused = await live.send("a", **chosen)
                with pytest.raises(InvalidRequest) as caught:
                    await refused.text()
                assert caught.value.status == status
            with pytest.raises(InvalidValue, match="JSON"):
                await live.send("\ud800")
            assert await (await live.send("on")).text() == "user\non"

    place.run(work, key="chat")


def test_a_key_that_is_not_known_is_refused_when_it_connects(place: Place) -> None:
    async def work(client: millis.AsyncClient) -> None:
        async with client.live("chat"):
            pass

    with pytest.raises(InvalidRequest, match="this key is not known") as caught:
        _run(place.url, work, key="mk_1_2")
    assert (caught.value.status, caught.value.slug) == (401, "no-key")
    with pytest.raises(InvalidValue, match="deadline"):
        place.run(lambda client: client.live("chat", deadline_ms=0))


def test_a_connection_that_the_server_closed_says_why(place: Place) -> None:
    async def work(client: millis.AsyncClient) -> None:
        async with client.live("chat") as live:
            await live._reading  # nothing is said for half a second
            with pytest.raises(RunFailed, match=r"has ended \(4408: nothing came for 0.5 s\)"):
                await live.send("a")

    place.run(work)


async def _ask(client: millis.AsyncClient) -> str:
    async with client.live("chat") as live:
        return await (await live.send("a")).text()


@contextmanager
def speaking(say: Callable[[ServerConnection], None]) -> Iterator[str]:
    """Give a WebSocket server that says what it is told, whatever it hears."""
    with serve(say, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("said", ["{", "[]", '{"delta": "a"}', '{"id": 7, "delta": "a"}', '{"id": 1}', '{"id": 1, "error": 3}', '{"id": [], "done": true}', '{"id": 1, "delta": 3}', '{"id": 1, "error": {"status": "x"}}', "[" * 100_000, b"\xff"])
def test_what_no_millis_server_says_is_told(said: Any) -> None:
    def say(connection: ServerConnection) -> None:
        connection.recv()
        connection.send(said)
        connection.recv()

    with speaking(say) as url, pytest.raises(RunFailed, match="does not answer like a millis server"):
        _run(url, _ask)


def test_who_goes_in_the_middle_of_an_answer_is_told() -> None:
    def say(connection: ServerConnection) -> None:
        connection.recv()
        connection.send('{"id": 1, "delta": "a"}')

    with speaking(say) as url, pytest.raises(RunFailed, match="has ended"):
        _run(url, _ask)


def test_who_says_nothing_is_waited_for_as_long_as_the_client_says() -> None:
    with speaking(lambda connection: connection.recv() and connection.recv()) as url, pytest.raises(TimedOut, match="300 ms"):
        _run(url, _ask, timeout_ms=300)


MOVED = b"HTTP/1.1 302 Found\r\nlocation: ws://127.0.0.1:9/v1/live\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(("answer", "why"), [(MOVED, "answers 302"), (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "answers 200"), (b"220 mail\r\n", "opens no WebSocket")])
def test_what_is_no_websocket_is_told_and_no_redirect_is_followed(answer: bytes, why: str) -> None:
    with saying(answer) as (url, heard):
        with pytest.raises(RunFailed, match=why):
            _run(url, _ask)
        assert len(heard) == 1


def test_nobody_there_is_told() -> None:
    with pytest.raises(RunFailed, match="nobody listens there"):
        _run("http://127.0.0.1:9", _ask)


def test_over_tls_the_certificate_is_checked(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path / "tls", name="127.0.0.1")
    bundle = make_echo_bundle(tmp_path)
    settings = ServeSettings(bundles=(str(bundle.path),), port=0, tls_certificate=str(certificate), tls_key=str(key))
    with Supervisor(settings) as server:
        with pytest.raises(RunFailed, match="not trusted"):
            _run(server.url, _ask)
        context = ssl.create_default_context(cafile=str(certificate))
        assert _run(server.url, _ask, context=context) == "user\na"


def test_a_client_that_does_not_go_live_loads_no_websockets() -> None:
    program = "import sys, millis; millis.AsyncClient('http://a'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "websockets" not in loaded
