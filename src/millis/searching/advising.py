"""Which base to fit: each is timed on this machine, on the lengths of the data, before anything is trained.

A base is built with an untrained head in the runtimes that a fit would build (time does not ask what weights mean),
timed at the buckets that a fit would choose, and judged by the fit's own prediction. What pruning could take away is
measured too: the network whose layers have kept nothing. Bases may be fine-tuned briefly, for a score on dev.
Border: predicts and ranks; a fit measures over HTTP and proves. Times and scores are kept in the user's cache, one file
each, by the base's files, the machine and the lengths, so that a killed call goes on.
Limits: bases are timed one after another, and a machine whose speed drifts by half favours one of them by as much; what
pruning costs in quality is not predicted; a pruned network is taken to run at the whole one's buckets.
"""

import hashlib
import math
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from millis.bundles import LatencyRow
from millis.bundles.bundle import TOKENIZER, hash_file
from millis.bundles.cache import cache_root
from millis.contract import Contract
from millis.cores import n_cores
from millis.data.checks import check
from millis.data.examples import Example
from millis.data.splits import Splits
from millis.errors import InvalidBase, InvalidValue, RunFailed
from millis.measuring.fingerprint import fingerprint
from millis.models.bases import count_parameters, find_base, weights_files
from millis.models.work import read_work
from millis.searching.candidates import AT_EASE, SHARES, Variant, predict_percentile_ms, propose, shapes_for
from millis.searching.case import FitSettings, read_splits
from millis.searching.layout import LaidOut, lay_out
from millis.telemetry.progress import Advance, bar, say

