"""What a labelled text is: the text, and spans of characters in it or labels of the whole.

Border: values only. Offsets are Unicode code points, half-open.
"""

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A labelled piece of text: characters start (inclusive) to end (exclusive)."""

    start: int
    end: int
    label: str


class Example(Protocol):
    """What every labelled text has."""

    @property
    def text(self) -> str:
        """The text."""

    @property
    def source(self) -> str:
        """Where it came from, "file:line", for messages."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that it has, as often as it has them."""

    def record(self) -> list[Any]:
        """Give all that is to be learnt from it, as JSON can hold it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanExample:
    """A text with its spans, sorted by start and not overlapping.

    Args:
        source: where it came from, "file:line", for messages.
    """

    text: str
    spans: tuple[Span, ...] = ()
    source: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the spans, in their order."""
        return tuple(span.label for span in self.spans)

    def record(self) -> list[Any]:
        """Give text and spans."""
        return [self.text, [[span.start, span.end, span.label] for span in self.spans]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelExample:
    """A text with the labels of the whole: one, or for many-label tasks any number of different ones.

    Args:
        source: where it came from, "file:line", for messages.
    """

    text: str
    labels: tuple[str, ...]
    source: str = ""

    def record(self) -> list[Any]:
        """Give text and labels."""
        return [self.text, list(self.labels)]
