"""A small server to offer load to: `python target.py DESCRIPTOR` serves on a listening socket that it inherits.

Requests are counted per path and query, so that each test that counts brings a query of its own.
"""

import asyncio
import json
import socket
import sys
import time
from collections import Counter

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

_counts: Counter[str] = Counter()


def count(request: Request) -> int:
    _counts[str(request.url)] += 1
    return _counts[str(request.url)]


async def echo(request: Request) -> Response:
    stages = 'parse;dur=0.25, run;desc="a, b;dur=9";dur=1.5, total'
    headers = {"Server-Timing": stages, "X-Millis-Rung": "a" if count(request) % 2 else "b"}
    return Response(await request.body(), media_type="application/json", headers=headers)


async def mixed(request: Request) -> Response:
    """Answer 503, 429, 500 and 404 once each in ten, else 200."""
    status = {1: 503, 2: 429, 3: 500, 4: 404}.get(count(request) % 10, 200)
    return JSONResponse({}, status_code=status)


async def stall(request: Request) -> Response:
    """Block the whole server for 200 ms at the 100th request."""
    if count(request) == 100:
        time.sleep(0.2)
    return JSONResponse({})


async def hang(request: Request) -> Response:
    """Never answer one request in ten."""
    if count(request) % 10 == 0:
        await asyncio.Event().wait()
    return JSONResponse({})


async def stream(request: Request) -> Response:
    async def parts():
        yield b"[1,"
        yield b"2]"

    return StreamingResponse(parts(), media_type="application/json")


async def talk(request: Request) -> Response:
    """Stream as other servers do: comments, lines that end with CRLF, null members; the usage is the request's number."""
    number = count(request)

    async def events():
        yield b": ping\r\n\r\n"
        for delta in ({"role": "assistant", "content": None}, {"reasoning_content": "hm"}, {"content": "a"}):
            yield write({"choices": [{"index": 0, "delta": delta, "finish_reason": None}], "usage": None, "error": None})
        yield write({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        yield write({"choices": [], "usage": {"completion_tokens": number, "prompt_tokens": 3}})
        yield b"data: [DONE]\r\n\r\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def break_off(request: Request) -> Response:
    """Stream a piece and an error."""

    async def events():
        yield write({"choices": [{"index": 0, "delta": {"content": "a"}}]}) + write({"error": {"message": "x"}})

    return StreamingResponse(events(), media_type="text/event-stream")


def write(document: dict) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\r\n\r\n"


async def shut(request: Request) -> Response:
    return JSONResponse({}, headers={"Connection": "close"})


async def missing(request: Request) -> Response:
    return JSONResponse({}, status_code=404)


async def full(request: Request) -> Response:
    """Refuse everybody."""
    return JSONResponse({}, status_code=503)


async def header(request: Request) -> Response:
    """Answer 200 only to whom it may concern."""
    is_known = request.headers.get("authorization") == "Bearer x" and request.headers["content-type"] == "text/x"
    return JSONResponse({}, status_code=200 if is_known else 401)


app = Starlette(routes=[Route(f"/{one.__name__}", one, methods=["POST"])
                        for one in (echo, mixed, stall, hang, stream, talk, break_off, shut, missing, full, header)])  # fmt: skip

if __name__ == "__main__":
    listening = socket.socket(fileno=int(sys.argv[1]))
    config = uvicorn.Config(app, log_level="critical", timeout_keep_alive=1, timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listening])
