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
    with open(file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "a pipe, a device or a folder, where a file is needed")
        return stream.read()
