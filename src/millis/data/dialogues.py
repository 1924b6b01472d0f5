"""What a model that speaks learns from: a text and what becomes of it, or messages up to the assistant's answer.

    {"source": ..., "target": ...}            JSON lines; either may be a list: sentences, right answers
    source<TAB>target                         a table without names, or with source and target among its names
    {"messages": [{"role", "content"}, ...]}  JSON lines; the last message is the assistant's

Border: rows to dialogues, all of a file or none; what the model reads of them is tasks/chat.py's.
Limits: of several answers the first is learnt; all of them count as right when answers are scored.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from millis.data.rows import BadRows, Row, is_blank, no_examples, read_rows

ROLES = ("system", "user", "assistant")
_NAMES = ("source", "target")


@dataclass(frozen=True, slots=True)
class Turn:
    """A message."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """A text, or messages, and the answers that are right, the one to learn first.

    Args:
        text: what is asked; a tuple of turns for a chat.
        source: where it stands, file:line.
    """

    text: str | tuple[Turn, ...]
    answers: tuple[str, ...]
    source: str

    @property
    def group(self) -> Any:
        """What belongs on one side of a split: the same text."""
        return self.text

    @property
    def labels(self) -> tuple[str, ...]:
        """Nothing: answers have no labels."""
        return ()


class _Bad(Exception):
    """Why a row cannot be read."""


def read_dialogues(path: str | Path, *, is_chat: bool, limit: int = 20) -> tuple[Dialogue, ...]:
    """Read a file whole.

    Args:
        is_chat: messages are read, else pairs.
        limit: how many bad rows to list.
    Raises:
        InvalidData: the file or a row of it cannot be read; lists the bad rows as file:line: reason.
    """
    path = Path(path)
    bad = BadRows(path, limit=limit)
    rows = read_rows(path, bad=bad)
    is_json = is_chat or next((text for _, text in rows if text.strip()), "").lstrip().startswith("{")
    found = (_read_lines(rows, bad=bad, is_chat=is_chat) if is_json else _read_table(rows, bad=bad, path=path))
    bad.raise_any()
    if not found:
        raise no_examples(path)
    return tuple(found)


def _read_lines(rows: Sequence[Row], *, bad: BadRows, is_chat: bool) -> list[Dialogue]:
    found = []
    for line, text in rows:
        if not text.strip():
            continue
        try:
            row = msgspec.json.decode(text, type=dict[str, Any])
            asked, answers = _read_messages(row) if is_chat else _read_pair(row)
            found.append(Dialogue(text=asked, answers=answers, source=bad.source(line)))
        except msgspec.DecodeError as error:
            bad.add(line, f"{error}: write one JSON object a line")
        except RecursionError:
            bad.add(line, "nested too deeply: write one JSON object a line")
        except _Bad as error:
            bad.add(line, str(error))
    return found


def _read_table(rows: Sequence[Row], *, bad: BadRows, path: Path) -> list[Dialogue]:
    mark = "," if path.suffix.lower() == ".csv" else "\t"
    first = [name.strip().lower() for name in _cut(rows[0][1], mark)]
    has_names = set(_NAMES) <= set(first)
    places = [first.index(name) for name in _NAMES] if has_names else [0, 1]
    found = []
    for line, text in rows[has_names:]:
        if not text.strip():
            continue
        cells = _cut(text, mark)
        if len(cells) <= max(places):
            bad.add(line, f"{len(cells)} column(s): a row has a source and a target, parted by {mark!r}")
            continue
        source, target = (cells[place].strip() for place in places)
        if is_blank(source) or is_blank(target):
            which = "source" if is_blank(source) else "target"
            bad.add(line, f"the {which} is empty: give a text, or leave the row out")
            continue
        found.append(Dialogue(text=source, answers=(target,), source=bad.source(line)))
    return found


def _cut(text: str, mark: str) -> list[str]:
    if mark == "\t":
        return text.split(mark)
    return next(csv.reader(io.StringIO(text)), [])


def _read_pair(row: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    source, target = (row.get(name) for name in _NAMES)
    if isinstance(source, list) and source and all(isinstance(one, str) for one in source):
        source = " ".join(source)
    targets = target if isinstance(target, list) else [target]
    if not isinstance(source, str) or is_blank(source):
        raise _Bad('no source: write {"source": TEXT, "target": TEXT}')
    if not targets or not all(isinstance(one, str) and not is_blank(one) for one in targets):
        raise _Bad('no target: write {"source": TEXT, "target": TEXT or [TEXT, ...]}')
    return source, tuple(targets)


def _read_messages(row: dict[str, Any]) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    messages = row.get("messages")
    if not isinstance(messages, list) or len(messages) < 2:
        raise _Bad('no dialogue: write {"messages": [{"role": "user", "content": TEXT}, {"role": "assistant", ...}]}')
    turns = []
    for i, one in enumerate(messages):
        role, content = (one.get("role"), one.get("content")) if isinstance(one, dict) else (None, None)
        if role not in ROLES or not isinstance(content, str) or is_blank(content):
            raise _Bad(f"messages[{i}] needs a role ({', '.join(ROLES)}) and a content that is not empty")
        turns.append(Turn(role, content))
    if turns[-1].role != "assistant":
        raise _Bad(f"the last message is the {turns[-1].role}'s: end with the assistant's, which is learnt")
    return tuple(turns[:-1]), (turns[-1].content,)
