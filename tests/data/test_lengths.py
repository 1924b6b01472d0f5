"""Length histograms, and the buckets that cost least."""

import random
from itertools import combinations

import numpy as np
import pytest

from millis.data.lengths import LengthHistogram, choose_buckets
from millis.errors import InvalidValue


def padded(lengths, buckets):
    return sum(min(b for b in buckets if b >= min(n, buckets[-1])) for n in lengths)


def cheapest(lengths, *, count, maximum, step):
    """Every choice there is."""
    others = range(step, maximum, step)
    choices = [(*some, maximum) for n in range(count) for some in combinations(others, n)]
    return min(padded(lengths, choice) for choice in choices)


@pytest.mark.parametrize("seed", range(30))
def test_buckets_cost_no_more_than_any_other_choice(seed: int) -> None:
    generator = random.Random(seed)
    step, maximum = generator.choice([(8, 64), (4, 40), (8, 61), (1, 9), (16, 16)])
    count = generator.randint(1, 4)
    lengths = [min(90, max(1, round(generator.gammavariate(2, 9)))) for _ in range(generator.randint(1, 60))]
    buckets = choose_buckets(lengths, count=count, maximum=maximum, step=step)
    assert padded(lengths, buckets) == cheapest(lengths, count=count, maximum=maximum, step=step)
    assert len(buckets) <= count
    assert buckets[-1] == maximum
    assert list(buckets) == sorted(set(buckets))
    assert all(bucket % step == 0 for bucket in buckets[:-1])


def test_data_that_needs_few_buckets_gets_few() -> None:
    assert choose_buckets([5] * 10 + [30] * 3, maximum=256) == (8, 32, 256)
    assert choose_buckets([5] * 10 + [30] * 3, count=4, maximum=256, surprise=0.5) == (8, 32, 144, 256), "room for more"
    assert choose_buckets([], maximum=128) == (128,)
    assert choose_buckets([500, 600], maximum=128) == (128,)
    assert choose_buckets(LengthHistogram.from_lengths([5, 5]), maximum=4) == (4,)


def test_more_buckets_never_cost_more() -> None:
    generator = random.Random(3)
    lengths = [generator.randint(3, 200) for _ in range(500)]
    costs = [padded(lengths, choose_buckets(lengths, count=count, maximum=256)) for count in range(1, 12)]
    assert costs == sorted(costs, reverse=True)
    assert costs[7] < costs[0] / 1.5


@pytest.mark.parametrize("bad", [{"count": 0}, {"maximum": 0}, {"step": 0}])
def test_buckets_of_nothing_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(InvalidValue, match="must each be 1 or more"):
        choose_buckets([1], **{"maximum": 8, **bad})


def test_percentiles_and_mean_agree_with_numpy() -> None:
    lengths = np.random.default_rng(5).integers(0, 90, size=371)
    histogram = LengthHistogram.from_lengths(lengths.tolist())
    for percent in (0, 1, 25, 50, 90, 99, 99.9, 100):
        expected = np.percentile(lengths, percent, method="inverted_cdf")
        assert histogram.percentile(percent) == expected
    assert histogram.mean == pytest.approx(lengths.mean())
    assert (histogram.n, histogram.longest) == (371, lengths.max())


def test_rows_to_plot_hold_every_length_once() -> None:
    histogram = LengthHistogram.from_lengths([3, 4, 9, 12, 12, 40])
    assert histogram.rows(count=4) == ((3, 12, 5), (13, 22, 0), (23, 32, 0), (33, 42, 1))
    assert histogram.rows(count=1) == ((3, 40, 6),)
    assert LengthHistogram().rows() == ()
    assert (LengthHistogram().mean, LengthHistogram().percentile(50), LengthHistogram().longest) == (0, 0, 0)


def test_impossible_questions_are_refused() -> None:
    with pytest.raises(InvalidValue, match="percent cannot be 101"):
        LengthHistogram(((1, 1),)).percentile(101)
    with pytest.raises(InvalidValue, match="count cannot be 0"):
        LengthHistogram(((1, 1),)).rows(count=0)
    with pytest.raises(InvalidValue, match="a length cannot be -1"):
        LengthHistogram.from_lengths([2, -1])
