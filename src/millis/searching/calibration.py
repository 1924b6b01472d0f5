"""The reference with scores that mean what they say, where its task has a use for it.

The temperature goes into the weights of the head, so that whatever is compiled, pruned or distilled from the reference
is calibrated as it is; what else was fitted becomes part of the task.
Border: runs the network on dev; the task fits. What was finished is found again in the run folder.
"""

import shutil
import time
from dataclasses import replace

import msgspec

from millis.bundles.manifest import Step
from millis.models.prediction import run_windows
from millis.models.taggers import divide_logits, load_tagger, save_tagger
from millis.searching.building import Reference, score_reference
from millis.searching.case import Case
from millis.tasks import tasks
from millis.tasks.tokenization import Tokenizer
from millis.telemetry.progress import say
from millis.training.steps import torch_state


def calibrate_reference(case: Case, reference: Reference) -> tuple[Case, Reference]:
    """Give case and reference calibrated on dev, or as they are where the task's scores are not probabilities."""
    folder = case.folder / "calibrated"
    known = case.ledger.find("calibrated", "reference")
    if known is None or not folder.is_dir():
        began = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        examples = case.splits.dev
        tagger = load_tagger(reference.folder)
        with torch_state(0):
            outputs = run_windows(tagger, task=case.task, texts=[example.text for example in examples])
        found = case.task.calibrate(examples, outputs)
        if found is None:
            return case, reference
        divide_logits(tagger, by=found.temperature)
        save_tagger(tagger, folder, tokenizer_file=case.tokenizer_file)
        step = Step(
            step="calibrated", seconds=round(time.monotonic() - began, 1), reason=found.said,
            n_bytes=sum(file.stat().st_size for file in folder.iterdir()),
        )  # fmt: skip
        known = {"settings": found.task.settings, "step": step}
        case.ledger.add("calibrated", "reference", known)
    step = msgspec.convert(known["step"], type=Step)
    say(f"{step.step}: {step.reason}")
    settings = msgspec.to_builtins(known["settings"])
    task = tasks[case.settings.task](Tokenizer(case.tokenizer_file), labels=case.task.labels, **settings)
    scored = score_reference(folder, task=task, splits=case.splits, train_on=case.settings.train_on)
    return replace(case, task=task), replace(scored, steps=(*reference.steps, step), choices=reference.choices)
