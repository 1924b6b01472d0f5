"""Fine-tune a causal language model on dialogues: the loss is on answers only, several dialogues share a row.

The epoch with the least loss on dev is kept, in folder/best.pt; folder/checkpoint.pt is written after each epoch, from
which a killed run goes on to the same weights.
Border: a speaker and ids in, the speaker with other weights out; what a dialogue's ids are is tasks/chat.py's.
Limits: one process, on the processor. Ways to adapt are full, lora and adalora, merged at the end: nothing stays in the
graph. What an epoch under way learnt is lost when the run ends.
"""

import copy
import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from millis.errors import Interrupted, InvalidValue, RunFailed
from millis.models.files import write_whole
from millis.telemetry.progress import bar, say
from millis.training.adapting import keep_apart, plan_low_rank, read_ranks, take_ranks
from millis.training.boards import open_board
from millis.training.checkpoints import Checkpoint, EpochRow, Progress, load_checkpoint, save_checkpoint
from millis.training.interrupts import catch_interrupt
from millis.training.lessons import ROW_TOKENS, Lesson, pack_rows, row_loss
from millis.training.methods import check_speaking_method
from millis.training.settings import TrainSettings, choose_learning_rate, choose_precision
from millis.training.steps import rate_share, torch_state

_FREE = ("device", "tracker")
"""Settings that change no result."""

_BEST = "best.pt"
_MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """What training gave.

    Args:
        perplexity: of the answers of dev, before and after.
        reasons: what was chosen, and why, one sentence each.
    """

    perplexity: tuple[float, float]
    epochs: tuple[EpochRow, ...]
    seconds: float
    reasons: tuple[str, ...]


def teach(
    model: Any, train: Sequence[Lesson], *, dev: Sequence[Lesson], folder: Path, settings: TrainSettings,
    teacher: Any = None,
) -> Taught:  # fmt: skip
    """Train a causal language model of torch, in place; it ends with the weights of the best epoch, merged.

    Args:
        teacher: a model of the same pieces whose answers are learnt too, half and half with the right ones; dev is
            measured by the right ones alone.
        folder: where the run lives. The same call on it again goes on after a kill.
    Raises:
        InvalidValue: nothing to train on, a folder of another run, or a way of adapting or a device that is not for
            such models.
        Interrupted: Ctrl-C; the epochs that were finished are kept.
        RunFailed: the disk is full, or the loss is no number any more.
    """
    check_speaking_method(settings.adapt)
    if settings.device == "cuda":
        raise InvalidValue("models that speak are trained on the processor: leave device to auto, or give cpu.")
    if not train or not dev:
        raise InvalidValue(f"training needs dialogues: {len(train)} to train on and {len(dev)} of dev are left.")
    folder.mkdir(parents=True, exist_ok=True)
    identity = _identify(model, train, dev, settings, teacher=teacher)
    found = load_checkpoint(folder, identity=identity)
    if found and not (folder / _BEST).is_file():  # its best epoch was taken away
        found = None
    progress = found.progress if found else Progress()
    with torch_state(settings.seed):
        run = _Run(model, train, settings, teacher=teacher)
        before = run.measure(dev)
        if found and found.tensors is not None:
            run.load_state(found.tensors)
            say(f"going on at epoch {progress.epoch + 1} of {settings.epochs}")
        for reason in run.reasons:
            say(reason)
        if not progress.is_done:
            _go(run, progress, dev=dev, folder=folder, settings=settings, identity=identity)
        run.take(torch.load(folder / _BEST, map_location="cpu", weights_only=True))
        after = run.measure(dev)
    return Taught(
        perplexity=(math.exp(before), math.exp(after)), epochs=tuple(progress.rows), seconds=progress.seconds,
        reasons=run.reasons,
    )  # fmt: skip


