"""Counts and latencies of a worker in Prometheus' format, added up over all workers of a server.

Border: numbers and names; the one file that imports prometheus_client. Workers share a folder of memory-mapped files
(the library's multi-process mode), so any worker can answer for all, and a dead worker's counts are not lost.
Limits: a fresh folder per server start; counters begin at zero there.
"""

import os
from collections.abc import Mapping
from pathlib import Path

STAGES = ("parse", "queue", "tokenize", "run", "decode", "write")
_EDGES_S = (
    0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0,
)  # fmt: skip


class Metrics:
    """What one worker counts.

    Args:
        folder: the folder that the workers of this server share.
        bounds_ms: bounds of the contracts served; each becomes an edge of the latency histogram.
    """

    def __init__(self, *, folder: Path, bounds_ms: Mapping[str, float]) -> None:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)  # read by the library when it is imported
        from prometheus_client import Counter, Gauge, Histogram

        edges = sorted({*_EDGES_S, *(bound / 1000 for bound in bounds_ms.values())})
        requests = Counter("millis_requests", "Answers by route and status.", ("route", "status"))
        seconds = Histogram(
            "millis_request_seconds", "From the parsed head to the written answer.", ("model", "rung"), buckets=edges
        )
        stages = Counter("millis_stage_seconds", "Time spent by stage.", ("model", "stage"))
        tokens = Counter("millis_tokens", "Tokens run, special tokens included, padding not.", ("model",))
        self._refusals = Counter("millis_refusals", "Requests refused, by reason.", ("route", "reason"))
        self._promises = Counter("millis_promises", "Admitted requests with a deadline, by outcome.", ("model", "kept"))
        self._hits = Counter("millis_cache_hits", "Requests answered from the cache.", ("model",))
        self._misses = Counter("millis_cache_misses", "Requests that the cache could not answer.", ("model",))
        self._cache_bytes = Gauge("millis_cache_bytes", "Kept answers.", multiprocess_mode="livesum")
        self._requests, self._seconds, self._stages, self._tokens = requests, seconds, stages, tokens
        self._bound: dict[tuple[str, str], tuple[object, ...]] = {}

    def count(self, *, route: str, status: int, n: int = 1) -> None:
        """Count answers."""
        self._requests.labels(route, str(status)).inc(n)

    def refuse(self, *, route: str, reason: str, n: int = 1) -> None:
        """Count refusals."""
        self._refusals.labels(route, reason).inc(n)

    def promise(self, *, model: str, is_kept: bool) -> None:
        """Count a request that was admitted under a deadline."""
        self._promises.labels(model, "true" if is_kept else "false").inc()

    def look_up(self, *, model: str, is_hit: bool, n_bytes: int) -> None:
        """Count a look into the cache, and note its size."""
        (self._hits if is_hit else self._misses).labels(model).inc()
        self._cache_bytes.set(n_bytes)

    def record(self, *, model: str, rung: str, total_ns: int, stages_ns: tuple[int, ...], n_tokens: int) -> None:
        """Record one answered request; stages_ns in the order of STAGES."""
        key = (model, rung)
        bound = self._bound.get(key)
        if bound is None:
            bound = self._bound[key] = (
                self._seconds.labels(model, rung),
                self._tokens.labels(model),
                *(self._stages.labels(model, stage) for stage in STAGES),
            )
        bound[0].observe(total_ns / 1e9)  # type: ignore[attr-defined]
        bound[1].inc(n_tokens)  # type: ignore[attr-defined]
        for child, ns in zip(bound[2:], stages_ns, strict=True):
            child.inc(ns / 1e9)  # type: ignore[attr-defined]


def forget_process(folder: Path, pid: int) -> None:
    """Take out of the sums what a process that ended had at that time; what it counted stays."""
    for file in folder.glob(f"gauge_live*_{pid}.db"):
        file.unlink(missing_ok=True)


def write_metrics() -> tuple[bytes, str]:
    """Give the sum over all workers as text, and its media type."""
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST
