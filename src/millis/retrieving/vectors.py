"""The passages whose vectors are nearest to a query's. The one file that imports numkong.

A few thousand vectors are compared one by one. Of more, each is compared in its few directions of greatest spread,
in int8, and those that come out best are compared whole: every passage is looked at, and there is nothing to build.
Border: arrays; knows passages by number only.
Source: principal directions in place of whole vectors, Jégou & Chum 2012, doi:10.1007/978-3-642-33709-3_55; how many
are compared again is ours, measured in docs/decisions/0019.
Limits: a search takes time in proportion to the passages.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from millis.errors import MissingExtra
from millis.retrieving.ranking import Heights, Places, Ranking, rank

try:
    import numkong
except ModuleNotFoundError as error:
    raise MissingExtra("search needs numkong, which is not installed: pip install 'millis[search]'.") from error

MOST_EXACT = 4_096
_WIDTH, _MORE = 64, 128
_CARE, _LEAST_CARE = 120, 4
"""How many times as many as are wanted are taken from the first directions: the one times the square of the share of
spread that they leave out, the other at least and in the end. Measured on three collections, docs/decisions/0019."""

_SAMPLE = 20_000
_AT_ONCE = 4_096
_TINY = float(np.finfo(np.float32).tiny)

Halves = NDArray[np.float16]
Floats = NDArray[np.float32]


class VectorSearch:
    """The vectors of one segment.

    Args:
        vectors: float16 (N, D), of any length but 0.
    """

    def __init__(self, vectors: Halves) -> None:
        self._vectors = np.asarray(vectors)
        self._lengths = _lengths(self._vectors)
        self._sketch = _Sketch(self._vectors) if len(vectors) > MOST_EXACT else None

    def search(self, query: Floats, k: int, *, allowed: Places | None) -> Ranking:
        """Find the nearest.

        Args:
            query: float32 (D,).
            allowed: places that may be found, ascending; None for all.
        Returns:
            places and cosines of up to k vectors.
        """
        n_allowed = len(self._vectors) if allowed is None else len(allowed)
        if self._sketch is not None and n_allowed > MOST_EXACT:
            places = self._sketch.nearest(query, k, allowed=allowed)
            rows = self._vectors[places]
        elif allowed is None:
            places, rows = np.arange(n_allowed), self._vectors
        else:
            places, rows = allowed, self._vectors[allowed]
        if not len(places):
            return Ranking(places, np.zeros(0, np.float32))
        dots = np.asarray(numkong.cdist(query.astype(np.float16)[None], rows, "dot"))[0]
        cosines = dots / (self._lengths[places] * max(float(np.linalg.norm(query)), _TINY))
        return rank(places, cosines.astype(np.float32), k)


class _Sketch:
    """Vectors in their directions of greatest spread, int8: the first for all, some more where those leave much out.

    Args:
        vectors: float16 (N, D).
    Cost: some 0.5 s for 100,000 vectors of 384; 64 to 192 bytes each.
    """

    def __init__(self, vectors: Halves) -> None:
        sample = _of_length_1(vectors[:: -(-len(vectors) // _SAMPLE)])
        mean = sample.mean(axis=0)
        centred = sample - mean
        spread, directions = np.linalg.eigh(centred.T @ centred)  # the least spread first
        left_out = float(spread[:-_WIDTH].sum() / max(spread.sum(), _TINY))
        self._care = max(_CARE * left_out**2, _LEAST_CARE)
        width = _WIDTH + _MORE if self._care > _LEAST_CARE else _WIDTH
        self._directions = np.ascontiguousarray(directions[:, ::-1][:, :width], np.float32)
        most = float(np.abs(centred @ self._directions).max())
        codes = np.empty((len(vectors), self._directions.shape[1]), np.int8)
        for start in range(0, len(vectors), _AT_ONCE):
            rows = _of_length_1(vectors[start : start + _AT_ONCE]) - mean
            codes[start : start + _AT_ONCE] = _round(rows @ self._directions, most=most)
        self._first: Any = numkong.dots_pack(np.ascontiguousarray(codes[:, :_WIDTH]), dtype="int8")
        self._more = np.ascontiguousarray(codes[:, _WIDTH:])

    def nearest(self, query: Floats, k: int, *, allowed: Places | None) -> Places:
        """Give the places that may be among the k nearest."""
        along = query @ self._directions
        code = _round(along, most=float(np.abs(along).max()))[None]
        scores = np.asarray(numkong.dots_packed(np.ascontiguousarray(code[:, :_WIDTH]), self._first))[0]
        scores = scores if allowed is None else scores[allowed]
        found = Heights(scores).best(round(self._care * k))
        places = found if allowed is None else allowed[found]
        if self._care > _LEAST_CARE:
            more = numkong.cdist(np.ascontiguousarray(code[:, _WIDTH:]), self._more[places], "dot")
            places = places[Heights(scores[found] + np.asarray(more)[0]).best(_LEAST_CARE * k)]
        return places


def _lengths(vectors: Halves) -> Floats:
    """Give the length of each vector, float32 (N,)."""
    parts = [vectors[start : start + _AT_ONCE].astype(np.float32) for start in range(0, len(vectors), _AT_ONCE)]
    lengths: Floats = np.maximum(np.concatenate([np.linalg.norm(part, axis=1) for part in parts]), _TINY)
    return lengths


def _of_length_1(vectors: Halves) -> Floats:
    return vectors.astype(np.float32) / _lengths(vectors)[:, None]


def _round(values: Floats, *, most: float) -> NDArray[np.int8]:
    codes: NDArray[np.int8] = np.clip(np.rint(values * (127 / max(most, _TINY))), -127, 127).astype(np.int8)
    return codes
