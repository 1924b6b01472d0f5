"""What is promised, and whether a measurement keeps it.

    Contract   a percentile and its bound, a rate, a floor of quality, a device, a bound on memory
    Verdict    kept, broken, undecided or void, clause by clause, with what decided it

Border: numbers in, verdict out; measures nothing.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from millis.errors import InvalidValue
from millis.units import read_duration_ms, read_rate_per_s, write_ms

DOUBT = 0.01
"""One-sided: a verdict is wrong at most this often."""

_ALLOWED = (
    ("bound_ms", 1e-3, 3.6e6),
    ("rate_per_s", 0.01, 1e5),
    ("max_drop", 0.0, 100.0),
    ("floor", 0.0, 100.0),
    ("memory_mb", 1.0, 1e7),
)


@dataclass(frozen=True, slots=True, init=False)
class Contract:
    """A promise: `percentile` % of requests within `bound_ms` at `rate_per_s`, at no worse than this quality.

    Usage:
        Contract(p99="5 ms", max_drop=1.0)
        Contract(p95="2 ms", rate="200/s", floor=85)

    Args:
        p50, p95, p99: exactly one of them, as "5 ms" or a number of ms, measured by the client from the scheduled
            arrival; kept as percentile and bound_ms.
        rate: requests per second, arriving at random (Poisson); kept as rate_per_s.
        max_drop: points of quality that may be lost against the uncompressed model.
        floor: points of quality that must be reached.
        device: where it runs.
        memory_mb: resident memory of all workers together, in decimal megabytes.

    Raises:
        InvalidValue: none or several percentiles, or a quantity that cannot be.
    """

    percentile: float
    bound_ms: float
    rate_per_s: float
    max_drop: float | None
    floor: float | None
    device: str
    memory_mb: float | None

    def __init__(
        self,
        *,
        p50: str | float | None = None,
        p95: str | float | None = None,
        p99: str | float | None = None,
        rate: str | float = 50.0,
        max_drop: float | None = None,
        floor: float | None = None,
        device: str = "cpu",
        memory_mb: float | None = None,
    ) -> None:
        given = [(q, bound) for q, bound in ((50.0, p50), (95.0, p95), (99.0, p99)) if bound is not None]
        if len(given) != 1:
            raise InvalidValue(
                f"a contract bounds one percentile, but {len(given)} came: give one of p50, p95, p99, like p99='5 ms'."
            )
        percentile, bound = given[0]
        values: dict[str, Any] = {
            "percentile": percentile,
            "bound_ms": read_duration_ms(bound, name=f"p{percentile:g}", unit="ms"),
            "rate_per_s": read_rate_per_s(rate),
            "max_drop": max_drop,
            "floor": floor,
            "device": device,
            "memory_mb": memory_mb,
        }
        for name, low, high in _ALLOWED:
            if values[name] is not None and not low <= values[name] <= high:
                raise InvalidValue(f"{name} cannot be {values[name]}: give a number from {low:g} to {high:g}.")
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Contract":
        """Read a contract back from what `record` gave."""
        rest = {name: record.get(name) for name in ("max_drop", "floor", "memory_mb")}
        bound = {f"p{record['percentile']:g}": record["bound_ms"]}
        return cls(**bound, rate=record["rate_per_s"], device=record.get("device", "cpu"), **rest)

    def record(self) -> dict[str, Any]:
        """Give the contract as plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Write the promise as a sentence."""
        parts = [f"p{self.percentile:g} <= {write_ms(self.bound_ms)} at {self.rate_per_s:g} requests/s"]
        parts += [f"at most {self.max_drop:g} points lost"] if self.max_drop is not None else []
        parts += [f"quality >= {self.floor:g}"] if self.floor is not None else []
        parts += [f"memory <= {self.memory_mb:g} MB"] if self.memory_mb is not None else []
        return ", ".join([*parts, f"on {self.device}"])


class Clause(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One part of a verdict: kept, broken, undecided or void, and the numbers that decided it."""

    name: str
    status: str
    detail: str
    value: float | None = None
    bound: float | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Kept only when every clause is; broken when any is; void when the measuring failed; else undecided."""

    status: str
    clauses: tuple[Clause, ...]

    def lines(self) -> tuple[str, ...]:
        """Write the verdict for a terminal."""
        return (
            f"contract {self.status.upper()}",
            *(f"  {clause.name}: {clause.status} ({clause.detail})" for clause in self.clauses),
        )


def judge(clauses: list[Clause]) -> Verdict:
    """Join clauses into a verdict."""
    statuses = [clause.status for clause in clauses]
    status = next((one for one in ("void", "broken", "undecided") if one in statuses), "kept")
    return Verdict(status=status, clauses=tuple(clauses))


def judge_latency(
    contract: Contract, *, n_requests: int, n_misses: int, seen_ms: float, void: str | None = None
) -> Clause:
    """Judge the latency clause by the exact binomial test, one-sided at 99 %.

    Args:
        n_misses: requests that were late, refused, failed or never answered.
        seen_ms: the percentile as it was seen, for the sentence.
        void: why the measurement says nothing, if so.
    """
    share = 1 - contract.percentile / 100
    at_most = _tail_below(n_misses, n_requests, share)
    at_least = _tail_above(n_misses, n_requests, share)
    status = "kept" if at_most <= DOUBT else "broken" if at_least <= DOUBT else "undecided"
    chance = at_most if status == "kept" else at_least
    detail = (
        f"{n_misses} of {n_requests} requests missed {write_ms(contract.bound_ms)}; allowed to say kept:"
        f" {most_misses(contract.percentile, n_requests)}; chance of this by luck {chance:.2g};"
        f" p{contract.percentile:g} seen {write_ms(seen_ms)}"
    )
    if void is not None:
        status, detail = "void", void
    elif status == "undecided":
        detail += "; measure longer (--seconds or --requests)"
    return Clause(
        name=f"p{contract.percentile:g} latency", status=status, detail=detail, value=seen_ms, bound=contract.bound_ms
    )


def judge_quality(
    contract: Contract, *, quality: float, reference: float, interval: tuple[float, float]
) -> list[Clause]:
    """Judge the quality clauses on the test set.

    Args:
        quality: points of the rung.
        reference: points of the uncompressed model on the same examples.
        interval: 95 % bounds of the drop in points, paired over examples; shown, not judged by.
    """
    clauses = []
    drop = reference - quality
    if contract.max_drop is not None:
        clauses.append(
            Clause(
                name="quality drop",
                status="kept" if drop <= contract.max_drop else "broken",
                detail=f"{drop:.2f} points lost of {reference:.2f} (paired 95 %: {interval[0]:.2f} to {interval[1]:.2f});"
                f" allowed {contract.max_drop:g}",
                value=drop,
                bound=contract.max_drop,
            )
        )
    if contract.floor is not None:
        clauses.append(
            Clause(
                name="quality floor",
                status="kept" if quality >= contract.floor else "broken",
                detail=f"{quality:.2f} points; at least {contract.floor:g} wanted",
                value=quality,
                bound=contract.floor,
            )
        )
    return clauses


def judge_memory(contract: Contract, *, memory_mb: float) -> list[Clause]:
    """Judge the memory clause, if there is one."""
    if contract.memory_mb is None:
        return []
    status = "kept" if memory_mb <= contract.memory_mb else "broken"
    detail = f"{memory_mb:.0f} MB resident in all workers; allowed {contract.memory_mb:g} MB"
    return [Clause(name="memory", status=status, detail=detail, value=memory_mb, bound=contract.memory_mb)]


def most_misses(percentile: float, n_requests: int) -> int:
    """Give the most misses among n requests that still say kept; -1 when no number of requests so small can."""
    misses = -1
    while misses < n_requests and _tail_below(misses + 1, n_requests, 1 - percentile / 100) <= DOUBT:
        misses += 1
    return misses


def requests_to_decide(percentile: float, *, n_misses: int = 0) -> int:
    """Give the fewest requests that say kept with this many misses."""
    n = n_misses + 1
    while most_misses(percentile, n) < n_misses:
        n = math.ceil(n * 1.01)
    while n > n_misses + 1 and most_misses(percentile, n - 1) >= n_misses:
        n -= 1
    return n


def _tail_below(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Binomial(n, p)."""
    return min(sum(_mass(i, n, p) for i in range(k + 1)), 1.0)


def _tail_above(k: int, n: int, p: float) -> float:
    """P(X >= k) for X ~ Binomial(n, p)."""
    return max(1.0 - _tail_below(k - 1, n, p), 0.0)


def _mass(i: int, n: int, p: float) -> float:
    if p <= 0:
        return float(i == 0)
    log = math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
    return math.exp(log + i * math.log(p) + (n - i) * math.log1p(-p))
