"""What is promised, and whether a measurement keeps it.

    Contract   a percentile and its bound, a rate, a floor of quality, a device, a bound on memory
    Verdict    kept, broken, undecided or void, clause by clause, with the numbers that decided it

Border: numbers in, verdict out; measures nothing and imports no runtime.
Limits: quality is judged by its value on the test set at hand; its interval is shown, it does not decide.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import msgspec

from millis.binomial import decide, most_misses, requests_to_decide
from millis.errors import InvalidValue
from millis.units import read_duration_ms, read_rate_per_s, write_ms

Status = Literal["kept", "broken", "undecided", "void"]

_PERCENTILES = (50.0, 95.0, 99.0)
_ALLOWED = (
    ("rate_per_s", 1e-3, 1e5), ("max_drop", 0.0, 100.0), ("floor", 0.0, 100.0), ("memory_mb", 1.0, 1e9),
)  # fmt: skip
_LEAST_BOUND_MS, MOST_BOUND_MS = 1e-3, 10_000.0  # the load generator waits so long for an answer


@dataclass(frozen=True, slots=True, init=False)
class Contract:
    """A promise: percentile % of the requests within bound_ms at rate_per_s, at no worse than this quality.

    Usage:
        Contract(p99="5 ms", max_drop=1.0)
        Contract(p95="2 ms", rate="200/s", floor=85)

    Args:
        p50, p95, p99: exactly one of them, as "5 ms" or a number of ms, seen by the client and counted from
            the scheduled arrival; kept as percentile and bound_ms.
        rate: requests per second, arriving at random (Poisson); kept as rate_per_s.
        max_drop: points of quality that may be lost against the uncompressed model.
        floor: points of quality, 0 to 100, that must be reached.
        device: where it runs.
        memory_mb: resident memory of all workers together, in decimal megabytes.
        per_token: of models that generate, "30 ms" or a number of ms: the same percentile's bound on an answer's mean
            time per token after the first; the other bound is then on the first token. Kept as per_token_ms.

    Raises:
        InvalidValue: no percentile or several, or a quantity that cannot be.
    """

    percentile: float
    bound_ms: float
    rate_per_s: float
    max_drop: float | None
    floor: float | None
    device: str
    memory_mb: float | None
    per_token_ms: float | None

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
        per_token: str | float | None = None,
    ) -> None:
        bounds = zip(_PERCENTILES, (p50, p95, p99), strict=True)
        given = [(percentile, bound) for percentile, bound in bounds if bound is not None]
        if len(given) != 1:
            raise InvalidValue(
                f"a contract bounds one percentile, but {len(given)} came:"
                " give one of p50, p95, p99, like p99='5 ms'."
            )
        percentile, bound = given[0]
        values: dict[str, Any] = {
            "percentile": percentile,
            "bound_ms": _read_bound_ms(bound, name=f"p{percentile:g}"),
            "rate_per_s": read_rate_per_s(rate),
            "max_drop": max_drop,
            "floor": floor,
            "device": device,
            "memory_mb": memory_mb,
            "per_token_ms": None if per_token is None else _read_bound_ms(per_token, name="per_token"),
        }
        for name, low, high in _ALLOWED:
            value = values[name]
            if value is not None and not (_is_number(value) and low <= value <= high):
                raise InvalidValue(f"{name} cannot be {value!r}: give a number from {low:g} to {high:g}.")
        if not device or not isinstance(device, str):
            raise InvalidValue(f"device cannot be {device!r}: give a name like 'cpu' or 'cuda'.")
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Contract":
        """Build a contract from the plain values that `record` gives.

        Raises:
            InvalidValue: a key that no contract has, one that is missing, or a quantity that cannot be.
        """
        known = {field.name for field in fields(cls)}
        unknown, missing = sorted(set(record) - known), sorted({"percentile", "bound_ms"} - set(record))
        if unknown or missing:
            raise InvalidValue(
                f"this is no contract: it has {', '.join(unknown) or 'nothing'} too much and lacks"
                f" {', '.join(missing) or 'nothing'}; give percentile and bound_ms, and besides them only"
                f" {', '.join(sorted(known))}."
            )
        rest = dict(record)
        percentile, bound_ms = rest.pop("percentile"), rest.pop("bound_ms")
        if percentile not in _PERCENTILES:
            raise InvalidValue(f"percentile cannot be {percentile!r}: give 50, 95 or 99.")
        if "rate_per_s" in rest:
            rest["rate"] = rest.pop("rate_per_s")
        rest["per_token"] = rest.pop("per_token_ms", None)
        return cls(**{f"p{percentile:g}": bound_ms}, **rest)

    def record(self) -> dict[str, Any]:
        """Give the contract as plain values, for JSON; `from_record` takes them back."""
        return asdict(self)

    def allows(self, *, quality: float, drop: float) -> bool:
        """Say whether so many points, and so many fewer than the uncompressed model's, are within the promise."""
        return (self.max_drop is None or drop <= self.max_drop) and (self.floor is None or quality >= self.floor)

    def __str__(self) -> str:
        """Write the promise as a sentence."""
        parts = [f"p{self.percentile:g} <= {write_ms(self.bound_ms)} at {self.rate_per_s:g} requests/s"]
        parts += [f"each later token <= {write_ms(self.per_token_ms)}"] if self.per_token_ms is not None else []
        parts += [f"at most {self.max_drop:g} points lost"] if self.max_drop is not None else []
        parts += [f"quality >= {self.floor:g}"] if self.floor is not None else []
        parts += [f"memory <= {self.memory_mb:g} MB"] if self.memory_mb is not None else []
        return ", ".join([*parts, f"on {self.device}"])


