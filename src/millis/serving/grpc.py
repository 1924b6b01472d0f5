"""The port that speaks gRPC: calls in, answers and status codes out, on the worker's own event loop.

A call becomes an ASGI scope as a request over HTTP does, its metadata the headers; the answer's status becomes a code,
its headers trailing metadata. A call's deadline is the request's, and who gives a call up is let go.
Border: connections, and the one file that imports grpc (the extra `grpc`); what calls mean is oip_calls.py's.
The library's server ends when a stranger's call has a name that is not UTF-8 (grpcio 1.85): the calls it took go on,
what comes in that moment is lost, and another server takes its place within _LOOK_S.
Limits: reading is the library's, on a thread of its own: nothing is refused before it is parsed, and a message that
trickles in is waited for as long as its call lasts. Compressed messages are refused. A host of 0.0.0.0 is [::] too.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from time import perf_counter_ns
from typing import Any

import msgspec
from grpc import StatusCode, dynamic_ssl_server_credentials, ssl_server_certificate_configuration
from grpc import unary_unary_rpc_method_handler as handle
from grpc.aio import server as make_server

from millis.errors import RunFailed
from millis.security.certificates import Certificates
from millis.serving.clock import SocketClock
from millis.serving.deadlines import MOST_MS
from millis.serving.oip_calls import Calls
from millis.serving.problems import Problem, write_problem
from millis.serving.settings import Limits

_log = logging.getLogger("millis")

_CODES = {
    400: StatusCode.INVALID_ARGUMENT, 401: StatusCode.UNAUTHENTICATED, 403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND, 408: StatusCode.DEADLINE_EXCEEDED, 413: StatusCode.RESOURCE_EXHAUSTED,
    422: StatusCode.INVALID_ARGUMENT, 429: StatusCode.RESOURCE_EXHAUSTED, 503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}  # fmt: skip
"""By HTTP status; INTERNAL for any other."""

_HTTP_ONLY = (b"content-type", b"content-length", b"www-authenticate", b"connection")
_IDLE_MS = 300_000
"""A client keeps its connection for all its calls, and pays for a new one where that was closed."""

_LOOK_S = 0.05
_IDENTITY = 1
"""The set of compressions in which there is only none."""


class Port:
    """Where calls come in.

    Args:
        address: HOST:PORT; workers share it.
        certificates: None speaks in the clear.
        grace_s: how long a stop waits for calls that were taken.
    Attributes:
        calls: what answers them.
    Usage:
        port = Port(calls, address="127.0.0.1:8001", clock=..., limits=..., certificates=None, grace_s=10.0)
        await port.start()  # on the event loop that answers
        await port.stop()
    """

    def __init__(
        self, calls: Calls, *, address: str, clock: SocketClock, limits: Limits, certificates: Certificates | None,
        grace_s: float,
    ) -> None:  # fmt: skip
        self.calls, self._address, self._clock, self._limits = calls, address, clock, limits
        self._certificates, self._grace_s = certificates, grace_s
        self._server: Any = None
        self._ending: set[asyncio.Task[None]] = set()
        self._keeping: asyncio.Task[None] | None = None
        self._n_open, self._has_told = 0, False
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def start(self) -> None:
        """Listen.

        Raises:
            RunFailed: the port cannot be listened on.
        """
        asyncio.get_running_loop().set_exception_handler(_pass_on)
        self._server = await self._listen()
        self._keeping = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Take no more calls, finish those that were taken."""
        if self._keeping is not None:
            self._keeping.cancel()
        await asyncio.gather(self._finish(self._server), *self._ending)

    def service(self, details: Any) -> Any:
        """Note when a call came, and give what handles it: how the library asks for that."""
        if details.method not in self.calls.paths:
            return None
        came_ns, read_ns = self._clock.read(), perf_counter_ns()
        scope: dict[str, Any] = {
            "type": "http", "method": "POST", "path": details.method,
            "headers": [
                (name.encode(), value.encode()) for name, value in details.invocation_metadata if type(value) is str
            ],
            "millis.came_ns": came_ns, "millis.read_ns": read_ns, "millis.gone": [],
        }  # fmt: skip
        return handle(partial(self._answer, scope))

    async def _listen(self) -> Any:
        limits = self._limits
        options = {
            "grpc.so_reuseport": 1,
            "grpc.max_receive_message_length": limits.body_bytes,
            "grpc.max_metadata_size": limits.head_bytes,
            "grpc.absolute_max_metadata_size": limits.head_bytes,
            "grpc.max_connection_idle_ms": _IDLE_MS,
            "grpc.server_handshake_timeout_ms": int(1000 * limits.head_s),
            "grpc.max_allowed_incoming_connections": limits.connections,
            # Who is refused is to be told why and when to come again; the library cancels from 1,000 on, at random.
            "grpc.server.max_pending_requests": limits.connections,
            "grpc.server.max_pending_requests_hard_limit": limits.connections,
            "grpc.compression_enabled_algorithms_bitset": _IDENTITY,
        }
        server = make_server(options=list(options.items()), maximum_concurrent_rpcs=limits.connections)
        server.add_generic_rpc_handlers((self,))
        try:
            if self._certificates is None:
                server.add_insecure_port(self._address)
            else:
                server.add_secure_port(self._address, _make_credentials(self._certificates))
        except RuntimeError as error:
            raise RunFailed(f"cannot listen for gRPC on {self._address}: choose another --grpc-port.") from error
        await server.start()
        return server

    async def _keep(self) -> None:
        """Put another server in the place of one that ended by itself, again and again."""
        while True:
            cause = "nobody knows why"
            try:
                if await self._server.wait_for_termination(_LOOK_S):
                    continue
            except Exception as error:  # whatever it was, calls are to be answered
                cause = type(error).__name__
            if not self._has_told:
                _log.warning("the gRPC server ended by itself (%s): it is started anew, now and every time", cause)
            self._has_told = True
            ending = asyncio.create_task(self._finish(self._server))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            self._server = await self._listen()

    async def _finish(self, server: Any) -> None:
        """Let a server end when no call is open: by itself it waits for connections that strangers hold, too."""
        ending = asyncio.create_task(server.stop(self._grace_s))
        await asyncio.sleep(_LOOK_S)  # what came already is taken
        idle = asyncio.create_task(self._is_idle.wait())
        await asyncio.wait((ending, idle), return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        await server.stop(None)
        await ending

    def _open(self, context: Any) -> None:
        self._n_open += 1
        self._is_idle.clear()
        context.add_done_callback(self._close)

    def _close(self, context: Any) -> None:
        self._n_open -= 1
        if not self._n_open:
            self._is_idle.set()

    async def _answer(self, scope: dict[str, Any], message: bytes, context: Any) -> bytes:
        self._open(context)
        left_s = context.time_remaining()
        waited_ms = (perf_counter_ns() - scope["millis.came_ns"]) / 1e6
        scope["millis.left_ms"] = None if left_s is None else min(waited_ms + 1000 * left_s, MOST_MS)
        said = _Said()
        try:
            await self.calls(scope, _give(message), said.take)
        except Exception:
            _log.exception("Exception in the answer to a call")
            if not said.status:
                said.fail()
        context.set_trailing_metadata(said.metadata())
        if said.status != 200:
            context.set_code(_CODES.get(said.status, StatusCode.INTERNAL))
            context.set_details(said.problem().detail)
        return said.payload


class _Said:
    """What was answered, as ASGI says it."""

    status = 0
    payload = b""
    _headers: tuple[tuple[bytes, bytes], ...] = ()

    async def take(self, message: MutableMapping[str, Any]) -> None:
        """Take a part of an answer."""
        if message["type"] == "http.response.start":
            self.status, self._headers = message["status"], tuple(message["headers"])
        else:
            self.payload += message["body"]

    def fail(self) -> None:
        """Answer that the fault is ours."""
        self.status, self.payload = write_problem(RuntimeError())

    def problem(self) -> Problem:
        """Give what went wrong."""
        return msgspec.json.decode(self.payload, type=Problem)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Give the headers that mean something over gRPC; of a problem its name, and when to try again, -1 for never.

        Source: what a client that tries again by itself goes by, gRPC's proposal A6, "Pushback".
        """
        metadata = tuple(
            (name.decode(), value.decode()) for name, value in self._headers if name not in _HTTP_ONLY
        )  # fmt: skip
        if self.status == 200:
            return metadata
        problem = self.problem()
        metadata += (("x-millis-problem", problem.type.rpartition("/")[2]),)
        if problem.predicted_ms is not None:  # it was refused for its time
            retry_ms = -1 if problem.retry_after_ms is None else math.ceil(problem.retry_after_ms)
            metadata += (("grpc-retry-pushback-ms", str(retry_ms)),)
        return metadata


def _make_credentials(certificates: Certificates) -> Any:
    """Make what connections are opened with; they follow the certificate."""
    known = certificates.pair

    def follow() -> Any:  # on a thread of grpc's, for each connection
        nonlocal known
        before, known = known, certificates.pair
        return None if known is before else ssl_server_certificate_configuration([known])

    return dynamic_ssl_server_credentials(ssl_server_certificate_configuration([known]), follow)


def _pass_on(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody caught, but for what a stranger causes as often as he likes: a call whose name is not UTF-8."""
    if not isinstance(context.get("exception"), UnicodeDecodeError):
        loop.default_exception_handler(context)


def _give(message: bytes) -> Callable[[], Awaitable[MutableMapping[str, Any]]]:
    """Give a message as a request's body."""

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": message}

    return receive
