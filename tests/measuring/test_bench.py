"""The load generator against a real server on loopback. Counts are asserted, never fine timing."""

import http.client
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from millis.errors import AllRefused, InvalidData, InvalidValue, RunFailed
from millis.measuring.bench import offer_load, read_bodies
from millis.measuring.histograms import Histogram
from millis.measuring.results import LoadResult, _write_table

pytestmark = pytest.mark.slow

BODIES = [b'{"input": "%d"}' % number for number in range(7)]


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    """The address of target.py, once it answers; a connection waits in the listening socket until then."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = [sys.executable, str(Path(__file__).with_name("target.py")), str(listening.fileno())]
        process = subprocess.Popen(command, pass_fds=[listening.fileno()])
        host, port = listening.getsockname()
        try:
            waiting = http.client.HTTPConnection(host, port)
            waiting.request("POST", "/missing")
            assert waiting.getresponse().status == 404
            waiting.close()
            yield f"http://{host}:{port}"
        finally:
            process.terminate()
            process.wait()


@contextmanager
def raw_server(answer: bytes) -> Iterator[str]:
    """A server that sends the same bytes to whatever comes, and closes."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if self.request.recv(65536):
                self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


def test_every_request_is_answered_and_counted(target: str) -> None:
    result = offer_load(f"{target}/echo", bodies=BODIES, rate_per_s=400, n_requests=300, bound_ms=5000)
    assert (result.n_ok, result.n_refused, result.n_errors, result.n_unanswered) == (300, 0, 0, 0)
    assert result.n_misses == 0
    assert result.statuses == {200: 300}
    assert result.latency.n == result.lateness.n == 300
    assert 0 < result.latency.p50_ms <= result.latency.p99_ms <= result.latency.max_ms
    assert result.achieved_per_s > 0


def test_answers_that_the_server_itself_calls_late_are_surely_missed(target: str) -> None:
    # echo says of each answer that it took 0.25 ms to parse and 1.5 ms to run
    for bound_ms, n_sure in ((1.7, 100), (1.8, 0)):
        result = offer_load(f"{target}/echo?sure", bodies=BODIES, rate_per_s=400, n_requests=100, bound_ms=bound_ms)
        assert result.n_sure_misses == n_sure


def test_stages_and_rungs_of_the_answers_are_summed_up(target: str) -> None:
    result = offer_load(f"{target}/echo?stages", bodies=BODIES, rate_per_s=400, n_requests=100)
    assert result.rungs == {"a": 50, "b": 50}
    assert {name: (row.n, row.p50_ms, row.p99_ms) for name, row in result.stages.items()} == {
        "parse": (100, 0.25, 0.25),
        "run": (100, 1.5, 1.5),
    }


def test_refusals_and_errors_are_counted_apart_and_all_are_misses(target: str) -> None:
    result = offer_load(f"{target}/mixed?refusals", bodies=BODIES, rate_per_s=400, n_requests=200, bound_ms=5000)
    assert result.statuses == {200: 120, 503: 20, 429: 20, 500: 20, 404: 20}
    assert (result.n_ok, result.n_refused, result.n_errors, result.n_misses) == (120, 40, 40, 80)
    assert result.latency.n == 120


def test_a_stalled_server_is_charged_for_every_request_due_meanwhile(target: str) -> None:
    # Some 60 requests are due within the stall of 200 ms, some 45 of them more than 50 ms before its end.
    # A generator that waits for answers would see one slow request (and with 16 connections, 16).
    result = offer_load(
        f"{target}/stall?stalled", bodies=BODIES, rate_per_s=300, n_requests=400, bound_ms=50, warmup=0, seed=1
    )
    assert result.n_ok == 400
    assert result.n_misses is not None
    assert result.n_misses >= 30
    assert result.latency.max_ms >= 150
    assert result.n_connections > 16


def test_few_connections_delay_requests_but_excuse_none(target: str) -> None:
    result = offer_load(
        f"{target}/stall?few", bodies=BODIES, rate_per_s=300, n_requests=400, bound_ms=50, warmup=0, seed=1,
        connections=2, most_connections=2,
    )  # fmt: skip
    assert result.n_ok == 400
    assert result.n_misses is not None
    assert result.n_misses >= 30
    assert result.n_waited >= 30
    assert result.n_connections == 2


