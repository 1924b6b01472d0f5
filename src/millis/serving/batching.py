"""Runs requests in batches on a device, which has a thread of its own: the event loop hands over and is told.

Whenever the device is free the batch that is due first runs, at once, however small: what comes meanwhile fills the
next ones. So batches are as large as the load makes them, and nobody waits for a window to fill.
Border: the plan is planning.py's; this hands it to the device, and gives answers out. Knows no HTTP.
Limits: one device, one thread. A batch that fails is run again row by row, so that only the row at fault fails.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from operator import attrgetter
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Protocol

from millis.bundles import Model
from millis.serving.batches import Batch, Work
from millis.serving.executor import give_up, gone, settle, wait
from millis.serving.planning import Plan
from millis.serving.scheduling import Job, Ladder

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LOOK_S = 0.005
_AT_ONCE_NS = 1_000_000
"""Of one job's texts that are read before others have a turn of the loop."""


class NoteBatch(Protocol):
    """Counts a batch that was run."""

    def __call__(self, *, model: str, n_rows: int, n_tokens: int, n_padding: int) -> None:
        """Of real tokens and of padding, n."""


class BatchExecutor:
    """Run the rows of many jobs together. See Executor for its members."""

    def __init__(self, *, note: NoteBatch) -> None:
        self._note = note
        self._ladders: list[Ladder] = []
        self._plan = Plan()
        self._changed = threading.Condition()
        self._warming: deque[tuple[Ladder, NDArray[Any]]] = deque()
        self._runs: Ladder | None = None
        self._is_closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def add(self, ladder: Ladder) -> None:
        """See Executor. The device's thread runs every length once: libraries keep what they need by thread."""
        with self._changed:
            self._ladders.append(ladder)
            self._warming += [(ladder, ids) for ids in ladder.models[0].lengths_to_warm()]
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="device", daemon=True)
            self._thread.start()

    async def warm(self, ladder: Ladder) -> None:
        """See Executor."""
        while any(one is ladder for one, _ in tuple(self._warming)):
            await asyncio.sleep(_LOOK_S)

    async def remove(self, ladder: Ladder) -> None:
        """See Executor."""
        with self._changed:
            self._ladders.remove(ladder)
        await self.warm(ladder)
        while self._runs is ladder:
            await asyncio.sleep(_LOOK_S)

    async def answer(self, job: Job) -> None:
        """See Executor."""
        job.encode()
        encoded = perf_counter_ns()
        self._loop = asyncio.get_running_loop()
        job.future = self._loop.create_future()
        with self._changed:
            work = self._plan.admit(job, now_ns=encoded)
            self._changed.notify()
        try:
            if work.rows:
                await wait(job)
        except asyncio.CancelledError:
            self.drop(job)
            raise
        await _decode(work)

    @property
    def n_waiting(self) -> int:
        """See Executor."""
        return self._plan.n_waiting

    def foresee(self, ladder: Ladder, *, n_bytes: int, came_ns: int, usual_ns: int) -> float | None:
        """See Executor."""
        with self._changed:
            return self._plan.foresee(
                ladder, n_bytes=n_bytes, came_ns=came_ns, usual_ns=usual_ns, now_ns=perf_counter_ns()
            )

    def drop(self, job: Job) -> None:
        """See Executor."""
        with self._changed:
            is_dropped = self._plan.drop(job, now_ns=perf_counter_ns())
        if is_dropped:
            settle(job.future, gone())

    def close(self) -> None:
        """Finish what runs and free the models; nobody waits any more for what does not run yet."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        for ladder in self._ladders:
            ladder.close()

    def run_idle(self) -> None:
        """See Executor."""
        with self._changed:
            if self._ladders and self._runs is None and not (self._warming or self._plan.n_waiting):
                ladder = self._ladders.pop(0)
                self._ladders.append(ladder)
                self._warming.append((ladder, ladder.models[0].lengths_to_warm()[0]))
                self._changed.notify()

    def _work(self) -> None:
        """Run one batch after another, on the device's thread."""
        while True:
            with self._changed:
                self._runs = None
                while True:
                    if self._is_closing:
                        return
                    batch, late = self._plan.take(perf_counter_ns())
                    if batch is not None or late or self._warming:
                        break
                    self._changed.wait()
                warming = self._warming.popleft() if batch is None and self._warming else None
                self._runs = batch.ladder if batch is not None else warming[0] if warming is not None else None
            if late:
                self._tell(self._refuse, late)
            if batch is not None:
                self._run(batch)
            elif warming is not None:
                ladder, ids = warming
                for model in ladder.models:
                    _run_rows(model, [ids])  # what goes wrong, a request will say

    def _run(self, batch: Batch) -> None:
        model = batch.ladder.models[batch.place]
        began = perf_counter_ns()
        outputs = _run_rows(model, [row.ids for row in batch.rows])
        ns = perf_counter_ns() - began
        with self._changed:
            self._plan.busy_until_ns = 0.0
        self._tell(self._finish, batch, outputs, ns)

    def _tell(self, do: Callable[..., None], *values: Any) -> None:
        """Have the loop do something; where it has ended, nobody waits for it."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(do, *values)

    def _finish(self, batch: Batch, outputs: "Sequence[NDArray[Any] | Exception]", ns: int) -> None:
        """Give logits to those whose they are, on the loop."""
        n_tokens = sum(len(row.ids) for row in batch.rows)
        n_padding = batch.n_tokens - n_tokens
        batch.ladder.forecast.observe_run(batch.place, batch.n_tokens, ns=ns)
        self._note(model=batch.ladder.name, n_rows=len(batch.rows), n_tokens=n_tokens, n_padding=n_padding)
        failed: dict[Work, Exception] = {}
        for row, output in zip(batch.rows, outputs, strict=True):
            if isinstance(output, Exception):
                failed[row.work] = output
            else:
                row.logits = output
        with self._changed:
            now_ns = perf_counter_ns()
            failed = {work: error for work, error in failed.items() if self._plan.drop(work.job, now_ns=now_ns)}
            done = [work for work in self._plan.finish(batch) if not self._plan.extend(work, now_ns=now_ns)]
            for work in done:
                self._plan.forget(work)
            self._changed.notify()
        for work in batch.works:
            work.job.run_ns += ns
            work.job.worked_ns += ns
        for work in done:
            settle(work.job.future, None)
        for work, error in failed.items():
            settle(work.job.future, error)

    def _refuse(self, late: list[Work]) -> None:
        """Tell jobs that they are late, on the loop; what may stop is answered by what was run."""
        now_ns = perf_counter_ns()
        for work in late:
            has_enough = work.job.may_stop and bool(work.rows)
            settle(work.job.future, None if has_enough else give_up(work.job, now_ns=now_ns))


def _run_rows(model: Model, rows: "Sequence[NDArray[Any]]") -> "Sequence[NDArray[Any] | Exception]":
    """Give logits (R, C) of windows of ids (T,); where they fail together, each alone, with what went wrong."""
    try:
        return model.run_together(rows)
    except Exception as error:  # a library's own, whatever it is: it goes to the request whose row it was
        return [error] if len(rows) == 1 else [output for row in rows for output in _run_rows(model, [row])]


async def _decode(work: Work) -> None:
    """Read the answers out of a job's logits, with turns of the loop between those of a long list."""
    job, turn = work.job, perf_counter_ns()
    logits: list[list[Any]] = [[] for _ in job.texts]
    for row in sorted(work.rows, key=attrgetter("place")):
        logits[row.text].append(row.logits)
    for text, windows, outputs in zip(job.texts, job.encoded, logits, strict=True):
        began = perf_counter_ns()
        job.results.append(job.ladder.task.decode(text, windows[: len(outputs)], outputs, job.options))
        now = perf_counter_ns()
        job.decode_ns += now - began
        job.worked_ns += now - began
        if now - turn > _AT_ONCE_NS:
            await asyncio.sleep(0)
            turn = perf_counter_ns()
