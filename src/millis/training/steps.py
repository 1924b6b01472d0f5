"""The steps of a run: what each computes, and the state that the next one starts from.

Border: torch; no files, no clock, no decision when to stop. The same state and plan give the same weights (on a GPU
but for the last bits: its sums have no fixed order).
Source: AdamW, Loshchilov & Hutter 2019, arXiv:1711.05101; warm-up and linear decay as in Devlin et al. 2019,
arXiv:1810.04805, appendix A.2.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from millis.cores import n_cores
from millis.data.examples import Example
from millis.errors import InvalidValue
from millis.models.devices import choose_device
from millis.models.prediction import predict_examples
from millis.models.taggers import Tagger, build_tagger
from millis.tasks.task import IGNORED, Head, Score, Task, Window
from millis.telemetry.progress import bar
from millis.training.adapting import Adaptation
from millis.training.batches import make_batch, padding_share, plan_epochs
from millis.training.contrast import Contrast
from millis.training.pace import choose_pace
from millis.training.settings import TrainSettings, choose_learning_rate, choose_precision
from millis.training.vocabulary import UsedRows


class Steps:
    """A tagger, its optimizer, and every batch of every epoch.

    Args:
        base: the folder to start from.
        windows: with targets.
        contrast: what is learnt where windows have no targets of their own; None learns the targets.
    Raises:
        InvalidValue: a window is longer than the base can read, or there is no such device.
        InvalidBase: the base does not load, or is not the tokenizer's.
    """

    def __init__(
        self, base: Path, *, head: Head, windows: Sequence[Window], settings: TrainSettings,
        contrast: Contrast | None = None,
    ) -> None:  # fmt: skip
        self._settings = settings
        self.device, device_reason = choose_device(settings.device)
        self._tagger = build_tagger(base, head=head, seed=settings.seed).to(self.device).train()
        lengths = np.array([len(window.ids) for window in windows], np.int64)
        if lengths.max() > self._tagger.longest:
            raise InvalidValue(
                f"a window has {lengths.max()} tokens and the base reads {self._tagger.longest}:"
                f" cut windows with max_tokens={self._tagger.longest} or less."
            )
        self._rows = UsedRows(self._tagger, windows)
        self._windows = [self._rows.renumber(window) for window in windows]
        self.weights = _balance(windows, head=head).to(self.device) if settings.balance else None
        self._contrast = contrast
        self._units = contrast.units if contrast else [(place,) for place in range(len(windows))]
        lengths = np.array([max(lengths[place] for place in unit) for unit in self._units], np.int64)
        self.plans = plan_epochs(lengths, settings=settings, together=max(map(len, self._units)))
        self.n_steps = sum(len(plan) for plan in self.plans)
        padding = padding_share(lengths, self.plans[0])
        self.mean_tokens = float(lengths.mean()) / (1 - padding)
        """Tokens that a window costs on average, padding counted."""
        self.learning_rate, rate_reason = choose_learning_rate(
            settings, width=int(self._tagger.config.hidden_size)
        )
        pace, pace_reason = choose_pace(self._tagger, self._windows, head=head, adapt=settings.adapt)
        self._adaptation = Adaptation(
            self._tagger, method=settings.adapt, n_steps=self.n_steps, windows=self._windows, seed=settings.seed
        )
        self._tagger.to(self.device)  # what a method put in, too
        self.n_trained = self._adaptation.n_trained
        gpu_has_bf16 = torch.cuda.is_bf16_supported() if self.device.type == "cuda" else None
        self.is_bf16, precision_reason = choose_precision(settings, gpu_has_bf16=gpu_has_bf16)
        self._optimizer = _make_optimizer(self._tagger, settings=settings, pace=pace)
        self.reasons = (
            device_reason,
            precision_reason,
            rate_reason,
            *([pace_reason] if pace_reason else []),
            f"batches of like length, up to {settings.batch_size}:"
            f" {100 * padding:.1f} % of their tokens are padding",
            f"{self._rows.n} of {self._rows.n_all} embedding rows trained: training text uses no others"
            if settings.adapt == "full"
            else f"{settings.adapt}: {self.n_trained:,} weights are trained, the base's are frozen",
        )

    def step(self, epoch: int, batch: int, *, step: int) -> tuple[float, float]:
        """Take one step; give its loss and learning rate. A loss that is not finite changes no weights."""
        units = [self._units[place] for place in self.plans[epoch][batch]]
        windows = [self._windows[place] for unit in units for place in unit]
        made = make_batch(windows, pad_id=self._tagger.pad_id)
        ids, mask, targets = (tensor.to(self.device) for tensor in made)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.is_bf16):
            logits = self._tagger(ids, mask)
        if self._contrast:
            loss = self._contrast.loss(logits[:, 0], units)
        else:
            loss = compare_labels(logits, targets, weights=self.weights)
        value = float(loss.detach())
        penalty = self._adaptation.penalty()
        loss = loss if penalty is None else loss + penalty
        rate = self.learning_rate * rate_share(
            step, n_steps=self.n_steps, warmup_share=self._settings.warmup_share
        )
        if np.isfinite(value):
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._tagger.parameters(), self._settings.max_gradient_norm)
            for group in self._optimizer.param_groups:
                group["lr"] = rate * group["times"]
            self._optimizer.step()
            self._adaptation.end_step(step)
            self._optimizer.zero_grad(set_to_none=True)
        return value, rate

    def score(self, task: Task, examples: Sequence[Example]) -> Score:
        """Score the tagger, whole, in fp32."""
        return task.score(examples, predict_examples(self._tagger, task=task, examples=examples))

    @contextmanager
    def whole_tagger(self) -> Iterator[Tagger]:
        """Give the tagger as it is to be saved, all its embedding rows in it, while the block runs; score scores it."""
        with self._rows.whole():
            trained, self._tagger = self._tagger, self._adaptation.whole()
            try:
                yield self._tagger
            finally:
                self._tagger = trained

    def state(self) -> dict[str, Any]:
        """Give all that the next step depends on, apart from its number."""
        return {
            "tagger": self._tagger.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random on cuda": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
            "adaptation": self._adaptation.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave, in a process that may be another."""
        self._tagger.load_state_dict(state["tagger"])
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        on_cuda = state.get("random on cuda")
        if on_cuda is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(on_cuda)
        self._adaptation.load_state(state["adaptation"])


