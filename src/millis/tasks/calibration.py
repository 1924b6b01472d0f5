"""Probabilities that mean what they say: how far scores are from that, and the few numbers that bring them there.

Border: arrays in, numbers out.
"""

import math

import numpy as np
from numpy.typing import NDArray

_RIDGE = 1e-2
_N_BINS = 15


def signs_of(logits: NDArray[np.floating]) -> tuple[float, float, float, float]:
    """Say what speaks for none of the labels, by logits (K + 1,), the last of which is that of none.

    They are the same for all logits of one softmax, which is what a network that was taught by another one has of it.

    Returns:
        none above the best label, the best above the second, log sum exp of all labels above the mean, and 1.
    """
    centred = logits.astype(np.float64) - logits.mean(dtype=np.float64)
    labels = np.sort(centred[:-1])
    best, second = float(labels[-1]), float(labels[-2])
    total = best + math.log(float(np.exp(labels - best).sum()))
    return float(centred[-1]) - best, best - second, total, 1.0


def calibration_error(logits: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Compute the expected calibration error of the best output's probability, 0 to 1, for logits (N, C).

    Source: Naeini et al. 2015; bins of equal width.
    """
    rows = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = rows / rows.sum(axis=1, keepdims=True)
    is_right = probabilities.argmax(axis=1) == targets
    return error_of_confidence(probabilities.max(axis=1), is_right)


def error_of_confidence(confidence: NDArray[np.float64], is_right: NDArray[np.bool_]) -> float:
    """Compute the expected calibration error, 0 to 1, of stated confidences (N,)."""
    bins = np.minimum((confidence * _N_BINS).astype(int), _N_BINS - 1)
    error = 0.0
    for one in np.unique(bins):
        inside = bins == one
        error += inside.mean() * abs(confidence[inside].mean() - is_right[inside].mean())
    return float(error)


def area_under_roc(scores: NDArray[np.float64], is_positive: NDArray[np.bool_]) -> float:
    """Compute the chance, 0 to 1, that a positive of scores (N,) is above a negative, ties counted as half."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    n_positive = int(is_positive.sum())
    n_negative = len(scores) - n_positive
    return float((ranks[is_positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def fit_temperature(logits: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Find the temperature, 0.05 to 20, with the least cross-entropy, which has one minimum: by golden section.

    To N rows comes one more, of which nobody knows the output: N rows that are all right say so for N of N + 1, where
    they alone would make every probability 0 or 1.
    Source: targets as in Platt 1999, for more than two outputs.
    """
    one_more = 1 / (len(logits) + 1)

    def loss(log_temperature: float) -> float:
        rows = logits / math.exp(log_temperature)
        highest = rows.max(axis=1)
        total = highest + np.log(np.exp(rows - highest[:, None]).sum(axis=1))
        right = rows[np.arange(len(rows)), targets]
        return float((total - (1 - one_more) * right - one_more * rows.mean(axis=1)).mean())

    low, high, ratio = math.log(0.05), math.log(20.0), (math.sqrt(5) - 1) / 2
    for _ in range(40):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return math.exp((low + high) / 2)


def fit_logistic(signs: NDArray[np.float64], is_positive: NDArray[np.bool_]) -> tuple[float, ...]:
    """Fit log odds as a weighted sum of signs (N, F): Newton's method on a loss with a small ridge, halving steps."""
    spread = np.maximum(np.abs(signs).mean(axis=0), 1e-9)  # so that the ridge weighs all alike
    scaled, wanted = signs / spread, is_positive.astype(np.float64)
    weights = np.zeros(signs.shape[1])

    def loss(at: NDArray[np.float64]) -> float:
        odds = scaled @ at
        return float((np.logaddexp(0, odds) - wanted * odds).sum() + _RIDGE / 2 * at @ at)

    for _ in range(50):
        given = 1 / (1 + np.exp(-np.clip(scaled @ weights, -50, 50)))
        gradient = scaled.T @ (given - wanted) + _RIDGE * weights
        curvature = (scaled * (given * (1 - given))[:, None]).T @ scaled + _RIDGE * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        while loss(weights - step) > loss(weights) and np.abs(step).max() > 1e-9:
            step /= 2
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    return tuple(float(weight) for weight in weights / spread)
