"""`millis data`: look through labelled files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millis.cli.output import Json, write_result
from millis.cli.reading import with_reading

if TYPE_CHECKING:
    from millis.data.readers import ReadSettings

_TITLES = {
    "conflict": "conflicting rows: the same text, other labels",
    "leak": "leaking rows: dev or test stands in train",
    "twin": "labels that differ only in case, blanks or width",
    "unseen": "labels that train does not have",
    "single": "one label for all texts of train",
    "duplicate": "repeated texts in train",
    "empty": "texts with hardly anything to read",
    "once": "labels of one row",
    "suspicious": "suspicious labels, the surest first",
}

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Look through labelled files before anything is trained."
)


@app.callback()
def _data() -> None:
    """Look through labelled files before anything is trained."""


@app.command()
@with_reading
def check(
    train: Annotated[Path, typer.Option(help="Labelled text, as for fit.")],
    dev: Annotated[Path | None, typer.Option(help="As for fit.")] = None,
    test: Annotated[Path | None, typer.Option(help="As for fit.")] = None,
    task: Annotated[str, typer.Option(help="What the labels are for: ner, classify, qa, rerank or embedding.")] = "ner",
    limit: Annotated[int, typer.Option(help="Rows to list of each kind; --json lists all.", min=1)] = 10,
    seed: Annotated[int, typer.Option(help="Of the folds by which wrong labels are looked for.")] = 7,
    *,
    reading: "ReadSettings",
    as_json: Json = False,
) -> None:
    """Count labels and lengths, and list rows that look wrong with file and line.

    Exit codes: 0 nothing but notes, 1 conflicting or leaking rows, labels that differ only in writing or that train
    does not have, or one label for all; 2 bad input. Suspicious labels are guesses, and notes.
    """
    from millis.searching.checking import check_data

    found = check_data(train, task=task, dev=dev, test=test, reading=reading, seed=seed)
    counts = found.count()
    lines = [*found.inventory.lines(), *(f"note: {note}" for note in found.notes)]
    for kind, n in counts.items():
        listed = [one for one in found.findings if one.kind == kind][:limit] if n else []
        lines.append(f"{_TITLES[kind]}: {n}")
        lines += [f"  {one.source}: {one.said}" for one in listed]
        lines += [f"  ... and {n - limit} more (--limit, or --json)"] if n > limit else []
    lines.append("something is wrong: correct it first" if found.is_wrong else "nothing but notes")
    inventory = found.inventory
    write_result(
        {"examples": inventory.examples, "labels": inventory.labels,
         "characters": {name: one.counts for name, one in inventory.characters.items()},
         "counts": counts, "is_wrong": found.is_wrong, "notes": found.notes, "findings": found.findings},
        lines=lines,
        is_json=as_json,
    )  # fmt: skip
    if found.is_wrong:
        raise typer.Exit(1)
