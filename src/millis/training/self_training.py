"""Teach a tagger with texts that nobody labelled, by what it is sure of itself.

In rounds: the model so far, calibrated on dev, labels the texts; of each label, the share it is surest of is learnt
together with the labelled ones, from the base anew; the share grows. A round that dev does not like ends it, and is
not used.

Border: decides what is learnt next; each training is loop.py's. A round that was finished is found again in the folder.
Limits: tasks with one label a text.
Source: Lee 2013 (pseudo-labels); a share of each label that grows, so that easy labels do not crowd out the others, as
in Zou et al. 2018, arXiv:1810.07911, 4.1. Ours asks for a least confidence too, and stops on dev.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from millis.data.examples import Example, LabelExample
from millis.errors import InvalidValue
from millis.models.prediction import predict, run_windows
from millis.models.taggers import divide_logits, load_tagger
from millis.tasks.classify import ClassifyTask
from millis.tasks.task import Task
from millis.telemetry.progress import say
from millis.training.loop import train
from millis.training.settings import TrainSettings
from millis.training.steps import torch_state

SHARES = (0.3, 0.6, 1.0)
"""Of the texts that get a label, the surest so many are learnt, round by round."""

LEAST = 0.8
"""Probability of a label that is learnt."""


def self_train(
    base: Path,
    *,
    task: Task,
    first: Path,
    dev_score: float,
    train_part: Sequence[Example],
    dev: Sequence[Example],
    texts: Sequence[str],
    folder: Path,
    settings: TrainSettings,
    tokenizer_file: Path,
) -> Path:
    """Train on what is labelled and on what a model is sure of; give the folder of the best on dev.

    Args:
        first: a tagger trained on what is labelled alone, and dev_score what it reaches on dev.
        texts: unlabelled, none of them in train, dev or test, none twice.
        folder: a run for each round lives in it.
    Raises: as `train`; InvalidValue for a task without one label a text.
    """
    if not isinstance(task, ClassifyTask) or task.is_multi:
        raise InvalidValue("unlabelled texts teach tasks with one label a text: leave them out, or use task classify.")
    best = first
    for number, share in enumerate(SHARES, 1):
        found = label_texts(best, task=task, texts=texts, share=share, dev=dev)
        if not found:
            say(f"self-training ends: no text has a label that is {LEAST:g} probable")
            break
        result = train(
            base, task=task, train=(*train_part, *found), dev=dev, folder=folder / f"round-{number}",
            settings=settings, tokenizer_file=tokenizer_file,
        )  # fmt: skip
        score = result.dev_score
        say(
            f"self-training, round {number}: {len(found):,} of {len(texts):,} texts learnt, {score.name} on dev"
            f" {score.value:.2f} ({dev_score:.2f} before)"
        )
        if score.value <= dev_score:
            break
        best, dev_score = result.best, score.value
    return best


def label_texts(
    folder: Path, *, task: ClassifyTask, texts: Sequence[str], share: float, dev: Sequence[Any]
) -> list[LabelExample]:
    """Give texts the labels that a tagger is sure of.

    Args:
        folder: of the tagger.
        share: of each label's texts, 0 to 1, the surest first, rounded up.
        dev: examples that probabilities are calibrated on: of few rows a network learns labels long before it is sure.
    """
    tagger = load_tagger(folder)
    with torch_state(0):
        outputs = run_windows(tagger, task=task, texts=[example.text for example in dev])
        calibrated = task.calibrate(dev, outputs)
        divide_logits(tagger, by=calibrated.temperature)
        answers = predict(tagger, task=calibrated.task, texts=texts)
    none = task.out_of_scope.label if task.out_of_scope else ""
    by_label: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for text, answer in zip(texts, answers, strict=True):
        by_label[answer["label"] or none].append((answer["score"], text))
    found = []
    for label, scored in sorted(by_label.items()):
        surest = sorted(scored, key=lambda pair: (-pair[0], pair[1]))[: math.ceil(share * len(scored))]
        found += [
            LabelExample(text=text, labels=(label,), source="unlabelled") for score, text in surest if score >= LEAST
        ]
    return found
