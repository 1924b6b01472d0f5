"""What a client would see of a base that is not trained yet, on this machine and on the lengths of the data.

A base is built with an untrained head in the runtimes that a fit would build (time does not ask what weights mean),
timed at the buckets that a fit would choose, and judged by the fit's own prediction. What pruning could take away is
measured too: the network whose layers have kept nothing.
Border: times one base and predicts; advising.py ranks. Times are kept in the user's cache, one file each, by the base's
files, the machine and the lengths, so that a killed call goes on.
Limits: what pruning costs in quality is not predicted; a pruned network is taken to run at the whole one's buckets.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from millis.bundles import LatencyRow
from millis.contract import Contract
from millis.cores import n_cores
from millis.data.splits import Splits
from millis.errors import InvalidBase, InvalidValue, RunFailed
from millis.measuring.fingerprint import fingerprint
from millis.models.bases import find_base
from millis.models.weights import count_parameters
from millis.models.work import read_work
from millis.searching.candidates import (
    AT_EASE,
    LIKELY,
    SHARES,
    Variant,
    count_rows,
    predict_percentile_ms,
    propose,
    scale_table,
    shapes_for,
)
from millis.searching.layout import LaidOut, lay_out, list_lengths
from millis.searching.remembering import hash_base, make_key, recall, remember
from millis.searching.settings import FitSettings
from millis.training.methods import METHODS, check_adaptable

VERSION = 1
"""Of what is kept; goes up when an older number would mislead."""

SHELF = "advice"
N_STEPS = 5  # three runtimes, two threads, no layers
_LEFT_OUT = "onnxruntime-fp32"  # never the fastest where the same runtime has eight bits, and the slowest to time

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


def foretell(name: str, question: Question, *, step: Callable[[int], None]) -> Measured:
    """Time a base and predict what a client would see, or say why it cannot be used.

    Args:
        step: called with each of the N_STEPS that is done.
    """
    try:
        base = find_base(name)
        check_adaptable(base, adapt=question.settings.adapt)
        laid = lay_out(base, question.splits, task=question.settings.task, asked=question.settings.asked())
        work = read_work(base)
        rows, variant, rest = _time(base, laid, question, step=step)
    except (InvalidBase, InvalidValue, RunFailed) as error:
        return Measured(name=name, problem=str(error))
    predict = _predictor(laid, question)
    shapes = shapes_for(variant, cores=n_cores())
    shape = min(shapes, key=lambda one: predict(rows, one, question.percentile))
    tokens, lengths = [row.tokens for row in rows], list_lengths(laid.requests)
    median_ms, long_ms = (
        rows[int(np.searchsorted(tokens, np.percentile(lengths, percent, method="higher")))].p50_ms
        for percent in (50, 99)
    )
    share, pruned_ms = _fit_share(
        rows, rest, question, predict=lambda table: predict(table, shape, question.percentile)
    )
    place = np.searchsorted(tokens, lengths)
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
        table, requests=laid.requests, rate_per_s=question.rate_per_s, shape=shape, percentile=percentile
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
        if ms < (AT_EASE if share == 100 else LIKELY) * question.contract.bound_ms:
            return share, ms
    return None, ms


def _scale(rows: _Rows, rest: _Rows, *, share: int) -> _Rows:
    """Give the table of a network that has a percentage of its layers' time left."""
    scaled: list[LatencyRow] = []
    for row, empty in zip(rows, rest, strict=True):
        fixed_ms = min(empty.p50_ms, row.p50_ms)
        left = (fixed_ms + (row.p50_ms - fixed_ms) * share / 100) / row.p50_ms
        scaled += scale_table([row], left)
    return tuple(scaled)


def _time(
    base: Path, laid: LaidOut, question: Question, *, step: Callable[[int], None]
) -> tuple[_Rows, Variant, _Rows]:
    """Time every variant, the fastest with two threads too, and it without its layers.

    Returns:
        the times of the fastest, what it is, and its times without layers.
    """
    head, adapt = laid.task.head, question.settings.adapt
    is_grafted = METHODS[adapt].note is not None
    inputs = [
        VERSION, fingerprint().digest, hash_base(base), len(head.outputs), head[1:], laid.buckets,
        laid.task.max_tokens, *([adapt] if is_grafted else []),
    ]  # fmt: skip
    predict = _predictor(laid, question)

    def best_ms(variant: Variant, rows: _Rows) -> float:
        return min(predict(rows, shape, question.percentile) for shape in shapes_for(variant, cores=n_cores()))

    with ExitStack() as stack:
        untrained: Any = None

        def timed(variant: Variant, *, without_layers: bool = False) -> _Rows:
            nonlocal untrained
            rows = count_rows(variant, requests=laid.requests, contract=question.contract)
            key = make_key([*inputs, variant.name, without_layers, rows])
            known: _Rows | None = recall(SHELF, key, kind=tuple[LatencyRow, ...])
            if known is None:
                # The training libraries take two seconds to load; what is known needs none of them.
                from millis.searching.timing import UntrainedBase

                untrained = untrained or stack.enter_context(UntrainedBase(base, task=laid.task, adapt=adapt))
                known = tuple(untrained.time(variant, buckets=laid.buckets, rows=rows, without_layers=without_layers))
                remember(SHELF, key, value=known)
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
        step(N_STEPS - 1)
        rest = tables[best] if is_grafted else timed(best, without_layers=True)  # which pruning cannot cut
        step(N_STEPS)
    return tables[best], best, rest
