"""The parts of a bundle: a reference trained in fp32, and variants compiled from it.

Border: calls the making rooms in order; each step ends by comparing its outputs with the source model (compiling).
What was finished is found again in the run folder, so a killed search goes on.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from millis.backends import BackendSettings
from millis.backends.static import save_static
from millis.bundles import Choice
from millis.bundles.manifest import Step
from millis.compiling.comparing import compare, loaded, require_exact, run_all
from millis.compiling.narrowing import narrow
from millis.compiling.onnx import export_embeddings, export_ids, load_for_export, second_of
from millis.compiling.openvino import convert_onnx
from millis.compressing.quantize import Floor, quantize_onnx, quantize_openvino
from millis.cores import n_cores
from millis.data.examples import Example
from millis.data.splits import Splits
from millis.errors import RunFailed, reason_of
from millis.models.devices import choose_device
from millis.models.prediction import predict_examples
from millis.models.taggers import build_tagger, load_tagger, save_tagger
from millis.searching.candidates import Variant
from millis.searching.ledger import Ledger
from millis.tasks import Score, Task
from millis.tasks.tokenization import Tokenizer
from millis.telemetry.progress import say
from millis.training.batches import encode_asked, encode_examples
from millis.training.loop import train
from millis.training.settings import TrainSettings
from millis.training.static import distil_static
from millis.training.steps import torch_state

CALIBRATION = 200
_COMPARED = 100
_STATIC_BATCH, _STATIC_STEPS, _STATIC_EPOCHS = 128, 700, (4, 30)
"""Of static vectors: they cost little beside the network that teaches them, whose runs are cheaper in large batches."""

_PADDING = 3  # an export that lost its mask shows only beside padding


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The model as it was trained, and how good it is before anything is taken away.

    Args:
        steps: what was done to the folder since it was scored.
        choices: what was chosen in training it.
    """

    folder: Path
    dev: Score
    test: Score
    steps: tuple[Step, ...] = ()
    choices: tuple[Choice, ...] = ()

    def reaches(self, floor: float) -> bool:
        """Say whether it reaches a floor, in points, on dev or on test."""
        return max(self.dev.value, self.test.value) >= floor


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What building needs to know of the case.

    Args:
        dev: points of the reference on dev.
        max_drop: points that may be lost against it, all passes together.
        buckets: static lengths, at which variants that have them are compared with their source and scored.
        device: on which files are compared with their source.
    """

    folder: Path
    task: Task
    splits: Splits
    tokenizer_file: Path
    dev: float
    max_drop: float | None
    buckets: tuple[int, ...]
    ledger: Ledger
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Model files for a backend, and how they came about."""

    folder: Path
    steps: tuple[Step, ...]
    choices: tuple[Choice, ...] = ()


def train_reference(
    base: Path,
    *,
    task: Task,
    splits: Splits,
    folder: Path,
    tokenizer_file: Path,
    settings: TrainSettings | None,
) -> Reference:
    """Fine-tune the base in a folder (or go on with it), and score the best epoch in fp32 on dev and test.

    A base without a head says something before it is trained: where that is better on dev, it is taken as it is.

    Args:
        settings: None takes such a base as it is.
    """
    bare: Reference | None = None
    if task.head.pooled is not None:
        plain = folder / "base"
        save_tagger(build_tagger(base, head=task.head, seed=0), plain, tokenizer_file=tokenizer_file)
        bare = score_reference(plain, task=task, splits=splits)
        say(f"the base as it is: dev {bare.dev.name} {bare.dev.value:.2f}")
    if settings is None:
        assert bare is not None, "a head begins random"
        return bare
    trained = train(
        base, task=task, train=splits.train, dev=splits.dev, folder=folder, settings=settings,
        tokenizer_file=tokenizer_file,
    )  # fmt: skip
    found = score_reference(trained.best, task=task, splits=splits, train_on=settings.device)
    if bare is not None and bare.dev.value >= found.dev.value:
        say(f"training did not help ({found.dev.value:.2f} on dev): the base is taken as it is")
        why = f"training did not help: {found.dev.value:.2f} on dev, {bare.dev.value:.2f} without"
        return replace(bare, choices=(Choice(what="training", choice="none", reason=why),))
    best = next(row for row in reversed(trained.epochs) if row.is_best)
    choice = f"epoch {best.epoch} of {len(trained.epochs)}, the best on dev"
    return replace(found, choices=(Choice(what="training", choice=choice, reason="; ".join(trained.reasons)),))


