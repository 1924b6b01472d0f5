"""The contract's arithmetic, against scipy and against the numbers of the design."""

import pytest
from scipy.stats import binom

from millis.contract import Contract, Verdict, judge, judge_latency, judge_quality, most_misses, requests_to_decide
from millis.errors import InvalidValue


@pytest.mark.parametrize(("n", "allowed"), [(1_000, 2), (5_000, 33), (10_000, 77)])
def test_misses_allowed_are_those_of_the_exact_test(n: int, allowed: int) -> None:
    assert most_misses(99.0, n) == allowed
    assert binom.cdf(allowed, n, 0.01) <= 0.01 < binom.cdf(allowed + 1, n, 0.01)


@pytest.mark.parametrize("percentile", [50.0, 95.0, 99.0])
@pytest.mark.parametrize("n", [100, 459, 3_000])
def test_verdicts_agree_with_scipy(percentile: float, n: int) -> None:
    contract = Contract(**{f"p{percentile:g}": 5.0})
    share = 1 - percentile / 100
    for misses in {0, 1, round(n * share / 2), round(n * share), min(round(n * share * 2), n), n}:
        status = judge_latency(contract, n_requests=n, n_misses=misses, seen_ms=1.0).status
        if binom.cdf(misses, n, share) <= 0.01:
            assert status == "kept"
        elif binom.sf(misses - 1, n, share) <= 0.01:
            assert status == "broken"
        else:
            assert status == "undecided"


def test_too_few_requests_are_undecided_never_kept() -> None:
    contract = Contract(p99="5 ms")
    assert judge_latency(contract, n_requests=458, n_misses=0, seen_ms=1.0).status == "undecided"
    assert judge_latency(contract, n_requests=459, n_misses=0, seen_ms=1.0).status == "kept"
    assert requests_to_decide(99.0) == 459


def test_a_late_generator_makes_the_verdict_void() -> None:
    clause = judge_latency(Contract(p99=5), n_requests=1000, n_misses=0, seen_ms=1.0, void="the generator was late")
    assert judge([clause]).status == "void"


def test_one_broken_clause_breaks_the_contract() -> None:
    contract = Contract(p99=5, max_drop=1.0, floor=80)
    latency = judge_latency(contract, n_requests=1000, n_misses=0, seen_ms=1.0)
    quality = judge_quality(contract, quality=84.0, reference=86.0, interval=(1.0, 3.0))
    verdict = judge([latency, *quality])
    assert isinstance(verdict, Verdict)
    assert [clause.status for clause in verdict.clauses] == ["kept", "broken", "kept"]
    assert verdict.status == "broken"


def test_a_contract_survives_its_record() -> None:
    contract = Contract(p95="2.5 ms", rate="200/s", floor=85, memory_mb=400)
    assert Contract.from_record(contract.record()) == contract


@pytest.mark.parametrize(
    "wrong",
    [{}, {"p50": 1, "p99": 2}, {"p99": "five"}, {"p99": -1}, {"p99": "0 ms"}, {"p99": 5, "rate": "fast"},
     {"p99": 5, "max_drop": -1}, {"p99": 5, "floor": 101}],
)  # fmt: skip
def test_a_contract_that_cannot_be_is_refused_with_a_sentence(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidValue, match="give"):
        Contract(**wrong)  # type: ignore[arg-type]
