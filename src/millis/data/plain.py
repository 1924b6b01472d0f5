"""Texts without labels: one a line of a file, or a single one, given itself or as a file.

Border: files and words of a command line to texts.
"""

from pathlib import Path

from millis.data.rows import BadRows, read_rows
from millis.errors import InvalidData


def read_plain(file: Path) -> list[str]:
    """Read a text from each line that is not blank.

    Raises:
        InvalidData: the file cannot be read as UTF-8, or has no text.
    """
    bad = BadRows(file, limit=20)
    texts = [text for _, text in read_rows(file, bad=bad) if text.strip()]
    bad.raise_any()
    return texts


def read_text(given: str) -> str:
    """Give a text as it stands, or what is in the file that a single word names.

    Raises:
        InvalidData: a single word that names no file, or a file that is not UTF-8.
    """
    if len(given.split()) != 1:
        return given
    try:
        return Path(given).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidData(
            f"{given} cannot be read ({error}): give the name of a UTF-8 file, or a text of several words."
        ) from error
