"""Which passages have which words, and BM25 over them.

Border: arrays and words; knows no files and no passages but by number.
Source: BM25 with the weights of Lucene, as in Kamphuis et al. 2020 (doi:10.1007/978-3-030-45442-5_4); scores summed
posting by posting over whole arrays, as in BM25S (Lù 2024, arXiv:2407.03618). Ours keeps counts instead of scores, so
that parts which are added later share one set of weights (docs/decisions/0015).
Limits: passages that were deleted still count in the weights until their segment is written anew.
"""

import math
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from millis.retrieving.ranking import Heights, Places, Ranking, merge, rank
from millis.retrieving.words import words_of

_K1, _B = 1.2, 0.75
_COMMON = 1 / 3
"""Share of the passages from which on a word is common: it weighs so little that few passages are asked for it."""

_FEW = 8
"""So many times as many passages as are wanted are few: to score them is faster than to choose among them."""

_SLACK = 1 + 1e-5
"""What a sum in float32 may be off."""

_TINY = np.finfo(np.float32).tiny

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


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
        n = [len(one.lengths) for one in lexicons]
        self._n, self._starts = sum(n), [sum(n[:i]) for i in range(len(n))]
        self._lexicons = tuple(lexicons)
        mean = sum(int(one.lengths.sum()) for one in lexicons) / max(self._n, 1)
        common = self._find_common()
        self._shares = [_Shares(one, mean=max(mean, 1.0), common=common) for one in lexicons]

    def search(self, text: str, k: int, *, allowed: Sequence[Places | None]) -> Ranking:
        """Find the passages with the highest scores; none better is missed.

        Args:
            allowed: of each segment, places that may be found, ascending; None for all.
        Returns:
            up to k passages that have a word of the text, numbered through all segments.
        """
        weighed = self._weigh(words_of(text))
        found = [
            shares.search([(word, weight, spans[i]) for word, weight, spans in weighed], k, allowed=allowed[i])
            for i, shares in enumerate(self._shares)
        ]
        return merge(found, k, starts=self._starts)

    def _find_common(self) -> frozenset[str]:
        """Name the words that are common; such a word is so in one segment at least."""
        maybe = {
            one.words[number]
            for one in self._lexicons
            for number in np.flatnonzero(np.diff(one.starts) > _COMMON * len(one.lengths)).tolist()
        }
        return frozenset(word for word in maybe if _count(self._find(word)) > _COMMON * self._n)

    def _find(self, word: str) -> list[slice | None]:
        return [one.find(word) for one in self._lexicons]

    def _weigh(self, words: Sequence[str]) -> list[tuple[str, float, list[slice | None]]]:
        """Give each word's weight, and where each segment has its postings; the heaviest first."""
        weighed = []
        for word, times in Counter(words).items():
            spans = self._find(word)
            n = _count(spans)
            if n:
                weighed.append((word, times * math.log(1 + (self._n - n + 0.5) / (n + 0.5)), spans))
        return sorted(weighed, key=lambda one: -one[1])


def _count(spans: Sequence[slice | None]) -> int:
    return sum(span.stop - span.start for span in spans if span is not None)


class _Shares:
    """What each word adds to the score of each passage of a segment, apart from the word's weight.

    Most words have theirs beside their postings; the common ones have a column, which a few places are quickly
    looked up in.

    Args:
        mean: words of a passage, over all segments.
        common: the common words, over all segments.
    """

    def __init__(self, lexicon: Lexicon, *, mean: float, common: Collection[str]) -> None:
        counts = lexicon.counts.astype(np.float32)
        norm = _K1 * (1 - _B + _B * lexicon.lengths.astype(np.float32) / mean)
        self._lexicon = lexicon
        self._of_postings: Floats = (counts / (counts + norm[lexicon.places])).astype(np.float32)
        self._columns: dict[str, Floats] = {}
        self._most: dict[str, float] = {}
        for word in common:
            span = lexicon.find(word)
            if span is not None:
                column = np.zeros(len(lexicon.lengths), np.float32)
                column[lexicon.places[span]] = self._of_postings[span]
                self._columns[word], self._most[word] = column, float(column.max())

    def search(
        self, weighed: Sequence[tuple[str, float, slice | None]], k: int, *, allowed: Places | None
    ) -> Ranking:
        """Find the passages of this segment with the highest scores.

        Args:
            weighed: words, their weights, and where their postings stand here.
        Source: Turtle & Flood 1995, doi:10.1016/0306-4573(95)00020-H: what the words that are left can add at most
            tells which passages need no look. Ours sums whole words, the common ones last.
        """
        scores = np.zeros(len(self._lexicon.lengths), np.float32)
        left: list[tuple[str, np.float32]] = []
        for word, weight, span in weighed:
            if word in self._columns:
                left.append((word, np.float32(weight)))
            elif span is not None:
                np.add.at(scores, self._lexicon.places[span], np.float32(weight) * self._of_postings[span])
        places, best = allowed, scores if allowed is None else scores[allowed]
        while left:
            if len(best) > _FEW * k:
                most = _SLACK * sum(float(by) * self._most[word] for word, by in left)
                heights = Heights(best)
                bound = heights.bound(k)
                if bound > most:  # so none without a word so far can come among the best
                    kept = heights.reaching(bound - most)
                    places, best = kept if places is None else places[kept], best[kept]
            common, by = left.pop(0)
            column = self._columns[common]
            best += by * (column if places is None else column[places])
        heights = Heights(best)
        bound = heights.bound(k)
        kept = heights.reaching(_TINY if bound is None else max(bound, _TINY))
        return rank(kept if places is None else places[kept], best[kept], k)
