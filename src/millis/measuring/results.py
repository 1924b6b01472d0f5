"""What a run of load came to: counts, latencies, stages, tokens, and whether it says anything at all.

Border: what the generator saw (plan.py) in, a result and its table for a terminal out; offers no load (bench.py does)
and judges nothing (contract.py does).
"""

from collections.abc import Sequence

import msgspec

from millis.asking.wire import read_times
from millis.errors import AllRefused, RunFailed
from millis.measuring.histograms import Histogram, LatencySummary
from millis.measuring.plan import Plan, Raw

_LATE_MS, _LATE_OF_BOUND, _UNSENT_SHARE = 1.0, 0.1, 0.01
_COLUMNS = ("n", "mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms")


class TokenTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of answers that came as events: their tokens.

    Args:
        n: tokens of all answers.
        per_s: tokens of all answers, over the run.
        first: until an answer's first piece, from the scheduled arrival (TTFT).
        each: an answer's mean time per token after the first (TPOT); of answers that came in two events at least.
        gap: between one event and the next.
        bound_ms: on `each`.
        n_misses: answers whose mean is over bound_ms, and requests without an answer; None without a bound.
        first_histogram, each_histogram: as `Histogram` reads them.
    """

    n: int
    per_s: float
    first: LatencySummary
    each: LatencySummary | None
    gap: LatencySummary | None
    bound_ms: float | None
    n_misses: int | None
    first_histogram: str
    each_histogram: str

    def first_ms(self, percentile: float) -> float:
        """Give any percentile of the times to the first piece."""
        return Histogram(self.first_histogram).percentile_ms(percentile)

    def each_ms(self, percentile: float) -> float | None:
        """Give any percentile of the times per token."""
        return Histogram(self.each_histogram).percentile_ms(percentile) if self.each is not None else None


class LoadResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An open-loop Poisson run, summed up.

    Args:
        offered_per_s: the rate asked for; achieved_per_s counts 2xx answers over seconds.
        n_requests: all that were due = n_ok + n_refused + n_errors + n_unanswered.
        n_refused: 429, 503 and 504 answers.
        n_errors: other answers than 2xx (in statuses), connections that failed (in failures), and n_unsent.
        n_unanswered: due, but without an answer when time was up.
        n_unsent: requests for which the generator's machine had no descriptor, port or memory.
        n_waited: requests that found every connection busy, and no more allowed; their wait is in the latency.
        is_first: whether the generator ran before others when something was due (root may).
        n_misses: over bound_ms (of a streamed answer: its first piece), refused, failed or unanswered; None without
            a bound.
        n_sure_misses: 2xx answers whose Server-Timing alone adds up to more than bound_ms, so that no lateness of the
            generator can have made them late; None without a bound.
        latency: of 2xx answers, from the scheduled arrival.
        refusals: of n_refused, likewise; None where there are none.
        lateness: how late the generator sent what was due and had a connection.
        stages: Server-Timing of 2xx answers, by stage.
        rungs: 2xx answers by X-Millis-Rung.
        histogram: the latencies, as `Histogram` reads them.
        tokens: of answers that came as events; None where none did.
        void: why the run says nothing, or None.
    """

    offered_per_s: float
    achieved_per_s: float
    seconds: float
    seed: int
    n_requests: int
    n_ok: int
    n_refused: int
    n_errors: int
    n_unanswered: int
    n_unsent: int
    n_waited: int
    n_connections: int
    is_first: bool
    statuses: dict[int, int]
    failures: dict[str, int]
    bound_ms: float | None
    n_misses: int | None
    n_sure_misses: int | None
    latency: LatencySummary
    lateness: LatencySummary
    stages: dict[str, LatencySummary]
    rungs: dict[str, int]
    histogram: str
    refusals: LatencySummary | None = None
    tokens: TokenTimes | None = None
    void: str | None = None

    def percentile_ms(self, percentile: float) -> float:
        """Give any percentile of the latencies of 2xx answers."""
        return Histogram(self.histogram).percentile_ms(percentile)

    def due_percentile_ms(self, percentile: float) -> float | None:
        """Give any percentile of all that were due, where nothing is later than what had no 2xx answer; None for it."""
        share = percentile * self.n_requests / self.n_ok
        return self.percentile_ms(share) if share <= 100 else None

    def lines(self) -> tuple[str, ...]:
        """Write the run as a table for a terminal."""
        told = [
            f"offered {self.offered_per_s:g}/s, answered {self.achieved_per_s:.1f}/s over {self.seconds:.1f} s:"
            f" {self.n_ok} ok, {self.n_refused} refused, {self.n_errors} errors, {self.n_unanswered} unanswered"
        ]
        bad = [_tell_bad(self.statuses, self.failures)] if self.n_refused + self.n_errors > self.n_unsent else []
        bad += [f"{self.n_unsent} could not be sent"] if self.n_unsent else []
        bad += [f"{self.n_waited} waited for a connection"] if self.n_waited else []
        told += [f"  {', '.join(bad)}"] if bad else []
        rows = {"latency": self.latency}
        if self.tokens is not None:
            times = {"first token": self.tokens.first, "each later token": self.tokens.each, "gap": self.tokens.gap}
            rows |= {name: row for name, row in times.items() if row is not None}
            told.append(f"{self.tokens.n:,} tokens, {self.tokens.per_s:.1f}/s")
        rows |= {"refusal": self.refusals} if self.refusals else {}
        rows["generator late"] = self.lateness
        rows |= {f"stage {name}": row for name, row in self.stages.items()}
        told += _write_table(rows)
        if self.rungs:
            told.append("rungs: " + ", ".join(f"{name} {count}" for name, count in sorted(self.rungs.items())))
        if self.n_misses is not None:
            what = " with their first token" if self.tokens is not None else ""
            told.append(f"{self.n_misses} of {self.n_requests} missed {self.bound_ms:g} ms{what}")
        if self.tokens is not None and self.tokens.n_misses is not None:
            told.append(
                f"{self.tokens.n_misses} of {self.n_requests} missed {self.tokens.bound_ms:g} ms for each later token"
            )
        if self.void is not None:
            told.append(f"VOID: {self.void}")
        return tuple(told)


