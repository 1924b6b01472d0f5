"""What each layer's eight bits cost in answers, and what its floats would cost in time: one layer at a time, measured.

Border: runs model files that a quantiser made, in the runtime that will serve; which layers go back to floats is
quantize.py's to say.
Limits: back to back, on one thread, at one length; what layers do to each other's errors is not seen, so how far the
order must be followed is for a floor to say.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from millis.backends import Backend, BackendSettings
from millis.backends.openvino import EMBEDDINGS
from millis.compiling.comparing import loaded, run_all
from millis.telemetry.progress import bar

Ease = Callable[[str, Path], None]
"""ease(name, folder): write the int8 model into folder with this one layer in floats."""

_MOST_WINDOWS, _ROUNDS = 16, 5
_LENGTH_PERCENTILE = 75
"""Of the windows' lengths: where all are run at one static length. Longer windows are left out."""

_LEAST_SHARE = 0.01
"""Of the int8 model's time: what a layer's floats take at least, since less cannot be told from nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relief:
    """What it does to an int8 model when one of its layers goes back to floats.

    Args:
        error: squared error of the outputs that goes, as a share of all that int8 makes; below 0 it grows.
        ms: that an inference takes longer.
        worth: error per millisecond, by which layers go back.
    """

    name: str
    error: float
    ms: float
    worth: float

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
) -> list[Relief]:
    """Give the layers of an int8 model, those first whose floats take away most error per millisecond.

    Args:
        layers: names of those in eight bits.
        source: the folder in floats.
        int8: the folder whose every layer is in eight bits.
        windows: token ids (T,), of the data that calibrated; sixteen at most are run, evenly from among all.
    Cost: half a second a layer of MiniLM-L6; for each its model is written, loaded and run some hundred times.
    """
    length = int(np.percentile([len(one) for one in windows], _LENGTH_PERCENTILE, method="higher"))
    fitting = [one for one in windows if len(one) <= length]
    ids = fitting[:: max(len(fitting) // _MOST_WINDOWS, 1)][:_MOST_WINDOWS]
    table = int8 / EMBEDDINGS
    settings = BackendSettings(buckets=(length,), table=table if table.is_file() else None)
    with loaded(backend, source) as floats:
        wanted = run_all(floats, ids)
    reliefs = []
    with tempfile.TemporaryDirectory(dir=int8.parent) as scratch, loaded(backend, int8, settings=settings) as whole:
        all_of_it, _ = _measure((whole,), ids, wanted=wanted, length=length)
        with bar("layers in eight bits", total=len(layers)) as advance:
            for done, name in enumerate(layers, 1):
                ease(name, Path(scratch))
                with loaded(backend, Path(scratch), settings=settings) as eased:
                    error, (whole_ms, eased_ms) = _measure((whole, eased), ids, wanted=wanted, length=length)
                share = (all_of_it - error) / all_of_it if all_of_it else 0.0
                worth = share / max(eased_ms - whole_ms, _LEAST_SHARE * whole_ms)
                reliefs.append(Relief(name=name, error=share, ms=eased_ms - whole_ms, worth=worth))
                advance(done, "")
    return sorted(reliefs, key=lambda one: -one.worth)


def _measure(
    models: Sequence[Backend],
    ids: Sequence[NDArray[np.int64]],
    *,
    wanted: Sequence[NDArray[np.float32]],
    length: int,
) -> tuple[float, tuple[float, ...]]:
    """Give the last model's squared error, and the median ms of each; they take turns, so drift hits all alike."""
    error, seen = 0.0, np.empty((_ROUNDS, len(ids), len(models)))
    for turn in range(-1, _ROUNDS):
        for place, (one, want) in enumerate(zip(ids, wanted, strict=True)):
            mask = (np.arange(length) < len(one)).astype(np.int64)[None]
            batch = {"input_ids": np.pad(one, (0, length - len(one)))[None], "attention_mask": mask}
            for row, model in enumerate(models):
                began = perf_counter_ns()
                got = model.run(batch)["logits"][0]
                if turn >= 0:
                    seen[turn, place, row] = (perf_counter_ns() - began) / 1e6
            if turn < 0:  # the first of all warms
                got = got[: len(want), : want.shape[1]]
                error += float(np.square(got - want, dtype=np.float64).sum())
    return error, tuple(float(ms) for ms in np.median(seen, axis=(0, 1)))
