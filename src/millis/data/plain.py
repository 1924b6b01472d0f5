"""Texts without labels: one a line of a file, or a single one, given itself or as a file.

Border: files and words of a command line to texts.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from millis.data.examples import Example, texts_of
from millis.data.rows import BadRows, read_rows
from millis.data.suspects import fold, kept_apart, may_stand_in_two_parts
from millis.errors import InvalidData
from millis.regular import read_once


def read_plain(file: Path) -> list[str]:
    """Read a text from each line that is not blank.

    Raises:
        InvalidData: the file cannot be read as UTF-8, or has no text.
    """
    bad = BadRows(file)
    texts = [text for _, text in read_rows(file, bad=bad) if text.strip()]
    bad.raise_any()
    return texts


def pass_over(
    texts: Sequence[str], *, parts: Mapping[str, Sequence[Example]], name: str
) -> tuple[tuple[str, ...], str | None]:
    """Give the texts that stand nowhere else, and a sentence that counts the others, where there are any.

    Two texts are the same when they are so without case, blanks and width.

    Args:
        parts: labelled, by name; none of their texts is given, and none of `texts` twice.
        name: of the file that the texts came from.
    Raises:
        InvalidData: no text is left.
    """
    place_of: dict[str, str] = {}
    for part, examples in parts.items():
        apart = [kept_apart(example) for example in examples if not may_stand_in_two_parts(example)]
        place_of |= {fold(text): part for asked in apart for text in texts_of(asked)}
    fresh, places = [], Counter[str]()
    for text in texts:
        place = place_of.setdefault(fold(text), "")
        if place:
            places[place] += 1
        else:
            place_of[fold(text)] = "lines before"
            fresh.append(text)
    if not places:
        return tuple(fresh), None
    told = ", ".join(f"{place} {n:,}" for place, n in sorted(places.items()))
    if not fresh:
        raise InvalidData(f"{name}: all {len(texts):,} texts stand in labelled data too ({told}): give others.")
    n = f"{places.total():,} of {len(texts):,}"
    return tuple(fresh), f"{name}: {n} texts are passed over, since they stand elsewhere too ({told})"


def read_text(given: str) -> str:
    """Give a text as it stands, or what is in the file that a single word names.

    Raises:
        InvalidData: a single word that names no file, or a file that is not UTF-8.
    """
    if len(given.split()) != 1:
        return given
    try:
        return read_once(given).decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidData(
            f"{given} cannot be read ({error}): give the name of a UTF-8 file, or a text of several words."
        ) from error
