"""The reference, pruned further and further, as long as dev allows.

First without training, as far as nearly all labels stay; further with the reference as the teacher.
Border: decides how far; compressing/prune.py and training/distillation.py do it. What was finished is found again in
the run folder.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from millis.backends import BackendSettings
from millis.backends.encoder import find_parts
from millis.bundles import Choice
from millis.bundles.manifest import Step
from millis.compiling.comparing import compare, loaded, run_all
from millis.compressing.prune import Cost, measure_curves, prune
from millis.measuring.fingerprint import n_cores
from millis.models.prediction import predict
from millis.models.taggers import Tagger, load_tagger, save_tagger
from millis.searching.building import Artifact, Reference, windows_of
from millis.telemetry.progress import say
from millis.training.batches import encode_examples
from millis.training.distillation import distil
from millis.training.settings import TrainSettings
from millis.training.steps import torch_state

UNTRAINED, DISTILLED = (70, 60, 50), (40, 20, 12)
"""Percent of the layers' multiplications that are tried, without training and with it."""

_LEAST_AGREEMENT = 0.995
"""Of labels with the reference's, without training: a dev set does not see half a point, so its score is not enough."""

_EPOCHS = 2
_COMPARED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """A pruned reference.

    Args:
        share: percent of the layers' multiplications that are left.
        folder: in Hugging Face layout, with `millis_layers` in its config.json.
        dev: points on dev, in fp32.
    """

    share: int
    folder: Path
    dev: float
    step: Step
    choice: Choice


def prune_reference(
    case: Artifact, reference: Reference, *, shares: Sequence[int], has_time: Callable[[], bool]
) -> list[Pruning]:
    """Prune the reference to one share after another until dev has fallen too far.

    Args:
        shares: falling; those of DISTILLED are trained with the reference as the teacher.
        has_time: whether another may be made.
    Returns:
        prunings that keep the quality, the largest share first.
    """
    found: list[Pruning] = []
    maker: _Maker | None = None
    for share in shares:
        known = case.ledger.find("pruned", str(share))
        folder = case.folder / "pruned" / str(share)
        if known is None or not folder.is_dir():
            if found and not has_time():
                break
            maker = maker or _Maker(case, reference)
            known = maker.make(share, folder)
        pruning = Pruning(
            share=share, folder=folder, dev=float(known["dev"]), step=msgspec.convert(known["step"], type=Step),
            choice=msgspec.convert(known["choice"], type=Choice),
        )  # fmt: skip
        drop, agreement = case.dev - pruning.dev, pruning.step.agreement or 0.0
        say(
            f"{pruning.step.step}: F1 {pruning.dev:.2f} on dev ({drop:+.2f} lost), {100 * agreement:.2f} % of labels"
            " as before"
        )
        is_near = share in DISTILLED or agreement >= _LEAST_AGREEMENT
        if not is_near or (case.max_drop is not None and drop > case.max_drop):
            break
        found.append(pruning)
    return found


class _Maker:
    """The loaded reference and its curves, measured once for all shares."""

    def __init__(self, case: Artifact, reference: Reference) -> None:
        self._case, self._source = case, reference.folder
        self._tagger = load_tagger(reference.folder)
        self._windows = encode_examples(case.task, case.splits.train)
        with torch_state(0):
            self._curves = measure_curves(self._tagger, self._windows, cost=count_multiplications(self._tagger))
        self._ids = windows_of(case, case.splits.dev, n=_COMPARED)
        with loaded("torch", self._source, settings=BackendSettings(threads=n_cores())) as source:
            self._wanted = run_all(source, self._ids)

    def make(self, share: int, folder: Path) -> dict[str, Any]:
        """Prune to a share, distil where that is due, save, score on dev, compare with the reference, record."""
        case, began = self._case, time.monotonic()
        name = f"pruned to {share} % of the layers' multiplications"
        pruned = prune(self._tagger, self._curves, budget_ms=share / 100)
        smaller = pruned.tagger
        if share in DISTILLED:
            name += ", distilled"
            settings = TrainSettings(epochs=_EPOCHS)
            smaller = distil(smaller, teacher=self._tagger, windows=self._windows, settings=settings, name=name)
        save_tagger(smaller, folder, tokenizer_file=case.tokenizer_file)
        with torch_state(0):
            answers = predict(smaller, task=case.task, texts=[example.text for example in case.splits.dev])
        with loaded("torch", folder, settings=BackendSettings(threads=n_cores())) as backend:
            difference = compare(self._wanted, run_all(backend, self._ids))
        dev = case.task.score(case.splits.dev, answers).value
        result = {
            "dev": dev,
            "step": Step(
                step=name, seconds=round(time.monotonic() - began, 1),
                n_bytes=sum(file.stat().st_size for file in folder.iterdir()), max_abs=difference.max_abs,
                agreement=difference.agreement,
            ),
            "choice": Choice(
                what="heads and channels by layer",
                choice=" ".join(f"{layer.heads}/{layer.channels}" for layer in pruned.shape),
                reason=f"{name}: {pruned.loss:.2g} nats a token expected without training,"
                f" {case.dev - dev:+.2f} points lost on dev",
            ),
        }  # fmt: skip
        case.ledger.add("pruned", str(share), result)
        plain: dict[str, Any] = msgspec.to_builtins(result)
        return plain


def count_multiplications(tagger: Tagger) -> Cost:
    """Give the cost of half a layer as its share of all layers' multiplications by weights."""
    parts = find_parts(tagger.network)
    each = {part.kind: sum(matrix.weight.numel() for matrix in (*part.into, part.out)) / part.n_units for part in parts}
    whole = sum(each[part.kind] * part.n_units for part in parts)
    return lambda kind, units: units * each[kind] / whole

