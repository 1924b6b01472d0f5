"""Offer load to any HTTP server from another process, and sum up what came back.

Border: runs the generator (load.py) and reads its result; judges nothing.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from millis.errors import InvalidData, InvalidValue, RunFailed
from millis.measuring.histograms import Histogram, LatencySummary
from millis.measuring.load import Plan, Raw
from millis.telemetry.progress import bar


class LoadResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An open-loop run, summed up.

    Args:
        n_misses: requests over bound_ms, refused, failed or never answered; None without a bound.
        n_refused: 429 and 503 answers; n_errors: other statuses than 2xx, and broken connections.
        latency: of the 2xx answers, from the scheduled arrival.
        lateness: of the generator itself.
        stages: Server-Timing by stage.
        void: why the run says nothing, or None.
    """

    offered_per_s: float
    achieved_per_s: float
    seconds: float
    n_requests: int
    n_ok: int
    n_refused: int
    n_errors: int
    n_unanswered: int
    n_connections: int
    statuses: dict[int, int]
    bound_ms: float | None
    n_misses: int | None
    latency: LatencySummary
    lateness: LatencySummary
    stages: dict[str, LatencySummary]
    rungs: dict[str, int]
    histogram: str
    void: str | None = None

    def lines(self) -> tuple[str, ...]:
        """Write the run for a terminal."""
        late, seen = self.lateness, self.latency
        rows = [
            f"offered {self.offered_per_s:g}/s, answered {self.achieved_per_s:.1f}/s over {self.seconds:.1f} s:"
            f" {self.n_ok} ok, {self.n_refused} refused, {self.n_errors} errors, {self.n_unanswered} unanswered",
            f"p50 {seen.p50_ms:.2f}  p90 {seen.p90_ms:.2f}  p95 {seen.p95_ms:.2f}  p99 {seen.p99_ms:.2f}"
            f"  p99.9 {seen.p999_ms:.2f}  max {seen.max_ms:.2f} ms",
            f"generator late: p50 {late.p50_ms:.2f}, p99 {late.p99_ms:.2f} ms; {self.n_connections} connections",
        ]
        if self.bound_ms is not None:
            rows.append(f"{self.n_misses} of {self.n_requests} missed {self.bound_ms:g} ms")
        if self.stages:
            stages = ", ".join(f"{name} {row.p50_ms:.3f}/{row.p99_ms:.3f}" for name, row in self.stages.items())
            rows.append(f"stages p50/p99 ms: {stages}")
        if self.void:
            rows.append(f"VOID: {self.void}")
        return tuple(rows)


