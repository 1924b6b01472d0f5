"""Whether none of a task's labels fits a text, where its data has a label that says so.

What none of these looks like is never all in the training data, and doubt shows the rest: so a logistic function of
that label's output and of how sure the network is of the others, fitted to texts that it has not learnt, gives the
probability that none fits.
Border: logits and probabilities; which output is the label's is the task's matter: it is the last.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millis.errors import InvalidData
from millis.tasks.calibration import fit_logistic, signs_of


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfScope:
    """The label that means none of the others, and how probable it is.

    Args:
        label: as the data names it.
        weights: of what `signs_of` gives, in the log odds of being out of scope; None before they are fitted.
    """

    label: str
    weights: tuple[float, ...] | None = None

    def probability(self, logits: NDArray[np.floating[Any]]) -> float:
        """Give the probability that no label fits, for logits (K + 1,): the plain softmax's before it is fitted."""
        if self.weights is None:
            return float(np.exp(logits[-1] - np.logaddexp.reduce(logits.astype(np.float64))))
        odds = sum(sign * weight for sign, weight in zip(signs_of(logits), self.weights, strict=True))
        return 1 / (1 + math.exp(-min(max(odds, -50.0), 50.0)))

    def fit(
        self, logits: Sequence[NDArray[np.floating[Any]]], is_outside: Sequence[bool]
    ) -> tuple["OutOfScope", str]:
        """Fit the weights; say how many texts are told rightly then.

        Args:
            logits: (K + 1,) of each text, none of which the network was trained on.
            is_outside: whether it has this label.
        Raises:
            InvalidData: all have it, or none.
        Source: a logistic function on top of a classifier, Platt 1999.
        """
        signs, wanted = np.array([signs_of(row) for row in logits]), np.array(is_outside)
        if not wanted.any() or wanted.all():
            raise InvalidData(
                f"{int(wanted.sum())} of {len(wanted)} texts of dev have the label {self.label!r}: to learn when to say"
                " it, some must have it and some not."
            )
        weights = fit_logistic(signs, wanted)
        n_right = int(((signs @ np.array(weights) > 0) == wanted).sum())
        told = f"of {len(wanted)} texts {n_right} are told rightly to be in scope or out of it"
        return replace(self, weights=weights), told
