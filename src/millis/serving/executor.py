"""What runs requests: one interface, and how a wait for an answer ends, which is the same for all that keep it.

Border: the interface, and what its executors share (execution.py, batching.py); runs nothing.
"""

from typing import TYPE_CHECKING, Protocol

from millis.errors import InvalidRequest
from millis.serving.scheduling import Job, Ladder, Refused, refuse

if TYPE_CHECKING:
    import asyncio


class Executor(Protocol):
    """Answers jobs of any ladder of a worker."""

    def add(self, ladder: Ladder) -> None:
        """Take a ladder up, to be run from now on and closed in the end."""

    async def warm(self, ladder: Ladder) -> None:
        """Run every length of a ladder where it will run, between those who wait, so that no request is the first."""

    async def remove(self, ladder: Ladder) -> None:
        """Forget a ladder that has no jobs any more, once nothing of it runs; closing it is the caller's."""

    async def answer(self, job: Job) -> None:
        """Run a job to its end; its results and times are in it then.

        Raises:
            Refused: it would be late, or was when its turn came.
        """

    @property
    def n_waiting(self) -> int:
        """Say how many wait for their turn."""

    def foresee(self, ladder: Ladder, *, n_bytes: int, came_ns: int, usual_ns: int) -> float | None:
        """Give by how many ns an answer would miss the usual deadline because of those ahead; None if it would not.

        Args:
            n_bytes: of the body, which says how long its texts may be.
        """

    def drop(self, job: Job) -> None:
        """Forget a job whose client went away; its next window is not run."""

    def close(self) -> None:
        """Finish what was taken and free the models."""

    def run_idle(self) -> None:
        """Run an example where nobody waits, so that the next request finds the model warm."""


def give_up(job: Job, *, now_ns: int) -> Refused:
    """Make the refusal of a job that was admitted and can no longer be in time; its forecast learns from it."""
    job.observe_end(now_ns + job.needs_ns)
    return refuse(
        job, slug="deadline-passed", over_ns=now_ns + job.needs_ns - job.deadline_ns,
        predicted_ns=now_ns + job.needs_ns,
    )  # fmt: skip


async def wait(job: Job) -> None:
    """Wait for a job's end; an error holds the frames that hold the job, which must not hold the error for ever."""
    future = job.future
    try:
        await future
    finally:
        if future.done() and not future.cancelled():
            job.future = None
        del future


def gone() -> InvalidRequest:
    """Make what a request ends with that nobody waits for."""
    return InvalidRequest("the client went away before its answer was ready.", slug="disconnected")


def settle(future: "asyncio.Future[None]", error: BaseException | None) -> None:
    """End a wait, on the loop; one that has ended stays as it is."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
