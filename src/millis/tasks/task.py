"""What a task is: four members, and the windows they pass around.

Border: the interface only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from millis.data.examples import SpanExample


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of text as a model sees it.

    Args:
        ids: token ids with special tokens, int64 (T,).
        targets: label ids, int64 (T,), -100 where the loss does not count; None for text without labels.
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
    """Text to windows, logits to answers, answers to a score."""

    example: str
    """A text to warm up on and to show."""

    labels: tuple[str, ...]
    """Names of the model's K outputs, in order (for NER: O, B-PER, I-PER, ...)."""

    max_tokens: int
    """Length of the longest window, special tokens included."""

    n_pieces: int
    """Size of the tokenizer's vocabulary; ids are below it."""

    def encode(self, text: str, *, example: SpanExample | None = None) -> tuple[Window, ...]:
        """Cut a text into windows a model can take; with an example's spans, windows carry targets."""

    def decode(self, text: str, windows: Sequence[Window], logits: Sequence[NDArray[np.float32]]) -> dict[str, Any]:
        """Read the answer for a text from logits (T, K), one array per window."""

    def score(self, examples: Sequence[SpanExample], answers: Sequence[dict[str, Any]]) -> Score:
        """Compare answers with what the examples say."""
