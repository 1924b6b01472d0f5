"""A support-desk corpus that this project writes itself: tickets, chats, call notes, e-mails, reviews.

Labels: PERSON, ORG, PRODUCT, PLACE, ORDER. Dev and test use sentence patterns that train never has, and half
of their names are made of parts that train never has; the other half stand in train. Companies are named
after people and places, products after words, and some examples are lower-cased, misspelt or unpunctuated, so
no model gets all of it right.

Border: writes CoNLL files (BIO); the words are in demo_names.py, the sentences in demo_patterns.py.
Limits: synthetic and English. A score on it says that the machinery works, nothing about another desk's text.
"""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from millis.data import demo_names
from millis.data.demo_patterns import PATTERNS
from millis.errors import InvalidValue, RunFailed

LABELS = {
    "person": "PERSON",
    "full": "PERSON",
    "first": "PERSON",
    "last": "PERSON",
    "org": "ORG",
    "product": "PRODUCT",
    "place": "PLACE",
    "street": "PLACE",
    "order": "ORDER",
}
"""Slot of a pattern -> label."""

PARTS = ("train", "dev", "test")
_SHARES = (0.6, 0.15)  # of patterns and of name parts for train and dev; test has the rest
_UNSEEN = 0.5
_WORDS = {slot: [word.strip() for word in words.split("|")] for slot, words in demo_names.WORDS.items()}
_CHOICE = re.compile(r"\[([^\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_TOKEN = re.compile(r"['’]?\w+(?:[.:'’&/-]\w+)*|[^\w\s]")

