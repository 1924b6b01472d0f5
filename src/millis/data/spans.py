"""JSON lines of texts with character spans.

Shapes of a row, chosen by its keys:
    {"text": ..., "spans": [[start, end, label], ...]}
    {"text": ..., "spans": [{"start": ..., "end": ..., "label": ..., "text": ... (optional)}, ...]}
    {"text": ..., "entities": [...]}                                either of these under another name
    {"text": ..., "label": {TYPE: {SURFACE: [[start, end], ...]}}}  as CLUENER has it

Border: rows to examples. Offsets count Unicode code points.
Limits: other keys of a row are not looked at; spans cannot nest (see overlaps).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from millis.data.examples import Span, SpanExample
from millis.data.rows import BadRow, BadRows, Reading, Row, is_blank, read_json_lines

ENDS = ("exclusive", "inclusive")
OVERLAPS = ("error", "longest")


class _Piece(msgspec.Struct):
    """A span as an object; text, when given, is what stands there."""

    start: int
    end: int
    label: str
    text: str | None = None


_Pieces = list[tuple[int, int, str] | _Piece] | msgspec.UnsetType


class _Row(msgspec.Struct):
    """A row; exactly one of spans, entities and label is given."""

    text: str
    spans: _Pieces = msgspec.UNSET
    entities: _Pieces = msgspec.UNSET
    label: dict[str, dict[str, list[tuple[int, int]]]] | msgspec.UnsetType = msgspec.UNSET


class _Given(NamedTuple):
    """A span as the file has it, end not yet made exclusive."""

    start: int
    end: int
    label: str
    surface: str | None


_decoder = msgspec.json.Decoder(_Row)


def read_spans(
    rows: Sequence[Row], *, bad: BadRows, ends: str = "exclusive", overlaps: str = "error"
) -> Reading:
    """Read texts with their spans.

    Args:
        rows: the lines of a file.
        bad: where rows that cannot be read are added.
        ends: whether end is the character after the span ("exclusive") or its last one ("inclusive").
        overlaps: "error", or "longest" to keep, of spans that share characters, the longest.
    """
    n_dropped = 0

    def read(line: int, text: str) -> SpanExample:
        nonlocal n_dropped
        row = _decoder.decode(text)
        if is_blank(row.text):
            raise BadRow("the text is blank: write it, or remove the row")
        spans = sorted(_span(given, text=row.text, ends=ends) for given in _given(row))
        kept = _without_overlaps(spans, overlaps=overlaps)
        n_dropped += len(spans) - len(kept)
        return SpanExample(text=row.text, spans=kept, source=bad.source(line))

    shape = "write an object with text, and spans, entities or label"
    examples = read_json_lines(rows, read, bad=bad, shape=shape)
    notes = (f"{n_dropped} spans that overlap a longer one were left out (overlaps='longest').",)
    return Reading(examples=tuple(examples), notes=notes if n_dropped else ())


def _given(row: _Row) -> Iterator[_Given]:
    present = [field for field in (row.spans, row.entities, row.label) if field is not msgspec.UNSET]
    if len(present) != 1:
        raise BadRow(f"{len(present)} of the keys spans, entities and label: a row needs exactly one of them")
    pieces = present[0]
    if isinstance(pieces, dict):
        for label, surfaces in pieces.items():
            for surface, places in surfaces.items():
                yield from (_Given(start, end, label, surface) for start, end in places)
    elif isinstance(pieces, list):
        for piece in pieces:
            if isinstance(piece, _Piece):
                yield _Given(piece.start, piece.end, piece.label, piece.text)
            else:
                yield _Given(*piece, None)


def _span(given: _Given, *, text: str, ends: str) -> Span:
    """Make a span of what the file gives, checked against the text.

    Raises:
        BadRow: it does not fit; the reason says when the other kind of ends would.
    """
    end = given.end + (ends == "inclusive")
    other = ENDS[ends == "exclusive"]
    other_end = given.end + (other == "inclusive")
    where = f"span [{given.start}, {given.end}]"
    would_fit = ""
    if 0 <= given.start < other_end <= len(text) and given.surface in {None, text[given.start : other_end]}:
        would_fit = f"; ends={other!r} would fit"
    if not 0 <= given.start <= end <= len(text):
        raise BadRow(f"{where} is outside the text of {len(text)} characters with {ends} ends{would_fit}")
    found = text[given.start : end]
    if given.surface is not None and given.surface != found:
        raise BadRow(f"{where} with {ends} ends is not the surface text given beside it{would_fit}")
    if is_blank(found):
        raise BadRow(f"{where} with {ends} ends holds nothing but blanks{would_fit if not found else ''}")
    if not given.label.strip() or given.label != given.label.strip():
        raise BadRow(f"{where} has a label that is blank or has blanks around it")
    return Span(given.start, end, given.label)


def _without_overlaps(spans: Sequence[Span], *, overlaps: str) -> tuple[Span, ...]:
    """Give the spans, sorted; of those that share characters only the longest (the first, when equal)."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start - span.end, span)):
        rival = next((other for other in kept if span.start < other.end and other.start < span.end), None)
        if rival is None:
            kept.append(span)
        elif overlaps == "error":
            places = f"[{rival.start}, {rival.end}) and [{span.start}, {span.end})"
            raise BadRow(f"spans {places} overlap; overlaps='longest' keeps the longer one")
    return tuple(sorted(kept))
