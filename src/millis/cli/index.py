"""`millis index`: make a search index, change it, look at it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millis.cli.output import Json, write_result
from millis.errors import InvalidValue

if TYPE_CHECKING:
    from millis.retrieving.writing import Changed

_Rows = Annotated[Path, typer.Argument(help='JSON lines: {"id": ..., "text": ..., any further fields}.')]
_Index = Annotated[Path, typer.Argument(help="NAME.index")]
_Model = Annotated[Path, typer.Option(help="NAME.millis, made with --task embedding.")]

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Make, change and look at a search index.")


@app.command()
def build(
    rows: _Rows,
    model: _Model,
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the index shall stand, NAME.index.")],
    text: Annotated[str, typer.Option(help="Key of the text that is searched.")] = "text",
    as_json: Json = False,
) -> None:
    """Make an index of passages; a passage without an id gets a name made of its text."""
    from millis.retrieving.passages import read_passages
    from millis.retrieving.writing import build_index

    passages = read_passages(rows, text_key=text)
    changed = build_index(out, passages=passages, model=model, text_key=text)
    _say(out, changed, further=[f"next: millis serve {model} --index {out}"], is_json=as_json)


@app.command()
def add(index: _Index, rows: _Rows, model: _Model, as_json: Json = False) -> None:
    """Put passages into an index; one whose id is there takes that one's place. Servers see it within two seconds."""
    from millis.retrieving.passages import read_passages
    from millis.retrieving.storing import read_manifest
    from millis.retrieving.writing import add_passages

    passages = read_passages(rows, text_key=read_manifest(index).text_key)
    _say(index, add_passages(index, passages=passages, model=model), is_json=as_json)


@app.command()
def delete(
    index: _Index,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of passages.")] = None,
    file: Annotated[Path | None, typer.Option("--ids", help="A file of ids, one a line.")] = None,
    as_json: Json = False,
) -> None:
    """Take passages out of an index: all that are named, or none."""
    from millis.data.rows import BadRows, read_rows
    from millis.retrieving.writing import delete_passages

    named = list(ids or ())
    if file is not None:
        bad = BadRows(file)
        named += [text.strip() for _, text in read_rows(file, bad=bad) if text.strip()]
        bad.raise_any()
    if not named:
        raise InvalidValue("no id is named: give ids, or a file of them with --ids.")
    _say(index, delete_passages(index, ids=named), is_json=as_json)


@app.command()
def info(index: _Index, as_json: Json = False) -> None:
    """Check every file of an index and say what is in it."""
    from millis.retrieving.index import open_index
    from millis.units import write_bytes

    opened = open_index(index)
    manifest = opened.manifest
    n_bytes = sum(entry.n_bytes for segment in manifest.segments for entry in segment.files.values())
    n_deleted = sum(segment.n_deleted for segment in manifest.segments)
    write_result(
        {
            "passages": len(opened), "deleted": n_deleted, "segments": len(manifest.segments), "bytes": n_bytes,
            "model": manifest.model, "rung": manifest.rung, "width": manifest.width, "fields": sorted(opened.names),
            "text_key": manifest.text_key,
        },
        lines=[
            f"{index.name}: {len(opened):,} passages, {write_bytes(n_bytes)}, {len(manifest.segments)} segment(s),"
            f" {n_deleted:,} deleted ones not yet cleared away",
            f"vectors of {manifest.width} numbers by {manifest.model}, rung {manifest.rung}",
            f"fields: {', '.join(sorted(opened.names)) or 'none'}; searched text: {manifest.text_key}",
        ],
        is_json=as_json,
    )  # fmt: skip


def _say(index: Path, changed: "Changed", *, further: Sequence[str] = (), is_json: bool) -> None:
    parts = {"added": changed.added, "replaced": changed.replaced, "deleted": changed.deleted}
    said = ", ".join(f"{n:,} {what}" for what, n in parts.items() if n) or "nothing changed"
    write_result(
        {"index": str(index), **parts, "passages": changed.n},
        lines=[f"{index}: {said}; {changed.n:,} passages", *further],
        is_json=is_json,
    )
