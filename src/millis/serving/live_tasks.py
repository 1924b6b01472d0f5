"""What encoders do at /v1/live, entities or labels while a text is typed: the routes of HTTP, asked by messages.

Border: how a message is read, and how a route is asked without HTTP; connections are live.py's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from time import perf_counter_ns
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from millis.serving.answering import TaskRoute
from millis.serving.deadlines import MOST_MS, NAMES
from millis.serving.languages import Plain
from millis.serving.replies import Scope
from millis.serving.requests import TaskRequest, make_reader
from millis.serving.settings import Limits
from millis.tasks import tasks

Deadline = Annotated[float, Meta(gt=0, le=MOST_MS)] | None

_END = {"done": True, "finish_reason": "stop"}
_FIELDS = (("task", str), ("id", str | int | None, None), ("deadline_ms", Deadline, None))


class Typed(Plain):
    """How /v1/live reads what is asked of a task; an answer is written as HTTP has it."""

    def __init__(self, task: str) -> None:
        super().__init__(task)
        self._read = make_reader(task, tasks[task], more=_FIELDS)

    def read(
        self, body: bytes, *, headers: Iterable[tuple[bytes, bytes]], limits: Limits
    ) -> tuple[TaskRequest, float | None, None]:
        """See Language."""
        request: Any = self._read(body, limits=limits)
        return request, request.deadline_ms, None


async def find(
    route: TaskRoute, body: bytes | None, *, scope: Scope, say: Callable[[dict[str, Any]], Awaitable[None]],
    note: Callable[..., None],
) -> None:  # fmt: skip
    """Have a route answer a message as it would a request; it accounts for what it answered.

    Args:
        body: of the message; None where there is nothing in it to find anything in.
        scope: of the connection, with "millis.read_ns" of the message.
        say: sends a message of these members.
        note: takes the slug of what ended without an answer.
    """
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif status == HTTPStatus.OK:
            ms = round((perf_counter_ns() - scope["millis.read_ns"]) / 1e6, 3)
            await say({**_END, "answer": msgspec.Raw(message["body"]), "total_ms": ms})
        else:
            await say({"error": msgspec.Raw(message["body"])})

    headers = [(name, value) for name, value in scope["headers"] if name not in NAMES]  # a message says its own
    asked = {"headers": headers, "millis.came_ns": scope["millis.read_ns"], "millis.gone": []}
    try:
        await (say(_END) if body is None else route({**scope, **asked}, receive, send))
    except asyncio.CancelledError:
        note(slug="replaced")
        raise
    except OSError:
        note(slug="disconnected")
