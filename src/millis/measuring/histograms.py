"""Latencies as HDR histograms: three digits everywhere, mergeable, a few kilobytes as text.

Border: the one file that imports hdrhistogram. Inside, microseconds; outside, milliseconds.
"""

import math
from collections.abc import Iterable

import msgspec
from hdrh.histogram import HdrHistogram

_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3_600_000_000, 3


class LatencySummary(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution of latencies in ms."""

    n: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class Histogram:
    """Latencies, recorded one by one or read back from text."""

    def __init__(self, encoded: str | None = None) -> None:
        self._inner = (
            HdrHistogram.decode(encoded) if encoded else HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
        )

    @property
    def n(self) -> int:
        """How many latencies were recorded."""
        return int(self._inner.get_total_count())

    def record(self, latencies_ms: Iterable[float]) -> "Histogram":
        """Add latencies; gives itself."""
        for latency in latencies_ms:
            self._inner.record_value(min(max(round(latency * 1000), _LOWEST_US), _HIGHEST_US))
        return self

    def merge(self, other: "Histogram") -> "Histogram":
        """Add another histogram's latencies; gives itself."""
        self._inner.add(other._inner)
        return self

    def encode(self) -> str:
        """Write the histogram as base64 text (HDR format V2, compressed)."""
        text: bytes = self._inner.encode()
        return text.decode()

    def percentile_ms(self, percentile: float) -> float:
        """Give a percentile, 0 when nothing was recorded."""
        return float(self._inner.get_value_at_percentile(percentile)) / 1000 if self.n else 0.0

    def summary(self) -> LatencySummary:
        """Give the usual percentiles."""
        return LatencySummary(
            n=self.n,
            mean_ms=float(self._inner.get_mean_value()) / 1000 if self.n else 0.0,
            p50_ms=self.percentile_ms(50),
            p90_ms=self.percentile_ms(90),
            p95_ms=self.percentile_ms(95),
            p99_ms=self.percentile_ms(99),
            p999_ms=self.percentile_ms(99.9),
            max_ms=self.percentile_ms(100),
        )

    def bins(self, *, per_decade: int = 12) -> list[tuple[float, int]]:
        """Count latencies in logarithmic bins: (upper edge in ms, count), for a plot."""
        counts: dict[int, int] = {}
        for item in self._inner.get_recorded_iterator():
            place = _bin_of(item.value_iterated_to / 1000, per_decade)
            counts[place] = counts.get(place, 0) + int(item.count_added_in_this_iter_step)
        if not counts:
            return []
        return [(10 ** ((i + 1) / per_decade), counts.get(i, 0)) for i in range(min(counts), max(counts) + 1)]


def _bin_of(latency_ms: float, per_decade: int) -> int:
    return math.floor(math.log10(max(latency_ms, 1e-3)) * per_decade)
