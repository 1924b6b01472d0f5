"""An index, opened: a query's text and vector in, passages out, the milliseconds of each stage beside them.

Border: reads what writing.py writes, and changes nothing. What it holds is one state of the index; `refresh` gives the
next, the segments that stayed shared.
Limits: an Index may be searched from one thread at a time.
"""

import mmap
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from millis.errors import InvalidBundle
from millis.retrieving.lexicon import Lexicon, WordSearch
from millis.retrieving.passages import Columns, Passage, check_filter
from millis.retrieving.ranking import Places, fuse, merge
from millis.retrieving.storing import IndexManifest, Segment, check_files, read_manifest
from millis.retrieving.vectors import VectorSearch

PASSAGES, STARTS, VECTORS, WORDS = "passages.jsonl", "starts.npy", "vectors.npy", "words.npz"
_DEPTH = 100
"""How far down each of the two rankings is read before they are put together."""

_TRIES = 3
_decoder = msgspec.json.Decoder(Passage)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, and how long each stage took, in integer nanoseconds.

    Args:
        results: {"id", "text", "fields", "score", "cosine", "ranks"}, the best first.
    """

    results: list[dict[str, Any]]
    times_ns: dict[str, int]


class Index:
    """One state of an index.

    Usage:
        index = open_index("faq.index")
        index.search("where is my money", vector, k=5).results

    Attributes:
        names: of the fields that passages have.
    """

    def __init__(self, folder: Path, manifest: IndexManifest, segments: Mapping[str, "_Loaded"]) -> None:
        self.folder, self.manifest = folder, manifest
        self._loaded = dict(segments)
        self._segments = [segments[segment.name] for segment in manifest.segments]
        self._alive = [_read_alive(folder, segment) for segment in manifest.segments]
        self._starts = [0, *accumulate(segment.n for segment in manifest.segments[:-1])][: len(manifest.segments)]
        self._words = WordSearch([one.lexicon for one in self._segments])
        self.names: frozenset[str] = frozenset().union(*(one.columns.names for one in self._segments))

    @property
    def name(self) -> str:
        """Its folder's name without .index."""
        return self.folder.name.removesuffix(".index")

    def __len__(self) -> int:
        return sum(segment.n - segment.n_deleted for segment in self.manifest.segments)

    def search(
        self, query: str, vector: NDArray[np.float32], *, k: int, where: Mapping[str, Any] | None = None
    ) -> Found:
        """Find the passages that a query means: by vectors and by words, put together by their ranks.

        Args:
            vector: the query's, float32 (D,).
            where: a filter on fields; see passages.py.
        Raises:
            InvalidRequest: a filter that cannot be.
        """
        began = perf_counter_ns()
        where = where or {}
        check_filter(where, known=self.names)
        depth = max(_DEPTH, k)
        allowed = [
            _both(one.columns.allow(where), alive) if where else alive
            for one, alive in zip(self._segments, self._alive, strict=True)
        ]
        filtered = perf_counter_ns()
        near = merge(
            [one.vectors.search(vector, depth, allowed=may) for one, may in zip(self._segments, allowed, strict=True)],
            depth, starts=self._starts,
        )  # fmt: skip
        compared = perf_counter_ns()
        worded = self._words.search(query, depth, allowed=allowed)
        read = perf_counter_ns()
        results = [
            {
                **msgspec.structs.asdict(self._passage(one.place)), "score": round(one.score, 6),
                "cosine": round(float(near.scores[one.ranks["vectors"] - 1]), 6) if "vectors" in one.ranks else None,
                "ranks": one.ranks,
            }
            for one in fuse({"vectors": near.places, "words": worded.places}, k)
        ]  # fmt: skip
        ended = perf_counter_ns()
        stages = {
            "filter": filtered - began, "vectors": compared - filtered, "words": read - compared, "fuse": ended - read,
        }  # fmt: skip
        return Found(results, stages)

    def _passage(self, number: int) -> Passage:
        segment = bisect_right(self._starts, number) - 1
        return self._segments[segment].passage(number - self._starts[segment])

    def refresh(self) -> "Index":
        """Give the state that stands on the disk now: this one, where nothing changed."""
        manifest = read_manifest(self.folder)
        return self if manifest.seal == self.manifest.seal else _open(self.folder, known=self._loaded)

    def passages(self) -> list[tuple[Segment, int, Passage]]:
        """List the passages that are there, with segment and place."""
        return [
            (segment, place, one.passage(place))
            for segment, one, alive in zip(self.manifest.segments, self._segments, self._alive, strict=True)
            for place in (range(segment.n) if alive is None else alive.tolist())
        ]

    def vectors_of(self, segment: Segment) -> NDArray[np.float16]:
        """Give a segment's vectors, float16 (N, D)."""
        return self._loaded[segment.name].halves


