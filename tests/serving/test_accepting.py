"""Who takes a connection: a real server of several processes, and clients that open many connections at once."""

import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from making import count_open, make_certificate, make_fake_bundle
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor

N = 64


@contextmanager
def dial(server: Supervisor, n: int) -> Iterator[list[socket.socket]]:
    """Open connections, all at once; whether anybody took them shows later."""
    port = int(server.url.rpartition(":")[2])
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(n)]


def ask(connection: socket.socket) -> None:
    connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert connection.recv(65_536).startswith(b"HTTP/1.1 200"), "somebody answers on every connection"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Supervisor]:
    bundle = make_fake_bundle(tmp_path, workers=2)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        yield server


def test_connections_opened_at_once_are_shared_out(server: Supervisor) -> None:
    usual = [count_open(pid) for pid in server.pids]
    for _ in range(3):  # the next come while those before are let go
        with dial(server, N) as connections:
            for connection in connections:
                ask(connection)
            took = [count_open(pid) - before for pid, before in zip(server.pids, usual, strict=True)]
            assert sum(took) == N
            assert max(took) <= N * 3 // 4
    deadline = time.monotonic() + 10
    while [count_open(pid) for pid in server.pids] != usual:
        assert time.monotonic() < deadline, "they are let go"
        time.sleep(0.01)


def test_a_process_that_stands_still_or_died_keeps_nobody_waiting(server: Supervisor) -> None:
    pid, other = server.pids
    usual = count_open(other)
    os.kill(pid, signal.SIGSTOP)
    try:
        with dial(server, 8) as connections:
            for connection in connections:
                ask(connection)
            assert count_open(other) - usual == len(connections)
    finally:
        os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.SIGKILL)
    with dial(server, 8) as connections:
        for connection in connections:
            ask(connection)


@pytest.mark.parametrize("has_tls", [True, False])
def test_a_stop_waits_for_nobody_who_said_nothing(tmp_path: Path, has_tls: bool) -> None:
    certificate, key = make_certificate(tmp_path, name="here")
    tls = {"tls_certificate": str(certificate), "tls_key": str(key)} if has_tls else {}
    bundle = make_fake_bundle(tmp_path, workers=2)
    with ExitStack() as stack:
        with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, **tls)) as server:
            usual = sum(map(count_open, server.pids))
            connections = stack.enter_context(dial(server, 3))
            deadline = time.monotonic() + 10
            while sum(map(count_open, server.pids)) < usual + 3:
                assert time.monotonic() < deadline, "they are taken"
                time.sleep(0.01)
            began = time.monotonic()
        assert time.monotonic() - began < 5, "a handshake may take ten seconds, a stop as many for what runs"
        assert not any(connection.recv(1_000) for connection in connections)


def test_connections_over_tls_are_shared_out_and_a_client_that_speaks_none_goes(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, workers=2)
    certificate, key = make_certificate(tmp_path, name="here")
    settings = ServeSettings(bundles=(str(bundle.path),), port=0, tls_certificate=str(certificate), tls_key=str(key))
    context = ssl.create_default_context(cafile=str(certificate))
    with Supervisor(settings) as server:
        usual = [count_open(pid) for pid in server.pids]
        with dial(server, 16) as connections, ExitStack() as stack:
            plain, *others = connections
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert b"HTTP" not in plain.recv(1_000)
            for connection in others:
                ask(stack.enter_context(context.wrap_socket(connection, server_hostname="127.0.0.1")))
            took = [count_open(pid) - before for pid, before in zip(server.pids, usual, strict=True)]
            assert max(took) <= 12
