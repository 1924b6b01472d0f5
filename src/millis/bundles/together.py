"""Which windows of one text run together: those of like lengths, as many as the rung has rows.

What a whole batch of rows is not filled by runs alone: a row of padding costs as much as one that says something.
Border: arithmetic on lengths; whoever runs windows goes by it, one text at a time.
"""

from collections.abc import Sequence
from typing import Any


def order_windows(lengths: Sequence[int], *, rows: int) -> Sequence[int]:
    """Give the places of windows in the order in which they run: by length where some run together, else their own."""
    places = range(len(lengths))
    return places if len(lengths) < rows or rows == 1 else sorted(places, key=lengths.__getitem__)


def count_next(n_left: int, *, rows: int) -> int:
    """Say how many of the windows that are left run next."""
    return rows if n_left >= rows else 1


def split(lengths: Sequence[int], *, rows: int) -> tuple[list[int], Sequence[int]]:
    """Give the tokens that each inference of windows together is padded to, and those of the windows that run alone.

    Args:
        lengths: of the windows that are left, in their order.
    """
    if rows == 1 or len(lengths) < rows:
        return [], lengths
    n = len(lengths) - len(lengths) % rows
    return [max(lengths[first : first + rows]) for first in range(0, n, rows)], lengths[n:]


def put_back(items: Sequence[Any], *, order: Sequence[int]) -> list[Any]:
    """Give what was made window by window in the windows' own order."""
    if isinstance(order, range):
        return list(items)
    return [item for _, item in sorted(zip(order, items, strict=True), key=lambda pair: pair[0])]
