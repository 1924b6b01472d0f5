"""Numbers to places: which of many scores are the highest, and one ranking out of several.

Border: arrays only; knows no words, no vectors and no passages but by number.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_ROWS = 8
_LATE = 60

Places = NDArray[np.int64]
Floats = NDArray[np.float32]


class Ranking(NamedTuple):
    """Passages, the best first.

    Args:
        places: int64 (n,), which.
        scores: float32 (n,).
    """

    places: Places
    scores: Floats


class Fused(NamedTuple):
    """A passage of several rankings.

    Args:
        place: its number.
        ranks: from 1, in each ranking that has it.
    """

    place: int
    score: float
    ranks: dict[str, int]


def rank(places: Places, scores: Floats, k: int) -> Ranking:
    """Put the k highest scores in order; of equal ones the lower place first."""
    if len(places) > k:
        kept = np.argpartition(-scores, k - 1)
        kept = np.flatnonzero(scores >= scores[kept[k - 1]])
        places, scores = places[kept], scores[kept]
    order = np.lexsort((places, -scores))[:k]
    return Ranking(places[order], scores[order])


def bound_of(scores: NDArray[Any], n: int) -> Any:
    """Give a score that at least n places reach, or None where only looking at all would tell.

    It is the n-th of the highest in each of many small groups of places: near the n-th highest, for a
    fraction of what finding that takes.

    Args:
        scores: (N,), a step of 1 apart.
    """
    n_groups = len(scores) // _ROWS
    if n > n_groups:
        return None
    highest = scores[: n_groups * _ROWS].reshape(_ROWS, n_groups).max(axis=0)
    return np.partition(highest, n_groups - n)[n_groups - n]


def reaching(scores: NDArray[Any], bound: Any) -> Places:
    """List the places whose scores are bound or more."""
    n_groups = len(scores) // _ROWS
    grid = scores[: n_groups * _ROWS].reshape(_ROWS, n_groups)
    groups = np.flatnonzero(grid.max(axis=0) >= bound)
    rows, at = np.nonzero(grid[:, groups] >= bound)
    rest = np.flatnonzero(scores[n_groups * _ROWS :] >= bound) + n_groups * _ROWS
    return np.concatenate([rows * n_groups + groups[at], rest])


def fuse(rankings: Mapping[str, Places], k: int) -> list[Fused]:
    """Put rankings together by reciprocal rank.

    Args:
        rankings: places, the best first, by the name of what ranked them.
    Returns:
        up to k, the best first.
    Source: Cormack et al. 2009, doi:10.1145/1571941.1572114, with their constant 60.
    """
    places, which = np.unique(np.concatenate(list(rankings.values())), return_inverse=True)
    ranks = np.zeros((len(rankings), len(places)), np.int64)
    scores, start = np.zeros(len(places)), 0
    for row, ranking in zip(ranks, rankings.values(), strict=True):
        mine = which[start : start + len(ranking)]
        start += len(ranking)
        row[mine] = np.arange(1, len(ranking) + 1)
        scores[mine] += 1 / (_LATE + row[mine])
    best = np.lexsort((places, -scores))[:k]
    return [
        Fused(
            int(places[one]), float(scores[one]),
            {name: int(row[one]) for name, row in zip(rankings, ranks, strict=True) if row[one]},
        )
        for one in best
    ]  # fmt: skip
