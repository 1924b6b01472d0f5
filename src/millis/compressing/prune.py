"""Structured pruning by a budget in milliseconds: which heads, channels and layers stay, so that least is lost in it.

    measure_importance   how much the loss would feel each head and channel, by Fisher information
    measure_curves       what each half of a layer loses at each size it could have, and what the network loses without
                         the layer, in nats per token, measured
    choose               the sizes that lose least within the milliseconds: exact, by dynamic programming
    prune                all three, then the tensors really become smaller

What stays is fitted again by least squares to what the whole part gave.
Border: a torch tagger in, a smaller torch tagger out; times come from the caller's table. No training: recovering by
distillation is training's matter.
Limits: losses of parts are added up, which holds near the whole model and is optimistic far from it.
Source: Kwon et al. 2022, arXiv:2204.09656 (Fisher masks, least squares); ZipLM, arXiv:2302.04089 (sizes by dynamic
programming over a table of measured times). We differ in measuring each part's loss curve instead of predicting it.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from millis.backends.encoder import LayerShape, Part, find_parts, keep_layers, layers_of, read_shape, record_shape
from millis.compressing.halves import (
    columns_of,
    make_batches,
    masked,
    measure_divergence,
    measure_products,
    predict_labels,
    refit,
    remove,
    skipped,
    spread,
)
from millis.errors import InvalidValue
from millis.models.taggers import Tagger
from millis.tasks.task import IGNORED, Window
from millis.telemetry.progress import bar
from millis.training.batches import Batch

Cost = Callable[[str, int], float]
"""cost(kind, units): milliseconds of half a layer that has so many heads or channels; of one layer's norms."""

_SHARES = (0, 1 / 24, 1 / 12, 1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1)
"""Sizes of a feed-forward that are tried, as shares of the whole: near the whole nothing is lost, so few."""

_STEPS = 4_000


class Priced(Protocol):
    """Anything that loses something and takes its time."""

    @property
    def loss(self) -> float:
        """What is to be least."""

    @property
    def ms(self) -> float:
        """What the budget pays for."""


AnyPriced = TypeVar("AnyPriced", bound=Priced)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A size that half a layer could have.

    Args:
        units: heads or channels kept, ascending.
        loss: mean Kullback-Leibler divergence from the whole model's labels, in nats per token.
        ms: time of the half at this size.
        weight: the refitted matrix out of the kept units, float32 (D, len(units) * size).
    """

    units: tuple[int, ...]
    loss: float
    ms: float
    weight: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """A smaller tagger, and what was expected of it.

    Args:
        ms: sum of the table's times over all halves.
        loss: how far its labels are from the whole model's without training, nats per token: `prune` gives the sum of
            the curves' losses, `prune_by_gates` a measurement.
    """

    tagger: Tagger
    shape: tuple[LayerShape, ...]
    ms: float
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCurves:
    """What one layer loses at each size it could have, everything else left whole.

    Args:
        heads, channels: from nothing kept to everything.
        norms_ms: time of the layer's norms, whatever its halves keep.
        loss_without: of the network when the whole layer is gone, as `Option.loss`.
    """

    heads: Sequence[Option]
    channels: Sequence[Option]
    norms_ms: float
    loss_without: float

    def ways(self) -> list["_Way"]:
        """List every pair of sizes, and the layer's absence, which takes no time."""
        halves = itertools.product(self.heads, self.channels)
        sized = [
            _Way(halves=pair, loss=pair[0].loss + pair[1].loss, ms=self.norms_ms + pair[0].ms + pair[1].ms)
            for pair in halves
        ]
        return [_Way(halves=None, loss=self.loss_without, ms=0.0), *sized]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """What may become of a layer: sizes of its halves, or nothing."""

    halves: tuple[Option, Option] | None
    loss: float
    ms: float


Curves = Sequence[LayerCurves]


def prune(tagger: Tagger, curves: Curves, *, budget_ms: float) -> Pruned:
    """Give a copy of a tagger with the layers and the sizes that lose least within the budget.

    Args:
        curves: what `measure_curves` gave for this tagger.
        budget_ms: of all layers together; embedding and head are not in it.
    Raises:
        InvalidValue: the budget is below what the smallest sizes take.
    """
    chosen = choose([layer.ways() for layer in curves], budget_ms=budget_ms)
    kept = [(i, way.halves) for i, way in enumerate(chosen) if way.halves]
    smaller = copy.deepcopy(tagger)
    if len(kept) < len(curves):
        keep_layers(smaller.network, [i for i, _ in kept])
    options = [option for _, halves in kept for option in halves]
    for part, option in zip(find_parts(smaller.network), options, strict=True):
        remove(part, kept=option.units, weight=option.weight)
    record_shape(smaller.network)
    return Pruned(
        tagger=smaller.eval(), shape=read_shape(smaller.network), ms=sum(option.ms for option in chosen),
        loss=sum(option.loss for option in chosen),
    )  # fmt: skip


