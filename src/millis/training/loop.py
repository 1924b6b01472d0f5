"""Fine-tune a tagger: batches of like length, early stopping, checkpoints, and no work lost.

Border: base and examples in, folder/best out (Hugging Face layout), with folder/tensorboard and
folder/checkpoint.pt beside it. What is computed is in steps.py; here is when to save, to stop, what to tell.
Limits: one process, on the processor. Ctrl-C is caught in the main thread only.
"""

import math
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from millis.data.examples import Example
from millis.errors import Interrupted, InvalidValue, RunFailed
from millis.models.files import find_no_room, not_written
from millis.models.taggers import save_tagger
from millis.tasks.task import Score, Task
from millis.telemetry.progress import Advance, bar, say
from millis.training.batches import encode_examples
from millis.training.boards import Board, open_board
from millis.training.checkpoints import (
    Checkpoint,
    EpochRow,
    Progress,
    identify_run,
    load_checkpoint,
    save_checkpoint,
)
from millis.training.contrast import Contrast
from millis.training.interrupts import Stop, catch_interrupt
from millis.training.methods import check_adaptable
from millis.training.settings import TrainSettings
from millis.training.steps import Steps, torch_state

_SAVING_SHARE = 20  # checkpoints are at least so many times as far apart as writing one takes


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What training gave.

    Args:
        best: folder of the best epoch's model, tokenizer.json included.
        dev_score: the best epoch's, in fp32.
        seconds: spent training, earlier parts of a resumed run included.
        reasons: what was chosen, and why, one sentence each.
        was_resumed: whether an earlier run in the folder was taken up.
        n_trained, n_weights: how many weights were trained, and how many the model has.
        peak_mb: the most memory that the process ever had, what came before the training included.
    """

    best: Path
    dev_score: Score
    epochs: tuple[EpochRow, ...]
    seconds: float
    reasons: tuple[str, ...]
    was_resumed: bool
    n_trained: int
    n_weights: int
    peak_mb: float


def train(
    base: Path,
    *,
    task: Task,
    train: Sequence[Example],
    dev: Sequence[Example],
    folder: Path,
    settings: TrainSettings,
    tokenizer_file: Path,
) -> TrainResult:
    """Train a new head and the whole base under it; keep the epoch that is best on dev.

    Args:
        base: a folder that `find_base` gave.
        folder: where the run lives. The same call on it again goes on after a kill, to the same weights.
        tokenizer_file: tokenizer.json, the one that task uses; copied beside the weights.
    Raises:
        InvalidValue: nothing to train on, a window that is too long for the base, a folder of another run, or a base
            that the way of adapting cannot be put on.
        InvalidBase: the base cannot be loaded, or is not the tokenizer's.
        Interrupted: Ctrl-C; the checkpoint and the best model are kept.
        RunFailed: the disk is full, or the loss is no number any more.
    """
    windows = encode_examples(task, train)
    if not windows or not dev:
        raise InvalidValue(
            f"training needs examples with labels: {len(windows)} windows to train on and {len(dev)} dev"
            " examples came. Give both."
        )
    contrast = Contrast(train, sizes=task.settings["dimensions"]) if task.head.pooled else None
    check_adaptable(base, adapt=settings.adapt)
    folder.mkdir(parents=True, exist_ok=True)
    identity = identify_run(base, labels=task.head.outputs, windows=windows, dev=dev, settings=settings)
    if contrast:
        identity["training data"] += contrast.fingerprint()
    found = load_checkpoint(folder, identity=identity)
    if found and found.progress.is_done and (folder / "best" / "model.safetensors").is_file():
        return _conclude(folder, found.progress, was_resumed=True)
    if found and found.tensors is None:  # finished, and then its model was taken away
        found = None
    with torch_state(settings.seed):
        steps = Steps(base, head=task.head, windows=windows, settings=settings, contrast=contrast)
        progress = found.progress if found else Progress()
        if found and found.tensors is not None:
            steps.load_state(found.tensors)
            say(f"going on at epoch {progress.epoch + 1}, step {progress.step} of {steps.n_steps}")
        for reason in steps.reasons:
            say(reason)
        run = _Run(
            steps, progress, task=task, dev=dev, folder=folder, settings=settings, identity=identity,
            tokenizer_file=tokenizer_file,
        )  # fmt: skip
        try:
            run.go()
        except (OSError, RuntimeError) as error:  # TensorBoard's writer hits the full disk too
            no_room = find_no_room(error)
            if no_room is not None and not isinstance(error, RunFailed):
                raise not_written(folder / "tensorboard", no_room) from error
            raise
    return _conclude(folder, progress, was_resumed=found is not None)


class _Run:
    """One run in its folder: the steps to do, how far it is, and where it is written."""

    def __init__(
        self,
        steps: Steps,
        progress: Progress,
        *,
        task: Task,
        dev: Sequence[Example],
        folder: Path,
        settings: TrainSettings,
        identity: dict[str, str],
        tokenizer_file: Path,
    ) -> None:
        self._reasons: list[str] = []
        self._steps, self._progress = steps, progress
        self._task, self._dev = task, dev
        self._folder, self._settings = folder, settings
        self._identity, self._tokenizer_file = identity, tokenizer_file
        self._save_after = time.monotonic() + settings.checkpoint_every_s

    def go(self) -> None:
        """Train until the epochs are done or dev has stopped rising."""
        progress, steps = self._progress, self._steps
        with (
            catch_interrupt() as stop,
            open_board(
                self._folder, step=progress.step, tracker=self._settings.tracker, chosen=asdict(self._settings)
            ) as board,
            bar("training", total=steps.n_steps) as advance,
        ):
            while not progress.is_done:
                self._train_epoch(board, advance=advance, stop=stop)
                self._end_epoch(board)
                if stop.is_wanted and not progress.is_done:
                    self._stop()
            advance(progress.step, _note(progress))
        summary = _summarise(progress, adapt=self._settings.adapt)
        say(summary)
        progress.reasons = [*steps.reasons, *self._reasons, summary]
        self._save(is_final=True)

    def _train_epoch(self, board: Board, *, advance: Advance, stop: Stop) -> None:
        progress, steps = self._progress, self._steps
        n_batches = len(steps.plans[progress.epoch])
        while progress.batch < n_batches:
            started = time.monotonic()
            loss, rate = steps.step(progress.epoch, progress.batch, step=progress.step)
            if not math.isfinite(loss):
                raise self._loss_failed(loss)
            progress.batch += 1
            progress.step += 1
            progress.losses += loss
            progress.epoch_seconds += time.monotonic() - started
            board.add_scalar("train/loss", loss, progress.step)
            board.add_scalar("train/learning_rate", rate, progress.step)
            advance(progress.step, _note(progress))
            if stop.is_wanted:
                self._stop()
            if time.monotonic() >= self._save_after:
                self._save()

    def _end_epoch(self, board: Board) -> None:
        """Score dev, keep the model when it is the best yet, and decide whether to go on."""
        progress, settings = self._progress, self._settings
        started = time.monotonic()
        progress.n_trained = self._steps.n_trained
        with self._steps.whole_tagger() as tagger:
            progress.n_weights = sum(weights.numel() for weights in tagger.parameters())
            score = self._steps.score(self._task, self._dev)
            is_best = progress.best is None or score.value > progress.best.value
            if is_best:
                save_tagger(tagger, self._folder / "best", tokenizer_file=self._tokenizer_file)
                progress.best = score
        assert progress.best is not None
        # A score of 0 is no plateau: the head has not begun to speak.
        progress.stale = 0 if is_best or progress.best.value <= 0 else progress.stale + 1
        seconds = progress.epoch_seconds + time.monotonic() - started
        progress.peak_mb = max(progress.peak_mb, _peak_mb())
        row = EpochRow(
            epoch=progress.epoch + 1, loss=progress.losses / progress.batch, dev=score.value, seconds=seconds,
            is_best=is_best,
        )  # fmt: skip
        board.add_scalar(f"dev/{score.name}", score.value, progress.step)
        say(f"epoch {row.epoch}: loss {row.loss:.4f}, dev {score.name} {row.dev:.2f}, {row.seconds:.1f} s")
        progress.rows.append(row)
        progress.seconds += seconds
        progress.epoch, progress.batch, progress.losses, progress.epoch_seconds = (
            progress.epoch + 1,
            0,
            0.0,
            0.0,
        )
        if settings.patience is not None and progress.stale >= settings.patience:
            progress.is_done = True
            reason = (
                f"stopped after epoch {row.epoch}: dev {score.name} had not risen for {progress.stale} epochs"
            )
            self._reasons.append(reason)
            say(reason)
        progress.is_done = progress.is_done or progress.epoch == settings.epochs

    def _stop(self) -> None:
        self._save()
        best = self._progress.best
        kept = "no epoch was finished yet"
        if best:
            kept = f"the best so far (dev {best.name} {best.value:.2f}) is in {self._folder / 'best'}"
        raise Interrupted(
            f"training stopped at step {self._progress.step} of {self._steps.n_steps}: {kept}."
            " Run the same command again to go on from here."
        )

    def _save(self, *, is_final: bool = False) -> None:
        started = time.monotonic()
        tensors = None if is_final else self._steps.state()
        save_checkpoint(
            self._folder, Checkpoint(progress=self._progress, tensors=tensors), identity=self._identity
        )
        took = time.monotonic() - started
        self._save_after = time.monotonic() + max(self._settings.checkpoint_every_s, _SAVING_SHARE * took)

    def _loss_failed(self, loss: float) -> RunFailed:
        rate = self._steps.learning_rate
        return RunFailed(
            f"the loss became {loss} at step {self._progress.step + 1} with learning rate {rate:g}: a finite"
            f" number is needed. Train in another folder with a lower learning rate, {rate / 3:.1g} say"
            f"{', or without bf16' if self._steps.is_bf16 else ''}."
        )


def _conclude(folder: Path, progress: Progress, *, was_resumed: bool) -> TrainResult:
    assert progress.best is not None
    return TrainResult(
        best=folder / "best", dev_score=progress.best, epochs=tuple(progress.rows), seconds=progress.seconds,
        reasons=tuple(progress.reasons), was_resumed=was_resumed, n_trained=progress.n_trained,
        n_weights=progress.n_weights, peak_mb=progress.peak_mb,
    )  # fmt: skip


def _summarise(progress: Progress, *, adapt: str) -> str:
    assert progress.best is not None
    share = 100 * progress.n_trained / max(progress.n_weights, 1)
    return (
        f"adapted by {adapt}: {progress.n_trained:,} of {progress.n_weights:,} weights trained ({share:.3g} %), peak"
        f" memory {progress.peak_mb:,.0f} MB, {progress.seconds:.1f} s,"
        f" dev {progress.best.name} {progress.best.value:.2f}"
    )


def _peak_mb() -> float:
    """Give the most memory that this process ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6  # macOS counts bytes, Linux KiB


def _note(progress: Progress) -> str:
    loss = f"loss {progress.losses / progress.batch:.3f}" if progress.batch else ""
    dev = f"dev {progress.best.name} {progress.best.value:.1f}" if progress.best else ""
    return ", ".join(part for part in (loss, dev) if part)
