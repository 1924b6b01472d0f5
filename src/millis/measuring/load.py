"""The open-loop load generator, in a process of its own: `python -m millis.measuring.load`.

Reads a plan (JSON) on standard input, writes what it saw (JSON) on standard output, progress (JSON lines) on standard
error. Requests are due at Poisson arrivals fixed beforehand, and each latency counts from the moment its request was
due, so a server that stalls is charged for every request that it delays. One thread that waits in select(), whose
time-out is exact to the microsecond (epoll's is rounded to a millisecond), and never spins: the core that it would
burn is the server's.

Border: bytes and clocks; it knows no model and judges nothing (results.py sums up).
Limits: POST over http:// only; select() carries descriptors below 1,024, hence at most 900 connections; some 600
bytes of memory per request. A latency ends when this process has taken the answer's last bytes, so the time it takes
to wake up is in it, as it would be for any client.
Source: latency from the scheduled arrival as in wrk2 (G. Tene, coordinated omission). benchmarks/load_agreement.py
compares it with a generator written in C.
"""

import gc
import os
import random
import select
import sys
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from errno import EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING

import msgspec

from millis.errors import reason_of
from millis.measuring.connection import Address, Connection, NoAnswerError, resolve
from millis.measuring.plan import Plan, Progress, Raw, draw_arrivals

if TYPE_CHECKING:
    from millis.measuring.streaming import Spoken

REFUSALS = (429, 503, 504)
"""Statuses by which a server says that it will not answer this request in time."""

_OUR_FAULT = (EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM)
_NO_STREAM = "the stream had no text, no end, or an error"
_START_NS = 20_000_000
_PROGRESS_NS = 500_000_000


