"""How a route's answer leaves: bytes and headers to the socket, and what waits until they are gone.

Border: values in, messages out; knows no models.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from time import perf_counter_ns
from typing import Any
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Scope = MutableMapping[str, Any]
Answer = Callable[[Request], Awaitable[Response]]


def json_route(make: Callable[[], Any]) -> Answer:
    """Answer with what make gives, as JSON."""

    async def answer(request: Request) -> Response:
        return write_json(make())

    return answer


def write_json(document: Any) -> Response:
    """Answer with a document as JSON."""
    return Response(msgspec.json.encode(document), media_type="application/json")


def request_id(scope: Scope) -> bytes:
    """Take the client's own id where it is short and printable, else make one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and 0 < len(value) <= 128 and value.isascii() and value.decode().isprintable():
            return bytes(value)
    return uuid4().hex.encode()


def time_header(scope: Scope) -> tuple[bytes, bytes]:
    """Give the header that says how long a request has been here, for answers that have no stages."""
    return b"server-timing", b"total;dur=%.3f" % ((perf_counter_ns() - scope["millis.read_ns"]) / 1e6)


def after_sending(do: Callable[..., None], *values: Any, **named: Any) -> None:
    """Do something in the loop's next turn: uvloop writes to sockets only when a turn ends."""
    asyncio.get_running_loop().call_soon(partial(do, *values, **named))


async def send_whole(send: Send, status: int, payload: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Send an answer that is whole."""
    headers.append((b"content-length", str(len(payload)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": payload})