def score_reference(folder: Path, *, task: Task, splits: Splits, train_on: str = "auto") -> Reference:
    """Score the tagger of a folder in fp32, on dev and test.

    Args:
        train_on: the device, as TrainSettings has it.
    """
    model = load_tagger(folder).to(choose_device(train_on)[0])
    with torch_state(0):
        dev, test = (
            task.score(part, predict_examples(model, task=task, examples=part, name="reference's answers"))
            for part in (splits.dev, splits.test)
        )
    return Reference(folder=folder, dev=dev, test=test)


def build_artifact(variant: Variant, *, case: Artifact, reference: Path) -> Built:
    """Make the model files of a variant, or take them from the run folder when they were finished there.

    Raises:
        RunFailed: an export changed what the model computes, or the disk is full.
    """
    key = variant.artifact
    folder = case.folder / "artifacts" / key
    known = case.ledger.find("artifact", key)
    if known is not None and folder.is_dir():
        return Built(
            folder=folder,
            steps=tuple(msgspec.convert(step, type=Step) for step in known["steps"]),
            choices=tuple(msgspec.convert(choice, type=Choice) for choice in known["choices"]),
        )
    shutil.rmtree(folder, ignore_errors=True)
    say(f"building {key}")
    own = {"static": _teach_static, "torch": _narrow}
    make = own.get(variant.backend, _quantize if variant.precision == "int8" else _export)
    try:
        built = make(variant, folder=folder, case=case, reference=reference)
    except OSError as error:
        raise RunFailed(
            f"{key} cannot be written: {reason_of(error)}. Free some space; the same command goes on."
        ) from error
    case.ledger.add("artifact", key, {"steps": built.steps, "choices": built.choices})
    return built


def _export(variant: Variant, *, folder: Path, case: Artifact, reference: Path) -> Built:
    """Convert the reference, and refuse a conversion that changed it."""
    began = time.monotonic()
    tagger = load_for_export(reference)
    if variant.backend == "onnxruntime":
        export_ids(tagger, folder / "model.onnx")
    else:
        draft = case.folder / "artifacts" / "embeddings.onnx"
        table = export_embeddings(tagger, draft)
        convert_onnx(draft, folder, table=table.numpy(), second=second_of(tagger))
        draft.unlink()
    step = _compare(f"torch to {variant.backend}", variant, folder, case=case, reference=reference, began=began)
    return Built(folder=folder, steps=(step,))


def _narrow(variant: Variant, *, folder: Path, case: Artifact, reference: Path) -> Built:
    """Write the reference in the variant's precision."""
    began = time.monotonic()
    narrow(reference, folder, precision=variant.precision)
    name = f"torch fp32 to {variant.precision} on {case.device}"
    return Built(folder=folder, steps=(_compare(name, variant, folder, case=case, reference=reference, began=began),))


def _quantize(variant: Variant, *, folder: Path, case: Artifact, reference: Path) -> Built:
    """Quantise the backend's own fp32 files, layers going back while dev loses too much."""
    source = build_artifact(replace(variant, precision="fp32"), case=case, reference=reference)
    began = time.monotonic()
    windows = windows_of(case, case.splits.train, n=CALIBRATION)

    def loss(candidate: Path) -> float:
        return case.dev - score_files(candidate, variant, case=case).value

    floor = None if case.max_drop is None else Floor(loss=loss, max_drop=case.max_drop, windows=windows)
    if variant.backend == "openvino":
        choices = quantize_openvino(source.folder, folder, calibration=windows, floor=floor)
    else:
        choices = quantize_onnx(source.folder, folder, floor=floor)
    step = _compare(f"{variant.backend} fp32 to int8", variant, folder, case=case, reference=reference, began=began)
    return Built(folder=folder, steps=(*source.steps, step), choices=choices)


