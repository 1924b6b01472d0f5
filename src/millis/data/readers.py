"""Labelled text from a file, whole or not at all.

Border: picks the reader of a layout; the layouts are in conll.py and spans.py, rows and bad rows in rows.py.
"""

from dataclasses import dataclass
from pathlib import Path

from millis.data.conll import PREFIXES, read_conll
from millis.data.examples import SpanExample
from millis.data.rows import BadRows, Reading, Row, no_examples, read_rows
from millis.data.spans import ENDS, OVERLAPS, is_span_row, read_spans
from millis.errors import InvalidValue

LAYOUTS = ("auto", "conll", "spans")
BLANKS = ("error", "skip")
_KNOWN: dict[str, tuple[str, ...]] = {
    "layout": LAYOUTS, "scheme": tuple(PREFIXES), "ends": ENDS, "overlaps": OVERLAPS, "blanks": BLANKS,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSettings:
    """How files of labelled text are to be read; checked when built.

    Args:
        layout: "conll", "spans" (JSON lines), or "auto": spans when the first line is a JSON object or the
            name ends in .json, .jsonl or .ndjson, else conll.
        scheme: how entities are tagged, for conll: a name in `conll.PREFIXES`.
        ends: for spans, whether end is the character after ("exclusive") or the last one ("inclusive").
        overlaps: for spans, "error", or "longest" to keep the longest of spans that share characters.
        blanks: for conll, "error", or "skip" to leave out rows tagged O whose token is empty.
    Raises:
        InvalidValue: another value than these.
    """

    layout: str = "auto"
    scheme: str = "auto"
    ends: str = "exclusive"
    overlaps: str = "error"
    blanks: str = "error"

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            value = getattr(self, name)
            if value not in known:
                raise InvalidValue(f"{name} cannot be {value!r}: choose one of {', '.join(known)}.")


def read_examples(path: str | Path, *, limit: int = 20, **settings: str) -> tuple[SpanExample, ...]:
    """Read the examples of a file; settings are those of `ReadSettings`, limit is that of `read_labelled`."""
    return read_labelled(path, settings=ReadSettings(**settings), limit=limit).examples


def read_labelled(path: str | Path, *, settings: ReadSettings | None = None, limit: int = 20) -> Reading:
    """Read a file of labelled texts, and note what was left out.

    Args:
        path: the file.
        settings: how; those of `ReadSettings()` when missing.
        limit: how many bad rows to list.
    Raises:
        InvalidData: the file or a row of it cannot be read; lists the bad rows as file:line: reason.
    """
    how = settings or ReadSettings()
    path = Path(path)
    bad = BadRows(path, limit=limit)
    rows = read_rows(path, bad=bad)
    if how.layout == "spans" or (how.layout == "auto" and _looks_like_spans(path, rows)):
        reading = read_spans(rows, bad=bad, ends=how.ends, overlaps=how.overlaps)
    else:
        reading = read_conll(rows, bad=bad, scheme=how.scheme, blanks=how.blanks)
    bad.raise_any()
    if not reading.examples:
        raise no_examples(path)
    return reading


def _looks_like_spans(path: Path, rows: list[Row]) -> bool:
    first = next((text for _, text in rows if text.strip()), "")
    return is_span_row(first) or path.suffix.lower() in {".json", ".jsonl", ".ndjson"}

