"""The thread of a generator: takes prompts, steps while any answer is open, drops the cancelled before each step.

Border: knows no engine; one derives from it and says what a step is.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence

from millis.backends.generator import Emit, Sampling, Step


class OpenAnswer:
    """An answer on a stepping generator."""

    def __init__(self, ids: Sequence[int], *, sampling: Sampling, emit: Emit) -> None:
        self.ids, self.sampling, self.emit = tuple(ids), sampling, emit
        self.is_cancelled = self.is_ended = False

    def cancel(self) -> None:
        """See Stream."""
        self.is_cancelled = True

    def tell(self, step: Step) -> None:
        """Emit a step unless nobody listens any more."""
        if not (self.is_cancelled or self.is_ended):
            self.is_ended = step.ending is not None
            self.emit(step)


class Stepping(ABC):
    """Steps through all open answers on one thread.

    A generator gives `_begin`, `_step`, `_drop` and `_renew`; they are called on the thread only.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._new: list[OpenAnswer] = []
        self._open: list[OpenAnswer] = []
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, name="generation", daemon=True)

    def start(self, ids: Sequence[int], *, sampling: Sampling, emit: Emit) -> OpenAnswer:
        """See Generator."""
        answer = OpenAnswer(ids, sampling=sampling, emit=emit)
        with self._changed:
            is_closing = self._is_closing
            if not is_closing:
                self._new.append(answer)
                self._changed.notify()
        if is_closing:
            answer.tell(Step(id=None, ending="failed"))
        return answer

    def close(self) -> None:
        """See Generator."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._new or self._open or self._is_closing):
                    self._changed.wait()
                new, self._new = self._new, []
                is_closing = self._is_closing
            for answer in [*self._open, *new] if is_closing else ():
                answer.tell(Step(id=None, ending="failed"))
            if is_closing:
                return
            try:
                for answer in new:
                    if not answer.is_cancelled:
                        self._take(answer)
                for answer in [one for one in self._open if one.is_cancelled]:  # one look: it may change
                    self._open.remove(answer)
                    self._drop(answer)
                if self._open:
                    self._step(self._open)
            except Exception:  # the engine's own, of any class: whoever waits is told, and the thread lives on
                for answer in self._open:
                    answer.tell(Step(id=None, ending="failed"))
                    self._drop(answer)
                self._renew()
            self._open = [answer for answer in self._open if not answer.is_ended]

    def _take(self, answer: OpenAnswer) -> None:
        """Begin an answer; one that the engine does not take fails alone, since nothing was run."""
        self._open.append(answer)
        try:
            self._begin(answer)
        except Exception:  # as in _work
            answer.tell(Step(id=None, ending="failed"))
            self._open.remove(answer)
            self._drop(answer)

    @abstractmethod
    def _renew(self) -> None:
        """Make good what a step that raised may have left behind; must not raise."""

    @abstractmethod
    def _begin(self, answer: OpenAnswer) -> None:
        """Take a prompt, of which nothing was read yet."""

    @abstractmethod
    def _step(self, answers: Sequence[OpenAnswer]) -> None:
        """Tell some of the open answers their next pieces; one at least, or wait a moment."""

    @abstractmethod
    def _drop(self, answer: OpenAnswer) -> None:
        """Forget an answer that was cancelled, or failed."""
