"""A generator in a process of its own, for an engine that holds the interpreter's lock while it steps.

OpenVINO GenAI does (2026.4): in a process together, every request, deadline and timer waits for each of its steps, some
milliseconds for a token and hundreds for a long prompt. Here the step holds a lock that nobody else needs.
Border: this end of the pipes; messages are apart_messages.py's, the other end is apart_engine.py's. What a step is, is
the engine's matter.
Limits: a process that dies takes its answers with it and is started again for the next ones; one that dies before
anything was asked of it stays away, and every answer fails.
"""

import contextlib
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from millis.backends.apart_messages import (
    Accept,
    Answered,
    Asked,
    Cancel,
    Load,
    Start,
    Stepped,
    Told,
    read_all,
    write_one,
)
from millis.backends.generator import Emit, GeneratorSettings, Sampling, Step, Stream
from millis.errors import MillisError, RunFailed

_GRACE_S = 5.0


class Apart:
    """See Generator.

    Args:
        name: of the generator that the process loads.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._emits: dict[int, Emit] = {}
        self._waiting: dict[int, queue.SimpleQueue[Answered | None]] = {}
        self._n_asked, self._is_closing = 0, False

    def load(self, folder: Path, *, settings: GeneratorSettings) -> None:
        """See Generator; raises what the engine raised there."""
        self._load = Load(self.name, str(folder), settings)
        self._child = _Child(self._load)
        self._thread = threading.Thread(target=self._follow, name="generation", daemon=True)
        self._thread.start()

    def start(self, ids: Sequence[int], *, sampling: Sampling, emit: Emit) -> Stream:
        """See Generator."""
        number = self._ask(self._emits, emit, lambda n: Start(n, tuple(ids), sampling))
        if number is None:
            emit(Step(id=None, ending="failed"))
        return _Answer(self, number)

    def accept(self, grammar: str) -> None:
        """See Generator."""
        said: queue.SimpleQueue[Answered | None] = queue.SimpleQueue()
        number = self._ask(self._waiting, said, lambda n: Accept(n, grammar))
        answer = said.get() if number is not None else None
        if answer is None:
            raise RunFailed("the engine's process ended while it tried this answer format: ask again.")
        answer.check()

    def close(self) -> None:
        """See Generator."""
        with self._lock:
            self._is_closing, child = True, self._child
        if child is not None:
            child.close()
        self._thread.join()

    def forget(self, number: int) -> None:
        """Tell nobody of an answer any more, and stop it."""
        with self._lock:
            if self._emits.pop(number, None) is not None and self._child is not None:
                self._child.send(Cancel(number))

    def _ask(self, waiting: dict[int, Any], who: Any, write: Any) -> int | None:
        """Send what write makes of a number, and remember who waits for its answer; None without a process."""
        with self._lock:
            if self._child is None or self._is_closing:
                return None
            self._n_asked += 1
            waiting[self._n_asked] = who
            self._child.send(write(self._n_asked))
            return self._n_asked

    def _follow(self) -> None:
        """Hand on what the process says; start another one when it dies."""
        while (child := self._child) is not None:
            n_before = self._n_asked
            for told in child.read():
                if isinstance(told, Stepped):
                    self._tell(told)
                else:
                    self._waiting.pop(told.number).put(told)
            with self._lock:
                self._child, was_asked = None, self._n_asked > n_before
                emits, self._emits = self._emits, {}
                waiting, self._waiting = self._waiting, {}
            child.close()
            for emit in emits.values():
                emit(Step(id=None, ending="failed"))
            for said in waiting.values():
                said.put(None)
            if was_asked and not self._is_closing:
                self._renew()

    def _renew(self) -> None:
        with contextlib.suppress(MillisError):  # it does not load any more: answers fail from now on
            child = _Child(self._load)
            with self._lock:
                if not self._is_closing:
                    self._child = child
                    return
            child.close()

    def _tell(self, told: Stepped) -> None:
        with self._lock:
            emit = self._emits.get(told.number)
            if told.step.ending is not None:
                self._emits.pop(told.number, None)
        if emit is not None:
            emit(told.step)


class _Answer:
    """See Stream."""

    def __init__(self, apart: Apart, number: int | None) -> None:
        self._apart, self._number = apart, number

    def cancel(self) -> None:
        """See Stream."""
        if self._number is not None:
            self._apart.forget(self._number)


class _Child:
    """The process, loaded.

    Raises:
        MillisError: what the engine raised when it loaded.
    """

    def __init__(self, load: Load) -> None:
        command = [sys.executable, "-m", "millis.backends.apart_engine"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._unsent: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="generation-asks", daemon=True)
        self._writer.start()
        self.send(load)
        loaded = next(self.read(), None)
        if not isinstance(loaded, Answered):
            self.close()
            raise RunFailed(f"the process of {load.name} ended while it loaded: look at the server's log.")
        try:
            loaded.check()
        except MillisError:
            self.close()
            raise

    def send(self, message: Asked) -> None:
        """Send a message; returns at once, whatever the process does."""
        self._unsent.put(message)

    def read(self) -> Iterator[Told]:
        """Give what it says until it ends."""
        assert self._process.stdout is not None
        yield from read_all(self._process.stdout, msgspec.msgpack.Decoder(Told))

    def close(self) -> None:
        """End it, in peace within _GRACE_S; may be called twice."""
        self._unsent.put(None)
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        with contextlib.suppress(OSError), pipe:  # it died: who reads finds out
            while (message := self._unsent.get()) is not None:
                write_one(pipe, message)
