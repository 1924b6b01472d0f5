"""Embedding: a text in, a vector out whose cosine with another says how alike two texts are.

The network's answer is its own hidden state, pooled over the tokens; no head stands behind it. Vectors are cut to the
size that a request asks for, one of those the model is made for, and brought to length 1. A text longer than a window
is read in several, whose vectors are averaged by length. Where a base was trained so, a prefix stands before each text
and says what it serves as: what is searched with, or what is found.

How good vectors are is judged by what they find: each query of the examples searches all their passages.
Border: knows tokens and vectors, no model library and no HTTP.
Source: mean pooling as in Reimers & Gurevych 2019, arXiv:1908.10084; sizes as in Kusupati et al. 2022,
arXiv:2205.13147; prefixes as in Wang et al. 2022, arXiv:2212.03533 (E5).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from millis.data.examples import MatchExample, options_of
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
        query_prefix, passage_prefix: text before each query, and before each passage; a text that is both is a query.
    Raises:
        InvalidValue: a pooling, a size or a prefix that cannot be.
    """

    data: ClassVar[str] = "matches"
    asks: ClassVar[type] = str
    shown: ClassVar[tuple[str, str]] = (
        "Where is my order? It should have come on Monday.",
        "我的订单到哪里了？本来星期一就该送到的。",
    )
    asked: ClassVar[frozenset[str]] = frozenset({"dimensions", "passage_prefix", "pooling", "query_prefix", "width"})
    may_stop_early: ClassVar[bool] = False
    options: ClassVar[dict[str, tuple[Any, Any]]] = {
        "dimensions": (
            Annotated[int, Meta(ge=1, le=100_000, description="size to cut vectors to; the model's own when missing")]
            | None,
            None,
        ),
        "input_type": (Literal["query", "passage"], "query"),
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
        query_prefix: str = "",
        passage_prefix: str = "",
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
        self._prefixes = {"query": query_prefix, "passage": passage_prefix}
        for name, prefix in self._prefixes.items():
            n_pieces = len(tokenizer.encode(prefix).ids)
            if n_pieces >= self._room - overlap:
                raise InvalidValue(
                    f"{name}_prefix has {n_pieces} pieces, and windows of {max_tokens} tokens that share {overlap} have"
                    f" room for {self._room - overlap - 1} beside text: give a shorter one."
                )

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
            "example": self.example, **{f"{name}_prefix": prefix for name, prefix in self._prefixes.items()},
        }  # fmt: skip

    def with_tokenizer(self, tokenizer: Tokenizer) -> "EmbeddingTask":
        """Give the same task with another tokenizer."""
        return EmbeddingTask(tokenizer, **self.settings)

    def notes(self, examples: Sequence[MatchExample]) -> tuple[str, ...]:
        """Count the texts that are a query and a passage, where these have different prefixes."""
        n = sum(bool(example.positives) and example.is_passage for example in examples)
        if not n or self._prefixes["query"] == self._prefixes["passage"]:
            return ()
        return (
            f"{n} texts of test are query and passage both, and are read as queries: where that is meant, give both the"
            " same prefix",
        )

    def encode(
        self, text: str, *, example: MatchExample | None = None, options: Mapping[str, Any] = NO_OPTIONS
    ) -> tuple[Window, ...]:
        """Cut a text into windows, at least one; with an example into the first alone, which is what training reads.

        Args:
            options: input_type, "query" or "passage": what the text serves as; an example says it itself.
        """
        targets = None if example is None else np.array([_COUNTS], np.int64)
        input_type = (options if example is None else options_of(example)).get("input_type", "query")
        windows = cut_whole(
            text, tokenizer=self._tokenizer, room=self._room, overlap=self._overlap, targets=targets,
            prefix=self._prefixes[input_type],
        )  # fmt: skip
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

    def calibrate(self, examples: Sequence[MatchExample], outputs: object) -> Calibration | None:
        """Fit nothing: a cosine is no probability."""
        return None
