"""The generator's arrivals, and its process as a program of its own."""

import base64
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from contextlib import suppress
from itertools import pairwise

import msgspec
import pytest

from millis.errors import AllRefused, InvalidValue, RunFailed
from millis.measuring.connection import resolve
from millis.measuring.load import Generator
from millis.measuring.plan import Plan, Raw, draw_arrivals
from millis.measuring.results import sum_up


def plan(**changes: object) -> Plan:
    settings = {
        "host": "127.0.0.1", "port": 1, "head": "POST / HTTP/1.1\r\nHost: x\r\n", "bodies": (b"1",),
        "rate_per_s": 100.0, "n_requests": 20_000, "seed": 7, "connections": 1, "most_connections": 4,
        "timeout_s": 1.0, "warmup": 1,
    }  # fmt: skip
    return Plan(**(settings | changes))  # type: ignore[arg-type]


def test_arrivals_are_poisson_at_the_rate() -> None:
    due = draw_arrivals(plan(), start_ns=0)
    gaps_ms = [(later - sooner) / 1e6 for sooner, later in pairwise(due)]
    assert statistics.mean(gaps_ms) == pytest.approx(10, rel=0.03)
    assert statistics.stdev(gaps_ms) == pytest.approx(10, rel=0.03)  # an exponential's spread is its mean
    assert min(gaps_ms) >= 0


def test_arrivals_are_the_same_for_the_same_seed_only() -> None:
    assert draw_arrivals(plan(), start_ns=5) == draw_arrivals(plan(), start_ns=5)
    assert draw_arrivals(plan(), start_ns=5) != draw_arrivals(plan(seed=8), start_ns=5)


def test_a_plan_that_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidValue, match="connections cannot be 5"):
        plan(connections=5)


def test_it_reads_a_plan_and_writes_a_result_and_progress_as_json() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_answer_all, args=(listening,), daemon=True).start()
        asked = {
            "host": "127.0.0.1", "port": listening.getsockname()[1], "head": "POST /a HTTP/1.1\r\nHost: x\r\n",
            "bodies": [base64.b64encode(b'"one"').decode()], "rate_per_s": 50, "n_requests": 40, "seed": 1,
            "connections": 1, "most_connections": 1, "timeout_s": 5, "warmup": 1,
        }  # fmt: skip
        command = [sys.executable, "-m", "millis.measuring.load"]
        ran = subprocess.run(command, input=json.dumps(asked).encode(), capture_output=True, check=True)
    seen = json.loads(ran.stdout)
    assert seen["statuses"] == {"200": 40}
    assert len(seen["ok_ns"]) == len(seen["late_ns"]) == 40
    progress = [json.loads(line) for line in ran.stderr.splitlines()]
    assert progress
    assert all(line["total"] == 40 for line in progress)


def test_a_generator_that_stood_still_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_answer_all, args=(listening,), daemon=True).start()
        port = listening.getsockname()[1]
        asked = plan(port=port, bodies=(b'"one"',), head="POST /a HTTP/1.1\r\nHost: x\r\n", n_requests=80)
        generator = Generator(asked, address=resolve("127.0.0.1", port, timeout_s=1))
        generator.warm_up()
        wakes_ns = time.perf_counter_ns() + 400_000_000  # as long as half of the requests take
        monkeypatch.setattr(
            "millis.measuring.load.perf_counter_ns",
            lambda: (now := time.perf_counter_ns()) + (60_000_000_000 if now > wakes_ns else 0),
        )
        raw = generator.run()
        generator.close()
    result = sum_up(raw, plan=asked, url="here", bound_ms=500, token_bound_ms=None)
    assert 10 < result.n_ok < 70
    assert result.void is not None
    assert "the generator itself was" in result.void


def test_refusals_beside_silence_say_that_the_server_refuses_and_silence_alone_does_not() -> None:
    raw = Raw(
        seconds=1.0, ok_ns=[], refused_ns=[10**6] * 3, late_ns=[0] * 10, statuses={503: 2, 504: 1}, failures={}, n_unsent=0,
        n_waited=0, n_connections=4, timings=[], rungs={},
    )  # fmt: skip
    asked = {"plan": plan(n_requests=10), "url": "here", "bound_ms": 5.0, "token_bound_ms": None}
    with pytest.raises(AllRefused, match=r"2 x 503, 1 x 504\) or, 7 of them, left without an answer"):
        sum_up(raw, **asked)  # type: ignore[arg-type]
    for changes in ({"refused_ns": [], "statuses": {}}, {"statuses": {503: 3, 500: 1}}, {"failures": {"reset": 1}}):
        with pytest.raises(RunFailed, match="none of 10 requests to here had a 2xx answer"):
            sum_up(msgspec.structs.replace(raw, **changes), **asked)  # type: ignore[arg-type]


def _answer_all(listening: socket.socket) -> None:
    """Answer 200 to each request of each connection, one connection after the other."""
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection, suppress(ConnectionResetError):
            while data := connection.recv(65536):
                assert data.endswith(b'Content-Length: 5\r\n\r\n"one"')
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
