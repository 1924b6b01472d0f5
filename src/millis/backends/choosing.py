"""The next piece from logits, for engines that give logits and leave the choice to us.

Border: arrays and numbers; no engine.
Source: the penalties are OpenAI's: the frequency penalty counts each time a piece was said, the presence penalty the
first. Top-p is that of Holtzman et al. 2020, arXiv:1904.09751, section 3.1.
"""

import numpy as np
from numpy.typing import NDArray

from millis.backends.generator import Sampling

_FEW = 1024
"""Pieces that are sorted first for top-p; all are where these do not suffice."""


class Chooser:
    """Chooses the pieces of one answer, each in the light of those before; one seed gives one answer."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)
        self._counts: dict[int, int] = {}

    def choose(self, logits: NDArray[np.float32]) -> tuple[int, float]:
        """Choose a piece.

        Args:
            logits: float32 (V,), left as it is.
        Returns:
            its id, and the natural logarithm of its probability before penalties, temperature and top-p; 0 where
            the sampling does not ask for it.
        """
        said = self._sampling
        bent = self._penalise(logits)
        piece = int(bent.argmax()) if said.temperature == 0 else self._draw(bent)
        self._counts[piece] = self._counts.get(piece, 0) + 1
        return piece, _log_probability(logits, piece) if said.has_logprobs else 0.0

    def _penalise(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        said = self._sampling
        if not self._counts or not (said.frequency_penalty or said.presence_penalty):
            return logits
        bent = logits.copy()
        ids = np.fromiter(self._counts, np.int64)
        counts = np.fromiter(self._counts.values(), np.float32)
        bent[ids] -= said.frequency_penalty * counts + said.presence_penalty
        return bent

    def _draw(self, logits: NDArray[np.float32]) -> int:
        with np.errstate(over="ignore"):  # near 0 all but the likeliest get nothing
            weights = np.exp((logits.astype(np.float64) - logits.max()) / self._sampling.temperature)
        if self._sampling.top_p >= 1:
            return _pick(weights, self._random.random())
        kept = _nucleus(weights, share=self._sampling.top_p)
        return int(kept[_pick(weights[kept], self._random.random())])


def _pick(weights: NDArray[np.float64], at: float) -> int:
    heights = weights.cumsum()
    return min(int(np.searchsorted(heights, at * heights[-1], side="right")), len(weights) - 1)


def _nucleus(weights: NDArray[np.float64], *, share: float) -> NDArray[np.int64]:
    """Give the fewest likeliest pieces that have this share of the weight together, at least one."""
    wanted = share * weights.sum()
    for n in (min(_FEW, len(weights)), len(weights)):
        top = np.argpartition(weights, -n)[-n:]
        top = top[np.argsort(-weights[top], kind="stable")]
        heights = weights[top].cumsum()
        if heights[-1] >= wanted:
            break
    return top[: int(np.searchsorted(heights, wanted)) + 1]


def _log_probability(logits: NDArray[np.float32], piece: int) -> float:
    exact = logits.astype(np.float64)
    top = exact.max()
    return float(exact[piece] - top - np.log(np.exp(exact - top).sum()))
