"""Counts and latencies of a worker in Prometheus' format, added up over all workers of a server.

Border: numbers and names; the one file that imports prometheus_client. Workers share a folder of memory-mapped files
(the library's multi-process mode), so any worker can answer for all, and a dead worker's counts are not lost.
Limits: a fresh folder per server start; counters begin at zero there.
"""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

STAGES = ("parse", "queue", "tokenize", "run", "decode", "write")
_QUEUE = STAGES.index("queue")
_EDGES_S = (
    0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0,
)  # fmt: skip
_LONG_EDGES_S = (2.0, 4.0, 8.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """What one worker counts.

    Args:
        folder: the folder that the workers of this server share.
    """

    def __init__(self, *, folder: Path) -> None:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)  # read by the library when it is imported
        from prometheus_client import Counter, Gauge, Histogram

        requests = Counter("millis_requests", "Answers by route and status.", ("route", "status"))
        self._make_seconds = partial(
            Histogram, "millis_request_seconds", "From the read head to the written answer.", ("model", "rung"),
            registry=None,
        )  # fmt: skip
        stages = Counter("millis_stage_seconds", "Time spent by stage.", ("model", "stage"))
        tokens = Counter("millis_tokens", "Tokens run, special tokens included, padding not.", ("model",))
        self._refusals = Counter("millis_refusals", "Requests refused, by reason.", ("route", "reason"))
        self._promises = Counter("millis_promises", "Admitted requests with a deadline, by outcome.", ("model", "kept"))
        self._hits = Counter("millis_cache_hits", "Requests answered from the cache.", ("model",))
        self._misses = Counter("millis_cache_misses", "Requests that the cache could not answer.", ("model",))
        self._cache_bytes = Gauge("millis_cache_bytes", "Kept answers.", multiprocess_mode="livesum")
        self._trials = Counter("millis_trials", "Requests that a version on trial was asked.", ("model", "outcome"))
        self._bounds = Gauge(
            "millis_contract_bound_seconds", "The bound of the contract.", ("model",), multiprocess_mode="mostrecent"
        )
        self._kept = Counter("millis_within_contract", "Answers within the contract's bound (goodput).", ("model",))
        self._late = Counter("millis_late_answers", "Answers over the bound, by largest part.", ("model", "cause"))
        self._waiting = Gauge("millis_queue_length", "Requests that wait.", multiprocess_mode="livesum")
        self._queue = Histogram("millis_queue_seconds", "Time in the queue.", ("model",), buckets=_EDGES_S)
        self._margin = Gauge(
            "millis_forecast_margin_seconds", "Distance that a promise keeps to its deadline.", ("model",),
            multiprocess_mode="livemax",
        )  # fmt: skip
        self._rows = Histogram("millis_batch_rows", "Rows of a device's batch.", ("model",), buckets=_ROWS)
        self._batch_tokens = Counter("millis_batch_tokens", "Tokens of a device's batches.", ("model", "kind"))
        self._odd = Counter("millis_out_of_distribution", "Windows unlike the data of the model.", ("model",))
        self._drift = Gauge(
            "millis_drift_index", "Population stability index of requests against dev.", ("model", "signal"),
            multiprocess_mode="livemax",
        )  # fmt: skip
        self._gc = Counter("millis_gc_pause_seconds", "Time that Python's collector took.")
        self._core = Counter("millis_core_wait_seconds", "Time that the event loop was ready and had no core.")
        self._steal = Gauge("millis_cpu_steal_seconds", "Time taken by other machines.", multiprocess_mode="livemax")
        self._throttle = Gauge("millis_throttled_seconds", "Time without quota.", multiprocess_mode="livemax")
        self._make_first = partial(
            Histogram, "millis_first_token_seconds", "Until an answer's first piece.", ("model",), registry=None
        )
        self._make_each = partial(
            Histogram, "millis_output_token_seconds", "Mean of an answer's later pieces.", ("model",), registry=None
        )
        self._said = Counter("millis_output_tokens", "Pieces of answers.", ("model",))
        self._before_ns = {"gc": 0, "core": 0}
        self._histograms: dict[str, tuple[float, Any]] = {}
        self._speech: dict[str, tuple[float, float | None, Any, Any]] = {}
        self._requests, self._stages, self._tokens = requests, stages, tokens
        self._bound: dict[tuple[str, str], tuple[Any, ...]] = {}

    def expect(self, model: str, *, bound_ms: float) -> None:
        """Count a model's latencies with an edge at its contract's bound."""
        before = self._histograms.get(model)
        if before is not None and before[0] == bound_ms / 1000:
            return
        edges = sorted({*_EDGES_S, bound_ms / 1000})
        self._histograms[model] = (bound_ms / 1000, self._make_seconds(buckets=edges))
        self._bounds.labels(model).set(bound_ms / 1000)
        self._bound = {key: one for key, one in self._bound.items() if key[0] != model}

    def expect_speech(self, model: str, *, bound_ms: float, per_token_ms: float | None) -> None:
        """Count a model's pieces with edges at its contract's bounds: on the first, and on the mean of the later."""
        bounds = bound_ms / 1000, None if per_token_ms is None else per_token_ms / 1000
        before = self._speech.get(model)
        if before is not None and before[:2] == bounds:
            return
        first, each = (
            make(buckets=sorted({*_EDGES_S, *_LONG_EDGES_S, *filter(None, [bound_s])})).labels(model)
            for make, bound_s in zip((self._make_first, self._make_each), bounds, strict=True)
        )
        self._speech[model] = (*bounds, first, each)
        self._bounds.labels(model).set(bounds[0])

    def count(self, *, route: str, status: int, n: int = 1) -> None:
        """Count answers."""
        self._requests.labels(route, str(status)).inc(n)

    def refuse(self, *, route: str, reason: str, n: int = 1) -> None:
        """Count refusals."""
        self._refusals.labels(route, reason).inc(n)

    def generate(self, *, model: str, n_tokens: int, first_s: float, each_s: float | None) -> None:
        """Record one generated answer; each_s is None where it has a single piece."""
        bound_s, per_token_s, first, each = self._speech[model]
        self._said.labels(model).inc(n_tokens)
        first.observe(first_s)
        if each_s is not None:
            each.observe(each_s)
        if first_s <= bound_s and (per_token_s is None or each_s is None or each_s <= per_token_s):
            self._kept.labels(model).inc()

    def promise(self, *, model: str, is_kept: bool) -> None:
        """Count a request that was admitted under a deadline."""
        self._promises.labels(model, "true" if is_kept else "false").inc()

    def batch(self, *, model: str, n_rows: int, n_tokens: int, n_padding: int) -> None:
        """Count a batch that a device ran."""
        self._rows.labels(model).observe(n_rows)
        self._batch_tokens.labels(model, "real").inc(n_tokens)
        self._batch_tokens.labels(model, "padding").inc(n_padding)

    def look_up(self, *, model: str, is_hit: bool, n_bytes: int) -> None:
        """Count a look into the cache, and note its size."""
        (self._hits if is_hit else self._misses).labels(model).inc()
        self._cache_bytes.set(n_bytes)

    def try_out(self, *, model: str, outcome: str) -> None:
        """Count what a version on trial did: "agrees" or "differs" as a shadow, "skipped", "failed"."""
        self._trials.labels(model, outcome).inc()

    def see_odd(self, *, model: str, n: int) -> None:
        """Count windows that are unlike the data; 0 makes the count be there."""
        self._odd.labels(model).inc(n)

    def drift(self, model: str, index: Mapping[str, float]) -> None:
        """Note how far requests have moved from the data, by signal."""
        for signal, value in index.items():
            self._drift.labels(model, signal).set(value)

    def late(self, *, model: str, cause: str) -> None:
        """Count an answer over its bound by what took most of it: a stage, or a cause of Jitter.attribute."""
        self._late.labels(model, cause).inc()

    def watch(
        self, *, n_waiting: int, gc_ns: int, core_ns: int, steal_ns: int, throttle_ns: int,
        margins_ns: Mapping[str, float],
    ) -> None:  # fmt: skip
        """Note what is no event; the times are sums since the start of the process or of the machine."""
        self._waiting.set(n_waiting)
        for model, ns in margins_ns.items():
            self._margin.labels(model).set(ns / 1e9)
        self._steal.set(steal_ns / 1e9)
        self._throttle.set(throttle_ns / 1e9)
        for name, counter, ns in (("gc", self._gc, gc_ns), ("core", self._core, core_ns)):
            counter.inc(max(ns - self._before_ns[name], 0) / 1e9)
            self._before_ns[name] = ns

    def record(self, *, model: str, rung: str, total_ns: int, stages_ns: tuple[int, ...], n_tokens: int) -> None:
        """Record one answered request; stages_ns in the order of STAGES."""
        key = (model, rung)
        bound = self._bound.get(key)
        if bound is None:
            bound_s, seconds = self._histograms[model]
            bound = self._bound[key] = (
                bound_s,
                self._kept.labels(model),
                seconds.labels(model, rung),
                self._queue.labels(model),
                self._tokens.labels(model),
                *(self._stages.labels(model, stage) for stage in STAGES),
            )
        bound_s, kept, seconds, queue, tokens, *stages = bound
        queue.observe(stages_ns[_QUEUE] / 1e9)
        seconds.observe(total_ns / 1e9)
        if total_ns <= 1e9 * bound_s:
            kept.inc()
        tokens.inc(n_tokens)
        for child, ns in zip(stages, stages_ns, strict=True):
            child.inc(ns / 1e9)


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
