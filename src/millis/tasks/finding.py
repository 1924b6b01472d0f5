"""Score vectors by what is found with them: where the first passage stands that fits a query.

Border: examples and vectors in, Score out.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from millis.data.examples import MatchExample
from millis.errors import InvalidData
from millis.tasks.task import Score

_DEPTH = 10
_WHOLE = 2_520
"""A reciprocal rank of 1 in whole numbers: all ranks down to 10 divide it, so that counts compare exactly."""

_QUERIES_AT_ONCE = 256


def score_finding(
    examples: Sequence[MatchExample], vectors: Sequence[Sequence[float]], *, sizes: Sequence[int] = ()
) -> Score:
    """Compute the mean reciprocal rank at 10, and the recall at 1 and 10, of queries over all passages.

    Args:
        vectors: of each example, (D,).
        sizes: to which vectors are cut for further rows of the report; the score is that of whole vectors.
    Returns:
        a score whose value is MRR@10. Recall at k is the share of queries with a passage that fits among the first k.
        A query is not among the passages that it searches itself.
    Raises:
        InvalidData: no query has a passage that fits among these examples.
    """
    matrix = np.asarray(vectors, np.float32)
    ranks = rank_first(examples, matrix)
    by_label = {"queries": _row(ranks)}
    rows = [_say(matrix.shape[1], ranks)]
    for size in sizes:
        if size < matrix.shape[1]:
            cut = rank_first(examples, matrix[:, :size])
            by_label[f"queries, {size} dimensions"] = _row(cut)
            rows.append(_say(size, cut))
    n_passages = sum(example.is_passage for example in examples)
    report = f"{len(ranks):,} queries over {n_passages:,} passages\n" + "".join(f"{row}\n" for row in rows)
    counts = tuple((_WHOLE // rank if rank <= _DEPTH else 0, _WHOLE, _WHOLE) for rank in ranks.tolist())
    return Score(
        value=_reciprocal(ranks), name=f"MRR@{_DEPTH}", by_label=by_label, per_example=counts, report=report
    )


def rank_first(examples: Sequence[MatchExample], matrix: NDArray[np.float32]) -> NDArray[np.int64]:
    """Give the rank, from 1, of the first passage that fits, for each query that has one among the examples.

    Args:
        matrix: vectors of the examples, float32 (N, D).
    """
    places = {example.text: place for place, example in enumerate(examples)}
    passages = np.array([place for place, example in enumerate(examples) if example.is_passage], np.int64)
    column = {place: i for i, place in enumerate(passages.tolist())}
    queries = [
        (place, [column[places[text]] for text in example.positives if text in places])
        for place, example in enumerate(examples)
    ]
    queries = [(place, fits) for place, fits in queries if fits]
    if not queries:
        raise InvalidData("no query has a text that fits it among these examples: give both, on the same side.")
    unit = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    ranks = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        some = queries[start : start + _QUERIES_AT_ONCE]
        cosines = unit[[place for place, _ in some]] @ unit[passages].T
        for row, (place, fits) in zip(cosines, some, strict=True):
            best = row[fits].max()
            if place in column:
                row[column[place]] = -np.inf
            ranks.append(1 + int((row > best).sum()))
    return np.array(ranks, np.int64)


def recall(ranks: NDArray[np.int64], k: int) -> float:
    """Give the share of queries, in points, whose first fitting passage is among the first k."""
    return 100 * float((ranks <= k).mean())


def _reciprocal(ranks: NDArray[np.int64]) -> float:
    return 100 * float(np.where(ranks <= _DEPTH, 1 / ranks, 0.0).mean())


def _row(ranks: NDArray[np.int64]) -> dict[str, float]:
    return {
        "f1": _reciprocal(ranks), "recall": recall(ranks, 1), "recall@10": recall(ranks, _DEPTH), "support": len(ranks)
    }  # fmt: skip


def _say(size: int, ranks: NDArray[np.int64]) -> str:
    return (
        f"{size:5d} dimensions  MRR@{_DEPTH} {_reciprocal(ranks):6.2f}  recall@1 {recall(ranks, 1):6.2f}"
        f"  recall@{_DEPTH} {recall(ranks, _DEPTH):6.2f}"
    )