_VERSION = 1
_LEFT_OUT = "onnxruntime-fp32"  # never the fastest where the same runtime has eight bits, and the slowest to time
_STEPS = 5  # three runtimes, two threads, no layers
_MOST_TRIED, _MOST_JUDGED = 3_000, 1_000
_STRANGE = 0.05
"""Share of unknown pieces from which on a base cannot read the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A base, timed on this machine.

    Args:
        name: as the user gave it.
        problem: why it cannot be used; the other fields then say nothing.
        n_parameters: in its files.
        n_weights: in the matrices of its layers.
        pieces: of a text, in the mean; unknown is the share of them that stand for what has no piece.
        rung, layout: the fastest by prediction: a variant, and how the server is laid out.
        median_ms, long_ms: one inference of that rung, back to back, at the median and the p99 length.
        p50_ms, p99_ms, predicted_ms: what a client would see at the rate; the last at the contract's percentile.
        rest_ms: the mean of what no pruning takes away.
        share: percent of the layers' time with which it fits the contract, 100 for the whole; None where it does not
            fit, or where there is no contract.
        pruned_ms: predicted at that share, or at the least where none fits.
        dev: points after the brief fine-tuning, where it was tried.
        reason: why it stands where it stands.
    """

    name: str
    problem: str | None = None
    n_parameters: int = 0
    n_weights: int = 0
    layers: int = 0
    width: int = 0
    pieces: float = 0.0
    unknown: float = 0.0
    rung: str = ""
    layout: str = ""
    median_ms: float = 0.0
    long_ms: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    predicted_ms: float = 0.0
    rest_ms: float = 0.0
    share: int | None = None
    pruned_ms: float | None = None
    dev: float | None = None
    reason: str = ""

    @property
    def can_read(self) -> bool:
        """Say whether it has pieces for nearly all of the data."""
        return self.unknown < _STRANGE

    @property
    def easy_bound_ms(self) -> int:
        """Give a bound on p99 within which the whole of it is predicted to be at ease."""
        return math.ceil(self.p99_ms / AT_EASE)

    @property
    def n_kept(self) -> float:
        """Count the weights of the layers that fit the contract, as many as their share of the time."""
        return self.n_weights * (self.share or 0) / 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of every base.

    Args:
        contract: the bound; None ranks without one.
        rate_per_s, percentile: of the prediction; the contract's where there is one.
    """

    settings: FitSettings
    splits: Splits
    contract: Contract | None
    rate_per_s: float
    percentile: float


def advise(
    settings: FitSettings,
    *,
    bases: Sequence[str],
    contract: Contract | None = None,
    rate_per_s: float = 50.0,
    try_epochs: int = 0,
) -> list[Measured]:
    """Time each base, predict what a client would see of it, and rank, the one to fit first.

    Args:
        settings: of the fit that is to come; its base is not looked at.
        rate_per_s: where there is no contract; else the contract's counts.
        try_epochs: fine-tune each usable base for so long on up to 3,000 texts, and rank by dev; 0 trains nothing.
    Raises:
        InvalidBase: none can be used; the message has each one's reason.
        InvalidData, InvalidValue: the data or a setting cannot be used.
        Interrupted: Ctrl-C; what was measured is kept.
    Cost: some seconds a base where it was measured before, else a minute for six layers on two busy cores.
    """
    if not (isinstance(try_epochs, int) and try_epochs >= 0):
        raise InvalidValue(f"try_epochs cannot be {try_epochs!r}: give a whole number, 0 for none.")
    splits, notes = read_splits(settings)
    for note in (*notes, *splits.notes, *check(splits).warnings):
        say(note)
    question = Question(
        settings=settings, splits=splits, contract=contract,
        rate_per_s=contract.rate_per_s if contract else rate_per_s,
        percentile=contract.percentile if contract else 99.0,
    )  # fmt: skip
    names = list(dict.fromkeys(bases))
    found: list[Measured] = []
    with bar("measuring bases", total=_STEPS * len(names)) as advance:
        for number, name in enumerate(names):
            found.append(_measure(name, question, step=partial(_advance, advance, _STEPS * number)))
            advance(_STEPS * (number + 1), "")
    if all(one.problem for one in found):
        raise InvalidBase("no base can be used.\n" + "\n".join(f"{one.name}: {one.problem}" for one in found))
    if try_epochs:
        found = [one if one.problem else _try(one, question, epochs=try_epochs) for one in found]
    return [_explain(one, question) for one in sorted(found, key=lambda one: _order(one, question))]


def _advance(advance: Advance, before: int, done: int) -> None:
    advance(before + done, "")


def _order(one: Measured, question: Question) -> tuple[float, ...]:
    """Rank: usable, fitting, able to read; then by dev, else by what fits, else by time."""
    worth = one.dev if one.dev is not None else one.n_kept if one.share else 0.0
    misfit = question.contract is not None and one.share is None
    return (one.problem is not None, misfit, not one.can_read, -worth, one.pruned_ms or one.predicted_ms)


def _explain(one: Measured, question: Question) -> Measured:
    if one.problem:
        return replace(one, reason="cannot be used")
    why = []
    if not one.can_read:
        why.append(f"{100 * one.unknown:.0f} % of the pieces are unknown to it: it cannot read this data")
    if question.contract is not None and one.share is None:
        why.append(f"still {one.pruned_ms:.2f} ms with {SHARES[-1]} % of its layers' time, not well within the bound")
    if one.dev is not None:
        why.append(f"{one.dev:.2f} on dev, fine-tuned briefly, " + ("whole" if one.share == 100 else "before pruning"))
    elif one.share:
        why.append(f"{one.n_kept / 1e6:.1f} M weights of its layers fit, in {one.pruned_ms:.2f} ms; more learn more")
    elif question.contract is None:
        why.append("by time alone: a bound (--p99) or --try-epochs would say more")
    return replace(one, reason="; ".join(why))


def _measure(name: str, question: Question, *, step: Callable[[int], None]) -> Measured:
    """Time a base, or say why it cannot be used."""
    try:
        base = find_base(name)
        laid = lay_out(base, question.splits, task=question.settings.task, asked=question.settings.asked())
        work = read_work(base)
        rows, variant, rest = _time(base, laid, question, step=step)
    except (InvalidBase, InvalidValue, RunFailed) as error:
        return Measured(name=name, problem=str(error))
    predict = _predictor(laid, question)
    shapes = shapes_for(variant, cores=n_cores())
    shape = min(shapes, key=lambda one: predict(rows, one, question.percentile))
    tokens = [row.tokens for row in rows]
    median_ms, long_ms = (
        rows[int(np.searchsorted(tokens, np.percentile(laid.lengths, percent, method="higher")))].p50_ms
        for percent in (50, 99)
    )
    share, pruned_ms = _fit_share(
        rows, rest, question, predict=lambda table: predict(table, shape, question.percentile)
    )
    place = np.searchsorted(tokens, laid.lengths)
    return Measured(
        name=name, n_parameters=count_parameters(base), n_weights=work.matrices, layers=work.layers, width=work.width,
        pieces=round(laid.pieces, 2), unknown=round(laid.unknown, 4),
        rung=variant.name, layout=f"{shape.threads} threads" if shape.threads else f"{shape.workers} workers",
        median_ms=median_ms, long_ms=long_ms,
        p50_ms=round(predict(rows, shape, 50.0), 3), p99_ms=round(predict(rows, shape, 99.0), 3),
        predicted_ms=round(predict(rows, shape, question.percentile), 3),
        rest_ms=round(float(np.array([row.p50_ms for row in rest])[place].mean()), 4),
        share=share, pruned_ms=None if pruned_ms is None else round(pruned_ms, 3),
    )  # fmt: skip


_Rows = tuple[LatencyRow, ...]


def _predictor(laid: LaidOut, question: Question) -> Callable[[_Rows, Any, float], float]:
    return lambda table, shape, percentile: predict_percentile_ms(
        table, lengths=laid.lengths, rate_per_s=question.rate_per_s, shape=shape, percentile=percentile
    )


def _fit_share(
    rows: _Rows, rest: _Rows, question: Question, *, predict: Callable[[_Rows], float]
) -> tuple[int | None, float | None]:
    """Give the largest share of the layers' time that is well within the bound, as a fit would choose, and its ms."""
    if question.contract is None:
        return None, None
    ms = float("inf")
    for share in (100, *SHARES):
        ms = predict(_scale(rows, rest, share=share))
        if ms < AT_EASE * question.contract.bound_ms:
            return share, ms
    return None, ms


