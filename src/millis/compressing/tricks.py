"""Which settings of a language model's engine pay on somebody's own prompts: each tried against the best before it.

Two engines, without and with the trick, answer the same prompts in turn, each prompt once: a prompt that an engine has
seen costs it nothing. A trick is kept when the first piece, a later one or the whole answer comes sooner by more than
noise, none of them later, and every likeliest answer is the same, or may change. Where the whole answer comes sooner,
the first piece or later ones may cost a tenth.
Border: a compiled model and prompts in ids in, settings and numbers out.
Limits: one answer at a time, so what a trick does to several at once is not seen; likeliest answers only.
"""

import contextlib
import dataclasses
import math
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns

import numpy as np

from millis.backends import generators
from millis.backends.generator import Generator, GeneratorSettings, Lookup, Sampling, Step
from millis.bundles.manifest import Spread, TrickTrial
from millis.cores import cpu_flags, n_cores
from millis.errors import InvalidValue, RunFailed
from millis.telemetry.progress import bar, say

LEAST_PROMPTS, MOST_PROMPTS = 6, 16
"""Of fewer no median has a 95 % interval."""

_MOST_NEW, _WARM_TOKENS, _WITHIN_S = 48, 16, 600
_WORTH = 0.02
"""Of the time, which a trick has to change to have won or lost."""

_PART_COST = 0.10
"""That a part of an answer may take longer, where the whole takes less."""

_TRICKS: Mapping[str, Callable[[GeneratorSettings], GeneratorSettings]] = {
    "1 thread": lambda asked: dataclasses.replace(asked, threads=1),
    "2 threads": lambda asked: dataclasses.replace(asked, threads=2),
    "float32": lambda asked: dataclasses.replace(asked, keeps_float32=any("bf16" in one for one in cpu_flags())),
    "no prefixes kept": lambda asked: dataclasses.replace(asked, keeps_prefixes=False),
    "lookup of 5": lambda asked: dataclasses.replace(asked, lookup=Lookup(guesses=5, ngram=3)),
    "lookup of 2": lambda asked: dataclasses.replace(asked, lookup=Lookup(guesses=2, ngram=3)),
}

_NEARER = ("float32",)
"""What brings answers nearer to the model's own may change them: the engine's default rounds more."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer and its times; token_ms is None for an answer of one piece."""

    ids: tuple[int, ...]
    first_ms: float
    token_ms: float | None

    def until(self, n: int) -> float:
        """Give the time to the n-th piece, in ms."""
        return self.first_ms + (self.token_ms or 0.0) * max(n - 1, 0)


def try_tricks(
    folder: Path, *, backend: str, prompts: Sequence[Sequence[int]], settings: GeneratorSettings,
    stop_ids: tuple[int, ...], may_change: bool = False,
) -> tuple[GeneratorSettings, tuple[TrickTrial, ...]]:  # fmt: skip
    """Try each trick of the engine on prompts.

    Args:
        folder: of the rung.
        prompts: in ids; up to MOST_PROMPTS are asked, evenly out of all that leave room for an answer.
        settings: as asked, to begin with.
        may_change: keep what is faster even where it changes answers.
    Returns:
        the settings to serve with, and the numbers of each trial.
    Raises:
        InvalidValue: fewer than LEAST_PROMPTS that leave room.
        RunFailed: the engine fails on a prompt without any trick.
    Cost: 2 answers of up to 48 pieces for each prompt and trick; two engines in memory.
    """
    fitting = check_prompts(prompts, context=settings.context)
    places = np.linspace(0, len(fitting) - 1, min(len(fitting), MOST_PROMPTS)).round().astype(int)
    chosen = [fitting[place] for place in places]
    trials: list[TrickTrial] = []
    for name, change in _TRICKS.items():
        changed = change(settings)
        if changed == settings or changed.threads > max(n_cores(), settings.threads):
            continue
        try:
            with _load(backend, folder, settings) as before, _load(backend, folder, changed) as after:
                pairs = _answer_in_turn(before, after, prompts=chosen, stop_ids=stop_ids, name=name)
        except InvalidValue as error:  # the engine has no such thing
            say(f"{name}: left out, {error}")
            continue
        may = may_change or name in _NEARER
        trial = judge_trick(name, pairs, against=describe(settings), may_change=may)
        say(f"{name}: {'kept' if trial.is_kept else 'not kept'}, {trial.reason}")
        trials.append(trial)
        if trial.is_kept:
            settings = changed
    return settings, tuple(trials)


