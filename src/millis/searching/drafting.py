"""Rungs written down: what a bundle of them is, where each of their files goes, a draft of one to load and to serve.

Border: manifests and files; which rungs there are is trying.py's matter, which of them stay concluding.py's.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from millis.backends.ir import EMBEDDINGS
from millis.bundles import Bundle, Choice, Manifest, Rung, ServingShape, save_bundle
from millis.bundles.bundle import TOKENIZER, hash_file
from millis.bundles.manifest import TableCheck, Tried
from millis.data.lengths import LengthHistogram
from millis.measuring.fingerprint import fingerprint
from millis.searching.building import Built
from millis.searching.case import Case


def save_draft(case: Case, rung: Rung, built: Built, *, shape: ServingShape | None = None) -> Bundle:
    """Write a bundle of one rung into the run folder, to load and to serve it as it will be."""
    manifest = make_manifest(case, [rung], shape=shape or ServingShape(), name="draft")
    return save_bundle(
        case.folder / "drafts" / f"{rung.name}.millis",
        manifest=manifest,
        parts={TOKENIZER: case.tokenizer_file, **parts_of(rung, built)},
    )


def parts_of(rung: Rung, built: Built) -> dict[str, Path | bytes]:
    """Say where a rung's files go in a bundle: its table of word embeddings is apart, once for all that share it."""
    if rung.table is None:
        return {rung.folder: built.folder}
    files = [file for file in built.folder.iterdir() if file.name != EMBEDDINGS]
    return {rung.table: built.folder / EMBEDDINGS, **{f"{rung.folder}/{file.name}": file for file in files}}


def name_table(built: Built) -> str | None:
    """Say where a rung's table of word embeddings goes in a bundle; None where it has none of its own."""
    file = built.folder / EMBEDDINGS
    return f"tables/{hash_file(file)[:16]}.npy" if file.is_file() else None


def make_manifest(
    case: Case,
    rungs: Sequence[Rung],
    *,
    shape: ServingShape,
    name: str,
    choices: tuple[Choice, ...] = (),
    tried: tuple[Tried, ...] = (),
    checks: tuple[TableCheck, ...] = (),
) -> Manifest:
    """Write down what a bundle of these rungs is; the first of them serves."""
    base = case.settings.base
    return Manifest(
        format=1, name=name, task=case.settings.task, labels=case.task.labels,
        task_settings=case.task.settings,
        rungs=tuple(rungs), rung=rungs[0].name, contract=case.contract.record(), serving=shape,
        base=base if base.startswith("package:") else Path(base).name,
        created=datetime.now(UTC).isoformat(timespec="seconds"), versions=fingerprint().versions, choices=choices,
        notes=case.notes, tried=tried, table_checks=checks, lengths=LengthHistogram.from_lengths(case.lengths).counts,
    )  # fmt: skip
