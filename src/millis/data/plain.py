"""Texts without labels, one a line.

Border: a file to its lines.
"""

from pathlib import Path

from millis.errors import InvalidData


def read_plain(file: Path) -> list[str]:
    """Read a text from each line that is not blank.

    Raises:
        InvalidData: the file cannot be read as UTF-8.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidData(f"{file} cannot be read ({error}): give a UTF-8 file with a text on each line.") from error
    return [line for line in lines if line.strip()]
