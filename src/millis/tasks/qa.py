"""Extractive question answering: a question and a context in, the stretch of the context that answers it out.

A window is the question and as much of the context as has room. The network says of each token how likely the answer
begins and how likely it ends there; that the answer is not in the window is said by the window's first token. All
stretches of all windows compete, and the lack of an answer with them.

Border: knows tokens and offsets, no model library and no HTTP.
Limits: one answer, in one piece. A question is cut at half a window.
Source: Devlin et al. 2019, arXiv:1810.04805, 4.2 and 4.3 (start and end, no answer at the first token); here
probabilities are over all stretches, not over starts and ends apart.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from millis.data.examples import AnswerExample, Question
from millis.errors import InvalidValue
from millis.tasks.scoring import score_answers
from millis.tasks.task import NO_OPTIONS, Head, Score, Window, lay_windows
from millis.tasks.tokenization import Tokenizer
from millis.tasks.units import find_units, plan_windows
from millis.tasks.wordpieces import Characters, Words

LABELS = ("start", "end")

_NOWHERE = 0
"""The place in a window that says that the answer is not in it."""

_LONGEST_ANSWERS = 99.5
"""Percentile of the answers of train that may still be given whole."""

_LEAST_LONGEST = 8


class _Places(NamedTuple):
    """What decode needs of a window.

    Args:
        first, last: rows of the window's pieces of the context, half-open.
        offsets: characters of each of these pieces.
        units: of the whole context, to which an answer is widened.
    """

    first: int
    last: int
    offsets: Sequence[Characters]
    units: Words


class QaTask:
    """Find the answer to a question in a text.

    Args:
        tokenizer: pieces and offsets.
        labels: the two outputs, `LABELS`.
        max_tokens: longest window, special tokens included; longer contexts are read in several.
        overlap: tokens that neighbouring windows share.
        example: to warm up on; a Question, or its two fields.
        longest: pieces of an answer, at most.
        may_have_none: whether "no answer" is an answer.
    """

    data: ClassVar[str] = "answers"
    asks: ClassVar[type] = Question
    shown: ClassVar[tuple[Any, Any]] = (
        Question("When does the desk open?", "The desk is in the hall. It opens at nine and closes at five."),
        Question("服务台几点开门？", "服务台在大厅里，上午九点开门，下午五点关门。"),
    )
    asked: ClassVar[frozenset[str]] = frozenset()
    may_stop_early: ClassVar[bool] = False
    options: ClassVar[dict[str, tuple[Any, Any]]] = {
        "top_k": (Annotated[int, Meta(ge=1, le=100, description="how many answers to list, the best first")], 3),
    }  # fmt: skip

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        labels: Sequence[str] = LABELS,
        max_tokens: int = 384,
        overlap: int = 64,
        example: Question | dict[str, str] = shown[0],
        longest: int = 32,
        may_have_none: bool = True,
    ) -> None:
        self.labels = tuple(labels)
        self.head = Head(self.labels, is_across=True, separator=tokenizer.separator)
        self.example = example if isinstance(example, Question) else msgspec.convert(example, type=Question)
        self.max_tokens = max_tokens
        self.n_pieces = tokenizer.n_vocabulary
        self.longest = longest
        self.may_have_none = may_have_none
        self._tokenizer = tokenizer
        self._overlap = overlap
        self._room = lay_windows(max_tokens, overlap=overlap, tokenizer=tokenizer) - len(tokenizer.between)

    @classmethod
    def learn(cls, tokenizer: Tokenizer, examples: Sequence[AnswerExample], **settings: Any) -> "QaTask":
        """Make the task for such answers: how long they are, and whether some questions have none.

        Args:
            settings: max_tokens, overlap, example.
        """
        lengths = [len(tokenizer.encode(surface).ids) for example in examples for surface in example.surfaces]
        longest = int(np.ceil(np.percentile(lengths, _LONGEST_ANSWERS))) if lengths else _LEAST_LONGEST
        may_have_none = any(not example.answers for example in examples)
        return cls(tokenizer, longest=max(longest, _LEAST_LONGEST), may_have_none=may_have_none, **settings)

    @staticmethod
    def names(labels: Sequence[str]) -> list[str]:
        """List nothing: answers are pieces of the text."""
        return []

    @property
    def settings(self) -> dict[str, Any]:
        """What makes the task again, beside tokenizer and labels."""
        return {
            "max_tokens": self.max_tokens, "overlap": self._overlap, "example": msgspec.to_builtins(self.example),
            "longest": self.longest, "may_have_none": self.may_have_none,
        }  # fmt: skip

    def with_tokenizer(self, tokenizer: Tokenizer) -> "QaTask":
        """Give the same task with another tokenizer."""
        return QaTask(tokenizer, labels=self.labels, **self.settings)

    def notes(self, examples: Sequence[AnswerExample]) -> tuple[str, ...]:
        """Count the answers that are too long to be given whole."""
        n = sum(
            bool(example.answers)
            and min(len(self._tokenizer.encode(surface).ids) for surface in example.surfaces) > self.longest
            for example in examples
        )
        return (f"{n} answers of test are longer than {self.longest} pieces and cannot be given whole",) if n else ()

    def calibrate(self, examples: Sequence[AnswerExample], outputs: object) -> None:
        """Fit nothing: scores of answers are the network's own."""

    def encode(
        self, text: Question, *, example: AnswerExample | None = None, options: Mapping[str, Any] = NO_OPTIONS
    ) -> tuple[Window, ...]:
        """Cut question and context into windows; with an example, windows carry where it begins and ends, int64 (2,).

        Returns:
            windows in order; none for a context without pieces.
        """
        tokenizer = self._tokenizer
        asked = tokenizer.encode(text.question).ids[: self._room // 2]
        pieces = tokenizer.encode(text.context)
        units = find_units(text.context, pieces)
        if not units.spans:
            return ()
        answer = _find_pieces(pieces.offsets, example.answers[0]) if example and example.answers else None
        head = [*tokenizer.prefix, *asked, *tokenizer.between]
        room = self._room - len(asked)
        windows = []
        for start, end, _, _ in plan_windows(len(pieces.ids), room=room, overlap=min(self._overlap, room // 2)):
            ids = np.array([*head, *pieces.ids[start:end], *tokenizer.suffix], np.int64)
            places = _Places(len(head), len(head) + end - start, pieces.offsets[start:end], units)
            targets = None
            if example is not None:
                targets = np.array((_NOWHERE, _NOWHERE), np.int64)
                if answer is not None and start <= answer[0] and answer[1] < end:
                    targets = np.array(answer, np.int64) - start + len(head)
            windows.append(Window(ids=ids, targets=targets, places=places))
        return tuple(windows)

    def decode(
        self, text: Question, windows: Sequence[Window], logits: Sequence[NDArray[np.float32]],
        options: Mapping[str, Any] = NO_OPTIONS,
    ) -> dict[str, Any]:  # fmt: skip
        """Read the answer from logits (2, T), one array per window.

        Args:
            options: top_k, how many answers are listed.
        Returns:
            {"answer", "start", "end", "score", "answers": [{"answer", "start", "end", "score"}, ...]}; scores are
            probabilities, 0 to 1. answer, start and end are None where the lack of an answer is more probable than the
            best one; score then says how probable.
        """
        top_k = int(options.get("top_k", self.options["top_k"][1]))
        found = _Found(longest=self.longest)
        for window, rows in zip(windows, logits, strict=True):
            found.add(rows, window.places, n=top_k)
        nowhere = found.nowhere if self.may_have_none else -np.inf
        total = np.logaddexp(found.log_total, nowhere)
        best: dict[Characters, float] = {}
        for score, start, end in sorted(found.candidates, reverse=True):
            best.setdefault((start, end), float(np.exp(score - total)))
        ranked = [
            {"answer": text.context[start:end], "start": start, "end": end, "score": round(probability, 6)}
            for (start, end), probability in list(best.items())[:top_k]
        ]
        if ranked and max(found.candidates)[0] >= nowhere:
            return {**ranked[0], "answers": ranked}
        none = round(float(np.exp(nowhere - total)), 6) if ranked else 1.0
        return {"answer": None, "start": None, "end": None, "score": none, "answers": ranked}

    def score(self, examples: Sequence[AnswerExample], answers: Sequence[dict[str, Any]]) -> Score:
        """Compare answers as SQuAD does: F1 of what they share, and how many are exactly right."""
        return score_answers(
            [example.surfaces for example in examples], [answer["answer"] or "" for answer in answers]
        )


class _Found:
    """The best stretches of all windows, and the sum over every one.

    Args:
        longest: pieces of a stretch, at most.
    Attributes:
        candidates: (score, start, end) in logits and characters.
        log_total: logarithm of the sum of exp(score) over all stretches.
        nowhere: the least score of a window's lack of an answer; one that has it is enough.
    """

    def __init__(self, *, longest: int) -> None:
        self._longest = longest
        self.candidates: list[tuple[float, int, int]] = []
        self.log_total = -np.inf
        self.nowhere = np.inf

    def add(self, logits: NDArray[np.float32], places: _Places, *, n: int) -> None:
        """Add a window's stretches, by themselves those of its n best answers: stretches within a word are one."""
        starts, ends = logits[:, places.first : places.last].astype(np.float64)
        longest = min(self._longest, len(starts))
        padded = np.concatenate([ends, np.full(longest - 1, -np.inf)])
        scores = starts[:, None] + np.lib.stride_tricks.sliding_window_view(padded, longest)  # (T, longest)
        flat = scores.ravel()
        peak = flat.max()
        self.log_total = np.logaddexp(self.log_total, peak + np.log(np.exp(flat - peak).sum()))
        self.nowhere = min(self.nowhere, float(logits[0, _NOWHERE]) + float(logits[1, _NOWHERE]))
        n_looked, answers = 0, dict[Characters, float]()
        while len(answers) < n and n_looked < len(flat):
            n_looked = 2 * max(n_looked, n)
            best = np.argpartition(flat, -n_looked)[-n_looked:] if len(flat) > n_looked else np.arange(len(flat))
            for at in best[np.argsort(-flat[best])].tolist():
                if np.isfinite(flat[at]):
                    first, length = divmod(at, longest)
                    place = _widen(places.offsets[first][0], places.offsets[first + length][1], places.units)
                    answers.setdefault(place, float(flat[at]))
        self.candidates += [(score, start, end) for (start, end), score in answers.items()]


def _widen(start: int, end: int, units: Words) -> Characters:
    """Take in the whole of the units that characters share, and no blanks around them."""
    first = bisect_right(units.spans, start, key=lambda span: span[1])  # the first that ends behind the start
    last = bisect_left(units.spans, end, key=lambda span: span[0]) - 1  # the last that begins before the end
    if first > last:
        return start, end  # between units
    return units.spans[first][0], units.spans[last][1]


def _find_pieces(offsets: Sequence[Characters], answer: Characters) -> tuple[int, int]:
    """Give the first and last piece that share characters with an answer.

    Raises:
        InvalidValue: none does.
    """
    inside = [i for i, (start, end) in enumerate(offsets) if start < answer[1] and answer[0] < end]
    if not inside:
        raise InvalidValue(
            f"the answer at [{answer[0]}, {answer[1]}) has no piece of its own in the text: give one that has letters."
        )
    return inside[0], inside[-1]
