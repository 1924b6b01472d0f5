"""Tables to cells: tabs where the first row has one, else commas.

Border: rows to cells; what stands in which column is the readers' to say.
Limits: cells in double quotes may hold commas and line ends where commas part them; tabs part whatever stands between.
"""

import csv
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from millis.data.rows import BadRow, BadRows, Row

_LONGEST_FIELD = 10_000_000
_SAID_OF = {
    "new-line": "a carriage return inside a cell: end rows with a line feed, or put the cell in quotes",
    "field larger": f"a cell of more than {_LONGEST_FIELD:,} characters: shorten it, or close the quote that opens it",
}
"""What is told where Python's csv says that."""


class Cells(NamedTuple):
    """A row of a table, and the line that it begins on."""

    line: int
    cells: list[str]


class Table(NamedTuple):
    """The rows of a table that have something in them, and whether tabs part their cells."""

    rows: list[Cells]
    is_tab: bool


def read_cells(rows: Sequence[Row], *, bad: BadRows) -> Table:
    """Cut rows into cells."""
    is_tab = "\t" in next((text for _, text in rows if text.strip()), "")
    found = (Cells(line, text.split("\t")) for line, text in rows) if is_tab else _split_commas(rows, bad)
    return Table([row for row in found if any(cell.strip() for cell in row.cells)], is_tab)


def find_name(names: Sequence[str], name: str) -> int:
    """Give the place of the column that is called so.

    Raises:
        BadRow: several are.
    """
    if names.count(name) > 1:
        raise BadRow(f"{names.count(name)} columns are called {name[:30]!r}: choose one by its number, or rename it")
    return names.index(name)


def count_columns(n: int) -> str:
    """Say how many columns."""
    return f"{n} column{'s' * (n != 1)}"


def _split_commas(rows: Sequence[Row], bad: BadRows) -> Iterator[Cells]:
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader((f"{text}\n" for _, text in rows), strict=True)
    began = 1
    try:
        for cells in reader:
            yield Cells(began, cells)
            began = reader.line_num + 1
    except csv.Error as error:
        usual = f"{error}: a quote that opens a cell must close it, and stand doubled inside"
        bad.add(began, next((said for words, said in _SAID_OF.items() if words in str(error)), usual))
