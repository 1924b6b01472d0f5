"""Latency histograms: three digits, mergeable, text."""

import random

import pytest

from millis.errors import InvalidValue
from millis.measuring.histograms import Histogram


def latencies(n: int) -> list[float]:
    chance = random.Random(7)
    return [chance.lognormvariate(1, 1) for _ in range(n)]


def test_percentiles_are_right_to_three_digits() -> None:
    values = latencies(10_000)
    summary = Histogram().record(values).summary()
    values.sort()
    for got, rank in ((summary.p50_ms, 5000), (summary.p95_ms, 9500), (summary.p99_ms, 9900), (summary.max_ms, 10_000)):
        assert got == pytest.approx(values[rank - 1], rel=2e-3, abs=1e-3)
    assert summary.mean_ms == pytest.approx(sum(values) / len(values), rel=1e-3)
    assert summary.n == 10_000


def test_a_histogram_survives_its_text() -> None:
    seen = Histogram().record(latencies(1000))
    assert Histogram(seen.encode()).summary() == seen.summary()
    assert len(seen.encode()) < 5_000


def test_merged_histograms_are_that_of_all_latencies() -> None:
    values = latencies(1000)
    merged = Histogram().record(values[:300]).merge(Histogram().record(values[300:]))
    assert merged.summary() == Histogram().record(values).summary()


def test_bins_hold_every_latency_below_their_edges() -> None:
    bins = Histogram().record([0.5, 0.5, 5.0, 500.0]).bins(per_decade=1)
    assert bins == [(pytest.approx(1), 2), (pytest.approx(10), 1), (pytest.approx(100), 0), (pytest.approx(1000), 1)]
    assert Histogram().bins() == []


def test_latencies_beyond_an_hour_and_below_a_microsecond_are_kept_at_the_ends() -> None:
    summary = Histogram().record([1e12, 0.0]).summary()
    assert summary.n == 2
    assert summary.max_ms == pytest.approx(3.6e6, rel=1e-3)


def test_an_empty_histogram_has_no_percentiles() -> None:
    with pytest.raises(InvalidValue, match="record one"):
        Histogram().summary()


@pytest.mark.parametrize("text", ["", "xx", "AAAA", "HISTFAAAA"])
def test_text_that_is_no_histogram_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="no latency histogram"):
        Histogram(text)
