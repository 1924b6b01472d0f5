"""Offer load to any HTTP server from another process.

Border: starts the generator (load.py) and reads its result, which results.py sums up.
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

from millis.data.rows import BadRows, read_json_lines, read_rows
from millis.errors import InvalidValue, RunFailed
from millis.measuring.plan import Plan, Progress, Raw
from millis.measuring.results import LoadResult, sum_up
from millis.telemetry.progress import bar

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_WARMUP, _WARMUP_STREAMS = 50, 8
_OWN_HEADERS = ("connection", "content-length", "transfer-encoding")


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
    warmup: int | None = None,
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
        warmup: requests sent one after another before the clock starts; not counted. 50 when missing, or 8 where
            bodies ask for streams, which take their time.
        name: what the progress bar says.

    Returns:
        The result; its `void` says so when the generator was late (p99 over 1 ms, or over a tenth of the bound when
        that is more) or could not send 1 % of the requests for want of descriptors, ports or memory. A server that
        keeps all connections busy does not make a run void: what it delays is charged to it.

    Raises:
        InvalidValue: a URL that is not http, or settings that cannot be.
        AllRefused: every answer was a 429, 503 or 504.
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
        warmup=_choose_warmup(bodies) if warmup is None else warmup,
    )
    return sum_up(
        _run(plan, url=url, name=name), plan=plan, url=url, bound_ms=bound_ms, token_bound_ms=token_bound_ms
    )


def _choose_warmup(bodies: Sequence[bytes]) -> int:
    try:
        asked = msgspec.json.decode(bodies[0]) if bodies else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        asked = None
    return _WARMUP_STREAMS if isinstance(asked, dict) and asked.get("stream") is True else _WARMUP


def read_bodies(path: str | Path) -> tuple[bytes, ...]:
    """Read one JSON body per line; blank lines are passed over.

    Raises:
        InvalidData: names the lines that are not JSON, up to ten, or says that there is no body.
    """
    bad = BadRows(Path(path), limit=10)

    def read(_line: int, text: str) -> bytes:
        msgspec.json.decode(text)
        return text.strip().encode()

    bodies = read_json_lines(read_rows(Path(path), bad=bad), read, bad=bad)
    bad.raise_any()
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
            f"no load could be offered to {url}: {last_words.error}. It must accept POST over HTTP/1.1 and answer"
            " within the time-out: start the server, correct the address, or give more time."
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
