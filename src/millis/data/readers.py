"""Labelled text from a file, whole or not at all.

Border: picks the reader of a layout; the layouts are in conll.py and spans.py, rows and bad rows in rows.py.
"""

from collections.abc import Collection
from pathlib import Path

from millis.data.conll import PREFIXES, read_conll
from millis.data.examples import SpanExample
from millis.data.rows import BadRows, Reading, Row, no_examples, read_rows
from millis.data.spans import ENDS, OVERLAPS, is_span_row, read_spans
from millis.errors import InvalidValue

LAYOUTS = ("auto", "conll", "spans")
BLANKS = ("error", "skip")


def read_examples(
    path: str | Path,
    *,
    layout: str = "auto",
    scheme: str = "auto",
    ends: str = "exclusive",
    overlaps: str = "error",
    blanks: str = "error",
    limit: int = 20,
) -> tuple[SpanExample, ...]:
    """Read the examples of a file; see `read_labelled`, which also gives the notes."""
    return read_labelled(
        path, layout=layout, scheme=scheme, ends=ends, overlaps=overlaps, blanks=blanks, limit=limit
    ).examples


def read_labelled(
    path: str | Path,
    *,
    layout: str = "auto",
    scheme: str = "auto",
    ends: str = "exclusive",
    overlaps: str = "error",
    blanks: str = "error",
    limit: int = 20,
) -> Reading:
    """Read a file of labelled texts.

    Args:
        path: the file.
        layout: "conll", "spans" (JSON lines), or "auto": spans when the first line is a JSON object or the
            name ends in .json, .jsonl or .ndjson, else conll.
        scheme: how entities are tagged, for conll: a name in `conll.PREFIXES`.
        ends: for spans, whether end is the character after ("exclusive") or the last one ("inclusive").
        overlaps: for spans, "error", or "longest" to keep the longest of spans that share characters.
        blanks: for conll, "error", or "skip" to leave out rows tagged O whose token is empty.
        limit: how many bad rows to list.
    Raises:
        InvalidData: the file or a row of it cannot be read; lists the bad rows as file:line: reason.
        InvalidValue: an option has another value than these.
    """
    _check("layout", layout, LAYOUTS)
    _check("scheme", scheme, PREFIXES)
    _check("ends", ends, ENDS)
    _check("overlaps", overlaps, OVERLAPS)
    _check("blanks", blanks, BLANKS)
    path = Path(path)
    bad = BadRows(path, limit=limit)
    rows = read_rows(path, bad=bad)
    if layout == "spans" or (layout == "auto" and _looks_like_spans(path, rows)):
        reading = read_spans(rows, bad=bad, ends=ends, overlaps=overlaps)
    else:
        reading = read_conll(rows, bad=bad, scheme=scheme, blanks=blanks)
    bad.raise_any()
    if not reading.examples:
        raise no_examples(path)
    return reading


def _looks_like_spans(path: Path, rows: list[Row]) -> bool:
    first = next((text for _, text in rows if text.strip()), "")
    return is_span_row(first) or path.suffix.lower() in {".json", ".jsonl", ".ndjson"}


def _check(name: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise InvalidValue(f"{name} cannot be {value!r}: choose one of {', '.join(known)}.")
