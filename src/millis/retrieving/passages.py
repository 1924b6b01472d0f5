"""Passages: what is found by a search, and which of them a filter lets through.

    {"id": "a7", "text": "Refunds take five days.", "topic": "refund", "year": 2026}      one a line

Border: JSON lines to values, filters to masks; knows no vectors and no words.
Limits: what a filter asks of a field is text, a number, true or false, or one of a list of these.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from millis.data.rows import BadRow, BadRows, is_blank, no_examples, read_json_lines, read_rows
from millis.errors import InvalidRequest

MOST_CHARACTERS = 100_000
_LONGEST_ID = 200
_BOUNDS = ("min", "max")

Plain = str | int | float | bool


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """A text that can be found.

    Args:
        id: its name in the index.
        fields: what else its row says, by name.
    """

    id: str
    text: str
    fields: dict[str, Any] = {}


def read_passages(path: Path, *, text_key: str = "text") -> list[Passage]:
    """Read passages from JSON lines; one without an id gets a name made of its text.

    Args:
        text_key: the key of the text that is searched; every other key is a field.
    Raises:
        InvalidData: lists the bad rows as file:line: reason.
    """
    bad = BadRows(path)
    passages: dict[str, Passage] = {}

    def read(_line: int, written: str) -> None:
        passage = _read(msgspec.json.decode(written, type=dict[str, Any]), text_key=text_key)
        if passages.setdefault(passage.id, passage) != passage:
            raise BadRow(f"the id {passage.id!r} stands there twice: give each passage its own")

    read_json_lines(read_rows(path, bad=bad), read, bad=bad)
    bad.raise_any()
    if not passages:
        raise no_examples(path)
    return list(passages.values())


def _read(row: dict[str, Any], *, text_key: str) -> Passage:
    text = row.pop(text_key, None)
    if not isinstance(text, str) or is_blank(text):
        raise BadRow(f"no text under {text_key!r}: give one, or name another key")
    if len(text) > MOST_CHARACTERS:
        raise BadRow(f"a text of {len(text):,} characters: cut it into passages of {MOST_CHARACTERS:,} at most")
    given = row.pop("id", None)
    if given is None:
        given = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    if isinstance(given, bool) or not isinstance(given, str | int) or not 0 < len(str(given)) <= _LONGEST_ID:
        raise BadRow(f"the id is no text of 1 to {_LONGEST_ID} characters and no whole number")
    return Passage(id=str(given), text=text, fields=row)


class Columns:
    """The fields of a segment's passages, by value.

    Args:
        passages: in the segment's order.
    """

    def __init__(self, passages: Iterable[Passage]) -> None:
        rows: dict[str, dict[Any, list[int]]] = {}
        self.n = 0
        for place, passage in enumerate(passages):
            self.n = place + 1
            for name, value in passage.fields.items():
                column = rows.setdefault(name, {})
                keys = [_key(one) for one in (value if isinstance(value, list) else [value]) if isinstance(one, Plain)]
                for key in dict.fromkeys(keys):
                    column.setdefault(key, []).append(place)
        self._rows = {
            name: {value: np.array(places, np.int64) for value, places in column.items()}
            for name, column in rows.items()
        }

    @property
    def names(self) -> frozenset[str]:
        """Names of the fields."""
        return frozenset(self._rows)

    def allow(self, asked: Mapping[str, Any]) -> NDArray[np.int64]:
        """List the places of the passages that a filter lets through, ascending.

        Args:
            asked: by field, one at least: a value, a list of values of which one will do, or {"min": ..., "max": ...}.
        """
        chosen = [_pick(self._rows.get(name, {}), wanted) for name, wanted in asked.items()]
        if len(chosen) == len(chosen[0]) == 1:
            return chosen[0][0]
        n_fitting = np.zeros(self.n, np.int32)
        for of_field in chosen:
            mine = np.zeros(self.n, np.bool_)
            for places in of_field:
                mine[places] = True
            n_fitting += mine
        return np.flatnonzero(n_fitting == len(chosen))


def check_filter(asked: Mapping[str, Any], *, known: frozenset[str]) -> None:
    """Check what a request filters by.

    Raises:
        InvalidRequest: a field that no passage has, or a wish that is none.
    """
    for name, wanted in asked.items():
        if name not in known:
            names = ", ".join(sorted(known)[:30]) or "none"
            raise InvalidRequest(
                f"the filter asks for a field that no passage has: the fields are {names}.",
                status=422, slug="unknown-field",
            )  # fmt: skip
        if isinstance(wanted, dict):
            is_fine = bool(wanted) and all(
                key in _BOUNDS and isinstance(value, int | float) and not isinstance(value, bool)
                for key, value in wanted.items()
            )
        else:
            values = wanted if isinstance(wanted, list) else [wanted]
            is_fine = bool(values) and all(isinstance(one, Plain) for one in values)
        if not is_fine:
            raise InvalidRequest(
                f'the filter on {name[:100]!r} is none: give a value, a list of values, or {{"min": 1, "max": 2}}.',
                status=422, slug="bad-filter",
            )  # fmt: skip


def _pick(column: Mapping[Any, NDArray[np.int64]], wanted: Any) -> Sequence[NDArray[np.int64]]:
    if isinstance(wanted, dict):
        low, high = wanted.get("min", -np.inf), wanted.get("max", np.inf)
        return [places for (kind, value), places in column.items() if kind == "number" and low <= value <= high]
    values = wanted if isinstance(wanted, list) else [wanted]
    return [column[_key(one)] for one in values if _key(one) in column]


def _key(value: Plain) -> tuple[str, Plain]:
    """Tell true from 1, and "1" from 1."""
    kind = "flag" if isinstance(value, bool) else "number" if isinstance(value, int | float) else "text"
    return kind, value
