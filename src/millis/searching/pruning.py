"""The reference, pruned to a share of its layers' time: without training where nearly all labels stay, else distilled.

Far down it goes by steps, each distilled from the reference before the next is taken: WNUT-17 at 24 % lost 2.1 points
of F1 on test in one step, and 0.8 by way of 50 %, in as many epochs.
Border: decides when to distil; compressing/prune.py and training/distillation.py do the work, measuring/layers.py knows
the times. What was finished is found again in the run folder.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from millis.backends import BackendSettings
from millis.backends.encoder import LayerShape
from millis.bundles import Choice, LatencyRow
from millis.bundles.manifest import LayerTime, Step
from millis.compiling.comparing import compare, loaded, run_all
from millis.compressing.prune import Cost, Curves, Pruned, measure_curves, prune
from millis.cores import n_cores
from millis.measuring.layers import LayerTable
from millis.measuring.quality import bound_drop
from millis.models.prediction import predict
from millis.models.taggers import Tagger, load_tagger, save_tagger
from millis.searching.building import Artifact, Reference, windows_of
from millis.searching.candidates import SHARES
from millis.searching.layers import find_table
from millis.telemetry.progress import say
from millis.training.batches import encode_examples
from millis.training.distillation import distil
from millis.training.settings import TrainSettings, choose_learning_rate
from millis.training.steps import torch_state

_LEAST_AGREEMENT = 0.995
"""Of labels with the reference's, without training, where the contract says nothing of a drop."""

_FARTHEST = 2.1
"""What is pruned may have had so many times as much."""

_STEPS, _EPOCHS = 4_000, (2, 30)
"""Of distilling, when nothing is left; fewer, the more is left: what was not taken away need not be learnt again."""

_RATE, _HIGHEST_RATE = 4.0, 1e-3
"""Learning rate over fine-tuning's when nothing is left, and its bound; lower, the more is left to be forgotten."""

_COMPARED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """A pruned reference.

    Args:
        share: percent of the layers' time that is left.
        folder: in Hugging Face layout, with `millis_layers` in its config.json.
        drop: points lost on dev, in fp32.
        runtime: of the layer table that predicted the times.
        predicted: token count and ms in that runtime, on one thread.
        layers: what is left of each, for the report.
    """

    share: int
    folder: Path
    drop: float
    step: Step
    choice: Choice
    runtime: str
    predicted: tuple[tuple[int, float], ...]
    layers: tuple[LayerTime, ...]

    def compare(self, measured: Sequence[LatencyRow]) -> Choice:
        """Say how far the layer table was off for this network."""
        times = {row.tokens: row.p50_ms for row in measured}
        shared = [(tokens, ms, times[tokens]) for tokens, ms in self.predicted if tokens in times]
        told = ", ".join(f"{ms:.2f} for {seen:.2f} at {tokens}" for tokens, ms, seen in shared)
        worst = max(abs(ms / seen - 1) for _, ms, seen in shared)
        return Choice(what="layer table", choice=f"within {100 * worst:.0f} %", reason=f"ms predicted for seen: {told}")


class Pruner:
    """Prunes one reference to shares of its layers' time.

    Args:
        table: times of the layers in the runtime that is to be fast.
        lengths: token counts of the texts, whose mean time counts.
    Attributes:
        rest_ms: mean time of what no pruning takes away.
    """

    def __init__(self, case: Artifact, reference: Reference, *, table: LayerTable, lengths: Sequence[int]) -> None:
        self._case, self._reference, self._table = case, reference, table
        self.rest_ms = table.rest_mean_ms(lengths)
        self._cost = table.cost(lengths)
        self._maker: _Maker | None = None
        self._whole = [LayerShape(table.heads.units[-1], table.channels.units[-1])] * table.n_layers
        self._layers_ms = sum(self._layer_ms(layer) for layer in self._whole)

    def predict_share(self, share: int) -> float:
        """Predict the time of a whole inference at a share of the layers' time, as a part of the unpruned one's."""
        return (self.rest_ms + self._layers_ms * share / 100) / (self.rest_ms + self._layers_ms)

    def prune_to(self, share: int) -> Pruning:
        """Prune to a percentage of the layers' time and distil where labels changed; or find it in the run folder."""
        case, folder = self._case, self._folder(share)
        known = self._find(share)
        if known is None:
            source = self._source(share)
            self._maker = self._maker or _Maker(case, self._reference, cost=self._cost)
            known = self._maker.make(share, folder, budget_ms=self._layers_ms * share / 100, source=source)
            case.ledger.add("pruned", self._key(share), known)
        step = msgspec.convert(known["step"], type=Step)
        say(
            f"{step.step}: {self._reference.dev.name} {case.dev - known['drop']:.2f} on dev ({known['drop']:+.2f}"
            f" lost), {100 * (step.agreement or 0):.2f} % of labels as before"
        )
        shape = [LayerShape(*layer) for layer in known["shape"]]
        return Pruning(
            share=share,
            folder=folder,
            drop=float(known["drop"]),
            step=step,
            choice=msgspec.convert(known["choice"], type=Choice),
            runtime=self._table.runtime,
            predicted=tuple((n, self._table.predict_ms(shape, tokens=n)) for n in self._table.tokens),
            layers=tuple(
                LayerTime(
                    heads=one.heads,
                    channels=one.channels,
                    ms=round(self._layer_ms(one), 4),
                    whole_ms=round(self._layer_ms(whole), 4),
                )
                for one, whole in zip(shape, self._whole, strict=True)
            ),
        )

    def _source(self, share: int) -> int:
        """Give the share to start from, 100 the reference: the nearest there is; where that is far, a step between."""
        there = min((one for one in SHARES if one > share and self._find(one) is not None), default=100)
        between = min((one for one in SHARES if 2 * share <= one < there), default=None)
        if there <= _FARTHEST * share or between is None:
            return there
        return self.prune_to(between).share

    def _find(self, share: int) -> dict[str, Any] | None:
        known: dict[str, Any] | None = self._case.ledger.find("pruned", self._key(share))
        return known if self._folder(share).is_dir() else None

    def _key(self, share: int) -> str:
        return f"{share} in {self._table.runtime}"

    def _folder(self, share: int) -> Path:
        return self._case.folder / "pruned" / self._table.runtime / str(share)

    def _layer_ms(self, layer: LayerShape) -> float:
        return self._cost("heads", layer.heads) + self._cost("channels", layer.channels)


