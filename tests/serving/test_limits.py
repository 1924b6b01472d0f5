"""What a connection may cost: heads, bodies, slow and idle clients, too many of them."""

import json
import os
import re
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from making import make_fake_bundle
from millis.errors import InvalidValue
from millis.serving.settings import Limits, ServeSettings
from millis.serving.supervisor import Supervisor

ASK = b'{"input": "maria"}'
GOOD = b"POST /v1/ner HTTP/1.1\r\nHost: a\r\nContent-Length: 18\r\n\r\n" + ASK


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A server that waits for nobody."""
    bundle = make_fake_bundle(tmp_path_factory.mktemp("served"))
    limits = Limits(head_s=0.3, idle_s=0.3, body_s=0.3, head_bytes=4096)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, limits=limits)) as server:
        yield server


def port_of(server: Supervisor) -> int:
    return int(server.url.rsplit(":", 1)[1])


def dial(server: Supervisor) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port_of(server)), timeout=10)


def read_all(peer: socket.socket) -> bytes:
    said = b""
    try:
        while part := peer.recv(1 << 16):
            said += part
    except ConnectionResetError:
        pass
    return said


def read_one(peer: socket.socket) -> bytes:
    """Read one answer whole."""
    said = b""
    while not (found := re.search(rb"content-length: (\d+)\r\n(?:.*\r\n)*?\r\n", said)) or len(said) < found.end() + int(found[1]):
        part = peer.recv(1 << 16)
        assert part, said
        said += part
    return said


def assert_serves(server: Supervisor) -> None:
    assert httpx.post(f"{server.url}/v1/ner", json={"input": "maria"}).status_code == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health/live HTTP/1.1\r\nX-A: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\n" + b"A: b\r\n" * 3_000 + b"\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nX-A: " + b"a" * 400_000,
        b"GET /health/live HTTP/1.1\r\n" + b"a" * 400_000,
    ],
)
def test_a_head_that_is_too_large_is_refused_whole_or_not(server: Supervisor, head: bytes) -> None:
    with dial(server) as peer:
        for start in range(0, len(head), 9_000):
            try:
                peer.sendall(head[start : start + 9_000])
            except (BrokenPipeError, ConnectionResetError):
                break  # it had enough
        answer = read_all(peer)
    assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large") or answer == b""
    if answer:
        problem = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert (problem["status"], problem["type"]) == (431, "/problems/head-too-large")
    assert_serves(server)


def test_a_head_within_the_limit_is_taken(server: Supervisor) -> None:
    assert httpx.get(f"{server.url}/health/live", headers={"X-A": "a" * 12_000}).status_code == 200
    refused = httpx.get(f"{server.url}/health/live", headers={"X-A": "a" * 17_000})
    assert (refused.status_code, refused.json()["type"]) == (431, "/problems/head-too-large")


@pytest.mark.slow
def test_a_head_that_trickles_in_is_refused_in_time(hasty: Supervisor) -> None:
    began = time.monotonic()
    with dial(hasty) as peer:
        peer.settimeout(0.05)
        said = b""
        for byte in b"GET /health/live HTTP/1.1\r\nX-A: " + b"a" * 500:
            peer.sendall(bytes([byte]))
            try:
                said = peer.recv(1 << 16)
                break
            except TimeoutError:
                continue
    assert said.startswith(b"HTTP/1.1 408 Request Timeout")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["type"] == "/problems/head-too-slow"
    assert time.monotonic() - began < 3
    assert_serves(hasty)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"", GOOD, b"GET /health/live HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\nabc"])
def test_a_connection_on_which_nothing_comes_is_closed(hasty: Supervisor, sent: bytes) -> None:
    began = time.monotonic()
    with dial(hasty) as peer:
        peer.sendall(sent)
        said = read_all(peer)
    assert said.startswith(b"HTTP/1.1 200 OK") == bool(sent)
    assert time.monotonic() - began < 4


@pytest.mark.slow
def test_a_body_that_nobody_waits_for_cannot_trickle_for_ever(hasty: Supervisor) -> None:
    began = time.monotonic()

    def trickle(peer: socket.socket) -> None:
        peer.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n")
        while time.monotonic() - began < 5:
            peer.sendall(b"a")
            time.sleep(0.02)

    with dial(hasty) as peer, pytest.raises((BrokenPipeError, ConnectionResetError)):
        trickle(peer)
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("endless", [b"X-A: b\r\n", b"1;" + b"e" * 8_000 + b"\r\na\r\n"])
def test_trailers_and_framing_without_end_are_cut(server: Supervisor, endless: bytes) -> None:
    start = b"0\r\n" if endless.startswith(b"X") else b""
    head = b"POST /v1/ner HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n" + start
    with dial(server) as peer, pytest.raises((BrokenPipeError, ConnectionResetError)):
        peer.sendall(head + endless * (100_000_000 // len(endless)))
    assert_serves(server)


def test_a_trailer_is_no_header(server: Supervisor) -> None:
    chunks = b"%x\r\n%b\r\n0\r\nX-Deadline-Ms: nonsense\r\n\r\n" % (len(ASK), ASK)
    with dial(server) as peer:
        peer.sendall(b"POST /v1/ner HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        assert peer.recv(1 << 16).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("headers", "status", "says"),
    [
        (b"Content-Length: 18\r\nContent-Length: 18\r\nHost: a\r\n", 400, "lengths do not add up"),
        (b"Content-Length: 18\r\nContent-Length: 4\r\nHost: a\r\n", 400, "lengths do not add up"),
        (b"Content-Length: 18\r\nTransfer-Encoding: chunked\r\nHost: a\r\n", 400, "lengths do not add up"),
        (b"Content-Length: 18\r\nHost: a\r\nHost: a\r\n", 400, "2 Host headers came"),
        (b"Content-Length: 18\r\n", 400, "0 Host headers came"),
        (b"Content-Length: 18\r\nHost: a\r\nX-Deadline-Ms: 900\r\nX-Deadline-Ms: 900\r\n", 400, "more than once"),
        (b"Content-Length: 18\r\nHost: a\r\nX-Deadline-Ms: 900\r\nGrpc-Timeout: 1S\r\n", 400, "more than once"),
        (b"Content-Length: 18\r\nHost: a\r\nX-Request-Id: a\r\nX-Request-Id: b\r\n", 200, ""),
        (b"Content-Length: 18\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Type: image/png\r\n", 200, ""),
    ],
)  # fmt: skip
def test_headers_that_come_twice_have_one_meaning_or_are_refused(server: Supervisor, headers: bytes, status: int, says: str) -> None:
    with dial(server) as peer:
        peer.sendall(b"POST /v1/ner HTTP/1.1\r\n" + headers + b"\r\n" + ASK)
        said = read_one(peer)
    assert said.startswith(b"HTTP/1.1 %d" % status)
    assert says in said.decode()
    assert_serves(server)


@pytest.mark.parametrize("pieces", [1, 2])
def test_an_offer_to_speak_another_http_is_passed_over_with_its_body(server: Supervisor, pieces: int) -> None:
    """As curl --http2 and Java's HttpClient send it."""
    head = b"POST /v1/ner HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    whole = head + b"Content-Length: 18\r\n\r\n" + ASK
    with dial(server) as peer:
        for _ in range(2):
            for part in (whole,) if pieces == 1 else (whole[:-18], whole[-18:]):
                peer.sendall(part)
            assert read_one(peer).startswith(b"HTTP/1.1 200")


