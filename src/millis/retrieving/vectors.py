"""The passages whose vectors are nearest to a query's. The one file that imports usearch.

A few thousand vectors are compared one by one, which is exact; more have a graph beside them (HNSW).
Border: arrays in half precision and graph files; knows passages by number only.
Source: HNSW, Malkov & Yashunin 2018, arXiv:1603.09320.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millis.errors import InvalidBundle, MissingExtra

try:
    from usearch.index import Index as _Graph
    from usearch.index import MetricKind
    from usearch.index import search as _compare_all
except ModuleNotFoundError as error:
    raise MissingExtra("search needs usearch, which is not installed: pip install 'millis[search]'.") from error

MOST_EXACT = 4_096
_CONNECTIVITY, _EXPANSION_ADD, _EXPANSION_SEARCH = 16, 128, 96
_MOST_FETCHED = 2_000

Halves = NDArray[np.float16]


def write_graph(file: Path, vectors: Halves) -> None:
    """Write the graph of vectors, float16 (N, D)."""
    graph = _Graph(
        ndim=vectors.shape[1], metric=MetricKind.Cos, dtype="f16", connectivity=_CONNECTIVITY,
        expansion_add=_EXPANSION_ADD, expansion_search=_EXPANSION_SEARCH,
    )  # fmt: skip
    graph.add(np.arange(len(vectors)), vectors)
    graph.save(str(file))


class VectorSearch:
    """The vectors of one segment.

    Args:
        vectors: float16 (N, D), of any length but 0.
        graph: its graph, where it has one.
    Raises:
        InvalidBundle: the graph is not of these vectors.
    """

    def __init__(self, vectors: Halves, *, graph: Path | None) -> None:
        self._vectors = vectors
        self._graph: Any = None
        if graph is not None:
            try:
                self._graph = _Graph.restore(str(graph), view=True)
            except (RuntimeError, OSError, ValueError) as error:
                raise InvalidBundle(f"{graph.name} cannot be read: build the index anew.") from error
            if self._graph is None or len(self._graph) != len(vectors) or self._graph.ndim != vectors.shape[1]:
                raise InvalidBundle(f"{graph.name} is not the graph of these vectors: build the index anew.")
            self._graph.expansion_search = _EXPANSION_SEARCH

    def search(
        self, query: NDArray[np.float32], k: int, *, allowed: NDArray[np.bool_] | None
    ) -> list[tuple[int, float]]:
        """Find the nearest.

        Args:
            query: float32 (D,).
            allowed: which may be found, bool (N,); None for all.
        Returns:
            place and cosine of up to k vectors, the nearest first.
        """
        n_allowed = len(self._vectors) if allowed is None else int(allowed.sum())
        if not n_allowed:
            return []
        if self._graph is not None and n_allowed > MOST_EXACT:
            n = len(self._vectors)
            n_fetched = k if allowed is None else min(2 * k * n // n_allowed + k, n)
            if n_fetched <= _MOST_FETCHED:
                found = _read(self._graph.search(query.astype(np.float16), n_fetched, threads=1))
                if allowed is not None:
                    found = [one for one in found if allowed[one[0]]]
                if len(found) >= min(k, n_allowed):
                    return found[:k]
        places = None if allowed is None else np.flatnonzero(allowed)
        rows = np.ascontiguousarray(self._vectors if places is None else self._vectors[places])
        matches = _compare_all(
            rows, query.astype(np.float16), min(k, n_allowed), MetricKind.Cos, exact=True, threads=1
        )
        return [(row if places is None else int(places[row]), cosine) for row, cosine in _read(matches)]


def _read(matches: Any) -> list[tuple[int, float]]:
    return [(int(key), 1.0 - float(distance)) for key, distance in zip(matches.keys, matches.distances, strict=True)]