def _go(
    run: "_Run", progress: Progress, *, dev: Sequence[Lesson], folder: Path, settings: TrainSettings,
    identity: dict[str, str],
) -> None:  # fmt: skip
    with (
        catch_interrupt() as stop,
        open_board(folder, step=progress.step, tracker=settings.tracker, chosen=asdict(settings)) as board,
        bar("training", total=run.n_steps) as advance,
    ):
        while progress.epoch < settings.epochs and (settings.patience is None or progress.stale < settings.patience):
            began, losses, plan = time.perf_counter(), [], run.plans[progress.epoch]
            for row in plan:
                loss, rate = run.step(row, step=progress.step)
                if not math.isfinite(loss):
                    raise RunFailed("the loss is no number any more: try a smaller learning rate, or without bf16.")
                losses.append(loss)
                progress.step += 1
                board.add_scalar("loss", loss, progress.step)
                board.add_scalar("rate", rate, progress.step)
                advance(progress.step, f"loss {loss:.3f}")
                if stop.is_wanted:
                    raise Interrupted(
                        f"stopped in epoch {progress.epoch + 1}: {progress.epoch} finished epoch(s) are kept in"
                        f" {folder}, and the same command goes on from there."
                    )
            value = run.measure(dev)
            progress.epoch += 1
            is_best = value < min((row.dev for row in progress.rows), default=math.inf)
            seconds = time.perf_counter() - began
            progress.seconds += seconds
            mean = float(np.mean(losses))
            progress.rows.append(EpochRow(epoch=progress.epoch, loss=mean, dev=value, seconds=seconds, is_best=is_best))
            progress.stale = 0 if is_best else progress.stale + 1
            board.add_scalar("dev loss", value, progress.step)
            if is_best:
                kept = run.whole()
                write_whole(folder / _BEST, lambda out, kept=kept: torch.save(kept, out))  # type: ignore[misc]
            save_checkpoint(folder, Checkpoint(progress=progress, tensors=run.state()), identity=identity)
            say(f"epoch {progress.epoch}: loss {mean:.4f}, dev perplexity {math.exp(value):.2f}, {seconds:.1f} s")
    progress.is_done = True
    save_checkpoint(folder, Checkpoint(progress=progress, tensors=None), identity=identity)


