"""`millis evaluate`: score a bundle on labelled text."""

from pathlib import Path
from typing import Annotated

import typer

from millis.cli.output import Json, write_result


def command(
    bundle: Annotated[Path, typer.Argument(help="NAME.millis")],
    test: Annotated[Path, typer.Option(help="Labelled text: CoNLL columns or JSON lines with spans.")],
    rung: Annotated[str | None, typer.Option(help="Name of a rung; the serving one when missing.")] = None,
    layout: Annotated[str, typer.Option(help="auto, conll or spans.")] = "auto",
    scheme: Annotated[str, typer.Option(help="auto, iob1, bio, bioes, bilou or bmes.")] = "auto",
    ends: Annotated[str, typer.Option(help="Span ends: exclusive or inclusive.")] = "exclusive",
    overlaps: Annotated[str, typer.Option(help="Overlapping spans: error, or longest.")] = "error",
    blanks: Annotated[str, typer.Option(help="Rows with an empty token: error, or skip.")] = "error",
    as_json: Json = False,
) -> None:
    """Score a bundle's answers: entity-level precision, recall and F1 by label."""
    from millis.data.readers import read_labelled
    from millis.searching import evaluate
    from millis.telemetry.progress import say

    reading = read_labelled(test, layout=layout, scheme=scheme, ends=ends, overlaps=overlaps, blanks=blanks)
    for note in reading.notes:
        say(note)
    score = evaluate(bundle, reading.examples, rung=rung)
    write_result(
        {"name": score.name, "value": score.value, "by_label": score.by_label, "examples": len(reading.examples)},
        lines=[score.report.rstrip()],
        is_json=as_json,
    )
