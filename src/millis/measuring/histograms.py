"""Latencies as HDR histograms: three digits everywhere, mergeable, a few kilobytes as text.

Border: the one file that imports hdrhistogram. Inside, microseconds; outside, milliseconds.
Limits: anything over an hour counts as an hour, anything under a microsecond as one.
"""

import binascii
import math
import zlib
from collections.abc import Iterable

import msgspec
from hdrh.codec import HdrCookieException, HdrLengthException
from hdrh.histogram import HdrHistogram

from millis.errors import InvalidValue

_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3_600_000_000, 3


class LatencySummary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A distribution of n latencies, n at least 1, in ms."""

    n: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class Histogram:
    """Latencies, recorded one by one or read back from text.

    Usage:
        seen = Histogram().record([1.2, 3.4])
        Histogram(seen.encode()).percentile_ms(99)

    Args:
        encoded: what `encode` gave.

    Raises:
        InvalidValue: text that is no histogram.
    """

    def __init__(self, encoded: str | None = None) -> None:
        if encoded is None:
            self._inner = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
            return
        try:
            self._inner = HdrHistogram.decode(encoded)
        except (binascii.Error, zlib.error, HdrCookieException, HdrLengthException) as error:
            raise InvalidValue(
                f"{len(encoded)} characters are no latency histogram ({type(error).__name__}):"
                " give HDR V2 as base64, as encode() writes it; measure again if the text was damaged."
            ) from error

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
        """Give a percentile.

        Raises:
            InvalidValue: nothing was recorded.
        """
        if not self.n:
            raise InvalidValue("no latency was recorded, so there is no percentile: record one at least.")
        return float(self._inner.get_value_at_percentile(percentile)) / 1000

    def summary(self) -> LatencySummary:
        """Give the usual percentiles.

        Raises:
            InvalidValue: nothing was recorded.
        """
        p50, p90, p95, p99, p999, most = map(self.percentile_ms, (50, 90, 95, 99, 99.9, 100))
        return LatencySummary(
            n=self.n,
            mean_ms=float(self._inner.get_mean_value()) / 1000,
            p50_ms=p50,
            p90_ms=p90,
            p95_ms=p95,
            p99_ms=p99,
            p999_ms=p999,
            max_ms=most,
        )

    def bins(self, *, per_decade: int = 12) -> list[tuple[float, int]]:
        """Count latencies in logarithmic bins: (upper edge in ms, count), empty ones between included."""
        counts: dict[int, int] = {}
        for item in self._inner.get_recorded_iterator():
            place = math.floor(math.log10(max(item.value_iterated_to / 1000, 1e-3)) * per_decade)
            counts[place] = counts.get(place, 0) + int(item.count_added_in_this_iter_step)
        if not counts:
            return []
        places = range(min(counts), max(counts) + 1)
        return [(10 ** ((place + 1) / per_decade), counts.get(place, 0)) for place in places]
