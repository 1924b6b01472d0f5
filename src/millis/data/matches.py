"""Texts that belong together, from JSON lines: a query, a text that fits it, and texts that do not.

    {"query": ..., "positive": ..., "negative": ...}       negative may be missing; both may be lists
    {"query": ..., "title": ..., "neg_title": ...}         ranking triples, as SimCLUE has them
    {"sentence1": ..., "sentence2": ..., "label": 1}       pairs; 0 means that the second does not fit the first

Border: rows to examples: one for each different text, which says what fits it and what does not, or one for each query,
with all its texts to be ranked.
Limits: two texts are the same only when they are equal character by character.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from millis.data.examples import MatchExample, RankExample, Ranking
from millis.data.rows import BadRow, BadRows, Reading, Row, is_blank, name_kind, read_json_lines

_QUERIES = ("query", "sentence1", "question", "anchor")
_POSITIVES = ("positive", "title", "sentence2", "passage")
_NEGATIVES = ("negative", "neg_title")
_FITS = {"1": True, "0": False}


class _Match(NamedTuple):
    """What a row says: texts that fit a query, and texts that do not."""

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    line: int


def read_matches(rows: Sequence[Row], *, bad: BadRows) -> Reading:
    """Read JSON lines, one query with its texts each; a text that comes again is one example."""
    return _gather(_read_all(rows, bad=bad), bad=bad)


def read_rankings(rows: Sequence[Row], *, bad: BadRows) -> Reading:
    """Read JSON lines, one query with its texts each; a query that comes again is one example with all of them."""
    found: dict[str, dict[str, bool]] = {}
    lines: dict[str, int] = {}
    n_both = 0
    for match in _read_all(rows, bad=bad):
        lines.setdefault(match.query, match.line)
        documents = found.setdefault(match.query, {})
        for texts, fits in ((match.positives, True), (match.negatives, False)):
            for text in texts:
                n_both += documents.get(text, fits) != fits
                documents[text] = documents.get(text, False) or fits
    examples = tuple(
        RankExample(
            text=Ranking(query, tuple(documents)), is_relevant=tuple(documents.values()),
            source=bad.source(lines[query]),
        )
        for query, documents in found.items()
    )  # fmt: skip
    notes = (f"{n_both} times a text fits a query in one row and not in another: it was taken to fit",)
    return Reading(examples=examples, notes=notes if n_both else ())


def _read_all(rows: Sequence[Row], *, bad: BadRows) -> list[_Match]:
    return read_json_lines(
        rows, lambda line, text: _read(msgspec.json.decode(text, type=dict[str, Any]), line=line), bad=bad
    )


def _read(row: Mapping[str, Any], *, line: int) -> _Match:
    query = _texts(row, _QUERIES, line_has="query")
    positives = _texts(row, _POSITIVES, line_has="positive")
    negatives = _texts(row, _NEGATIVES) if any(key in row for key in _NEGATIVES) else ()
    if len(query) != 1:
        raise BadRow(f"{len(query)} queries: give one a row")
    fits = str(row.get("label", "1"))
    if fits not in _FITS:
        raise BadRow("the label is neither 0 nor 1: 1 says that the two texts fit")
    if not _FITS[fits]:
        positives, negatives = (), (*positives, *negatives)
    return _Match(query[0], positives, negatives, line)


def _texts(row: Mapping[str, Any], usual: Sequence[str], *, line_has: str = "negative") -> tuple[str, ...]:
    key = next((key for key in usual if key in row), None)
    if key is None:
        has = ", ".join(list(row)[:8])[:200]
        raise BadRow(f"no key {' or '.join(usual[:2])} for the {line_has}: the row has {has}")
    given = row[key] if isinstance(row[key], list) else [row[key]]
    if not all(isinstance(text, str) for text in given):
        raise BadRow(f"{key} holds {name_kind(row[key])}, not text")
    if not given or any(is_blank(text) for text in given):
        raise BadRow(f"{key} is blank: write it, or remove the row")
    return tuple(given)


def _gather(matches: Sequence[_Match], *, bad: BadRows) -> Reading:
    """Give an example for each text, and notes of what was left out."""
    positives: dict[str, dict[str, None]] = {}
    for match in matches:
        positives.setdefault(match.query, {}).update(dict.fromkeys(match.positives))
    n_alike = sum(query in found for query, found in positives.items())
    for query, found in positives.items():
        found.pop(query, None)
    negatives: dict[str, dict[str, None]] = {query: {} for query in positives}
    n_both = n_alone = 0
    for match in matches:
        fits = positives[match.query]
        n_alone += not fits
        n_both += sum(text in fits for text in match.negatives)
        if fits:
            negatives[match.query].update({text: None for text in match.negatives if text not in fits})
    sources: dict[str, str] = {}
    for match in matches:
        if positives[match.query]:
            for text in (match.query, *match.positives, *match.negatives):
                sources.setdefault(text, bad.source(match.line))
    passages = {text for found in (positives, negatives) for query in positives for text in found[query]}
    groups = _join(positives)
    examples = tuple(
        MatchExample(
            text=text, positives=tuple(positives.get(text, ())), negatives=tuple(negatives.get(text, ())),
            is_passage=text in passages, group=groups.get(text, text), source=source,
        )
        for text, source in sources.items()
        if positives.get(text) or text in passages
    )  # fmt: skip
    said = (
        (n_alone, "rows left out: no text fits their query in any row"),
        (n_both, "negatives left out: another row says that they fit the same query"),
        (n_alike, "pairs left out: query and text are the same"),
    )
    return Reading(examples=examples, notes=tuple(f"{n} {what}" for n, what in said if n))


def _join(positives: Mapping[str, Mapping[str, None]]) -> dict[str, str]:
    """Name the group of each text: those that fit one another, directly or through others, are in one."""
    leaders: dict[str, str] = {}

    def find(text: str) -> str:
        leader = leaders.setdefault(text, text)
        while leader != leaders[leader]:
            leader = leaders[leader]
        leaders[text] = leader
        return leader

    for query, found in positives.items():
        for text in found:
            leaders[find(text)] = find(query)
    return {text: find(text) for text in tuple(leaders)}
