"""A generator without a model, for tests: it reads its prompt, and says it again and again as long as it is let.

Prompts are read in the order of their coming.
Border: stdlib only; reads pause_ms, where there is such a file: how long each step takes.
"""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from millis.backends.generator import STEP_TOKENS, GeneratorSettings, Step, no_grammars
from millis.backends.stepping import OpenAnswer, Stepping


class FakeGenerator(Stepping):
    """See Generator.

    Args:
        hold: where given, a step waits until it is set.
    Attributes:
        n_steps: how many steps were run.
    """

    name = "fake"

    def __init__(self, hold: threading.Event | None = None) -> None:
        super().__init__()
        self._said: dict[OpenAnswer, int] = {}
        self._unread: dict[OpenAnswer, int] = {}
        self._hold = hold
        self._pause_s = 0.0
        self.n_steps = 0

    def load(self, folder: Path, *, settings: GeneratorSettings) -> None:
        """Read how long a step takes, nothing else."""
        if (folder / "pause_ms").is_file():
            self._pause_s = float((folder / "pause_ms").read_text()) / 1000
        self._thread.start()

    def accept(self, grammar: str) -> None:
        """See Generator; it says what it is told, in no form."""
        raise no_grammars()

    def _begin(self, answer: OpenAnswer) -> None:
        self._said[answer], self._unread[answer] = 0, len(answer.ids)

    def _step(self, answers: Sequence[OpenAnswer]) -> None:
        if self._hold is not None:
            self._hold.wait()
        if self._pause_s:
            time.sleep(self._pause_s)
        self.n_steps += 1
        left = STEP_TOKENS
        for answer in answers:
            n_read = min(self._unread[answer], left)
            self._unread[answer] -= n_read
            left -= n_read
            if self._unread[answer]:
                continue
            n = self._said[answer]
            piece = answer.ids[n % len(answer.ids)]
            self._said[answer] = n + 1
            is_stop = piece in answer.sampling.stop_ids
            is_last = n + 1 >= answer.sampling.max_tokens
            answer.tell(Step(id=piece, ending="stop" if is_stop else "length" if is_last else None))
            if answer.is_ended:
                self._drop(answer)

    def _drop(self, answer: OpenAnswer) -> None:
        self._said.pop(answer, None)
        self._unread.pop(answer, None)

    def _renew(self) -> None:
        """Nothing: what it said is forgotten answer by answer."""