class Generator:
    """The state of one run: who is idle, who is busy, what came back."""

    def __init__(self, plan: Plan, *, address: Address) -> None:
        self._plan = plan
        self._address = address
        order = random.Random(plan.seed).sample(plan.bodies, k=len(plan.bodies))  # noqa: S311 - no secret
        self._requests = [f"{plan.head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in order]
        self._open: dict[int, Connection] = {}
        self._writing: dict[int, Connection] = {}
        self._idle: deque[Connection] = deque()
        self._waiting: deque[tuple[int, int]] = deque()  # (number, due_ns) of requests without a connection
        self._n_opened = 0
        self._last_error = ""
        self._forget()

    def warm_up(self) -> None:
        """Open the first connections and send some requests one after another, uncounted.

        Raises:
            NoAnswerError: a connection cannot be opened, or nothing is answered in time.
        """
        plan = self._plan
        for _ in range(plan.connections):
            self._dial()
        end_ns = self._time_out()
        while len(self._idle) < plan.connections:
            if len(self._open) < plan.connections:
                raise NoAnswerError(self._last_error)
            self._turn_before(end_ns)
        for number in range(plan.warmup):
            self._waiting.append((number, perf_counter_ns()))
            end_ns = self._time_out()
            while self._n_done <= number:
                self._dispatch()
                self._turn_before(end_ns)
        if plan.warmup and not self._statuses:
            raise NoAnswerError(self._last_error)
        self._forget()

    def run(self) -> Raw:
        """Offer the whole plan and give what was seen."""
        plan = self._plan
        start = perf_counter_ns() + _START_NS
        due = draw_arrivals(plan, start_ns=start)
        end = due[-1] + int(plan.timeout_s * 1e9)
        number, tell_at = 0, start
        while self._n_done < len(due) and (now := perf_counter_ns()) < end:
            while number < len(due) and due[number] <= now:
                self._waiting.append((number, due[number]))
                number += 1
            self._dispatch()
            self._turn(due[number] if number < len(due) else end)
            if now >= tell_at:
                tell_at = now + _PROGRESS_NS
                _tell(Progress(done=self._n_done, total=plan.n_requests))
        now = perf_counter_ns()
        self._late_ns += [now - due_ns for due_ns in due[number:] if due_ns < now]  # it stood still until the end
        return Raw(
            seconds=(perf_counter_ns() - start) / 1e9,
            ok_ns=self._ok_ns,
            refused_ns=self._refused_ns,
            late_ns=self._late_ns,
            statuses=self._statuses,
            failures=self._failures,
            n_unsent=self._n_unsent,
            n_waited=self._n_waited,
            n_connections=self._n_opened,
            timings=[value.decode("latin-1") for value in _values(self._headers, b"server-timing")],
            rungs=Counter(value.decode("latin-1") for value in _values(self._headers, b"x-millis-rung")),
            spoken=self._spoken,
        )

    def close(self) -> None:
        """Close every connection."""
        for connection in self._open.values():
            connection.close()

    def _forget(self) -> None:
        self._ok_ns: list[int] = []
        self._refused_ns: list[int] = []
        self._spoken: list[Spoken] = []
        self._late_ns: list[int] = []
        self._headers: list[list[tuple[bytes, bytes]]] = []
        self._statuses: Counter[int] = Counter()
        self._failures: Counter[str] = Counter()
        self._n_unsent = self._n_waited = self._n_done = 0
        self._last_waited = -1  # the highest number of a request that found all connections busy

    def _time_out(self) -> int:
        return perf_counter_ns() + int(self._plan.timeout_s * 1e9)

    def _turn_before(self, end_ns: int) -> None:
        if perf_counter_ns() >= end_ns:
            raise NoAnswerError(f"no answer within {self._plan.timeout_s:g} s")
        self._turn(end_ns)

    def _dispatch(self) -> None:
        """Give each request that is due the connection that has been idle longest, or a new one."""
        while self._waiting and (self._idle or len(self._open) < self._plan.most_connections):
            number, due_ns = self._waiting.popleft()
            connection = self._idle.popleft() if self._idle else None
            try:
                connection = connection or self._dial()
                now = perf_counter_ns()
                could_ns = connection.ready_ns if number <= self._last_waited else due_ns
                self._late_ns.append(now - max(due_ns, could_ns))
                connection.send(self._requests[number % len(self._requests)], due_ns=due_ns)
            except OSError as error:
                self._count_failure(error)
                if connection is not None:
                    self._drop(connection)
                continue
            if connection.is_writing:
                self._writing[connection.number] = connection
        if self._waiting:
            first, last = self._waiting[0][0], self._waiting[-1][0]
            self._n_waited += last - max(self._last_waited, first - 1)
            self._last_waited = last

    def _turn(self, until_ns: int) -> None:
        """Wait until a socket is ready or the time has come, and serve the sockets that are."""
        wait_s = max(until_ns - perf_counter_ns(), 0) / 1e9
        readable, writable, _ = select.select(self._open, self._writing, (), wait_s)
        for ready, serve in ((writable, self._write), (readable, self._read)):
            for number in ready:
                connection = self._open.get(number)
                if connection is None:
                    continue
                try:
                    serve(connection)
                except OSError as error:
                    if connection.is_busy:
                        self._count_failure(error)
                    self._last_error = reason_of(error)
                    self._drop(connection)

    def _write(self, connection: Connection) -> None:
        was_open = connection.is_open
        connection.write()
        if not connection.is_writing:
            del self._writing[connection.number]
        if not was_open and not connection.is_busy:
            connection.ready_ns = perf_counter_ns()
            self._idle.append(connection)

    def _read(self, connection: Connection) -> None:
        # A closed descriptor's number may have gone to a spare connection within this turn.
        data = connection.receive() if connection.is_open else None
        now = perf_counter_ns()  # before parsing: that is our time, not the server's
        if data is None or not connection.parse(data, now_ns=now):
            return
        if not connection.is_busy:
            self._drop(connection)  # it sent more than was asked for
            return
        self._n_done += 1
        spoken = connection.listener.end(due_ns=connection.due_ns) if connection.listener is not None else None
        if connection.listener is not None and (connection.listener.is_broken or spoken is None):
            self._failures[_NO_STREAM] += 1
            self._last_error = _NO_STREAM
            connection.is_busy, connection.ready_ns = False, now
            self._settle(connection)
            return
        self._statuses[connection.status] += 1
        if 200 <= connection.status < 300:
            if spoken is not None:
                self._spoken.append(spoken)
            self._ok_ns.append(now - connection.due_ns)
            self._headers.append(connection.headers)
        elif connection.status in REFUSALS:
            self._refused_ns.append(now - connection.due_ns)
        connection.is_busy, connection.ready_ns = False, now
        self._settle(connection)

    def _settle(self, connection: Connection) -> None:
        """Keep a connection whose answer has come for the next request, where the server keeps it too."""
        if connection.is_reusable:
            self._idle.append(connection)
        else:
            self._drop(connection)

    def _count_failure(self, error: OSError) -> None:
        """Count a request that will have no answer."""
        self._n_done += 1
        if error.errno in _OUR_FAULT:
            self._n_unsent += 1
        else:
            self._failures[reason_of(error)] += 1
        self._last_error = reason_of(error)

    def _dial(self) -> Connection:
        connection = Connection(self._address)
        self._n_opened += 1
        self._open[connection.number] = self._writing[connection.number] = connection
        return connection

    def _drop(self, connection: Connection) -> None:
        """Close a connection; while there are few, a spare one is opened so that the next request finds it."""
        connection.close()
        del self._open[connection.number]
        self._writing.pop(connection.number, None)
        with suppress(ValueError):
            self._idle.remove(connection)
        if connection.is_open and len(self._open) < self._plan.connections:
            with suppress(OSError):  # the request that then finds none will dial for itself, and be counted
                self._dial()


def _values(heads: list[list[tuple[bytes, bytes]]], name: bytes) -> Iterable[bytes]:
    return (value for head in heads for key, value in head if key == name)


def _tell(progress: Progress) -> None:
    sys.stderr.write(msgspec.json.encode(progress).decode() + "\n")
    sys.stderr.flush()


def _go_first() -> bool:
    """Ask to run as soon as something is due or came, as a client on another machine would; root may."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except (AttributeError, OSError):
        return False
    return True


def main() -> int:
    """Run the plan on standard input; 0 when it was run, 1 (and the reason on standard error) when it could not."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    with suppress(OSError):  # Linux only; without it waking up takes some 50 us more, which the lateness shows
        Path("/proc/self/timerslack_ns").write_text("1")
    is_first = _go_first()
    try:
        generator = Generator(plan, address=resolve(plan.host, plan.port, timeout_s=plan.timeout_s))
        generator.warm_up()
        gc.collect()
        gc.freeze()
        gc.disable()
        raw = generator.run()
        generator.close()
    except (NoAnswerError, OSError) as error:
        _tell(Progress(error=reason_of(error) if isinstance(error, OSError) else str(error)))
        return 1
    raw.is_first = is_first
    sys.stdout.buffer.write(msgspec.json.encode(raw))
    return 0


if __name__ == "__main__":
    sys.exit(main())
