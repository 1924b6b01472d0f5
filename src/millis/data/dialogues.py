"""What a model that speaks learns from: a text and what becomes of it, or messages up to the assistant's answer.

    {"source": ..., "target": ...}            JSON lines; either may be a list: sentences, right answers
    source<TAB>target                         a table (TSV, CSV), with source and target among its names or without any
    {"messages": [{"role", "content"}, ...]}  JSON lines; the last message is the assistant's

Border: rows to dialogues, all of a file or none; what the model reads of them is tasks/chat.py's.
Limits: of several answers the first is learnt; all of them count as right when answers are scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from millis.data.rows import (
    BadRow,
    BadRows,
    Row,
    is_blank,
    looks_like_json,
    no_examples,
    read_json_lines,
    read_rows,
)
from millis.data.tables import count_columns, find_name, read_cells

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
    def group(self) -> str | tuple[Turn, ...]:
        """What belongs on one side of a split: the same text."""
        return self.text

    @property
    def labels(self) -> tuple[str, ...]:
        """Nothing: answers have no labels."""
        return ()


def read_dialogues(path: str | Path, *, is_chat: bool) -> tuple[Dialogue, ...]:
    """Read a file whole.

    Args:
        is_chat: messages are read, else pairs.
    Raises:
        InvalidData: the file or a row of it cannot be read; lists the bad rows as file:line: reason.
    """
    path = Path(path)
    bad = BadRows(path)
    rows = read_rows(path, bad=bad)
    is_json = is_chat or looks_like_json(path, rows)
    found = _read_lines(rows, bad=bad, is_chat=is_chat) if is_json else _read_table(rows, bad=bad)
    bad.raise_any()
    if not found:
        raise no_examples(path)
    return tuple(found)


def _read_lines(rows: Sequence[Row], *, bad: BadRows, is_chat: bool) -> list[Dialogue]:
    def read(line: int, text: str) -> Dialogue:
        row = msgspec.json.decode(text, type=dict[str, Any])
        asked, answers = _read_messages(row) if is_chat else _read_pair(row)
        return Dialogue(text=asked, answers=answers, source=bad.source(line))

    return read_json_lines(rows, read, bad=bad)


def _read_table(rows: Sequence[Row], *, bad: BadRows) -> list[Dialogue]:
    table, is_tab = read_cells(rows, bad=bad)
    first = [name.strip().lower() for name in table[0].cells] if table else []
    has_names = set(_NAMES) <= set(first)
    try:
        places = [find_name(first, name) for name in _NAMES] if has_names else [0, 1]
    except BadRow as error:
        bad.add(table[0].line, str(error))
        return []
    found = []
    for line, cells in table[has_names:]:
        if len(cells) <= max(places):
            parted = "a tab" if is_tab else "a comma"
            bad.add(line, f"{count_columns(len(cells))}: a row has a source and a target, parted by {parted}")
            continue
        source, target = (cells[place].strip() for place in places)
        if is_blank(source) or is_blank(target):
            which = "source" if is_blank(source) else "target"
            bad.add(line, f"the {which} is empty: give a text, or leave the row out")
            continue
        found.append(Dialogue(text=source, answers=(target,), source=bad.source(line)))
    return found


def _read_pair(row: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    source, target = (row.get(name) for name in _NAMES)
    if isinstance(source, list) and source and all(isinstance(one, str) for one in source):
        source = " ".join(source)
    targets = target if isinstance(target, list) else [target]
    if not isinstance(source, str) or is_blank(source):
        raise BadRow('no source: write {"source": TEXT, "target": TEXT}')
    if not targets or not all(isinstance(one, str) and not is_blank(one) for one in targets):
        raise BadRow('no target: write {"source": TEXT, "target": TEXT or [TEXT, ...]}')
    return source, tuple(targets)


def _read_messages(row: dict[str, Any]) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    messages = row.get("messages")
    if not isinstance(messages, list) or len(messages) < 2:
        raise BadRow('no dialogue: write {"messages": [{"role": "user", "content": TEXT}, {"role": "assistant", ...}]}')
    turns = []
    for i, one in enumerate(messages):
        role, content = (one.get("role"), one.get("content")) if isinstance(one, dict) else (None, None)
        if role not in ROLES or not isinstance(content, str) or is_blank(content):
            raise BadRow(f"messages[{i}] needs a role ({', '.join(ROLES)}) and a content that is not empty")
        turns.append(Turn(role, content))
    if turns[-1].role != "assistant":
        raise BadRow(f"the last message is the {turns[-1].role}'s: end with the assistant's, which is learnt")
    return tuple(turns[:-1]), (turns[-1].content,)
