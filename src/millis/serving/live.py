"""/v1/live: texts that are still being typed, over one WebSocket; a new one takes the place of the one before.

A message is {"input", "task", ...}; answers are {"id", "delta"} and at last {"id", "done": true, ...}. Work for a text
that was replaced stops before the engine's next step. Every message passes the gate as a request does.
Border: messages in and out; what is generated is live_texts.py's, what is found in a text comes from the routes that
HTTP has (live_tasks.py), frames are live_protocol.py's.
Limits: one answer grows at a time on a connection.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from http import HTTPStatus
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import msgspec

from millis.errors import InvalidRequest, MillisError
from millis.security.rates import Bucket
from millis.serving.gate import UNKNOWN, Gate
from millis.serving.generating import Talker
from millis.serving.live_tasks import find
from millis.serving.live_texts import LiveMessage, answer
from millis.serving.observing import Observer
from millis.serving.problems import MEDIA_TYPE, list_headers, write_problem
from millis.serving.replies import Scope, Send, request_id
from millis.serving.requests import Receive, TaskRequest, check_request, read_json
from millis.serving.served import no_such_model
from millis.serving.settings import Limits

if TYPE_CHECKING:
    from millis.serving.answering import TaskRoute

PATH = "/v1/live"
PROTOCOL, KEY_PROTOCOL = "millis", "key."
"""Subprotocols: ours, and the one that carries the key of a browser, which cannot send headers."""

_BINARY, _SILENT = 1003, 4408


class _Peek(msgspec.Struct):
    """What is read of a message before anything else; nothing of one that cannot be read so far."""

    id: str | int | None = None
    task: Any = None
    input: Any = None


_DECODER = msgspec.json.Decoder(LiveMessage)


class Live:
    """Answers connections.

    Attributes:
        talkers, routes: what is served, the latter by task; a message is answered by those there when it comes.
    """

    def __init__(self, *, gate: Gate, limits: Limits, observer: Observer) -> None:
        self.gate, self.limits, self.observer = gate, limits, observer
        self.talkers: Sequence[Talker] = ()
        self.routes: Mapping[str, TaskRoute] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a connection until its client goes: ASGI."""
        scope["method"], scope["millis.read_ns"] = "GET", perf_counter_ns()
        scope["headers"] = [*scope["headers"], *_find_key(scope["subprotocols"])]
        await receive()  # that somebody wants to connect
        try:
            self._let_in(scope)
        except MillisError as error:
            self.gate.note(scope, status=error.status, route=PATH if scope["path"] == PATH else UNKNOWN)
            self.observer.failed(scope, route=PATH, status=error.status, slug=error.slug)
            await _refuse(send, error)
            return
        self.gate.note(scope, status=HTTPStatus.SWITCHING_PROTOCOLS)
        chosen = PROTOCOL if PROTOCOL in scope["subprotocols"] else None
        connection = _Connection(self, scope, send)
        try:
            await send({"type": "websocket.accept", "subprotocol": chosen})
            await connection.follow(receive)
        except OSError:  # uvicorn's word for a client that went while something was sent
            pass
        finally:
            await connection.stop()

    def choose(self, message: LiveMessage) -> Talker:
        """Give the model that a message is for.

        Raises:
            InvalidRequest: 404 without one.
        """
        able = {one.bundle.name: one for one in self.talkers if one.bundle.manifest.task == message.task}
        if message.model is None and able:
            return next(iter(able.values()))
        if message.model not in able:
            if able:
                raise no_such_model(able)
            raise InvalidRequest(
                f"no model of the task {message.task} is served here: GET /v1/models lists those there are.",
                status=404, slug="unknown-model",
            )  # fmt: skip
        return able[message.model]

    def _let_in(self, scope: Scope) -> None:
        if scope["path"] != PATH:
            raise InvalidRequest(
                f"there is nothing to connect to at {scope['path'][:100]!r}: {PATH} is what takes a WebSocket.",
                status=404, slug="unknown-route",
            )  # fmt: skip
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2] != headers.get(b"host"):
            raise InvalidRequest(
                "a page of another site asked: let its own server connect.", status=403, slug="other-site"
            )
        self.gate.check(scope)


