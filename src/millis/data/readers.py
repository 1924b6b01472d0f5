"""Labelled text from a file, whole or not at all.

Border: picks the reader of a layout; the layouts are in conll.py, spans.py, labels.py, answers.py and matches.py, rows
and bad rows in rows.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millis.data.answers import STRAYS, is_squad, read_answer_lines, read_squad
from millis.data.conll import PREFIXES, read_conll
from millis.data.labels import Columns, read_json_labels, read_table
from millis.data.matches import read_matches, read_rankings
from millis.data.rows import BadRows, Reading, looks_like_json, no_examples, read_rows
from millis.data.spans import ENDS, OVERLAPS, read_spans
from millis.errors import InvalidValue

LAYOUTS = {
    "spans": ("auto", "conll", "spans"), "labels": ("auto", "table", "jsonl"), "answers": ("auto", "squad", "jsonl"),
    "matches": ("auto", "jsonl"), "rankings": ("auto", "jsonl"),
}  # fmt: skip
"""What a file may look like, by what its examples are labelled with."""

BLANKS = ("error", "skip")
_KNOWN: dict[str, tuple[str, ...]] = {
    "layout": tuple(dict.fromkeys(layout for layouts in LAYOUTS.values() for layout in layouts)),
    "scheme": tuple(PREFIXES), "ends": ENDS, "overlaps": OVERLAPS, "blanks": BLANKS, "strays": STRAYS,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSettings:
    """How files of labelled text are to be read; checked when built.

    Args:
        layout: for spans "conll" or "spans" (JSON lines), for labels of whole texts "table" (CSV, TSV) or "jsonl", for
            answers "squad" (one JSON document) or "jsonl"; or "auto": JSON lines when the first line is a JSON object
            or the name ends in .json, .jsonl or .ndjson.
        scheme: how entities are tagged, for conll: a name in `conll.PREFIXES`.
        ends: for spans, whether end is the character after ("exclusive") or the last one ("inclusive").
        overlaps: for spans, "error", or "longest" to keep the longest of spans that share characters.
        blanks: "error", or "skip" to leave out, for conll, rows tagged O whose token is empty, for answers blank
            questions.
        strays: for answers, "error", or "skip" to leave out questions whose answer does not stand in the text.
        text_column, label_column: for table and jsonl, names (or for table numbers from 1) of the two columns; None
            looks for the usual names.
        separator: for table and jsonl, what stands between a row's labels; None where each row has one.
    Raises:
        InvalidValue: another value than these.
    """

    layout: str = "auto"
    scheme: str = "auto"
    ends: str = "exclusive"
    overlaps: str = "error"
    blanks: str = "error"
    strays: str = "error"
    text_column: str | None = None
    label_column: str | None = None
    separator: str | None = None

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            value = getattr(self, name)
            if value not in known:
                raise InvalidValue(f"{name} cannot be {value!r}: choose one of {', '.join(known)}.")
        for name in ("text_column", "label_column", "separator"):
            if getattr(self, name) == "":
                raise InvalidValue(f"{name} cannot be empty: give what stands in the file, or leave it out.")


def read_examples(path: str | Path, *, limit: int = 20, **settings: str) -> tuple[Any, ...]:
    """Read the examples of a file; settings are those of `ReadSettings`, limit is that of `read_labelled`."""
    return read_labelled(path, settings=ReadSettings(**settings), limit=limit).examples


def read_labelled(
    path: str | Path, *, settings: ReadSettings | None = None, limit: int = 20, of: str = "spans"
) -> Reading:
    """Read a file of labelled texts, and note what was left out.

    Args:
        path: the file.
        of: what is labelled: "spans" of a text; "labels", the whole of it; "answers", questions about it; "matches",
            which texts fit which; "rankings", which of its documents fit a query.
        settings: how; those of `ReadSettings()` when missing.
        limit: how many bad rows to list.
    Raises:
        InvalidData: the file or a row of it cannot be read; lists the bad rows as file:line: reason.
    """
    how = settings or ReadSettings()
    path = Path(path)
    if how.layout not in LAYOUTS[of]:
        raise InvalidValue(f"layout cannot be {how.layout!r} for this task: choose one of {', '.join(LAYOUTS[of])}.")
    if of == "matches" and (how.text_column, how.label_column, how.separator) != (None, None, None):
        raise InvalidValue("columns and separators are for labels; queries go by the keys query, positive, negative.")
    bad = BadRows(path, limit=limit)
    rows = read_rows(path, bad=bad)
    is_json = how.layout in ("spans", "jsonl") or (how.layout == "auto" and looks_like_json(path, rows))
    if of == "answers":
        is_one = how.layout == "squad" or (how.layout == "auto" and is_squad(rows))
        reading = (read_squad if is_one else read_answer_lines)(
            rows, bad=bad, strays=how.strays, blanks=how.blanks
        )
    elif of == "matches":
        reading = read_matches(rows, bad=bad)
    elif of == "rankings":
        reading = read_rankings(rows, bad=bad)
    elif of == "labels":
        columns = Columns(text=how.text_column, label=how.label_column, separator=how.separator)
        reading = (read_json_labels if is_json else read_table)(rows, bad=bad, columns=columns)
    elif is_json:
        reading = read_spans(rows, bad=bad, ends=how.ends, overlaps=how.overlaps)
    else:
        reading = read_conll(rows, bad=bad, scheme=how.scheme, blanks=how.blanks)
    bad.raise_any()
    if not reading.examples:
        raise no_examples(path, notes=reading.notes)
    return reading
