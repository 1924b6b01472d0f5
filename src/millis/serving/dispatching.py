"""Which executor runs what: a backend that batches has its rows run together, any other request by request.

Border: looks at what the backends of a ladder say, and hands on.
"""

from millis.serving.batching import BatchExecutor, NoteBatch
from millis.serving.clock import SocketClock
from millis.serving.execution import LoopExecutor, ThreadExecutor
from millis.serving.executor import Executor
from millis.serving.scheduling import Job, Ladder


def make_executor(*, threads: int, clock: SocketClock, note: NoteBatch) -> Executor:
    """Make the executor of a worker: request by request on threads, or on the event loop where there are none."""
    return _Dispatcher(ThreadExecutor(n=threads) if threads else LoopExecutor(clock=clock), BatchExecutor(note=note))


class _Dispatcher:
    """Gives each ladder to the executor that its backend asks for. See Executor for its members."""

    def __init__(self, one_by_one: Executor, together: Executor) -> None:
        self._one_by_one, self._together = one_by_one, together

    def add(self, ladder: Ladder) -> None:
        """See Executor."""
        self._of(ladder).add(ladder)

    async def warm(self, ladder: Ladder) -> None:
        """See Executor."""
        await self._of(ladder).warm(ladder)

    async def remove(self, ladder: Ladder) -> None:
        """See Executor."""
        await self._of(ladder).remove(ladder)

    async def answer(self, job: Job) -> None:
        """See Executor."""
        await self._of(job.ladder).answer(job)

    @property
    def n_waiting(self) -> int:
        """See Executor."""
        return self._one_by_one.n_waiting + self._together.n_waiting

    def foresee(self, ladder: Ladder, *, n_bytes: int, came_ns: int, usual_ns: int) -> float | None:
        """See Executor."""
        return self._of(ladder).foresee(ladder, n_bytes=n_bytes, came_ns=came_ns, usual_ns=usual_ns)

    def drop(self, job: Job) -> None:
        """See Executor."""
        self._of(job.ladder).drop(job)

    def close(self) -> None:
        """See Executor."""
        self._one_by_one.close()
        self._together.close()

    def run_idle(self) -> None:
        """See Executor."""
        self._one_by_one.run_idle()
        self._together.run_idle()

    def _of(self, ladder: Ladder) -> Executor:
        return self._together if ladder.is_batched else self._one_by_one
