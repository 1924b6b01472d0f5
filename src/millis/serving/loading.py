"""From a version to what answers for it: opened, checked, loaded, warmed, and timed again on another machine.

Border: bundles in, Served out, or Talker of what speaks; runs at a worker's start, and on a thread beside live traffic.
Limits: what is timed again is inference alone, back to back; requests that wait for one another are simulated, on one
worker's share of the contract's rate.
"""

import random
from collections.abc import Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from millis.bundles import Bundle, LatencyRow, Model, load_ladder
from millis.serving.batches import ALONE
from millis.serving.placement import Version
from millis.serving.prediction import Forecast
from millis.serving.scheduling import Ladder
from millis.serving.served import Served
from millis.serving.versions import open_version
from millis.tasks.instructing import SPEAKING

if TYPE_CHECKING:
    from millis.serving.generating import Talker

_SIMULATED = 5000
_BATCH_ROUNDS = 3
_STEPS = 12
"""Between two sizes of a batch that were timed."""


def load_version(version: Version, *, threads: int, has_fallback: bool, n_workers: int) -> "Served | Talker":
    """Load a version behind a ladder, or behind a generator where it speaks, warm.

    Raises:
        InvalidBundle: a file is not as the manifest says, or the folder holds another bundle by now.
    """
    named = open_version(version)
    if named.manifest.task in SPEAKING:
        from millis.serving.generating import load_talker  # which a worker imports while it loads (starting.py)

        return load_talker(named, number=version.number)
    models = load_ladder(named, streams=max(threads, 1), has_fallback=has_fallback)
    warm_ns = [[(n, 1e6 * ms) for n, ms in model.warm()] for model in models]
    rungs = [model.rung for model in models]
    is_batched = any(model.batching is not None for model in models)
    if is_batched:
        warm_ns = [_time_batches(model) for model in models]
    notes: tuple[str, ...] = ()
    found = None
    if version.differs:
        from millis.measuring.table import measure_table

        rows = [
            measure_table(model, [len(ids) for ids in model.lengths_to_warm()], has_cold=False) for model in models
        ]
        rungs = [msgspec.structs.replace(rung, latency=one) for rung, one in zip(rungs, rows, strict=True)]
        found = _foresee(named, rows[0], n_workers=n_workers) | {"differs": version.differs}
        notes = (_write_note(version, found),)
    if is_batched:  # a certificate's rows are of one window at a time
        rungs = [msgspec.structs.replace(rung, latency=()) for rung in rungs]
    ladder = Ladder(version.name, models, Forecast(rungs, warm_ns=warm_ns))
    return Served(named, ladder, number=version.number, notes=notes, found=found)


def _time_batches(model: Model) -> list[tuple[int, float]]:
    """Time batches of short windows and of the longest, doubled up to the most; give ns by tokens, padding included.

    Of two shapes of as many tokens the slower counts. Between what was timed it is taken to grow evenly.
    """
    batching = model.batching or ALONE
    lengths = sorted({min(len(ids) for ids in model.lengths_to_warm()), model.bucket_of(model.task.max_tokens)})
    shapes = [
        (n_rows, n) for n in lengths for n_rows in _doubled(batching.max_rows)
        if n_rows == 1 or n_rows * n <= batching.max_tokens
    ]  # fmt: skip
    timed: dict[int, float] = {}
    for n_rows, n in shapes:
        rows = [np.ones(min(n, model.task.max_tokens), np.int64)] * n_rows
        least_ns = np.inf
        for _ in range(_BATCH_ROUNDS):
            began = perf_counter_ns()
            model.run_together(rows)
            least_ns = min(least_ns, perf_counter_ns() - began)
        timed[n_rows * n] = max(timed.get(n_rows * n, 0.0), least_ns)
    tokens = sorted(timed)
    ns = np.maximum.accumulate([timed[n] for n in tokens])
    dense = np.unique(np.geomspace(tokens[0], tokens[-1], _STEPS * len(tokens)).round().astype(int))
    return [(int(n), float(one)) for n, one in zip(dense, np.interp(dense, tokens, ns), strict=True)]


def _doubled(most: int) -> list[int]:
    """List 1, 2, 4, ... and the most."""
    return sorted({*(1 << i for i in range(most.bit_length())), most})


def _foresee(bundle: Bundle, rows: Sequence[LatencyRow], *, n_workers: int) -> dict[str, Any]:
    """Say what the contract's percentile would be here: arrivals at random, lengths as in the data, one after another.

    Source: waiting times by Lindley's recursion (1952), W' = max(0, W + S - A).
    """
    contract, lengths = bundle.manifest.contract, bundle.manifest.lengths
    draw = random.Random(7)  # noqa: S311 - no secret
    tokens = [n for n, _ in lengths] or [row.tokens for row in rows]
    weights = [times for _, times in lengths] or [1] * len(rows)
    rate_per_ms = float(contract["rate_per_s"]) / 1000 / n_workers
    wait, seen = 0.0, []
    for n in draw.choices(tokens, weights, k=_SIMULATED):
        row = next((row for row in rows if n <= row.tokens), rows[-1])
        takes = row.p99_ms if draw.random() < 0.01 else row.p50_ms
        seen.append(wait + takes)
        wait = max(0.0, wait + takes - draw.expovariate(rate_per_ms))
    expected_ms = float(np.percentile(seen, contract["percentile"]))
    return {
        "percentile": contract["percentile"], "expected_ms": round(expected_ms, 3), "bound_ms": contract["bound_ms"],
        "latency": rows,
    }  # fmt: skip


def _write_note(version: Version, found: dict[str, Any]) -> str:
    is_in = "within" if found["expected_ms"] <= found["bound_ms"] else "over"
    return (
        f"{version.name}: its certificate is of another machine ({'; '.join(version.differs[:3])}). Timed again here:"
        f" p{found['percentile']:g} of inference and waiting is expected at {found['expected_ms']:.3g} ms, {is_in} the"
        f" bound of {found['bound_ms']:g} ms; `millis prove` measures it."
    )