def choose(curves: Sequence[Sequence[AnyPriced]], *, budget_ms: float) -> tuple[AnyPriced, ...]:
    """Choose one option of each curve so that their losses add up to least within the budget.

    Exact to a 4,000th of the budget, by which times are rounded up: the budget is never exceeded.

    Raises:
        InvalidValue: the budget is below what the fastest options take.
    """
    least_ms = sum(min(option.ms for option in curve) for curve in curves)
    if not budget_ms > 0 or least_ms > budget_ms:
        raise InvalidValue(
            f"{budget_ms:.3g} ms cannot be met: the layers take {least_ms:.3g} ms even with all heads and channels"
            " gone. Give more, or a base with fewer layers."
        )
    easiest = tuple(min(curve, key=lambda option: (option.loss, option.ms)) for curve in curves)
    if sum(option.ms for option in easiest) <= budget_ms:
        return easiest
    step = budget_ms / _STEPS
    best = np.zeros(_STEPS + 1)  # best[t]: least loss of the curves so far within t steps
    picks: list[NDArray[np.int64]] = []
    takes = [[int(np.ceil(option.ms / step - 1e-9)) for option in curve] for curve in curves]
    for curve, steps in zip(curves, takes, strict=True):
        totals = np.full((len(curve), _STEPS + 1), np.inf)
        for row, (option, took) in enumerate(zip(curve, steps, strict=True)):
            if took <= _STEPS:
                totals[row, took:] = best[: _STEPS + 1 - took] + option.loss
        picks.append(totals.argmin(axis=0))
        best = totals.min(axis=0)
    if not np.isfinite(best[-1]):  # rounding up left no room where the budget is exactly the least
        return tuple(min(curve, key=lambda option: option.ms) for curve in curves)
    left, chosen = _STEPS, []
    for curve, steps, pick in reversed(list(zip(curves, takes, picks, strict=True))):
        row = int(pick[left])
        chosen.append(curve[row])
        left -= steps[row]
    return tuple(reversed(chosen))


def measure_curves(
    tagger: Tagger, windows: Sequence[Window], *, cost: Cost, n_fisher: int = 1_000, n_losses: int = 64, seed: int = 7
) -> Curves:
    """Measure what each half of each layer loses at each size, everything else left whole.

    Args:
        tagger: as it was trained; left as it is.
        windows: of the training data, with targets, from which are taken evenly n_fisher for importance and refitting,
            and n_losses for the losses.
        cost: times of the sizes.
    Returns:
        curves layer by layer.
    Cost: some 160 runs of n_losses windows for six layers.
    """
    model = copy.deepcopy(tagger).eval()
    parts = find_parts(model.network)
    if not parts:
        return []
    fitted = spread(windows, n_fisher)
    importance = measure_importance(model, fitted, seed=seed)
    products = measure_products(model, parts, make_batches(model, fitted))
    judged = make_batches(model, spread(windows, n_losses))
    wanted = predict_labels(model, judged)
    curves, without = [], []
    with bar("pruning curves", total=len(parts)) as advance:
        for done, (part, felt, product) in enumerate(zip(parts, importance, products, strict=True), 1):
            curves.append(_measure_curve(model, part, felt, product, cost=cost, judged=judged, wanted=wanted))
            advance(done, "")
    for layer in layers_of(model.network):
        with skipped(layer):
            without.append(measure_divergence(model, judged, wanted))
    return [
        LayerCurves(heads=heads, channels=channels, norms_ms=cost("norms", 1), loss_without=loss)
        for heads, channels, loss in zip(curves[::2], curves[1::2], without, strict=True)
    ]


def measure_importance(tagger: Tagger, windows: Sequence[Window], *, seed: int = 7) -> list[NDArray[np.float64]]:
    """Measure the diagonal of the Fisher information of a mask over each half's units.

    Labels are drawn from the model's own answers, so it is the true Fisher information, which a model that has learnt
    its training data by heart does not lose.

    Returns:
        (n_units,) per half, in the order of `find_parts`.
    """
    parts = find_parts(tagger.network)
    chance = torch.Generator().manual_seed(seed)
    felt = [np.zeros(part.n_units) for part in parts]
    for ids, mask, targets in make_batches(tagger, windows):
        masks = [torch.ones(len(ids), part.n_units, requires_grad=True) for part in parts]
        with masked(parts, masks):
            logits = tagger(ids, mask)[targets != IGNORED]
        drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=chance)[:, 0]
        loss = torch.nn.functional.cross_entropy(logits, drawn, reduction="sum")
        gradients = torch.autograd.grad(loss, masks, allow_unused=True)
        for total, gradient in zip(felt, gradients, strict=True):
            if gradient is not None:
                total += gradient.square().sum(0).numpy()
    return felt


def _measure_curve(
    model: Tagger,
    part: Part,
    felt: NDArray[np.float64],
    product: torch.Tensor,
    *,
    cost: Cost,
    judged: Sequence[Batch],
    wanted: Sequence[torch.Tensor],
) -> list[Option]:
    """Try each size of one half on the model, which is as before afterwards."""
    if not part.n_units:
        return [Option(units=(), loss=0.0, ms=cost(part.kind, 0), weight=torch.empty(0))]
    out, whole = part.out, part.out.weight.detach().clone()
    order = np.argsort(-felt, kind="stable")
    options: list[Option] = []
    for n_kept in sizes_of(part):
        units = tuple(sorted(int(unit) for unit in order[:n_kept]))
        columns = columns_of(part, units)
        weight = whole if n_kept == part.n_units else refit(whole, product, columns)
        with torch.no_grad():
            out.weight.zero_()
            out.weight[:, columns] = weight
        loss = 0.0 if n_kept == part.n_units else measure_divergence(model, judged, wanted)
        options.append(Option(units=units, loss=loss, ms=cost(part.kind, n_kept), weight=weight))
    with torch.no_grad():
        out.weight.copy_(whole)
    return options


def sizes_of(part: Part) -> list[int]:
    """List the sizes to try: numbers of heads, each one below five; shares of the channels, in vectors of 16."""
    if part.kind == "heads":
        return sorted({*range(min(part.n_units + 1, 5)), *range(6, part.n_units, 2), part.n_units})
    return sorted({min(-(-round(share * part.n_units) // 16) * 16, part.n_units) for share in _SHARES})
