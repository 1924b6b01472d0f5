"""Where the numbers of a training go while it runs: TensorBoard's files, and Weights & Biases where it is asked for.

Border: names, numbers and steps; nothing else of a run. Nothing leaves the machine unless WANDB_MODE=online is set. The
one file that imports wandb.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter

from millis.errors import InvalidValue, MissingExtra

_MODES = ("offline", "online", "disabled")


class Board(Protocol):
    """Takes numbers."""

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Note a number at a step."""


@contextmanager
def open_board(folder: Path, *, step: int, tracker: str | None, chosen: dict[str, Any]) -> Iterator[Board]:
    """Open the boards of a run in its folder, at a step: what was written behind it is written again.

    Args:
        chosen: settings, to be shown beside the numbers.
    Raises:
        MissingExtra: the tracker's library is not installed.
        InvalidValue: the tracker cannot begin.
    """
    with ExitStack() as stack:
        boards: list[Board] = [stack.enter_context(SummaryWriter(str(folder / "tensorboard"), purge_step=step))]
        if tracker == "wandb":
            boards.append(stack.enter_context(_open_wandb(folder, chosen=chosen)))
        yield _All(boards)


class _All:
    """Several boards as one."""

    def __init__(self, boards: list[Board]) -> None:
        self._boards = boards

    def add_scalar(self, name: str, value: float, step: int) -> None:
        for board in self._boards:
            board.add_scalar(name, value, step)


class _Wandb:
    """A run of Weights & Biases."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self._run.log({name: value, "step": step})


@contextmanager
def _open_wandb(folder: Path, *, chosen: dict[str, Any]) -> Iterator[Board]:
    mode: Any = os.environ.get("WANDB_MODE", "offline")
    if mode not in _MODES:
        raise InvalidValue(f"WANDB_MODE cannot be {mode!r}: set it to one of {', '.join(_MODES)}.")
    if mode != "online":  # it tells its maker how it is used, offline too, unless this is off
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise MissingExtra("tracker wandb needs wandb, which is not installed: pip install wandb.") from error
    try:
        run = wandb.init(
            project="millis", name=folder.parent.name, dir=str(folder), config=chosen,
            mode=mode, settings=wandb.Settings(silent=True),
        )  # fmt: skip
    except (wandb.Error, OSError) as error:  # no key, nobody answers, no place for its files
        raise InvalidValue(
            f"tracker wandb cannot begin ({' '.join(str(error).split())[:300]}): mend that, or leave --track out."
        ) from error
    run.define_metric("*", step_metric="step")
    try:
        yield _Wandb(run)
    finally:
        run.finish()
