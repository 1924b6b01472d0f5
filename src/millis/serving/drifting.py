"""Whether requests still look like the data that a model was made from.

For each model the last thousand windows, older ones fading, are sorted into tenths of dev (fewer parts of a small one);
the population stability index says how far the shares have moved: usually read as none below 0.1, some up to 0.25, much
above.
Border: ids of windows that were answered in, two numbers and a count out; no text.
Source: index as in Siddiqi 2006 (Credit Risk Scorecards), 6: sum of (p - q) ln(p / q).
"""

import numpy as np
from numpy.typing import NDArray

from millis.bundles.profile import Profile

_FADING = 1 / 1_000
_LEAST = 200
"""Windows, before an index says more than chance: with tenths its mean is 9 / n where nothing has moved."""

_SMALLEST = 1e-4


class Drift:
    """How a model's requests are spread over the parts of dev."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._expected = {name: np.maximum(one.shares, _SMALLEST) for name, one in profile.spreads.items()}
        self._seen = {name: shares.copy() for name, shares in self._expected.items()}
        self.n = 0

    def observe(self, ids: NDArray[np.int64]) -> bool:
        """Take a window's ids, int64 (T,), in; say whether it is out of what dev has."""
        signals = self._profile.measure(ids)
        self.n += 1
        for name, value in signals.items():
            self._seen[name] *= 1 - _FADING
            self._seen[name][self._profile.spreads[name].place(value)] += _FADING
        return signals["surprise"] > self._profile.odd

    def index(self) -> dict[str, float]:
        """Give the population stability index by signal; nothing before there are enough windows."""
        if self.n < _LEAST:
            return {}
        return {
            name: float(((seen - expected) * np.log(seen / expected)).sum())
            for name, expected in self._expected.items()
            for seen in [np.maximum(self._seen[name], _SMALLEST)]
        }