def test_an_upgrade_that_is_not_offered_is_refused_and_its_body_not_taken_for_a_request(server: Supervisor) -> None:
    with dial(server) as peer:
        peer.sendall(GOOD.replace(b"Host: a\r\n", b"Host: a\r\nConnection: Upgrade\r\nUpgrade: chat/2\r\n"))
        said = read_all(peer)
    assert said.startswith(b"HTTP/1.1 400")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["type"] == "/problems/no-upgrade"


def test_requests_sent_one_behind_the_other_are_answered_in_their_order(server: Supervisor) -> None:
    asked = [b"POST /v1/ner HTTP/1.1\r\nHost: a\r\nX-Request-Id: r%d\r\nContent-Length: 18\r\n\r\n" % i + ASK for i in range(30)]
    wrong = GOOD.replace(b'{"input"', b'{"inputs')
    with dial(server) as peer:
        peer.sendall(b"".join(asked[:15]) + wrong + b"".join(asked[15:]))
        said = b""
        while said.count(b"HTTP/1.1 ") < 31:
            part = peer.recv(1 << 16)
            assert part, said
            said += part
    ids = re.findall(rb"x-request-id: (r\d+)\r\n", said)
    assert ids == [b"r%d" % i for i in range(30)]
    statuses = [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", said)]
    assert statuses == [200] * 15 + [400] + [200] * 15


def test_what_follows_a_good_request_and_is_none_gets_no_answer_in_its_place(server: Supervisor) -> None:
    with dial(server) as peer:
        peer.sendall(GOOD + b"no request at all\r\n\r\n")
        said = read_all(peer)
    assert said.startswith(b"HTTP/1.1 200 OK")
    assert said.count(b"HTTP/1.1") == 1
    assert_serves(server)


def test_one_connection_too_many_is_refused_and_the_next_is_let_in(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    settings = ServeSettings(bundles=(str(bundle.path),), port=0, limits=Limits(connections=20))
    with Supervisor(settings) as server:
        with ExitStack() as stack:
            held = [stack.enter_context(dial(server)) for _ in range(20)]
            for peer in held:
                peer.sendall(GOOD)
                assert read_one(peer).startswith(b"HTTP/1.1 200")
            refused = read_all(stack.enter_context(dial(server)))
            assert refused.startswith(b"HTTP/1.1 503 Service Unavailable")
            assert b"retry-after: 1" in refused
            held[0].sendall(GOOD)
            assert read_one(held[0]).startswith(b"HTTP/1.1 200"), "who is in is served"
        deadline = time.monotonic() + 5
        while True:
            with dial(server) as peer:
                peer.sendall(GOOD)
                if peer.recv(1 << 16).startswith(b"HTTP/1.1 200"):
                    break
            assert time.monotonic() < deadline


@pytest.mark.slow
def test_thousands_of_idle_connections_keep_nobody_out(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server, ExitStack() as stack:
        for _ in range(5_000):
            stack.enter_context(dial(server))
        for _ in range(50):
            assert_serves(server)


@pytest.mark.slow
def test_a_body_larger_than_what_is_drained_is_read_where_it_is_allowed(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    settings = ServeSettings(bundles=(str(bundle.path),), port=0, limits=Limits(body_bytes=80_000_000))
    with Supervisor(settings) as server:
        content = b'{"input": "maria"' + b" " * 70_000_000 + b"}"
        answer = httpx.post(f"{server.url}/v1/ner", content=content, headers={"X-Deadline-Ms": "60000"}, timeout=60)
        assert answer.status_code == 200


@pytest.mark.parametrize("limits", [{"head_bytes": 10}, {"head_s": 0}, {"idle_s": float("nan")}, {"connections": 0}, {"body_s": 1e9}])
def test_limits_that_cannot_be_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(InvalidValue):
        Limits(**limits)  # type: ignore[arg-type]


@pytest.mark.slow
def test_five_thousand_idle_connections_keep_nobody_from_being_answered_and_are_let_go(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 6_000:
        pytest.skip(f"only {hard} files may be open here: raise `ulimit -Hn` to 6000")
    resource.setrlimit(resource.RLIMIT_NOFILE, (6_000, hard))
    try:
        limits = Limits(head_s=4.0)
        with Supervisor(ServeSettings(bundles=(str(make_fake_bundle(tmp_path).path),), port=0, limits=limits)) as server, ExitStack() as stack:

            def n_files() -> int:
                return len(os.listdir(f"/proc/{server.pids[0]}/fd"))

            n_before = n_files()
            idle = [stack.enter_context(dial(server)) for _ in range(5_000)]
            wait(lambda: n_files() >= n_before + 4_900)
            began = time.monotonic()
            assert_serves(server)
            assert time.monotonic() - began < 1.0
            wait(lambda: n_files() < n_before + 50, within_s=20)
            assert idle[0].recv(10) == b""
            assert_serves(server)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def wait(holds: Callable[[], bool], *, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("threads", [0, 1])
def test_a_request_has_no_more_tokens_than_allowed_whatever_its_characters(tmp_path: Path, threads: int) -> None:
    bundle = make_fake_bundle(tmp_path, name="rank", task="rerank", threads=threads)
    settings = ServeSettings(bundles=(str(bundle.path),), port=0, limits=Limits(tokens=200))
    with Supervisor(settings) as server:
        asked = {"query": "x " * 14, "documents": ["hello"] * 8}  # the query is read with each document
        assert httpx.post(f"{server.url}/v1/rerank", json=asked).status_code == 200
        refused = httpx.post(f"{server.url}/v1/rerank", json=asked | {"documents": ["hello"] * 20})
        assert (refused.status_code, refused.json()["type"]) == (413, "/problems/too-many-tokens")
        assert "more than the 200 tokens allowed" in refused.json()["detail"]
    with pytest.raises(InvalidValue, match="below 1"):
        Limits(tokens=0)