def make_pruner(
    case: Artifact, reference: Reference, *, runtime: str, buckets: Sequence[int], lengths: Sequence[int]
) -> Pruner:
    """Measure the layers of the reference's base in a runtime, or find them measured, and give what prunes by them."""
    tokens = sorted({*buckets[::2], buckets[-1]})
    table = find_table(reference.folder, runtime=runtime, tokens=tokens, is_static=runtime.startswith("openvino"))
    say(
        f"layer table of {runtime}: within {100 * table.worst_error():.0f} % on {len(table.checks)} times of shapes"
        " that it had not seen"
    )
    return Pruner(case, reference, table=table, lengths=lengths)


class _Maker:
    """The loaded reference, which teaches every share."""

    def __init__(self, case: Artifact, reference: Reference, *, cost: Cost) -> None:
        self._case, self._reference, self._cost = case, reference, cost
        self._teacher = load_tagger(reference.folder)
        self._windows = encode_examples(case.task, case.splits.train)
        self._curves: tuple[int, Tagger, Curves] | None = None
        self._ids = windows_of(case, case.splits.dev, n=_COMPARED)
        with loaded("torch", reference.folder, settings=BackendSettings(threads=n_cores())) as backend:
            self._wanted = run_all(backend, self._ids, head=case.task.head)

    def make(self, share: int, folder: Path, *, budget_ms: float, source: int) -> dict[str, Any]:
        """Prune what is left at another share; where labels changed distil; tell what the ledger is to hold."""
        began = time.monotonic()
        name = f"pruned to {share} % of the layers' time" + (f" by way of {source} %" if source < 100 else "")
        tagger, curves = self._measure(source, folder.parent)
        pruned = prune(tagger, curves, budget_ms=budget_ms)
        found = self._judge(pruned.tagger, folder)
        if not self._is_sure(found):
            name += ", distilled"
            distilled = distil(
                pruned.tagger, teacher=self._teacher, windows=self._windows, settings=self._plan(share), name=name
            )
            found = self._judge(distilled, folder)
        return {
            "drop": found["drop"], "shape": [list(layer) for layer in pruned.shape],
            "step": Step(
                step=name, seconds=round(time.monotonic() - began, 1),
                n_bytes=sum(file.stat().st_size for file in folder.iterdir()), max_abs=found["max_abs"],
                agreement=found["agreement"], quality=self._case.dev - found["drop"],
            ),
            "choice": _explain(name, pruned, drop=found["drop"]),
        }  # fmt: skip

    def _plan(self, share: int) -> TrainSettings:
        """Choose how long and how fast to distil what is left at a share."""
        usual, gone = TrainSettings(), 1 - share / 100
        fewest, most = _EPOCHS
        epochs = round(_STEPS * gone**3 * usual.batch_size / len(self._windows))
        rate, _ = choose_learning_rate(usual, width=int(self._teacher.config.hidden_size))
        faster = min(max(_RATE * gone, 1.0) * rate, _HIGHEST_RATE)
        return replace(usual, epochs=min(max(epochs, fewest), most), learning_rate=faster)

    def _measure(self, source: int, folder: Path) -> tuple[Tagger, Curves]:
        """Give what is left at a share, and its curves, which stay at hand for another share of the same."""
        if self._curves is None or self._curves[0] != source:
            tagger = self._teacher if source == 100 else load_tagger(folder / str(source))
            with torch_state(0):
                self._curves = source, tagger, measure_curves(tagger, self._windows, cost=self._cost)
        return self._curves[1:]

    def _judge(self, tagger: Tagger, folder: Path) -> dict[str, float]:
        """Save a tagger, score it on dev, compare its labels with the reference's."""
        case = self._case
        save_tagger(tagger, folder, tokenizer_file=case.tokenizer_file)
        with torch_state(0):
            answers = predict(tagger, task=case.task, texts=[example.text for example in case.splits.dev])
        with loaded("torch", folder, settings=BackendSettings(threads=n_cores())) as backend:
            difference = compare(self._wanted, run_all(backend, self._ids, head=case.task.head), head=case.task.head)
        drop, _, worst = bound_drop(self._reference.dev, case.task.score(case.splits.dev, answers))
        return {"drop": drop, "worst": worst, "agreement": difference.agreement, "max_abs": difference.max_abs}

    def _is_sure(self, found: dict[str, float]) -> bool:
        """Say whether no training is needed: dev's score alone is not enough, a dev set does not see half a point."""
        is_allowed = self._case.max_drop is None or found["worst"] <= self._case.max_drop
        return is_allowed and found["agreement"] >= _LEAST_AGREEMENT


def _explain(name: str, pruned: Pruned, *, drop: float) -> Choice:
    return Choice(
        what="heads and channels by layer",
        choice=" ".join(f"{layer.heads}/{layer.channels}" for layer in pruned.shape),
        reason=f"{name}: {pruned.loss:.2g} nats a token expected without training, {drop:+.2f} points lost on dev",
    )
