"""What is read from a path: files that can be read again, as keys and manifests are, and texts, also from a pipe.

Border: a path in, bytes out; how a refusal is worded is the caller's.
Limits: POSIX only.
"""

import errno
import os
import select
import stat
from io import BufferedReader
from pathlib import Path

WRITER_WITHIN_S = 10.0
"""How long a pipe may have nobody who writes to it."""


def read_regular(file: str | Path) -> bytes:
    """Read a regular file.

    Raises:
        OSError: it cannot be read, or is a pipe, which would be waited for, a device, which may never end, or a folder.
    """
    content, _ = read_with_mode(file)
    return content


def read_with_mode(file: str | Path) -> tuple[bytes, int]:
    """Read a regular file, and say what may be done with that very file, as `os.stat_result.st_mode` has it.

    Raises: as `read_regular`.
    """
    with _open(file) as stream:
        mode = os.fstat(stream.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "a pipe, a device or a folder, where a file is needed")
        return stream.read(), mode


def read_once(file: str | Path) -> bytes:
    """Read a regular file, or what comes through a pipe until its writers are gone.

    Raises:
        OSError: it cannot be read, is a device, which may never end, or a pipe through which nothing came.
    """
    with _open(file) as stream:
        mode = os.fstat(stream.fileno()).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise OSError(errno.EINVAL, "a device, which may have no end")
        if not stat.S_ISFIFO(mode):
            return stream.read()
        select.select([stream], [], [], WRITER_WITHIN_S)
        os.set_blocking(stream.fileno(), True)
        content = stream.read()
        if not content:
            raise OSError(errno.EPIPE, "a pipe through which nothing came")
        return content


def _open(file: str | Path) -> BufferedReader:
    return open(file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK))

