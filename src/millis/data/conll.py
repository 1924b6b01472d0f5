"""CoNLL columns: a token a row, its tag in the last column, an empty line after each sentence.

Schemes: "iob1", "bio", "bioes", "bilou" and "bmes" take exactly their own tags in their own order. "auto"
takes the union of them leniently: I- and M- continue an entity of their type or open one, B- opens, E- and L-
close, S- and U- stand alone, so each of the schemes is read as it is meant.

Text: the tokens joined with one space, with none between two neighbouring CJK characters, and with none at
all in a sentence whose every token is one character, some of them CJK: a Chinese file of one character a line
reads as Chinese is written, its digits and Latin letters too.

Border: rows to examples.
Limits: no comments ("#" is a token); columns between the first and the last are not looked at.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from millis.data.examples import Span, SpanExample
from millis.data.rows import BadRows, Reading, Row, is_blank

PREFIXES = {"auto": "BIMELSU", "iob1": "BI", "bio": "BI", "bioes": "BIES", "bilou": "BILU", "bmes": "BMES"}
"""What may stand before the dash of a tag, by scheme."""

_SEPARATED = re.compile(" +")
_SHAPED_LIKE_A_TAG = re.compile(r"[A-Za-z]{1,2}[-_]\S{0,40}")
# Han, kana, bopomofo, their punctuation and full-width forms; not Hangul, which is written with spaces.
_CJK = re.compile(
    "[\u2e80-\u303f\u3040-\u312f\u31a0-\u4dbf\u4e00-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff]"
)


class _Tagged(NamedTuple):
    """One row; prefix is O with an empty label outside entities, and None where the tag could not be read."""

    line: int
    token: str
    prefix: str | None
    label: str

    @property
    def tag(self) -> str:
        return f"{self.prefix}-{self.label}" if self.label else "O"


def read_conll(rows: Sequence[Row], *, bad: BadRows, scheme: str = "auto", blanks: str = "error") -> Reading:
    """Read sentences with their entities.

    Args:
        rows: the lines of a file.
        bad: where rows that cannot be read are added.
        scheme: a key of PREFIXES.
        blanks: "error", or "skip" to leave out rows tagged O whose token is empty.
    """
    n_rows = n_sentences = 0  # left out
    examples = []
    for sentence in _sentences(rows, bad=bad, scheme=scheme):
        kept = [row for row in sentence if row.token or blanks == "error" or row.prefix != "O"]
        n_rows += len(sentence) - len(kept)
        n_sentences += not kept
        for position, row in enumerate(kept):
            if not row.token:
                remedy = "; blanks='skip' leaves it out" if row.prefix == "O" else ": remove the row"
                bad.add(row.line, f"the token is empty{remedy}")
                kept[position] = _unread(row.line)
        if kept:
            examples.append(_example(kept, bad=bad, scheme=scheme))
    note = f"{n_rows} rows with an empty token, {n_sentences} whole sentences, were left out (blanks='skip')."
    return Reading(examples=tuple(examples), notes=(note,) if n_rows else ())


def join_tokens(tokens: Sequence[str]) -> tuple[str, list[int]]:
    """Rebuild a text from its tokens by the rule of this file.

    Returns:
        the text, and where each token starts in it.
    """
    is_by_character = all(len(token) == 1 for token in tokens) and any(map(_CJK.match, tokens))
    pieces = list(tokens[:1])
    starts = [0]
    end = len(tokens[0])
    for before, token in pairwise(tokens):
        if not (is_by_character or (_CJK.match(before[-1]) and _CJK.match(token[0]))):
            pieces.append(" ")
            end += 1
        starts.append(end)
        pieces.append(token)
        end += len(token)
    return "".join(pieces), starts


def _sentences(rows: Sequence[Row], *, bad: BadRows, scheme: str) -> Iterator[list[_Tagged]]:
    """Split rows at empty lines and document marks; rows of another width than the first go to bad."""
    sentence: list[_Tagged] = []
    first: tuple[int, int] | None = None
    tags: dict[str, tuple[str, str] | None] = {"O": ("O", "")}
    for line, text in rows:
        if not text.strip(" \t\r") or text.startswith("-DOCSTART-"):
            if sentence:
                yield sentence
            sentence = []
            continue
        columns = text.split("\t") if "\t" in text else _SEPARATED.split(text.strip(" "))
        first = first or (line, len(columns))
        if len(columns) == first[1] == 1:
            bad.add(line, "1 column: a row needs a token and a tag, with a tab or spaces between them")
            sentence.append(_unread(line))
        elif len(columns) != first[1]:
            what = f"{len(columns)} column" + "s" * (len(columns) > 1)
            bad.add(line, f"{what}, but the file's first row (line {first[0]}) has {first[1]}")
            sentence.append(_unread(line))
        else:
            tag = columns[-1].strip(" ")
            if tag not in tags:
                tags[tag] = _read_tag(tag, scheme=scheme)
            read = tags[tag]
            if read is None:
                bad.add(line, _unknown_tag(tag, scheme=scheme))
            sentence.append(_Tagged(line, columns[0].strip(" "), *(read or (None, ""))))
    if sentence:
        yield sentence


def _unread(line: int) -> _Tagged:
    """Hold the place of a row that went to bad, so that its neighbours are judged rightly."""
    return _Tagged(line, "?", None, "")


def _read_tag(tag: str, *, scheme: str) -> tuple[str, str] | None:
    prefix, _, label = tag.partition("-")
    return (prefix, label) if label and len(prefix) == 1 and prefix in PREFIXES[scheme] else None


def _unknown_tag(tag: str, *, scheme: str) -> str:
    # A last column that is no tag at all may be a word of the user's: it is not repeated.
    named = f"unknown tag {tag!r}" if _SHAPED_LIKE_A_TAG.fullmatch(tag) else "the last column is not a tag"
    prefixes = ", ".join(f"{prefix}-" for prefix in PREFIXES[scheme])
    return f"{named}: scheme {scheme!r} takes O, or a type after one of {prefixes}"


def _example(sentence: Sequence[_Tagged], *, bad: BadRows, scheme: str) -> SpanExample:
    if scheme != "auto" and all(row.prefix for row in sentence):
        _check_order(sentence, bad=bad, scheme=scheme)
    text, starts = join_tokens([row.token for row in sentence])
    spans = []
    for first, last in _entities(sentence):
        start, end = starts[first], starts[last] + len(sentence[last].token)
        if is_blank(text[start:end]):
            bad.add(sentence[first].line, "an entity of blank characters only: tag them O")
        spans.append(Span(start, end, sentence[first].label))
    return SpanExample(text=text, spans=tuple(spans), source=bad.source(sentence[0].line))


def _entities(sentence: Sequence[_Tagged]) -> list[tuple[int, int]]:
    """Give the first and last token of each entity, by the lenient union of all schemes."""
    found: list[tuple[int, int]] = []
    label = ""  # of the entity that the next token may continue
    for position, row in enumerate(sentence):
        if row.prefix is None or row.prefix == "O":
            label = ""
            continue
        if row.prefix in "IMEL" and row.label == label:
            found[-1] = (found[-1][0], position)
        else:
            found.append((position, position))
        label = "" if row.prefix in "ELSU" else row.label
    return found


def _check_order(sentence: Sequence[_Tagged], *, bad: BadRows, scheme: str) -> None:
    """Add to bad the tags that a scheme does not allow where they stand."""
    outside = _Tagged(sentence[-1].line, "", "O", "")
    for before, here in pairwise((outside, *sentence, outside)):
        assert before.prefix, "checked by the caller"
        assert here.prefix, "checked by the caller"
        is_same = before.label == here.label
        if scheme == "bio":
            is_wrong = here.prefix == "I" and not is_same
        elif scheme == "iob1":
            is_wrong = here.prefix == "B" and not is_same
        else:
            is_open = before.prefix in "BIM"
            is_wrong = not (is_open and is_same) if here.prefix in "IMEL" else is_open
        if is_wrong:
            what = f"{before.tag} at the end" if here is outside else f"{here.tag} after {before.tag}"
            bad.add(here.line, f"{what} is not {scheme!r}: correct the tag, or choose scheme 'auto'")
