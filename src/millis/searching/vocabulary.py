"""The reference with the vocabulary that its texts use, when that was asked for.

Border: decides whether the trimmed one stays; compressing/vocabulary.py trims. What was finished is found again in the
run folder.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from millis.bundles import Choice
from millis.bundles.bundle import TOKENIZER
from millis.bundles.manifest import Step
from millis.compiling.comparing import Difference, compare
from millis.compressing.vocabulary import trim_vocabulary
from millis.data.examples import options_of, texts_of
from millis.models.described import width_of
from millis.models.prediction import predict_examples, run_windows
from millis.models.taggers import load_tagger
from millis.searching.building import Reference
from millis.searching.case import Case
from millis.searching.trying import artifact_case
from millis.tasks import Task
from millis.tasks.task import Head
from millis.tasks.tokenization import Tokenizer
from millis.telemetry.progress import say
from millis.training.steps import torch_state
from millis.units import write_bytes, write_ms

_HALF_PRECISION = 2  # bytes: a table of embeddings that stands apart
_COMPARED = 100


def trim_reference(case: Case, reference: Reference) -> tuple[Case, Reference]:
    """Give case and reference with a trimmed vocabulary, or as they are where dev loses more than the contract allows.

    Scores of the reference stay those of the whole vocabulary: what trimming loses counts as lost.
    """
    folder = case.folder / "trimmed"
    known = case.ledger.find("trimmed", "vocabulary")
    if known is None or not folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        known = _trim(case, reference, folder)
        case.ledger.add("trimmed", "vocabulary", known)
    step = msgspec.convert(known["step"], type=Step)
    lost = reference.dev.value - (step.quality or 0.0)
    say(f"{step.step}: {write_bytes(step.n_bytes)}, {reference.dev.name} {step.quality:.2f} on dev ({lost:+.2f} lost)")
    allowed = artifact_case(case, reference).max_drop
    if allowed is not None and lost > allowed:
        stays = Choice(
            what="vocabulary", choice="stays whole",
            reason=f"trimmed, dev loses {lost:.2f} points, and {allowed:.3g} may be lost",
        )  # fmt: skip
        say(f"the vocabulary stays whole: {allowed:.3g} points may be lost")
        return case, replace(reference, choices=(*reference.choices, stays))
    task = case.task.with_tokenizer(Tokenizer(folder / TOKENIZER))
    trimmed = replace(case, task=task, tokenizer_file=folder / TOKENIZER)
    return trimmed, replace(reference, folder=folder, steps=(*reference.steps, step))


def _trim(case: Case, reference: Reference, folder: Path) -> dict[str, Any]:
    began = time.monotonic()
    texts = [text for example in case.splits.train for text in texts_of(example.text)]
    texts += [prefix for prefix in (case.settings.query_prefix, case.settings.passage_prefix) if prefix]
    texts += case.corpus
    trimmed = trim_vocabulary(reference.folder, folder, texts=texts)
    (_, before_ms), (tokenizer, after_ms) = _load(case.tokenizer_file), _load(folder / TOKENIZER)
    task = case.task.with_tokenizer(tokenizer)
    row_bytes = _HALF_PRECISION * width_of(folder)
    before, after = (write_bytes(n * row_bytes) for n in (trimmed.pieces_before, trimmed.pieces_after))
    with torch_state(0):
        answers = predict_examples(load_tagger(folder), task=task, examples=case.splits.dev)
        difference = _compare(_run(case, case.task, reference.folder), _run(case, task, folder), head=task.head)
    return {
        "step": Step(
            step=f"vocabulary trimmed from {trimmed.pieces_before:,} to {trimmed.pieces_after:,} pieces",
            seconds=round(time.monotonic() - began, 1),
            n_bytes=trimmed.bytes_after,
            max_abs=difference.max_abs if difference else None,
            agreement=difference.agreement if difference else None,
            quality=task.score(case.splits.dev, answers).value,
            reason=f"those of {len(texts):,} texts, and single characters; {write_bytes(trimmed.bytes_before)} before."
            f" The tokenizer loads in {write_ms(after_ms)}, before in {write_ms(before_ms)}; a server maps a table of"
            f" {after}, before of {before}",
        )
    }


def _run(case: Case, task: Task, folder: Path) -> list[NDArray[np.float32]]:
    """Give the logits (R, C) of some windows of dev, one window for each text."""
    examples = case.splits.dev[:_COMPARED]
    texts, options = [one.text for one in examples], [options_of(one) for one in examples]
    found = run_windows(load_tagger(folder), task=task, texts=texts, options=options)
    return [logits[0] if logits else np.empty((0, 1), np.float32) for _, logits in found]


def _compare(
    before: Sequence[NDArray[np.float32]], after: Sequence[NDArray[np.float32]], *, head: Head
) -> Difference | None:
    """Compare what both say of texts of which they say as much: tokens cannot be compared where cuts differ."""
    alike = [(one, other) for one, other in zip(before, after, strict=True) if len(one) == len(other) > 0]
    return compare([one for one, _ in alike], [other for _, other in alike], head=head) if alike else None


def _load(file: Path) -> tuple[Tokenizer, float]:
    """Load a tokenizer; give it, and the ms that took."""
    began = time.perf_counter()
    tokenizer = Tokenizer(file)
    return tokenizer, 1000 * (time.perf_counter() - began)
