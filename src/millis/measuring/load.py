"""The open-loop load generator, in a process of its own: `python -m millis.measuring.load` with a plan on stdin.

Requests are due at Poisson arrivals fixed beforehand, and each latency counts from the moment it was due, so a server
that stalls is charged for every request it delays. One thread, raw sockets, keep-alive HTTP/1.1. It waits in select(),
whose time-out is exact to the microsecond (epoll's is rounded to a millisecond), and never spins: the core it would
burn is the server's.
Border: bytes and clocks; it knows no model. Progress goes to stderr as "done total" lines, the result to stdout as JSON.
Limits: http:// only; answers need a Content-Length; at most 900 connections (select's limit is 1,024).
Source: coordinated omission, as in wrk2 (G. Tene); the exchange of roles with load.c is checked in benchmarks/.
"""

import gc
import os
import random
import select
import socket
import sys
from collections import deque
from dataclasses import dataclass, field
from time import monotonic_ns, perf_counter_ns

import msgspec

_RECEIVE_BYTES = 1 << 18
_PROGRESS_NS = 250_000_000


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to offer.

    Args:
        bodies: request bodies, taken in turn.
        connections: opened at the start; more are opened, up to most, when all are busy.
    """

    host: str
    port: int
    path: str
    bodies: tuple[str, ...]
    rate_per_s: float
    n_requests: int
    seed: int
    headers: tuple[tuple[str, str], ...] = ()
    connections: int = 16
    most_connections: int = 900
    timeout_s: float = 10.0
    warmup: int = 50


class Raw(msgspec.Struct, kw_only=True):
    """What was seen, request by request.

    Args:
        ok_ms: latencies of 2xx answers, from the scheduled arrival.
        late_ms: how long after it was due the generator woke for each request.
        statuses: answers by status.
        n_failed: connections that broke or answers that cannot be read.
        n_unanswered: due, but without an answer when time was up.
        timings: Server-Timing values, and rungs: answers by X-Millis-Rung.
    """

    seconds: float
    ok_ms: list[float]
    late_ms: list[float]
    statuses: dict[int, int]
    n_failed: int
    n_unanswered: int
    n_connections: int
    timings: dict[str, list[float]]
    rungs: dict[str, int]


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    due_ns: int = 0
    buffer: bytearray = field(default_factory=bytearray)


class _Generator:
    """The state of one run: who is idle, who is busy, what came back."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._address = socket.getaddrinfo(plan.host, plan.port, type=socket.SOCK_STREAM)[0]
        self._requests = [_write_request(plan, body.encode()) for body in plan.bodies]
        self._idle: deque[_Connection] = deque()
        self._busy: dict[int, _Connection] = {}
        self._heads: list[bytes] = []
        self.ok_ns: list[int] = []
        self.late_ns: list[int] = []
        self.statuses: dict[int, int] = {}
        self.n_failed = 0
        self.n_connections = 0

    def warm_up(self) -> None:
        """Open the first connections and send some requests one after another, uncounted."""
        for _ in range(self._plan.connections):
            self._idle.append(self._dial())
        for i in range(self._plan.warmup):
            self._send(self._idle.popleft(), self._requests[i % len(self._requests)], due_ns=perf_counter_ns())
            deadline = perf_counter_ns() + int(self._plan.timeout_s * 1e9)
            while self._busy and perf_counter_ns() < deadline:
                self._receive(0.1)
        if self._busy or (self._plan.warmup and self.n_failed == self._plan.warmup):
            raise ConnectionError("the server did not answer the warm-up requests")
        self._heads, self.ok_ns, self.statuses, self.n_failed = [], [], {}, 0

    def run(self) -> float:
        """Offer the whole plan; give the seconds from the first arrival due to the last answer."""
        plan = self._plan
        chance = random.Random(plan.seed)  # noqa: S311 - arrivals, not secrets
        due: list[int] = []
        at = perf_counter_ns() + 20_000_000
        began = at
        for _ in range(plan.n_requests):
            at += int(chance.expovariate(plan.rate_per_s) * 1e9)
            due.append(at)
        end = at + int(plan.timeout_s * 1e9)
        waiting: deque[tuple[int, int]] = deque()  # (which, due) without a connection yet
        i, told = 0, monotonic_ns()
        while i < len(due) or waiting or self._busy:
            now = perf_counter_ns()
            if now > end:
                break
            while i < len(due) and due[i] <= now:
                self.late_ns.append(now - due[i])
                waiting.append((i, due[i]))
                i += 1
            while waiting and (connection := self._take()) is not None:
                k, due_ns = waiting.popleft()
                self._send(connection, self._requests[k % len(self._requests)], due_ns=due_ns)
            next_ns = due[i] if i < len(due) else end
            self._receive(max(min((next_ns - perf_counter_ns()) / 1e9, 0.1), 0.0))
            if monotonic_ns() - told > _PROGRESS_NS:
                told = monotonic_ns()
                sys.stderr.write(f"{len(self.ok_ns)} {plan.n_requests}\n")
                sys.stderr.flush()
        return (perf_counter_ns() - began) / 1e9

    def result(self, seconds: float) -> Raw:
        """Put together what was seen."""
        answered = sum(self.statuses.values()) + self.n_failed
        timings, rungs = _read_heads(self._heads)
        return Raw(
            seconds=seconds,
            ok_ms=[ns / 1e6 for ns in self.ok_ns],
            late_ms=[ns / 1e6 for ns in self.late_ns],
            statuses=self.statuses,
            n_failed=self.n_failed,
            n_unanswered=max(self._plan.n_requests - answered, 0),
            n_connections=self.n_connections,
            timings=timings,
            rungs=rungs,
        )

    def _dial(self) -> _Connection:
        family, kind, protocol, _, address = self._address
        opened = socket.socket(family, kind, protocol)
        opened.settimeout(self._plan.timeout_s)
        opened.connect(address)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setblocking(False)
        self.n_connections += 1
        return _Connection(opened)

    def _take(self) -> _Connection | None:
        """Give the connection that has been idle longest, a new one when none is, None when there are too many."""
        if self._idle:
            return self._idle.popleft()
        if len(self._busy) >= self._plan.most_connections:
            return None
        try:
            return self._dial()
        except OSError:
            self.n_failed += 1
            return None

    def _send(self, connection: _Connection, request: bytes, *, due_ns: int) -> None:
        connection.due_ns = due_ns
        connection.buffer.clear()
        try:
            sent = connection.socket.send(request)
            if sent < len(request):
                connection.socket.setblocking(True)
                connection.socket.sendall(request[sent:])
                connection.socket.setblocking(False)
        except OSError:
            self._drop(connection)
            return
        self._busy[connection.socket.fileno()] = connection

    def _receive(self, wait_s: float) -> None:
        readable, _, _ = select.select(list(self._busy), (), (), wait_s)
        for descriptor in readable:
            connection = self._busy.pop(descriptor)
            try:
                part = connection.socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                self._busy[descriptor] = connection
                continue
            except OSError:
                part = b""
            if not part:
                self._drop(connection)
                continue
            connection.buffer += part
            self._finish(connection, descriptor)

    def _finish(self, connection: _Connection, descriptor: int) -> None:
        """Count an answer if it is whole, else wait for the rest."""
        buffer = connection.buffer
        end = buffer.find(b"\r\n\r\n")
        length = _content_length(buffer, end) if end >= 0 else None
        if end >= 0 and length is None:
            self._drop(connection)
            return
        if end < 0 or len(buffer) < end + 4 + (length or 0):
            self._busy[descriptor] = connection
            return
        now = perf_counter_ns()
        status = int(buffer[9:12])
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if 200 <= status < 300:
            self.ok_ns.append(now - connection.due_ns)
            self._heads.append(bytes(buffer[:end]))
        if b"\r\nconnection: close" in buffer[:end].lower():
            connection.socket.close()
        else:
            self._idle.append(connection)

    def _drop(self, connection: _Connection) -> None:
        self.n_failed += 1
        connection.socket.close()


