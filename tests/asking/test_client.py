"""Both clients against a real server, and against servers that misbehave."""

import asyncio
import concurrent.futures
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import millis
from making import make_fake_bundle
from millis.asking.conversation import Lost, Send, Wait, converse
from millis.asking.reply import Reply
from millis.asking.wire import Question
from millis.errors import InvalidRequest, InvalidValue, RunFailed, TimedOut
from millis.security.keys import KeyFile
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor

TEXT = "maria garcia of northwind wrote 😀 from 上海"


class OnLoop:
    """AsyncClient with the methods of Client, so that one test speaks of both."""

    def __init__(self, url: str, **named: object) -> None:
        self._runner = asyncio.Runner()
        self._client = millis.AsyncClient(url, **named)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Callable[..., object]:
        return lambda *values, **named: self._runner.run(getattr(self._client, name)(*values, **named))

    def __enter__(self) -> "OnLoop":
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


both = pytest.mark.parametrize("kind", [millis.Client, OnLoop], ids=["sync", "async"])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    bundles = (make_fake_bundle(folder), *(make_fake_bundle(folder, name=task, task=task) for task in ("classify", "rerank")))
    with Supervisor(ServeSettings(bundles=tuple(str(one.path) for one in bundles), port=0)) as server:
        yield server.url


