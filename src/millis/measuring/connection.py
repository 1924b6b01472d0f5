"""One keep-alive HTTP/1.1 connection of the load generator, never blocking, and where it leads.

Border: a socket and a parser; it knows no clock and no plan. A body is thrown away, but for a stream's (streaming.py).
Limits: http:// only; one request at a time; a body that ends with the connection is taken as whole.
"""

import errno
import os
import socket

import httptools

from millis.errors import reason_of
from millis.measuring.streaming import MEDIA_TYPE, Listener

_RECEIVE_BYTES = 1 << 18
_KEPT = (b"server-timing", b"x-millis-rung")
_SPENT = memoryview(b"")

Address = tuple[socket.AddressFamily, tuple[str | int | bytes, ...]]


class Connection:
    """A connection that is opening, idle, or carries one request.

    Usage:
        connection.send(request)        # as soon as it is open; returns at once
        connection.write()              # when select says writable
        data = connection.receive()     # when select says readable; None when there was nothing after all
        connection.parse(data, now_ns=...)  # True once the answer is whole

    Raises:
        OSError: from any of them, when the connection cannot be opened, broke, or answers what is not HTTP.
    """

    __slots__ = ("_has_length", "_parser", "_socket", "_unsent", "due_ns", "headers", "is_busy", "is_open",
                 "is_reusable", "is_whole", "listener", "now_ns", "number", "ready_ns", "status")  # fmt: skip

    def __init__(self, address: Address) -> None:
        family, target = address
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self.number = self._socket.fileno()
        self._socket.setblocking(False)
        self._parser = httptools.HttpResponseParser(self)
        self._unsent = _SPENT
        self._has_length = False
        self.is_open = self.is_busy = self.is_whole = False
        self.is_reusable = True
        self.due_ns = self.ready_ns = self.now_ns = 0
        self.status = 0
        self.listener: Listener | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        code = self._socket.connect_ex(target)
        if code not in (0, errno.EINPROGRESS):
            self._socket.close()
            raise OSError(code, os.strerror(code))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def is_writing(self) -> bool:
        """Whether select should wait until it is writable."""
        return not self.is_open or bool(self._unsent)

    def send(self, request: bytes, *, due_ns: int) -> None:
        """Start a request that was due at due_ns; what does not go out now goes out in write."""
        self._unsent = memoryview(request)
        self.due_ns = due_ns
        self.is_busy, self.is_whole, self._has_length = True, False, False
        self.status, self.headers, self.listener = 0, [], None
        if self.is_open:
            self.write()

    def write(self) -> None:
        """Finish opening, then send as much as fits."""
        if not self.is_open:
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            self.is_open = True
        if not self._unsent:
            return
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._unsent = _SPENT  # the reason may lie in the receive buffer: a refusal sent before the close
            self.is_reusable = False

    def receive(self) -> bytes | None:
        """Take what came: no bytes when the server closed, None when nothing came."""
        try:
            return self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return None

    def parse(self, data: bytes, *, now_ns: int) -> bool:
        """Read on in the answer with what came at now_ns; True once it is whole."""
        self.now_ns = now_ns
        if not data:
            self.is_reusable = False
            if self.is_busy and self.status and not self._has_length:
                self.is_whole = True
                return True
            raise ConnectionResetError(errno.ECONNRESET, "closed before the answer was whole")
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise ConnectionAbortedError(errno.EPROTO, "the answer is not HTTP/1.1") from error
        return self.is_whole

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def on_message_begin(self) -> None:
        """Begin an answer (called by the parser)."""
        self.status = 0
        self._has_length = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep what is read after the run (called by the parser)."""
        lowered = name.lower()
        if lowered in _KEPT:
            self.headers.append((lowered, value))
        elif lowered == b"content-type" and value.lower().startswith(MEDIA_TYPE):
            self.listener = Listener()
        elif lowered in (b"content-length", b"transfer-encoding"):
            self._has_length = True

    def on_headers_complete(self) -> None:
        """Learn the status (called by the parser)."""
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """Hear a part of a stream (called by the parser)."""
        if self.listener is not None:
            self.listener.hear(body, now_ns=self.now_ns)

    def on_message_complete(self) -> None:
        """End an answer (called by the parser); 100 Continue and its like are not the answer."""
        if self.status < 200:
            return
        self.is_reusable = self.is_reusable and self._parser.should_keep_alive() and not self._unsent
        self.is_whole = True


class NoAnswerError(Exception):
    """The target does not answer, so there is nothing to measure."""


def resolve(host: str, port: int, *, timeout_s: float) -> Address:
    """Look a host up, once, and take its first address that can be connected to.

    Raises:
        NoAnswerError: there is none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NoAnswerError(f"the host cannot be looked up ({reason_of(error)})") from error
    reason = ""
    for family, _, _, _, target in found:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(timeout_s)
            try:
                probe.connect(target)
            except OSError as error:
                reason = reason_of(error)
                continue
        return family, target
    raise NoAnswerError(reason)