def _write_request(plan: Plan, body: bytes) -> bytes:
    headers = {"Host": f"{plan.host}:{plan.port}", "Content-Type": "application/json", **dict(plan.headers)}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {plan.path} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _content_length(buffer: bytearray, end: int) -> int | None:
    head = bytes(buffer[:end]).lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        return None
    stop = head.find(b"\r\n", at + 2)
    try:
        return int(head[at + 17 : stop if stop >= 0 else len(head)])
    except ValueError:
        return None


def _read_heads(heads: list[bytes]) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Collect Server-Timing values by stage, and answers by rung, after the run."""
    timings: dict[str, list[float]] = {}
    rungs: dict[str, int] = {}
    for head in heads:
        for line in head.decode("latin-1").split("\r\n")[1:]:
            name, _, value = line.partition(":")
            if name.lower() == "server-timing":
                for entry in value.split(","):
                    stage, _, ms = entry.strip().partition(";dur=")
                    if ms.replace(".", "", 1).isdigit():
                        timings.setdefault(stage, []).append(float(ms))
            elif name.lower() == "x-millis-rung":
                rungs[value.strip()] = rungs.get(value.strip(), 0) + 1
    return timings, rungs


def main() -> int:
    """Run the plan on stdin; on failure, one sentence on stderr and exit code 1."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    try:
        generator = _Generator(plan)
        generator.warm_up()
        gc.collect()
        gc.freeze()
        gc.disable()
        seconds = generator.run()
    except (OSError, IndexError) as error:
        sys.stderr.write(f"failed {error or type(error).__name__}\n")
        return 1
    os.close(sys.stderr.fileno())  # the parent reads progress to its end before it reads the result
    sys.stdout.buffer.write(msgspec.json.encode(generator.result(seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
