"""Rows that look wrong, with file and line: what can be seen without any model.

    conflict    the same text with other labels          wrong
    leak        a text of dev or test stands in train    wrong
    twin        labels that differ only in writing       wrong
    unseen      a label that train does not have         wrong
    single      one label for all texts of train         wrong
    duplicate   a text stands in train more than once    a note
    empty       hardly anything to read                  a note
    once        a label that one row of train has        a note
    suspicious  a label that the other rows speak against: a guess, so a note; some kinds of it are found by
                training/label_noise.py

Border: compares and counts; changes nothing. Of texts only an entity's own is told, labels always.
Limits: two texts are the same when they are so without case, blanks (of no width too) and width (NFKC); paraphrases are
not found.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from millis.data.examples import Asked, Example, MatchExample, RankExample, SpanExample, texts_of

WRONG = ("conflict", "leak", "twin", "unseen", "single")
NOTES = ("duplicate", "empty", "once", "suspicious")

_LEAST_LETTERS = 2
_IDEOGRAPH = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
"""A word by itself, where a letter is none."""
_UNIT = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]|[^\W\u2e80-\u9fff\uf900-\ufaff]+|\S")
_MOST_UNITS = 12  # of an entity that is looked for elsewhere
_LEAST_OTHERS, _LEAST_SHARE = 4, 0.8
_NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A row that looks wrong.

    Args:
        kind: one of WRONG or NOTES.
        source: file:line.
        said: what is wrong with it.
        score: of a guess, how sure it is, 0 to 1; None for what is plain.
    """

    kind: str
    source: str
    said: str
    score: float | None = None


_OF_NO_WIDTH = str.maketrans("", "", "\u200b\ufeff")


def fold(text: str) -> str:
    """Give a text without case, blanks and width."""
    return "".join(unicodedata.normalize("NFKC", text).translate(_OF_NO_WIDTH).casefold().split())


def find_plain(parts: Mapping[str, Sequence[Example]]) -> list[Finding]:
    """Find all that needs no guess.

    Args:
        parts: "train", and "dev" and "test" where there are such.
    """
    train = parts["train"]
    return [*_find_repeats(train), *_find_leaks(parts), *_find_labels(parts), *_find_empty(parts)]


def find_single(train: Sequence[Example]) -> list[Finding]:
    """Find that all texts have one label, where a text has one label and a fit is to tell them apart."""
    labels = {label for example in train for label in example.labels}
    if len(labels) > 1:
        return []
    said = f"every text of train has the label {min(labels)!r}: fit needs two or more"
    return [Finding(kind="single", source=train[0].source, said=said)]


def find_one_sided(train: Sequence[SpanExample]) -> list[Finding]:
    """Find entities that are labelled otherwise than nearly everywhere else, or not at all, the surest first.

    A surface is counted where it stands as a whole entity, and where it stands between word edges outside of every
    entity; inside a longer entity it is something else.
    """
    seen: dict[str, Counter[str]] = {}
    places: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for example in train:
        for span in example.spans:
            surface = example.text[span.start : span.end]
            if len(fold(surface)) >= _LEAST_LETTERS:
                seen.setdefault(surface, Counter())
    for example in train:
        for surface, label in _occurrences(example, known=seen):
            seen[surface][label] += 1
            places[surface].append((label, example.source))
    found = []
    for surface, counts in seen.items():
        (usual, n), total = counts.most_common(1)[0], counts.total()
        if len(counts) == 1 or n < _LEAST_OTHERS or n / total < _LEAST_SHARE:
            continue
        for label, source in places[surface]:
            if label != usual:
                here = "not labelled" if label == _NONE else f"{label} here"
                there = "not labelled" if usual == _NONE else usual
                said = f"{surface!r} is {here}, and {there} in {n} of {total} places"
                found.append(Finding(kind="suspicious", source=source, said=said, score=round(n / total, 4)))
    return sorted(found, key=lambda one: -(one.score or 0.0))


