"""How often: requests of each key, counted over all workers of a server.

A count is one number, the moment until which a rate is used up, in memory that the workers share. Nobody waits for a
lock to count: of two workers that count within the same microsecond one may be overwritten.
Border: clocks, numbers and shared memory; whose rate is how large is keys.py's.
Source: the generic cell rate algorithm, ITU-T I.371, as a virtual schedule; here with a burst of a second.
"""

import mmap
import os
import time
from array import array
from collections.abc import Callable
from pathlib import Path

_BYTES = 8


class Bucket:
    """Lets rate_per_s requests a second through, and up to a second's worth at once, one at least.

    Args:
        until_ns: one number, 0 at first, on the system's monotonic clock; buckets that share it count together.
    """

    def __init__(self, rate_per_s: float, *, until_ns: "array[int] | memoryview[int] | None" = None) -> None:
        self.rate_per_s = rate_per_s
        self._until_ns = array("q", [0]) if until_ns is None else until_ns
        self._each_ns = int(1e9 / rate_per_s)
        self._most_ns = max(1_000_000_000, self._each_ns)

    def take(self) -> float:
        """Take one; give 0, or the seconds until there will be one."""
        now = time.monotonic_ns()
        until_ns = max(self._until_ns[0], now) + self._each_ns
        if until_ns - now > self._most_ns:
            return (until_ns - now - self._most_ns) / 1e9
        self._until_ns[0] = until_ns
        return 0.0


class Rates:
    """Counts how often keys ask, together with the other workers.

    Args:
        folder: of the counts of all workers; made with the first request that counts.
        tell: says to people that this worker counts alone, once.
    """

    def __init__(self, folder: str | Path, *, tell: Callable[[str], None]) -> None:
        self._folder, self._tell = Path(folder), tell
        self._buckets: dict[str, Bucket] = {}
        self._is_sharing = True

    def take(self, key_id: str, *, per_s: float) -> float:
        """Count a request; give 0, or the seconds until the next one may come."""
        bucket = self._buckets.get(key_id)
        if bucket is None or bucket.rate_per_s != per_s:
            bucket = self._buckets[key_id] = Bucket(per_s, until_ns=self._open(key_id))
        return bucket.take()

    def _open(self, key_id: str) -> "memoryview[int] | None":
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(os.open(self._folder / key_id, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0) as stream:
                if os.fstat(stream.fileno()).st_size < _BYTES:
                    stream.write(bytes(_BYTES))  # now, since a full disk under a mapping would end the process
                return memoryview(mmap.mmap(stream.fileno(), _BYTES)).cast("q")
        except OSError as error:
            if self._is_sharing:
                self._tell(f"rates of keys cannot be counted in common ({error.strerror}): each worker counts alone.")
            self._is_sharing = False
            return None
