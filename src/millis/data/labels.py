"""Texts with labels of the whole, from tables (CSV, TSV) and JSON lines.

    text,label                       a table with a header, the columns by name, in any order
    a fine day<TAB>1                 a table without one: text first, label second
    {"text": ..., "label": ...}      JSON lines; with several labels "labels": [...]

Border: rows to examples. Which columns there are is found by their usual names, or said by the caller.
Limits: a label is text; 1 and "1", true and "true" in JSON are the same label, as they are in a table.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from millis.data.examples import LabelExample
from millis.data.rows import BadRow, BadRows, Reading, Row, is_blank, name_kind, read_json_lines
from millis.data.tables import count_columns, find_name, read_cells

TEXTS = ("text", "sentence", "utterance", "query", "question", "review", "content", "title", "文本", "内容", "标题")
LABELS = ("label", "labels", "category", "class", "intent", "sentiment", "target", "标签", "类别")
"""Usual names of the two columns, in any case; the first that a header has is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Where the text and its labels stand.

    Args:
        text, label: names of columns, or numbers from 1; None to find them.
        separator: between the labels of a row; None where a row has one label, whatever stands in it.
    """

    text: str | None = None
    label: str | None = None
    separator: str | None = None


def read_json_labels(rows: Sequence[Row], *, bad: BadRows, columns: Columns) -> Reading:
    """Read JSON lines, one object each."""

    def read(line: int, text: str) -> LabelExample:
        row = msgspec.json.decode(text, type=dict[str, Any])
        words = _pick_key(row, columns.text, usual=TEXTS, what="text")
        if not isinstance(row[words], str):
            raise BadRow(f"{words} is {name_kind(row[words])}, not text")
        given = row[_pick_key(row, columns.label, usual=LABELS, what="label")]
        return _make(row[words], _read_list(given, separator=columns.separator), source=bad.source(line))

    return Reading(examples=tuple(read_json_lines(rows, read, bad=bad)))


def read_table(rows: Sequence[Row], *, bad: BadRows, columns: Columns) -> Reading:
    """Read a table; its first row may name the columns."""
    table, is_tab = read_cells(rows, bad=bad)
    if not table:
        return Reading(examples=())
    try:
        text, label, has_header = _find_columns(table[0].cells, columns)
    except BadRow as error:
        bad.add(table[0].line, str(error))
        return Reading(examples=())
    examples: list[LabelExample] = []
    n_columns = len(table[0].cells)
    for row in table[1:] if has_header else table:
        if len(row.cells) != n_columns:
            how = "quote a text that has commas in it" if not is_tab else "a text may have no tab in it"
            bad.add(row.line, f"{count_columns(len(row.cells))}, the first row has {n_columns}: {how}")
            continue
        if has_header and row.cells == table[0].cells:
            bad.add(row.line, "the names of the first row again: remove the row, as where files were joined")
            continue
        try:
            labels = _split(row.cells[label], separator=columns.separator)
            examples.append(_make(row.cells[text], labels, source=bad.source(row.line)))
        except BadRow as error:
            bad.add(row.line, str(error))
    return Reading(examples=tuple(examples))


def _find_columns(first: Sequence[str], columns: Columns) -> tuple[int, int, bool]:
    """Give the places of text and label, and whether the first row names them."""
    names = [cell.strip().lower() for cell in first]
    text = _find_column(names, columns.text, usual=TEXTS)
    label = _find_column(names, columns.label, usual=LABELS)
    pairs = ((columns.text, text, TEXTS), (columns.label, label, LABELS))
    has_header = any(
        found is not None and (asked is None or not asked.isdecimal() or names[found] in usual)
        for asked, found, usual in pairs
    )
    if text is None and label is None and len(first) == 2:
        text, label = 0, 1
    if text is not None and text == label:
        raise BadRow(
            f"column {text + 1} cannot be both text and label: name two columns with text_column and label_column, by"
            f" name or number from 1; the first row is {[cell[:30] for cell in first]}"
        )
    if text is None or label is None:
        missing = "text" if text is None else "label"
        raise BadRow(
            f"{count_columns(len(first))}, none of which is known for the {missing}: name them with text_column and"
            f" label_column, by name or number from 1; the first row is {[cell[:30] for cell in first]}"
        )
    return text, label, has_header


def _find_column(names: Sequence[str], asked: str | None, *, usual: Sequence[str]) -> int | None:
    if asked is None:
        return next((find_name(names, name) for name in usual if name in names), None)
    if asked.isdecimal() and 1 <= int(asked) <= len(names):
        return int(asked) - 1
    if asked.strip().lower() in names:
        return find_name(names, asked.strip().lower())
    raise BadRow(f"no column {asked!r}: the first row has {', '.join(name[:30] for name in names)}")


def _pick_key(row: Mapping[str, Any], asked: str | None, *, usual: Sequence[str], what: str) -> str:
    found = next((key for key in ((asked,) if asked else usual) if key in row), None)
    if found is None:
        known = repr(asked) if asked else " or ".join(usual[:2])
        raise BadRow(f"no key {known} for the {what}: the row has {', '.join(key[:30] for key in list(row)[:8])}")
    return found


def _read_list(given: Any, *, separator: str | None) -> tuple[str, ...]:
    one: Callable[[Any], bool] = lambda value: isinstance(value, str | int)  # noqa: E731
    if isinstance(given, list):
        if separator is None and len(given) != 1:
            raise BadRow(f"{len(given)} labels: one a row, or many with multi_label")
        if not all(map(one, given)):
            raise BadRow("labels must be texts or whole numbers")
        return tuple(_write(label) for label in given)
    if not one(given):
        raise BadRow(f"the label is {name_kind(given)}: give a text or a whole number")
    return _split(_write(given), separator=separator)


def _write(label: str | int) -> str:
    return str(label).lower() if isinstance(label, bool) else str(label).strip()


def _split(cell: str, *, separator: str | None) -> tuple[str, ...]:
    if separator is None:
        return (cell.strip(),)
    return tuple(part.strip() for part in cell.split(separator) if part.strip())


def _make(text: str, labels: tuple[str, ...], *, source: str) -> LabelExample:
    if is_blank(text):
        raise BadRow("the text is blank: write it, or remove the row")
    if any(is_blank(label) for label in labels):
        raise BadRow("the label is blank: write it, or remove the row")
    if len(set(labels)) < len(labels):
        raise BadRow("a label stands twice")
    return LabelExample(text=text, labels=tuple(sorted(labels)), source=source)
