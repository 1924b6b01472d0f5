"""The contract's arithmetic, against scipy and against the numbers of the design."""

import msgspec
import numpy as np
import pytest
from scipy.stats import binom

from millis.binomial import most_misses, requests_to_decide
from millis.contract import (
    Contract,
    Verdict,
    judge,
    judge_latency,
    judge_memory,
    judge_quality,
)
from millis.errors import InvalidValue


def status_of(n_misses: int, n_requests: int, **bound: float) -> str:
    return judge_latency(Contract(**(bound or {"p99": 5.0})), n_requests=n_requests, n_misses=n_misses).status  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "allowed"), [(1_000, 2), (5_000, 33), (10_000, 77)])
def test_misses_allowed_are_those_of_the_design(n: int, allowed: int) -> None:
    assert status_of(allowed, n) == "kept"
    assert status_of(allowed + 1, n) == "undecided"
    assert most_misses(99.0, n_requests=n) == allowed


@pytest.mark.parametrize("percentile", [50.0, 95.0, 99.0])
@pytest.mark.parametrize("n", [1, 100, 459, 3_000, 50_000])
def test_verdicts_agree_with_scipy(percentile: float, n: int) -> None:
    share = (100 - percentile) / 100
    at_bound = 1 + 1e-9  # one request, one miss at p99 is a chance of exactly 1 %
    for misses in {0, 1, *(round(n * share * step / 20) for step in range(41)), n}:
        if misses > n:
            continue
        if binom.cdf(misses, n, share) <= 0.01 * at_bound:
            expected = "kept"
        elif binom.sf(misses - 1, n, share) <= 0.01 * at_bound:
            expected = "broken"
        else:
            expected = "undecided"
        assert status_of(misses, n, **{f"p{percentile:g}": 5.0}) == expected


def test_edges_of_both_verdicts_agree_with_scipy_up_to_a_million_requests() -> None:
    for n in (10_000, 1_000_000):
        n_misses = np.arange(int(n * 0.015))
        last_kept = int(np.flatnonzero(binom.cdf(n_misses, n, 0.01) <= 0.01)[-1])
        first_broken = int(np.flatnonzero(binom.sf(n_misses - 1, n, 0.01) <= 0.01)[0])
        assert [status_of(last_kept, n), status_of(last_kept + 1, n)] == ["kept", "undecided"]
        assert [status_of(first_broken - 1, n), status_of(first_broken, n)] == ["undecided", "broken"]


def test_too_few_requests_are_undecided_never_kept() -> None:
    assert [status_of(0, n) for n in (0, 1, 458, 459)] == ["undecided", "undecided", "undecided", "kept"]
    assert most_misses(99.0, n_requests=458) is None
    assert requests_to_decide(99.0) == 459
    assert status_of(2, requests_to_decide(99.0, n_misses=2)) == "kept"
    assert status_of(2, requests_to_decide(99.0, n_misses=2) - 1) == "undecided"


def test_the_number_of_requests_to_decide_does_decide() -> None:
    for share in (0.001, 0.005, 0.009):
        n = requests_to_decide(99.0, miss_share=share)
        assert status_of(int(np.ceil(share * n)), n) == "kept"
    n = requests_to_decide(99.0, miss_share=0.02)
    assert status_of(int(0.02 * n), n) == "broken"
    with pytest.raises(InvalidValue, match="move the bound"):
        requests_to_decide(99.0, miss_share=0.01)


def test_an_undecided_verdict_says_how_long_to_measure() -> None:
    assert "measure some 459 requests" in judge_latency(Contract(p99=5), n_requests=100, n_misses=0).detail


def test_a_late_generator_makes_the_verdict_void() -> None:
    clause = judge_latency(Contract(p99=5), n_requests=1000, n_misses=0, void="the generator was late")
    assert judge([clause, *judge_memory(Contract(p99=5, memory_mb=400), memory_mb=200)]).status == "void"


