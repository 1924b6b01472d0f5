"""`millis evaluate`: score a bundle on labelled text."""

from pathlib import Path
from typing import Annotated

import typer

from millis.cli.output import Json, write_result
from millis.cli.reading import Blanks, Ends, Layout, Overlaps, Scheme


def command(
    bundle: Annotated[Path, typer.Argument(help="NAME.millis")],
    test: Annotated[Path, typer.Option(help="Labelled text: CoNLL columns or JSON lines with spans.")],
    rung: Annotated[str | None, typer.Option(help="Name of a rung; the serving one when missing.")] = None,
    layout: Layout = "auto",
    scheme: Scheme = "auto",
    ends: Ends = "exclusive",
    overlaps: Overlaps = "error",
    blanks: Blanks = "error",
    as_json: Json = False,
) -> None:
    """Score a bundle's answers: entity-level precision, recall and F1 by label."""
    from millis.data.readers import ReadSettings, read_labelled
    from millis.searching import evaluate
    from millis.telemetry.progress import say

    settings = ReadSettings(layout=layout, scheme=scheme, ends=ends, overlaps=overlaps, blanks=blanks)
    reading = read_labelled(test, settings=settings)
    for note in reading.notes:
        say(note)
    score = evaluate(bundle, reading.examples, rung=rung)
    write_result(
        {"name": score.name, "value": score.value, "by_label": score.by_label, "examples": len(reading.examples)},
        lines=[score.report.rstrip()],
        is_json=as_json,
    )
