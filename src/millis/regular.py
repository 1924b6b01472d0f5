"""Files that can be read as often as one likes, as keys, certificates and manifests have to be.

Border: a path in, bytes out; how a refusal is worded is the caller's.
Limits: POSIX only.
"""

import errno
import os
import stat
from pathlib import Path


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
    with open(file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as stream:
        mode = os.fstat(stream.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "a pipe, a device or a folder, where a file is needed")
        return stream.read(), mode
