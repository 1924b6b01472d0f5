"""Text classification: a text in, its label out, or its labels, with calibrated probabilities.

A label of a single-label task is the best of K outputs. A multi-label task asks K questions, one per label, each with
two outputs, no and yes; so both are softmaxes, and everything that trains, prunes or compares networks treats them
alike. A text longer than a window is read in several, whose outputs are averaged by length.

Where training data says which label means *none of these*, it has an output like the others; what it takes to believe
it is scope.py's.

Border: knows tokens, labels and probabilities, no model library and no HTTP.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, ClassVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from millis.data.examples import LabelExample
from millis.errors import InvalidData, InvalidValue
from millis.tasks.calibration import calibration_error, fit_temperature
from millis.tasks.scope import OutOfScope
from millis.tasks.scoring import score_labels
from millis.tasks.task import NO_OPTIONS, Calibration, Head, Score, Window, cut_whole, lay_windows
from millis.tasks.tokenization import Tokenizer

Logits = NDArray[np.float32]
_NO, _YES = 0, 1
_MOST_TEMPLATE = 1_000
_FORMS = ("scores", "labels")
_PLACE = re.compile(r"\{(label|score|text)\}")
"""What a template has filled in."""


class ClassifyTask:
    """Label a text.

    Args:
        tokenizer: pieces of the text.
        labels: the K labels, the one out of scope not among them.
        max_tokens: longest window, special tokens included; longer texts are read in several.
        overlap: tokens that neighbouring windows share.
        example: a text to warm up on.
        is_multi: a text has any number of labels, none included.
        out_of_scope: fields of OutOfScope, where there is such a label.
    """

    data: ClassVar[str] = "labels"
    asks: ClassVar[type] = str
    shown: ClassVar[tuple[str, str]] = (
        "Where is my order? It should have come on Monday.",
        "我的订单到哪里了？本来星期一就该送到的。",
    )
    asked: ClassVar[frozenset[str]] = frozenset({"multi_label", "out_of_scope"})
    may_stop_early: ClassVar[bool] = False
    options: ClassVar[dict[str, tuple[Any, Any]]] = {
        "top_k": (Annotated[int, Meta(ge=1, le=1_000, description="how many scores to list")], 5),
        "output": (
            Annotated[
                str,
                Meta(
                    min_length=1, max_length=_MOST_TEMPLATE,
                    description="scores, labels, or a template in which {label}, {score} and {text} are filled in",
                ),
            ],
            "scores",
        ),
    }  # fmt: skip

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        labels: Sequence[str],
        max_tokens: int = 256,
        overlap: int = 32,
        example: str = shown[0],
        is_multi: bool = False,
        out_of_scope: dict[str, Any] | None = None,
    ) -> None:
        self.labels = tuple(labels)
        self.example = example
        self.max_tokens = max_tokens
        self.n_pieces = tokenizer.n_vocabulary
        self.is_multi = is_multi
        self.out_of_scope = OutOfScope(**out_of_scope) if out_of_scope else None
        if is_multi:
            outputs = tuple(f"{answer} {label}" for label in self.labels for answer in ("no:", "yes:"))
            self.head = Head(outputs, rows=len(self.labels))
        else:
            self.head = Head((*self.labels, *([self.out_of_scope.label] if self.out_of_scope else [])), rows=1)
        self._tokenizer = tokenizer
        self._overlap = overlap
        self._room = lay_windows(max_tokens, overlap=overlap, tokenizer=tokenizer)
        self._ids = {label: i for i, label in enumerate(self.labels if is_multi else self.head.outputs)}

    @classmethod
    def learn(
        cls, tokenizer: Tokenizer, examples: Sequence[LabelExample], *, multi_label: bool = False,
        out_of_scope: str | None = None, **settings: Any,
    ) -> "ClassifyTask":  # fmt: skip
        """Make the task that examples ask for.

        Args:
            multi_label: whether a text may have several labels, or none.
            out_of_scope: the label that means none of the others.
            settings: max_tokens, overlap, example.
        Raises:
            InvalidData: under two labels, or none that is out of scope.
            InvalidValue: both of the options.
        """
        if multi_label and out_of_scope:
            raise InvalidValue("multi_label with out_of_scope: a text with no label is none of them already; give one.")
        labels = {label for example in examples for label in example.labels}
        if out_of_scope is not None and out_of_scope not in labels:
            raise InvalidData(
                f"no text of train has the label {out_of_scope!r}, which is to mean out of scope: give some, or name"
                f" one of {', '.join(sorted(labels)[:20])}."
            )
        labels -= {out_of_scope} if out_of_scope is not None else set()
        if len(labels) < (1 if multi_label else 2):
            raise InvalidData(
                f"train has {len(labels)} label{'s' * (len(labels) != 1)} ({', '.join(sorted(labels))}): to tell texts"
                " apart it needs at least two."
            )
        scope = {"label": out_of_scope} if out_of_scope is not None else None
        return cls(tokenizer, labels=sorted(labels), is_multi=multi_label, out_of_scope=scope, **settings)

    @staticmethod
    def names(labels: Sequence[str]) -> list[str]:
        """List the labels."""
        return list(labels)

    @property
    def settings(self) -> dict[str, Any]:
        """What makes the task again, beside tokenizer and labels."""
        scope = self.out_of_scope
        return {
            "max_tokens": self.max_tokens, "overlap": self._overlap, "example": self.example, "is_multi": self.is_multi,
            "out_of_scope": None if scope is None else asdict(scope),
        }  # fmt: skip

    def with_tokenizer(self, tokenizer: Tokenizer) -> "ClassifyTask":
        """Give the same task with another tokenizer."""
        return ClassifyTask(tokenizer, labels=self.labels, **self.settings)

    def notes(self, examples: Sequence[LabelExample]) -> tuple[str, ...]:
        """Say nothing: whatever label an example has can be answered."""
        return ()

    def encode(
        self, text: str, *, example: LabelExample | None = None, options: Mapping[str, Any] = NO_OPTIONS
    ) -> tuple[Window, ...]:
        """Cut a text into windows, at least one; with an example, windows carry its targets, int64 (R,).

        Raises:
            InvalidValue: an output that is neither a form nor a template.
        """
        output = options.get("output", "scores")
        if output not in _FORMS and not _PLACE.search(output):
            raise InvalidValue(
                f"output cannot be {len(output)} characters without {{label}}, {{score}} or {{text}}, which would be"
                " the same for every text: give scores, labels, or a template that has one of the three in it."
            )
        targets = self._targets(example) if example else None
        return cut_whole(
            text, tokenizer=self._tokenizer, room=self._room, overlap=self._overlap, targets=targets
        )

    def decode(
        self, text: str, windows: Sequence[Window], logits: Sequence[NDArray[np.float32]],
        options: Mapping[str, Any] = NO_OPTIONS,
    ) -> dict[str, Any]:  # fmt: skip
        """Read the answer from logits (R, C), one array per window.

        Args:
            options: top_k, how many scores are listed; output, "scores", "labels" for the labels alone, or a template
                in which {label}, {score} and {text} are filled in.
        Returns:
            {"label", "score", "scores": [{"label", "score"}, ...]}, label None where no label fits, and beside it
            "out_of_scope", a probability, where there is such a label; for multi-label tasks "labels", those more
            probable than not, instead of "label" and "score"; {"text"} for a template.
        """
        top_k, output = (options.get(name, usual) for name, (_, usual) in self.options.items())
        mean = _average(windows, logits)
        if self.is_multi:
            scores = np.exp(-np.logaddexp(0, mean[:, _NO] - mean[:, _YES]))
        else:
            row = mean[0, : len(self.labels)]
            odds = np.exp(row - row.max())
            scores = odds / odds.sum()
        order = np.argsort(-scores, kind="stable")
        ranked = [
            {"label": self.labels[i], "score": round(float(scores[i]), 6)} for i in order[:top_k].tolist()
        ]
        result: dict[str, Any]
        if self.is_multi:
            result = {"labels": [self.labels[i] for i in order.tolist() if scores[i] > 0.5]}
        else:
            best = int(order[0])
            result = {"label": self.labels[best], "score": round(float(scores[best]), 6)}
            if self.out_of_scope is not None:
                outside = self.out_of_scope.probability(mean[0])
                result["out_of_scope"] = round(outside, 6)
                if outside > 0.5:
                    result |= {"label": None, "score": round(outside, 6)}
        if output == "labels":
            return {key: result[key] for key in ("label", "labels") if key in result}
        if output == "scores":
            return {**result, "scores": ranked}
        score = min((float(one) for one in scores if one > 0.5), default=0.0) if self.is_multi else result["score"]
        label = ", ".join(result["labels"]) if self.is_multi else result["label"] or ""
        filled = {"label": label, "score": f"{score:.3f}", "text": text}
        return {"text": _PLACE.sub(lambda place: filled[place[1]], output)}

    def score(self, examples: Sequence[LabelExample], answers: Sequence[dict[str, Any]]) -> Score:
        """Compare labels: accuracy of single ones, F1 over all of several; by label; how far scores are calibrated."""
        outside = self.out_of_scope.label if self.out_of_scope else None
        return score_labels(
            [example.labels for example in examples], answers, labels=self.labels, out_of_scope=outside,
            is_multi=self.is_multi,
        )

    def calibrate(
        self, examples: Sequence[LabelExample], outputs: Sequence[tuple[Sequence[Window], Sequence[Logits]]]
    ) -> Calibration:
        """Fit what makes probabilities of scores.

        Args:
            examples: that the network was not trained on.
            outputs: windows of each, and their logits, float32 (R, C).
        Source: temperature scaling, Guo et al. 2017, arXiv:1706.04599.
        """
        logits = [_average(*one) for one in outputs]
        scoped = [
            (row, self._targets(example)) for row, example in zip(logits, examples, strict=True)
            if not self._is_outside(example)
        ]  # fmt: skip
        if not scoped:
            raise InvalidData("no text of dev is in scope: give some, to see how far scores can be believed.")
        n_outputs = 2 if self.is_multi else len(self.labels)
        rows = np.concatenate([row[:, :n_outputs] for row, _ in scoped]).astype(np.float64)
        targets = np.concatenate([target for _, target in scoped])
        temperature = fit_temperature(rows, targets)
        before, after = (100 * calibration_error(one, targets) for one in (rows, rows / temperature))
        said = f"temperature {temperature:.2f}: calibration error on dev {before:.1f} %, {after:.1f} % with it"
        if self.out_of_scope is None:
            return Calibration(temperature=temperature, task=self, said=said)
        scope, told = self.out_of_scope.fit(
            [row[0] / temperature for row in logits], [self._is_outside(example) for example in examples]
        )  # fmt: skip
        settings = self.settings | {"out_of_scope": asdict(scope)}
        fitted = ClassifyTask(self._tokenizer, labels=self.labels, **settings)
        return Calibration(temperature=temperature, task=fitted, said=f"{said}; {told}")

    def _is_outside(self, example: LabelExample) -> bool:
        return self.out_of_scope is not None and example.labels == (self.out_of_scope.label,)

    def _targets(self, example: LabelExample) -> NDArray[np.int64]:
        """Give the output that is right in each row, int64 (R,)."""
        if self.is_multi:
            targets = np.zeros(len(self.labels), np.int64)
            targets[[self._id(label) for label in example.labels]] = _YES
            return targets
        if len(example.labels) != 1:
            raise InvalidData(f"{example.source or 'a text'} has {len(example.labels)} labels: one is needed.")
        return np.array([self._id(example.labels[0])], np.int64)

    def _id(self, label: str) -> int:
        if label not in self._ids:
            raise InvalidValue(f"label {label!r} is not one of this model's: {', '.join(self.labels[:20])}.")
        return self._ids[label]


def _average(windows: Sequence[Window], logits: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Give the mean of windows' logits (R, C), by how much of the text each reads."""
    if len(logits) == 1:
        return logits[0]
    weights = np.array([max(window.places, 1) for window in windows], np.float64)
    mean: NDArray[np.float32] = np.average(np.stack(logits), axis=0, weights=weights).astype(np.float32)
    return mean
