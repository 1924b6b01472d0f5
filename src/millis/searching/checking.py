"""Labelled files, looked through for what would spoil a fit or its score, before anything is trained.

Border: reads, and puts together what data/ and training/label_noise.py find; carves nothing, changes nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from millis.data.checks import DataReport, take_inventory
from millis.data.readers import ReadSettings, read_labelled
from millis.data.suspects import NOTES, WRONG, Finding, find_plain, find_single
from millis.tasks import tasks
from millis.training.label_noise import find_suspicious

_SEPARATORS = (",", ";", "|")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCheck:
    """What was found in labelled files.

    Args:
        inventory: labels and lengths.
        findings: rows that look wrong, guesses among them.
        notes: how they were looked for, and what reading left out.
    """

    inventory: DataReport
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def is_wrong(self) -> bool:
        """Say whether a label or a score cannot be trusted; guesses and what does no harm do not count."""
        return any(one.kind in WRONG for one in self.findings)

    def count(self) -> dict[str, int]:
        """Count the findings of each kind, the wrong ones first."""
        return {kind: sum(one.kind == kind for one in self.findings) for kind in (*WRONG, *NOTES)}


def check_data(
    train: Path, *, task: str, dev: Path | None = None, test: Path | None = None, reading: ReadSettings | None = None,
    seed: int = 7,
) -> DataCheck:  # fmt: skip
    """Read labelled files and find the rows that look wrong.

    Raises:
        InvalidData: a file cannot be read, or train has no label.
        MissingExtra: scikit-learn is not installed, and the task needs it.
    """
    kind = tasks[task]
    files = {"train": train, **({"dev": dev} if dev else {}), **({"test": test} if test else {})}
    read = {name: read_labelled(file, settings=reading, of=kind.data) for name, file in files.items()}
    parts = {name: one.examples for name, one in read.items()}
    inventory = take_inventory(parts)
    suspicious, how = find_suspicious(parts["train"], of=kind.data, seed=seed)
    notes = [f"{files[name].name}: {note}" for name, one in read.items() for note in one.notes]
    is_one_a_text = kind.data == "labels" and (reading or ReadSettings()).separator is None
    single = find_single(parts["train"]) if is_one_a_text else []
    notes += _note_joined(inventory.labels) if is_one_a_text else []
    return DataCheck(
        inventory=inventory, findings=(*find_plain(parts), *single, *suspicious),
        notes=(*notes, f"suspicious labels: {how}"),
    )  # fmt: skip


def _note_joined(labels: Collection[str]) -> list[str]:
    """Say which labels are others put together, as where a text may have several."""
    for separator in _SEPARATORS:
        parts_of = {one: {part.strip() for part in one.split(separator)} for one in labels if separator in one}
        joined = [one for one, parts in parts_of.items() if parts <= {*labels}]
        if joined:
            return [
                f"labels that are others joined by {separator!r}: {len(joined)}, {joined[0]!r} first; if a text may"
                f" have several, give --separator {separator!r}, and to fit --multi-label too"
            ]
    return []
