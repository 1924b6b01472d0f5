"""The routes /v1/chat/completions and /v1/completions as OpenAI's clients expect them, whole or by server-sent events.

Beyond OpenAI's shape: finish_reason "deadline", and the header X-Millis-Whole of such an answer (in a stream: the
member `whole` of the last choice) that says whether it ends with a sentence.
Border: HTTP and JSON; what is generated comes from generating.py.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator, Mapping, MutableMapping, Sequence
from contextlib import aclosing
from functools import partial
from time import perf_counter_ns
from typing import Any, Literal

import msgspec

from millis.backends.generator import Sampling
from millis.errors import InvalidRequest, MillisError
from millis.serving.chat_requests import Wish, read_wish
from millis.serving.deadlines import read_deadline
from millis.serving.gate import Gate
from millis.serving.generating import Part, Talker
from millis.serving.observing import Observer
from millis.serving.placement import CHAT
from millis.serving.problems import list_headers, write_error
from millis.serving.replies import request_id
from millis.serving.requests import Receive, read_body
from millis.serving.served import no_such_model
from millis.serving.settings import Limits
from millis.telemetry.metrics import Metrics

PATHS: dict[str, Literal["chat", "text"]] = {"/v1/chat/completions": "chat", "/v1/completions": "text"}

_JSON = (b"content-type", b"application/json")
_EVENTS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))


class OpenAiRoute:
    """Answers one of PATHS.

    Args:
        talkers: by the name of their bundle.
    """

    def __init__(
        self, path: str, talkers: Mapping[str, Talker], *, gate: Gate, limits: Limits, observer: Observer
    ) -> None:
        self._path, self._kind, self._talkers = path, PATHS[path], talkers
        self._gate, self._limits = gate, limits
        self._observer, self._metrics = observer, observer.metrics

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Any) -> None:
        """Answer a request: ASGI."""
        asked_id = request_id(scope)
        reply = _Reply(send, request_id=asked_id)
        on, status, slug = "", 200, ""
        task = asyncio.current_task()
        assert task is not None
        is_gone = asyncio.Event()
        scope["millis.gone"].append(partial(_leave, is_gone, task))
        try:
            self._gate.check(scope)
            body = await read_body(receive, limit=self._limits.body_bytes, within_s=self._limits.body_s)
            wish = read_wish(body, kind=self._kind, characters=self._limits.characters)
            allowed_ms = read_deadline(scope["headers"])
            talker = self._choose(wish)
            on = talker.bundle.name
            self._gate.allow(scope, CHAT, f"model:{on}")
            deadline_ns = math.inf if allowed_ms is None else scope["millis.came_ns"] + 1e6 * allowed_ms
            talker.n_open += 1
            try:
                await self._answer(wish, talker, deadline_ns, reply)
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

    def _choose(self, wish: Wish) -> Talker:
        if wish.model is None:
            return next(iter(self._talkers.values()))
        found = self._talkers.get(wish.model)
        if found is None:
            raise no_such_model(self._talkers)
        return found

    async def _answer(self, wish: Wish, talker: Talker, deadline_ns: float, reply: "_Reply") -> None:
        ids = _encode(wish, talker)
        talker.admit(n_prompt=len(ids), n_answers=wish.n, left_ns=deadline_ns - perf_counter_ns())
        writer = _Writer(wish, talker, n_prompt=len(ids))
        if wish.is_stream:
            await reply.begin()
            if wish.kind == "chat":
                for i in range(wish.n):
                    await reply.event(writer.opening(i))
        counted = _Counted(talker.bundle.name, self._metrics)
        async with aclosing(_merge(_start(wish, talker, ids, deadline_ns), counted)) as parts:
            async for i, part in parts:
                writer.add(i, part)
                if wish.is_stream:
                    await reply.event(writer.chunk(i, part))
        if wish.is_stream:
            if wish.has_usage:
                await reply.event(writer.usage_chunk())
            await reply.end()
        else:
            await reply.whole(200, msgspec.json.encode(writer.whole()), [_JSON, *writer.headers()])


def _leave(is_gone: asyncio.Event, task: "asyncio.Task[Any]") -> None:
    if not is_gone.is_set():
        is_gone.set()
        task.cancel()


def _encode(wish: Wish, talker: Talker) -> list[int]:
    if isinstance(wish.prompt, str):
        return talker.chat.encode(wish.prompt)
    if wish.kind == "chat":
        return talker.chat.encode_messages(wish.prompt)  # type: ignore[arg-type]
    ids: list[int] = wish.prompt  # type: ignore[assignment]
    most = talker.chat.tokenizer.n_pieces
    if any(i >= most for i in ids):
        raise InvalidRequest(f"prompt has a token id that is not below {most:,}: send ids of this model's tokenizer.")
    return ids


def _start(wish: Wish, talker: Talker, ids: Sequence[int], deadline_ns: float) -> list[AsyncGenerator[Part, None]]:
    seed = random.getrandbits(31) if wish.seed is None else wish.seed
    room = talker.chat.context - len(ids)
    return [
        talker.answer(
            ids,
            sampling=Sampling(
                max_tokens=min(wish.max_tokens or room, room), stop_ids=talker.chat.stop_ids,
                temperature=wish.temperature, top_p=wish.top_p, seed=(seed + i) % (1 << 32),
                frequency_penalty=wish.frequency_penalty, presence_penalty=wish.presence_penalty,
                has_logprobs=wish.has_logprobs,
            ),
            stops=wish.stops, deadline_ns=deadline_ns,
        )
        for i in range(wish.n)
    ]  # fmt: skip


class _Counted:
    """Times of an answer's parts, into the metrics."""

    def __init__(self, model: str, metrics: Metrics) -> None:
        self._model, self._metrics = model, metrics
        self._began = perf_counter_ns()

    def end(self, *, first_ns: int, n_tokens: int) -> None:
        now = perf_counter_ns()
        self._metrics.generate(
            model=self._model, n_tokens=n_tokens, first_s=(first_ns - self._began) / 1e9,
            each_s=(now - first_ns) / 1e9 / (n_tokens - 1) if n_tokens > 1 else None,
        )  # fmt: skip


