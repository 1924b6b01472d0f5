"""The latency table of a rung: one inference at each length in the compiled runtime, back to back and after a gap.

Border: in-process times of the network alone; what a client sees is the load generator's matter.
Limits: the gap is idle; what other requests leave in the caches is not in it. The table ranks, the server decides.
"""

import time
from collections.abc import Sequence
from time import perf_counter_ns

import numpy as np

from millis.bundles import LatencyRow, Model

_ROUNDS = 24
_WARM = 4
_COLD_ROUNDS = 9
_GAP_S = 0.01


def measure_table(model: Model, lengths: Sequence[int], *, has_cold: bool = True) -> tuple[LatencyRow, ...]:
    """Time one inference at each length, of one window and of as many as its rung runs together.

    Lengths are interleaved, so that drift of the machine hits all alike.

    Args:
        has_cold: time inferences after a gap too, and right behind another at the same length, which find the caches as
            a layer table's do.
    Cost: some 0.1 s for each length, most of it waiting; without has_cold that of 28 inferences.
    """
    inputs = {length: np.ones(length, np.int64) for length in lengths}
    rows = model.rung.rows
    together: dict[int, list[float]] = {length: [] for length in lengths}
    samples: dict[int, list[float]] = {length: [] for length in lengths}
    again: dict[int, list[float]] = {length: [] for length in lengths}
    for round_ in range(_ROUNDS + _WARM):
        for length, ids in inputs.items():
            for seen in (samples, again) if has_cold else (samples,):
                began = perf_counter_ns()
                model.run(ids)
                if round_ >= _WARM:
                    seen[length].append((perf_counter_ns() - began) / 1e6)
            if rows > 1:
                began = perf_counter_ns()
                model.run_together([ids] * rows)
                if round_ >= _WARM:
                    together[length].append((perf_counter_ns() - began) / 1e6)
    cold: dict[int, list[float]] = {length: [] for length in lengths}
    for _ in range(_COLD_ROUNDS if has_cold else 0):
        for length, ids in inputs.items():
            time.sleep(_GAP_S)
            began = perf_counter_ns()
            model.run(ids)
            cold[length].append((perf_counter_ns() - began) / 1e6)
    return tuple(
        LatencyRow(
            tokens=length,
            p50_ms=round(float(np.percentile(ms, 50)), 4),
            p99_ms=round(float(np.percentile(ms, 99)), 4),
            n=len(ms),
            again_ms=round(float(np.median(again[length])), 4) if has_cold else None,
            cold_ms=round(float(np.median(cold[length])), 4) if has_cold else None,
            rows=rows,
            rows_ms=round(float(np.median(together[length])), 4) if rows > 1 else None,
        )
        for length, ms in samples.items()
    )