class _Run:
    """The steps of a run, each on one row of dialogues."""

    def __init__(self, model: Any, train: Sequence[Lesson], settings: TrainSettings, *, teacher: Any = None) -> None:
        self._model, self._train, self._settings = model, train, settings
        self._teacher = None if teacher is None else teacher.eval()
        self.plans = [pack_rows(train, seed=f"{settings.seed} {epoch}") for epoch in range(settings.epochs)]
        self.n_steps = sum(map(len, self.plans))
        self._rate, rate_reason = choose_learning_rate(settings, width=int(model.config.hidden_size))
        self._is_bf16, precision_reason = choose_precision(settings)
        self._peft = _wrap(model, settings.adapt, n_steps=self.n_steps)
        trained = [weights for weights in model.parameters() if weights.requires_grad]
        decayed, plain = ([one for one in trained if (one.ndim >= 2) == is_matrix] for is_matrix in (True, False))
        decay = settings.weight_decay if settings.adapt == "full" else 0.0
        self._optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}], lr=0.0
        )
        n_tokens = sum(len(one.ids) for one in train)
        n_trained, n_all = sum(one.numel() for one in trained), sum(one.numel() for one in model.parameters())
        self.reasons = (
            precision_reason,
            rate_reason,
            f"{settings.adapt}: {n_trained:,} of {n_all:,} weights trained",
            f"rows of {ROW_TOKENS} tokens hold {len(train) / len(self.plans[0]):.1f} dialogues each;"
            f" {100 - 100 * n_tokens / (ROW_TOKENS * len(self.plans[0])):.1f} % of their room is left empty",
        )

    def step(self, row: Sequence[int], *, step: int) -> tuple[float, float]:
        """Take one step; give its loss and learning rate."""
        self._model.train()
        loss, n = self._loss([self._train[place] for place in row], teacher=self._teacher)
        loss = loss / n
        value = float(loss.detach())
        rate = self._rate * rate_share(step, n_steps=self.n_steps, warmup_share=self._settings.warmup_share)
        if math.isfinite(value):
            if self._settings.adapt == "adalora":
                loss = loss + keep_apart(self._model)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._settings.max_gradient_norm)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
            if self._settings.adapt == "adalora":
                self._peft.base_model.update_and_allocate(step)
            self._optimizer.zero_grad(set_to_none=True)
        return value, rate

    def measure(self, lessons: Sequence[Lesson]) -> float:
        """Give the mean loss of answers' pieces, natural logarithm."""
        self._model.eval()
        total, n = 0.0, 0
        with torch.inference_mode():
            for row in pack_rows(lessons, seed="in order"):
                loss, count = self._loss([lessons[place] for place in row])
                total, n = total + float(loss), n + count
        return total / n

    def _loss(self, lessons: Sequence[Lesson], *, teacher: Any = None) -> tuple[torch.Tensor, int]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._is_bf16):
            return row_loss(self._model, lessons, teacher=teacher)

    def whole(self) -> dict[str, torch.Tensor]:
        """Give the weights as they would be merged, by their names in the model as it came."""
        if self._peft is None:
            return {name: value.detach().clone() for name, value in self._model.state_dict().items()}
        table = self._model.get_input_embeddings().weight  # nothing is merged into it
        merged = copy.deepcopy(self._peft, {id(table): table}).merge_and_unload()
        return {name: value.detach().clone() for name, value in merged.state_dict().items()}

    def take(self, weights: dict[str, torch.Tensor]) -> None:
        """Put merged weights into the model, in place of what training put around them."""
        if self._peft is not None:
            self._peft.unload()
            self._peft = None
        self._model.load_state_dict(weights)
        self._model.requires_grad_(True)

    def state(self) -> dict[str, Any]:
        """Give all that the next epoch depends on."""
        trained = {name: value for name, value in self._model.named_parameters() if value.requires_grad}
        ranks = read_ranks(self._peft) if self._settings.adapt == "adalora" else {}
        return {
            "weights": trained, "optimizer": self._optimizer.state_dict(), "random": torch.get_rng_state(),
            "ranks": ranks,
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self._model.load_state_dict(state["weights"], strict=False)
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if state["ranks"]:
            take_ranks(self._peft, state["ranks"])


def _wrap(model: Any, method: str, *, n_steps: int) -> Any:
    """Put peft's layers into a model, in place; None where all of it is trained."""
    model.requires_grad_(method == "full")
    if method == "full":
        return None
    import peft

    return peft.get_peft_model(model, plan_low_rank(method, matrices=_MATRICES, n_steps=n_steps))


def _identify(
    model: Any, train: Sequence[Lesson], dev: Sequence[Lesson], settings: TrainSettings, *, teacher: Any
) -> dict[str, str]:
    """Name everything that decides a run's result."""
    hashes = {"training data": hashlib.sha256(), "dev data": hashlib.sha256()}
    for name, lessons in (("training data", train), ("dev data", dev)):
        for one in lessons:
            hashes[name].update(one.n_prompt.to_bytes(4, "little") + len(one.ids).to_bytes(4, "little"))
            hashes[name].update(one.ids.tobytes())
    for name, one in {"base": model, "teacher": teacher}.items():
        if one is not None:
            hashes[name] = hashlib.sha256()
            for weights in one.state_dict().values():
                hashes[name].update(weights.detach().contiguous().view(torch.uint8).numpy().tobytes())
    chosen = {f"setting {name}": repr(value) for name, value in asdict(settings).items() if name not in _FREE}
    return {**chosen, **{name: made.hexdigest() for name, made in hashes.items()}}
