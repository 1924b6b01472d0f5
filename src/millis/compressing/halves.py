"""What every way of pruning does to layers' halves: silence their units, see what goes in, fit again what stays.

    make_batches, predict_labels, measure_divergence   how far a model's labels are from another's
    masked, skipped                                    units silent, or halfway so, or a layer, while a block runs
    measure_products, refit, remove                    units gone, and their work put on those that stay

Border: does as it is told; which units go is decided by the passes.
Source: Kwon et al. 2022, arXiv:2204.09656 (masks fitted by least squares; here the whole matrix out is).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from millis.backends.encoder import Part
from millis.models.prediction import plan_by_length
from millis.models.taggers import Tagger
from millis.tasks.task import IGNORED, Window
from millis.training.batches import Batch, make_batch

_RIDGE = 1e-3


def spread(windows: Sequence[Window], n: int) -> list[Window]:
    """Take n windows at most, evenly from among all."""
    return list(windows[:: max(len(windows) // n, 1)][:n])


def make_batches(tagger: Tagger, windows: Sequence[Window], *, batch_tokens: int = 2_048) -> list[Batch]:
    """Put windows of like length together, the shortest first, up to batch_tokens with their padding."""
    plan = plan_by_length([len(window.ids) for window in windows], batch_tokens=batch_tokens)
    return [make_batch([windows[row] for row in rows], pad_id=tagger.pad_id) for rows in plan]


def predict_labels(model: Tagger, batches: Sequence[Batch]) -> list[torch.Tensor]:
    """Give the logarithms of the labels' chances, (places with a target, K) per batch."""
    with torch.inference_mode():
        return [model(ids, mask)[targets != IGNORED].log_softmax(-1) for ids, mask, targets in batches]


def measure_divergence(model: Tagger, batches: Sequence[Batch], wanted: Sequence[torch.Tensor]) -> float:
    """Measure the mean divergence of the model's labels from those wanted, in nats per token."""
    seen = predict_labels(model, batches)
    total = sum(
        float(torch.nn.functional.kl_div(got, want, reduction="sum", log_target=True))
        for got, want in zip(seen, wanted, strict=True)
    )
    return max(total, 0.0) / sum(len(want) for want in wanted)


@contextmanager
def masked(parts: Sequence[Part], masks: Sequence[torch.Tensor]) -> Iterator[None]:
    """Multiply each half's units by its mask, (B, n_units), while the block runs."""

    def multiply(part: Part, mask: torch.Tensor, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        return (inputs[0] * mask.repeat_interleave(part.unit, dim=1)[:, None],)

    handles = [
        part.out.register_forward_pre_hook(lambda _, inputs, part=part, mask=mask: multiply(part, mask, inputs))
        for part, mask in zip(parts, masks, strict=True)
        if part.n_units
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def skipped(layer: torch.nn.Module) -> Iterator[None]:
    """Have a layer give what it is given, while the block runs."""

    def pass_by(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], out: Any) -> Any:
        return (inputs[0], *out[1:]) if isinstance(out, tuple) else inputs[0]

    handle = layer.register_forward_hook(pass_by)
    try:
        yield
    finally:
        handle.remove()


def measure_products(model: Tagger, parts: Sequence[Part], batches: Sequence[Batch]) -> list[torch.Tensor]:
    """Sum X^T X, float64 (n, n), of what goes into each half's matrix out, over all real tokens."""
    sizes = [part.n_units * part.unit for part in parts]
    sums = [torch.zeros(size, size, dtype=torch.float64) for size in sizes]
    real = torch.empty(0, dtype=torch.bool)

    def add(total: torch.Tensor, inputs: tuple[torch.Tensor, ...]) -> None:
        rows = inputs[0][real]
        total += (rows.T @ rows).double()

    handles = [
        part.out.register_forward_pre_hook(lambda _, inputs, total=total: add(total, inputs))
        for part, total in zip(parts, sums, strict=True)
        if part.n_units
    ]
    try:
        with torch.inference_mode():
            for ids, mask, _ in batches:
                real = mask.bool()
                model(ids, mask)
    finally:
        for handle in handles:
            handle.remove()
    return sums


def columns_of(part: Part, units: Sequence[int]) -> torch.Tensor:
    """List the columns of the matrix out that units take, int64."""
    return torch.tensor([unit * part.unit + i for unit in units for i in range(part.unit)], dtype=torch.long)


def refit(whole: torch.Tensor, product: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Fit the matrix out of the kept columns to what all of them gave, by least squares.

    Args:
        whole: (D, n). product: X^T X of what went into it, float64 (n, n).
    """
    if not len(columns):
        return whole[:, :0].clone()
    kept = product[columns][:, columns]
    ridge = _RIDGE * float(kept.diagonal().mean())
    left = kept + ridge * torch.eye(len(columns), dtype=torch.float64)
    right = product[columns] @ whole.double().T + ridge * whole[:, columns].double().T
    return torch.linalg.solve(left, right).T.float().contiguous()


def remove(part: Part, *, kept: Sequence[int], weight: torch.Tensor) -> None:
    """Remove all units but those kept, and put this matrix, (D, len(kept) * size), behind them."""
    if len(kept) == part.n_units:
        return
    part.keep(kept)
    if kept:
        with torch.no_grad():
            part.out.weight.copy_(weight)
