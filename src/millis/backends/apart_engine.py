"""The process that apart.py starts: a generator, loaded, and what is asked of it.

Border: messages in on standard input, out on standard output; what anything else prints goes to standard error.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
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
    describe,
    read_all,
    write_one,
)
from millis.backends.generator import Generator, Step, Stream
from millis.errors import MillisError


class _Engine:
    """A generator, and what was asked of it."""

    def __init__(self, pipe: Any) -> None:
        self._pipe, self._writing = pipe, threading.Lock()
        self._streams: dict[int, Stream] = {}

    def work(self, asked: Iterator[Asked]) -> None:
        """Do what is asked until nothing more can be."""
        load = next(asked, None)
        if not isinstance(load, Load):
            return
        generator = self._load(load)
        if generator is None:
            return
        for one in asked:
            if isinstance(one, Start):
                self._start(generator, one)
            elif isinstance(one, Accept):
                threading.Thread(target=self._accept, args=(generator, one), daemon=True).start()
            elif isinstance(one, Cancel) and (stream := self._streams.pop(one.number, None)):
                stream.cancel()
        generator.close()

    def _load(self, asked: Load) -> Generator | None:
        from millis.backends import generators

        try:
            generator: Generator = generators[asked.name]()
            generator.load(Path(asked.folder), settings=asked.settings)
        except MillisError as error:
            self._tell(describe(0, error))
            return None
        self._tell(Answered(0))
        return generator

    def _start(self, generator: Generator, asked: Start) -> None:
        def emit(step: Step) -> None:
            if step.ending is not None:
                self._streams.pop(asked.number, None)
            self._tell(Stepped(asked.number, step))

        self._streams[asked.number] = generator.start(asked.ids, sampling=asked.sampling, emit=emit)

    def _accept(self, generator: Generator, asked: Accept) -> None:
        try:
            generator.accept(asked.grammar)
        except MillisError as error:
            self._tell(describe(asked.number, error))
        else:
            self._tell(Answered(asked.number))

    def _tell(self, message: Told) -> None:
        with self._writing, contextlib.suppress(OSError):  # nobody listens any more: the reading end tells us to stop
            write_one(self._pipe, message)


def main() -> int:
    """Be the process."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the engine prints is no answer
    _Engine(answers).work(read_all(sys.stdin.buffer, msgspec.msgpack.Decoder(Asked)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
