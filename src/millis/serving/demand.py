"""Which models are asked at present, and how often: what a plan counts with beside those who wait.

Border: names and times; who is refused for it is planning.py's.
"""

from collections import defaultdict

_RECENT_NS = 1_000_000_000
_FOLLOW = 0.05


class _Asked:
    """When a model was last asked, and how long after the time before, in the mean."""

    __slots__ = ("at_ns", "gap_ns")

    def __init__(self) -> None:
        self.at_ns, self.gap_ns = -_RECENT_NS, float(_RECENT_NS)


class Demand:
    """Follows when models are asked."""

    def __init__(self) -> None:
        self._asked: dict[str, _Asked] = defaultdict(_Asked)

    def note(self, model: str, *, now_ns: int) -> None:
        """Note that a model is asked, whether or not it will answer."""
        asked = self._asked[model]
        gap_ns = min(now_ns - asked.at_ns, _RECENT_NS)
        asked.gap_ns = max(asked.gap_ns + _FOLLOW * (gap_ns - asked.gap_ns), 1.0)
        asked.at_ns = now_ns

    def expect(self, model: str, *, within_ns: float) -> int:
        """Predict how many more requests for a model will have come by then."""
        return int(within_ns / self._asked[model].gap_ns)

    def n_models(self, now_ns: int) -> int:
        """Count the models that were asked within the last second."""
        return sum(now_ns - asked.at_ns < _RECENT_NS for asked in self._asked.values())
