"""The reference, taught by texts without labels too, where some were given and dev says that they help.

Border: decides what is kept; the training is self_training.py's and masking.py's. What was finished is found again in
the run folder.
"""

from pathlib import Path

from millis.data.plain import read_plain
from millis.models.bases import find_base
from millis.searching.building import Reference, score_reference, train_reference
from millis.searching.case import Case
from millis.telemetry.progress import say
from millis.training.masking import read_on
from millis.training.self_training import check_self_training, self_train
from millis.training.settings import TrainSettings


def learn_reference(base: Path, *, case: Case, settings: TrainSettings | None, folder: Path) -> Reference:
    """Train the reference, and again in the ways that texts without labels allow; give the best on dev.

    Args:
        settings: None takes a base as it is.
        folder: of the plain training.
    Raises: as `train`.
    """
    given = case.settings
    if given.unlabelled is not None:
        check_self_training(case.task)
    reference = _train(base, case=case, settings=settings, folder=folder)
    if settings is None:
        return reference
    if given.domain_text is not None:
        further = _read_on(base, given.domain_text, case=case, settings=settings)
        other = _train(further, case=case, settings=settings, folder=case.folder / "domain" / "training")
        if _is_better("reading on first", other, reference):
            base, reference = further, other
    if given.unlabelled is not None:
        best = self_train(
            base, task=case.task, first=reference.folder, dev_score=reference.dev.value,
            train_part=case.splits.train, dev=case.splits.dev, texts=read_plain(given.unlabelled),
            folder=case.folder / "self-training", settings=settings, tokenizer_file=case.tokenizer_file,
        )  # fmt: skip
        if best != reference.folder:
            reference = score_reference(best, task=case.task, splits=case.splits, train_on=settings.device)
    return reference


def _train(base: Path, *, case: Case, settings: TrainSettings | None, folder: Path) -> Reference:
    return train_reference(
        base, task=case.task, splits=case.splits, folder=folder, tokenizer_file=case.tokenizer_file, settings=settings
    )


def _read_on(base: Path, file: Path, *, case: Case, settings: TrainSettings) -> Path:
    out = case.folder / "domain" / "base"
    if not out.is_dir():
        out.parent.mkdir(parents=True, exist_ok=True)
        read_on(base, read_plain(file), out=out, settings=settings)
    return find_base(str(out))


def _is_better(what: str, other: Reference, reference: Reference) -> bool:
    """Say, and tell, whether one is better on dev."""
    name, before, after = reference.dev.name, reference.dev.value, other.dev.value
    is_better = after > before
    say(f"{what}: {name} on dev {after:.2f}, {before:.2f} without: it is {'kept' if is_better else 'not used'}")
    return is_better
