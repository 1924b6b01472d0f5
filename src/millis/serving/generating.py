"""Answers that grow: steps of a generator's thread to text on the event loop, until something stops them.

What stops an answer: the model, a stop string, max_tokens, a deadline, a client that went away. Under a deadline text
goes out in whole sentences, so that it can end after one.
Border: knows no HTTP and no JSON. What a text is made of is growing.py's.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from time import perf_counter_ns
from typing import Any

from millis.backends import KEEPS_BLOCKS, KEPT_APART, SHARES_STEPS, generators
from millis.backends.apart import Apart
from millis.backends.generator import BLOCK_TOKENS, Generator, GeneratorSettings, Sampling, Step
from millis.bundles import Bundle
from millis.errors import InvalidRequest, MillisError, RunFailed
from millis.serving.executor import Executor
from millis.serving.forms import Forms
from millis.serving.growing import Growth, Part
from millis.serving.kept import Kept
from millis.serving.turns import Forecast, Turn, Turns, passed
from millis.tasks.chat import Chat

STREAMS, _MOST_WAITING = 4, 64
_WARM_PROMPT, _WARM_TOKENS, _MARGIN_NS, _DOUBT_NS = 64, 16, 5_000_000, 1_000_000_000


class Talker:
    """A chat bundle behind a generator.

    Args:
        number: of the version, as answers say in X-Millis-Version.
    Attributes:
        n_open: requests that began on it and have not ended.
        n_answers: answers that are generated now, or wait.
        kept_ns: when it last gave a piece.
        forms: the grammars that its answers can be held to.
        fixed: ids that prompts begin with, of which the generator keeps whole blocks read.
        spelled: the bytes of each id, b"" for special ones; None where the tokenizer spells otherwise.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, bundle: Bundle, generator: Generator, *, streams: int = STREAMS, number: int = 1) -> None:
        self.bundle = bundle
        self.chat = Chat(bundle.path, settings=bundle.manifest.task_settings)
        self.fixed = self.chat.list_fixed()
        self.spelled = self.chat.tokenizer.spell_all()
        rung = bundle.rung()
        n_always = len(self.fixed) // BLOCK_TOKENS * BLOCK_TOKENS if rung.keeps_prefixes else 0
        self._always = self.fixed[:n_always]
        keeps_blocks = rung.keeps_prefixes and rung.backend in KEEPS_BLOCKS
        self._kept = Kept(streams * (self.chat.context // BLOCK_TOKENS) if keeps_blocks else 0)
        self.forecast = Forecast()
        self.number, self.header = number, b"%d" % number
        self.n_open = self.n_answers = 0
        self.kept_ns = 0
        self._generator = generator
        self.forms = Forms(generator.accept)
        self._turns = Turns(streams, is_shared=rung.backend in SHARES_STEPS)

    @property
    def n_waiting(self) -> int:
        """Answers that wait for a turn."""
        return self._turns.n_waiting

    def count_unread(self, ids: Sequence[int]) -> int:
        """Count a prompt's tokens behind what the generator keeps read: its fixed beginning, a chat's earlier turns."""
        n_always = len(self._always)
        has_always = n_always < len(ids) and tuple(ids[:n_always]) == self._always
        return len(ids) - max(n_always if has_always else 0, self._kept.count(ids))

    def admit(self, ids: Sequence[int], *, n_answers: int, left_ns: float, param: str | None = None) -> None:
        """Refuse what cannot be.

        Args:
            ids: of the prompt; of the longest, where one request has several.
            param: the member of the request that the prompt came in.
            left_ns: time until the deadline, infinite where there is none.
        Raises:
            InvalidRequest: 400 when the prompt fills the context; 503 when too many wait, or the wait for a turn and
                prefill alone are longer than the deadline allows.
        """
        if len(ids) >= self.chat.context:
            raise InvalidRequest(
                f"the prompt has {len(ids):,} tokens, and prompt and answer together may have {self.chat.context:,}:"
                " send a shorter one.",
                slug="context-length-exceeded", param=param,
            )  # fmt: skip
        if self.n_answers + n_answers > STREAMS + _MOST_WAITING:
            raise InvalidRequest(
                f"{self.n_answers} answers are being written or wait: ask again in a second.",
                status=503, slug="too-busy", headers=((b"retry-after", b"1"),),
            )  # fmt: skip
        n_unread = self.count_unread(ids)
        reads_ns = self.forecast.first_ns(n_unread) + self.forecast.step_ns + _MARGIN_NS
        wait_ns = self._turns.wait_ns(n_unread, forecast=self.forecast)
        if wait_ns + reads_ns > left_ns and not self._doubts(left_ns):
            is_hopeless = reads_ns > left_ns
            retry_s = max(math.ceil((wait_ns + reads_ns - left_ns) / 1e9), 1)
            waits = f"a turn behind others is predicted to come in {wait_ns / 1e6:.0f} ms; " if wait_ns else ""
            advice = "waiting does not help: allow more, or send a shorter one" if is_hopeless else (
                f"allow more, or ask again in {retry_s} s"
            )
            raise InvalidRequest(
                f"{waits}reading {n_unread:,} of the prompt's {len(ids):,} tokens is predicted to take"
                f" {reads_ns / 1e6:.0f} ms, and {max(left_ns, 0) / 1e6:.0f} ms are left; {advice}.",
                status=503, slug="deadline-too-short" if is_hopeless else "would-be-late",
                headers=() if is_hopeless else ((b"retry-after", b"%d" % retry_s),),
            )  # fmt: skip

    def _doubts(self, left_ns: float) -> bool:
        """Say, once in a while, that a forecast is to be tried: whoever is refused teaches it nothing."""
        now = perf_counter_ns()
        if self.n_answers or left_ns <= _MARGIN_NS or now - self.forecast.seen_ns < _DOUBT_NS:
            return False
        self.forecast.seen_ns = now
        return True

    async def answer(
        self, ids: Sequence[int], *, sampling: Sampling, stops: Sequence[str], deadline_ns: float = math.inf
    ) -> AsyncGenerator[Part, None]:
        """Generate an answer; closing the iterator stops the engine before its next step.

        Args:
            deadline_ns: on the clock of perf_counter_ns.
        Raises:
            RunFailed: the engine failed.
            InvalidRequest: 504 when the deadline came before the first piece.
        """
        loop = asyncio.get_running_loop()
        steps: asyncio.Queue[Step] = asyncio.Queue()
        growth = Growth(
            self.chat, stops=stops, is_timed=not math.isinf(deadline_ns), has_form=sampling.grammar is not None
        )
        self.n_answers += 1
        try:
            until_ns = deadline_ns - self.forecast.step_ns - _MARGIN_NS
            n_unread = self.count_unread(ids)
            turn = await self._turns.take(n_pieces=sampling.max_tokens, n_unread=n_unread, until_ns=until_ns)
            try:
                began = perf_counter_ns()

                said: list[int] = []

                def emit(step: Step) -> None:
                    turn.n_left -= 1
                    if step.id is not None:
                        said.append(step.id)
                    loop.call_soon_threadsafe(steps.put_nowait, step)

                stream = self._generator.start(ids, sampling=sampling, emit=emit)
                try:
                    listening = self._listen(steps, growth, turn=turn, began=began, deadline_ns=deadline_ns)
                    async with aclosing(listening) as parts:
                        async for part in parts:
                            yield part
                except RunFailed:
                    said.clear()
                    self._kept.clear()  # an engine that failed is made anew
                    raise
                finally:
                    stream.cancel()
                    if said:
                        self._kept.add([*ids, *said[:-1]])  # the last was said and not read
            finally:
                self._turns.give_back(turn)
        finally:
            self.n_answers -= 1

    async def _listen(
        self, steps: "asyncio.Queue[Step]", growth: Growth, *, turn: Turn, began: int, deadline_ns: float
    ) -> AsyncGenerator[Part, None]:
        last_ns, n = 0, 0

        def learn() -> None:
            assert growth.first_ns is not None
            per_step = (last_ns - growth.first_ns) / (n - 1) if n > 1 else None
            took_ns = growth.first_ns - began if turn.is_first else None
            self.forecast.observe(n_prompt=turn.n_unread, first_ns=took_ns, step_ns=per_step)

        while True:
            step = await _next(steps, until_ns=deadline_ns - self.forecast.step_ns - _MARGIN_NS)
            if step is None:
                if n == 0:
                    raise passed()
                learn()
                yield growth.end_late()
                return
            if step.ending == "failed":
                raise RunFailed("the engine failed on this request: ask again, or look at the server's log.")
            self.kept_ns = last_ns = perf_counter_ns()
            if n == 0:
                self._turns.hear(turn)
                growth.first_ns = last_ns
            n += 1
            part = growth.add(step)
            if part is None:
                continue
            if part.ending is not None:
                learn()
                yield part
                return
            yield part

    def describe_engine(self) -> dict[str, Any]:
        """Say which engine it is, and how it is built."""
        rung = self.bundle.rung()
        return {
            "name": rung.backend, "device": rung.device, "threads": rung.threads,
            "keeps_prefixes": rung.keeps_prefixes, "lookup": rung.lookup,
            "keeps_float32": rung.keeps_float32,
        }  # fmt: skip

    def join(self, executor: Executor) -> None:
        """Nothing: a generator has threads of its own."""

    async def warm(self, executor: Executor) -> None:
        """Nothing: it was warm when it was loaded."""

    async def leave(self, executor: Executor) -> None:
        """Nothing: see join."""

    def close(self) -> None:
        """Stop the engine."""
        self._generator.close()


async def _next(steps: "asyncio.Queue[Step]", *, until_ns: float) -> Step | None:
    """Wait for a step; None when the time is over."""
    if math.isinf(until_ns):
        return await steps.get()
    left_s = (until_ns - perf_counter_ns()) / 1e9
    if left_s <= 0:
        return None
    try:
        return await asyncio.wait_for(steps.get(), left_s)
    except TimeoutError:
        return None


def load_talker(bundle: Bundle, *, rung: str | None = None, streams: int = STREAMS, number: int = 1) -> Talker:
    """Load a rung of a chat bundle, the one that serves when None is named, and warm it.

    Raises:
        MillisError: it cannot be loaded, or cannot answer; nothing of it is left then.
    """
    chosen = bundle.rung(rung)
    name = chosen.backend
    generator: Generator = Apart(name) if name in KEPT_APART else generators[name]()
    talker = Talker(bundle, generator, streams=streams, number=number)
    generator.load(
        bundle.path / chosen.folder,
        settings=GeneratorSettings(
            device=chosen.device, threads=chosen.threads, context=talker.chat.context, streams=streams,
            pieces=talker.spelled, end_id=talker.chat.stop_ids[0], prefix=talker.fixed,
            keeps_prefixes=chosen.keeps_prefixes, lookup=chosen.lookup, keeps_float32=chosen.keeps_float32,
        ),
    )
    try:
        asyncio.run(_warm(talker))
    except MillisError:
        talker.close()
        raise
    return talker


async def _warm(talker: Talker) -> None:
    """Answer twice, so that the forecast begins with what a warm engine takes; each prompt is a new one."""
    for round_ in range(2):
        talker.forecast = Forecast()
        ids = [round_] * min(_WARM_PROMPT, talker.chat.context - 1)
        n_new = min(_WARM_TOKENS, talker.chat.context - len(ids))
        async for _ in talker.answer(ids, sampling=Sampling(max_tokens=n_new), stops=()):
            pass
