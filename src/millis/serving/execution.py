"""Where a request runs: on the event loop, window by window, or on threads that share the weights.

Border: runs jobs in the order of queueing.py; knows no HTTP. Which of the two is better depends on the machine and
the rate, so the search measures both (docs/decisions has the numbers).
"""

import asyncio
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from time import perf_counter_ns

from millis.bundles import Model
from millis.bundles.together import count_next
from millis.serving.clock import SocketClock
from millis.serving.executor import give_up, gone, settle, wait
from millis.serving.queueing import Queue
from millis.serving.scheduling import NEVER, Job, Ladder, refuse

_BREATH_S = 0.001
_NO_LOCK = nullcontext()
_BEHIND = 5
"""By how much a thread that infers is nicer than the event loop, which holds what all of them wait for."""

_MOST_LOOKS = 4
"""Turns of the loop between two windows, as long as each brings something; some 0.01 ms each, and what it brings."""


class LoopExecutor:
    """Run on the event loop: at once where nobody else is there, else in turns, between which sockets are read."""

    def __init__(self, *, clock: SocketClock) -> None:
        self._ladders: list[Ladder] = []
        self._clock = clock
        self._queue = Queue(lanes=1)
        self._is_running = False
        self._n_idle = 0

    def add(self, ladder: Ladder) -> None:
        """See Executor."""
        self._ladders.append(ladder)

    async def warm(self, ladder: Ladder) -> None:
        """See Executor."""
        loop = asyncio.get_running_loop()
        for model in ladder.models:
            for run in model.lengths_to_warm():
                self._clock.block()
                model.warm_length(run)
                loop.call_soon(self._clock.unblock)
                await asyncio.sleep(_BREATH_S)

    async def remove(self, ladder: Ladder) -> None:
        """See Executor."""
        self._ladders.remove(ladder)

    async def answer(self, job: Job) -> None:
        """See Executor."""
        _prepare(job, self._queue)
        self._queue.admit(job, now_ns=perf_counter_ns())
        if not (self._is_running or self._clock.is_crowded) and len(job.texts) == job.n_left == 1:
            self._clock.block()
            error = _run_window(job, job.ladder.models, self._queue)
            asyncio.get_running_loop().call_soon(self._clock.unblock)
            if error is not None:
                raise error
            return
        loop = asyncio.get_running_loop()
        job.future = loop.create_future()
        self._queue.put(job)
        if not self._is_running:
            self._is_running = True
            loop.call_soon(self._look, loop, self._clock.n_events, _MOST_LOOKS)
        await wait(job)

    @property
    def n_waiting(self) -> int:
        """See Executor."""
        return len(self._queue)

    def foresee(self, ladder: Ladder, *, n_bytes: int, came_ns: int, usual_ns: int) -> float | None:
        """See Executor."""
        return self._queue.foresee(
            ladder, n_bytes=n_bytes, came_ns=came_ns, usual_ns=usual_ns, now_ns=perf_counter_ns()
        )

    def drop(self, job: Job) -> None:
        """See Executor."""
        if self._queue.drop(job):
            settle(job.future, gone())

    def close(self) -> None:
        """Free the models."""
        for ladder in self._ladders:
            ladder.close()

    def run_idle(self) -> None:
        """See Executor."""
        if self._is_running or not self._ladders:
            return
        self._clock.block()
        self._n_idle += 1
        self._ladders[self._n_idle % len(self._ladders)].models[0].keep_warm()
        asyncio.get_running_loop().call_soon(self._clock.unblock)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run one window of the job whose turn it is."""
        job = self._queue.take()
        if job is None:
            self._is_running = False
            self._clock.rest()
            return
        self._clock.block()
        error = _run_window(job, job.ladder.models, self._queue)
        if error is None and not job.is_done:
            self._queue.put(job)
        else:
            settle(job.future, error)
        loop.call_soon(self._look, loop, self._clock.n_events, _MOST_LOOKS)

    def _look(self, loop: asyncio.AbstractEventLoop, n_events: int, n_left: int) -> None:
        """Let the loop turn before the next window runs: answers go out, who came and who went is seen."""
        self._clock.unblock()
        if n_left and self._clock.n_events != n_events:
            loop.call_soon(self._look, loop, self._clock.n_events, n_left - 1)
        else:
            loop.call_soon(self._turn, loop)


class ThreadExecutor:
    """Run on the first free of n threads over one copy of the weights, in turns."""

    def __init__(self, *, n: int) -> None:
        self._ladders: list[Ladder] = []
        self._shared: list[dict[Ladder, tuple[Model, ...]]] = [{} for _ in range(n)]
        self._queue = Queue(lanes=n)
        self._changed = threading.Condition()
        self._is_closing = False
        self._threads = [
            threading.Thread(target=self._work, args=(shared,), name=f"inference-{i}", daemon=True)
            for i, shared in enumerate(self._shared)
        ]
        for thread in self._threads:
            thread.start()

    def add(self, ladder: Ladder) -> None:
        """See Executor."""
        with self._changed:
            self._ladders.append(ladder)
            for shared in self._shared:
                shared[ladder] = tuple(model.share() for model in ladder.models)

    async def warm(self, ladder: Ladder) -> None:
        """Nothing: threads run side by side, and none waits for another's first run."""

    async def remove(self, ladder: Ladder) -> None:
        """See Executor."""
        with self._changed:
            self._ladders.remove(ladder)
            for shared in self._shared:
                del shared[ladder]

    async def answer(self, job: Job) -> None:
        """See Executor."""
        job.future = asyncio.get_running_loop().create_future()
        _prepare(job, self._queue, lock=self._changed)
        with self._changed:
            self._queue.admit(job, now_ns=perf_counter_ns())
            self._queue.put(job)
            self._changed.notify()
        await wait(job)

    @property
    def n_waiting(self) -> int:
        """See Executor."""
        return len(self._queue)

    def foresee(self, ladder: Ladder, *, n_bytes: int, came_ns: int, usual_ns: int) -> float | None:
        """See Executor. Without the lock: when it is asked most, nobody has time to wait; it may be a job off."""
        return self._queue.foresee(
            ladder, n_bytes=n_bytes, came_ns=came_ns, usual_ns=usual_ns, now_ns=perf_counter_ns()
        )

    def drop(self, job: Job) -> None:
        """See Executor."""
        with self._changed:
            job.is_gone = True
            is_dropped = self._queue.drop(job)
        if is_dropped:
            settle(job.future, gone())

    def close(self) -> None:
        """Finish what was taken, end the threads, free the models."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        for ladder in self._ladders:
            ladder.close()

    def run_idle(self) -> None:
        """Nothing: on a thread it would stand before the next request; the parent refuses to keep such workers warm."""

    def _work(self, models: dict[Ladder, tuple[Model, ...]]) -> None:
        lane = threading.current_thread()
        _stand_back()
        while True:
            with self._changed:
                while (job := self._queue.take()) is None:
                    if self._is_closing:
                        return
                    self._changed.wait()
                self._queue.busy_until_ns[lane] = perf_counter_ns() + job.turn_ns
            error = _run_window(job, models[job.ladder], self._queue, lock=self._changed)
            with self._changed:
                del self._queue.busy_until_ns[lane]
                if error is None and not job.is_done:
                    if not job.is_gone:
                        self._queue.put(job)
                        continue
                    error = gone()
            job.future.get_loop().call_soon_threadsafe(settle, job.future, error)


def _stand_back() -> None:
    """Let the event loop go before this thread: one that waits for a core while it holds the interpreter holds all."""
    if sys.platform == "linux":  # elsewhere priorities are not a thread's own
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _BEHIND)


def _prepare(job: Job, queue: Queue, *, lock: AbstractContextManager[object] = _NO_LOCK) -> None:
    """Cut the texts and predict, unless a deadline is hopeless already."""
    fastest = job.places[-1]
    began = perf_counter_ns()
    is_last_rung = fastest == len(job.ladder.models) - 1  # else which of the others fits is told by its length
    if job.is_own_deadline and is_last_rung:
        job.needs_ns = job.ladder.forecast.least_ns(fastest)
        with lock:
            over_ns = queue.misses_by(job.deadline_ns, least_ns=job.needs_ns, now_ns=began)
        if over_ns > 0:
            raise refuse(job, slug="would-be-late", over_ns=over_ns, predicted_ns=job.deadline_ns + over_ns)
    job.encode()
    job.needs_ns = job.predict_ns(fastest)
    if not job.is_own_deadline and job.came_ns + job.needs_ns > job.deadline_ns:
        job.deadline_ns = NEVER


def _run_window(
    job: Job, models: Sequence[Model], queue: Queue, *, lock: AbstractContextManager[object] = _NO_LOCK
) -> BaseException | None:
    """Run the next windows of a job, and decode its text when those were the last; give what went wrong."""
    began = perf_counter_ns()
    try:
        if job.rung is None:
            with lock:
                job.rung = queue.choose_rung(job, now_ns=began)
        is_late = began > job.deadline_ns
        if job.rung is None or (is_late and not (job.may_stop and job.logits)):
            return give_up(job, now_ns=began)
        place, model, forecast = job.rung, models[job.rung], job.ladder.forecast
        windows = () if is_late else job.next_windows(rows=model.rung.rows)
        running = ran = perf_counter_ns()
        if windows:  # a text of control characters alone has none
            ids = [window.ids for window in windows]
            job.logits += model.run_next(ids)
            ran = perf_counter_ns()
            job.run_ns += ran - running
            bucket, is_together = model.bucket_of(max(map(len, ids))), len(ids) > 1
            forecast.observe_run(place, bucket, ns=ran - running, is_together=is_together)
        is_last = is_late or not job.n_left
        if job.may_stop and not is_last:
            with lock:
                job.n_next = _find_next(job, place, rows=model.rung.rows, queue=queue, now_ns=ran)
            is_last = not job.n_next
        if is_last:
            job.end_text()
            job.decode_ns += perf_counter_ns() - ran
        if not job.is_done:
            job.needs_ns = job.predict_ns(place)
    except BaseException as error:
        return error
    finally:
        job.worked_ns += perf_counter_ns() - began
    return None


def _find_next(job: Job, place: int, *, rows: int, queue: Queue, now_ns: int) -> int:
    """Say for how many windows of a text that may stop there is time: as many as run together, one, or none."""
    for n in dict.fromkeys((count_next(job.n_left, rows=rows), 1)):
        takes_ns, then_ns = job.predict_next_ns(place, n=n)
        if queue.may_go_on(job, takes_ns=takes_ns, then_ns=then_ns, now_ns=now_ns):
            return n
    return 0
