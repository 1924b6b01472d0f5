"""Structured pruning by gradient: each head and channel has a gate that learns, against the milliseconds, to stay open.

    TimeTable        milliseconds of half a layer, differentiable in the number of its units
    draw_gates       hard concrete gates: 0 or 1 mostly, and a gradient all the same
    prune_by_gates   train the gates, keep the units whose gates are most likely open, remove the others

A half whose gates all close is gone, so a layer needs no gate of its own. What stays is fitted again by least squares.
Border: as prune.py, whose interface it has: a torch tagger in, a smaller one out, times from the caller's table. The
weights stay as they are; recovering by distillation is training's matter.
Limits: one training of gates per budget. Latency is that of the expected number of units, which is the expected latency
where the table is straight; a step in the table is felt only by a number that stands on it.
Source: hard concrete gates, Louizos et al. 2018, arXiv:1712.01312; a Lagrangian for the size, Wang et al. 2020,
arXiv:1910.04732, and CoFi, arXiv:2204.00408. We differ in what is bounded, milliseconds instead of a count of weights,
and in the multiplier: it is not raised step by step but found in each, and the gates are put back on the bound, as in
gradient projection (Rosen 1960, doi:10.1137/0108011). Raised step by step it overshot, and closed gates stay closed.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from millis.backends.encoder import Part, find_parts, read_shape, record_shape
from millis.compressing.halves import (
    columns_of,
    make_batches,
    masked,
    measure_divergence,
    measure_products,
    predict_labels,
    refit,
    remove,
    spread,
)
from millis.compressing.prune import Cost, Pruned, choose
from millis.models.taggers import Tagger
from millis.tasks.task import IGNORED, Window
from millis.telemetry.progress import bar
from millis.training.batches import Batch
from millis.training.settings import TrainSettings, choose_precision
from millis.training.steps import torch_state

_LOW, _HIGH, _TEMPERATURE = -0.1, 1.1, 2 / 3
"""Of the hard concrete distribution: how far it is stretched before it is cut at 0 and 1; all as in the paper."""

_LEARNING_RATE = 0.1
_FALLING_SHARE = 0.7
"""Of the steps over which the time falls from the whole model's to the budget; in the others the gates decide."""

_FARTHEST, _HALVINGS = 8.0, 16
"""How far all gates may be moved alike in a step, in log odds, and how finely."""

_VECTOR = 16
_BATCH_TOKENS = 1_024
_N_TRAINED = 4_000
_LEAST_PRICE = 1e-9


class TimeTable:
    """The milliseconds of half a layer, in straight lines between the sizes that it could be given.

    Args:
        part: heads may have any number, channels multiples of 16.
        cost: asked once for each size.
    """

    def __init__(self, part: Part, cost: Cost) -> None:
        every = 1 if part.kind == "heads" else _VECTOR
        self.sizes = (*range(0, part.n_units, every), part.n_units)
        self.ms = tuple(cost(part.kind, size) for size in self.sizes)
        self._sizes = torch.tensor(self.sizes, dtype=torch.float64)
        self._ms = torch.tensor(self.ms, dtype=torch.float64)

    def __call__(self, n_units: torch.Tensor) -> torch.Tensor:
        """Give the milliseconds, float64 (), of a number of units, float (), that need not be whole."""
        n_units = n_units.double()
        right = int(torch.searchsorted(self._sizes, n_units.detach()).clamp(1, len(self.sizes) - 1))
        (a, b), (start, end) = self._sizes[right - 1 : right + 1], self._ms[right - 1 : right + 1]
        return start + (end - start) * (n_units - a) / (b - a)


def draw_gates(log_odds: torch.Tensor, *, n: int) -> torch.Tensor:
    """Draw n values of each gate, 0 to 1, float32 (n, n_units), differentiable in its log odds, (n_units,)."""
    noise = torch.rand(n, len(log_odds)).clamp(1e-6, 1 - 1e-6).logit()
    return (torch.sigmoid((log_odds + noise) / _TEMPERATURE) * (_HIGH - _LOW) + _LOW).clamp(0, 1)


def open_chance(log_odds: torch.Tensor) -> torch.Tensor:
    """Give the chance that a drawn gate is not 0."""
    return torch.sigmoid(log_odds - _TEMPERATURE * math.log(-_LOW / _HIGH))


def expected_ms(tables: Sequence[TimeTable], log_odds: Sequence[torch.Tensor]) -> torch.Tensor:
    """Give the milliseconds of all halves together, float64 (), at the numbers of gates expected to be open."""
    each = [table(open_chance(odds).sum()) for table, odds in zip(tables, log_odds, strict=True)]
    return torch.stack(each).sum()


