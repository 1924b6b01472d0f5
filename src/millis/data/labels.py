"""Texts with labels of the whole, from tables (CSV, TSV) and JSON lines.

    text,label                       a table with a header, the columns by name, in any order
    a fine day<TAB>1                 a table without one: text first, label second
    {"text": ..., "label": ...}      JSON lines; with several labels "labels": [...]

Border: rows to examples. Which columns there are is found by their usual names, or said by the caller.
Limits: a label is text; 1 and "1" in JSON are the same label, as they are in a table.
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from millis.data.examples import LabelExample
from millis.data.rows import BadRows, Reading, Row, is_blank

TEXTS = ("text", "sentence", "utterance", "query", "question", "review", "content", "title", "文本", "内容", "标题")
LABELS = ("label", "labels", "category", "class", "intent", "sentiment", "target", "标签", "类别")
"""Usual names of the two columns, in any case; the first that a header has is taken."""

_LONGEST_FIELD = 10_000_000


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


class _Bad(Exception):
    """Why rows cannot be read."""


class _Cells(NamedTuple):
    """A row of a table, and the line that it begins on."""

    line: int
    cells: list[str]


def read_json_labels(rows: Sequence[Row], *, bad: BadRows, columns: Columns) -> Reading:
    """Read JSON lines, one object each."""
    examples: list[LabelExample] = []
    for line, text in rows:
        if not text.strip():
            continue
        try:
            row = msgspec.json.decode(text, type=dict[str, Any])
            words = _pick_key(row, columns.text, usual=TEXTS, what="text")
            if not isinstance(row[words], str):
                raise _Bad(f"{words} is {type(row[words]).__name__}, not text")
            given = row[_pick_key(row, columns.label, usual=LABELS, what="label")]
            labels = _read_list(given, separator=columns.separator)
            _add(examples, row[words], labels, line=line, bad=bad)
        except msgspec.DecodeError as error:
            bad.add(line, f"{error}: write one JSON object a line")
        except RecursionError:
            bad.add(line, "nested too deeply: write one JSON object a line, as docs/guides/data.md shows")
        except _Bad as error:
            bad.add(line, str(error))
    return Reading(examples=tuple(examples))


def read_table(rows: Sequence[Row], *, bad: BadRows, columns: Columns) -> Reading:
    """Read a table: tabs between the cells where the first row has one, else commas.

    Cells in double quotes may hold commas and line ends, where commas part the cells; tabs part them whatever stands
    between.
    """
    is_tab = "\t" in next((text for _, text in rows if text.strip()), "")
    read = _split_tabs if is_tab else _split_commas
    table = [row for row in read(rows, bad) if any(cell.strip() for cell in row.cells)]
    if not table:
        return Reading(examples=())
    try:
        text, label, has_header = _find_columns(table[0].cells, columns)
    except _Bad as error:
        bad.add(table[0].line, str(error))
        return Reading(examples=())
    examples: list[LabelExample] = []
    n_columns = len(table[0].cells)
    for row in table[1:] if has_header else table:
        if len(row.cells) != n_columns:
            how = "quote a text that has commas in it" if not is_tab else "a text may have no tab in it"
            bad.add(row.line, f"{_count(len(row.cells))}, the first row has {n_columns}: {how}")
            continue
        try:
            labels = _split(row.cells[label], separator=columns.separator)
            _add(examples, row.cells[text], labels, line=row.line, bad=bad)
        except _Bad as error:
            bad.add(row.line, str(error))
    return Reading(examples=tuple(examples))


def _split_tabs(rows: Sequence[Row], bad: BadRows) -> Iterator[_Cells]:
    for line, text in rows:
        yield _Cells(line, text.split("\t"))


def _split_commas(rows: Sequence[Row], bad: BadRows) -> Iterator[_Cells]:
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader((f"{text}\n" for _, text in rows), strict=True)
    began = 1
    try:
        for cells in reader:
            yield _Cells(began, cells)
            began = reader.line_num + 1
    except csv.Error as error:
        bad.add(began, f"{error}: a quote that opens a cell must close it, and stand doubled inside")


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
    if text is None or label is None or text == label:
        missing = "text" if text is None else "label"
        raise _Bad(
            f"{_count(len(first))}, none of which is known for the {missing}: name them with text_column and"
            f" label_column, by name or number; the first row is {[cell[:30] for cell in first]}"
        )
    return text, label, has_header


def _find_column(names: Sequence[str], asked: str | None, *, usual: Sequence[str]) -> int | None:
    if asked is None:
        return next((names.index(name) for name in usual if name in names), None)
    if asked.isdecimal() and 1 <= int(asked) <= len(names):
        return int(asked) - 1
    if asked.strip().lower() in names:
        return names.index(asked.strip().lower())
    raise _Bad(f"no column {asked!r}: the first row has {', '.join(name[:30] for name in names)}")


def _pick_key(row: Mapping[str, Any], asked: str | None, *, usual: Sequence[str], what: str) -> str:
    found = next((key for key in ((asked,) if asked else usual) if key in row), None)
    if found is None:
        known = repr(asked) if asked else " or ".join(usual[:2])
        raise _Bad(f"no key {known} for the {what}: the row has {', '.join(key[:30] for key in list(row)[:8])}")
    return found


def _read_list(given: Any, *, separator: str | None) -> tuple[str, ...]:
    one: Callable[[Any], bool] = lambda value: isinstance(value, str | int)  # noqa: E731
    if isinstance(given, list):
        if separator is None and len(given) != 1:
            raise _Bad(f"{len(given)} labels: one a row, or many with multi_label")
        if not all(map(one, given)):
            raise _Bad("labels must be texts or whole numbers")
        return tuple(str(label).strip() for label in given)
    if not one(given):
        raise _Bad(f"the label is {type(given).__name__}: give a text or a whole number")
    return _split(str(given), separator=separator)


def _split(cell: str, *, separator: str | None) -> tuple[str, ...]:
    if separator is None:
        return (cell.strip(),)
    return tuple(part.strip() for part in cell.split(separator) if part.strip())


def _add(examples: list[LabelExample], text: str, labels: tuple[str, ...], *, line: int, bad: BadRows) -> None:
    if is_blank(text):
        raise _Bad("the text is blank")
    if any(is_blank(label) for label in labels):
        raise _Bad("the label is blank")
    if len(set(labels)) < len(labels):
        raise _Bad("a label stands twice")
    examples.append(LabelExample(text=text, labels=tuple(sorted(labels)), source=bad.source(line)))


def _count(n: int) -> str:
    return f"{n} column{'s' * (n != 1)}"
