"""`millis evaluate`: score a bundle on labelled text."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millis.cli.output import Json, write_result
from millis.cli.reading import with_reading
from millis.tasks.instructing import CHAT, SPEAKING

if TYPE_CHECKING:
    from millis.bundles import Bundle
    from millis.data.examples import Example
    from millis.data.readers import ReadSettings

_MOST_TOLD = 10


@with_reading
def command(
    bundle: Annotated[Path, typer.Argument(help="NAME.millis")],
    test: Annotated[Path, typer.Option(help="Labelled text, as for fit.")],
    rung: Annotated[str | None, typer.Option(help="Name of a rung; the serving one when missing.")] = None,
    *,
    reading: "ReadSettings",
    as_json: Json = False,
) -> None:
    """Score a bundle's answers: F1 of entities, accuracy of labels, MRR of vectors; and the same by label."""
    from millis.bundles import open_bundle
    from millis.searching.evaluating import evaluate, read_test
    from millis.telemetry.progress import say

    opened = open_bundle(bundle)
    if opened.manifest.task in SPEAKING:
        _score_spoken(opened, test, rung=rung, as_json=as_json)
        return
    read = read_test(opened, test, settings=reading)
    for note in (*read.notes, *_find_strange(opened, read.examples)):
        say(note)
    score = evaluate(opened, read.examples, rung=rung)
    write_result(
        {"name": score.name, "value": score.value, "by_label": score.by_label, "examples": len(read.examples)},
        lines=[score.report.rstrip()],
        is_json=as_json,
    )


def _find_strange(opened: "Bundle", examples: Sequence["Example"]) -> list[str]:
    """Say which labels came that the model cannot give; nothing where it gives none."""
    from millis.tasks import tasks

    manifest = opened.manifest
    known = tasks[manifest.task].names(manifest.labels)
    outside = (manifest.task_settings.get("out_of_scope") or {}).get("label")
    strange = Counter(label for one in examples for label in one.labels if label not in {*known, outside})
    if not (known and strange):
        return []
    told = ", ".join(f"{label!r} ({n})" for label, n in strange.most_common(_MOST_TOLD))
    return [f"labels came that {opened.name} does not have, and count as missed: {told}; it has {', '.join(known)}"]


def _score_spoken(opened: "Bundle", test: Path, *, rung: str | None, as_json: bool) -> None:
    from millis.data.dialogues import read_dialogues
    from millis.searching.hearing import score_spoken

    dialogues = read_dialogues(test, is_chat=opened.manifest.task == CHAT)
    score = score_spoken(opened, dialogues, rung=rung)
    write_result(
        {"name": score.name, "value": score.value, "examples": len(dialogues)}, lines=[score.report], is_json=as_json
    )