@contextmanager
def saying(*answers: bytes, hold_s: float = 0.0) -> Iterator[tuple[str, list[bytes]]]:
    """Give a server that gives each connection's first request the next of these answers and hangs up; and what it heard."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                for answer in answers:
                    peer, _ = listener.accept()
                    with peer, suppress(OSError):
                        heard.append(peer.recv(1 << 16))
                        time.sleep(hold_s)
                        peer.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heard


def reply(status: str, body: object, **headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n{head}\r\n".encode() + content


GOOD = reply("200 OK", {"model": "m", "rung": "r", "results": [{"entities": []}]})
BUSY = {"type": "/problems/would-be-late", "title": "", "status": 503, "detail": "the answer would come too late."}


@both
def test_a_client_asks_every_task_and_learns_what_is_served(url: str, kind: type[millis.Client]) -> None:
    with kind(url) as client:
        one = client.ner(TEXT)
        assert (one.model, one.rung, one.results) == ("fake", "fake", [one.result])
        assert all(TEXT[found["start"] : found["end"]] == found["text"] for found in one.result["entities"])
        assert set(one.times_ms) == {"parse", "queue", "tokenize", "run", "decode", "write"}
        assert client.ask("ner", [TEXT, "x"], model="fake", rung="fake", fallback=False, deadline_ms=900).results[0] == one.result
        assert len(client.classify(TEXT, top_k=1).result["scores"]) == 1
        assert {row["id"] for row in client.models()} == {"fake", "classify", "rerank"}
        assert client.contract()[0]["contract"]["bound_ms"] == 1000.0
        assert client.health()["status"] == "ready"


@both
def test_what_the_server_refuses_is_an_error_with_its_sentence(url: str, kind: type[millis.Client]) -> None:
    with kind(url) as client:
        for call, status, slug in (
            (lambda: client.ner(""), 422, "empty-text"),
            (lambda: client.ner(TEXT, model="other"), 404, "unknown-model"),
            (lambda: client.ner(TEXT, top_k=3), 422, "wrong-shape"),
            (lambda: client.ask("../health", TEXT), 404, "unknown-route"),
            (lambda: client.ner("x" * 50_001), 413, "too-many-characters"),
        ):
            with pytest.raises(InvalidRequest) as caught:
                call()
            assert (caught.value.status, caught.value.slug) == (status, slug)
            assert url in str(caught.value)


@both
def test_a_key_comes_from_the_argument_or_the_environment_and_is_shown_nowhere(
    tmp_path: Path, kind: type[millis.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = KeyFile(tmp_path / "keys.json")
    key, _ = file.create(name="", scopes=["ner"])
    settings = ServeSettings(bundles=(str(make_fake_bundle(tmp_path).path),), port=0, keys=str(file.path))
    with Supervisor(settings) as server:
        with kind(server.url) as client, pytest.raises(InvalidRequest) as caught:
            client.ner(TEXT)
        assert caught.value.slug == "no-key"
        with kind(server.url, key=key) as client:
            assert client.ner(TEXT).model == "fake"
        monkeypatch.setenv("MILLIS_KEY", key)
        with kind(server.url) as client:
            assert client.ner(TEXT).model == "fake"
    assert key not in repr(millis.Client("http://a", key=key)) + repr(millis.AsyncClient("http://a", key=key))


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://a", "http://", "http://a:0", "http://a:99999", "http://a b", "http://u:secret@a", "http://a?x=1", "http://a\r\nb"])
def test_what_is_no_address_is_told_at_once_without_its_password(url: str) -> None:
    for kind in (millis.Client, millis.AsyncClient):
        with pytest.raises(InvalidValue, match="no address of a server") as caught:
            kind(url)
        assert "secret" not in str(caught.value)


@both
def test_what_cannot_be_asked_is_told_before_anything_is_sent(kind: type[millis.Client]) -> None:
    for named in (
        {"timeout_ms": 0.0}, {"timeout_ms": float("nan")}, {"timeout_ms": "5"}, {"timeout_ms": None}, {"timeout_ms": True}, {"retries": -1},
        {"retries": "2"}, {"retries": 2.5}, {"key": "a\r\nb: c"}, {"key": "ключ"}, {"key": b"k"}, {"url": None}, {"url": b"http://127.0.0.1:9"},
    ):  # fmt: skip
        with pytest.raises(InvalidValue):
            kind(**({"url": "http://127.0.0.1:9"} | named))
    with kind("http://127.0.0.1:9") as client:
        for call in (
            lambda: client.ner(TEXT, deadline_ms=0), lambda: client.ner(TEXT, deadline_ms=float("nan")), lambda: client.ner(TEXT, deadline_ms=1e9),
            lambda: client.ner(TEXT, deadline_ms="5"), lambda: client.search(TEXT, deadline_ms=True), lambda: client.load_model("x", canary_percent="10"),
            lambda: client.ner("\ud800"), lambda: client.ner(TEXT, top_k=object()), lambda: client.ner(object()), lambda: client.qa(TEXT, b"x"),
            lambda: client.ner(TEXT, top_k=float("nan")), lambda: client.ask(None, TEXT), lambda: client.promote_model("\ud800"),
        ):  # fmt: skip
            with pytest.raises(InvalidValue):
                call()
        with pytest.raises(InvalidValue, match=r"^deadline_ms cannot be '5': give a number above 0 to 3600000\.$"):
            client.classify(TEXT, deadline_ms="5")


@both
def test_what_is_no_list_of_texts_is_not_taken_apart(url: str, kind: type[millis.Client]) -> None:
    with kind(url) as client:
        for call in (
            lambda: client.rerank("who", "maria"), lambda: client.rerank("who", None), lambda: client.ner(None), lambda: client.ner(5),
            lambda: client.ner(b"maria"), lambda: client.ner(TEXT, fallback="no"), lambda: client.ner(TEXT, model=5),
        ):  # fmt: skip
            with pytest.raises(InvalidRequest) as caught:
                call()
            assert caught.value.status == 422
        assert len(client.ner(one for one in ("maria", "garcia")).results) == 2


@pytest.mark.slow
@both
def test_connections_are_kept_and_a_closed_one_is_replaced(tmp_path: Path, kind: type[millis.Client]) -> None:
    bundle = make_fake_bundle(tmp_path)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server, kind(server.url, retries=0) as client:
        for _ in range(20):
            client.ner(TEXT)
        pool = client._idle if isinstance(client, millis.Client) else client._client._idle  # type: ignore[attr-defined]
        assert len(pool) == 1
        port = int(server.url.rpartition(":")[2])
        server.stop()
        with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=port)):
            assert client.ner(TEXT).model == "fake"


def test_threads_share_a_client(url: str) -> None:
    with millis.Client(url) as client, concurrent.futures.ThreadPoolExecutor(8) as pool:
        texts = [f"maria {i}" for i in range(100)]
        assert [one.results for one in pool.map(client.ner, texts)] == [[client.ner(text).result] for text in texts]


def test_coroutines_share_a_client_and_a_cancelled_one_leaves_no_half_answer(url: str) -> None:
    async def send() -> None:
        async with millis.AsyncClient(url) as client:
            texts = [f"maria {i}" for i in range(50)]
            wanted = [(await client.ner(text)).results for text in texts]
            for round_ in range(5):
                asked = [asyncio.create_task(client.ner(text)) for text in texts]
                for _ in range(round_):
                    await asyncio.sleep(0)
                for one in asked[::2]:
                    one.cancel()
                got = await asyncio.gather(*asked, return_exceptions=True)
                assert [one.results for one in got[1::2]] == wanted[1::2]  # type: ignore[union-attr]

    asyncio.run(send())


@both
def test_a_refusal_is_asked_again_when_it_says_and_while_there_is_time(kind: type[millis.Client]) -> None:
    busy = reply("503 Service Unavailable", BUSY | {"retry_after_ms": 30.0}, Retry_After="1")
    with saying(busy, busy, GOOD) as (url, heard), kind(url) as client:
        assert client.ner("hi", deadline_ms=5000).model == "m"
        said = [float(one.lower().split(b"x-deadline-ms: ")[1].split(b"\r\n")[0]) for one in heard]
        assert 5000 >= said[0] > said[1] + 29 > said[2] + 58
    with saying(busy, busy, busy, GOOD) as (url, heard), kind(url) as client:
        with pytest.raises(InvalidRequest) as caught:
            client.ner("hi")
        assert (caught.value.status, caught.value.slug, caught.value.extra) == (503, "would-be-late", {"retry_after_ms": 30.0})
        assert len(heard) == 3


@both
@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (reply("503 Service Unavailable", BUSY, Retry_After="1"), 503),
        (reply("503 Service Unavailable", BUSY | {"retry_after_ms": 5.0}, Retry_After="9"), 503),
        (reply("503 Service Unavailable", BUSY), 503), (reply("503 Service Unavailable", BUSY, Retry_After="soon"), 503),
        (reply("504 Gateway Timeout", BUSY, Retry_After="0"), 504), (reply("500 Oops", BUSY, Retry_After="0"), 500),
        (reply("400 Bad Request", BUSY, Retry_After="0"), 400),
    ],
)  # fmt: skip
def test_what_would_come_too_late_or_is_no_refusal_is_not_asked_again(kind: type[millis.Client], answer: bytes, status: int) -> None:
    with saying(answer, GOOD) as (url, heard), kind(url) as client:
        began = time.monotonic()
        with pytest.raises(InvalidRequest) as caught:
            client.ner("hi", deadline_ms=800)
        assert caught.value.status == status
        assert len(heard) == 1
        assert time.monotonic() - began < 0.7, "it did not wait for what it would not ask"


@both
def test_a_client_waits_no_longer_than_its_deadline(kind: type[millis.Client]) -> None:
    with saying(GOOD, hold_s=2.0) as (url, _), kind(url) as client:
        began = time.monotonic()
        with pytest.raises(TimedOut, match="within 100 ms"):
            client.ner("hi", deadline_ms=100)
        assert time.monotonic() - began < 1.0


@both
@pytest.mark.parametrize(
    "answer",
    [
        b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{", reply("200 OK", b"<html>"), reply("200 OK", []),
        reply("200 OK", {"model": "m", "rung": "r", "results": []}), reply("200 OK", {"model": "m", "rung": "r", "results": [3]}), reply("500 Oops", b"oops"),
        reply("200 OK", b"[" * 100_000), reply("302 Found", b"", Location="http://127.0.0.1:1/"), reply("200 OK", b"\xff"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)  # fmt: skip
def test_what_is_no_millis_server_is_told_and_not_asked_twice(kind: type[millis.Client], answer: bytes) -> None:
    with saying(answer, GOOD) as (url, heard), kind(url) as client:
        with pytest.raises(RunFailed, match=r"no millis server|like a millis server"):
            client.ner("hi")
        assert len(heard) == 1, "what may have been worked on is not sent twice"


@both
def test_answers_in_chunks_or_ended_by_closing_are_read(kind: type[millis.Client]) -> None:
    content = GOOD.partition(b"\r\n\r\n")[2]
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
    for answer in (chunked, b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD, b"HTTP/1.0 200 OK\r\n\r\n" + content):
        with saying(answer) as (url, _), kind(url) as client:
            assert client.ner("hi").model == "m"


@both
def test_nobody_there_is_asked_again_and_then_told(kind: type[millis.Client]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with kind(url, retries=1) as client, pytest.raises(RunFailed, match="nobody listens there"):
        client.ner("hi")


def test_when_to_ask_again_is_decided_without_sockets() -> None:
    """The whole policy, step by step, on a clock of its own."""
    now = 0.0

    def begin(**named: object) -> tuple[object, object]:
        talk = converse(Question("POST / HTTP/1.1\r\n", b""), url="u", now_s=lambda: now, **({"allowed_ms": 1000.0, "retries": 2, "tells": True} | named))  # type: ignore[arg-type]
        return talk, next(talk)

    talk, first = begin()
    assert first == Send(b"POST / HTTP/1.1\r\nx-deadline-ms: 1000.000\r\n\r\n", 1.0, False)
    again = talk.send(Lost.STALE)
    assert again.is_fresh
    with pytest.raises(RunFailed):
        talk.send(Lost.STALE)
    talk, first = begin(is_fresh=True)
    assert first.is_fresh
    with pytest.raises(RunFailed):
        talk.send(Lost.STALE)
    talk, _ = begin()
    assert talk.send(Lost.UNREACHABLE) == Wait(0.05)
    now = 0.4
    assert talk.send(None).payload == b"POST / HTTP/1.1\r\nx-deadline-ms: 600.000\r\n\r\n"
    assert talk.send(Lost.UNREACHABLE) == Wait(0.1)
    now = 1.5
    with pytest.raises(TimedOut):
        talk.send(None)
    for lost in (Lost.BROKEN, Lost.GARBLED, Lost.LATE, Lost.UNTRUSTED):
        talk, _ = begin()
        with pytest.raises(RunFailed):
            talk.send(lost)
    good = Reply()
    good.feed(GOOD)
    talk, sent = begin(tells=False)
    assert b"deadline" not in sent.payload
    with pytest.raises(StopIteration) as ended:
        talk.send(good)
    assert ended.value.value is good


@both
def test_a_change_is_asked_for_once_where_a_kept_connection_breaks_under_it(kind: type[millis.Client]) -> None:
    heard: list[bytes] = []
    listed = reply("200 OK", {"data": []}).replace(b"Connection: close", b"Connection: keep-alive")

    def talk(peer: socket.socket) -> None:
        with peer, suppress(OSError):
            for answer in (listed, b""):  # it breaks while it works on the second request of a connection
                heard.append(peer.recv(1 << 16))
                peer.sendall(answer)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=talk, args=listener.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener, kind(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
        threading.Thread(target=serve, daemon=True).start()
        client.versions()
        with suppress(RunFailed):
            client.promote_model("people")
        client.close()
        listener.close()
    assert [one.split()[0] for one in heard if one] == [b"GET", b"POST"]


@both
def test_proxies_of_the_environment_get_nothing(url: str, kind: type[millis.Client], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with kind(url, retries=0) as client:
        assert client.ner(TEXT).model


def test_a_client_loads_nothing_heavy() -> None:
    program = "import sys, millis; millis.Client('http://a'); print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split())
    assert not {"torch", "openvino", "numpy", "starlette", "uvicorn", "tokenizers", "rich", "typer", "prometheus_client"} & loaded
