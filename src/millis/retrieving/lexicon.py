"""Which passages have which words, and BM25 over them.

Border: arrays and words; knows no files and no passages but by number.
Source: BM25 with the weights of Lucene, as in Kamphuis et al. 2020 (doi:10.1007/978-3-030-45442-5_4); scores summed
posting by posting over whole arrays, as in BM25S (Lù 2024, arXiv:2407.03618). Ours keeps counts instead of scores, so
that parts which are added later share one set of weights (docs/decisions/0015).
Limits: passages that were deleted still count in the weights until their segment is written anew.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from millis.retrieving.words import words_of

_K1, _B = 1.2, 0.75
_COMMON = 0.05
"""Share of the passages from which on a word is common: it weighs little, and its postings are many."""

_CANDIDATES = 2_000

Ints = NDArray[np.int32]


class Lexicon:
    """Postings of one segment.

    Args:
        words: of all passages, sorted.
        starts: int64 (V + 1,), where each word's postings begin.
        places: int32, passages that have the word, ascending.
        counts: int32, how often.
        lengths: int32 (N,), words of each passage.
    """

    def __init__(
        self, words: Sequence[str], *, starts: NDArray[np.int64], places: Ints, counts: Ints, lengths: Ints
    ) -> None:
        self.words, self.starts, self.places, self.counts, self.lengths = words, starts, places, counts, lengths
        self._numbers = {word: number for number, word in enumerate(words)}

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> "Lexicon":
        """Count the words of texts."""
        postings: dict[str, list[tuple[int, int]]] = {}
        lengths = np.zeros(len(texts), np.int32)
        for place, text in enumerate(texts):
            words = words_of(text)
            lengths[place] = len(words)
            for word, count in Counter(words).items():
                postings.setdefault(word, []).append((place, count))
        words = sorted(postings)
        flat = np.array([pair for word in words for pair in postings[word]], np.int32).reshape(-1, 2)
        starts = np.zeros(len(words) + 1, np.int64)
        np.cumsum([len(postings[word]) for word in words], out=starts[1:])
        return cls(
            words, starts=starts, places=np.ascontiguousarray(flat[:, 0]), counts=np.ascontiguousarray(flat[:, 1]),
            lengths=lengths,
        )  # fmt: skip

    def find(self, word: str) -> slice | None:
        """Give where a word's postings stand, or None where no passage has it."""
        number = self._numbers.get(word)
        return None if number is None else slice(int(self.starts[number]), int(self.starts[number + 1]))


class WordSearch:
    """BM25 over the lexicons of several segments, as if they were one.

    Args:
        lexicons: one of each segment.
    """

    def __init__(self, lexicons: Sequence[Lexicon]) -> None:
        self._lexicons = tuple(lexicons)
        self._n = sum(len(one.lengths) for one in lexicons)
        mean = sum(int(one.lengths.sum()) for one in lexicons) / max(self._n, 1)
        self._shares = [_share(one, mean=max(mean, 1.0)) for one in lexicons]

    def search(
        self, text: str, k: int, *, allowed: Sequence[NDArray[np.bool_] | None]
    ) -> list[tuple[int, int, float]]:
        """Find the passages with the highest scores.

        Args:
            allowed: of each segment, which passages may be found, bool (N,); None for all.
        Returns:
            segment, place in it and score of up to k passages that have a word of the text, the best first.
        """
        weighed = self._weigh(words_of(text))
        found: list[tuple[int, int, float]] = []
        for segment, (lexicon, share) in enumerate(zip(self._lexicons, self._shares, strict=True)):
            scores = _score(lexicon, share, weighed)
            may = allowed[segment]
            if may is not None:
                scores[~may] = 0
            places = np.flatnonzero(scores > 0)
            if len(places) > k:
                places = places[np.argpartition(-scores[places], k - 1)[:k]]
            found += [(segment, place, float(scores[place])) for place in places.tolist()]
        return sorted(found, key=lambda one: (-one[2], one[0], one[1]))[:k]

    def _weigh(self, words: Sequence[str]) -> list[tuple[str, float, bool]]:
        """Give each word's weight, and whether it is common, the rarest first."""
        weighed = []
        for word, times in Counter(words).items():
            spans = [one.find(word) for one in self._lexicons]
            n = sum(span.stop - span.start for span in spans if span is not None)
            if n:
                weight = times * float(np.log(1 + (self._n - n + 0.5) / (n + 0.5)))
                weighed.append((word, weight, n > max(_COMMON * self._n, _CANDIDATES)))
        return sorted(weighed, key=lambda one: -one[1])


def _share(lexicon: Lexicon, *, mean: float) -> NDArray[np.float32]:
    """Give what each posting adds to a score, apart from its word's weight."""
    counts = lexicon.counts.astype(np.float32)
    norm = _K1 * (1 - _B + _B * lexicon.lengths.astype(np.float32) / mean)
    share: NDArray[np.float32] = (counts / (counts + norm[lexicon.places])).astype(np.float32)
    return share


def _score(
    lexicon: Lexicon, share: NDArray[np.float32], weighed: Sequence[tuple[str, float, bool]]
) -> NDArray[np.float32]:
    """Score all passages of a segment, float32 (N,); common words only where a rarer one stands, if there is one."""
    scores = np.zeros(len(lexicon.lengths), np.float32)
    candidates: NDArray[np.intp] | None = None
    for word, weight, is_common in weighed:
        span = lexicon.find(word)
        if span is None:
            continue
        places, adds = lexicon.places[span], share[span]
        if is_common and candidates is None:
            candidates = _best(scores)
        if is_common and candidates is not None and len(candidates):
            at = np.minimum(np.searchsorted(places, candidates), len(places) - 1)
            scores[candidates] += np.where(places[at] == candidates, weight * adds[at], 0)
        else:
            scores[places] += np.float32(weight) * adds
    return scores


def _best(scores: NDArray[np.float32]) -> NDArray[np.intp]:
    """Give the places of the highest scores above 0, ascending; enough of them that common words decide among them."""
    places = np.flatnonzero(scores > 0)
    if len(places) > _CANDIDATES:
        places = np.sort(places[np.argpartition(-scores[places], _CANDIDATES - 1)[:_CANDIDATES]])
    return places


def fuse(rankings: Mapping[str, Sequence[tuple[int, int]]]) -> list[tuple[tuple[int, int], float, dict[str, int]]]:
    """Put rankings together by reciprocal rank.

    Args:
        rankings: passages as (segment, place), the best first, by the name of what ranked them.
    Returns:
        passage, score, and its rank from 1 in each ranking that has it; the best first.
    Source: Cormack et al. 2009, doi:10.1145/1571941.1572114, with their constant 60.
    """
    scores: dict[tuple[int, int], float] = {}
    ranks: dict[tuple[int, int], dict[str, int]] = {}
    for name, ranking in rankings.items():
        for rank, passage in enumerate(ranking, 1):
            scores[passage] = scores.get(passage, 0.0) + 1 / (60 + rank)
            ranks.setdefault(passage, {})[name] = rank
    order = sorted(scores, key=lambda passage: (-scores[passage], passage))
    return [(passage, scores[passage], ranks[passage]) for passage in order]
