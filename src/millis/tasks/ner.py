"""Named-entity recognition: a text in, entities with character offsets out.

A *unit* is the smallest stretch an entity can begin or end at: a run of letters and digits in scripts that put spaces
between words, a single piece elsewhere (Chinese, Japanese, Thai, punctuation). The model speaks on the first piece of
each unit; the other pieces carry no target. So labels cannot shift, whatever the tokenizer adds, splits or drops.

Border: knows tokens, labels and offsets, no model library and no HTTP.
Limits: entities do not nest; one that begins inside a unit is widened to the unit.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from millis.data.examples import Span, SpanExample
from millis.errors import InvalidValue
from millis.tasks.scoring import score_spans
from millis.tasks.task import IGNORED, NO_OPTIONS, Head, Score, Window, lay_windows
from millis.tasks.tokenization import Tokenizer
from millis.tasks.units import find_units, plan_windows
from millis.tasks.wordpieces import Words


@dataclass(frozen=True, slots=True)
class _Places:
    """What decode needs of a window.

    Args:
        units: which units it speaks for.
        shift: from the place of a piece in the text to its row in the window.
    """

    units: Words
    shift: int


def ner_labels(types: Sequence[str]) -> tuple[str, ...]:
    """Name the model's outputs for entity types: O, then B- and I- of each type, sorted."""
    return ("O", *(f"{mark}-{kind}" for kind in sorted(set(types)) for mark in "BI"))