class _Connection:
    """One client, and the answer that grows for it."""

    def __init__(self, live: Live, scope: Scope, send: Send) -> None:
        self._live, self._scope, self._send = live, scope, send
        self._bucket = Bucket(live.limits.messages_per_s)
        self._answer: asyncio.Task[None] | None = None
        self._id: str | int | None = None

    async def follow(self, receive: Receive) -> None:
        """Take messages until the client goes, or is silent for too long."""
        while True:
            try:
                async with asyncio.timeout(self._live.limits.silent_s):
                    said = await receive()
            except TimeoutError:
                if self._answer is not None and not self._answer.done():
                    continue
                reason = f"nothing came for {self._live.limits.silent_s:g} s"
                await self._send({"type": "websocket.close", "code": _SILENT, "reason": reason})
                return
            if said["type"] == "websocket.disconnect":
                return
            if said.get("text") is None:
                await self._send({"type": "websocket.close", "code": _BINARY, "reason": "send JSON as text"})
                return
            await self._take(said["text"].encode())

    async def stop(self) -> bool:
        """Stop the answer that grows, and say whether one did; the engine stops before its next step."""
        if self._answer is None or self._answer.done():
            return False
        self._answer.cancel()
        await asyncio.wait([self._answer])
        return True

    async def _take(self, body: bytes) -> None:
        scope = {**self._scope, "millis.read_ns": perf_counter_ns()}
        peek = _peek(body)
        route = self._live.routes.get(peek.task) if isinstance(peek.task, str) else None
        try:
            self._wait_for_turn()
            say = partial(self._say, peek.id)
            if route is None:
                message, talker = self._read(body, scope=scope)
                growing = answer(
                    message, talker, came_ns=scope["millis.read_ns"], say=say, metrics=self._live.observer.metrics,
                    note=partial(self._note, scope, on=talker.bundle.name),
                )  # fmt: skip
            else:
                text = body if peek.input != "" else None
                growing = find(route, text, scope=scope, say=say, note=partial(self._note, scope, 499))
        except MillisError as error:
            self._note(scope, error.status, slug=error.slug)
            await self._say_wrong(peek.id, error)
            return
        if await self.stop():
            await self._say(self._id, {"done": True, "finish_reason": "replaced"})
        self._id = peek.id
        self._answer = asyncio.create_task(growing)
        await asyncio.sleep(0)  # it begins: one that is stopped before would tell nobody how it ended

    def _wait_for_turn(self) -> None:
        wait_s = self._bucket.take()
        if wait_s:
            raise InvalidRequest(
                f"a connection may send {self._live.limits.messages_per_s:g} messages a second: send the next in"
                f" {1000 * wait_s:.0f} ms.", status=429, slug="too-often",
            )  # fmt: skip

    def _read(self, body: bytes, *, scope: Scope) -> tuple[LiveMessage, Talker]:
        self._live.gate.check(scope)
        message = read_json(
            body, decoder=_DECODER, shape='{"input": TEXT, "task": "translate", "summarise", "chat" or another}',
            known=", ".join(LiveMessage.__struct_fields__),
        )  # fmt: skip
        if message.input:
            check_request(TaskRequest(input=message.input), limits=self._live.limits)
        talker = self._live.choose(message)
        self._live.gate.allow(scope, message.task, f"model:{talker.bundle.name}")
        return message, talker

    async def _say(self, id: str | int | None, document: dict[str, Any]) -> None:
        text = msgspec.json.encode({"id": id, **document}).decode()
        await self._send({"type": "websocket.send", "text": text})

    async def _say_wrong(self, id: str | int | None, error: Exception) -> None:
        await self._say(id, {"error": msgspec.Raw(write_problem(error)[1])})

    def _note(self, scope: Scope, status: int, *, slug: str, on: str = "") -> None:
        if slug:
            self._live.observer.failed(scope, route=PATH, status=status, slug=slug)
        else:
            self._live.observer.said(scope, route=PATH, model=on, request_id=request_id(scope))
        self._live.gate.note(scope, status=status, on=on)


def _find_key(protocols: Sequence[str]) -> list[tuple[bytes, bytes]]:
    """Give a key that came as a subprotocol as the header that it stands for."""
    return [
        (b"x-api-key", one.removeprefix(KEY_PROTOCOL).encode()) for one in protocols if one.startswith(KEY_PROTOCOL)
    ]


def _peek(body: bytes) -> _Peek:
    try:
        return msgspec.json.decode(body, type=_Peek)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Peek()


async def _refuse(send: Send, error: MillisError) -> None:
    status, payload = write_problem(error)
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(payload)), *list_headers(error)]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": payload})