def test_requests_never_answered_are_misses(target: str) -> None:
    result = offer_load(
        f"{target}/hang?never", bodies=BODIES, rate_per_s=400, n_requests=100, bound_ms=400, timeout_s=0.5, warmup=0
    )
    assert result.n_unanswered == 10
    assert result.n_ok == 90
    assert result.n_misses is not None
    assert result.n_misses >= 10


def test_requests_left_without_a_connection_are_misses(target: str) -> None:
    result = offer_load(
        f"{target}/hang?left", bodies=BODIES, rate_per_s=400, n_requests=100, bound_ms=400, timeout_s=0.5, warmup=0,
        connections=2, most_connections=2,
    )  # fmt: skip
    assert result.n_ok == 18
    assert result.n_unanswered == 82
    assert result.n_misses is not None
    assert result.n_misses >= 82


def test_answers_in_chunks_are_read_whole(target: str) -> None:
    result = offer_load(f"{target}/stream", bodies=BODIES, rate_per_s=300, n_requests=100)
    assert result.statuses == {200: 100}
    assert result.failures == {}


def test_a_server_that_closes_after_each_answer_can_be_measured(target: str) -> None:
    result = offer_load(f"{target}/shut", bodies=BODIES, rate_per_s=200, n_requests=100, warmup=10)
    assert result.n_ok == 100
    assert result.failures == {}
    assert result.n_connections >= 100


def test_a_body_that_ends_with_the_connection_is_read() -> None:
    with raw_server(b"HTTP/1.0 200 OK\r\n\r\n{}") as url:
        result = offer_load(url, bodies=BODIES, rate_per_s=200, n_requests=40, warmup=5)
    assert result.n_ok == 40


def test_a_body_larger_than_the_socket_is_sent_whole(target: str) -> None:
    body = b'"' + b"x" * 8_000_000 + b'"'
    result = offer_load(f"{target}/echo", bodies=[body], rate_per_s=20, n_requests=5, warmup=1, connections=1)
    assert result.n_ok == 5


@pytest.mark.slow
def test_connections_that_the_server_closes_while_idle_cost_no_request(target: str) -> None:
    # The server closes after 1 s without a request; each of 16 connections is used every 4 s.
    result = offer_load(f"{target}/echo", bodies=BODIES, rate_per_s=4, n_requests=16, warmup=16)
    assert result.n_ok == 16
    assert result.n_connections > 16


def test_headers_are_sent_and_may_replace_the_content_type(target: str) -> None:
    headers = [("Authorization", "Bearer x"), ("content-type", "text/x")]
    result = offer_load(f"{target}/header", bodies=BODIES, rate_per_s=300, n_requests=20, headers=headers)
    assert result.n_ok == 20


def test_a_result_survives_json_and_its_histogram_can_be_read(target: str) -> None:
    result = offer_load(f"{target}/echo", bodies=BODIES, rate_per_s=400, n_requests=50, bound_ms=100)
    assert msgspec.json.decode(msgspec.json.encode(result), type=LoadResult) == result
    assert Histogram(result.histogram).summary() == result.latency


def test_the_table_names_what_went_wrong(target: str) -> None:
    result = offer_load(f"{target}/mixed?table", bodies=BODIES, rate_per_s=400, n_requests=100, bound_ms=5000)
    text = "\n".join(result.lines())
    for words in ("60 ok, 20 refused, 20 errors", "10 x 503", "p99", "generator late", "40 of 100 missed 5000 ms"):
        assert words in text


def test_a_port_where_nobody_listens_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(RunFailed, match=r"connection refused.*start the server"):
        offer_load(f"http://127.0.0.1:{port}/x", bodies=BODIES, rate_per_s=10, n_requests=1)


def test_a_host_that_does_not_exist_is_a_sentence() -> None:
    with pytest.raises(RunFailed, match="cannot be looked up"):
        offer_load("http://nowhere.invalid/", bodies=BODIES, rate_per_s=10, n_requests=1)


def test_a_server_that_speaks_no_http_is_a_sentence() -> None:
    with raw_server(b"SSH-2.0-OpenSSH_9.6\r\n") as url, pytest.raises(RunFailed, match="not HTTP"):
        offer_load(url, bodies=BODIES, rate_per_s=10, n_requests=1, warmup=2)


def test_a_server_that_does_not_answer_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        with pytest.raises(RunFailed, match="no answer within"):
            offer_load(url, bodies=BODIES, rate_per_s=10, n_requests=1, timeout_s=0.2)


