"""How long texts are, and which static lengths to compile for.

Border: counts of anything (characters, tokens); knows no tokenizer.
"""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from millis.errors import InvalidValue


@dataclass(frozen=True, slots=True)
class LengthHistogram:
    """How often each length occurs.

    Usage:
        lengths = LengthHistogram.from_lengths(len(text) for text in texts)
        lengths.percentile(99), lengths.mean, lengths.rows(count=10)

    Args:
        counts: (length, how often), ascending by length, each once.
    """

    counts: tuple[tuple[int, int], ...] = ()

    @classmethod
    def from_lengths(cls, lengths: Iterable[int]) -> "LengthHistogram":
        """Count lengths.

        Raises:
            InvalidValue: a negative length.
        """
        counts = tuple(sorted(Counter(lengths).items()))
        if counts and counts[0][0] < 0:
            raise InvalidValue(f"a length cannot be {counts[0][0]}: give counts, 0 or more.")
        return cls(counts)

    @property
    def n(self) -> int:
        """How many lengths were counted."""
        return sum(count for _, count in self.counts)

    @property
    def longest(self) -> int:
        """The greatest length; 0 when there is none."""
        return self.counts[-1][0] if self.counts else 0

    @property
    def mean(self) -> float:
        """The mean length; 0 when there is none."""
        return sum(length * count for length, count in self.counts) / self.n if self.counts else 0.0

    def percentile(self, percent: float) -> int:
        """Give the smallest length that percent of all do not exceed (nearest rank); 0 for no lengths.

        Raises:
            InvalidValue: percent outside 0..100.
        """
        if not 0 <= percent <= 100:
            raise InvalidValue(f"percent cannot be {percent}: give a number from 0 to 100.")
        if not self.counts:
            return 0
        ranks = list(accumulate(count for _, count in self.counts))
        rank = max(1, math.ceil(percent * ranks[-1] / 100))
        return self.counts[bisect_left(ranks, rank)][0]

    def rows(self, *, count: int = 10) -> tuple[tuple[int, int, int], ...]:
        """Give bins of equal width to plot.

        Args:
            count: how many at most.
        Returns:
            (lowest, highest, how often) of each bin, both bounds inclusive, from the shortest to the longest.
        Raises:
            InvalidValue: count under 1.
        """
        if count < 1:
            raise InvalidValue(f"count cannot be {count}: give 1 or more bins.")
        if not self.counts:
            return ()
        lowest = self.counts[0][0]
        width = (self.longest - lowest) // count + 1
        bins = Counter[int]()
        for length, n in self.counts:
            bins[(length - lowest) // width] += n
        starts = [lowest + place * width for place in range(max(bins) + 1)]
        return tuple((start, start + width - 1, bins[place]) for place, start in enumerate(starts))


def choose_buckets(
    lengths: LengthHistogram | Iterable[int],
    *,
    count: int = 8,
    maximum: int,
    step: int = 8,
    surprise: float = 0.0,
) -> tuple[int, ...]:
    """Choose the static lengths that cost least when each length runs in the smallest one that holds it.

    Args:
        lengths: tokens of each window; one beyond maximum counts as maximum, since a longer text is cut.
        count: how many buckets at most; of equally good choices the one with fewest is taken.
        maximum: the longest window, always the last bucket.
        step: the other buckets are multiples of it.
        surprise: for each of lengths so many more, spread evenly up to maximum: what is to come may be longer.
    Returns:
        buckets, ascending.
    Raises:
        InvalidValue: count, maximum or step under 1, or surprise below 0.
    Cost: (maximum / step)^2 * count steps; exact, by dynamic programming.
    """
    if min(count, maximum, step) < 1:
        raise InvalidValue(f"count {count}, maximum {maximum} and step {step} must each be 1 or more.")
    if not surprise >= 0:
        raise InvalidValue(f"surprise cannot be {surprise}: give a share, 0 or more.")
    histogram = lengths if isinstance(lengths, LengthHistogram) else LengthHistogram.from_lengths(lengths)
    candidates = [*range(step, maximum, step), maximum]
    known = [length for length, _ in histogram.counts]
    totals = [0, *accumulate(n for _, n in histogram.counts)]
    # held[i]: how many lengths fit in candidate i - 1; none fit before the first.
    held: list[float] = [0, *(totals[bisect_right(known, candidate)] for candidate in candidates[:-1]), totals[-1]]
    spread = surprise * totals[-1] / maximum
    held = [n + spread * end for n, end in zip(held, (0, *candidates), strict=True)]
    # best[i]: the cheapest way to run all that fit in candidate i - 1, with it as the last bucket.
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ()), *[(math.inf, ())] * len(candidates)]
    answer: tuple[float, tuple[int, ...]] = (math.inf, (maximum,))
    for _ in range(min(count, len(candidates))):
        longer: list[tuple[float, tuple[int, ...]]] = [(math.inf, ())]
        for last, length in enumerate(candidates, start=1):
            before = min(range(last), key=lambda i: best[i][0] + length * (held[last] - held[i]))
            total = best[before][0] + length * (held[last] - held[before])
            longer.append((total, (*best[before][1], length)))
        best = longer
        if best[-1][0] < answer[0]:
            answer = best[-1]
    return answer[1]
