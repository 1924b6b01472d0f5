"""What a task is, and the windows that its members pass around.

Border: the interface only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from millis.errors import InvalidValue
from millis.tasks.tokenization import Tokenizer

IGNORED = -100
"""The target of a row of logits that no loss is to look at."""

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class Head(NamedTuple):
    """What a network answers of a window: logits (R, C).

    Args:
        outputs: names of its outputs, in order.
        rows: R; None for one row per token. With rows the outputs are R groups of C each, else C is their number.
        is_across: each output is a row, whose columns are the window's tokens: which token it is.
        pooled: "mean" or "cls" where there is no head: the base's own hidden state, pooled so, is the answer.
        separator: where windows hold two texts, id of the token behind which the second stands: a base with two token
            types tells them apart by it.
    """

    outputs: tuple[str, ...]
    rows: int | None = None
    is_across: bool = False
    pooled: str | None = None
    separator: int | None = None

    def shape(self, n_tokens: int) -> tuple[int, int]:
        """Give (R, C) for a window of so many tokens."""
        if self.is_across:
            return len(self.outputs), n_tokens
        if self.rows is None:
            return n_tokens, len(self.outputs)
        return self.rows, len(self.outputs) // self.rows

    def cut(self, logits: NDArray[np.float32], n_tokens: int) -> NDArray[np.float32]:
        """Take what padding answered off logits (R, C) of a window of so many tokens."""
        rows, columns = self.shape(n_tokens)
        return logits[:rows, :columns]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of text as a model sees it.

    Args:
        ids: token ids with special tokens, int64 (T,).
        targets: label ids, int64 (R,) as the task's head has rows, IGNORED where the loss does not count; None for
            text without labels.
        places: what the task needs to read the answer back; opaque to others.
    """

    ids: NDArray[np.int64]
    targets: NDArray[np.int64] | None = None
    places: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How good answers are.

    Args:
        value: the one number a contract's floor speaks of, in points (0 to 100).
        name: what it is called, "F1".
        by_label: precision, recall, F1 in points and support (the count), by label.
        per_example: counts per example, for paired comparison: (right, answered, expected).
        report: the table to print.
    """

    value: float
    name: str
    by_label: dict[str, dict[str, float]] = field(default_factory=dict)
    per_example: tuple[tuple[int, int, int], ...] = ()
    report: str = ""


class Task(Protocol):
    """Text to windows, logits to answers, answers to a score.

    A class of tasks is made of (tokenizer, labels=, **settings), or by `learn` of what the data says.
    """

    data: ClassVar[str]
    """What its examples are labelled with: "spans", "labels", "answers", "rankings" or "matches"."""

    asks: ClassVar[type]
    """What it is asked about: `str`, or another kind of `Asked`."""

    shown: ClassVar[tuple[Any, Any]]
    """What to warm up on and to show where there is nothing better, in English and in Chinese."""

    asked: ClassVar[frozenset[str]]
    """Names of what `learn` may be asked beside max_tokens, overlap and example; width and pooling are the base's."""

    may_stop_early: ClassVar[bool]
    """Whether what the first windows say is an answer, where time is short."""

    options: ClassVar[dict[str, tuple[Any, Any]]]
    """What a request may choose of `encode` and `decode`: by name its type and what it is when it is not chosen."""

    example: Any
    """What to warm up on and to show."""

    labels: tuple[str, ...]
    """What it tells apart, in order (for NER: O, B-PER, I-PER, ...)."""

    head: Head
    """What a network for it must answer."""

    max_tokens: int
    """Length of the longest window, special tokens included."""

    n_pieces: int
    """Size of the tokenizer's vocabulary; ids are below it."""

    def encode(
        self, text: Any, *, example: Any | None = None, options: Mapping[str, Any] = NO_OPTIONS
    ) -> tuple[Window, ...]:
        """Cut what is asked into windows a model can take; with an example, windows carry targets."""

    def decode(
        self, text: Any, windows: Sequence[Window], logits: Sequence[NDArray[np.float32]],
        options: Mapping[str, Any] = NO_OPTIONS,
    ) -> dict[str, Any]:  # fmt: skip
        """Read the answer from logits (R, C), one array per window; options are by name, as `options`."""

    def score(self, examples: Sequence[Any], answers: Sequence[dict[str, Any]]) -> Score:
        """Compare answers with what the examples say."""

    @staticmethod
    def names(labels: Sequence[str]) -> list[str]:
        """List what of a model's labels its answers can name."""

    @property
    def settings(self) -> dict[str, Any]:
        """What makes the task again, beside tokenizer and labels; JSON can hold it."""

    def with_tokenizer(self, tokenizer: Tokenizer) -> "Task":
        """Give the same task with another tokenizer."""

    def notes(self, examples: Sequence[Any]) -> tuple[str, ...]:
        """Say what of these examples cannot be answered, whatever the network."""

    def calibrate(
        self, examples: Sequence[Any], outputs: Sequence[tuple[Sequence[Window], Sequence[NDArray[np.float32]]]]
    ) -> "Calibration | None":
        """Fit what makes probabilities of scores, where the task has such a thing.

        Args:
            examples: that the network was not trained on.
            outputs: windows of each, and their logits (R, C).
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was fitted to held-out texts.

    Args:
        temperature: logits are to be divided by it.
        task: fitted to logits that were.
        said: a sentence.
    """

    temperature: float
    task: Task
    said: str


def lay_windows(max_tokens: int, *, overlap: int, tokenizer: Tokenizer) -> int:
    """Give how many pieces of text a window has room for.

    Raises:
        InvalidValue: hardly any.
    """
    n_special = len(tokenizer.prefix) + len(tokenizer.suffix)
    room = max_tokens - n_special
    if room <= overlap or overlap < 0:
        raise InvalidValue(
            f"max_tokens {max_tokens} with overlap {overlap} leaves no room for text: "
            f"give at least {overlap + n_special + 1} tokens."
        )
    return room


def cut_whole(
    text: str, *, tokenizer: Tokenizer, room: int, overlap: int, targets: NDArray[np.int64] | None, prefix: str = ""
) -> tuple[Window, ...]:
    """Cut a text that is answered as a whole into windows, at least one; the place of each is how many pieces it reads.

    Args:
        room: pieces of text in a window, those of the prefix among them.
        targets: of each window, int64 (R,).
        prefix: what every window begins with.
    """
    pieces = tokenizer.encode(prefix + text)
    n_lead = sum(end <= len(prefix) for _, end in pieces.offsets) if prefix else 0
    lead, ids = pieces.ids[:n_lead], pieces.ids[n_lead:]
    room -= n_lead
    starts = range(0, max(len(ids) - overlap, 1), room - overlap) if len(ids) > room else range(1)
    parts = [ids[start : start + room] for start in starts]
    return tuple(
        Window(
            ids=np.array([*tokenizer.prefix, *lead, *part, *tokenizer.suffix], np.int64), targets=targets,
            places=len(part),
        )
        for part in parts
    )  # fmt: skip
