"""HTTP/1.1 itself: what is no HTTP gets a problem too.

Border: uvicorn's protocol, with its one plain-text answer replaced; what parses is the app's matter.
Limits: uvicorn reads heads of any length and waits for them without end; put a proxy in front of a server that
strangers reach.
"""

import asyncio
from collections.abc import Callable, MutableMapping
from time import perf_counter_ns
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from millis.errors import InvalidRequest
from millis.serving.clock import SocketClock
from millis.serving.problems import MEDIA_TYPE, write_problem
from millis.serving.shedding import Shedder


class Protocol(HttpToolsProtocol):
    """Answer what cannot be parsed, and close: nobody knows where the next request would begin.

    A request's scope says in `millis.came_ns` when it may have come, in `millis.read_ns` when it was read, and in
    `millis.gone` whom to tell when its client goes away.
    """

    clock: SocketClock
    shedder: Shedder
    _is_between = True
    _came_ns: int
    _read_ns: int
    _gone: list[Callable[[], None]]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note that somebody came."""
        self.clock.n_events += 1
        super().connection_made(transport)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Note the time; refuse at once who would be late whatever it says, else parse."""
        self._came_ns, self._read_ns = self.clock.read(), perf_counter_ns()
        if self._is_between and (self.cycle is None or self.cycle.response_complete):
            refusal = self.shedder.look(data, came_ns=self._came_ns)
            if refusal is not None:
                self._unset_keepalive_if_required()
                self.transport.write(refusal)
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Put the time into the scope."""
        super().on_message_begin()
        self._is_between = False
        if self.cycle is None or self.cycle.response_complete:  # else this one was sent before the answer to another
            self._gone = []
        scope: MutableMapping[str, Any] = self.scope  # type: ignore[assignment]
        scope["millis.came_ns"], scope["millis.read_ns"] = self._came_ns, self._read_ns
        scope["millis.gone"] = self._gone

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

    def send_400_response(self, msg: str) -> None:
        """Write a problem in place of msg."""
        status, payload = write_problem(
            InvalidRequest(
                "this is no request in HTTP/1.1 (method, target, headers or lengths do not add up): send one, over"
                " plain http.",
                slug="not-http",
            )
        )
        head = (
            f"HTTP/1.1 {status} Bad Request\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(payload)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + payload)
        self.transport.close()
