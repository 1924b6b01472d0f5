"""One pruned network out of another: cut by its curves, judged on dev, distilled where labels changed.

Border: does what pruning.py asks for; compressing/prune.py and training/distillation.py do the work.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from millis.backends import BackendSettings
from millis.backends.encoder import keep_layers, read_origins, read_shape, set_activation
from millis.bundles import Choice
from millis.bundles.manifest import Step
from millis.compiling.comparing import compare, loaded, run_all
from millis.compressing.prune import Cost, Curves, Pruned, measure_curves, prune
from millis.cores import n_cores
from millis.measuring.quality import bound_drop
from millis.models.prediction import predict_examples
from millis.models.taggers import Tagger, load_tagger, save_tagger
from millis.searching.building import Artifact, Reference, windows_of
from millis.telemetry.progress import say
from millis.training.batches import encode_examples
from millis.training.distillation import distil
from millis.training.settings import TrainSettings, choose_learning_rate
from millis.training.steps import torch_state

_LEAST_AGREEMENT = 0.995
"""Of labels with the reference's, without training, where the contract says nothing of a drop."""

_STEPS, _EPOCHS = 4_000, (2, 30)
"""Of distilling, when nothing is left; fewer, the more is left: what was not taken away need not be learnt again."""

_RATE, _HIGHEST_RATE = 4.0, 1e-3
"""Learning rate over fine-tuning's when nothing is left, and its bound; lower, the more is left to be forgotten."""

_COMPARED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What becomes of the reference before its sizes are chosen.

    Args:
        layers: of the base's, counted from 0, that may stay; None for all.
        activation: of the feed-forwards, None for the base's own.
    """

    layers: tuple[int, ...] | None = None
    activation: str | None = None
    choices: tuple[Choice, ...] = ()


class Maker:
    """The loaded reference, which teaches every share."""

    def __init__(self, case: Artifact, reference: Reference, *, cost: Cost, change: Change) -> None:
        self._case, self._reference, self._cost, self._change = case, reference, cost, change
        self._teacher = load_tagger(reference.folder)
        self._n_layers = len(read_shape(self._teacher.network))
        self._windows = encode_examples(case.task, case.splits.train)
        self._curves: tuple[int, Tagger, Curves] | None = None
        self._ids = windows_of(case, case.splits.dev, n=_COMPARED)
        with loaded("torch", reference.folder, settings=BackendSettings(threads=n_cores())) as backend:
            self._wanted = run_all(backend, self._ids, head=case.task.head)

    def make(
        self, share: int, folder: Path, *, budget_ms: float, source: int, made: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        """Prune what is left at another share; where labels changed distil; tell what the ledger is to hold.

        Args:
            made: what it holds of other shares; one of the same layers is given again, not trained twice.
        """
        began = time.monotonic()
        name = f"pruned to {share} % of the layers' time" + (f" by way of {source} %" if source < 100 else "")
        tagger, curves = self._measure(source, folder.parent)
        pruned = prune(tagger, curves, budget_ms=budget_ms)
        if self._change.activation is not None:
            set_activation(pruned.tagger.network, self._change.activation)
        origins = list(read_origins(pruned.tagger.network))
        layers = {"shape": list(map(list, pruned.shape)), "origins": origins}
        same = next((one for one in made if one | layers == one), None)
        if same is not None:
            return same
        found = self._judge(pruned.tagger, folder)
        if not self._is_sure(found):
            name += ", distilled"
            distilled = distil(
                pruned.tagger, teacher=self._teacher, windows=self._windows, settings=self._plan(share), name=name
            )
            found = self._judge(distilled, folder)
        return {
            **layers, "share": share, "drop": found["drop"],
            "step": Step(
                step=name, seconds=round(time.monotonic() - began, 1),
                n_bytes=sum(file.stat().st_size for file in folder.iterdir()), max_abs=found["max_abs"],
                agreement=found["agreement"], quality=self._case.dev - found["drop"],
            ),
            "choice": _explain(name, pruned, origins=origins, n_layers=self._n_layers, drop=found["drop"]),
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
            tagger = self._start(folder) if source == 100 else load_tagger(folder / str(source))
            with torch_state(0):
                self._curves = source, tagger, measure_curves(tagger, self._windows, cost=self._cost)
        return self._curves[1:]

    def _start(self, folder: Path) -> Tagger:
        """Give what the first share is cut from: the reference, or what distilling made of its layers that may stay."""
        kept = self._change.layers
        if kept is None or len(kept) == self._n_layers:
            return self._teacher
        place = folder / f"layers-{'-'.join(map(str, kept))}"
        if self._case.ledger.find("layers", place.name) is None or not place.is_dir():
            cut = copy.deepcopy(self._teacher)
            keep_layers(cut.network, kept)
            name = f"layers {', '.join(map(str, kept))} alone, distilled"
            plan = self._plan(round(100 * len(kept) / self._n_layers))
            taught = distil(cut, teacher=self._teacher, windows=self._windows, settings=plan, name=name)
            found = self._judge(taught, place)
            say(f"{name}: {found['drop']:+.2f} points lost on dev")
            self._case.ledger.add("layers", place.name, found)
        return load_tagger(place)

    def _judge(self, tagger: Tagger, folder: Path) -> dict[str, float]:
        """Save a tagger, score it on dev, compare its labels with the reference's."""
        case = self._case
        save_tagger(tagger, folder, tokenizer_file=case.tokenizer_file)
        with torch_state(0):
            answers = predict_examples(tagger, task=case.task, examples=case.splits.dev)
        with loaded("torch", folder, settings=BackendSettings(threads=n_cores())) as backend:
            difference = compare(self._wanted, run_all(backend, self._ids, head=case.task.head), head=case.task.head)
        drop, _, worst = bound_drop(self._reference.dev, case.task.score(case.splits.dev, answers))
        return {"drop": drop, "worst": worst, "agreement": difference.agreement, "max_abs": difference.max_abs}

    def _is_sure(self, found: dict[str, float]) -> bool:
        """Say whether no training is needed: dev's score alone is not enough, a dev set does not see half a point."""
        is_allowed = self._case.max_drop is None or found["worst"] <= self._case.max_drop
        return is_allowed and found["agreement"] >= _LEAST_AGREEMENT


def _explain(name: str, pruned: Pruned, *, origins: Sequence[int], n_layers: int, drop: float) -> Choice:
    shape = dict(zip(origins, pruned.shape, strict=True))
    told = [f"{shape[i].heads}/{shape[i].channels}" if i in shape else "gone" for i in range(n_layers)]
    return Choice(
        what="heads and channels by layer",
        choice=" ".join(told),
        reason=f"{name}: {pruned.loss:.2g} nats a token expected without training, {drop:+.2f} points lost on dev",
    )
