"""One writer at a time: a lock file, which the system lets go of when its process ends, killed or not.

Border: a file; what it guards, and how a refusal is worded, is the caller's.
Limits: POSIX only (flock).
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from millis.errors import InvalidValue


@contextmanager
def held(file: Path, *, busy: str) -> Iterator[None]:
    """Hold a lock while the block runs.

    Args:
        file: the lock; made with its folder where it is missing, and left there.
        busy: what is said where it is taken.
    Raises:
        InvalidValue: another process holds it.
        OSError: the file cannot be made, or the disk knows no locks.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidValue(busy) from None
        yield