def _teach_static(variant: Variant, *, folder: Path, case: Artifact, reference: Path) -> Built:
    """Teach static vectors what the reference answers."""
    began = time.monotonic()
    windows = encode_examples(case.task, case.splits.train)
    fewest, most = _STATIC_EPOCHS
    epochs = min(max(round(_STATIC_STEPS * _STATIC_BATCH / len(windows)), fewest), most)
    tokenizer = Tokenizer(case.tokenizer_file)
    settings = TrainSettings(epochs=epochs, batch_size=_STATIC_BATCH)
    weights = distil_static(
        load_tagger(reference), head=case.task.head, windows=windows, settings=settings, prefix=tokenizer.prefix,
        suffix=tokenizer.suffix,
    )
    save_static(folder, weights)
    step = _compare("torch to static vectors", variant, folder, case=case, reference=reference, began=began)
    return Built(folder=folder, steps=(step,))


def _compare(name: str, variant: Variant, folder: Path, *, case: Artifact, reference: Path, began: float) -> Step:
    """Compare a folder with the torch source on dev windows; what should be exact must be."""
    ids = windows_of(case, case.splits.dev, n=_COMPARED)
    padding = _PADDING if variant.precision == "fp32" else 0
    head = case.task.head
    with loaded("torch", reference, settings=BackendSettings(threads=n_cores())) as source:
        wanted = run_all(source, ids, head=head)
    with _loaded_as_served(folder, variant, case=case) as run:
        difference = compare(wanted, run(ids, padding=padding), head=head)
    if variant.precision == "fp32":
        require_exact(difference, step=name)
    unit = "tokens" if head.rows is None else "answers"
    agreement = f"{100 * difference.agreement:.2f} % of {difference.n_tokens} {unit} agree with torch"
    if head.pooled is not None:
        agreement = f"cosine with torch {difference.agreement:.5f} in the mean of {difference.n_tokens} vectors"
    say(f"{name}: {agreement}, logits within {difference.max_abs:.3g}")
    return Step(
        step=name,
        seconds=round(time.monotonic() - began, 1),
        n_bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        max_abs=difference.max_abs,
        agreement=difference.agreement,
    )


def windows_of(case: Artifact, examples: Sequence[Example], *, n: int) -> list[NDArray[np.int64]]:
    """Give up to n windows, of examples spread over the file; a query has one with each of its documents."""
    step = max(len(examples) // n, 1)
    windows = [window.ids for one in examples[::step][:n] for window in encode_asked(case.task, one)]
    return windows[:: max(len(windows) // n, 1)][:n]


def score_files(folder: Path, variant: Variant, *, case: Artifact) -> Score:
    """Score on dev what a variant's files answer as they will be served."""
    answers = []
    with _loaded_as_served(folder, variant, case=case) as run:
        for example in case.splits.dev:
            windows = encode_asked(case.task, example)
            answers.append(case.task.decode(example.text, windows, run([window.ids for window in windows])))
    return case.task.score(case.splits.dev, answers)


@contextmanager
def _loaded_as_served(folder: Path, variant: Variant, *, case: Artifact) -> Iterator[Callable[..., list[Any]]]:
    """Load a variant's files at its static lengths where it has some; give what runs windows of ids, as `run_all`."""
    buckets = case.buckets if variant.is_bucketed else None
    settings = BackendSettings(device=case.device, buckets=buckets)
    with loaded(variant.backend, folder, settings=settings) as backend:
        yield partial(run_all, backend, buckets=buckets, head=case.task.head)
