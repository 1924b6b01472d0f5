"""What a labelled text is: the text, and spans of characters in it.

Border: values only. Offsets are Unicode code points, half-open.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A labelled piece of text: characters start (inclusive) to end (exclusive)."""

    start: int
    end: int
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanExample:
    """A text with its spans, sorted by start and not overlapping.

    Args:
        source: where it came from, "file:line", for messages.
    """

    text: str
    spans: tuple[Span, ...] = ()
    source: str = ""
