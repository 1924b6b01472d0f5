"""Where a request runs: on the event loop to its end, or on a thread that shares the weights with others.

Border: calls a Model; knows no HTTP. Which of the two is better depends on the machine and the rate, so the search
measures both (docs/decisions has the numbers).
"""

import asyncio
import queue
import threading
from collections.abc import Sequence
from time import perf_counter_ns
from typing import Protocol

from millis.bundles import Model
from millis.bundles.model import Answer


class Executor(Protocol):
    """Runs texts through one model."""

    model: Model

    async def answer(self, texts: Sequence[str]) -> tuple[list[Answer], int]:
        """Answer texts in order.

        Returns:
            the answers, and the nanoseconds that the request waited for its turn.
        """

    def close(self) -> None:
        """Finish what was taken and free the model."""


class LoopExecutor:
    """Run on the event loop, to the end, without a hop; the loop is given back between the texts of a list."""

    def __init__(self, model: Model) -> None:
        self.model = model

    async def answer(self, texts: Sequence[str]) -> tuple[list[Answer], int]:
        """Answer texts here and now; nothing waits, so the queue is empty."""
        if len(texts) == 1:
            return [self.model.answer(texts[0])], 0
        answers = []
        for text in texts:
            answers.append(self.model.answer(text))
            await asyncio.sleep(0)
        return answers, 0

    def close(self) -> None:
        """Free the model."""
        self.model.close()


_Job = tuple[Sequence[str], asyncio.AbstractEventLoop, "asyncio.Future[tuple[list[Answer], int]]", int]


class ThreadExecutor:
    """Run on the first free of n threads over one copy of the weights, first come first served."""

    def __init__(self, model: Model, *, n: int) -> None:
        self.model = model
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, args=(model.share(),), name=f"inference-{i}", daemon=True)
            for i in range(n)
        ]
        for thread in self._threads:
            thread.start()

    async def answer(self, texts: Sequence[str]) -> tuple[list[Answer], int]:
        """Answer texts on the thread that is free first; the texts of a list share its turn with other requests."""
        loop = asyncio.get_running_loop()
        waits = 0
        answers: list[Answer] = []
        for text in texts:
            future: asyncio.Future[tuple[list[Answer], int]] = loop.create_future()
            self._jobs.put(((text,), loop, future, perf_counter_ns()))
            part, wait = await future
            answers += part
            waits += wait
        return answers, waits

    def close(self) -> None:
        """Finish what was taken, end the threads, free the model."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self.model.close()

    def _work(self, model: Model) -> None:
        while (job := self._jobs.get()) is not None:
            texts, loop, future, put = job
            wait = perf_counter_ns() - put
            try:
                answers = [model.answer(text) for text in texts]
            except BaseException as error:
                _settle(loop, future, error)
            else:
                _settle(loop, future, (answers, wait))


def _settle(
    loop: asyncio.AbstractEventLoop,
    future: "asyncio.Future[tuple[list[Answer], int]]",
    outcome: tuple[list[Answer], int] | BaseException,
) -> None:
    def settle() -> None:
        if future.cancelled():
            return
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    loop.call_soon_threadsafe(settle)
