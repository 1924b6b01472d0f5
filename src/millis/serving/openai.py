"""/v1/chat/completions and /v1/completions as OpenAI's clients expect them, whole or by server-sent events.

Beyond OpenAI's shape: finish_reason "deadline", and the header X-Millis-Whole of such an answer (in a stream: the
member `whole` of the last choice) that says whether it ends with a sentence.
Border: a translation, bytes to wishes and parts of answers to JSON; the request's way is talking.py's.
"""

import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from time import perf_counter_ns
from typing import Any, Literal

import msgspec

from millis.backends.generator import Sampling
from millis.errors import InvalidRequest
from millis.serving.chat_requests import Wish, read_wish
from millis.serving.generating import Talker
from millis.serving.growing import Part, Piece
from millis.serving.settings import Limits
from millis.serving.talking import JSON, Counted, Reply, merge

PATHS: dict[str, Literal["chat", "text"]] = {"/v1/chat/completions": "chat", "/v1/completions": "text"}


class OpenAi:
    """How the routes of PATHS read and write.

    Args:
        kind: "chat" for messages, "text" for a prompt as it stands.
    """

    def __init__(self, kind: Literal["chat", "text"]) -> None:
        self._kind: Literal["chat", "text"] = kind

    def read(self, body: bytes, *, limits: Limits) -> Wish:
        """See read_wish."""
        return read_wish(body, kind=self._kind, characters=limits.characters)

    async def answer(
        self, asked: Wish, talker: Talker, *, deadline_ns: float, reply: Reply, counted: Counted
    ) -> None:
        """See Speech."""
        ids = _encode(asked, talker)
        if asked.grammar is not None:
            await talker.forms.accept(asked.grammar, until_ns=deadline_ns)
        talker.admit(
            ids, n_answers=asked.n, left_ns=deadline_ns - perf_counter_ns(),
            param="messages" if asked.kind == "chat" else "prompt",
        )  # fmt: skip
        writer = _Writer(asked, talker, n_prompt=len(ids))
        if asked.is_stream:
            await reply.begin()
            if asked.kind == "chat":
                for i in range(asked.n):
                    await reply.event(writer.opening(i))
        async with aclosing(merge(_start(asked, talker, ids, deadline_ns), counted)) as parts:
            async for i, part in parts:
                writer.add(i, part)
                if asked.is_stream:
                    await reply.event(writer.chunk(i, part))
        if asked.is_stream:
            if asked.has_usage:
                await reply.event(writer.usage_chunk())
            await reply.end()
        else:
            await reply.whole(200, msgspec.json.encode(writer.whole()), [JSON, *writer.headers()])


def _encode(wish: Wish, talker: Talker) -> list[int]:
    if isinstance(wish.prompt, str):
        return talker.chat.encode(wish.prompt)
    if wish.kind == "chat":
        return talker.chat.encode_messages(wish.prompt)  # type: ignore[arg-type]
    ids: list[int] = wish.prompt  # type: ignore[assignment]
    most = talker.chat.tokenizer.n_pieces
    if any(i >= most for i in ids):
        raise InvalidRequest(
            f"prompt has a token id that is not below {most:,}: send ids of this model's tokenizer.", param="prompt"
        )
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
                has_logprobs=wish.has_logprobs, grammar=wish.grammar,
            ),
            stops=wish.stops, deadline_ns=deadline_ns,
        )
        for i in range(wish.n)
    ]  # fmt: skip


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
        self._pieces: list[list[Piece]] = [[] for _ in range(wish.n)]
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
        return self._chunk([], usage=self._usage())

    def whole(self) -> dict[str, Any]:
        """Give the whole answer."""
        choices = []
        for i, (text, pieces, last) in enumerate(zip(self._texts, self._pieces, self._endings, strict=True)):
            assert last is not None
            message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
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

    def _chunk(self, choices: list[dict[str, Any]], *, usage: dict[str, int] | None = None) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._wish.kind == "chat" else "text_completion"
        return {**self._head, "object": kind, "choices": choices, **({"usage": usage} if self._wish.has_usage else {})}

    def _usage(self) -> dict[str, int]:
        n_new = sum(map(len, self._pieces))
        return {"prompt_tokens": self._n_prompt, "completion_tokens": n_new, "total_tokens": self._n_prompt + n_new}

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        if not self._wish.has_logprobs:
            return None
        spelled = [self._spell(one.id) for one in pieces]
        texts = [text for text, _ in spelled]
        if self._wish.kind == "text":
            return {
                "tokens": texts, "token_logprobs": [one.logprob for one in pieces], "top_logprobs": None,
                "text_offset": [one.at for one in pieces],
            }  # fmt: skip
        return {
            "content": [
                {"token": text, "logprob": one.logprob, "bytes": own, "top_logprobs": []}
                for one, (text, own) in zip(pieces, spelled, strict=True)
            ],
            "refusal": None,
        }

    def _spell(self, i: int) -> tuple[str, list[int] | None]:
        """Give a piece's text and bytes; half a character is a mark in the text, a special piece has no bytes."""
        own = b"" if self._talker.spelled is None else self._talker.spelled[i]
        if own:
            return own.decode(errors="replace"), list(own)
        return self._talker.chat.tokenizer.spell(i), None
