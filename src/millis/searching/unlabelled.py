"""The reference, taught by texts without labels too, where some were given and dev says that they help.

Border: decides what is kept; the training is self_training.py's and masking.py's. What was finished is found again in
the run folder.
"""

from dataclasses import replace
from pathlib import Path

from millis.bundles import Choice
from millis.models.bases import find_base
from millis.searching.building import Reference, score_reference, train_reference
from millis.searching.case import Case
from millis.searching.remembering import hash_base, make_key
from millis.telemetry.progress import say
from millis.training.masking import read_on
from millis.training.self_training import self_train
from millis.training.settings import TrainSettings

_KEPT, _NOT_USED = "kept", "not used"


def learn_reference(base: Path, *, case: Case, settings: TrainSettings | None, folder: Path) -> Reference:
    """Train the reference, and again in the ways that texts without labels allow; give the best on dev.

    Args:
        settings: None takes a base as it is.
        folder: of the plain training.
    Raises: as `train`.
    """
    reference = _train(base, case=case, settings=settings, folder=folder)
    if settings is None:
        return reference
    if case.domain_text:
        further = _read_on(base, case=case, settings=settings)
        other = _train(further, case=case, settings=settings, folder=further.with_name("training"))
        choice = _choose("reading on first", other, reference)
        if choice.choice == _KEPT:
            base, reference = further, other
        reference = replace(reference, choices=(*reference.choices, choice))
    if case.unlabelled:
        best = self_train(
            base, task=case.task, first=reference.folder, dev_score=reference.dev.value,
            train_part=case.splits.train, dev=case.splits.dev, texts=case.unlabelled,
            folder=case.folder / "self-training", settings=settings, tokenizer_file=case.tokenizer_file,
        )  # fmt: skip
        taught = reference
        if best != reference.folder:
            taught = score_reference(best, task=case.task, splits=case.splits, train_on=settings.device)
        choice = _choose("self-training", taught, reference)
        reference = replace(taught, choices=(*reference.choices, choice))
    return reference


def _train(base: Path, *, case: Case, settings: TrainSettings | None, folder: Path) -> Reference:
    return train_reference(
        base, task=case.task, splits=case.splits, folder=folder, tokenizer_file=case.tokenizer_file, settings=settings
    )


def _read_on(base: Path, *, case: Case, settings: TrainSettings) -> Path:
    told = [case.domain_text, hash_base(base), settings]
    out = case.folder / "domain" / make_key(told)[:8] / "base"  # of other texts it is another base
    if not out.is_dir():
        out.parent.mkdir(parents=True, exist_ok=True)
        read_on(base, case.domain_text, out=out, settings=settings)
    return find_base(str(out))


def _choose(what: str, other: Reference, reference: Reference) -> Choice:
    """Say, and tell, whether one is better on dev."""
    name, before, after = reference.dev.name, reference.dev.value, other.dev.value
    choice = Choice(
        what=what, choice=_KEPT if after > before else _NOT_USED,
        reason=f"{name} on dev {after:.2f}, {before:.2f} without",
    )  # fmt: skip
    say(f"{what}: {choice.reason}: it is {choice.choice}")
    return choice
