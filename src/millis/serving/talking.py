"""A request to a model that speaks, from the socket to its end: gate, deadline, a client that leaves, errors.

Answers go out whole or by server-sent events, several at once where one request asks for several.
Border: HTTP; what bodies mean is a speech's (openai.py, rewriting.py), what is generated comes from generating.py.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping, MutableMapping, Sequence
from contextlib import aclosing
from functools import partial
from time import perf_counter_ns
from typing import Any, Protocol

import msgspec

from millis.errors import MillisError
from millis.serving.deadlines import read_deadline
from millis.serving.gate import Gate
from millis.serving.generating import STREAMS, Talker
from millis.serving.growing import Part
from millis.serving.observing import Observer
from millis.serving.problems import list_headers, write_error
from millis.serving.replies import request_id, time_header
from millis.serving.requests import Receive, read_body
from millis.serving.served import no_such_model
from millis.serving.settings import Limits
from millis.serving.turns import DEADLINE_PASSED
from millis.telemetry.metrics import Metrics

JSON = (b"content-type", b"application/json")
_EVENTS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))


class Speech(Protocol):
    """How a route's requests are read and its answers written; what is read has a `model`, a name or None."""

    def read(self, body: bytes, *, limits: Limits) -> Any:
        """Read a request.

        Raises:
            InvalidRequest: what cannot be, by name.
        """

    async def answer(
        self, asked: Any, talker: Talker, *, deadline_ns: float, reply: "Reply", counted: "Counted"
    ) -> None:
        """Generate, and send; deadline_ns on the clock of perf_counter_ns, infinite where there is none."""


class TalkingRoute:
    """Answers a path.

    Args:
        talkers: by the name of their bundle.
    """

    def __init__(
        self, path: str, talkers: Mapping[str, Talker], *, speech: Speech, gate: Gate, limits: Limits,
        observer: Observer,
    ) -> None:  # fmt: skip
        self._path, self._talkers, self._speech = path, talkers, speech
        self._gate, self._limits = gate, limits
        self._observer, self._metrics = observer, observer.metrics

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Any) -> None:
        """Answer a request: ASGI."""
        asked_id = request_id(scope)
        reply = Reply(send, scope, request_id=asked_id)
        on, status, slug = "", 200, ""
        task = asyncio.current_task()
        assert task is not None
        is_gone = asyncio.Event()
        scope["millis.gone"].append(partial(_leave, is_gone, task))
        try:
            self._gate.check(scope)
            body = await read_body(receive, limit=self._limits.body_bytes, within_s=self._limits.body_s)
            asked = self._speech.read(body, limits=self._limits)
            allowed_ms = read_deadline(scope["headers"])
            talker = self._choose(asked.model)
            on = talker.bundle.name
            self._gate.allow(scope, talker.bundle.manifest.task, f"model:{on}")
            deadline_ns = math.inf if allowed_ms is None else scope["millis.came_ns"] + 1e6 * allowed_ms
            talker.n_open += 1
            try:
                counted = Counted(on, self._metrics, came_ns=scope["millis.came_ns"])
                await self._speech.answer(asked, talker, deadline_ns=deadline_ns, reply=reply, counted=counted)
            finally:
                talker.n_open -= 1
        except asyncio.CancelledError:
            if not is_gone.is_set():
                raise
            status, slug = 499, "disconnected"
        except Exception as error:
            status, payload, media_type = write_error(error, path=self._path)
            slug = error.slug if isinstance(error, MillisError) else "internal"
            await reply.fail(status, payload, [(b"content-type", media_type.encode()), *list_headers(error)])
            if not isinstance(error, MillisError):
                raise  # a bug of ours: the server writes it into its log
        finally:
            is_gone.set()
            if slug:
                self._observer.failed(scope, route=self._path, status=status, slug=slug, request_id=asked_id)
            else:
                self._observer.said(scope, route=self._path, model=on, request_id=asked_id)
            self._gate.note(scope, status=status, on=on)

    def _choose(self, model: str | None) -> Talker:
        if model is None:
            return next(iter(self._talkers.values()))
        found = self._talkers.get(model)
        if found is None:
            raise no_such_model(self._talkers)
        return found


