"""A generator in a process of its own, for an engine that holds the interpreter's lock while it steps.

OpenVINO GenAI does (2026.4): in a process together, every request, deadline and timer waits for each of its steps, some
milliseconds for a token and hundreds for a long prompt. Here the step holds a lock that nobody else needs.
Border: messages over two pipes, msgpack behind a length of four bytes; what a step is, is the engine's matter.
Limits: a process that dies takes its answers with it and is started again for the next ones; one that dies before
anything was asked of it stays away, and every answer fails.
"""

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from millis import errors
from millis.backends.generator import Emit, Generator, GeneratorSettings, Sampling, Step, Stream
from millis.errors import InvalidRequest, MillisError, RunFailed

_LENGTH_BYTES, _GRACE_S = 4, 5.0


class _Load(msgspec.Struct, tag="load"):
    """Load, as Generator.load does; the first message."""

    name: str
    folder: str
    settings: GeneratorSettings


class _Start(msgspec.Struct, tag="start"):
    number: int
    ids: tuple[int, ...]
    sampling: Sampling


class _Cancel(msgspec.Struct, tag="cancel"):
    number: int


class _Accept(msgspec.Struct, tag="accept"):
    number: int
    grammar: str


class _Stepped(msgspec.Struct, tag="stepped"):
    number: int
    step: Step


class _Answered(msgspec.Struct, tag="answered"):
    """What came of _Load (number 0) or _Accept; kind is the class of the error, "" for none."""

    number: int
    kind: str = ""
    message: str = ""
    slug: str = ""
    status: int = 400
    extra: dict[str, Any] = {}

    def check(self) -> None:
        """Raise the error that came."""
        if self.kind == InvalidRequest.__name__:
            error = InvalidRequest(self.message, status=self.status, slug=self.slug)
            error.extra = self.extra
            raise error
        if self.kind:
            raise getattr(errors, self.kind)(self.message)


_Asked = _Load | _Start | _Cancel | _Accept
_Told = _Stepped | _Answered


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
        self._waiting: dict[int, queue.SimpleQueue[_Answered | None]] = {}
        self._n_asked, self._is_closing = 0, False

    def load(self, folder: Path, *, settings: GeneratorSettings) -> None:
        """See Generator; raises what the engine raised there."""
        self._load = _Load(self.name, str(folder), settings)
        self._child = _Child(self._load)
        self._thread = threading.Thread(target=self._follow, name="generation", daemon=True)
        self._thread.start()

    def start(self, ids: Sequence[int], *, sampling: Sampling, emit: Emit) -> Stream:
        """See Generator."""
        number = self._ask(self._emits, emit, lambda n: _Start(n, tuple(ids), sampling))
        if number is None:
            emit(Step(id=None, ending="failed"))
        return _Answer(self, number)

    def accept(self, grammar: str) -> None:
        """See Generator."""
        said: queue.SimpleQueue[_Answered | None] = queue.SimpleQueue()
        number = self._ask(self._waiting, said, lambda n: _Accept(n, grammar))
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
                self._child.send(_Cancel(number))

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
                if isinstance(told, _Stepped):
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

    def _tell(self, told: _Stepped) -> None:
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

    def __init__(self, load: _Load) -> None:
        command = [sys.executable, "-m", "millis.backends.apart"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._unsent: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="generation-asks", daemon=True)
        self._writer.start()
        self.send(load)
        loaded = next(self.read(), None)
        if not isinstance(loaded, _Answered):
            self.close()
            raise RunFailed(f"the process of {load.name} ended while it loaded: look at the server's log.")
        try:
            loaded.check()
        except MillisError:
            self.close()
            raise

    def send(self, message: _Asked) -> None:
        """Send a message; returns at once, whatever the process does."""
        self._unsent.put(message)

    def read(self) -> Iterator[_Told]:
        """Give what it says until it ends."""
        assert self._process.stdout is not None
        yield from _read_all(self._process.stdout, msgspec.msgpack.Decoder(_Told))

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
                _write_one(pipe, message)


def _read_all(pipe: BinaryIO | Any, decoder: Any) -> Iterator[Any]:
    """Give messages until the other end closes."""
    while len(length := pipe.read(_LENGTH_BYTES)) == _LENGTH_BYTES:
        n_bytes = int.from_bytes(length, "little")
        if len(message := pipe.read(n_bytes)) < n_bytes:
            return
        yield decoder.decode(message)


def _write_one(pipe: Any, message: _Asked | _Told) -> None:
    body = msgspec.msgpack.encode(message)
    pipe.write(len(body).to_bytes(_LENGTH_BYTES, "little") + body)
    pipe.flush()


class _Engine:
    """The other end: a generator, and what was asked of it."""

    def __init__(self, pipe: Any) -> None:
        self._pipe, self._writing = pipe, threading.Lock()
        self._streams: dict[int, Stream] = {}

    def work(self, asked: Iterator[_Asked]) -> None:
        """Do what is asked until nothing more can be."""
        load = next(asked, None)
        if not isinstance(load, _Load):
            return
        generator = self._load(load)
        if generator is None:
            return
        for one in asked:
            if isinstance(one, _Start):
                self._start(generator, one)
            elif isinstance(one, _Accept):
                threading.Thread(target=self._accept, args=(generator, one), daemon=True).start()
            elif isinstance(one, _Cancel) and (stream := self._streams.pop(one.number, None)):
                stream.cancel()
        generator.close()

    def _load(self, asked: _Load) -> Generator | None:
        from millis.backends import generators

        try:
            generator: Generator = generators[asked.name]()
            generator.load(Path(asked.folder), settings=asked.settings)
        except MillisError as error:
            self._tell(_describe(0, error))
            return None
        self._tell(_Answered(0))
        return generator

    def _start(self, generator: Generator, asked: _Start) -> None:
        def emit(step: Step) -> None:
            if step.ending is not None:
                self._streams.pop(asked.number, None)
            self._tell(_Stepped(asked.number, step))

        self._streams[asked.number] = generator.start(asked.ids, sampling=asked.sampling, emit=emit)

    def _accept(self, generator: Generator, asked: _Accept) -> None:
        try:
            generator.accept(asked.grammar)
        except MillisError as error:
            self._tell(_describe(asked.number, error))
        else:
            self._tell(_Answered(asked.number))

    def _tell(self, message: _Told) -> None:
        with self._writing, contextlib.suppress(OSError):  # nobody listens any more: the reading end tells us to stop
            _write_one(self._pipe, message)


def _describe(number: int, error: MillisError) -> _Answered:
    extra = error.extra if isinstance(error, InvalidRequest) else {}
    return _Answered(
        number, kind=type(error).__name__, message=str(error), slug=error.slug, status=error.status, extra=extra
    )


def main() -> int:
    """Be the process."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the engine prints is no answer
    _Engine(answers).work(_read_all(sys.stdin.buffer, msgspec.msgpack.Decoder(_Asked)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
