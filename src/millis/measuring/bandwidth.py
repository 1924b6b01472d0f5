"""How fast memory is read here, and how soon that lets a language model say its next piece.

Every step of an answer reads all weights once, so no engine can be faster than their bytes over the bandwidth.
Border: arithmetic and a measurement of some tenths of a second; starts no engine.
Limits: one answer at a time (answers in one step share what is read); keys and values, which grow with the text, are
not counted. Weights that fit a processor's cache may be read sooner than memory is.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np

_READ_BYTES = 1 << 28
_TIMES = 10


class Ceiling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The least time of a piece.

    Args:
        weights_bytes: read for every piece.
        bandwidth_gb_per_s: of memory, in 10^9 bytes a second.
        least_ms: of the first by the second.
    """

    weights_bytes: int
    bandwidth_gb_per_s: float
    least_ms: float

    def tell(self, seen_ms: float) -> str:
        """Write it in a line beside a time per piece that was seen."""
        times = seen_ms / self.least_ms
        beside = f"{times:.1f} times that" if times >= 1 else "below that: memory was busy when it was measured"
        return (
            f"a token reads {self.weights_bytes / 1e6:.1f} MB of weights, at {self.bandwidth_gb_per_s:.1f} GB/s of"
            f" memory {self.least_ms:.2f} ms at least: p50 is {beside}"
        )


def find_ceiling(weights_bytes: int, *, threads: int) -> Ceiling:
    """Measure the least time that memory allows a piece, with so many threads that read."""
    per_s = measure_bandwidth(threads)
    return Ceiling(
        weights_bytes=weights_bytes, bandwidth_gb_per_s=round(per_s / 1e9, 2), least_ms=1000 * weights_bytes / per_s
    )


def measure_bandwidth(threads: int) -> float:
    """Measure how many bytes threads read from memory in a second, the best of ten times."""
    parts = [np.ones(_READ_BYTES // 8 // threads, np.int64) for _ in range(threads)]
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_TIMES):
            began = time.perf_counter()
            list(pool.map(np.max, parts))
            seconds.append(time.perf_counter() - began)
    return sum(part.nbytes for part in parts) / min(seconds)
