"""The text of an answer that grows: pieces spelled, stop strings looked for, whole sentences cut off under a deadline.

Border: steps in, parts out; no clock, no engine and no event loop.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from millis.backends.generator import Step
from millis.tasks.chat import Chat, Stops
from millis.tasks.sentences import end_of_sentence


class Piece(NamedTuple):
    """A piece of an answer: its id, the logarithm of its probability, and the characters that stand before it."""

    id: int
    logprob: float
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is new of an answer.

    Args:
        pieces: what the text is spelled from.
        first_ns: when the answer's first piece came, on the clock of perf_counter_ns; None where none did.
        ending: of the last part: stop, length or deadline.
        is_whole: does the answer end where a sentence ends, or where the model or the client said?
    """

    text: str
    pieces: tuple[Piece, ...]
    first_ns: int | None = None
    ending: str | None = None
    is_whole: bool = True


class Growth:
    """One answer, as far as it has come.

    Args:
        stops: strings that end it, and are no part of it.
        is_timed: it goes out in whole sentences, so that a deadline can end it after one.
        has_form: it is held to a grammar: half of it is nothing whole, and it goes out as it comes.
    Attributes:
        first_ns: when its first piece came, as whoever listens says.
    """

    def __init__(self, chat: Chat, *, stops: Sequence[str], is_timed: bool, has_form: bool) -> None:
        self._speller, self._scanner = chat.tokenizer.speller(), Stops(stops)
        self._stop_ids: Set[int] = frozenset(chat.stop_ids)
        self._is_timed, self._has_form = is_timed, has_form
        self._text, self._is_said = "", False
        self._pieces: list[Piece] = []
        self._n_spelled = 0
        self.first_ns: int | None = None

    def add(self, step: Step) -> Part | None:
        """Take what a step gave; give what can go out now, with an ending where the answer has one."""
        is_stopped = False
        if step.id is not None and not (step.ending == "stop" and step.id in self._stop_ids):
            spelled = self._speller.add(step.id)
            new, is_stopped = self._scanner.add(spelled)
            self._text += new
            self._pieces.append(Piece(step.id, step.logprob, self._n_spelled))
            self._n_spelled += len(spelled)
        if is_stopped or step.ending is not None:
            rest = "" if is_stopped else self._scanner.end()
            return self._give(self._text + rest, ending="stop" if is_stopped else step.ending)
        cut = end_of_sentence(self._text) if self._is_timed and not self._has_form else len(self._text)
        if not cut:
            return None
        part = self._give(self._text[:cut])
        self._text, self._pieces, self._is_said = self._text[cut:], [], True
        return part

    def end_late(self) -> Part:
        """End it where its deadline came: behind its last whole sentence, or where it is if it has none."""
        text = self._text + self._scanner.end()
        is_whole = not self._has_form and (self._is_said or end_of_sentence(text) > 0)  # half a form is none
        return self._give(text[: end_of_sentence(text)] if is_whole else text, ending="deadline", is_whole=is_whole)

    def _give(self, text: str, *, ending: str | None = None, is_whole: bool = True) -> Part:
        pieces = tuple(self._pieces)
        return Part(text=text, pieces=pieces, first_ns=self.first_ns, ending=ending, is_whole=is_whole)
