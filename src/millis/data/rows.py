"""The rows of a text file, and what is wrong with them.

A reader adds every bad row it meets and ends with `raise_any`, so that a file is read whole or not at all.

Border: bytes to numbered rows; knows nothing of columns or spans.
Limits: a file is held in memory. UTF-8 only, with or without BOM, at the begin of a line: files may have been joined.
A row ends at a line feed, with or without a carriage return before it; nothing else (U+2028, U+0085, ...) ends one.
"""

import re
import unicodedata
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from millis.data.examples import Example
from millis.errors import InvalidData, InvalidValue
from millis.regular import read_once

T = TypeVar("T")

Row = tuple[int, str]
"""Line number, from 1, and the text of the line without its end."""


_LOOKED_AT, _MOSTLY = 1 << 16, 0.8
_COMMON = {
    "GB18030": re.compile(rb"[\xa1-\xa9\xb0-\xd7][\xa1-\xfe]"), "BIG5": re.compile(rb"[\xa1-\xc6][\x40-\x7e\xa1-\xfe]")
}  # fmt: skip
"""Bytes of the letters and signs that each standard lists as common."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a file holds, and what was left out of it on request.

    Args:
        examples: one per sentence or row, in file order.
        notes: sentences to show: what an option left out, with the count.
    """

    examples: tuple[Example, ...]
    notes: tuple[str, ...] = ()


class BadRow(Exception):
    """Why a row cannot be read; whoever reads rows one by one says it to BadRows."""


class BadRows:
    """What is wrong with a file, row by row.

    Usage:
        bad = BadRows(path)
        bad.add(7, "2 columns, the first row has 4")
        bad.raise_any()              # InvalidData: "data/train.conll:7: 2 columns, the first row has 4"
    """

    def __init__(self, path: Path, *, limit: int = 20) -> None:
        if limit < 1:
            raise InvalidValue(f"limit cannot be {limit}: give the number of bad rows to list, 1 or more.")
        self._path = path
        self._limit = limit
        self._rows: list[tuple[int, str]] = []

    def source(self, line: int) -> str:
        """Name a row as file:line."""
        return f"{self._path}:{line}"

    def add(self, line: int, reason: str) -> None:
        """Keep the reason why a row cannot be read."""
        self._rows.append((line, reason))

    def raise_any(self) -> None:
        """End the reading when a row was bad.

        Raises:
            InvalidData: one line per bad row up to the limit, in file order, then how many more.
        """
        if self._rows:
            listed = [f"{self.source(line)}: {reason}" for line, reason in sorted(self._rows)[: self._limit]]
            n_more = len(self._rows) - len(listed)
            raise InvalidData("\n".join((*listed, *([f"... and {n_more} more"] if n_more else []))))


def read_rows(path: Path, *, bad: BadRows) -> list[Row]:
    """Read the lines of a UTF-8 file; one that is not UTF-8 is added to bad, and given with U+FFFD in it.

    Raises:
        InvalidData: no such file, a folder, a device, a silent pipe, a file that may not be read, UTF-16, UTF-32,
            what is packed, or no byte in it.
    """
    try:
        content = read_once(path)
    except FileNotFoundError as error:
        raise InvalidData(f"{path}: no such file: give the path of a file of texts.") from error
    except IsADirectoryError as error:
        raise InvalidData(f"{path}: a folder: give the path of one file of texts in it.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise InvalidData(f"{path}: cannot be read ({reason}): give a file of texts that you may read.") from error
    if content.startswith((BOM_UTF32_LE, BOM_UTF32_BE)):
        raise InvalidData(f"{path}:1: UTF-32: convert it with `iconv -f UTF-32 -t UTF-8`.")
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or 0 in content[:2]:  # no text in UTF-8 begins with NUL
        raise InvalidData(f"{path}:1: UTF-16: convert it with `iconv -f UTF-16 -t UTF-8`.")
    lines = content.split(b"\n")
    if not any(line.removeprefix(BOM_UTF8).strip() for line in lines):
        raise no_examples(path)
    rows: list[Row] = []
    encoding = ""
    for number, ended in enumerate(lines, start=1):
        line = ended.removeprefix(BOM_UTF8).removesuffix(b"\r")
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            if 0 in content:
                raise InvalidData(
                    f"{path}:1: not text: byte {content.index(0) + 1} of the file is NUL. Unpack or export it to CSV,"
                    " TSV or JSON lines; if it is UTF-16, convert it with `iconv -f UTF-16 -t UTF-8`."
                ) from error
            byte = f"byte {error.start + 1} (0x{line[error.start]:02x})"
            encoding = encoding or _guess_encoding(content)
            bad.add(number, f"{byte} is not UTF-8: convert the file, as with `iconv -f {encoding} -t UTF-8`")
            text = line.decode(errors="replace")
        rows.append((number, text))
    return rows


def _guess_encoding(content: bytes) -> str:
    """Guess in what a file that is not UTF-8 is written: where most of its letters are common Chinese ones, in that."""
    head = content[:_LOOKED_AT].rpartition(b"\n")[0] or content
    shares = {"LATIN1": _MOSTLY}
    for name, is_common in _COMMON.items():
        try:
            letters = [letter.encode(name) for letter in head.decode(name) if not letter.isascii()]
        except UnicodeDecodeError:
            continue
        shares[name] = sum(is_common.fullmatch(letter) is not None for letter in letters) / max(len(letters), 1)
    return max(shares, key=lambda name: shares[name])


def no_examples(path: Path, *, notes: Sequence[str] = ()) -> InvalidData:
    """Give the error for a file with nothing in it; notes say what was left out of it."""
    why = f" ({'; '.join(note.rstrip('.') for note in notes)})" if notes else ""
    return InvalidData(f"{path}:1: the file has no examples{why}: give a file with at least one text.")


def is_blank(text: str) -> bool:
    """Say whether a reader would see nothing: white space, format and control characters only."""
    return all(letter.isspace() or unicodedata.category(letter) in {"Cc", "Cf"} for letter in text)


def name_kind(value: object) -> str:
    """Name the kind of a value in JSON's words, for a message that does not hold the value."""
    if value is None:
        return "null"
    kinds = {bool: "true or false", str: "text", float: "a fraction", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")


def read_json_lines(
    rows: Sequence[Row], read: Callable[[int, str], T], *, bad: BadRows, shape: str = "write one JSON object a line"
) -> list[T]:
    """Read each line that is not blank; what cannot be read is added to bad.

    Args:
        read: gives what a line, by its number and text, says; raises BadRow, or what msgspec raises.
        shape: what to write, told of JSON of another shape.
    """
    found = []
    for line, text in rows:
        if not text.strip():
            continue
        try:
            found.append(read(line, text))
        except msgspec.ValidationError as error:
            bad.add(line, f"{error}: {shape}")
        except msgspec.DecodeError as error:
            bad.add(line, f"{error}: write one JSON object a line")
        except RecursionError:
            bad.add(line, "nested too deeply: write one JSON object a line, as docs/guides/data.md shows")
        except BadRow as error:
            bad.add(line, str(error))
    return found


def looks_like_json(path: Path, rows: Sequence[Row]) -> bool:
    """Say whether a file has JSON lines: its first line is a JSON object, or its name says so."""
    first = next((text for _, text in rows if text.strip()), "")
    try:
        is_object = isinstance(msgspec.json.decode(first), dict)
    except (msgspec.DecodeError, RecursionError):
        is_object = False
    return is_object or path.suffix.lower() in {".json", ".jsonl", ".ndjson"}
