"""Numbers to places: which of many scores are the highest, and one ranking out of several.

Border: arrays only; knows no words, no vectors and no passages but by number.
"""

from collections.abc import Mapping, Sequence
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


def merge(rankings: Sequence[Ranking], k: int, *, starts: Sequence[int]) -> Ranking:
    """Make one ranking of those of several segments.

    Args:
        starts: of each segment, the number of its first place among all.
    """
    if len(rankings) == 1 and not starts[0]:
        return rankings[0]
    places = [np.zeros(0, np.int64), *(one.places + start for one, start in zip(rankings, starts, strict=True))]
    scores = [np.zeros(0, np.float32), *(one.scores for one in rankings)]
    return rank(np.concatenate(places), np.concatenate(scores), k)


class Heights:
    """Scores, and the highest of each small group of them: enough to find the best without looking at all again.

    Args:
        scores: (N,), not changed meanwhile.
    """

    def __init__(self, scores: NDArray[Any]) -> None:
        self._scores, self._n_groups = scores, len(scores) // _ROWS
        self._grid = scores[: self._n_groups * _ROWS].reshape(_ROWS, self._n_groups)
        self._highest = self._grid.max(axis=0)

    def bound(self, n: int) -> Any:
        """Give a score that at least n places reach, near the n-th highest; None where there are not n."""
        among = self._highest if 2 * n <= self._n_groups else self._scores
        return np.partition(among, len(among) - n)[len(among) - n] if n <= len(among) else None

    def best(self, n: int) -> Places:
        """List places, the n highest among them."""
        bound = self.bound(n)
        return np.arange(len(self._scores)) if bound is None else self.reaching(bound)

    def reaching(self, bound: Any) -> Places:
        """List the places whose scores are bound or more."""
        groups = np.flatnonzero(self._highest >= bound)
        rows, at = np.divmod(np.flatnonzero(self._grid[:, groups] >= bound), max(len(groups), 1))
        begun = self._n_groups * _ROWS
        rest = np.flatnonzero(self._scores[begun:] >= bound) + begun
        return np.concatenate([rows * self._n_groups + groups[at], rest])


def fuse(rankings: Mapping[str, Places], k: int) -> list[Fused]:
    """Put rankings together by reciprocal rank.

    Args:
        rankings: places, the best first, by the name of what ranked them.
    Returns:
        up to k, the best first; of equal ones that which stands first in the rankings.
    Source: Cormack et al. 2009, doi:10.1145/1571941.1572114, with their constant 60.
    """
    ordered = {name: places.tolist() for name, places in rankings.items()}
    scores: dict[int, float] = {}
    for places in ordered.values():
        for nth, place in enumerate(places, 1):
            scores[place] = scores.get(place, 0.0) + 1 / (_LATE + nth)
    best = sorted(scores, key=scores.__getitem__, reverse=True)[:k]
    return [
        Fused(place, scores[place], {name: one.index(place) + 1 for name, one in ordered.items() if place in one})
        for place in best
    ]
