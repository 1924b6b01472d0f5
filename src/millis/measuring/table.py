"""The latency table of a rung: one inference at each length, back to back, in the compiled runtime.

Border: in-process times of the network alone; what a client sees is the load generator's matter.
Limits: back to back is not how requests come; caches are warm here and cold there. The table ranks, the server decides.
"""

from collections.abc import Sequence
from time import perf_counter_ns

import numpy as np

from millis.bundles import LatencyRow, Model

_ROUNDS = 24
_WARM = 4


def measure_table(model: Model, lengths: Sequence[int]) -> tuple[LatencyRow, ...]:
    """Time one inference at each length, lengths interleaved so that drift of the machine hits all alike."""
    inputs = {length: np.ones(length, np.int64) for length in lengths}
    samples: dict[int, list[float]] = {length: [] for length in lengths}
    for round_ in range(_ROUNDS + _WARM):
        for length, ids in inputs.items():
            began = perf_counter_ns()
            model.run(ids)
            if round_ >= _WARM:
                samples[length].append((perf_counter_ns() - began) / 1e6)
    return tuple(
        LatencyRow(
            tokens=length,
            p50_ms=round(float(np.percentile(seen, 50)), 4),
            p99_ms=round(float(np.percentile(seen, 99)), 4),
            n=len(seen),
        )
        for length, seen in samples.items()
    )