def test_a_run_without_one_good_answer_is_no_measurement(target: str) -> None:
    with pytest.raises(RunFailed, match="10 x 404"):
        offer_load(f"{target}/missing", bodies=BODIES, rate_per_s=300, n_requests=10)


def test_a_server_that_refuses_everybody_is_told_from_one_that_fails(target: str) -> None:
    with pytest.raises(AllRefused, match=r"all 10 requests to .*/full were refused \(10 x 503\)"):
        offer_load(f"{target}/full", bodies=[b"{}"], rate_per_s=100, n_requests=10)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the generator in /proc: run it on Linux")
def test_a_killed_generator_is_a_sentence(target: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        before = _children()
        run = pool.submit(offer_load, f"{target}/echo", bodies=BODIES, rate_per_s=10, n_requests=1000)
        while not (started := _children() - before):
            pass
        os.kill(started.pop(), signal.SIGKILL)
        with pytest.raises(RunFailed, match="was killed"):
            run.result()


def _children() -> set[int]:
    lists = [path.read_text() for path in Path("/proc/self/task").glob("*/children") if path.exists()]
    return {int(pid) for text in lists for pid in text.split()}


@pytest.mark.parametrize(
    "wrong",
    [{"url": "https://127.0.0.1/"}, {"url": "127.0.0.1:8000"}, {"url": "http://:80/"}, {"url": "http://h:99999/"},
     {"url": "http://user:secret@h/"}, {"url": "http://h/a b"}, {"seconds": 1.0}, {"n_requests": None},
     {"n_requests": 0}, {"rate_per_s": 0}, {"rate_per_s": float("nan")}, {"bodies": []}, {"connections": 0},
     {"most_connections": 2000}, {"bound_ms": 0}, {"bound_ms": 20_000}, {"warmup": -1}, {"timeout_s": 0},
     {"n_requests": None, "seconds": float("nan")}, {"n_requests": None, "seconds": -1.0},
     {"headers": [("X", "a\r\nY: b")]}, {"headers": [("X Y", "a")]}, {"headers": [("Content-Length", "1")]}],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused_before_anything_starts(wrong: dict[str, object]) -> None:
    settings = {"url": "http://h/", "bodies": BODIES, "rate_per_s": 10, "n_requests": 1} | wrong
    url = settings.pop("url")
    with pytest.raises(InvalidValue, match=r"give|leave"):
        offer_load(url, **settings)  # type: ignore[arg-type]


def test_bodies_are_read_a_line_each_with_mark_and_carriage_returns(tmp_path: Path) -> None:
    file = tmp_path / "bodies.jsonl"
    file.write_bytes('\ufeff{"input": "一"}\r\n\r\n[1]\n'.encode())
    assert read_bodies(file) == ('{"input": "一"}'.encode(), b"[1]")


def test_every_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bodies.jsonl"
    file.write_bytes(b'{"a": 1}\n{"secret\n\xff\n')
    with pytest.raises(InvalidData) as caught:
        read_bodies(file)
    assert "bodies.jsonl:2:" in str(caught.value)
    assert "bodies.jsonl:3:" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["empty", "absent", "folder"])
def test_a_file_without_bodies_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidData, match=name):
        read_bodies(tmp_path / name)


def test_streams_of_other_servers_are_heard_after_few_to_warm_up(target: str) -> None:
    bodies = [b'{"messages": [], "stream": true}']
    result = offer_load(f"{target}/talk?others", bodies=bodies, rate_per_s=100, n_requests=3, bound_ms=5_000)
    assert (result.n_ok, result.n_misses, result.failures) == (3, 0, {})
    assert result.tokens is not None
    assert result.tokens.n == 9 + 10 + 11, "eight came before them"
    assert result.tokens.first.n == result.tokens.gap.n == 3  # type: ignore[union-attr]


def test_columns_of_times_stay_apart_however_long_they_are() -> None:
    seen = Histogram().record([12_345.678, 123_456.789]).summary()
    header, row = _write_table({"latency": seen})
    assert len(row.split()) == len(header.split())


def test_streams_that_break_off_from_the_first_are_told_as_such(target: str) -> None:
    with pytest.raises(RunFailed, match="the stream had no text, no end, or an error"):
        offer_load(f"{target}/break_off", bodies=[b'{"stream": true}'], rate_per_s=100, n_requests=3)
