"""HTTP/1.1 itself: what is no HTTP gets a problem too, and what is too large, too slow or too much is let go.

Border: uvicorn's protocol, with its one plain-text answer replaced, and limits on what a connection may cost; what
parses is the app's matter.
Limits: trailers of a body in chunks are dropped unread.
"""

import asyncio
from collections.abc import Callable, Iterable, MutableMapping
from functools import partial
from http import HTTPStatus
from time import perf_counter_ns
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from millis.errors import InvalidRequest
from millis.serving.clock import SocketClock
from millis.serving.problems import MEDIA_TYPE, write_problem
from millis.serving.requests import DRAIN_BYTES
from millis.serving.settings import Limits
from millis.serving.shedding import Shedder

_WATCH_S = 0.5
_WATCH_AT_ONCE = 200
_UNREAD_S = 30.0
"""How long an answer may lie there unread."""

_FRAME_BYTES = 16
"""Of framing allowed for each byte of a body in chunks; one byte a chunk takes five."""

_H2C = b"h2c"
_HEAD_ENDS = b"\r\n\r\n"


class Protocol(HttpToolsProtocol):
    """Answer what cannot be parsed, and close: nobody knows where the next request would begin.

    A request's scope says in `millis.came_ns` when it may have come, in `millis.read_ns` when it was read, and in
    `millis.gone` whom to tell when its client goes away.
    """

    clock: SocketClock
    shedder: Shedder
    limits: Limits
    _is_between = True
    _is_in_head = False
    _n_head = _n_read = _n_body = 0
    _began_ns: int
    _unread_ns: int | None = None
    _refusal: InvalidRequest | None = None
    _came_ns: int
    _read_ns: int
    _gone: list[Callable[[], None]]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note that somebody came."""
        self.clock.n_events += 1
        self._began_ns = perf_counter_ns()
        super().connection_made(transport)  # type: ignore[arg-type]
        if len(self.connections) > self.limits.connections:
            self._say_and_close(
                InvalidRequest(
                    f"{self.limits.connections} connections are open already: ask again in a second, over a"
                    " connection that is kept.",
                    status=503, slug="too-many-connections", headers=((b"retry-after", b"1"),),
                )
            )  # fmt: skip

    def data_received(self, data: bytes) -> None:
        """Note the time; refuse at once who would be late whatever it says, else parse."""
        self._came_ns, self._read_ns = self.clock.read(), perf_counter_ns()
        if self._is_between and _H2C in data:
            data = _without_offer(data)
        if self._is_between and (self.cycle is None or self.cycle.response_complete):
            refusal = self.shedder.look(data, came_ns=self._came_ns)
            if refusal is not None:
                self._unset_keepalive_if_required()
                self.transport.write(refusal)
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )
                return
        was_in_head = self._is_in_head
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_in_head and was_in_head:  # else the head began somewhere in this piece
            self._n_head += len(data)
            if self._n_head > self.limits.head_bytes:
                self._say_and_close(self._too_large())
        elif not self._is_between and not self._is_in_head:
            self._n_read += len(data)
            most = min(
                _FRAME_BYTES * (self._n_body + self.limits.head_bytes), 2 * max(DRAIN_BYTES, self.limits.body_bytes)
            )
            if self._n_read > most + (1 << 18):  # a piece may hold what came before
                self.transport.abort()  # endless framing, or trailers, or more than anybody reads

    def on_message_begin(self) -> None:
        """Put the time into the scope."""
        super().on_message_begin()
        self._is_between, self._is_in_head = False, True
        self._n_head = self._n_read = self._n_body = 0
        self._began_ns = self._read_ns
        if self.cycle is None or self.cycle.response_complete:  # else this one was sent before the answer to another
            self._gone = []
        scope: MutableMapping[str, Any] = self.scope  # type: ignore[assignment]
        scope["millis.came_ns"], scope["millis.read_ns"] = self._came_ns, self._read_ns
        scope["millis.gone"] = self._gone

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer comes after the gate has looked, and is dropped."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, unless its head is too large."""
        n_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if n_bytes > self.limits.head_bytes:
            self._refuse(self._too_large())
        names = [name for name, _ in self.headers]
        n_hosts = names.count(b"host")
        if n_hosts != 1 and (n_hosts or self.parser.get_http_version() == "1.1"):
            self._refuse(InvalidRequest(f"{n_hosts} Host headers came: send one.", slug="bad-host"))
        if b"upgrade" in names and self.parser.should_upgrade() and not self._should_upgrade():
            self._refuse(
                InvalidRequest(
                    "this connection cannot change to another protocol: leave the header Upgrade out.",
                    slug="no-upgrade",
                )
            )
        self._is_in_head = False
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Run a request; what it says to a client that left, before the loop has told so, goes nowhere."""
        super()._start_asgi_task(cycle, partial(_run, app, cycle))

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._n_body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that what comes next is another request."""
        super().on_message_complete()
        self._is_between = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits for this client's answer that nobody does any more."""
        self.clock.n_events += 1
        super().connection_lost(exc)
        for tell in getattr(self, "_gone", ()):
            tell()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over, and let go of the parser: it and this hold each other, and gc comes by rarely."""
        super().handle_websocket_upgrade()
        self.parser = None  # type: ignore[assignment]

    def send_400_response(self, msg: str) -> None:
        """Write a problem in place of msg."""
        refusal, self._refusal = self._refusal, None
        self._say_and_close(
            refusal
            or InvalidRequest(
                "this is no request in HTTP/1.1 (method, target, headers or lengths do not add up): send one, over"
                " plain http.",
                slug="not-http",
            )
        )

    def expire(self, now_ns: int) -> None:
        """Let go who takes too long: to say what he wants, to send it, or to read the answer."""
        if self.transport.get_write_buffer_size():
            self._unread_ns = self._unread_ns or now_ns
            if now_ns - self._unread_ns > 1e9 * _UNREAD_S:
                self.transport.abort()
            return
        self._unread_ns = None
        if self.transport.is_closing():
            return
        took_s = (now_ns - self._began_ns) / 1e9
        if self._is_in_head and took_s > self.limits.head_s:
            self._say_and_close(
                InvalidRequest(
                    f"the head of the request did not arrive within {self.limits.head_s:g} s: send it at once.",
                    status=408, slug="head-too-slow",
                )
            )  # fmt: skip
        elif self.cycle is None and self._is_between and took_s > self.limits.head_s:
            self.transport.abort()  # it was told nothing: over TLS, to close would be to wait for its goodbye
        elif not self._is_between and took_s > self.limits.head_s + self.limits.body_s:
            self.transport.abort()  # a body that nobody waits for any more

    def _say_and_close(self, error: InvalidRequest) -> None:
        """Answer what is no request, and close; behind requests that wait for their answers it is not said."""
        is_awaited = self.cycle is not None and not self.cycle.response_complete
        if self.pipeline or (is_awaited and (self._is_in_head or self._is_between)):
            self.cycle.keep_alive = False  # it closes after its answer; what would be said now would be taken for that
            self.flow.pause_reading()
            return
        status, payload = write_problem(error)
        headers = b"".join(b"%b: %b\r\n" % header for header in error.headers)
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
            f"content-length: {len(payload)}\r\nconnection: close\r\n"
        )
        self.transport.write(head.encode() + headers + b"\r\n" + payload)
        self.transport.close()

    def _refuse(self, error: InvalidRequest) -> None:
        self._refusal = error
        raise ValueError(error.slug)  # the parser stops, and send_400_response is called

    def _too_large(self) -> InvalidRequest:
        return InvalidRequest(
            f"the head of the request is larger than the {self.limits.head_bytes:,} bytes allowed: send fewer or"
            " shorter headers.",
            status=431, slug="head-too-large",
        )  # fmt: skip


def _without_offer(data: bytes) -> bytes:
    """Pass over an offer to go on in HTTP/2, as one may (RFC 9110, 7.8): the parser would drop the body behind it."""
    head, ends, rest = data.partition(_HEAD_ENDS)
    lines = head.split(b"\r\n")
    kept = [line for line in lines if line.lower().replace(b" ", b"") != b"upgrade:h2c"]
    return data if not ends or len(kept) == len(lines) else b"\r\n".join(kept) + ends + rest


async def _run(app: Any, cycle: Any, scope: Any, receive: Any, send: Any) -> None:
    async def send_if_open(message: Any) -> None:
        if cycle.transport.is_closing():
            cycle.disconnected = True
        await send(message)

    try:
        await app(scope, receive, send_if_open)
    except Exception as error:
        if not cycle.response_complete:
            raise
        cycle.logger.error("Exception in ASGI application", exc_info=error)  # the caller would close the connection


async def watch(connections: Iterable[object]) -> None:
    """Look again and again at who takes too long, a few connections at a time."""
    while True:
        await asyncio.sleep(_WATCH_S)
        for place, connection in enumerate(tuple(connections), 1):
            if isinstance(connection, Protocol):
                connection.expire(perf_counter_ns())
            if place % _WATCH_AT_ONCE == 0:
                await asyncio.sleep(0)
