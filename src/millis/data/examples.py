"""What a labelled text is: what is asked of a model, and the spans, labels, answers or fitting texts that are right.

Border: values only. Offsets are Unicode code points, half-open.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question, and the text that is to answer it."""

    question: str
    context: str


class Ranking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query, and the documents that are to be ranked by how well they fit it."""

    query: str
    documents: tuple[str, ...]


Asked = str | Question | Ranking
"""What a model can be asked about."""


def texts_of(asked: Asked) -> tuple[str, ...]:
    """List the texts of what is asked."""
    if isinstance(asked, str):
        return (asked,)
    return (asked.question, asked.context) if isinstance(asked, Question) else (asked.query, *asked.documents)


def readings_of(asked: Asked) -> tuple[tuple[str, ...], ...]:
    """List what is read together: one text, or two."""
    texts = texts_of(asked)
    return tuple((texts[0], document) for document in texts[1:]) if isinstance(asked, Ranking) else (texts,)


def options_of(example: "Example") -> dict[str, Any]:
    """Give what a request chooses that asks an example: of texts that are to fit one another, what it serves as."""
    if not isinstance(example, MatchExample):
        return {}
    return {"input_type": "query" if example.positives else "passage"}


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A labelled piece of text: characters start (inclusive) to end (exclusive)."""

    start: int
    end: int
    label: str


class Example(Protocol):
    """What every labelled text has."""

    @property
    def text(self) -> Any:
        """What a model is asked about: a text, for most tasks; else another kind of `Asked`."""

    @property
    def source(self) -> str:
        """Where it came from, "file:line", for messages."""

    @property
    def group(self) -> str:
        """What stays on one side of a split: all examples of one group."""

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
    def group(self) -> str:
        """Itself."""
        return self.text

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

    @property
    def group(self) -> str:
        """Itself."""
        return self.text

    def record(self) -> list[Any]:
        """Give text and labels."""
        return [self.text, list(self.labels)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerExample:
    """A question about a text with its answers, spans of the text that say the same; none where it has none.

    Args:
        source: where it came from, "file:line" or "file: question ID", for messages.
    """

    text: Question
    answers: tuple[tuple[int, int], ...] = ()
    source: str = ""

    @property
    def group(self) -> str:
        """The text: questions about one stand on one side."""
        return self.text.context

    @property
    def labels(self) -> tuple[str, ...]:
        """Say whether there is an answer."""
        return (ANSWERED,) if self.answers else (UNANSWERED,)

    @property
    def surfaces(self) -> tuple[str, ...]:
        """The answers, as they stand in the text."""
        return tuple(self.text.context[start:end] for start, end in self.answers)

    def record(self) -> list[Any]:
        """Give question, text and answers."""
        return [self.text.question, self.text.context, [list(span) for span in self.answers]]


ANSWERED, UNANSWERED = "answer", "no answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchExample:
    """A text, and which of the other texts fit it.

    Args:
        positives, negatives: texts that fit it, and texts that look so and do not; a text with positives is a query.
        is_passage: it fits a query, or does not; so it is among what is searched.
        group: a name that it shares with all texts that fit one another.
        source: where it came from, "file:line", for messages.
    """

    text: str
    positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    is_passage: bool = False
    group: str = ""
    source: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """What it serves as."""
        return (*(["query"] if self.positives else []), *(["passage"] if self.is_passage else []))

    def record(self) -> list[Any]:
        """Give text, and what fits it and what does not."""
        return [self.text, list(self.positives), list(self.negatives)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankExample:
    """A query with documents, and which of them fit it.

    Args:
        is_relevant: of each document.
        source: where the query first stands, "file:line", for messages.
    """

    text: Ranking
    is_relevant: tuple[bool, ...]
    source: str = ""

    @property
    def group(self) -> str:
        """The query."""
        return self.text.query

    @property
    def labels(self) -> tuple[str, ...]:
        """What its documents are."""
        return tuple("fits" if fits else "does not" for fits in self.is_relevant)

    def record(self) -> list[Any]:
        """Give query and documents, and which of them fit."""
        return [self.text.query, list(self.text.documents), list(self.is_relevant)]
