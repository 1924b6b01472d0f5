"""What a bundle that speaks answers, how good that is, and how fast: dialogues in, a score and milliseconds out.

Border: answers come through the engine, as a server gives them, without HTTP.
Limits: answers are scored on the first MOST_SCORED dialogues.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from millis.backends.generator import Sampling
from millis.bundles import Bundle, LatencyRow
from millis.data.dialogues import Dialogue
from millis.measuring.quality import bound_drop
from millis.serving.generating import Talker, load_talker
from millis.serving.turns import Forecast
from millis.tasks.chat import Prompt
from millis.tasks.task import Score
from millis.tasks.wording import score_rewritten
from millis.telemetry.progress import bar, say

if TYPE_CHECKING:
    from millis.training.lessons import Lesson

MOST_SCORED, MOST_NEW, MOST_TIMED = 200, 128, 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """How good a rung's answers were; dev is None where it was not asked for."""

    dev: Score | None
    test: Score

    def quality(self, whole: "Heard") -> dict[str, Any]:
        """Give the score on test, and what is lost of another one's, as a rung keeps it.

        The interval is of the mean over texts, laid around what is lost of the score itself.
        """
        drop, low, high = bound_drop(whole.test, self.test)
        shift = drop - (_mean(whole.test) - _mean(self.test))
        return {
            "name": self.test.name, "value": self.test.value, "reference": whole.test.value, "drop": drop,
            "low": low + shift, "high": high + shift, "n": len(self.test.per_example),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long answers took, one request at a time, each as long as the right one.

    Args:
        first_ms, each_ms, request_ms: float64 (N,): to the first piece, mean of the later ones, and the whole answer.
            each_ms leaves out answers of one piece.
        prompt_tokens: median of the prompts.
    """

    first_ms: NDArray[np.float64]
    each_ms: NDArray[np.float64]
    request_ms: NDArray[np.float64]
    prompt_tokens: int

    def latency(self) -> tuple[LatencyRow, ...]:
        """Give the times as a rung keeps them: a later piece is an inference of one token, the first of a prompt."""
        rows = [(1, self.each_ms), (self.prompt_tokens, self.first_ms)]
        return tuple(_row(tokens, ms) for tokens, ms in rows if len(ms))


def hear(bundle: Bundle, *, rung: str, test: Sequence[Any], dev: Sequence[Any] | None = None) -> Heard:
    """Let a rung answer test, and dev where it is given."""
    parts = {"dev": dev or (), "test": test}
    talker = load_talker(bundle, rung=rung)

    async def ask() -> dict[str, list[str]]:
        return {
            name: await _answer(talker, part[:MOST_SCORED], name=f"{rung} to {name}")
            for name, part in parts.items() if part
        }  # fmt: skip

    try:
        answers = asyncio.run(ask())
    finally:
        talker.close()
    scores = {
        name: score_rewritten(bundle.manifest.task, said, [one.answers for one in parts[name][: len(said)]])
        for name, said in answers.items()
    }
    return Heard(dev=scores.get("dev"), test=scores["test"])


def time_together(rungs: Sequence[tuple[Bundle, str]], *, timed: Sequence["Lesson"]) -> list[Times]:
    """Time rungs by turns on the first lessons, MOST_TIMED at most, so that a busy machine is busy for all of them.

    Args:
        rungs: a bundle and the name of a rung in it; all are in memory at once.
    """
    lessons = timed[:MOST_TIMED]
    talkers: list[Talker] = []
    try:
        for bundle, rung in rungs:
            talkers.append(load_talker(bundle, rung=rung))
        return asyncio.run(_time(talkers, lessons))
    finally:
        for talker in talkers:
            talker.close()


class _Stopwatch(Forecast):
    """Takes note of an answer's times by its pieces, some of which spell no text; each_ms is 0 for a single one."""

    first_ms = each_ms = 0.0

    def observe(self, *, n_prompt: int, first_ns: float | None, step_ns: float | None) -> None:
        """See Forecast."""
        self.first_ms, self.each_ms = (first_ns or 0.0) / 1e6, (step_ns or 0.0) / 1e6


async def _time(talkers: Sequence[Talker], lessons: Sequence["Lesson"]) -> list[Times]:
    taken: list[list[tuple[float, float, float]]] = [[] for _ in talkers]
    for one in lessons:
        ids, sampling = one.ids[: one.n_prompt].tolist(), Sampling(max_tokens=len(one.ids) - one.n_prompt)
        for talker, mine in zip(talkers, taken, strict=True):
            talker.forecast = seen = _Stopwatch()
            began = time.perf_counter()
            async for _ in talker.answer(ids, sampling=sampling, stops=()):
                pass
            request_ms = 1000 * (time.perf_counter() - began)
            mine.append((seen.first_ms, seen.each_ms, request_ms))
    n_prompt = int(np.median([one.n_prompt for one in lessons]))
    found = []
    for mine in taken:
        first_ms, each_ms, request_ms = np.array(mine).T
        found.append(
            Times(first_ms=first_ms, each_ms=each_ms[each_ms > 0], request_ms=request_ms, prompt_tokens=n_prompt)
        )
    return found


def _row(tokens: int, ms: NDArray[np.float64]) -> LatencyRow:
    p50, p99 = (round(float(np.percentile(ms, share)), 3) for share in (50, 99))
    return LatencyRow(tokens=tokens, p50_ms=p50, p99_ms=p99, n=len(ms))


def _mean(score: Score) -> float:
    return float(100 * np.mean([right / whole for right, whole, _ in score.per_example]))


def score_spoken(bundle: Bundle, test: Sequence[Dialogue], *, rung: str | None = None) -> Score:
    """Score a bundle's likeliest answers to the first MOST_SCORED dialogues."""
    answers = answer_all(bundle, test, name=bundle.name, rung=rung)
    return score_rewritten(bundle.manifest.task, answers, [one.answers for one in test[: len(answers)]])


def ask(one: Dialogue) -> Prompt:
    """Give what a dialogue asks, as a client would: a text, or messages."""
    if isinstance(one.text, str):
        return one.text
    return [{"role": turn.role, "content": turn.content} for turn in one.text]


def answer_all(bundle: Bundle, test: Sequence[Any], *, name: str, rung: str | None = None) -> list[str]:
    """Let a bundle answer the first dialogues of test, as its server would; what does not fit gets none."""
    talker = load_talker(bundle, rung=rung)
    try:
        return asyncio.run(_answer(talker, test[:MOST_SCORED], name=name))
    finally:
        talker.close()


async def _answer(talker: Talker, test: Sequence[Dialogue], *, name: str) -> list[str]:
    done = 0
    with bar(f"answers of {name}", total=len(test)) as advance:

        async def answer(one: Dialogue) -> str:
            nonlocal done
            ids = talker.chat.encode_prompt(ask(one))
            room = talker.chat.context - len(ids)
            text = ""
            if room > 0:
                sampling = Sampling(max_tokens=min(MOST_NEW, room), stop_ids=talker.chat.stop_ids)
                async with aclosing(talker.answer(ids, sampling=sampling, stops=())) as parts:
                    async for part in parts:
                        text += part.text
            done += 1
            advance(done, "")
            return text.strip()

        began = time.perf_counter()
        answers = await asyncio.gather(*(answer(one) for one in test))
        say(f"{name}: {len(test)} answers in {time.perf_counter() - began:.1f} s")
        return answers