def _scale(rows: _Rows, rest: _Rows, *, share: int) -> _Rows:
    """Give the table of a network that has a percentage of its layers' time left."""
    scaled = []
    for row, empty in zip(rows, rest, strict=True):
        fixed_ms = min(empty.p50_ms, row.p50_ms)
        left = (fixed_ms + (row.p50_ms - fixed_ms) * share / 100) / row.p50_ms
        times = {"p50_ms": row.p50_ms * left, "p99_ms": row.p99_ms * left, "cold_ms": (row.cold_ms or 0.0) * left}
        scaled.append(msgspec.structs.replace(row, **times))
    return tuple(scaled)


def _time(
    base: Path, laid: LaidOut, question: Question, *, step: Callable[[int], None]
) -> tuple[_Rows, Variant, _Rows]:
    """Time every variant, the fastest with two threads too, and it without its layers.

    Returns:
        the times of the fastest, what it is, and its times without layers.
    """
    head = laid.task.head
    inputs = [
        _VERSION, fingerprint().digest, _hash_base(base), len(head.outputs), head[1:], laid.buckets,
        laid.task.max_tokens,
    ]  # fmt: skip
    predict = _predictor(laid, question)

    def best_ms(variant: Variant, rows: _Rows) -> float:
        return min(predict(rows, shape, question.percentile) for shape in shapes_for(variant, cores=n_cores()))

    with ExitStack() as stack:
        untrained: Any = None

        def timed(variant: Variant, *, without_layers: bool = False) -> _Rows:
            nonlocal untrained
            key = _key([*inputs, variant.name, without_layers])
            known: _Rows | None = _recall(key, kind=tuple[LatencyRow, ...])
            if known is None:
                # The training libraries take two seconds to load; what is known needs none of them.
                from millis.searching.timing import UntrainedBase

                untrained = untrained or stack.enter_context(UntrainedBase(base, task=laid.task))
                known = tuple(untrained.time(variant, buckets=laid.buckets, without_layers=without_layers))
                _remember(key, known)
            return known

        tables: dict[Variant, _Rows] = {}
        seen_ms: dict[Variant, float] = {}
        for done, variant in enumerate((one for one in propose(device="cpu") if one.runtime != _LEFT_OUT), 1):
            tables[variant] = timed(variant)
            seen_ms[variant] = best_ms(variant, tables[variant])
            step(done)
        best = min(seen_ms, key=seen_ms.__getitem__)
        if n_cores() > 1:
            doubled = replace(best, threads=2)
            tables[doubled] = timed(doubled)
            seen_ms[doubled] = best_ms(doubled, tables[doubled])
            best = min(seen_ms, key=seen_ms.__getitem__)
        step(_STEPS - 1)
        rest = timed(best, without_layers=True)
        step(_STEPS)
    return tables[best], best, rest


