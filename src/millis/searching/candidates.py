"""Which variants are worth building, and what a client would see of each by prediction.

Border: arithmetic on latency tables; builds and measures nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from millis.bundles import LatencyRow, ServingShape
from millis.bundles.together import split
from millis.contract import Contract

_OVERHEAD_MS, _OVERHEAD_SPREAD = 0.75, 0.4
"""What a request costs beside its inference, sockets, parsing, tokens, decoding, writing: median, and spread.

Spreads are standard deviations of the logarithm. All of these were measured on two cores of an AMD EPYC which held the
clients too: docs/decisions/0038."""

_SPREAD = 0.1
"""Of an inference that has the machine to itself."""

_DISTURBED_MS, _DISTURBED, _DISTURBED_SPREAD = 3.0, 1.8, 0.4
"""Up to so much of an inference takes so many times as long, and is spread so, where another request is there too."""

AT_EASE = 0.67
"""Share of the bound within which a probe of some hundred requests promises that the proof will be kept."""

LIKELY = 0.8
"""Share of the bound within which a prediction promises as much: it says what a proof would see, not a probe, and was
off by a third at most where it was compared (docs/decisions/0038)."""

SHARES = (70, 60, 50, 40, 32, 24, 18, 12)
"""Percent of the layers' time that pruning may leave."""

TOGETHER = 4
"""Windows of one text that run together where most texts have as many (docs/decisions/0037)."""

_COLD_AFTER_MS = 2.0
"""Measured on Zen 4: after 2 ms of anything else a request costs 0.2 ms more, after 10 ms all that it ever will."""

_ARRIVALS = 20_000