def sum_up(
    raw: Raw, *, plan: Plan, url: str, bound_ms: float | None, token_bound_ms: float | None
) -> LoadResult:
    """Sum up what the generator saw of a plan.

    Raises:
        AllRefused: every answer was a refusal.
        RunFailed: no request had a 2xx answer, or only some of the answers were streamed.
    """
    _check_answers(raw, plan=plan, url=url)
    histogram = Histogram().record(ns / 1e6 for ns in raw.ok_ns)
    lateness = Histogram().record(ns / 1e6 for ns in raw.late_ns).summary()
    n_ok = len(raw.ok_ns)
    n_refused = len(raw.refused_ns)
    n_errors = sum(raw.statuses.values()) - n_ok - n_refused + sum(raw.failures.values()) + raw.n_unsent
    timings = [read_times(value) for value in raw.timings]
    judged_ns = [one.first_ns for one in raw.spoken] or raw.ok_ns
    n_in_time = sum(ns <= bound_ms * 1e6 for ns in judged_ns) if bound_ms is not None else 0
    return LoadResult(
        offered_per_s=plan.rate_per_s,
        achieved_per_s=n_ok / raw.seconds,
        seconds=raw.seconds,
        seed=plan.seed,
        n_requests=plan.n_requests,
        n_ok=n_ok,
        n_refused=n_refused,
        n_errors=n_errors,
        n_unanswered=plan.n_requests - n_ok - n_refused - n_errors,
        n_unsent=raw.n_unsent,
        n_waited=raw.n_waited,
        n_connections=raw.n_connections,
        is_first=raw.is_first,
        statuses=raw.statuses,
        failures=raw.failures,
        bound_ms=bound_ms,
        n_misses=None if bound_ms is None else plan.n_requests - n_in_time,
        n_sure_misses=None if bound_ms is None else sum(sum(timing.values()) > bound_ms for timing in timings),
        latency=histogram.summary(),
        refusals=Histogram().record(ns / 1e6 for ns in raw.refused_ns).summary() if raw.refused_ns else None,
        lateness=lateness,
        stages=_sum_up_stages(timings),
        rungs=raw.rungs,
        histogram=histogram.encode(),
        tokens=_sum_up_tokens(raw, n_requests=plan.n_requests, bound_ms=token_bound_ms),
        void=_why_void(raw, lateness=lateness, n_requests=plan.n_requests, bound_ms=bound_ms),
    )


