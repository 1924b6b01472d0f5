"""What each layer's eight bits cost in answers, and what its floats would cost in time: one layer at a time, measured.

Border: runs model files that a quantiser made, in the runtime that will serve; which layers go back to floats is
quantize.py's to say.
Limits: back to back, on one thread, at one length; what layers do to each other's errors is not seen, so how far the
order must be followed is for a floor to say.
"""

import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from millis.backends import Backend, BackendSettings
from millis.backends.ir import EMBEDDINGS
from millis.backends.segments import FILE as SECOND
from millis.compiling.comparing import loaded
from millis.telemetry.progress import bar

Ease = Callable[[Collection[str], Path], None]
"""ease(names, folder): write the int8 model into folder with these layers in floats."""

_MOST_WINDOWS, _ROUNDS = 16, 2
_LENGTH_PERCENTILE = 75
"""Of the windows' lengths: where all are run at one static length. Longer windows are left out."""

_LEAST_SHARE = 0.01
"""Of the int8 model's time: what a layer's floats take at least, since less cannot be told from nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """What one layer's eight bits do to a model that is in floats else.

    Args:
        error: squared error of the outputs, as a share of the sum over all layers.
        ms: that an inference is shorter for them.
        per_ms: error over ms, by which layers go back to floats.
    """

    name: str
    error: float
    ms: float
    per_ms: float

    @property
    def short(self) -> str:
        """The name, without where the encoder stands and what is done there."""
        return self.name.rpartition("encoder/")[2].removeprefix("/network/").removesuffix("/MatMul")


def rank_layers(
    layers: Sequence[str],
    ease: Ease,
    *,
    backend: str,
    source: Path,
    int8: Path,
    windows: Sequence[NDArray[np.int64]],
) -> list[Harm]:
    """Give the layers of an int8 model, those first whose eight bits make most error for the time they save.

    Each alone is put in eight bits. The other way round, each alone in floats, the others' errors drown its own: of the
    squared error of MiniLM-L6 on WNUT-17 the first 8 of 37 left 14 % so, and 5 % by this order (docs/log.md).

    Args:
        layers: names of those in eight bits.
        source: the folder in floats.
        int8: the folder whose every layer is in eight bits.
        windows: token ids (T,), of the data that calibrated; sixteen at most are run, evenly from among all.
    Cost: for each layer a model is written, loaded and run 48 times, and the one in floats as often; one to two seconds
        of MiniLM-L6 on two cores.
    """
    length = int(np.percentile([len(one) for one in windows], _LENGTH_PERCENTILE, method="higher"))
    fitting = [one for one in windows if len(one) <= length]
    ids = fitting[:: max(len(fitting) // _MOST_WINDOWS, 1)][:_MOST_WINDOWS]
    table = source / EMBEDDINGS
    settings = BackendSettings(buckets=(length,), table=table if table.is_file() else None)
    found = []
    with (
        tempfile.TemporaryDirectory(dir=int8.parent) as scratch,
        loaded(backend, source, settings=settings) as floats,
        bar("layers in eight bits", total=len(layers)) as advance,
    ):
        if (source / SECOND).is_file():
            shutil.copy(source / SECOND, scratch)
        for done, name in enumerate(layers, 1):
            ease([one for one in layers if one != name], Path(scratch))
            with loaded(backend, Path(scratch), settings=settings) as harmed:
                found.append((name, *_compare(floats, harmed, ids, length=length)))
            advance(done, "")
    total = sum(error for _, error, _, _ in found) or 1.0
    harms = [
        Harm(name=name, error=error / total, ms=ms, per_ms=error / total / max(ms, _LEAST_SHARE * whole_ms))
        for name, error, ms, whole_ms in found
    ]
    return sorted(harms, key=lambda one: -one.per_ms)


def _compare(
    floats: Backend, harmed: Backend, ids: Sequence[NDArray[np.int64]], *, length: int
) -> tuple[float, float, float]:
    """Give the squared error of what is harmed, the ms it saves, and the ms in floats: medians, taken in turns."""
    error, seen = 0.0, np.empty((_ROUNDS, len(ids), 2))
    for turn in range(-1, _ROUNDS):
        for place, one in enumerate(ids):
            mask = (np.arange(length) < len(one)).astype(np.int64)[None]
            batch = {"input_ids": np.pad(one, (0, length - len(one)))[None], "attention_mask": mask}
            logits = []
            for row, model in enumerate((floats, harmed)):
                began = perf_counter_ns()
                logits.append(model.run(batch)["logits"][0])
                if turn >= 0:
                    seen[turn, place, row] = (perf_counter_ns() - began) / 1e6
            if turn < 0:  # the first turn warms
                error += _square(*logits, n_tokens=len(one), length=length)
    floats_ms, harmed_ms = np.median(seen, axis=(0, 1))
    return error, float(floats_ms - harmed_ms), float(floats_ms)


def _square(want: NDArray[np.float32], got: NDArray[np.float32], *, n_tokens: int, length: int) -> float:
    """Add up squared differences of logits (R, C), of real tokens where R or C counts tokens."""
    real = tuple(slice(n_tokens if size == length else size) for size in want.shape)
    return float(np.square(got[real] - want[real], dtype=np.float64).sum())
