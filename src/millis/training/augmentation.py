"""Altered copies of what is labelled: typing errors, other case, full and half width, the other Chinese script.

Every change keeps the number of characters, so that spans and answers stand where they stood.
Border: examples in, further examples out; no model. Script is OpenCC's matter, the one file that imports it.
Limits: typing errors are those of a QWERTY keyboard in words of four letters and more; a copy has one kind of change.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from millis.data.examples import Asked, Example, Question, Ranking
from millis.errors import InvalidValue, MissingExtra

_SHARE = 0.5
"""Of the examples that get an altered copy."""

_TYPO_RATE, _SWAP = 0.2, 0.5
_FULL = 0xFEE0
"""From a visible ASCII character to its full-width form."""

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {
    letter: "".join(
        other for j, line in enumerate(_ROWS) for k, other in enumerate(line)
        if other != letter and abs(j - i) <= 1 and abs(k - place) <= 1
    )
    for i, row in enumerate(_ROWS) for place, letter in enumerate(row)
}  # fmt: skip


def augment(examples: Sequence[Any], *, ways: Sequence[str], seed: int) -> list[Any]:
    """Give altered copies of some examples; which, and how, is fixed by the seed.

    Args:
        ways: names in WAYS; each copy is altered in one of them that changes it.
    Raises:
        InvalidValue: an unknown way.
        MissingExtra: OpenCC is not installed, and a way needs it.
    """
    check_ways(ways)
    chance = random.Random(f"{seed} augment")  # noqa: S311 - no secret
    alter = {way: WAYS[way](chance) for way in ways}
    copies = []
    for example in examples:
        if chance.random() >= _SHARE:
            continue
        for way in chance.sample(list(ways), len(ways)):
            text = _alter(example.text, alter[way])
            if text is not None:
                copies.append(replace(example, text=text))
                break
    return copies


def check_ways(ways: Sequence[str]) -> None:
    """Refuse names of ways that there are not.

    Raises:
        InvalidValue: one is unknown.
    """
    unknown = [way for way in ways if way not in WAYS]
    if unknown:
        raise InvalidValue(f"augment cannot be {unknown[0]!r}: choose of {', '.join(WAYS)}.")


def alter_texts(examples: Sequence[Example], *, way: str, seed: int) -> list[Asked]:
    """Give what is asked by each example, altered in one way where that changes it; for tests of robustness."""
    check_ways([way])
    change = WAYS[way](random.Random(f"{seed} alter"))  # noqa: S311 - no secret
    return [_alter(example.text, change) or example.text for example in examples]


def _alter(asked: Asked, change: Callable[[str], str]) -> Asked | None:
    """Change every text of what is asked; None where nothing changes, or characters come or go."""

    def one(text: str) -> str:
        changed = change(text)
        return changed if len(changed) == len(text) else text

    altered: Asked
    if isinstance(asked, str):
        altered = one(asked)
    elif isinstance(asked, Question):
        altered = Question(one(asked.question), one(asked.context))
    else:
        altered = Ranking(one(asked.query), tuple(map(one, asked.documents)))
    return None if altered == asked else altered


def _make_typos(chance: random.Random) -> Callable[[str], str]:
    def change(text: str) -> str:
        letters = list(text)
        start = 0
        for end in range(len(letters) + 1):
            if end < len(letters) and letters[end].isascii() and letters[end].isalpha():
                continue
            if end - start >= 4 and chance.random() < _TYPO_RATE:
                place = chance.randrange(start + 1, end - 1)
                if chance.random() < _SWAP:
                    letters[place], letters[place + 1] = letters[place + 1], letters[place]
                else:
                    near = chance.choice(_NEIGHBOURS[letters[place].lower()])
                    letters[place] = near.upper() if letters[place].isupper() else near
            start = end + 1
        return "".join(letters)

    return change


def _make_case(chance: random.Random) -> Callable[[str], str]:
    return lambda text: chance.choice((str.lower, str.upper, str.title))(text)


def _make_width(chance: random.Random) -> Callable[[str], str]:
    wide = {code: code + _FULL for code in range(0x21, 0x7F)}
    narrow = {full: code for code, full in wide.items()}

    def change(text: str) -> str:
        narrowed = text.translate(narrow)
        return text.translate(wide) if narrowed == text else narrowed

    return change


def _make_script(chance: random.Random) -> Callable[[str], str]:
    try:
        from opencc import OpenCC
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "augment by script needs OpenCC, which is not installed: pip install 'millis[train]'."
        ) from error
    to_traditional, to_simplified = OpenCC("s2t"), OpenCC("t2s")

    def change(text: str) -> str:
        other: str = to_traditional.convert(text)
        if other == text:
            other = to_simplified.convert(text)
        return other

    return change


WAYS: Mapping[str, Callable[[random.Random], Callable[[str], str]]] = {
    "typos": _make_typos, "case": _make_case, "width": _make_width, "script": _make_script
}  # fmt: skip