def offer_load(
    url: str,
    *,
    bodies: Sequence[bytes],
    rate_per_s: float,
    seconds: float | None = None,
    n_requests: int | None = None,
    bound_ms: float | None = None,
    seed: int = 7,
    connections: int = 16,
    headers: Sequence[tuple[str, str]] = (),
    timeout_s: float = 10.0,
    warmup: int = 50,
    name: str = "load",
) -> LoadResult:
    """Offer an open-loop Poisson load of POST requests.

    Args:
        url: http://host:port/path.
        bodies: JSON bodies, taken in turn.
        seconds, n_requests: exactly one of them says how long.
        bound_ms: count the requests that miss it.
        name: what the progress bar says.

    Raises:
        InvalidValue: a URL that is not http, or settings that cannot be.
        RunFailed: nobody answers there, or the generator died.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise InvalidValue(f"cannot offer load to {url!r}: give an address like http://127.0.0.1:8000/v1/ner.")
    if (seconds is None) == (n_requests is None):
        raise InvalidValue("give either seconds or a number of requests, not both and not neither.")
    n = n_requests if n_requests is not None else round(rate_per_s * (seconds or 0))
    if n < 1 or rate_per_s <= 0 or not 1 <= connections <= 900:
        raise InvalidValue(
            f"{n} requests at {rate_per_s:g}/s over {connections} connections cannot be offered: give at least one"
            " request, a positive rate, 1 to 900 connections."
        )
    if not bodies:
        raise InvalidValue("there is nothing to send: give at least one body.")
    plan = Plan(
        host=parts.hostname,
        port=parts.port or 80,
        path=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        bodies=tuple(body.decode() for body in bodies),
        rate_per_s=rate_per_s,
        n_requests=n,
        seed=seed,
        headers=tuple(headers),
        connections=connections,
        timeout_s=timeout_s,
        warmup=warmup,
    )
    return _sum_up(_run(plan, name=name), plan=plan, bound_ms=bound_ms)


def read_bodies(path: str | Path) -> tuple[bytes, ...]:
    """Read one JSON body per line; blank lines are passed over.

    Raises:
        InvalidData: names the line that is not JSON, or says that there is none.
    """
    try:
        rows = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise InvalidData(f"{path} cannot be read: {error.strerror}. Give a file with one JSON body per line.") from error
    bodies = []
    for number, row in enumerate(rows, 1):
        if not row.strip():
            continue
        try:
            msgspec.json.decode(row)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidData(f"{path}:{number}: not JSON ({error}). Give one JSON body per line.") from error
        bodies.append(row.strip())
    if not bodies:
        raise InvalidData(f"{path}:1: no body in it. Give one JSON body per line.")
    return tuple(bodies)


def _run(plan: Plan, *, name: str) -> Raw:
    process = subprocess.Popen(
        [sys.executable, "-m", "millis.measuring.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    words = ""
    try:
        with process:
            process.stdin.write(msgspec.json.encode(plan))
            process.stdin.close()
            with bar(name, total=plan.n_requests) as advance:
                for line in process.stderr:
                    words = line.decode().strip()
                    done = words.partition(" ")[0]
                    if done.isdigit():
                        advance(int(done), "")
            output = process.stdout.read()
    except BaseException:
        process.kill()
        raise
    if process.returncode != 0:
        target = f"http://{plan.host}:{plan.port}{plan.path}"
        if words.startswith("failed "):
            raise RunFailed(f"no load could be offered to {target}: {words[7:]}. Is a server up there?")
        raise RunFailed(f"the load generator ended with code {process.returncode} while it measured {target}.")
    return msgspec.json.decode(output, type=Raw)


def _sum_up(raw: Raw, *, plan: Plan, bound_ms: float | None) -> LoadResult:
    histogram = Histogram().record(raw.ok_ms)
    lateness = Histogram().record(raw.late_ms).summary()
    n_refused = raw.statuses.get(429, 0) + raw.statuses.get(503, 0)
    n_errors = sum(count for status, count in raw.statuses.items() if not 200 <= status < 300) - n_refused
    limit_ms = max(2.0, (bound_ms or 0.0) / 4)
    void = None
    if lateness.p99_ms > limit_ms:
        void = (
            f"the generator itself was {lateness.p99_ms:.1f} ms late at p99 where {limit_ms:.1f} ms is allowed: offer less,"
            " or give the machine another core"
        )
    n_late = sum(latency > bound_ms for latency in raw.ok_ms) if bound_ms is not None else 0
    return LoadResult(
        offered_per_s=plan.rate_per_s,
        achieved_per_s=len(raw.ok_ms) / raw.seconds,
        seconds=raw.seconds,
        n_requests=plan.n_requests,
        n_ok=len(raw.ok_ms),
        n_refused=n_refused,
        n_errors=n_errors + raw.n_failed,
        n_unanswered=raw.n_unanswered,
        n_connections=raw.n_connections,
        statuses=raw.statuses,
        bound_ms=bound_ms,
        n_misses=None if bound_ms is None else n_late + plan.n_requests - len(raw.ok_ms),
        latency=histogram.summary(),
        lateness=lateness,
        stages={stage: Histogram().record(values).summary() for stage, values in raw.timings.items()},
        rungs=raw.rungs,
        histogram=histogram.encode(),
        void=void,
    )
