"""Which sequence of an engine's memory an answer goes on in, and what of it a step reads.

Border: ids and counts; the engine itself is moved by llamacpp.py.
"""

from collections.abc import Collection, Sequence

from millis.backends.choosing import Chooser
from millis.backends.stepping import OpenAnswer


class Held:
    """A sequence of the engine's memory.

    Attributes:
        read: the ids that it holds keys and values of.
        turn: the answer that goes on in it, None where it is free.
        used_at: when it was last given away, by count.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.read: list[int] = []
        self.turn: Turn | None = None
        self.used_at = 0


class Turn:
    """An answer that is under way."""

    def __init__(self, answer: OpenAnswer, sequence: Held) -> None:
        self.answer, self.sequence = answer, sequence
        self.ids = list(answer.ids)
        self.chooser = Chooser(answer.sampling)

    @property
    def n_unread(self) -> int:
        """Count the ids that the engine has still to read."""
        return len(self.ids) - len(self.sequence.read)


def choose_sequence(ids: Sequence[int], *, free: Collection[Held], read: Collection[Held]) -> tuple[Held, Held, int]:
    """Let a prompt begin where the sequence that began most like it does.

    Args:
        free: sequences that no answer is in, at least one.
        read: those, free or not, that prompts may begin with.
    Returns:
        the sequence it gets, the one it begins as, and how many of its ids that one has read.
    """
    chosen = min(free, key=lambda one: one.used_at)
    known = {one: _count_common(one.read, ids) for one in read}
    source = max(known, key=lambda one: known[one], default=chosen)
    n_known = known.get(source, 0)
    if source in free and 2 * n_known > len(source.read):
        chosen = source  # goes on from there; otherwise it stays what it is, for others
    return chosen, source, n_known


def share_out(turns: Collection[Turn], *, n_tokens: int) -> list[tuple[Turn, list[int]]]:
    """Decide what a step reads: all have the same share, and what some do not need the others have."""
    left, parts = n_tokens, []
    ordered = sorted(turns, key=lambda one: one.n_unread)
    for i, turn in enumerate(ordered):
        n, n_read = min(turn.n_unread, left // (len(ordered) - i)), len(turn.sequence.read)
        parts.append((turn, turn.ids[n_read : n_read + n]))
        left -= n
    return parts


def _count_common(known: Sequence[int], ids: Sequence[int]) -> int:
    """Count how many ids two beginnings have in common, of which the last of a prompt is not one: it gives logits."""
    most = min(len(known), len(ids) - 1)
    return next((i for i in range(most) if known[i] != ids[i]), most)
