"""How often: a bucket of tokens that fills at a key's rate and holds a second's worth.

Border: a clock and numbers.
"""

import time


class Bucket:
    """Lets rate_per_s requests a second through, and up to a second's worth at once, one at least."""

    def __init__(self, rate_per_s: float) -> None:
        self.rate_per_s = rate_per_s
        self._most = max(rate_per_s, 1.0)
        self._tokens, self._at_s = self._most, time.monotonic()

    def take(self) -> float:
        """Take a token; give 0, or the seconds until there will be one."""
        now = time.monotonic()
        self._tokens = min(self._tokens + (now - self._at_s) * self.rate_per_s, self._most)
        self._at_s = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self.rate_per_s
