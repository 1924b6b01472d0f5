"""Whether so many misses among so many requests say that a percentile holds: the exact binomial test, one-sided.

Border: counts in, a decision out; what is promised is contract.py's.
"""

import math
from collections.abc import Callable
from typing import Literal

from millis.errors import InvalidValue

Decision = Literal["kept", "broken", "undecided"]

DOUBT = 0.01
"""One-sided: how often at most a contract that stands exactly at its bound is called kept (or broken)."""

_LIMIT = DOUBT * (1 + 1e-9)
"""Allows for rounding: one request that misses a p99 has a chance of exactly 1 %."""

_MOST_REQUESTS = 10**9


def most_misses(percentile: float, *, n_requests: int) -> int | None:
    """Give the most misses among n_requests that still say kept; None when not even no miss does."""
    if decide(0, n_requests, percentile=percentile)[0] != "kept":
        return None
    return _first(lambda misses: decide(misses, n_requests, percentile=percentile)[0] != "kept", high=n_requests) - 1


def requests_to_decide(percentile: float, *, n_misses: int = 0, miss_share: float = 0.0) -> int:
    """Give how many requests it takes to say kept (or broken, when that is what they would say).

    Exactly the fewest when miss_share is 0; else near it, since misses come whole.

    Args:
        percentile: the contract's.
        n_misses: misses to allow for, whatever the number of requests.
        miss_share: share of the requests that miss, on top.

    Raises:
        InvalidValue: miss_share is not in 0..1, or too near the share that the percentile allows.
    """
    if not 0 <= miss_share <= 1:
        raise InvalidValue(f"miss_share cannot be {miss_share}: give a share from 0 to 1.")
    wanted, whole = ("kept", math.ceil) if miss_share < _share(percentile) else ("broken", math.floor)

    def is_decided(n: int) -> bool:
        return decide(min(n_misses + whole(miss_share * n), n), n, percentile=percentile)[0] == wanted

    high = 1
    while not is_decided(high):
        high *= 2
        if high > _MOST_REQUESTS:
            raise InvalidValue(
                f"no number of requests decides p{percentile:g} when {miss_share:.4%} of them miss, since"
                f" {_share(percentile):.4%} may: move the bound."
            )
    return _first(is_decided, high=high)


def decide(n_misses: int, n_requests: int, *, percentile: float) -> tuple[Decision, float]:
    """Give the status, and the chance of this many misses or a rarer number at the bound."""
    share = _share(percentile)
    at_most = _tail(n_misses, n_requests, share)
    at_least = _tail(n_requests - n_misses, n_requests, 1 - share)
    if at_most <= _LIMIT:
        return "kept", at_most
    return ("broken", at_least) if at_least <= _LIMIT else ("undecided", min(at_most, at_least))


def _share(percentile: float) -> float:
    return (100 - percentile) / 100


def _tail(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Binomial(n, p), 0 < p < 1, without cancellation where it is small.

    Above the mean the other tail is summed; it is P(Y <= n - k - 1) for Y ~ Binomial(n, 1 - p).
    """
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    if k > n * p:
        return 1.0 - _tail(n - k - 1, n, 1 - p)
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    log += k * math.log(p) + (n - k) * math.log1p(-p)
    total = term = 1.0  # in units of the mass at k; below the mean each term is smaller than the last
    for i in range(k, 0, -1):
        term *= i * (1 - p) / ((n - i + 1) * p)
        total += term
        if term < total * 1e-17:
            break
    return min(math.exp(log + math.log(total)), 1.0)


def _first(holds: Callable[[int], bool], *, high: int) -> int:
    """Find the first number up to high for which it holds, given that it goes on holding."""
    low = 0
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
