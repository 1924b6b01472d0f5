"""The reference, pruned to a share of its layers' time: without training where nearly all labels stay, else distilled.

Far down it goes by steps, each distilled from the reference before the next is taken: WNUT-17 at 24 % lost 2.1 points
of F1 on test in one step, and 0.8 by way of 50 %, in as many epochs.
Border: decides from what each share is cut; cutting.py does it, measuring/layers.py knows the times. What was finished
is found again in the run folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from millis.backends.encoder import LayerShape
from millis.bundles import Choice, LatencyRow
from millis.bundles.manifest import LayerTime, Step
from millis.measuring.layers import LayerTable, coldness_at
from millis.searching.building import Artifact, Reference
from millis.searching.candidates import SHARES
from millis.searching.cutting import Change, Maker
from millis.searching.layers import choose_activation, find_table
from millis.telemetry.progress import say

_FARTHEST = 2.1
"""What is pruned may have had so many times as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """A pruned reference.

    Args:
        share: percent of the layers' time that is left.
        folder: in Hugging Face layout, with `millis_layers` in its config.json.
        drop: points lost on dev, in fp32.
        choices: what was chosen on the way.
        runtime: of the layer table that predicted the times.
        predicted: token count and ms in that runtime, on one thread.
        layers: what is left of each, for the report.
    """

    share: int
    folder: Path
    drop: float
    step: Step
    choices: tuple[Choice, ...]
    runtime: str
    predicted: tuple[tuple[int, float], ...]
    layers: tuple[LayerTime, ...]

    def compare(self, measured: Sequence[LatencyRow]) -> Choice:
        """Say how far the layer table was off for this network, both back to back at one length."""
        times = {row.tokens: row.again_ms or row.p50_ms for row in measured}
        shared = [(tokens, ms, times[tokens]) for tokens, ms in self.predicted if tokens in times]
        told = ", ".join(f"{ms:.2f} for {seen:.2f} at {tokens}" for tokens, ms, seen in shared)
        worst = max(abs(ms / seen - 1) for _, ms, seen in shared)
        return Choice(what="layer table", choice=f"within {100 * worst:.0f} %", reason=f"ms predicted for seen: {told}")


