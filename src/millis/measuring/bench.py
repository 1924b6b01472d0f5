"""Offer load to any HTTP server from another process, and sum up what came back.

Border: starts the generator (load.py) and reads its result; judges nothing (contract.py does).
Limits: as the generator's; POST of JSON over http:// only.
"""

import math
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import msgspec

from millis.errors import InvalidData, InvalidValue, RunFailed
from millis.measuring.histograms import Histogram, LatencySummary
from millis.measuring.load import Plan, Progress, Raw
from millis.telemetry.progress import bar

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS = ("connection", "content-length", "transfer-encoding")
_DESCRIPTION = re.compile(r'desc\s*=\s*"[^"]*"')
_STAGE = re.compile(r"^\s*([^\s;]+)\s*;.*?\bdur\s*=\s*\"?([0-9]+(?:\.[0-9]+)?)")
_LATE_MS, _LATE_OF_BOUND, _UNSENT_SHARE = 1.0, 0.1, 0.01
_COLUMNS = ("n", "mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms")


class TokenTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of answers that came as events: their tokens.

    Args:
        n: tokens of all answers.
        per_s: tokens of all answers, over the run.
        first: until an answer's first piece, from the scheduled arrival (TTFT).
        each: an answer's mean time per token after the first (TPOT); of answers of two tokens at least.
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


def offer_load(
    url: str,
    *,
    bodies: Sequence[bytes],
    rate_per_s: float,
    seconds: float | None = None,
    n_requests: int | None = None,
    bound_ms: float | None = None,
    token_bound_ms: float | None = None,
    seed: int = 7,
    connections: int = 16,
    most_connections: int = 512,
    headers: Sequence[tuple[str, str]] = (),
    timeout_s: float = 10.0,
    warmup: int = 50,
    name: str = "load",
) -> LoadResult:
    """Offer POST requests at Poisson arrivals, whether the server keeps up or not.

    Args:
        url: http://host:port/path.
        bodies: JSON bodies; sent in an order drawn from seed, then in the same order again.
        rate_per_s: of the arrivals.
        seconds: how long, on average; or n_requests, exactly one of the two.
        n_requests: how many.
        bound_ms: count the requests that miss it; of streamed answers the first piece is to keep it.
        token_bound_ms: count the streamed answers whose mean time per later token misses it.
        seed: of the arrivals and of the order.
        connections: opened at the start; more, up to most_connections (at most 900), when all are busy.
        headers: sent with each request, besides or instead of Host and Content-Type.
        timeout_s: how long after the last arrival answers are waited for.
        warmup: requests sent one after another before the clock starts; not counted.
        name: what the progress bar says.

    Returns:
        The result; its `void` says so when the generator was late (p99 over 1 ms, or over a tenth of the bound when
        that is more) or could not send 1 % of the requests for want of descriptors, ports or memory. A server that
        keeps all connections busy does not make a run void: what it delays is charged to it.

    Raises:
        InvalidValue: a URL that is not http, or settings that cannot be.
        RunFailed: nobody answers there, no request had a 2xx answer, or the generator died.
    """
    parts = _read_url(url)
    for what, bound in (("bound_ms", bound_ms), ("token_bound_ms", token_bound_ms)):
        if bound is None or 0 < bound <= timeout_s * 1000:
            continue
        raise InvalidValue(
            f"{what} cannot be {bound:g} where answers are waited for {timeout_s:g} s:"
            " give more than 0 and at most timeout_s."
        )
    plan = Plan(
        host=parts.hostname or "",
        port=parts.port or 80,
        head=_write_head(parts, headers),
        bodies=tuple(bodies),
        rate_per_s=rate_per_s,
        n_requests=_count(rate_per_s, seconds=seconds, n_requests=n_requests),
        seed=seed,
        connections=connections,
        most_connections=most_connections,
        timeout_s=timeout_s,
        warmup=warmup,
    )
    return _sum_up(
        _run(plan, url=url, name=name), plan=plan, url=url, bound_ms=bound_ms, token_bound_ms=token_bound_ms
    )


def read_bodies(path: str | Path) -> tuple[bytes, ...]:
    """Read one JSON body per line; blank lines are passed over.

    Raises:
        InvalidData: names the lines that are not JSON, up to ten, or says that there is no body.
    """
    try:
        rows = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise InvalidData(f"{path} cannot be read ({reason}): give a file with one JSON body per line.") from error
    bodies, bad = [], []
    for number, row in enumerate((row.strip() for row in rows), 1):
        if not row:
            continue
        try:
            msgspec.json.decode(row)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            bad.append(f"{path}:{number}: not JSON ({error})")
        except RecursionError:
            bad.append(f"{path}:{number}: nested too deeply")
        bodies.append(row)
    if bad:
        more = f"\n... and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise InvalidData("\n".join(bad[:10]) + f"{more}\nGive one JSON body per line.")
    if not bodies:
        raise InvalidData(f"{path}:1: no body in it: give one JSON body per line.")
    return tuple(bodies)