def _check_answers(raw: Raw, *, plan: Plan, url: str) -> None:
    """Refuse answers that give no latency, or latencies of two kinds.

    Raises: as `sum_up`.
    """
    if not raw.ok_ns:
        seen = _tell_bad(raw.statuses, raw.failures) or "all of them unanswered"
        if raw.refused_ns and len(raw.refused_ns) == sum(raw.statuses.values()) and not raw.failures:
            n_left = plan.n_requests - len(raw.refused_ns)
            left = f" or, {n_left} of them, left without an answer" if n_left else ""
            raise AllRefused(
                f"all {plan.n_requests} requests to {url} were refused ({seen}){left}, so there is no latency to"
                " measure: offer less, or let the server take longer."
            )
        raise RunFailed(
            f"none of {plan.n_requests} requests to {url} had a 2xx answer ({seen}), so there is nothing to measure:"
            " correct the address or the bodies, or offer less."
        )
    if 0 < len(raw.spoken) < len(raw.ok_ns):
        raise RunFailed(
            f"of {len(raw.ok_ns)} answers {len(raw.spoken)} came as events and the others whole, and no number speaks"
            " of both: offer bodies that all ask for a stream, or none."
        )


def _sum_up_tokens(raw: Raw, *, n_requests: int, bound_ms: float | None) -> TokenTimes | None:
    if not raw.spoken:
        return None
    first = Histogram().record(one.first_ns / 1e6 for one in raw.spoken)
    each_ms = [one.later_ns / 1e6 / (one.n_tokens - 1) for one in raw.spoken if one.gaps_ns]
    each = Histogram().record(each_ms)
    gaps = [gap / 1e6 for one in raw.spoken for gap in one.gaps_ns]
    n_tokens = sum(one.n_tokens for one in raw.spoken)
    n_kept = len(raw.spoken) - (sum(ms > bound_ms for ms in each_ms) if bound_ms is not None else 0)
    return TokenTimes(
        n=n_tokens, per_s=n_tokens / raw.seconds, first=first.summary(), each=each.summary() if each_ms else None,
        gap=Histogram().record(gaps).summary() if gaps else None, bound_ms=bound_ms,
        n_misses=None if bound_ms is None else n_requests - n_kept,
        first_histogram=first.encode(), each_histogram=each.encode(),
    )  # fmt: skip


def _why_void(raw: Raw, *, lateness: LatencySummary, n_requests: int, bound_ms: float | None) -> str | None:
    if raw.n_unsent > _UNSENT_SHARE * n_requests:
        return (
            f"{raw.n_unsent} of {n_requests} requests could not be sent, since the generator's machine had no"
            f" descriptor, port or memory for them, where {_UNSENT_SHARE:.0%} is allowed:"
            " raise its limits, or offer less"
        )
    allowed_ms = max(_LATE_MS, _LATE_OF_BOUND * (bound_ms or 0.0))
    if lateness.p99_ms > allowed_ms:
        return (
            f"the generator itself was {lateness.p99_ms:.2f} ms late at p99, where {allowed_ms:g} ms is allowed:"
            " stop what else runs on the machine, offer less, or give it another core"
        )
    return None


def _sum_up_stages(timings: Sequence[dict[str, float]]) -> dict[str, LatencySummary]:
    stages: dict[str, list[float]] = {}
    for timing in timings:
        for stage, took_ms in timing.items():
            stages.setdefault(stage, []).append(took_ms)
    return {stage: Histogram().record(values).summary() for stage, values in stages.items()}


def _tell_bad(statuses: dict[int, int], failures: dict[str, int]) -> str:
    told = [f"{count} x {status}" for status, count in sorted(statuses.items()) if not 200 <= status < 300]
    return ", ".join(told + [f"{count} x {reason}" for reason, count in failures.items()])


def _write_table(rows: dict[str, LatencySummary]) -> list[str]:
    width = max((len(name) for name in rows), default=0)
    titles = [name.removesuffix("_ms").replace("p999", "p99.9") for name in _COLUMNS]
    told = [f"{'ms':<{width}}" + "".join(f" {title:>8}" for title in titles)]
    for name, row in rows.items():
        cells = "".join(f" {getattr(row, column):>8.3f}" for column in _COLUMNS[1:])
        told.append(f"{name:<{width}}{row.n:>9}{cells}")
    return told