class Pruner:
    """Prunes one reference to shares of its layers' time.

    Args:
        table: times of the layers in the runtime that is to be fast.
        lengths: token counts of the texts, whose mean time counts.
        coldness: of the times that count, as `coldness_at` gives it.
        change: what becomes of the reference in any case.
    Attributes:
        rest_ms: mean time of what no pruning takes away.
        checks: how right the table is.
    """

    def __init__(
        self,
        case: Artifact,
        reference: Reference,
        *,
        table: LayerTable,
        lengths: Sequence[int],
        coldness: float,
        change: Change,
    ) -> None:
        self._case, self._reference, self._table, self._change = case, reference, table, change
        self.rest_ms = table.rest_mean_ms(lengths, coldness=coldness)
        self.checks = table.sum_checks()
        self._cost = table.cost(lengths, coldness=coldness)
        self._maker: Maker | None = None
        self._whole = [LayerShape(table.heads.units[-1], table.channels.units[-1])] * table.n_layers
        self._layers_ms = sum(self._layer_ms(layer) for layer in self._whole)

    def predict_share(self, share: int) -> float:
        """Predict the time of a whole inference at a share of the layers' time, as a part of the unpruned one's."""
        return (self.rest_ms + self._layers_ms * share / 100) / (self.rest_ms + self._layers_ms)

    def prune_to(self, share: int) -> Pruning:
        """Prune to a percentage of the layers' time and distil where labels changed; or find it in the run folder.

        Where the layers would be those that another share left, it is that one, with its share.
        """
        case = self._case
        known = self._find(share)
        if known is None:
            source = self._source(share)
            self._maker = self._maker or Maker(case, self._reference, cost=self._cost, change=self._change)
            known = self._maker.make(
                share, self._folder(share), budget_ms=self._layers_ms * share / 100, source=source,
                made=[*self._made().values()],
            )  # fmt: skip
            case.ledger.add("network", self._key(share), known)
        step = msgspec.convert(known["step"], type=Step)
        say(
            f"{step.step}: {self._reference.dev.name} {case.dev - known['drop']:.2f} on dev ({known['drop']:+.2f}"
            f" lost), {100 * (step.agreement or 0):.2f} % of labels as before"
        )
        shape = {place: LayerShape(*layer) for place, layer in zip(known["origins"], known["shape"], strict=True)}
        return Pruning(
            share=known["share"],
            folder=self._folder(known["share"]),
            drop=float(known["drop"]),
            step=step,
            choices=(msgspec.convert(known["choice"], type=Choice), *self._change.choices),
            runtime=self._table.runtime,
            predicted=tuple((n, self._table.predict_ms([*shape.values()], tokens=n)) for n in self._table.tokens),
            layers=tuple(
                LayerTime(
                    heads=shape[place].heads if place in shape else 0,
                    channels=shape[place].channels if place in shape else 0,
                    ms=round(self._layer_ms(shape[place]), 4) if place in shape else 0.0,
                    whole_ms=round(self._layer_ms(whole), 4),
                )
                for place, whole in enumerate(self._whole)
            ),
        )

    def _source(self, share: int) -> int:
        """Give the share to start from, 100 the reference: the nearest there is; where that is far, a step between."""
        there = min((one for one in self._made() if one > share), default=100)
        between = min((one for one in SHARES if 2 * share <= one < there), default=None)
        if there <= _FARTHEST * share or between is None:
            return there
        return self.prune_to(between).share

    def _find(self, share: int) -> dict[str, Any] | None:
        known: dict[str, Any] | None = self._case.ledger.find("network", self._key(share))
        return known if known is not None and self._folder(known["share"]).is_dir() else None

    def _made(self) -> dict[int, dict[str, Any]]:
        """Give what the ledger holds of each network, by its share."""
        found = [self._find(one) for one in SHARES]
        return {one["share"]: one for one in found if one is not None}

    def _key(self, share: int) -> str:
        return f"{share} in {self._table.runtime}"

    def _folder(self, share: int) -> Path:
        return self._case.folder / "pruned" / self._table.runtime / str(share)

    def _layer_ms(self, layer: LayerShape) -> float:
        return self._cost("norms", 1) + self._cost("heads", layer.heads) + self._cost("channels", layer.channels)


def make_pruner(
    case: Artifact,
    reference: Reference,
    *,
    runtime: str,
    buckets: Sequence[int],
    lengths: Sequence[int],
    rate_per_s: float,
    layers: tuple[int, ...] | None = None,
    activation: str = "own",
) -> Pruner:
    """Measure the layers of the reference's base in a runtime, or find them measured, and give what prunes by them.

    Args:
        rate_per_s: of the requests, which says how cold they find a network.
        layers: of the base's, counted from 0, that may stay; None for all.
        activation: of the feed-forwards: own, relu, or auto for what is faster.
    """
    is_static = runtime.startswith("openvino")
    change = Change(layers=layers)
    if activation != "own":
        known = case.ledger.find("activation", runtime)
        if known is None:
            chosen, choice = choose_activation(
                activation, reference.folder, runtime=runtime, tokens=buckets, is_static=is_static, lengths=lengths
            )
            known = {"chosen": chosen, "choice": choice}
            case.ledger.add("activation", runtime, known)
        choice = msgspec.convert(known["choice"], type=Choice)
        say(f"{choice.what}: {choice.choice}; {choice.reason}")
        change = replace(change, activation=known["chosen"], choices=(choice,))
    table = find_table(
        reference.folder, runtime=runtime, tokens=buckets, is_static=is_static, activation=change.activation
    )
    say(
        f"layer table of {runtime}: within {100 * table.worst_error():.0f} % on {len(table.checks)} times of shapes"
        " that it had not seen"
    )
    coldness = coldness_at(rate_per_s, n_lengths=len(buckets) if is_static else 1)
    return Pruner(case, reference, table=table, lengths=lengths, coldness=coldness, change=change)
