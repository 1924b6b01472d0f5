"""Embedding: a text in, a vector out whose cosine with another says how alike two texts are.

The network's answer is its own hidden state, pooled over the tokens; no head stands behind it. Vectors are cut to the
size that a request asks for, one of those the model is made for, and brought to length 1. A text longer than a window
is read in several, whose vectors are averaged by length.

How good vectors are is judged by what they find: each query of the examples searches all their passages.
Border: knows tokens and vectors, no model library and no HTTP.
Source: mean pooling as in Reimers & Gurevych 2019, arXiv:1908.10084; sizes as in Kusupati et al. 2022,
arXiv:2205.13147.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from millis.data.examples import MatchExample
from millis.errors import InvalidData, InvalidValue
from millis.tasks.finding import score_finding
from millis.tasks.task import NO_OPTIONS, Calibration, Head, Score, Window, cut_whole, lay_windows
from millis.tasks.tokenization import Tokenizer

POOLINGS = ("mean", "cls")
_DIGITS = 7
_COUNTS = 0
"""The target of a window that teaches: which one it fits is not the window's to say."""


class EmbeddingTask:
    """Give the vector of a text.

    Args:
        tokenizer: pieces of the text.
        labels: none.
        width: of the network's hidden states, D.
        pooling: how they are pooled, "mean" over the tokens or "cls" for the first one's.
        dimensions: sizes that a vector may be cut to; D itself always may.
        is_normalised: vectors have length 1.
        max_tokens: longest window, special tokens included; longer texts are read in several.
        overlap: tokens that neighbouring windows share.
        example: a text to warm up on.
    Raises:
        InvalidValue: a pooling or a size that cannot be.
    """

    data: ClassVar[str] = "matches"
    asks: ClassVar[type] = str
    shown: ClassVar[tuple[str, str]] = (
        "Where is my order? It should have come on Monday.",
        "我的订单到哪里了？本来星期一就该送到的。",
    )
    asked: ClassVar[frozenset[str]] = frozenset({"dimensions", "pooling", "width"})
    may_stop_early: ClassVar[bool] = False
    options: ClassVar[dict[str, tuple[Any, Any]]] = {
        "dimensions": (
            Annotated[int, Meta(ge=1, le=100_000, description="size to cut vectors to; the model's own when missing")]
            | None,
            None,
        )
    }

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        width: int,
        labels: Sequence[str] = (),
        pooling: str = "mean",
        dimensions: Sequence[int] = (),
        is_normalised: bool = True,
        max_tokens: int = 256,
        overlap: int = 32,
        example: str = shown[0],
    ) -> None:
        if pooling not in POOLINGS:
            raise InvalidValue(f"pooling cannot be {pooling!r}: choose one of {', '.join(POOLINGS)}.")
        wrong = [size for size in dimensions if not 1 <= size <= width]
        if wrong:
            raise InvalidValue(f"dimensions cannot be {wrong[0]}: the base's vectors have {width}; give 1 to {width}.")
        self.labels = tuple(labels)
        self.example = example
        self.max_tokens = max_tokens
        self.n_pieces = tokenizer.n_vocabulary
        self.dimensions = tuple(sorted({width, *dimensions}, reverse=True))
        self.head = Head(tuple(map(str, range(width))), rows=1, pooled=pooling)
        self._width, self._pooling, self._is_normalised = width, pooling, is_normalised
        self._tokenizer = tokenizer
        self._overlap = overlap
        self._room = lay_windows(max_tokens, overlap=overlap, tokenizer=tokenizer)

    @classmethod
    def learn(cls, tokenizer: Tokenizer, examples: Sequence[MatchExample], **settings: Any) -> "EmbeddingTask":
        """Make the task that examples ask for; settings are those of the class.

        Raises:
            InvalidData: under two queries, so that nothing can be told apart.
        """
        n_queries = sum(bool(example.positives) for example in examples)
        if n_queries < 2:
            raise InvalidData(
                f"train has {n_queries} quer{'y' if n_queries == 1 else 'ies'} with a text that fits: give two or more."
            )
        return cls(tokenizer, **settings)

    @staticmethod
    def names(labels: Sequence[str]) -> list[str]:
        """List nothing: vectors have no names."""
        return []

    @property
    def settings(self) -> dict[str, Any]:
        """What makes the task again, beside the tokenizer."""
        return {
            "width": self._width, "pooling": self._pooling, "dimensions": self.dimensions,
            "is_normalised": self._is_normalised, "max_tokens": self.max_tokens, "overlap": self._overlap,
            "example": self.example,
        }  # fmt: skip

    def with_tokenizer(self, tokenizer: Tokenizer) -> "EmbeddingTask":
        """Give the same task with another tokenizer."""
        return EmbeddingTask(tokenizer, **self.settings)

    def notes(self, examples: Sequence[MatchExample]) -> tuple[str, ...]:
        """Say nothing: every text has a vector."""
        return ()

    def encode(self, text: str, *, example: MatchExample | None = None) -> tuple[Window, ...]:
        """Cut a text into windows, at least one; with an example into the first alone, which is what training reads."""
        targets = None if example is None else np.array([_COUNTS], np.int64)
        windows = cut_whole(
            text, tokenizer=self._tokenizer, room=self._room, overlap=self._overlap, targets=targets
        )
        return windows if example is None else windows[:1]

    def decode(
        self, text: str, windows: Sequence[Window], logits: Sequence[NDArray[np.float32]],
        options: Mapping[str, Any] = NO_OPTIONS,
    ) -> dict[str, Any]:  # fmt: skip
        """Read the vector from hidden states (1, D), one array per window.

        Args:
            options: dimensions, the size that the vector is cut to.
        Returns:
            {"embedding": [...], "tokens"}: floats of seven digits, and how many tokens were read.
        Raises:
            InvalidValue: a size that the model is not made for.
        """
        size = options.get("dimensions") or self._width
        if size not in self.dimensions:
            raise InvalidValue(
                f"dimensions cannot be {size} with this model: choose one of {', '.join(map(str, self.dimensions))}."
            )
        weights = np.array([max(window.places, 1) for window in windows], np.float64)
        vector = np.average(np.concatenate(logits).astype(np.float64), axis=0, weights=weights)[:size]
        if self._is_normalised:
            vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        embedding: list[float] = np.round(vector, _DIGITS).tolist()
        return {"embedding": embedding, "tokens": sum(len(window.ids) for window in windows)}

    def score(self, examples: Sequence[MatchExample], answers: Sequence[dict[str, Any]]) -> Score:
        """Let each query search all passages by cosine: mean reciprocal rank, and how many are found, at each size."""
        return score_finding(examples, [answer["embedding"] for answer in answers], sizes=self.dimensions)

    def calibrate(self, examples: Sequence[MatchExample], outputs: Sequence[Any]) -> Calibration | None:
        """Fit nothing: a cosine is no probability."""
        return None
