"""What an engine still has read of prompts and answers, by what it was given: of a chat its earlier turns.

Engines keep whole blocks, begin a prompt behind those that it has in common with what they know, and forget what was
used longest ago.
Border: ids in, counts out; asks no engine.
Limits: what answers under way grow by is not known; a quarter of the memory is left for it.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import takewhile

from millis.backends.generator import BLOCK_TOKENS

_SHARE = 0.75


class Kept:
    """The blocks that an engine has read, and not yet forgotten.

    Args:
        n_blocks: for which the engine has memory.
    """

    def __init__(self, n_blocks: int) -> None:
        self._most = int(_SHARE * n_blocks)
        self._blocks: OrderedDict[int, None] = OrderedDict()  # the one used longest ago first

    def count(self, ids: Sequence[int]) -> int:
        """Count the tokens that a prompt begins with and that need not be read again; its last one is always read."""
        known = takewhile(self._blocks.__contains__, _name_blocks(ids[: len(ids) - 1]))
        return BLOCK_TOKENS * sum(1 for _ in known)

    def add(self, ids: Sequence[int]) -> None:
        """Take note that these were read."""
        for block in reversed(list(_name_blocks(ids))):  # the first is of use to most
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)

    def clear(self) -> None:
        """Take note that all was forgotten."""
        self._blocks.clear()


def _name_blocks(ids: Sequence[int]) -> Iterator[int]:
    """Name each whole block by all that stands up to its end."""
    name = 0
    for low in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        name = hash((name, *ids[low : low + BLOCK_TOKENS]))
        yield name
