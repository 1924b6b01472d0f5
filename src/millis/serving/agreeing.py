"""Whether two answers say the same: labels, spans and texts as they are, scores aside.

Border: plain values.
Limits: an answer that is numbers alone always agrees with another of its shape.
"""

from typing import Any


def agree(one: Any, other: Any) -> bool:
    """Say whether two answers are the same but for their fractions, which two models never share to the last digit."""
    if isinstance(one, float) and isinstance(other, float):
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(agree(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(agree, one, other))
    return bool(one == other)
