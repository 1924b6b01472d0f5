"""What is noted of every answer and refusal: counts, the slowest ones and why, a log line, a trace.

Border: called when the answer is out, with times that were measured anyway; names and numbers, never a text.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from time import perf_counter_ns
from typing import Any

from millis.serving.executor import Executor
from millis.serving.gate import KEY
from millis.serving.generating import Talker
from millis.serving.replies import Scope
from millis.serving.scheduling import Job
from millis.serving.served import Served
from millis.telemetry.jitter import Jitter
from millis.telemetry.logs import Log
from millis.telemetry.metrics import STAGES, Metrics
from millis.telemetry.slowest import Slow, Slowest
from millis.telemetry.traces import Traces

_REFUSALS = (503, 504)
"""Statuses of what is well asked, and not answered or not answered in time."""

_WATCH_S = 0.5
_LOOK_AGAIN_NS = 20_000_000
"""Between two looks at what held late answers up: each reads two files."""


class Observer:
    """Notes what a worker does.

    Args:
        traces: None makes no spans.
    """

    def __init__(
        self, *, metrics: Metrics, log: Log, slowest: Slowest, executor: Executor, traces: Traces | None = None
    ) -> None:
        self.metrics, self.log, self._traces = metrics, log, traces
        self._slowest, self._executor = slowest, executor
        self._jitter = Jitter()
        self._looked_ns = 0
        self._also: list[Callable[[], None]] = []
        self._served: tuple[Served, ...] = ()
        self._talkers: tuple[Talker, ...] = ()

    def expect(self, served: Iterable[Served], talkers: Iterable[Talker] = ()) -> None:
        """Note for these models from now on."""
        self._served, self._talkers = tuple(served), tuple(talkers)
        for one in self._served:
            self.metrics.expect(one.bundle.name, bound_ms=float(one.bundle.manifest.contract["bound_ms"]))
        for talker in self._talkers:
            contract = talker.bundle.manifest.contract
            self.metrics.expect_speech(
                talker.bundle.name, bound_ms=float(contract["bound_ms"]), per_token_ms=contract.get("per_token_ms")
            )

    def on_look(self, do: Callable[[], None]) -> None:
        """Do this too, twice a second, on the event loop."""
        self._also.append(do)

    def answered(
        self, scope: Scope, served: Served, job: Job, *, route: str, rung: str, stages_ns: tuple[int, ...],
        request_id: bytes,
    ) -> None:  # fmt: skip
        """Note an answer; stages_ns in the order of STAGES."""
        self._jitter.note()
        model, n_tokens, total_ns = served.bundle.name, job.n_tokens, sum(stages_ns)
        self.metrics.record(model=model, rung=rung, total_ns=total_ns, stages_ns=stages_ns, n_tokens=n_tokens)
        self.metrics.count(route=route, status=200)
        if served.drift is not None:
            windows = (window for windows in job.encoded for window in windows)
            self.metrics.see_odd(model=model, n=sum(served.drift.observe(window.ids) for window in windows))
        is_late = total_ns > served.bound_ns
        if is_late or self._slowest.is_slow(total_ns / 1e6):
            self._explain(scope, served, rung, stages_ns, n_tokens, request_id, is_late=is_late)
        if self._traces is not None:
            self._traces.record(
                route=route, headers=scope["headers"], began_ns=scope["millis.read_ns"], stages_ns=stages_ns,
                attributes={
                    "millis.model": model, "millis.rung": rung, "millis.version": served.number,
                    "millis.texts": len(job.texts), "millis.tokens": n_tokens,
                },
            )  # fmt: skip
        if self.log.is_json:
            self.log.note_request(
                route=route, status=200, request_id=request_id.decode(), key=_key_id(scope), model=model, rung=rung,
                version=served.number, n_texts=len(job.texts), n_tokens=n_tokens, ms=round(total_ns / 1e6, 3),
                stages_ms=_by_stage(stages_ns),
            )  # fmt: skip

    def failed(self, scope: Scope, *, route: str, status: int, slug: str, request_id: bytes = b"") -> None:
        """Note a request that got a problem for an answer."""
        self.metrics.count(route=route, status=status)
        if status in _REFUSALS:
            self.metrics.refuse(route=route, reason=slug)
        if self._traces is not None:
            self._traces.record(
                route=route, headers=scope["headers"], began_ns=scope["millis.read_ns"], stages_ns=(), status=status,
                attributes={"millis.problem": slug},
            )  # fmt: skip
        if self.log.is_json:
            self.log.note_request(
                route=route, status=status, problem=slug, request_id=request_id.decode(), key=_key_id(scope)
            )

    def said(self, scope: Scope, *, route: str, model: str, request_id: bytes) -> None:
        """Note an answer that was generated; its times are in the metrics of generation."""
        self.metrics.count(route=route, status=200)
        total_ns = perf_counter_ns() - scope["millis.read_ns"]
        if self._traces is not None:
            self._traces.record(
                route=route, headers=scope["headers"], began_ns=scope["millis.read_ns"], stages_ns=(),
                attributes={"millis.model": model},
            )  # fmt: skip
        if self.log.is_json:
            self.log.note_request(
                route=route, status=200, request_id=request_id.decode(), key=_key_id(scope), model=model,
                ms=round(total_ns / 1e6, 3),
            )  # fmt: skip

    def passed(self, scope: Scope, *, status: int, route: str) -> None:
        """Note a request for a route that runs no model."""
        if self.log.is_json:
            self.log.note_request(route=f"{scope['method'][:20]} {route}", status=status, key=_key_id(scope))

    def shed(self, *, route: str, n: int) -> None:
        """Note requests that were refused before anybody read them."""
        self.metrics.count(route=route, status=503, n=n)
        self.metrics.refuse(route=route, reason="would-be-late", n=n)
        if self.log.is_json:
            self.log.note_request(route=route, status=503, problem="would-be-late", times=n)

    async def watch(self) -> None:
        """Bring what is no event, like the length of the queue, into the metrics, for ever."""
        while True:
            self._look()
            await asyncio.sleep(_WATCH_S)

    def close(self) -> None:
        """Write what waits."""
        self._jitter.close()
        if self._traces is not None:
            self._traces.close()
        self.log.close()

    def _look(self) -> None:
        self._jitter.note()
        now = self._jitter.sample()
        self.metrics.watch(
            n_waiting=self._executor.n_waiting + sum(one.n_waiting for one in self._talkers),
            gc_ns=self._jitter.gc_ns, core_ns=self._jitter.core_ns,
            steal_ns=now.steal_ns, throttle_ns=now.throttle_ns,
            margins_ns={one.bundle.name: one.ladder.forecast.margin_ns for one in self._served},
        )  # fmt: skip
        for one in self._served:
            if one.drift is not None:
                self.metrics.drift(one.bundle.name, one.drift.index())
        self._slowest.write()
        for do in self._also:
            do()

    def _explain(
        self, scope: Scope, served: Served, rung: str, stages_ns: tuple[int, ...], n_tokens: int, request_id: bytes, *,
        is_late: bool,
    ) -> None:  # fmt: skip
        """Keep a slow answer with what may have held it up, and count what a late one's largest part was."""
        now_ns, began_ns, total_ns = perf_counter_ns(), scope["millis.read_ns"], sum(stages_ns)
        causes: dict[str, float] = {}
        if now_ns - self._looked_ns > _LOOK_AGAIN_NS:
            self._looked_ns = now_ns
            causes = self._jitter.attribute(began_ns, began_ns + total_ns)
        stages_ms = _by_stage(stages_ns)
        if is_late:
            # What held the thread up is inside a stage's time, so it goes first where it is half of the answer.
            half_ms = total_ns / 2e6
            longest = max(stages_ms, key=stages_ms.__getitem__)
            cause = next((name for name, ms in causes.items() if ms >= half_ms), longest)
            self.metrics.late(model=served.bundle.name, cause=cause)
        if self._slowest.is_slow(total_ns / 1e6):
            self._slowest.keep(
                Slow(
                    at=round(time.time(), 3), model=served.bundle.name, rung=rung, version=served.number,
                    total_ms=round(total_ns / 1e6, 3), bound_ms=served.bound_ns / 1e6, n_tokens=n_tokens,
                    request_id=request_id.decode(), stages_ms=stages_ms, causes_ms=causes,
                )
            )  # fmt: skip


def _by_stage(stages_ns: tuple[int, ...]) -> dict[str, float]:
    return {stage: round(ns / 1e6, 3) for stage, ns in zip(STAGES, stages_ns, strict=True)}


def _key_id(scope: Scope) -> Any:
    key = scope.get(KEY)
    return key.id if key is not None else ""