def describe(settings: GeneratorSettings) -> str:
    """Say how an engine is built."""
    lookup = "no lookup" if settings.lookup is None else f"lookup of {settings.lookup.guesses}"
    prefixes = "prefixes kept" if settings.keeps_prefixes else "no prefixes kept"
    numbers = ", float32" if settings.keeps_float32 else ""
    return f"{settings.threads} thread(s), {prefixes}, {lookup}{numbers}"


def check_prompts(prompts: Sequence[Sequence[int]], *, context: int) -> list[Sequence[int]]:
    """Give the prompts that leave room for an answer.

    Raises:
        InvalidValue: fewer than LEAST_PROMPTS.
    """
    fitting = [one for one in prompts if len(one) + _MOST_NEW <= context]
    if len(fitting) < LEAST_PROMPTS:
        raise InvalidValue(
            f"{len(fitting)} of {len(prompts)} prompts leave room for {_MOST_NEW} tokens of {context:,}: give"
            f" {LEAST_PROMPTS} or more, or a larger context."
        )
    return fitting


@contextlib.contextmanager
def _load(backend: str, folder: Path, settings: GeneratorSettings) -> Iterator[Generator]:
    """Load an engine and warm it; what it is warmed with begins like no prompt."""
    generator: Generator = generators[backend]()
    generator.load(folder, settings=settings)
    try:
        for piece in range(2):
            _answer(generator, [piece] * min(_WARM_TOKENS, settings.context - _MOST_NEW), stop_ids=())
        yield generator
    finally:
        generator.close()


def _answer_in_turn(
    before: Generator, after: Generator, *, prompts: Sequence[Sequence[int]], stop_ids: tuple[int, ...], name: str
) -> list[tuple[Answer, Answer | None]]:
    """Let two engines answer prompts, the one first that was second before; None where the trick made it fail."""
    pairs = []
    with bar(name, total=len(prompts)) as advance:
        for i, prompt in enumerate(prompts):
            order = (before, after) if i % 2 == 0 else (after, before)
            answers = {one: _answer(one, prompt, stop_ids=stop_ids) for one in order}
            first = answers[before]
            if first is None:
                raise RunFailed("the engine failed on a prompt without any trick: leave the prompts out, or others in.")
            pairs.append((first, answers[after]))
            advance(i + 1, "")
    return pairs


def _answer(generator: Generator, ids: Sequence[int], *, stop_ids: tuple[int, ...]) -> Answer | None:
    steps: queue.Queue[tuple[int, Step]] = queue.Queue()
    began = perf_counter_ns()
    generator.start(
        ids, sampling=Sampling(max_tokens=_MOST_NEW, stop_ids=stop_ids),
        emit=lambda step: steps.put((perf_counter_ns(), step)),
    )  # fmt: skip
    seen = [steps.get(timeout=_WITHIN_S)]
    while seen[-1][1].ending is None:
        seen.append(steps.get(timeout=_WITHIN_S))
    if seen[-1][1].ending == "failed":
        return None
    first, last, n = seen[0][0], seen[-1][0], len(seen)
    return Answer(
        ids=tuple(step.id for _, step in seen if step.id is not None), first_ms=(first - began) / 1e6,
        token_ms=(last - first) / 1e6 / (n - 1) if n > 1 else None,
    )  # fmt: skip


