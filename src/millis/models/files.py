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

_NO_ROOM = {
    errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "files may not grow so large here (`ulimit -f`)",
}  # fmt: skip


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Have write fill a temporary file beside path, bring it to the disk, and put it in path's place.

    Raises:
        RunFailed: there is no room for it; path is as it was, and the temporary file is gone.
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
        no_room = find_no_room(error)
        if no_room is not None:
            raise not_written(path, no_room) from error
        raise
    entry = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


def find_no_room(error: BaseException | None) -> str | None:
    """Say for want of what an error, or one that it came from, could not write; None where it was something else."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return _NO_ROOM[error.errno]
        error = error.__cause__ or error.__context__
    return None


def not_written(path: Path, no_room: str) -> RunFailed:
    """Word the failure."""
    return RunFailed(
        f"{no_room}: {path.name} could not be written to {path.parent}; what was saved before is"
        " whole. Make room and run the same command again: it goes on from the last checkpoint."
    )
