"""How good a rung's answers are, and how sure the difference to the uncompressed model is.

Border: runs a model over examples; the score itself is the task's.
"""

from collections.abc import Sequence

import numpy as np

from millis.bundles import Model
from millis.data.examples import Example, options_of
from millis.tasks import Score
from millis.telemetry.progress import bar

_RESAMPLES = 2_000
_SEED = 7


def measure_quality(model: Model, examples: Sequence[Example], *, name: str) -> Score:
    """Answer every example and score the answers."""
    answers = []
    with bar(name, total=len(examples)) as advance:
        for i, example in enumerate(examples, 1):
            answers.append(model.answer(example.text, options=options_of(example)).result)
            advance(i, "")
    return model.task.score(examples, answers)


def bound_drop(reference: Score, score: Score) -> tuple[float, float, float]:
    """Bound the loss of points against a reference on the same examples.

    Returns:
        drop, low, high in points: what was seen, and its 95 % interval by paired bootstrap over examples.
    Source: Efron & Tibshirani 1993, ch. 13 (percentile interval); Koehn 2004 for the paired form.
    """
    want = np.array(reference.per_example, np.float64)
    got = np.array(score.per_example, np.float64)
    chance = np.random.default_rng(_SEED)
    n = len(want)
    drops = []
    for _ in range(_RESAMPLES):
        drawn = chance.integers(0, n, n)
        drops.append(_f1(want[drawn].sum(axis=0)) - _f1(got[drawn].sum(axis=0)))
    low, high = np.percentile(drops, [2.5, 97.5])
    return reference.value - score.value, float(low), float(high)


def _f1(counts: np.ndarray) -> float:
    right, answered, expected = counts
    return float(200.0 * right / (answered + expected)) if answered + expected else 0.0
