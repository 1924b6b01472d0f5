"""Windows to batches: of like length, so that hardly anything is padding, in an order that a seed replays.

Border: arrays of ids and targets; no model.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from millis.data.examples import Example, options_of
from millis.models.prediction import pad
from millis.tasks.task import IGNORED, Task, Window
from millis.training.settings import TrainSettings

_CHUNK = (
    64  # batches that are sorted together: enough to lose under 3 % to padding, few enough to mix each epoch
)


class Batch(NamedTuple):
    """ids, mask: int64 (B, T), T the longest window's length; targets: int64 (B, R), R the most rows of a window."""

    ids: torch.Tensor
    mask: torch.Tensor
    targets: torch.Tensor


def encode_examples(task: Task, examples: Sequence[Example]) -> list[Window]:
    """Cut examples into windows with targets, once; windows that teach nothing are left out."""
    windows = [window for example in examples for window in task.encode(example.text, example=example)]
    return [window for window in windows if window.targets is not None and (window.targets != IGNORED).any()]


def encode_asked(task: Task, example: Example) -> tuple[Window, ...]:
    """Cut an example into windows as it is asked: without targets, and whole."""
    return task.encode(example.text, options=options_of(example))


def plan_epoch(
    lengths: NDArray[np.int64], *, batch_size: int, batch_tokens: int, seed: int, epoch: int
) -> list[NDArray[np.int64]]:
    """Deal windows into batches of like length: shuffle, sort within chunks, cut, shuffle the batches.

    Args:
        lengths: of each window, int64 (N,).
        batch_size: windows per batch, at most.
        batch_tokens: batch times longest, at most; one window may exceed it alone.
        seed, epoch: the same two give the same plan.
    Returns:
        places in lengths, one array per batch; each place once.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    batches: list[NDArray[np.int64]] = []
    for chunk in _split(order, at_most=_CHUNK * batch_size):
        by_length = chunk[np.argsort(lengths[chunk], kind="stable")]
        for batch in _split(by_length, at_most=batch_size):
            batches += _split(batch, at_most=max(1, batch_tokens // int(lengths[batch[-1]])))
    return [batches[i] for i in random.permutation(len(batches))]


def plan_epochs(
    lengths: NDArray[np.int64], *, settings: TrainSettings, together: int = 1
) -> list[list[NDArray[np.int64]]]:
    """Plan every epoch of a training, each as `plan_epoch` does.

    Args:
        lengths: of each window, or of the longest of those that have to run together, int64 (N,).
        together: how many windows do, at most.
    """
    return [
        plan_epoch(
            lengths, batch_size=settings.batch_size, batch_tokens=settings.batch_tokens // together,
            seed=settings.seed, epoch=epoch,
        )
        for epoch in range(settings.epochs)
    ]  # fmt: skip


def _split(places: NDArray[np.int64], *, at_most: int) -> list[NDArray[np.int64]]:
    """Cut into as few parts as at_most allows, of sizes that differ by one at most."""
    return np.array_split(places, -(-len(places) // at_most))


def make_batch(windows: Sequence[Window], *, pad_id: int) -> Batch:
    """Fill windows up to the longest of them; padding has no target."""
    ids, mask = pad([window.ids for window in windows], pad_id=pad_id)
    given = [window.targets for window in windows if window.targets is not None]
    targets = torch.full((len(windows), max(map(len, given))), IGNORED)
    for i, of_window in enumerate(given):
        targets[i, : len(of_window)] = torch.from_numpy(of_window)
    return Batch(ids, mask, targets)


def padding_share(lengths: NDArray[np.int64], plan: Sequence[NDArray[np.int64]]) -> float:
    """Give the share of a plan's tokens that is padding, 0 to 1."""
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in plan)
    return 1 - float(lengths.sum()) / padded
