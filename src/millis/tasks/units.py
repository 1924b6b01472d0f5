"""Units of a text, the smallest stretches that an answer can begin or end at, and windows over its pieces.

Border: places and characters; no labels and no network.
"""

from millis.tasks.tokenization import Pieces
from millis.tasks.wordpieces import Characters, Words


def find_units(text: str, found: Pieces) -> Words:
    """Join neighbouring pieces where a run of letters or digits goes on across them."""
    if found.words is not None:
        return found.words
    spans: list[Characters] = []
    pieces: list[int] = []
    last_end = -1
    for piece, (start, end) in enumerate(found.offsets):
        while start < end and text[start].isspace():  # SentencePiece counts the space before a word in
            start += 1
        if start == end:
            continue
        if start < last_end:  # byte-level pieces can share a character: it belongs to the first
            last_end = max(end, last_end)
            spans[-1] = (spans[-1][0], last_end)
        elif start == last_end and _runs_on(text[start - 1]) and _runs_on(text[start]):
            last_end = end
            spans[-1] = (spans[-1][0], end)
        else:
            pieces.append(piece)
            spans.append((start, end))
            last_end = end
    return Words(pieces, spans)


def is_spaced(character: str) -> bool:
    """Say whether a character is of a script that puts spaces between words."""
    return not ("\u0e00" <= character < "\u1e00" or character >= "\u2e80")


def _runs_on(character: str) -> bool:
    """Say whether a character belongs to a word in a script that puts spaces between words."""
    return is_spaced(character) and character.isalnum()


def plan_windows(n: int, *, room: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """Lay windows over n pieces: (start, end) of each, and (first, last) of the pieces it speaks for."""
    if n <= room:
        return [(0, n, 0, n)]
    starts = [0]
    while starts[-1] + room < n:
        starts.append(min(starts[-1] + room - overlap, n - room))
    ends = [min(start + room, n) for start in starts]
    cuts = [0, *((start + end) // 2 for start, end in zip(starts[1:], ends[:-1], strict=True)), n]
    return [(starts[i], ends[i], cuts[i], cuts[i + 1]) for i in range(len(starts))]