def prune_by_gates(
    tagger: Tagger,
    windows: Sequence[Window],
    *,
    cost: Cost,
    budget_ms: float,
    n_steps: int = 400,
    n_fitted: int = 1_000,
    n_losses: int = 64,
    seed: int = 7,
) -> Pruned:
    """Give a copy of a tagger with the units whose gates stayed open when time was taken from them.

    Args:
        tagger: as it was trained; left as it is.
        windows: of the training data, with targets, which say only which places count.
        cost: times of the sizes.
        budget_ms: of all layers together; embedding and head are not in it.
        n_steps: of training the gates.
        n_fitted, n_losses: windows that serve refitting, and measuring the loss of what comes out.
        seed: of the gates' draws and the order of batches.
    Raises:
        InvalidValue: the budget is below what the layers take with nothing in them.
    Cost: a step runs 1,024 tokens forward and back.
    """
    model: Tagger = copy.deepcopy(tagger).eval().requires_grad_(False)
    parts = find_parts(model.network)
    tables = [TimeTable(part, cost) for part in parts]
    with torch_state(seed):
        undecided = [torch.zeros(part.n_units) for part in parts]
        _choose(tables, undecided, budget_ms=budget_ms)  # a budget that cannot be met is refused now, not after minutes
        trained = make_batches(model, spread(windows, _N_TRAINED), batch_tokens=_BATCH_TOKENS)
        log_odds = _train(model, tables, batches=trained, budget_ms=budget_ms, n_steps=n_steps)
        chosen = _choose(tables, log_odds, budget_ms=budget_ms)
        judged = make_batches(model, spread(windows, n_losses))
        wanted = predict_labels(model, judged)
        products = measure_products(model, parts, make_batches(model, spread(windows, n_fitted)))
        for part, option, product in zip(parts, chosen, products, strict=True):
            remove(part, kept=option.units, weight=refit(part.out.weight, product, columns_of(part, option.units)))
        record_shape(model.network)
        loss = measure_divergence(model, judged, wanted)
    return Pruned(
        tagger=model.requires_grad_(True), shape=read_shape(model.network), ms=sum(option.ms for option in chosen),
        loss=loss,
    )  # fmt: skip


def _train(
    model: Tagger, tables: Sequence[TimeTable], *, batches: Sequence[Batch], budget_ms: float, n_steps: int
) -> list[torch.Tensor]:
    """Train gates to keep the model's own labels while the time that they may take falls to the budget.

    Returns:
        log odds, float32 (n_units,) per half.
    """
    parts = find_parts(model.network)
    gates = [torch.zeros(part.n_units, requires_grad=True) for part in parts]
    optimizer = torch.optim.Adam(gates, lr=_LEARNING_RATE, betas=(0.9, 0.99), eps=1e-16)  # no unit of time is too small
    is_bf16, _ = choose_precision(TrainSettings())
    wanted = predict_labels(model, batches)
    whole_ms = sum(table.ms[-1] for table in tables)
    with bar(f"pruning to {100 * budget_ms / whole_ms:.0f} % by gates", total=n_steps) as advance:
        for step, place in zip(range(n_steps), _endless(len(batches)), strict=False):
            fallen = min((step + 1) / (_FALLING_SHARE * n_steps), 1.0)
            _meet(tables, gates, target_ms=whole_ms + (budget_ms - whole_ms) * fallen)
            ids, mask, targets = batches[place]
            with (
                torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16),
                masked(parts, [draw_gates(gate, n=len(ids)) for gate in gates]),
            ):
                labels = model(ids, mask)[targets != IGNORED]
            lost = torch.nn.functional.kl_div(
                labels.float().log_softmax(-1), wanted[place].clone(), reduction="batchmean", log_target=True
            )
            losses = torch.autograd.grad(lost, gates)
            times = torch.autograd.grad(expected_ms(tables, gates), gates)
            price = _find_price(losses, times)
            for gate, loss, time in zip(gates, losses, times, strict=True):
                gate.grad = loss / price + time
            optimizer.step()
            advance(step + 1, f"loss {float(lost.detach()):.3f}")
    return [gate.detach() for gate in gates]


def _meet(tables: Sequence[TimeTable], gates: Sequence[torch.Tensor], *, target_ms: float) -> None:
    """Move all gates alike, in place, to where they take the target's time."""
    low, high = -_FARTHEST, _FARTHEST
    with torch.no_grad():
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if float(expected_ms(tables, [gate - middle for gate in gates])) > target_ms:
                low = middle
            else:
                high = middle
        for gate in gates:
            gate -= high


def _find_price(losses: Sequence[torch.Tensor], times: Sequence[torch.Tensor]) -> float:
    """Find the Lagrange multiplier, nats per ms: the price at which moving all gates alike gains nothing.

    Args:
        losses, times: gradients by the gates, which open towards less loss and more time.
    """
    saved, spent = (float(sum(one.sum() for one in gradients)) for gradients in (losses, times))
    return max(-saved / spent, _LEAST_PRICE) if spent > 0 else 1.0


def _endless(n: int) -> Iterator[int]:
    """Yield places below n, each once, in an order of torch's drawing; then again, in another."""
    while True:
        yield from torch.randperm(n).tolist()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """A size of half a layer: the units whose gates are most likely open, and what is lost with the others.

    Args:
        loss: the milliseconds that the gates wanted for the others: chances of being open, times a unit's share.
    """

    units: tuple[int, ...]
    loss: float
    ms: float


def _choose(
    tables: Sequence[TimeTable], log_odds: Sequence[torch.Tensor], *, budget_ms: float
) -> tuple[_Size, ...]:
    """Make gates hard: spend the budget on the units that are most likely open, in sizes that a half can have."""
    curves = [_list_sizes(table, odds) for table, odds in zip(tables, log_odds, strict=True)]
    return choose(curves, budget_ms=budget_ms)


def _list_sizes(table: TimeTable, log_odds: torch.Tensor) -> list[_Size]:
    order = torch.argsort(log_odds, descending=True, stable=True)
    wanted_ms = open_chance(log_odds.double())[order] * table.ms[-1] / len(order)
    return [
        _Size(units=tuple(sorted(order[:size].tolist())), loss=float(wanted_ms[size:].sum()), ms=ms)
        for size, ms in zip(table.sizes, table.ms, strict=True)
    ]
