"""/v1/translate and /v1/summarise: texts in, texts out, by a model that is told what to do with each.

An answer is the likeliest one (no drawing), whole or by server-sent events; a list of texts is answered as a list.
Beside OpenAI's ways to end there is "deadline", and then `whole` says whether the text ends with a sentence.
Border: a translation, bytes to texts and parts of answers to JSON; the request's way is talking.py's.
"""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from millis.backends.generator import Sampling
from millis.errors import InvalidRequest
from millis.serving.generating import STREAMS, Talker
from millis.serving.growing import Part
from millis.serving.requests import TaskRequest, check_request, read_json
from millis.serving.settings import Limits
from millis.serving.talking import JSON, Counted, Reply, merge


class RewriteRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a client asks.

    Args:
        input: a text or several.
        model: name of a bundle; None is the first that serves the task.
        stream: send the answer as it grows; for one text.
        max_tokens: of each answer; None for as many as the context has room for.
    """

    input: str | list[str]
    model: str | None = None
    stream: bool = False
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


@dataclass(slots=True)
class _Grown:
    """An answer, as far as it has grown."""

    text: str = ""
    n_tokens: int = 0
    last: Part | None = None

    def add(self, part: Part) -> None:
        self.text += part.text
        self.n_tokens += len(part.pieces)
        self.last = part

    def write(self) -> dict[str, Any]:
        """Write it as a result."""
        assert self.last is not None
        return {"text": self.text.strip(), **_write_ending(self.last)}


@dataclass(slots=True)
class _Usage:
    """How many tokens were read and written."""

    prompt_tokens: int = 0
    answers: list[_Grown] = field(default_factory=list)

    def write(self) -> dict[str, int]:
        n_new = sum(one.n_tokens for one in self.answers)
        return {
            "prompt_tokens": self.prompt_tokens, "completion_tokens": n_new,
            "total_tokens": self.prompt_tokens + n_new,
        }  # fmt: skip


class Rewriting:
    """How the routes read and write."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(RewriteRequest)

    def read(self, body: bytes, *, limits: Limits) -> RewriteRequest:
        """Read a request.

        Raises:
            InvalidRequest: 400 for what is not JSON, 415 where it is compressed, 422 for another shape or no text, 413
                for too many texts or characters.
        """
        asked = read_json(
            body, decoder=self._decoder, shape='{"input": TEXT or [TEXT, ...]}',
            known=", ".join(RewriteRequest.__struct_fields__),
        )  # fmt: skip
        check_request(TaskRequest(input=asked.input), limits=limits)
        if asked.stream and not isinstance(asked.input, str):
            raise InvalidRequest(
                "stream came with a list of texts: send one text, or leave stream out.", status=422, slug="wrong-shape"
            )
        return asked

    async def answer(
        self, asked: RewriteRequest, talker: Talker, *, deadline_ns: float, reply: Reply, counted: Counted
    ) -> None:
        """See Speech."""
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        prompts = [talker.chat.encode_text(text) for text in texts]
        longest = max(prompts, key=len)
        talker.admit(
            longest, n_answers=min(len(texts), STREAMS), left_ns=deadline_ns - perf_counter_ns(), param="input"
        )
        usage = _Usage(sum(map(len, prompts)), [_Grown() for _ in texts])
        answers = [
            talker.answer(ids, sampling=_draw_nothing(asked, talker, ids), stops=(), deadline_ns=deadline_ns)
            for ids in prompts
        ]
        if asked.stream:
            await reply.begin()
        async with aclosing(merge(answers, counted)) as parts:
            async for i, part in parts:
                usage.answers[i].add(part)
                if asked.stream:
                    await reply.event({"text": part.text, **(_write_ending(part) if part.ending else {})})
        head = {"model": talker.bundle.name, "rung": talker.bundle.manifest.rung}
        if asked.stream:
            await reply.event({**head, "usage": usage.write()})
            await reply.end()
        else:
            results = [one.write() for one in usage.answers]
            await reply.whole(200, msgspec.json.encode({**head, "results": results, "usage": usage.write()}), [JSON])


def _draw_nothing(asked: RewriteRequest, talker: Talker, ids: Sequence[int]) -> Sampling:
    room = talker.chat.context - len(ids)
    return Sampling(max_tokens=min(asked.max_tokens or room, room), stop_ids=talker.chat.stop_ids, temperature=0.0)


def _write_ending(part: Part) -> dict[str, Any]:
    return {"finish_reason": part.ending, **({"whole": part.is_whole} if part.ending == "deadline" else {})}