def _try(one: Measured, question: Question, *, epochs: int) -> Measured:
    """Fine-tune a base briefly and give its score on dev."""
    settings, splits = question.settings, question.splits
    chance = random.Random(settings.seed)  # noqa: S311 - which texts, not a secret
    train_part, dev_part = (
        _draw(part, most=most, chance=chance)
        for part, most in ((splits.train, _MOST_TRIED), (splits.dev, _MOST_JUDGED))
    )
    base = find_base(one.name)
    training = replace(settings, epochs=epochs).training()
    records = [[example.record() for example in part] for part in (train_part, dev_part)]
    key = _key([_VERSION, _hash_base(base), settings.task, settings.asked(), training, records])
    score = _recall(key, kind=float)
    if score is None:
        from millis.training.loop import train

        say(f"{one.name}: {epochs} epochs on {len(train_part):,} texts, judged on {len(dev_part):,}")
        folder = cache_root() / "advice" / key
        laid = lay_out(base, splits, task=settings.task, asked=settings.asked())
        try:
            result = train(
                base, task=laid.task, train=train_part, dev=dev_part, folder=folder, settings=training,
                tokenizer_file=base / TOKENIZER,
            )  # fmt: skip
        except InvalidBase as error:
            return Measured(name=one.name, problem=str(error))
        score = result.dev_score.value
        _remember(key, score)
        shutil.rmtree(folder, ignore_errors=True)
    return replace(one, dev=round(score, 2))


def _draw(part: Sequence[Example], *, most: int, chance: random.Random) -> list[Example]:
    """Draw examples, up to so many beside the first group; those of one group together, a query finds no others."""
    groups: dict[str, list[Example]] = {}
    for example in part:
        groups.setdefault(example.group, []).append(example)
    drawn: list[Example] = []
    for group in chance.sample(list(groups.values()), len(groups)):
        if not drawn or len(drawn) + len(group) <= most:
            drawn += group
    return drawn


def _hash_base(base: Path) -> list[str]:
    return [hash_file(file) for file in (base / "config.json", base / TOKENIZER, *weights_files(base))]


def _key(told: list[Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(told, order="sorted")).hexdigest()[:24]


def _recall(key: str, *, kind: Any) -> Any:
    """Give what was kept under a key; None where nothing was, or nothing whole."""
    try:
        return msgspec.json.decode((cache_root() / "advice" / f"{key}.json").read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None


def _remember(key: str, value: Any) -> None:
    file = cache_root() / "advice" / f"{key}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.encode(value))
    except OSError as error:
        say(f"what was measured is not kept ({error.strerror}): it will be measured again")