def test_what_is_surely_broken_stays_so_in_a_void_measurement() -> None:
    contract = Contract(p99=5, memory_mb=100)
    void = "the generator was late"
    clause = judge_latency(contract, n_requests=1000, n_misses=900, n_sure_misses=30, void=void)
    assert clause.status == "broken", "the server's own account of 30 requests decides"
    assert void in clause.detail
    assert judge_latency(contract, n_requests=1000, n_misses=900, n_sure_misses=10, void=void).status == "void"
    late = judge_latency(contract, n_requests=1000, n_misses=0, void=void)
    assert judge([late, *judge_memory(contract, memory_mb=200)]).status == "broken"


def test_one_broken_clause_breaks_the_contract() -> None:
    contract = Contract(p99=5, max_drop=1.0, floor=80, memory_mb=400)
    latency = judge_latency(contract, n_requests=1000, n_misses=0, seen_ms=1.0)
    quality = judge_quality(contract, quality=84.0, reference=86.0, interval=(1.0, 3.0))
    memory = judge_memory(contract, memory_mb=390.0)
    verdict = judge([latency, *quality, *memory])
    assert [clause.status for clause in verdict.clauses] == ["kept", "broken", "kept", "kept"]
    assert verdict.status == "broken"
    assert verdict.lines()[0] == "contract BROKEN"
    assert len(verdict.lines()) == 5


def test_an_undecided_clause_leaves_the_contract_undecided() -> None:
    contract = Contract(p99=5, memory_mb=400)
    latency = judge_latency(contract, n_requests=100, n_misses=0)
    assert judge([latency, *judge_memory(contract, memory_mb=390.0)]).status == "undecided"


def test_quality_at_its_bounds_is_kept_and_below_them_broken() -> None:
    contract = Contract(p99=5, max_drop=1.0, floor=85.3)
    at_bounds = judge_quality(contract, quality=85.3, reference=86.3, interval=(0.0, 2.0))
    below_floor = judge_quality(contract, quality=85.2, reference=86.0, interval=(0.0, 1.0))
    assert [clause.status for clause in at_bounds] == ["kept", "kept"]
    assert [clause.status for clause in below_floor] == ["kept", "broken"]


def test_what_was_not_promised_is_not_judged() -> None:
    assert judge_quality(Contract(p99=5), quality=1.0, reference=90.0, interval=(0.0, 1.0)) == []
    assert judge_memory(Contract(p99=5), memory_mb=1e6) == []


def test_a_contract_and_a_verdict_survive_json() -> None:
    contract = Contract(p95="2.5 ms", rate="200/s", floor=85, memory_mb=400)
    assert Contract.from_record(msgspec.json.decode(msgspec.json.encode(contract.record()))) == contract
    verdict = judge([judge_latency(contract, n_requests=1000, n_misses=0, seen_ms=1.0)])
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict


@pytest.mark.parametrize(
    "wrong",
    [{}, {"p50": 1, "p99": 2}, {"p99": "five"}, {"p99": -1}, {"p99": "0 ms"}, {"p99": 5, "rate": "fast"},
     {"p99": 5, "max_drop": -1}, {"p99": 5, "floor": 101}, {"p99": 5, "floor": float("nan")},
     {"p99": 5, "max_drop": "1"}, {"p99": 5, "device": ""}, {"p99": 5, "device": 3}, {"p99": "11 s"}, {"p99": "1e-9 us"},
     {"p99": "0.0001 us"}, {"p99": True}, {"p99": float("nan")}, {"p99": 5, "rate": 1e9}, {"p99": 5, "rate": "0.0001/s"},
     {"p99": 5, "rate": float("inf")}, {"p99": 5, "rate": -3}, {"p99": 5, "per_token": "11 s"},
     {"p99": 5, "per_token": "0.01 us"}],
)  # fmt: skip
def test_a_contract_that_cannot_be_is_refused_with_a_sentence(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidValue, match="give"):
        Contract(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"percentile": 99.0},
        {"percentile": 98.0, "bound_ms": 5.0},
        {"percentile": 99.0, "bound_ms": 5.0, "budget": 1},
    ],
)
def test_a_record_that_is_no_contract_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidValue, match="give"):
        Contract.from_record(wrong)


def test_an_unknown_setting_is_an_error() -> None:
    with pytest.raises(TypeError, match="bound"):
        Contract(p99=5, bound=3)  # type: ignore[call-arg]