async def _merge(
    answers: Sequence[AsyncGenerator[Part, None]], counted: _Counted
) -> AsyncGenerator[tuple[int, Part], None]:
    """Give the parts of several answers as they come, with each one's place."""
    ready: asyncio.Queue[tuple[int, Part | Exception | None]] = asyncio.Queue()

    async def follow(i: int, answer: AsyncGenerator[Part, None]) -> None:
        first_ns, n_tokens = 0, 0
        try:
            async with aclosing(answer) as parts:
                async for part in parts:
                    first_ns = first_ns or perf_counter_ns()
                    n_tokens += len(part.pieces)
                    ready.put_nowait((i, part))
            counted.end(first_ns=first_ns, n_tokens=n_tokens)
            ready.put_nowait((i, None))
        except Exception as error:
            ready.put_nowait((i, error))

    tasks = [asyncio.create_task(follow(i, answer)) for i, answer in enumerate(answers)]
    try:
        n_open = len(tasks)
        while n_open:
            i, part = await ready.get()
            if isinstance(part, Exception):
                raise part
            if part is None:
                n_open -= 1
            else:
                yield i, part
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Writer:
    """Writes an answer in OpenAI's shapes."""

    def __init__(self, wish: Wish, talker: Talker, *, n_prompt: int) -> None:
        self._wish, self._talker, self._n_prompt = wish, talker, n_prompt
        kind = "chatcmpl" if wish.kind == "chat" else "cmpl"
        self._head = {
            "id": f"{kind}-{random.getrandbits(96):024x}", "created": int(time.time()),
            "model": talker.bundle.name, "system_fingerprint": talker.bundle.manifest.seal[:12],
        }  # fmt: skip
        self._texts = [""] * wish.n
        self._pieces: list[list[tuple[int, float]]] = [[] for _ in range(wish.n)]
        self._endings: list[Part | None] = [None] * wish.n

    def add(self, i: int, part: Part) -> None:
        """Take a part of answer i."""
        self._texts[i] += part.text
        self._pieces[i] += part.pieces
        if part.ending is not None:
            self._endings[i] = part

    def opening(self, i: int) -> dict[str, Any]:
        """Give the first chunk of a chat, which says who speaks."""
        return self._chunk([{"index": i, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])

    def chunk(self, i: int, part: Part) -> dict[str, Any]:
        """Give a part as a chunk."""
        body = {"delta": {"content": part.text}} if self._wish.kind == "chat" else {"text": part.text}
        choice: dict[str, Any] = {
            "index": i, **body, "logprobs": self._logprobs(part.pieces), "finish_reason": part.ending,
        }  # fmt: skip
        if part.ending == "deadline":
            choice["whole"] = part.is_whole
        return self._chunk([choice])

    def usage_chunk(self) -> dict[str, Any]:
        """Give the chunk that has no choices but the usage."""
        return self._chunk([]) | {"usage": self._usage()}

    def whole(self) -> dict[str, Any]:
        """Give the whole answer."""
        choices = []
        for i, (text, pieces, last) in enumerate(zip(self._texts, self._pieces, self._endings, strict=True)):
            assert last is not None
            message = {"role": "assistant", "content": text, "refusal": None}
            body: dict[str, Any] = {"message": message} if self._wish.kind == "chat" else {"text": text}
            choices.append(
                {"index": i, **body, "logprobs": self._logprobs(pieces), "finish_reason": last.ending}
            )
        kind = "chat.completion" if self._wish.kind == "chat" else "text_completion"
        return {**self._head, "object": kind, "choices": choices, "usage": self._usage()}

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Give X-Millis-Whole where a deadline ended an answer."""
        late = [last for last in self._endings if last is not None and last.ending == "deadline"]
        return [(b"x-millis-whole", b"true" if all(last.is_whole for last in late) else b"false")] if late else []

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._wish.kind == "chat" else "text_completion"
        return {**self._head, "object": kind, "choices": choices}

    def _usage(self) -> dict[str, int]:
        n_new = sum(map(len, self._pieces))
        return {"prompt_tokens": self._n_prompt, "completion_tokens": n_new, "total_tokens": self._n_prompt + n_new}

    def _logprobs(self, pieces: Sequence[tuple[int, float]]) -> dict[str, Any] | None:
        if not self._wish.has_logprobs:
            return None
        said = [(self._talker.chat.tokenizer.spell(i), logprob) for i, logprob in pieces]
        if self._wish.kind == "chat":
            return {
                "content": [
                    {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
                    for text, logprob in said
                ],
                "refusal": None,
            }
        return {
            "tokens": [text for text, _ in said], "token_logprobs": [logprob for _, logprob in said],
            "top_logprobs": None, "text_offset": [],
        }  # fmt: skip


class _Reply:
    """An answer on its way, whole or by events."""

    def __init__(self, send: Any, *, request_id: bytes) -> None:
        self._send, self._id, self._is_begun = send, (b"x-request-id", request_id), False

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
        length = (b"content-length", b"%d" % len(payload))
        await self._send(
            {"type": "http.response.start", "status": status, "headers": [*headers, self._id, length]}
        )
        await self._send({"type": "http.response.body", "body": payload})

    async def fail(self, status: int, payload: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Send an error; into a stream that has begun, as its last event."""
        if self._is_begun:
            await self._send({"type": "http.response.body", "body": b"data: " + payload + b"\n\n"})
        else:
            await self.whole(status, payload, headers)