Token = tuple[str, str]
"""A token and its tag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFiles:
    """Where the corpus was written."""

    train: Path
    dev: Path
    test: Path


def write_demo(
    folder: str | Path, *, seed: int = 7, n_train: int = 1600, n_dev: int = 300, n_test: int = 600
) -> DemoFiles:
    """Write train.conll, dev.conll and test.conll; the same seed and counts give the same bytes.

    Args:
        folder: where to, made if it is missing.
        seed: decides everything that is drawn, and which patterns and names are held out.
        n_train: examples in train.
        n_dev: examples in dev.
        n_test: examples in test.

    Raises:
        InvalidValue: a count under 1.
        RunFailed: the files cannot be written.
    """
    counts = dict(zip(PARTS, (n_train, n_dev, n_test), strict=True))
    if min(counts.values()) < 1:
        raise InvalidValue(f"n_train {n_train}, n_dev {n_dev} and n_test {n_test} must each be 1 or more.")
    folder = Path(folder)
    files = {part: folder / f"{part}.conll" for part in PARTS}
    patterns = split_patterns(seed)
    names = _Names(seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            sentences = _sentences(patterns[part], names=names, part=part, seed=seed)
            blocks = (
                "".join(f"{token}\t{tag}\n" for token, tag in tokens)
                for tokens in islice(sentences, counts[part])
            )
            files[part].write_bytes("\n".join(blocks).encode())
    except OSError as error:
        reason = f"the demo corpus cannot be written ({error.strerror})"
        raise RunFailed(f"{folder}: {reason}: give a folder that you may write to.") from error
    return DemoFiles(**files)


def split_patterns(seed: int) -> dict[str, tuple[str, ...]]:
    """Give the patterns of each part; every kind of pattern gives to each part, and no two share one."""
    generator = random.Random(f"{seed} patterns")  # noqa: S311 - no secret hangs on it
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for lines in PATTERNS.values():
        for part, share in _deal(lines.strip().split("\n"), generator=generator).items():
            parts[part].extend(share)
    return {part: tuple(share) for part, share in parts.items()}


def _deal(items: Sequence[str], *, generator: random.Random) -> dict[str, list[str]]:
    """Shuffle and divide items among the parts."""
    order = list(dict.fromkeys(items))
    generator.shuffle(order)
    first = round(len(order) * _SHARES[0])
    second = first + round(len(order) * _SHARES[1])
    return dict(zip(PARTS, (order[:first], order[first:second], order[second:]), strict=True))


class _Names:
    """Names for slots; train must draw first, for half of what dev and test draw is what train drew."""

    def __init__(self, seed: int) -> None:
        generator = random.Random(f"{seed} names")  # noqa: S311
        lists = {
            "first": demo_names.FIRST,
            "last": demo_names.LAST,
            "place": demo_names.PLACES,
            "stem": demo_names.STEMS,
            "coined": demo_names.COINED_START,
            "common": demo_names.COMMON,
        }
        self._lists = {name: _deal(items, generator=generator) for name, items in lists.items()}
        self._drawn: dict[str, list[str]] = defaultdict(list)

    def draw(self, slot: str, *, part: str, generator: random.Random) -> str:
        """Give a name for a slot of LABELS."""
        if slot == "order":
            return _order(generator)
        if part != "train" and self._drawn[slot] and generator.random() >= _UNSEEN:
            return generator.choice(self._drawn[slot])
        name = _MAKERS[slot]({name: dealt[part] for name, dealt in self._lists.items()}, generator)
        if part == "train":
            self._drawn[slot].append(name)
        return name


def _full(parts: dict[str, list[str]], generator: random.Random) -> str:
    return f"{generator.choice(parts['first'])} {generator.choice(parts['last'])}"


def _person(parts: dict[str, list[str]], generator: random.Random) -> str:
    first, last = generator.choice(parts["first"]), generator.choice(parts["last"])
    forms = (f"{first} {last}", first, f"{first[0]}. {last}", f"{last}, {first}", last)
    return generator.choices(forms, weights=(60, 20, 8, 4, 8))[0]


def _organisation(parts: dict[str, list[str]], generator: random.Random) -> str:
    def one(name: str) -> str:
        return generator.choice(parts[name])

    trade, legal = generator.choice(demo_names.TRADES), generator.choice(demo_names.LEGAL)
    stem, place, last, common = one("stem"), one("place"), one("last"), one("common")
    forms = {
        f"{stem} {trade}": 25,
        stem: 15,
        f"{stem} {legal}": 6,
        f"{place} {trade}": 14,
        f"{generator.choice(('Bank', 'University', 'Port'))} of {place}": 5,
        f"{last} {generator.choice(('& Sons', 'Brothers', '& Co', legal, trade))}": 12,
        f"{last} & {one('last')}": 4,
        last: 3,
        common: 8,
        f"{common} {legal}": 5,
        "".join(generator.choices("ABCDEFGHKLMNPRSTVW", k=3)): 3,
    }
    return generator.choices(list(forms), weights=list(forms.values()))[0]


def _product(parts: dict[str, list[str]], generator: random.Random) -> str:
    coined = generator.choice(parts["coined"]) + generator.choice(demo_names.COINED_END)
    common, stem = generator.choice(parts["common"]), generator.choice(parts["stem"])
    edition, device = generator.choice(demo_names.EDITIONS), generator.choice(demo_names.DEVICES)
    number = generator.choice(("2", "3", "5", "7", "10", "200", "410", "900"))
    forms = {
        coined: 22,
        f"{coined} {edition}": 14,
        f"{coined} {device}": 14,
        f"{coined} {number}": 6,
        common: 14,
        f"{common} {generator.choice((edition, device, number))}": 14,
        f"{stem} {device}": 10,
        f"{generator.choice('BDKMQRTVX')}{generator.choice('LRSTX')}-{number}": 6,
    }
    return generator.choices(list(forms), weights=list(forms.values()))[0]


def _place(parts: dict[str, list[str]], generator: random.Random) -> str:
    place = generator.choice(parts["place"])
    forms = (place, f"{place} {generator.choice(('North', 'East', 'Harbour', 'Old Town', 'Airport'))}")
    return generator.choices((*forms, _street(parts, generator)), weights=(86, 8, 6))[0]


def _street(parts: dict[str, list[str]], generator: random.Random) -> str:
    name = generator.choice(parts[generator.choice(("last", "stem", "place"))])
    return f"{name} {generator.choice(demo_names.STREETS)}"


_MAKERS: dict[str, Callable[[dict[str, list[str]], random.Random], str]] = {
    "person": _person,
    "full": _full,
    "first": lambda parts, generator: generator.choice(parts["first"]),
    "last": lambda parts, generator: generator.choice(parts["last"]),
    "org": _organisation,
    "product": _product,
    "place": _place,
    "street": _street,
}


def _order(generator: random.Random) -> str:
    digits = f"{generator.randrange(10**6):06d}"
    letters = "".join(generator.choices("ABCDEFGHJKLMNPQRSTUVWXYZ", k=2))
    start = generator.choice(("#", "ORD-", "PO ", letters, "7", ""))
    return f"{start}{digits}" if start else f"{digits[:4]}-{letters}"


def _sentences(patterns: Sequence[str], *, names: _Names, part: str, seed: int) -> Iterator[list[Token]]:
    """Give examples without end; every pattern is used once before any is used again."""
    generator = random.Random(f"{seed} {part}")  # noqa: S311
    queue: list[str] = []
    while True:
        n = generator.choices((1, 2, 3), weights=(75, 20, 5))[0]
        tokens: list[Token] = []
        for _ in range(n):
            if not queue:
                queue = list(patterns)
                generator.shuffle(queue)
            tokens += _fill(queue.pop(), names=names, part=part, generator=generator)
        yield _roughen(tokens, generator=generator)


def _fill(pattern: str, *, names: _Names, part: str, generator: random.Random) -> Iterator[Token]:
    """Draw the choices and the slots of a pattern."""
    chosen = _CHOICE.sub(lambda match: generator.choice(match[1].split("|")), pattern)
    for position, piece in enumerate(_SLOT.split(chosen)):
        is_slot = position % 2 == 1
        if is_slot and piece in LABELS:
            tokens = _TOKEN.findall(names.draw(piece, part=part, generator=generator))
            label = LABELS[piece]
            yield from zip(tokens, (f"B-{label}", *[f"I-{label}"] * (len(tokens) - 1)), strict=True)
        else:
            text = generator.choice(_WORDS[piece]) if is_slot else piece
            yield from ((token, "O") for token in _TOKEN.findall(text))


def _roughen(tokens: list[Token], *, generator: random.Random) -> list[Token]:
    """Write as people type: sometimes without the full stop, in one case, or with a slip of the finger."""
    rough = list(tokens)
    if len(rough) > 1 and rough[-1] in {(".", "O"), ("?", "O"), ("!", "O")} and generator.random() < 0.25:
        rough.pop()
    words = [place for place, (token, _) in enumerate(rough) if token.isalpha() and len(token) > 4]
    if words and generator.random() < 0.2:
        place = generator.choice(words)
        rough[place] = (_misspell(rough[place][0], generator=generator), rough[place][1])
    case = generator.random()
    if case < 0.3:
        return [(token.lower(), tag) for token, tag in rough]
    return [(token.upper(), tag) for token, tag in rough] if case > 0.98 else rough


def _misspell(word: str, *, generator: random.Random) -> str:
    place = generator.randrange(1, len(word) - 1)
    before, here, after = word[:place], word[place : place + 2], word[place + 2 :]
    return before + generator.choice((here[::-1], here[0], here[0] + here)) + after
