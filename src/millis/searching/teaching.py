"""The reference, taught by a larger model of the same labels, where one was given and dev says that it helps.

A folder with the base's own tokenizer is asked about noisy text in every step; a bundle, or a model of another
tokenizer, once about each text of train. What is pruned later is taught by the reference, whose layers fit.
Border: asks the teacher and decides what is kept; the training is distillation.py's. What was finished is found again
in the run folder.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from millis.bundles import load
from millis.models.prediction import answer_windows
from millis.models.taggers import Tagger, load_tagger, save_tagger
from millis.searching.building import Reference, score_reference
from millis.searching.case import Case
from millis.searching.teacher import Teacher
from millis.tasks import Window
from millis.tasks.task import Head
from millis.telemetry.progress import bar, say
from millis.training.batches import encode_asked, encode_examples
from millis.training.distillation import distil, distil_answers
from millis.training.settings import TrainSettings
from millis.training.steps import torch_state

Logits = NDArray[np.float32]


def be_taught(case: Case, reference: Reference, *, settings: TrainSettings) -> tuple[Case, Reference]:
    """Give case and reference, taught where that is better on dev; the case notes what was decided."""
    teacher = case.teacher
    if teacher is None:
        return case, reference
    folder = case.folder / "taught"
    if case.ledger.find("taught", "reference") is None or not folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        student = _teach(load_tagger(reference.folder), teacher, case=case, settings=settings)
        save_tagger(student, folder, tokenizer_file=case.tokenizer_file)
        case.ledger.add("taught", "reference", {"teacher": teacher.digest})
    taught = score_reference(folder, task=case.task, splits=case.splits, train_on=settings.device)
    taught = replace(taught, choices=reference.choices)
    name, before, after = reference.dev.name, reference.dev.value, taught.dev.value
    is_better = after > before
    note = (
        f"taught by {teacher.name}: {name} on dev {after:.2f}, {before:.2f} without: it is"
        f" {'kept' if is_better else 'not used'}"
    )
    say(note)
    return replace(case, notes=(*case.notes, note)), taught if is_better else reference


def _teach(student: Tagger, teacher: Teacher, *, case: Case, settings: TrainSettings) -> Tagger:
    name = f"taught by {teacher.name}"
    if teacher.bundle is None and teacher.has_same_pieces:
        windows = encode_examples(case.task, case.splits.train)
        return distil(student, teacher=_load(teacher), windows=windows, settings=settings, name=name)
    windows, answers = _ask(teacher, case=case)
    return distil_answers(student, answers=answers, windows=windows, settings=settings, name=name)


def _load(teacher: Teacher) -> Tagger:
    """Load a folder, its outputs in the student's order."""
    tagger, order = load_tagger(teacher.path), torch.tensor(teacher.order)
    head = tagger.network.classifier
    with torch.no_grad():
        head.weight.copy_(head.weight[order].clone())
        head.bias.copy_(head.bias[order].clone())
    return tagger


def _ask(teacher: Teacher, *, case: Case) -> tuple[list[Window], list[Logits]]:
    """Give the student's windows, and what the teacher says of each: of the same pieces, or of the whole text."""
    examples = case.splits.train
    mine = [encode_examples(case.task, [example]) for example in examples]
    windows = [window for of_text in mine for window in of_text]
    head = case.task.head
    if teacher.has_same_pieces:
        asked = [window for of_text in mine for window in of_text]
        return windows, _run(teacher, asked, head=head)
    theirs = [encode_asked(teacher.task, example) for example in examples]
    said = iter(_run(teacher, [window for of_text in theirs for window in of_text], head=head))
    answers: list[Logits] = []
    for of_text, of_student in zip(theirs, mine, strict=True):
        parts = [next(said) for _ in of_text]
        weights = [max(window.places, 1) for window in of_text]
        mean = np.average(np.stack(parts), axis=0, weights=weights).astype(np.float32)
        answers += [mean] * len(of_student)
    return windows, answers


def _run(teacher: Teacher, windows: Sequence[Window], *, head: Head) -> list[Logits]:
    """Give the teacher's logits (R, C) of its own windows, outputs in the student's order."""
    if teacher.bundle is None:
        with torch_state(0):
            return answer_windows(_load(teacher), [window.ids for window in windows], head=head)
    model = load(teacher.bundle, rung=teacher.rung)
    try:
        answers = []
        with bar("asking the teacher", total=len(windows)) as advance:
            for done, window in enumerate(windows, 1):
                answers.append(_put_in_order(model.run(window.ids).copy(), teacher.order, head=head))
                advance(done, "")
        return answers
    finally:
        model.close()


def _put_in_order(logits: Logits, order: Sequence[int], *, head: Head) -> Logits:
    """Lay logits (R, C) out as the student's outputs are."""
    if head.is_across:
        return logits[list(order)]
    if head.rows is None:
        return logits[:, list(order)]
    return logits.reshape(-1)[list(order)].reshape(logits.shape)