def open_index(path: str | Path) -> Index:
    """Open an index, every file checked first.

    Raises:
        InvalidBundle: names what is missing, cut short, altered or of another version.
    """
    return _open(Path(path).absolute(), known={})


def _open(folder: Path, *, known: Mapping[str, "_Loaded"]) -> Index:
    for is_last in (*(False,) * (_TRIES - 1), True):
        manifest = read_manifest(folder)
        try:
            segments = {
                segment.name: known.get(segment.name) or _load(folder, segment, width=manifest.width)
                for segment in manifest.segments
            }
            return Index(folder, manifest, segments)
        except (InvalidBundle, FileNotFoundError):  # a writer may have swept a segment away since
            if is_last or read_manifest(folder).seal == manifest.seal:
                raise
    raise AssertionError("unreachable")


class _Loaded:
    """A segment in memory, its passages and vectors mapped."""

    def __init__(self, place: Path, segment: Segment, *, width: int) -> None:
        self.starts: NDArray[np.int64] = np.load(place / STARTS, allow_pickle=False)
        with (place / PASSAGES).open("rb") as content:
            self._bytes = mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ)
        self.halves: NDArray[np.float16] = np.load(place / VECTORS, mmap_mode="r", allow_pickle=False)
        with np.load(place / WORDS, allow_pickle=False) as words:
            self.lexicon = Lexicon(
                msgspec.json.decode(words["words"].tobytes(), type=list[str]), starts=words["starts"],
                places=words["places"], counts=words["counts"], lengths=words["lengths"],
            )  # fmt: skip
        if not len(self.starts) - 1 == len(self.halves) == len(self.lexicon.lengths) == segment.n or (
            self.halves.shape[1:] != (width,)
        ):
            raise ValueError("parts of different sizes")
        self.vectors = VectorSearch(self.halves)
        self.columns = Columns(self.passage(i) for i in range(segment.n))

    def passage(self, place: int) -> Passage:
        """Read one passage."""
        return _decoder.decode(self._bytes[self.starts[place] : self.starts[place + 1]])


def _load(folder: Path, segment: Segment, *, width: int) -> _Loaded:
    check_files(folder, segment)
    try:
        return _Loaded(folder / "segments" / segment.name, segment, width=width)
    except (ValueError, KeyError, IndexError, msgspec.DecodeError) as error:
        raise InvalidBundle(
            f"{folder.name}: segment {segment.name} cannot be read ({type(error).__name__}): build the index anew."
        ) from error


def _read_alive(folder: Path, segment: Segment) -> Places | None:
    """List the places of a segment's passages that are not gone, ascending; None where all are there."""
    if segment.deleted is None:
        return None
    alive = np.ones(segment.n, np.bool_)
    alive[np.load(folder / segment.deleted, allow_pickle=False)] = False
    return np.flatnonzero(alive)


def _both(one: Places, other: Places | None) -> Places:
    return one if other is None else np.intersect1d(one, other, assume_unique=True)