def _leave(is_gone: asyncio.Event, task: "asyncio.Task[Any]") -> None:
    if not is_gone.is_set():
        is_gone.set()
        task.cancel()


class Counted:
    """Times of an answer's parts, from the request's coming, into the metrics."""

    def __init__(self, model: str, metrics: Metrics, *, came_ns: int) -> None:
        self._model, self._metrics, self._came_ns = model, metrics, came_ns

    def end(self, last: Part, *, n_tokens: int) -> None:
        """Count an answer that is over, by its last part."""
        now, first_ns = perf_counter_ns(), last.first_ns
        assert first_ns is not None
        self._metrics.generate(
            model=self._model, n_tokens=n_tokens, first_s=(first_ns - self._came_ns) / 1e9,
            each_s=(now - first_ns) / 1e9 / (n_tokens - 1) if n_tokens > 1 else None,
        )  # fmt: skip


async def merge(
    answers: Sequence[AsyncGenerator[Part, None]], counted: Counted
) -> AsyncGenerator[tuple[int, Part], None]:
    """Give the parts of several answers as they come, with each one's place; STREAMS of them grow at once.

    An answer whose deadline came before its first piece ends with nothing where others have something.
    """
    ready: asyncio.Queue[tuple[int, Part | Exception | None]] = asyncio.Queue()
    room = asyncio.Semaphore(STREAMS)

    async def follow(i: int, answer: AsyncGenerator[Part, None]) -> None:
        n_tokens = 0
        try:
            async with room, aclosing(answer) as parts:
                async for part in parts:
                    n_tokens += len(part.pieces)
                    ready.put_nowait((i, part))
            counted.end(part, n_tokens=n_tokens)
            ready.put_nowait((i, None))
        except Exception as error:
            ready.put_nowait((i, error))

    tasks = [asyncio.create_task(follow(i, answer)) for i, answer in enumerate(answers)]
    late: dict[int, Exception] = {}
    try:
        n_open, has_spoken = len(tasks), False
        while n_open:
            i, part = await ready.get()
            if isinstance(part, Part):
                has_spoken = True
                yield i, part
                continue
            n_open -= 1
            if isinstance(part, MillisError) and part.slug == DEADLINE_PASSED:
                late[i] = part
            elif part is not None:
                raise part
        if late and not has_spoken:
            raise next(iter(late.values()))
        for i in late:
            yield i, Part(text="", pieces=(), ending="deadline", is_whole=False)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Reply:
    """An answer on its way, whole or by events."""

    def __init__(self, send: Any, scope: MutableMapping[str, Any], *, request_id: bytes) -> None:
        self._send, self._scope, self._id, self._is_begun = send, scope, (b"x-request-id", request_id), False

    async def begin(self) -> None:
        """Begin a stream of events."""
        self._is_begun = True
        await self._send({"type": "http.response.start", "status": 200, "headers": [*_EVENTS, self._id]})

    async def event(self, document: Mapping[str, Any]) -> None:
        """Send an event."""
        body = b"data: " + msgspec.json.encode(document) + b"\n\n"
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self) -> None:
        """End a stream of events."""
        await self._send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def whole(self, status: int, payload: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send everything at once."""
        more = (self._id, time_header(self._scope), (b"content-length", b"%d" % len(payload)))
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *more]})
        await self._send({"type": "http.response.body", "body": payload})

    async def fail(self, status: int, payload: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send an error; into a stream that has begun, as its last event."""
        if self._is_begun:
            await self._send({"type": "http.response.body", "body": b"data: " + payload + b"\n\n"})
        else:
            await self.whole(status, payload, headers)