class Clause(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One part of a verdict: what was seen, what was allowed, and how that was judged."""

    name: str
    status: Status
    detail: str
    value: float | None = None
    bound: float | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Kept only when every clause is; broken when one is, whatever the others say; else void or undecided."""

    status: Status
    clauses: tuple[Clause, ...]

    def lines(self) -> tuple[str, ...]:
        """Write the verdict for a terminal."""
        width = max((len(clause.name) for clause in self.clauses), default=0)
        rows = (f"  {clause.name:<{width}}  {clause.status:<9}  {clause.detail}" for clause in self.clauses)
        return (f"contract {self.status.upper()}", *rows)


def judge(clauses: Sequence[Clause]) -> Verdict:
    """Join clauses, one at least, into a verdict."""
    assert clauses
    statuses = {clause.status for clause in clauses}
    worst: tuple[Status, ...] = ("broken", "void", "undecided", "kept")
    return Verdict(status=next(one for one in worst if one in statuses), clauses=tuple(clauses))


def judge_latency(
    contract: Contract,
    *,
    name: str = "",
    bound_ms: float | None = None,
    n_requests: int,
    n_misses: int,
    seen_ms: float | None = None,
    void: str | None = None,
    n_sure_misses: int = 0,
) -> Clause:
    """Judge the latency clause by the exact binomial test, one-sided at 99 %.

    Kept when a server that stands exactly at its bound has so few misses at most once in a hundred runs;
    broken when it has so many at most once in a hundred; else undecided.

    Args:
        contract: whose percentile and bound are judged.
        name: what is bounded, where it is not the whole answer.
        bound_ms: another bound than the contract's first.
        n_requests: all that were due, answered or not.
        n_misses: requests that were late, refused, failed or never answered.
        seen_ms: the percentile as it was seen, for the reader.
        void: why the measurement says nothing, if it does not.
        n_sure_misses: misses for which the measuring cannot be to blame, since the server's own account of the
            request exceeds the bound; where they alone break the contract, a void measurement does not hide it.
    """
    assert 0 <= n_misses <= n_requests
    name = f"{name} p{contract.percentile:g}".lstrip()
    bound_ms = contract.bound_ms if bound_ms is None else bound_ms
    if void is not None:
        status, chance = decide(n_sure_misses, n_requests, percentile=contract.percentile)
        if status == "broken":
            detail = (
                f"{n_sure_misses} of {n_requests} requests took the server itself longer than"
                f" {write_ms(bound_ms)}, by luck {chance:.2g}; besides, {void}"
            )
            return Clause(name=name, status="broken", detail=detail, value=seen_ms, bound=bound_ms)
        return Clause(name=name, status="void", detail=void, value=seen_ms, bound=bound_ms)
    status, chance = decide(n_misses, n_requests, percentile=contract.percentile)
    most = most_misses(contract.percentile, n_requests=n_requests)
    allowed = f"at most {most} say kept" if most is not None else "too few requests to say kept"
    parts = [f"{n_misses} of {n_requests} requests missed {write_ms(bound_ms)} ({allowed})"]
    parts += [f"seen {write_ms(seen_ms)}"] if seen_ms is not None else []
    parts += [f"by luck {chance:.2g}"] if status != "undecided" else [_advise(contract, n_misses, n_requests)]
    return Clause(name=name, status=status, detail=", ".join(parts), value=seen_ms, bound=bound_ms)


def judge_quality(
    contract: Contract, *, quality: float, reference: float, interval: tuple[float, float]
) -> list[Clause]:
    """Judge the drop and the floor on the test set, as far as they were promised.

    Args:
        contract: whose max_drop and floor are judged.
        quality: points, 0 to 100.
        reference: points of the uncompressed model on the same examples.
        interval: bounds of the drop in points, paired over the examples.
    """
    clauses = []
    drop = reference - quality
    if contract.max_drop is not None:
        detail = (
            f"{drop:.2f} points lost of {reference:.2f} (paired {interval[0]:.2f} to {interval[1]:.2f}),"
            f" at most {contract.max_drop:g} allowed"
        )
        status = _compare(drop, at_most=contract.max_drop)
        clauses.append(
            Clause(name="quality drop", status=status, detail=detail, value=drop, bound=contract.max_drop)
        )
    if contract.floor is not None:
        detail = f"{quality:.2f} points, at least {contract.floor:g} promised"
        status = _compare(-quality, at_most=-contract.floor)
        clauses.append(
            Clause(name="quality floor", status=status, detail=detail, value=quality, bound=contract.floor)
        )
    return clauses


def judge_memory(contract: Contract, *, memory_mb: float) -> list[Clause]:
    """Judge the memory clause, if it was promised.

    Args:
        contract: whose memory_mb is judged.
        memory_mb: resident memory of all workers together, in decimal megabytes.
    """
    if contract.memory_mb is None:
        return []
    detail = f"{memory_mb:.0f} MB resident in all workers, at most {contract.memory_mb:g} allowed"
    status = _compare(memory_mb, at_most=contract.memory_mb)
    return [Clause(name="memory", status=status, detail=detail, value=memory_mb, bound=contract.memory_mb)]


def _advise(contract: Contract, n_misses: int, n_requests: int) -> str:
    """Say how long to measure so that these misses decide, as far as that can be told."""
    try:
        n = requests_to_decide(contract.percentile, miss_share=n_misses / n_requests if n_requests else 0.0)
    except InvalidValue:
        return "right at the bound: move it"
    return f"measure some {n} requests to decide" if n > n_requests else "measure longer to decide"


def _compare(value: float, *, at_most: float) -> Status:
    """Compare quantities that are no chances; 1e-9 is rounding."""
    return "kept" if value <= at_most + 1e-9 else "broken"


def _read_bound_ms(bound: str | float, *, name: str) -> float:
    bound_ms = read_duration_ms(bound, name=name, unit="ms")
    if not _LEAST_BOUND_MS <= bound_ms <= MOST_BOUND_MS:
        raise InvalidValue(f"{name} cannot be {bound!r}: give 0.001 ms to 10 s.")
    return bound_ms


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