def _occurrences(example: SpanExample, *, known: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Give the known surfaces of a text, the longest at each place, with the label that each has there."""
    text = example.text
    labels = {(span.start, span.end): span.label for span in example.spans}
    taken = [False] * len(text)
    for span in example.spans:
        taken[span.start : span.end] = [True] * (span.end - span.start)
        if text[span.start : span.end] in known:
            yield text[span.start : span.end], span.label
    units = [(unit.start(), unit.end()) for unit in _UNIT.finditer(text)]
    for first, (start, _) in enumerate(units):
        for _, end in reversed(units[first : first + _MOST_UNITS]):
            if (start, end) not in labels and text[start:end] in known and not any(taken[start:end]):
                yield text[start:end], _NONE
                break


def _find_repeats(train: Sequence[Example]) -> Iterator[Finding]:
    """Find texts that stand in train again: with other labels a conflict, else a duplicate."""
    groups: dict[tuple[str, ...], list[Example]] = defaultdict(list)
    for example in train:
        groups[_fold_each(example.text)].append(example)
    for same in groups.values():
        if len(same) == 1:
            continue
        first = same[0]
        is_conflict = any(_differs(first, other) for other in same[1:])
        for other in same[1:]:
            if _differs(first, other):
                said = f"{_tell(other)}, and the same text at {first.source}: {_tell(first)}"
                if _tell(other) == _tell(first):  # the same labels of other places, or another answer
                    said = f"labelled otherwise than the same text at {first.source}"
                yield Finding(kind="conflict", source=other.source, said=said)
            elif not is_conflict:
                yield Finding(kind="duplicate", source=other.source, said=f"the same text as {first.source}")


def _fold_each(asked: Asked) -> tuple[str, ...]:
    return tuple(map(fold, texts_of(asked)))


def _differs(one: Example, other: Example) -> bool:
    if sorted(one.labels) != sorted(other.labels):
        return True
    return one.text == other.text and one.record() != other.record()


def _tell(example: Example) -> str:
    """Name a row's labels, each once."""
    return ", ".join(repr(label) for label in dict.fromkeys(example.labels)) or "no label"


def may_stand_in_two_parts(example: Example) -> bool:
    """Say whether it is no leak when a text of dev or test stands in train: what is searched may be the same."""
    return isinstance(example, MatchExample) and not example.positives


def kept_apart(example: Example) -> Asked:
    """Give what of an example may not stand in two parts: of a ranking its query, whatever is to be ranked."""
    return example.text.query if isinstance(example, RankExample) else example.text


def _find_leaks(parts: Mapping[str, Sequence[Example]]) -> Iterator[Finding]:
    exact = {kept_apart(example) for example in parts["train"]}
    learnt: dict[tuple[str, ...], Example] = {}
    for example in parts["train"]:
        learnt.setdefault(_fold_each(kept_apart(example)), example)
    for name in [name for name in parts if name != "train"]:
        for example in parts[name]:
            known = learnt.get(_fold_each(kept_apart(example)))
            if known is None or may_stand_in_two_parts(example):
                continue
            how = "" if kept_apart(example) in exact else " but for case, blanks or width"
            is_other = not isinstance(example, RankExample) and _differs(known, example)
            other = f", labelled otherwise there ({_tell(known)})" if is_other else ""
            yield Finding(kind="leak", source=example.source, said=f"in train too{how}, at {known.source}{other}")


def _find_labels(parts: Mapping[str, Sequence[Example]]) -> Iterator[Finding]:
    """Find labels that differ only in writing, that one row has, and that train does not have."""
    first: dict[str, Example] = {}
    counts: Counter[str] = Counter()
    for example in (one for part in parts.values() for one in part):
        for label in example.labels:
            first.setdefault(label, example)
            counts[label] += 1
    alike: dict[str, list[str]] = defaultdict(list)
    for label in first:
        alike[fold(label)].append(label)
    for same in alike.values():
        usual = max(same, key=counts.__getitem__)
        for label in same:
            if label != usual:
                said = f"the label {label!r} ({counts[label]}) differs from {usual!r} ({counts[usual]}) only in writing"
                yield Finding(kind="twin", source=first[label].source, said=said)
    in_train = Counter(label for example in parts["train"] for label in example.labels)
    for label, example in first.items():
        if label not in in_train:
            yield Finding(kind="unseen", source=example.source, said=f"train has no label {label!r}")
        elif in_train[label] == 1:
            where = next(one for one in parts["train"] if label in one.labels)
            yield Finding(kind="once", source=where.source, said=f"the only one of train with the label {label!r}")


def _find_empty(parts: Mapping[str, Sequence[Example]]) -> Iterator[Finding]:
    for part in parts.values():
        for example in part:
            n = min(sum(character.isalnum() for character in text) for text in texts_of(example.text))
            if n < _LEAST_LETTERS and not all(map(_IDEOGRAPH.search, texts_of(example.text))):
                yield Finding(kind="empty", source=example.source, said=f"a text of {n} letters or digits")
