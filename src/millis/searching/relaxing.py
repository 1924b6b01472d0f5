"""What to ask for instead, when nothing keeps the contract: the nearest points, and the cheapest relaxation.

Border: arithmetic on what was measured and predicted; measures nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from millis.bundles import LatencyRow, ServingShape
from millis.contract import MOST_BOUND_MS, Contract
from millis.searching.candidates import fit_table, predict_percentile_ms
from millis.units import write_ms

_MOST_POINTS = 6
_MARGIN = 1.1
"""What is told is to be kept when it is asked for, though another run is not quite the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A candidate as far as it got, by its proof where there is one.

    Args:
        quality, drop: points on test where its files were proven, else on dev.
        predicted_ms, measured_ms: what the table says, and what a client saw.
        memory_mb: of all workers, where it was proven.
    """

    name: str
    quality: float
    drop: float
    predicted_ms: float
    measured_ms: float | None
    table: tuple[LatencyRow, ...]
    shape: ServingShape
    memory_mb: float | None = None

    @property
    def seen_ms(self) -> float:
        """As measured, or as predicted where it was not."""
        return self.predicted_ms if self.measured_ms is None else self.measured_ms


def relax(
    points: Sequence[Point], *, contract: Contract, requests: Sequence[Sequence[int]], n_probed: int
) -> tuple[str, ...]:
    """Write the nearest feasible points and what would have to give, cheapest first, with numbers.

    Args:
        requests: tokens of each window of each text.
        n_probed: requests of the runs that points were measured in.
    """
    nearest = sorted(points, key=lambda one: one.seen_ms)[:_MOST_POINTS]
    told = [
        f"{point.name}: p{contract.percentile:g} {'predicted' if point.measured_ms is None else 'measured'}"
        f" {write_ms(point.seen_ms)}, quality {point.quality:.2f} ({point.drop:+.2f} lost)"
        for point in nearest
    ]
    good = [point for point in points if contract.allows(quality=point.quality, drop=point.drop)]
    ways = []
    if good:
        best = min(good, key=lambda one: (one.measured_ms is None, one.seen_ms))
        if best.seen_ms * _MARGIN > contract.bound_ms:
            ways += _relax_time(best, contract=contract, requests=requests, n_probed=n_probed)
        ways += _relax_memory(good, contract=contract)
    faster = [point for point in points if point not in good and point.seen_ms <= contract.bound_ms]
    if faster:
        best = min(faster, key=lambda one: one.drop)
        if contract.floor is not None and best.quality < contract.floor:
            ways.append(f"a floor of {best.quality:.1f} instead of {contract.floor:g} ({best.name})")
        if contract.max_drop is not None and best.drop > contract.max_drop:
            ways.append(f"{best.drop:.1f} points of quality instead of {contract.max_drop:g} ({best.name})")
    return (*("nearest: " + line for line in told), *("instead: " + way for way in ways))


def _relax_time(
    point: Point, *, contract: Contract, requests: Sequence[Sequence[int]], n_probed: int
) -> list[str]:
    """Try more time, a lower rate, shorter texts, fewer of them, one more core, as the queue predicts them.

    Times are those that were seen. More comes than can be answered where no time that a contract may have would do.
    """
    shape = point.shape
    table = fit_table(
        point.table, seen_ms=point.measured_ms, requests=requests, rate_per_s=contract.rate_per_s, shape=shape,
        percentile=contract.percentile, n_requests=n_probed,
    )  # fmt: skip

    def seen(
        *, rate: float = contract.rate_per_s, longest: int | None = None, most: int | None = None, lanes: int = 0
    ) -> float:
        kept = [one[:most] for one in requests if longest is None or max(one) <= longest] or [min(requests, key=max)]
        grown = ServingShape(
            workers=shape.workers + (lanes if shape.workers > 1 or not shape.threads else 0),
            threads=shape.threads + (lanes if shape.threads else 0),
        )
        return _MARGIN * predict_percentile_ms(
            table, requests=kept, rate_per_s=rate, shape=grown, percentile=contract.percentile
        )

    ways = []
    bound_ms = _round_up(seen())
    if bound_ms <= MOST_BOUND_MS:
        ways.append(f"p{contract.percentile:g} <= {write_ms(bound_ms)} at the same rate and quality")
    rate = next((r for r in _falling(contract.rate_per_s) if seen(rate=r) <= contract.bound_ms), None)
    if rate is not None:
        ways.append(f"{rate:g} requests/s instead of {contract.rate_per_s:g} (predicted)")
    buckets = sorted({row.tokens for row in point.table}, reverse=True)
    longest = next((tokens for tokens in buckets if seen(longest=tokens) <= contract.bound_ms), None)
    if longest is not None and longest < max(map(max, requests)):
        ways.append(f"texts of at most {longest} tokens (predicted)")
    n_most = max(map(len, requests))
    fewer = next((n for n in range(n_most - 1, 0, -1) if seen(most=n) <= contract.bound_ms), None)
    if fewer is not None:
        ways.append(f"{fewer} documents of a request instead of {n_most} (predicted)")
    if seen(lanes=1) <= contract.bound_ms:
        ways.append("one more core (predicted)")
    carried = next((r for r in _falling(contract.rate_per_s) if seen(rate=r) <= MOST_BOUND_MS), None)
    if not ways and carried is not None:
        bound_ms = _round_up(seen(rate=carried))
        ways.append(f"p{contract.percentile:g} <= {write_ms(bound_ms)} at {carried:g} requests/s, both (predicted)")
    return ways


def _relax_memory(points: Sequence[Point], *, contract: Contract) -> list[str]:
    """Say how much the least of them takes, where even that is more than was allowed."""
    if contract.memory_mb is None:
        return []
    known = [(point.memory_mb, point.name) for point in points if point.memory_mb is not None]
    if not known or min(known)[0] <= contract.memory_mb:
        return []
    least_mb, name = min(known)
    return [f"{_round_up(_MARGIN * least_mb):g} MB of memory instead of {contract.memory_mb:g} ({name})"]


def _falling(rate: float) -> list[float]:
    return [float(f"{rate * share:.2g}") for share in (0.8, 0.6, 0.4, 0.2, 0.1)]


def _round_up(milliseconds: float) -> float:
    digit = 10 ** (math.floor(math.log10(milliseconds)) - 1)
    return float(math.ceil(milliseconds / digit) * digit)