def _read_url(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme == "http" and bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or not re.fullmatch(r"[!-~]+", url):
        raise InvalidValue(
            f"cannot offer load to {url!r}: give an http address without a password, other characters than ASCII"
            " percent-encoded, like http://127.0.0.1:8000/v1/ner."
        )
    return parts


def _count(rate_per_s: float, *, seconds: float | None, n_requests: int | None) -> int:
    if (seconds is None) == (n_requests is None):
        raise InvalidValue(f"seconds {seconds} with n_requests {n_requests} cannot be: give exactly one of them.")
    if n_requests is not None:
        return n_requests
    n = rate_per_s * (seconds or 0.0)
    if not math.isfinite(n):
        raise InvalidValue(f"{seconds} s at {rate_per_s}/s cannot be offered: give two positive numbers.")
    return round(n)


def _write_head(parts: SplitResult, headers: Sequence[tuple[str, str]]) -> str:
    """Write the request line and the headers, all but Content-Length."""
    written = {"host": f"Host: {parts.netloc}", "content-type": "Content-Type: application/json"}
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or not value.isprintable() or not value.isascii():
            raise InvalidValue(
                f"header {name!r} cannot be sent: give a name of letters, digits and hyphens, and a value in"
                " printable ASCII."
            )
        if name.lower() in _OWN_HEADERS:
            raise InvalidValue(f"header {name!r} is the generator's own: leave it out.")
        written[name.lower()] = f"{name}: {value}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return "\r\n".join((f"POST {target} HTTP/1.1", *written.values(), ""))


def _run(plan: Plan, *, url: str, name: str) -> Raw:
    """Run the plan in a process of its own, with a bar."""
    # The result goes to a file: in a pipe it would block the generator as long as its progress is being read.
    with tempfile.TemporaryFile() as seen, tempfile.TemporaryFile() as told:
        told.write(msgspec.json.encode(plan))
        told.seek(0)
        command = [sys.executable, "-m", "millis.measuring.load"]
        with subprocess.Popen(command, stdin=told, stdout=seen, stderr=subprocess.PIPE) as process:
            try:
                last_words = _follow(process, total=plan.n_requests, name=name)
            except BaseException:
                process.kill()
                raise
        if process.returncode == 0:
            seen.seek(0)
            return msgspec.json.decode(seen.read(), type=Raw)
    if process.returncode == 1 and isinstance(last_words, Progress):
        raise RunFailed(
            f"no load could be offered to {url}: {last_words.error}. It must accept POST over HTTP/1.1:"
            " start the server, or correct the address."
        )
    code = process.returncode
    end = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code} ({last_words})"
    raise RunFailed(f"the load generator {end} while it measured {url}, so there is no result: run it again.")


def _follow(process: "subprocess.Popen[bytes]", *, total: int, name: str) -> Progress | str:
    """Show the generator's progress to its end; give its last words, a progress line or any other."""
    last_words: Progress | str = "it said nothing"
    assert process.stderr is not None
    with bar(name, total=total) as advance:
        for line in process.stderr:
            try:
                last_words = msgspec.json.decode(line, type=Progress)
            except msgspec.DecodeError:
                last_words = line.decode(errors="replace").strip()
                continue
            advance(last_words.done, "")
    return last_words


def _sum_up(
    raw: Raw, *, plan: Plan, url: str, bound_ms: float | None, token_bound_ms: float | None
) -> LoadResult:
    if not raw.ok_ns:
        seen = _tell_bad(raw.statuses, raw.failures) or "all of them unanswered"
        raise RunFailed(
            f"none of {plan.n_requests} requests to {url} had a 2xx answer ({seen}), so there is nothing to measure:"
            " correct the address or the bodies, or offer less."
        )
    if 0 < len(raw.spoken) < len(raw.ok_ns):
        raise RunFailed(
            f"of {len(raw.ok_ns)} answers {len(raw.spoken)} came as events and the others whole, and no number speaks"
            " of both: offer bodies that all ask for a stream, or none."
        )
    histogram = Histogram().record(ns / 1e6 for ns in raw.ok_ns)
    lateness = Histogram().record(ns / 1e6 for ns in raw.late_ns).summary()
    n_ok = len(raw.ok_ns)
    n_refused = len(raw.refused_ns)
    n_errors = sum(raw.statuses.values()) - n_ok - n_refused + sum(raw.failures.values()) + raw.n_unsent
    timings = [_read_timing(value) for value in raw.timings]
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


def _sum_up_tokens(raw: Raw, *, n_requests: int, bound_ms: float | None) -> TokenTimes | None:
    if not raw.spoken:
        return None
    first = Histogram().record(one.first_ns / 1e6 for one in raw.spoken)
    each_ms = [one.later_ns / 1e6 / (one.n_tokens - 1) for one in raw.spoken if one.n_tokens > 1]
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


def _read_timing(value: str) -> dict[str, float]:
    """Read a Server-Timing header: ms by stage."""
    entries = (_STAGE.match(entry) for entry in _DESCRIPTION.sub("", value).split(","))
    return {match[1]: float(match[2]) for match in entries if match is not None}


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
    told = [f"{'ms':<{width}}" + "".join(f"{title:>9}" for title in titles)]
    for name, row in rows.items():
        cells = "".join(f"{getattr(row, column):>9.3f}" for column in _COLUMNS[1:])
        told.append(f"{name:<{width}}{row.n:>9}{cells}")
    return told