_CORES_BESIDE, _MOST_BESIDE = 4, 4
"""A worker beside a GPU has so many cores: its loop, the thread of its device, copies. And the most workers."""
_MOST_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A way of running the model: a runtime at a precision, with or without static lengths.

    Args:
        threads: inside one inference.
        share: percent of the layers' time that pruning left.
    """

    backend: str
    precision: str
    is_bucketed: bool
    threads: int = 1
    share: int = 100

    @property
    def runtime(self) -> str:
        """Name backend and precision, by which a layer table goes."""
        return f"{self.backend}-{self.precision}"

    @property
    def artifact(self) -> str:
        """Name the model files, which any number of threads can run."""
        return f"{self.runtime}{f'-{self.share}pc' if self.share < 100 else ''}"

    @property
    def name(self) -> str:
        """Name the rung."""
        if self.backend == "static":
            return self.backend
        threads = f"-{self.threads}t" if self.threads > 1 else ""
        return f"{self.artifact}{threads}{'' if self.is_bucketed else '-dynamic'}"


def propose(*, device: str) -> tuple[Variant, ...]:
    """List the variants to build: every runtime at every precision it can have, one thread in an inference.

    Which of them this machine can build and run is for runtimes.py to say.
    """
    if device == "cuda":
        return (
            *(Variant(backend="torch", precision=one, is_bucketed=True) for one in ("fp16", "bf16", "fp32")),
            Variant(backend="onnxruntime", precision="fp32", is_bucketed=False),
        )
    if device != "cpu":
        return (
            Variant(backend="onnxruntime", precision="fp32", is_bucketed=False),
            Variant(backend="openvino", precision="int8", is_bucketed=True),
        )
    return (
        Variant(backend="openvino", precision="int8", is_bucketed=True),
        Variant(backend="onnxruntime", precision="int8", is_bucketed=False),
        Variant(backend="openvino", precision="fp32", is_bucketed=True),
        Variant(backend="onnxruntime", precision="fp32", is_bucketed=False),
    )


def count_rows(variant: Variant, *, requests: Sequence[Sequence[int]], contract: Contract | None) -> int:
    """Say how many windows of one text a variant is to run together: one where memory is bounded, which it costs.

    Args:
        requests: tokens of each window of each text.
    """
    is_bounded = contract is not None and (contract.device != "cpu" or contract.memory_mb is not None)
    is_static = variant.backend == "openvino" and variant.is_bucketed and not is_bounded
    return TOGETHER if is_static and np.median([len(one) for one in requests]) >= TOGETHER else 1


STATIC = Variant(backend="static", precision="fp16", is_bucketed=False)
"""Token vectors without attention, for tasks that speak of whole texts: built apart, since nothing of it is pruned."""


def shapes_for(variant: Variant, *, cores: int, device: str = "cpu") -> tuple[ServingShape, ...]:
    """List the ways to lay out a server: processes side by side, or one process whose threads share the weights.

    A device beside the processor has some workers, each with a thread of its own for it: they do not know of each
    other's batches, but an interpreter is full long before such a device (measured: docs/decisions/0025).
    """
    if device != "cpu":
        return (ServingShape(workers=min(max(cores // _CORES_BESIDE, 1), _MOST_BESIDE), threads=0),)
    lanes = max(cores // variant.threads, 1)
    if lanes == 1:
        return (ServingShape(workers=1, threads=0),)
    return (ServingShape(workers=1, threads=lanes), ServingShape(workers=lanes, threads=0))


def mean_ms(table: Sequence[LatencyRow], lengths: Sequence[int]) -> float:
    """Give the mean time of an inference over texts of these token counts, back to back."""
    tokens = np.array([row.tokens for row in table])
    place = np.minimum(np.searchsorted(tokens, lengths), len(tokens) - 1)
    return round(float(np.array([row.p50_ms for row in table])[place].mean()), 4)


def predict_percentile_ms(
    table: Sequence[LatencyRow],
    *,
    requests: Sequence[Sequence[int]],
    rate_per_s: float,
    shape: ServingShape,
    percentile: float,
    is_batched: bool = False,
    n_requests: int = _ARRIVALS,
    seed: int = 7,
) -> float:
    """Predict what a client sees at a percentile: queue real requests behind each other at the real rate.

    Threads of one process take from one queue; processes have a queue each, and a connection picks one blindly. The
    windows of a request run one after the other, or as many together as the table has times of, on a device beside the
    processor all at once.

    Args:
        requests: tokens of each window of requests to draw from.
        is_batched: a device runs whatever waits at once, in the time of the longest of it.
        n_requests: of a run, each begun with nobody waiting: where more comes than is answered, the queue grows on.
    Source: Lindley's recursion, with service times drawn from the table at the lengths of a random request, longer
    where another request is there too (docs/decisions/0038); one that finds its lane idle for a while pays what the
    table says of cold ones.
    """
    chance = np.random.default_rng(seed)
    drawn = chance.choice(len(requests), _ARRIVALS)
    place, n_runs = _list_runs(table, requests)
    first = np.cumsum([0, *n_runs[:-1]])

    def of_requests(ms: Sequence[float], ms_together: Sequence[float], join: np.ufunc) -> NDArray[np.float64]:
        return np.asarray(join.reduceat(np.array([*ms, *ms_together])[place], first)[drawn], np.float64)

    join = np.maximum if is_batched else np.add
    rows_ms = [row.rows_ms or 0.0 for row in table]
    typical = of_requests([row.p50_ms for row in table], rows_ms, join)
    slow_ms = [ms * row.p99_ms / row.p50_ms for ms, row in zip(rows_ms, table, strict=True)]
    slow = of_requests([row.p99_ms for row in table], slow_ms, join)
    cold_ms = [max((row.cold_ms or 0.0) - row.p50_ms, 0.0) for row in table]
    cold = of_requests(cold_ms, cold_ms, np.maximum)
    runs = np.where(chance.random(_ARRIVALS) < 0.9, typical, (typical + slow) / 2)
    arrivals = np.cumsum(chance.exponential(1000 / rate_per_s, _ARRIVALS))
    if is_batched:
        return float(np.percentile(_run_together(arrivals, runs) + _OVERHEAD_MS, percentile))
    seen = _run_in_lanes(arrivals, runs, cold, shape=shape, n_requests=n_requests, chance=chance)
    return float(np.percentile(seen, percentile))


def fit_table(table: Sequence[LatencyRow], *, seen_ms: float | None, **asked: Any) -> tuple[LatencyRow, ...]:
    """Give a table that is slower or faster throughout, so that its prediction is what a client saw.

    Args:
        seen_ms: None where nobody measured it; then it stays as it is.
        asked: keywords of `predict_percentile_ms`, as when it was seen.
    """
    if seen_ms is None:
        return tuple(table)
    low, high = 0.05, 20.0
    while high / low > 1.005:
        middle = math.sqrt(low * high)
        is_below = predict_percentile_ms(scale_table(table, middle), **asked) < seen_ms
        low, high = (middle, high) if is_below else (low, middle)
    return scale_table(table, high)


def scale_table(table: Sequence[LatencyRow], factor: float) -> tuple[LatencyRow, ...]:
    """Give a table whose times are so many times as long."""
    return tuple(
        msgspec.structs.replace(
            row, p50_ms=row.p50_ms * factor, p99_ms=row.p99_ms * factor, cold_ms=(row.cold_ms or 0.0) * factor,
            again_ms=None, rows_ms=None if row.rows_ms is None else row.rows_ms * factor,
        )
        for row in table
    )  # fmt: skip


def _list_runs(
    table: Sequence[LatencyRow], requests: Sequence[Sequence[int]]
) -> tuple[NDArray[np.intp], list[int]]:
    """Give the row of each inference of requests, those of windows together behind all rows, and how many each has."""
    tokens = [row.tokens for row in table]
    runs = [split(sorted(one), rows=table[0].rows) for one in requests]
    lengths = list(chain.from_iterable((*together, *alone) for together, alone in runs))
    is_together = list(chain.from_iterable([True] * len(together) + [False] * len(alone) for together, alone in runs))
    place = np.minimum(np.searchsorted(tokens, lengths), len(tokens) - 1) + len(tokens) * np.array(is_together)
    return place, [len(together) + len(alone) for together, alone in runs]


def _run_in_lanes(
    arrivals: NDArray[np.float64],
    runs: NDArray[np.float64],
    cold: NDArray[np.float64],
    *,
    shape: ServingShape,
    n_requests: int,
    chance: np.random.Generator,
) -> NDArray[np.float64]:
    """Give how long each waits and is answered, in ms, where threads or processes run one request at a time each."""
    lanes = max(shape.threads, 1) * shape.workers
    chances = chance.standard_normal(len(arrivals))
    beside = chance.lognormal(math.log(_OVERHEAD_MS), _OVERHEAD_SPREAD, len(arrivals))
    pinned = chance.integers(0, lanes, len(arrivals))
    following = np.append(arrivals[1:], math.inf)
    seen = np.empty(len(arrivals))
    for i, arrives in enumerate(map(float, arrivals)):
        if i % n_requests == 0:
            free = [0.0] * lanes
        lane = min(range(lanes), key=free.__getitem__) if shape.workers == 1 else int(pinned[i])
        starts = max(free[lane], arrives)
        run_ms = float(runs[i]) + (float(cold[i]) if arrives - free[lane] > _COLD_AFTER_MS else 0.0)
        is_beside = any(one > starts for place, one in enumerate(free) if place != lane)
        is_disturbed = lanes > 1 and (is_beside or following[i] < starts + run_ms)
        times, spread = (_DISTURBED, _DISTURBED_SPREAD) if is_disturbed else (1.0, _SPREAD)
        more_ms = min(run_ms, _DISTURBED_MS) * (times * math.exp(spread * chances[i]) - 1)
        free[lane] = starts + run_ms + more_ms + float(beside[i])
        seen[i] = free[lane] - arrives
    return seen


def _run_together(arrivals: NDArray[np.float64], service: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give how long each waits and runs, in ms, on a device that takes all that waits when it is free."""
    seen = np.empty(len(arrivals))
    free, first = 0.0, 0
    while first < len(arrivals):
        starts = max(free, float(arrivals[first]))
        last = min(int(np.searchsorted(arrivals, starts, side="right")), first + _MOST_ROWS)
        free = starts + float(service[first:last].max())
        seen[first:last] = free - arrivals[first:last]
        first = last
    return seen