class NerTask:
    """Find the entities of a text.

    Args:
        tokenizer: pieces and offsets.
        labels: names of the model's outputs, as `ner_labels` gives them.
        max_tokens: longest window, special tokens included; longer texts are cut into overlapping windows.
        overlap: tokens that neighbouring windows share.
        example: a text to warm up on.
    """

    data: ClassVar[str] = "spans"
    asks: ClassVar[type] = str
    shown: ClassVar[tuple[str, str]] = (
        "Maria Garcia of Northwind wrote from Lisbon about her order.",
        "张伟昨天从上海给北京的联合电子公司写了信。",
    )
    asked: ClassVar[frozenset[str]] = frozenset()
    may_stop_early: ClassVar[bool] = False
    options: ClassVar[dict[str, tuple[Any, Any]]] = {}

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        labels: Sequence[str],
        max_tokens: int = 256,
        overlap: int = 32,
        example: str = shown[0],
    ) -> None:
        self.labels = tuple(labels)
        self.head = Head(self.labels)
        self.example = example
        self.max_tokens = max_tokens
        self.n_pieces = tokenizer.n_vocabulary
        self._tokenizer = tokenizer
        self._room = lay_windows(max_tokens, overlap=overlap, tokenizer=tokenizer)
        self._overlap = overlap
        self._kinds = [label[2:] if label != "O" else "" for label in self.labels]
        self._is_entity = np.array([bool(kind) for kind in self._kinds])
        self._begins = [label.startswith("B-") for label in self.labels]
        self._ids = {label: i for i, label in enumerate(self.labels)}

    @classmethod
    def learn(cls, tokenizer: Tokenizer, examples: Sequence[SpanExample], **settings: Any) -> "NerTask":
        """Make the task that finds the entities of these examples; settings are max_tokens, overlap, example."""
        labels = ner_labels([label for example in examples for label in example.labels])
        return cls(tokenizer, labels=labels, **settings)

    @staticmethod
    def names(labels: Sequence[str]) -> list[str]:
        """List the entity types."""
        return sorted({label.partition("-")[2] for label in labels} - {""})

    @property
    def settings(self) -> dict[str, Any]:
        """What makes the task again, beside tokenizer and labels."""
        return {"max_tokens": self.max_tokens, "overlap": self._overlap, "example": self.example}

    def with_tokenizer(self, tokenizer: Tokenizer) -> "NerTask":
        """Give the same task with another tokenizer."""
        return NerTask(tokenizer, labels=self.labels, **self.settings)

    def notes(self, examples: Sequence[SpanExample]) -> tuple[str, ...]:
        """Count the entities that cannot be answered exactly."""
        n = sum(map(self.n_widened, examples))
        return (f"{n} entities of test begin or end inside a word and cannot be answered exactly",) if n else ()

    def calibrate(self, examples: Sequence[SpanExample], outputs: object) -> None:
        """Fit nothing: scores of entities are the network's own."""

    def encode(
        self, text: str, *, example: SpanExample | None = None, options: Mapping[str, Any] = NO_OPTIONS
    ) -> tuple[Window, ...]:
        """Cut a text into windows; with an example, windows carry its targets.

        Returns:
            windows in order; none for a text without pieces. Each unit is spoken for by exactly one window: the one
            in which it stands furthest from an edge.
        """
        pieces = self._tokenizer.encode(text)
        units = find_units(text, pieces)
        if not units.spans:
            return ()
        targets = self._targets(units, example.spans, n_pieces=len(pieces.ids)) if example else None
        prefix, suffix = self._tokenizer.prefix, self._tokenizer.suffix
        windows = []
        for start, end, first, last in plan_windows(len(pieces.ids), room=self._room, overlap=self._overlap):
            ids = np.array([*prefix, *pieces.ids[start:end], *suffix], np.int64)
            places = _Places(units.between(first, last), len(prefix) - start)
            window_targets = None
            if targets is not None:
                window_targets = np.full(len(ids), IGNORED, np.int64)
                window_targets[len(prefix) : len(prefix) + end - start] = targets[start:end]
            windows.append(Window(ids=ids, targets=window_targets, places=places))
        return tuple(windows)

    def decode(
        self, text: str, windows: Sequence[Window], logits: Sequence[NDArray[np.float32]],
        options: Mapping[str, Any] = NO_OPTIONS,
    ) -> dict[str, Any]:  # fmt: skip
        """Read entities from logits (T, K), one array per window.

        Returns:
            {"entities": [{"label", "text", "start", "end", "score"}]}, in the order of the text; score is the mean
            probability of the entity's label over its units, 0 to 1.
        """
        entities: list[list[Any]] = []  # kind, start, end, probabilities
        n_before = 0  # units of the windows before
        open_until = -1  # the unit that would go on with the last entity
        for window, rows in zip(windows, logits, strict=True):
            places: _Places = window.places
            units, shift = places.units, places.shift
            best = rows.argmax(axis=1)
            hits = self._is_entity[best].nonzero()[0]
            if len(hits):
                found = rows[hits]
                confidence = 1 / np.exp(found - found.max(axis=1, keepdims=True)).sum(axis=1)
                for row, label, probability in zip(
                    hits.tolist(), best[hits].tolist(), confidence.tolist(), strict=True
                ):
                    unit = bisect_left(units.pieces, row - shift)
                    if unit == len(units.pieces) or units.pieces[unit] != row - shift:
                        continue  # no first piece of a unit, or one that another window speaks for
                    kind, (start, end) = self._kinds[label], units.spans[unit]
                    if n_before + unit == open_until and kind == entities[-1][0] and not self._begins[label]:
                        entities[-1][2] = end
                        entities[-1][3].append(probability)
                    else:
                        entities.append([kind, start, end, [probability]])
                    open_until = n_before + unit + 1
            n_before += len(units.pieces)
        return {
            "entities": [
                {"label": kind, "text": text[start:end], "start": start, "end": end,
                 "score": round(sum(scores) / len(scores), 6)}
                for kind, start, end, scores in entities
            ]
        }  # fmt: skip

    def score(self, examples: Sequence[SpanExample], answers: Sequence[dict[str, Any]]) -> Score:
        """Compare entities exactly, offsets and label: precision, recall and F1 by label (seqeval)."""
        return score_spans(
            [example.spans for example in examples],
            [
                tuple(Span(entity["start"], entity["end"], entity["label"]) for entity in answer["entities"])
                for answer in answers
            ],
        )

    def n_widened(self, example: SpanExample) -> int:
        """Count the spans that cannot be answered exactly, since they begin or end inside a unit."""
        units = find_units(example.text, self._tokenizer.encode(example.text))
        starts, ends = ({span[edge] for span in units.spans} for edge in (0, 1))
        return sum(span.start not in starts or span.end not in ends for span in example.spans)

    def _targets(self, units: Words, spans: Sequence[Span], *, n_pieces: int) -> NDArray[np.int64]:
        """Give each unit's first piece its label id, every other piece IGNORED."""
        targets = np.full(n_pieces, IGNORED, np.int64)
        targets[units.pieces] = 0
        for span in spans:
            mark = "B"
            for piece, (start, end) in zip(*units, strict=True):
                if start < span.end and span.start < end:
                    label = f"{mark}-{span.label}"
                    if label not in self._ids:
                        raise InvalidValue(
                            f"label {span.label!r} is not one of this model's:"
                            f" {', '.join(sorted(set(self._kinds) - {''}))}."
                        )
                    targets[piece] = self._ids[label]
                    mark = "I"
        return targets
