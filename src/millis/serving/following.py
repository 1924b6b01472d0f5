"""A worker's part of a change: load beside live traffic, take up, let go; say what was seen of versions on trial.

Loading runs on a thread of its own; the event loop only takes up what is ready, in one step. What is let go is closed
when the last request that began on it has ended.
Border: messages from and to the parent; which models are loaded. What a change means is the parent's (directing.py).
"""

import asyncio
import contextlib
import gc
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

from millis.errors import InvalidRequest, MillisError
from millis.serving.executor import Executor
from millis.serving.generating import Talker
from millis.serving.memory import trim_memory
from millis.serving.messages import (
    Answered,
    Asked,
    Follow,
    Followed,
    Lines,
    Listen,
    Prepare,
    Prepared,
    Seen,
    Told,
    write_line,
)
from millis.serving.placement import Placement, Version
from millis.serving.served import Counts, Served, Trial

_log = logging.getLogger("millis")

_REPORT_S = 0.25
_LOOK_S = 0.02
_ASK_S = 330.0
_LIST_S = 5.0

_STOPPING = "the server is stopping: ask again when it is up."

Load = Callable[[Version], Served | Talker]


class Follower:
    """Keeps a worker at what its parent wants.

    Args:
        ready: descriptor to speak to the parent through.
        load: opens, loads and warms a version; runs on a thread.
        executor: runs what is loaded.
        serve: puts routes in front of these, and of no others, from the next request on.
    """

    def __init__(
        self, *, ready: int, load: Load, executor: Executor, serve: Callable[[Sequence[Served | Talker]], None]
    ) -> None:
        self._ready, self._load, self._executor, self._serve = ready, load, executor, serve
        self._loaded: dict[int, Served | Talker] = {}
        self._lines = Lines(Told)
        self._to_do: asyncio.Queue[Prepare | Follow] = asyncio.Queue()
        self._asked: dict[int, asyncio.Future[Answered]] = {}
        self._n_asked = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_reporting = False

    def begin(self, placement: Placement) -> tuple[str, ...]:
        """Load what is to be served from the start; give what there is to say of it."""
        for number, version in placement.versions().items():
            self._loaded[number] = self._load(version)
            self._loaded[number].join(self._executor)
        self._take_up(placement)
        return tuple(note for one in self._loaded.values() for note in one.notes)

    def start(self, control: int, *, listen: Callable[[], None], stop: Callable[[], None]) -> None:
        """Hear the parent: when to listen to clients, and what to load; when it closes its end, or ends, stop."""
        loop = asyncio.get_running_loop()
        self._listen = listen

        def read() -> None:
            data = os.read(control, 1 << 16)
            if not data:
                loop.remove_reader(control)
                for number, future in self._asked.items():
                    if not future.done():
                        future.set_result(Answered(number=number, status=503, slug="stopping", reason=_STOPPING))
                stop()
            for message in self._lines.feed(data):
                self._hear(message)

        self._start(self._work())
        self._report_soon()
        loop.add_reader(control, read)

    def stop(self) -> None:
        """Listen to nobody any more."""
        for task in self._tasks:
            task.cancel()

    def close(self) -> None:
        """Free what no executor does."""
        for one in self._loaded.values():
            if isinstance(one, Talker):
                one.close()

    async def ask(
        self, what: Literal["list", "load", "unload", "promote", "rollback"], **values: Any
    ) -> Answered:
        """Ask the parent for a change, and wait until every worker follows.

        Raises:
            InvalidRequest: it was refused, or did not come to an end in time.
        """
        self._n_asked += 1
        number = self._n_asked
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            if not write_line(self._ready, Asked(number=number, what=what, **values)):
                raise TimeoutError
            async with asyncio.timeout(_LIST_S if what == "list" else _ASK_S):
                answered = await future
        except TimeoutError as error:
            raise InvalidRequest(
                "the parent of the workers did not answer in time: look at /v1/admin/models, and ask again.",
                status=504, slug="change-too-slow",
            ) from error  # fmt: skip
        finally:
            del self._asked[number]
        if answered.reason:
            raise InvalidRequest(answered.reason, status=answered.status, slug=answered.slug)
        return answered

    def _hear(self, message: object) -> None:
        if isinstance(message, Answered):
            future = self._asked.get(message.number)
            if future is not None and not future.done():
                future.set_result(message)
        elif isinstance(message, Listen):
            self._listen()
        elif isinstance(message, Prepare | Follow):
            self._to_do.put_nowait(message)

    async def _work(self) -> None:
        while True:
            message = await self._to_do.get()
            if isinstance(message, Prepare):
                write_line(self._ready, await self._prepare(message.placement))
            else:
                self._take_up(message.placement)
                write_line(self._ready, Followed(revision=message.placement.revision))
                self._report_soon()

    async def _prepare(self, placement: Placement) -> Prepared:
        notes: list[str] = []
        try:
            for number, version in placement.versions().items():
                if number not in self._loaded:
                    served = await _on_a_thread(self._load, version)
                    self._loaded[number] = served
                    served.join(self._executor)
                    notes += served.notes
                    await served.warm(self._executor)
        except MillisError as error:
            return Prepared(revision=placement.revision, reason=str(error))
        except Exception as error:
            _log.exception("a bundle cannot be loaded")
            reason = f"the bundle cannot be loaded ({type(error).__name__}): the server's log has the details."
            return Prepared(revision=placement.revision, reason=reason)
        gc.collect()  # of what came since the last freeze only
        gc.freeze()
        return Prepared(revision=placement.revision, notes=tuple(notes))

    def _take_up(self, placement: Placement) -> None:
        """Serve this from the next request on, and let go what it does not need."""
        serving: list[Served | Talker] = []
        for placed in placement.models:
            served = self._loaded[placed.serving.number]
            serving.append(served)
            if isinstance(served, Talker):
                continue
            trial = self._loaded[placed.trial.number] if placed.trial is not None else None
            served.trial = None
            assert not isinstance(trial, Talker)  # a new version answers the same task
            if trial is not None:
                served.trial = Trial(
                    trial, canary_percent=placed.canary_percent, shadow_percent=placed.shadow_percent
                )
            for one in filter(None, (served, trial)):
                is_judged = placed.judged is not None and placed.judged.number == one.number
                if not is_judged:
                    one.counts = None
                elif one.counts is None or one.counts.is_trial != (one is trial):
                    one.counts = Counts(is_trial=one is trial)
        self._serve(serving)
        needed = placement.versions()
        for number in [number for number in self._loaded if number not in needed]:
            self._start(self._let_go(self._loaded.pop(number)))

    async def _let_go(self, served: Served | Talker) -> None:
        """Close a version when the last request that began on it has ended."""
        if isinstance(served, Served):
            served.trial = None
        while served.n_open:
            await asyncio.sleep(_LOOK_S)
        await served.leave(self._executor)
        await _on_a_thread(_close, served)

    def _report_soon(self) -> None:
        if not self._is_reporting and self._judged():
            self._is_reporting = True
            self._start(self._report())

    async def _report(self) -> None:
        """Tell the parent what was seen, as long as something is judged."""
        told: dict[int, Seen] = {}
        while self._judged():
            await asyncio.sleep(_REPORT_S)
            for number, counts in self._judged().items():
                seen = Seen(version=number, is_trial=counts.is_trial, n=counts.n, n_missed=counts.n_missed)
                if counts.n and told.get(number) != seen:
                    told[number] = seen
                    write_line(self._ready, seen)
        self._is_reporting = False

    def _judged(self) -> dict[int, Counts]:
        """Give what was seen of the versions that are judged, by number."""
        found = {number: one.counts for number, one in self._loaded.items() if isinstance(one, Served)}
        return {number: counts for number, counts in found.items() if counts is not None}

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _close(served: Served | Talker) -> None:
    served.close()
    gc.collect()
    trim_memory()


async def _on_a_thread(do: Callable[[Any], Any], value: Any) -> Any:
    """Do something on a thread that ends with it, so that nothing which a library keeps for each thread stays."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def work() -> None:
        result, error = None, None
        try:
            result = do(value)
        except BaseException as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="loading", daemon=True).start()
    return await future