def judge_trick(
    name: str, pairs: Sequence[tuple[Answer, Answer | None]], *, against: str, may_change: bool = False
) -> TrickTrial:
    """Decide whether a trick is kept, by the answers without and with it."""
    whole = [(one, other) for one, other in pairs if other is not None]
    firsts = [(one.first_ms, other.first_ms) for one, other in whole]
    tokens = [(one.token_ms, other.token_ms) for one, other in whole if one.token_ms and other.token_ms]
    n_equal = sum(one.ids == other.ids for one, other in whole)
    first, token = _compare(firsts), _compare(tokens)
    reached = [(one, other, min(len(one.ids), len(other.ids))) for one, other in whole]
    both = _compare([(one.until(n), other.until(n)) for one, other, n in reached])
    is_kept, reason = _decide(
        first and first[2], token and token[2], both and both[2], n_equal=n_equal, n_failed=len(pairs) - len(whole),
        n=len(pairs), may_change=may_change,
    )
    return TrickTrial(
        trick=name, against=against, n_prompts=len(pairs), n_equal=n_equal,
        first_ms_before=first and first[0], first_ms=first and first[1], first_ratio=first and first[2],
        token_ms_before=token and token[0], token_ms=token and token[1], token_ratio=token and token[2],
        whole_ratio=both and both[2], is_kept=is_kept, reason=reason,
    )  # fmt: skip


def _compare(pairs: Sequence[tuple[float, float]]) -> tuple[Spread, Spread, Spread] | None:
    """Sum up times without and with a trick, and their ratio; None for too few."""
    if len(pairs) < LEAST_PROMPTS:
        return None
    before, after = zip(*pairs, strict=True)
    return _quartiles(before), _quartiles(after), bound_median([with_it / without for without, with_it in pairs])


def _quartiles(values: Sequence[float]) -> Spread:
    low, median, high = (round(float(one), 3) for one in np.percentile(values, [25, 50, 75]))
    return Spread(median=median, low=low, high=high)


def bound_median(values: Sequence[float]) -> Spread:
    """Give a median and its 95 % interval, from order statistics: no shape is assumed.

    Args:
        values: at least LEAST_PROMPTS.
    Source: Conover 1999, Practical Nonparametric Statistics, 3.2: the interval from the r-th least to the r-th largest
        misses with twice the chance that a fair coin falls heads fewer than r times.
    """
    n, ordered = len(values), sorted(values)
    chances = np.cumsum([math.comb(n, k) for k in range(n + 1)]) / 2**n
    rank = int(np.searchsorted(chances, 0.025, side="right"))  # heads fewer than rank times: at most 2.5 %
    assert rank >= 1
    low, high = ordered[rank - 1], ordered[n - rank]
    return Spread(median=round(float(np.median(ordered)), 3), low=round(low, 3), high=round(high, 3))


def _decide(
    first: Spread | None, token: Spread | None, whole: Spread | None, *, n_equal: int, n_failed: int, n: int,
    may_change: bool,
) -> tuple[bool, str]:  # fmt: skip
    if n_failed:
        return False, f"the engine failed on {n_failed} of {n} prompts"
    named = {"first piece": first, "later pieces": token, "whole answers": whole}
    known = {name: ratio for name, ratio in named.items() if ratio is not None}
    won = [name for name, ratio in known.items() if ratio.high < 1 - _WORTH]
    may_cost = {name: _PART_COST if "whole answers" in won and name != "whole answers" else _WORTH for name in known}
    lost = [name for name, ratio in known.items() if ratio.low > 1 + may_cost[name]]
    said = "; ".join(
        f"{name} {ratio.median:.2f} times as long ({ratio.low:.2f} to {ratio.high:.2f})"
        for name, ratio in known.items()
    )
    n_changed = n - n_equal
    if n_changed and not may_change:
        return False, f"it changes {n_changed} of {n} answers: {said}"
    verdict = f"slower in {_join(lost)}" if lost else f"faster in {_join(won)}" if won else "no faster than noise"
    allowed = f"; {n_changed} of {n} answers change, as they may" if n_changed else ""
    return bool(won) and not lost, f"{verdict}: {said}{allowed}"


def _join(names: Sequence[str]) -> str:
    return " and ".join(f"the {name}" for name in names)
