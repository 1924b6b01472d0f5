"""Who takes a connection, of processes that listen on one socket: whoever has fewest open.

By itself whoever wakes first takes all that wait there: of a client that opened 64 at once one process got all, and
half of the machine answered. So each process writes how many it has open where the others read it; who has more than
another leaves what waits to that one for a moment, and then takes it if it is still there.
Border: sockets, and numbers in shared memory; what is said over a connection is protocol.py's.
"""

import asyncio
import errno
import mmap
import os
import socket
import ssl
import sys
import time
from array import array
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_BYTES = 8
_LIST_S = 0.25
_MOMENT_S = 0.001
_REST_S = 1.0
_COME_IN_S = 0.1
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Counts:
    """How many connections each process of a server has open.

    Args:
        folder: of the numbers of all of them; where it cannot be written this process shares nothing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder, _file_of(folder, os.getpid())
        self._others: dict[Path, memoryview[int]] = {}
        self._listed_s = -_LIST_S
        self._own: memoryview[int] | array[int] = array("q", [0])

    def join(self) -> None:
        """Let the others see this process's number; before, none of them leaves anybody to it."""
        with suppress(OSError):
            self._file.write_bytes(bytes(_BYTES))
            self._own = _map(self._file)

    def note(self, n: int) -> None:
        """Write how many this process has open."""
        self._own[0] = n

    def fewest_elsewhere(self) -> int:
        """Give how many the process has open that has fewest, of the others; more than anybody has where none is."""
        now = time.monotonic()
        if now - self._listed_s >= _LIST_S:
            self._listed_s = now
            self._list()
        return min((count[0] for count in self._others.values()), default=sys.maxsize)

    def _list(self) -> None:
        files = set(self._folder.glob(_file_of(self._folder, "*").name)) - {self._file}
        for file in files - self._others.keys():
            with suppress(OSError, ValueError):  # it went, or is being written
                self._others[file] = _map(file)
        for file in self._others.keys() - files:
            del self._others[file]

    def leave(self) -> None:
        """Stand in nobody's way any more."""
        self._file.unlink(missing_ok=True)


def forget_counts(folder: Path, pid: int) -> None:
    """Take away the number of a process that ended."""
    _file_of(folder, pid).unlink(missing_ok=True)


def _file_of(folder: Path, pid: int | str) -> Path:
    return folder / f"open_{pid}"


def _map(file: Path) -> "memoryview[int]":
    with file.open("r+b") as stream:
        return memoryview(mmap.mmap(stream.fileno(), _BYTES)).cast("q")


class Connections(set[Any]):
    """The open connections of this process, whose number the others see."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def add(self, connection: Any) -> None:
        """Hold one more."""
        super().add(connection)
        self.counts.note(len(self))

    def discard(self, connection: Any) -> None:
        """Let one go."""
        super().discard(connection)
        self.counts.note(len(self))


class Acceptor:
    """Takes connections from a socket that other processes listen on too; listens from the start.

    Args:
        listener: bound.
        backlog: how many may wait there.
        make: gives the protocol of a connection.
        tls: makes each connection speak it; None speaks none.
        patience_s: for a client's handshake over TLS, and its goodbye.
        connections: those that are open.
    """

    def __init__(
        self, listener: socket.socket, *, backlog: int, make: Callable[[], asyncio.BaseProtocol],
        tls: ssl.SSLContext | None, patience_s: float, connections: Connections,
    ) -> None:  # fmt: skip
        self._listener, self._make, self._connections = listener, make, connections
        self._counts = connections.counts
        self._tls: dict[str, Any] = {}
        if tls is not None:
            self._tls = {"ssl": tls, "ssl_handshake_timeout": patience_s, "ssl_shutdown_timeout": patience_s}
        self._opening: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._counts.join()
        listener.setblocking(False)
        listener.listen(backlog)
        self._loop.add_reader(listener, self._look)

    def close(self) -> None:
        """Take nobody more; the socket is its owner's."""
        self._counts.leave()
        if self._pause is None:
            self._loop.remove_reader(self._listener)
        else:
            self._pause.cancel()

    async def stop(self) -> None:
        """Take nobody more; who was taken has a moment to come in, and then no handshake is waited for."""
        self.close()
        if self._opening:
            await asyncio.wait(self._opening, timeout=_COME_IN_S)
        for task in self._opening:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait for who was taken and has not come in yet."""
        await asyncio.gather(*self._opening)

    def _look(self) -> None:
        """Take one, unless another process has fewer; the next in the loop's next turn, when their numbers are new."""
        if len(self._connections) + len(self._opening) > self._counts.fewest_elsewhere():
            self._stop_for(_MOMENT_S)
        else:
            self._take()

    def _stop_for(self, seconds: float) -> None:
        if self._pause is None:
            self._loop.remove_reader(self._listener)
            self._pause = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._look)
        self._take()

    def _take(self) -> None:
        """Take one, if one is there."""
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._stop_for(_REST_S)
            return  # another process took it, or its client went
        connection.setblocking(False)
        with suppress(OSError):  # its client went
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._open(connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        with suppress(OSError, asyncio.CancelledError):  # no TLS, or the client went
            await self._loop.connect_accepted_socket(self._make, connection, **self._tls)
