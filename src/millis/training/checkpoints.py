"""What a run needs to go on after a kill, on disk, whole or not at all.

Border: one file, checkpoint.pt, read without running code in it (weights_only); the loop decides when.
Limits: the same to the bit only with the same torch, processor and number of threads; on a GPU, which adds in any
order, not even then. A run that began on a GPU goes on without one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch

from millis.data.examples import Example
from millis.errors import InvalidValue, RunFailed
from millis.models.files import write_whole
from millis.models.weights import weights_files
from millis.tasks.task import Score, Window
from millis.telemetry.progress import say
from millis.training.settings import TrainSettings

_NAME = "checkpoint.pt"
_RECIPE = 2
"""One more whenever steps compute or keep something else: a run that other steps began cannot go on by these."""

_FREE_SETTINGS = {"checkpoint_every_s", "device", "tracker"}  # they change no result, or only its last bits


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRow:
    """One epoch: number from 1, mean loss, dev score in points, seconds, whether it was the best yet."""

    epoch: int
    loss: float
    dev: float
    seconds: float
    is_best: bool


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a run is.

    Args:
        epoch, batch: what comes next, both from 0.
        step: batches done in all.
        losses: sum over the epoch under way.
        seconds: spent in all; epoch_seconds: in the epoch under way.
        stale: epochs since the dev score last rose.
        n_trained, n_weights: how many weights are trained, and how many there are.
        peak_mb: the most memory that the process had.
        reasons: of a run that is done, what was chosen in it, and why.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    losses: float = 0.0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    stale: int = 0
    n_trained: int = 0
    n_weights: int = 0
    peak_mb: float = 0.0
    best: Score | None = None
    rows: list[EpochRow] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    is_done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Progress, and the tensors that go with it; a finished run has none."""

    progress: Progress
    tensors: dict[str, Any] | None


def identify_run(
    base: Path,
    *,
    labels: Sequence[str],
    windows: Sequence[Window],
    dev: Sequence[Example],
    settings: TrainSettings,
) -> dict[str, str]:
    """Name everything that decides a run's result: each setting, and hashes of data and base."""
    train_hash, dev_hash, base_hash = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    for window in windows:
        train_hash.update(len(window.ids).to_bytes(4, "little") + window.ids.tobytes())
        train_hash.update(b"" if window.targets is None else window.targets.tobytes())
    for example in dev:
        dev_hash.update(repr(example.record()).encode("utf-8", "surrogatepass"))
    for file in (base / "config.json", *weights_files(base)):
        with file.open("rb") as content:
            base_hash.update(hashlib.file_digest(content, "sha256").digest())
    chosen = {
        f"setting {name}": repr(value)
        for name, value in asdict(settings).items()
        if name not in _FREE_SETTINGS
    }
    return {
        **chosen, "labels": " ".join(labels), "training data": train_hash.hexdigest(),
        "dev data": dev_hash.hexdigest(), "base": base_hash.hexdigest(),
    }  # fmt: skip


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, identity: dict[str, str]) -> None:
    """Write folder/checkpoint.pt.

    Raises:
        RunFailed: the disk is full; the checkpoint before is whole.
    """
    content = {
        "recipe": _RECIPE,
        "identity": identity,
        "progress": msgspec.json.encode(checkpoint.progress).decode(),
        "tensors": checkpoint.tensors,
    }
    write_whole(folder / _NAME, lambda out: torch.save(content, out))


def load_checkpoint(folder: Path, *, identity: dict[str, str]) -> Checkpoint | None:
    """Read folder/checkpoint.pt; None when there is none, or when other steps than today's began it.

    Raises:
        InvalidValue: it is of another run; the message says in what they differ.
        RunFailed: it cannot be read.
    """
    file = folder / _NAME
    if not file.is_file():
        return None
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        progress = msgspec.json.decode(content["progress"], type=Progress)
        written, tensors = content["identity"], content["tensors"]
    except Exception as error:  # pickle, zip and shape errors: the library has no common base
        raise RunFailed(
            f"{file} cannot be read as a checkpoint ({type(error).__name__}): it was altered or is of"
            " another version. Delete the folder to train anew, or give another one."
        ) from error
    differing = [name for name in identity if identity[name] != written.get(name)]
    if differing:
        told = ", ".join(_tell(name, written.get(name), identity[name]) for name in differing[:4])
        raise InvalidValue(
            f"{folder} holds another run: {told}. A run goes on only as it began: give another folder, or"
            " delete this one."
        )
    if tensors is not None and content.get("recipe") != _RECIPE:
        say(f"the training in {folder} was begun by another version of millis, which took other steps: it begins anew")
        return None
    return Checkpoint(progress=progress, tensors=tensors)


def _tell(name: str, was: str | None, now: str) -> str:
    if not name.startswith("setting "):
        return f"its {name} differ{'' if name.endswith('data') or name == 'labels' else 's'}"
    return f"its {name.removeprefix('setting ')} was {was} and is now {now}"
