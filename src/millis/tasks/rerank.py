"""Reranking: a query and documents in, the documents by how well they fit it out.

A window is the query and one document, so the network reads both together. It answers as a classifier of two, no and
yes; the score of a document is how probable yes is.

Border: knows tokens and probabilities, no model library and no HTTP.
Limits: a document is read up to a window's length, a query up to half of it; what stands behind is not read.
Source: Nogueira & Cho 2019, arXiv:1901.04085.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from millis.data.examples import RankExample, Ranking
from millis.errors import InvalidData
from millis.tasks.scoring import score_rankings
from millis.tasks.task import NO_OPTIONS, Head, Score, Window, lay_windows
from millis.tasks.tokenization import Tokenizer

LABELS = ("no", "yes")


class RerankTask:
    """Rank documents by how well they fit a query.

    Args:
        tokenizer: pieces of the texts.
        labels: the two outputs, `LABELS`.
        max_tokens: longest window, special tokens included.
        overlap: unused between windows, since a document has one; the least room that a document is left.
        example: to warm up on; a Ranking, or its two fields.
    """

    data: ClassVar[str] = "rankings"
    asks: ClassVar[type] = Ranking
    shown: ClassVar[tuple[Any, Any]] = (
        Ranking("When does the desk open?", ("It opens at nine.", "The desk is made of oak.")),
        Ranking("服务台几点开门？", ("上午九点开门。", "服务台是木头做的。")),
    )
    asked: ClassVar[frozenset[str]] = frozenset()
    options: ClassVar[dict[str, tuple[Any, Any]]] = {
        "top_n": (Annotated[int, Meta(ge=1, le=10_000, description="how many documents to list")] | None, None),
        "return_documents": (bool, False),
    }
    may_stop_early: ClassVar[bool] = True

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        labels: Sequence[str] = LABELS,
        max_tokens: int = 256,
        overlap: int = 32,
        example: Ranking | dict[str, Any] = shown[0],
    ) -> None:
        self.labels = tuple(labels)
        self.head = Head(self.labels, rows=1, separator=tokenizer.separator)
        self.example = example if isinstance(example, Ranking) else msgspec.convert(example, type=Ranking)
        self.max_tokens = max_tokens
        self.n_pieces = tokenizer.n_vocabulary
        self._tokenizer = tokenizer
        self._overlap = overlap
        self._room = lay_windows(max_tokens, overlap=overlap, tokenizer=tokenizer) - len(tokenizer.between)

    @classmethod
    def learn(cls, tokenizer: Tokenizer, examples: Sequence[RankExample], **settings: Any) -> "RerankTask":
        """Make the task; settings are max_tokens, overlap, example.

        Raises:
            InvalidData: all documents of train fit, or none does.
        """
        fits = {one for example in examples for one in example.is_relevant}
        if len(fits) < 2:
            raise InvalidData(
                f"in train {'all documents fit' if True in fits else 'no document fits'} their query: to tell them"
                " apart it needs both."
            )
        return cls(tokenizer, **settings)

    @staticmethod
    def names(labels: Sequence[str]) -> list[str]:
        """List nothing: documents have no labels."""
        return []

    @property
    def settings(self) -> dict[str, Any]:
        """What makes the task again, beside tokenizer and labels."""
        return {
            "max_tokens": self.max_tokens, "overlap": self._overlap, "example": msgspec.to_builtins(self.example)
        }  # fmt: skip

    def with_tokenizer(self, tokenizer: Tokenizer) -> "RerankTask":
        """Give the same task with another tokenizer."""
        return RerankTask(tokenizer, labels=self.labels, **self.settings)

    def notes(self, examples: Sequence[RankExample]) -> tuple[str, ...]:
        """Say nothing: every document can be ranked."""
        return ()

    def calibrate(self, examples: Sequence[RankExample], outputs: object) -> None:
        """Fit nothing: scores are compared with one another."""

    def encode(
        self, text: Ranking, *, example: RankExample | None = None, options: Mapping[str, Any] = NO_OPTIONS
    ) -> tuple[Window, ...]:
        """Make a window of the query and each document; with an example, it carries whether it fits, int64 (1,)."""
        tokenizer = self._tokenizer
        asked = tokenizer.encode(text.query).ids[: self._room // 2]
        head = [*tokenizer.prefix, *asked, *tokenizer.between]
        room = self._room - len(asked)
        fits = example.is_relevant if example is not None else (None,) * len(text.documents)
        return tuple(
            Window(
                ids=np.array([*head, *tokenizer.encode(document).ids[:room], *tokenizer.suffix], np.int64),
                targets=None if one is None else np.array([one], np.int64),
            )
            for document, one in zip(text.documents, fits, strict=True)
        )

    def decode(
        self, text: Ranking, windows: Sequence[Window], logits: Sequence[NDArray[np.float32]],
        options: Mapping[str, Any] = NO_OPTIONS,
    ) -> dict[str, Any]:  # fmt: skip
        """Read the ranking from logits (1, 2), one array per window, or of the first windows alone.

        Args:
            options: top_n, how many documents are listed (all when missing); return_documents, their texts too.
        Returns:
            {"ranking": [{"index", "relevance_score"}, ...], "scored": n}, the best first; index is the place of the
            document in the request, relevance_score from 0 to 1, n how many documents were scored.
        """
        rows = np.concatenate(logits) if len(logits) else np.zeros((0, 2), np.float32)
        scores = np.exp(-np.logaddexp(0, rows[:, 0].astype(np.float64) - rows[:, 1]))
        order = np.argsort(-scores, kind="stable")[: options.get("top_n")].tolist()
        ranking: list[dict[str, Any]] = [
            {"index": place, "relevance_score": round(float(scores[place]), 6)} for place in order
        ]
        if options.get("return_documents"):
            for one in ranking:
                one["document"] = {"text": text.documents[one["index"]]}
        return {"ranking": ranking, "scored": len(logits)}

    def score(self, examples: Sequence[RankExample], answers: Sequence[dict[str, Any]]) -> Score:
        """Judge rankings: how often the first document fits, and the mean reciprocal rank of the first that does."""
        by_place = []
        for example, answer in zip(examples, answers, strict=True):
            scores = {one["index"]: one["relevance_score"] for one in answer["ranking"]}
            by_place.append([scores.get(place, 0.0) for place in range(len(example.is_relevant))])
        return score_rankings([example.is_relevant for example in examples], by_place)
