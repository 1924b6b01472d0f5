"""Write a file whole or not at all.

Border: bytes to one path; knows nothing about models. A reader, and a run after a crash, sees the old file or
the new one.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from millis.errors import RunFailed


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Have write fill a temporary file beside path, bring it to the disk, and put it in path's place.

    Raises:
        RunFailed: the disk is full or the quota used up; path is as it was, and the temporary file is gone.
        OSError: any other failure of the disk; the same holds.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as out:
            write(out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if is_disk_full(error):
            raise disk_full(path) from error
        raise
    entry = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


def is_disk_full(error: BaseException | None) -> bool:
    """Say whether an error, or one that it came from, is a full disk or a used-up quota."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def disk_full(path: Path) -> RunFailed:
    """Word the failure."""
    return RunFailed(
        f"the disk is full: {path.name} could not be written to {path.parent}; what was saved before is"
        " whole. Free some space and run the same command again: it goes on from the last checkpoint."
    )