def rate_share(step: int, *, n_steps: int, warmup_share: float) -> float:
    """Give the share of the peak learning rate at a step from 0: up in a line, then down, never 0."""
    n_warmup = min(round(warmup_share * n_steps), n_steps - 1)
    if step < n_warmup:
        return (step + 1) / (n_warmup + 1)
    return (n_steps - step) / (n_steps - n_warmup)


Planned = TypeVar("Planned")


def descend(
    optimizer: torch.optim.Optimizer, loss_of: Callable[[Planned], torch.Tensor], *,
    plans: Sequence[Sequence[Planned]], peak: float, settings: TrainSettings, name: str, is_clipped: bool = True,
) -> None:  # fmt: skip
    """Take every step of a short training, of which nothing is kept on the way.

    Args:
        optimizer: of all that is trained; its rate is set here.
        loss_of: gives the loss, float (), of what a step is on: the windows at these places.
        plans: what each step is on, epoch by epoch, as `plan_epochs` gives it.
        peak: of the learning rate.
        settings: its warm-up, and the norm that gradients are scaled down to where is_clipped.
        name: what the progress bar says.
    """
    n_steps = sum(map(len, plans))
    weights = [one for group in optimizer.param_groups for one in group["params"]]
    with bar(name, total=n_steps) as advance:
        for step, places in enumerate(chain.from_iterable(plans)):
            loss = loss_of(places)
            loss.backward()
            if is_clipped:
                torch.nn.utils.clip_grad_norm_(weights, settings.max_gradient_norm)
            for group in optimizer.param_groups:
                group["lr"] = peak * rate_share(step, n_steps=n_steps, warmup_share=settings.warmup_share)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            advance(step + 1, f"loss {float(loss.detach()):.3f}")


@contextmanager
def torch_state(seed: int) -> Iterator[None]:
    """Seed torch and give it every core while the block runs; then put both back."""
    threads = torch.get_num_threads()
    gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        torch.set_num_threads(n_cores())
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def compare_labels(logits: torch.Tensor, targets: torch.Tensor, *, weights: torch.Tensor | None) -> torch.Tensor:
    """Compute the cross-entropy, float32 (), of logits (B, R, C) and targets (B, R), the mean of those that count.

    Args:
        weights: of outputs, float32 (R, C), or (1, C) for all rows; None weighs all alike.
    """
    each = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED,
        reduction="mean" if weights is None else "none",
    )  # fmt: skip
    if weights is None:
        return each
    rows = torch.arange(targets.shape[1], device=targets.device) % len(weights)
    weight = (weights[rows, targets.clamp(min=0)] * (targets != IGNORED)).flatten()
    return (each * weight).sum() / weight.sum()


def _balance(windows: Sequence[Window], *, head: Head) -> torch.Tensor:
    """Weigh outputs so that each label counts the same in all targets together; 1 on average.

    Returns:
        float32 (1, C): labels are outputs; float32 (R, C) of a head with several rows: labels are rows, and of each
        output, yes as well as no, every row gets the same.
    """
    targets = [window.targets for window in windows if window.targets is not None]
    n_rows, n_outputs = head.rows or 1, head.shape(1)[1]
    by_row = np.stack(targets).T if n_rows > 1 else [np.concatenate(targets)]
    counts = np.stack([np.bincount(row[row != IGNORED], minlength=n_outputs) for row in by_row])  # (R, C)
    share = counts.mean(axis=0, keepdims=True) if n_rows > 1 else counts.mean(axis=1, keepdims=True)
    return torch.from_numpy((share / np.maximum(counts, 1)).astype(np.float32))


def _make_optimizer(tagger: Tagger, *, settings: TrainSettings, pace: float) -> torch.optim.AdamW:
    """Make AdamW without decay of biases, norms and embeddings: unused rows must stay as they are.

    Where the base is frozen nothing decays: what is put in begins as a change of nothing, or as a piece of text.

    Args:
        pace: how many times the rate the head gets.
    """
    decayed: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    head: list[torch.nn.Parameter] = []
    for name, weights in tagger.named_parameters():
        if not weights.requires_grad:
            continue
        if name.startswith("network.classifier.") and pace != 1:
            head.append(weights)
        elif settings.adapt == "full" and weights.ndim >= 2 and "embeddings." not in name:
            decayed.append(weights)
        else:
            plain.append(weights)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay, "times": 1.0},
        {"params": plain, "weight_decay": 0.0, "times": 1.0},
        *([{"params": head, "weight_decay": 0.0, "times": pace}] if head else []),
    ]
    return torch.optim.AdamW(groups, lr=0.0, fused=True)
