"""The folder in which a server's workers count while it runs; what servers left that were killed goes with the next.

Border: folders in the system's temporary one, of this user alone; what stands in them is the telemetry's.
"""

import os
import secrets
import shutil
import stat
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from millis.errors import InvalidValue
from millis.locks import held

_PREFIX, _LOCK = "millis-metrics-", "server.lock"
_YOUNG_S = 60.0
"""A server that has only begun may not hold its lock yet."""


class Scratch:
    """A folder that nobody else reads, held until it is removed. Naming it makes nothing yet: an interrupt finds it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.gettempdir(), f"{_PREFIX}{secrets.token_hex(8)}")
        self._held = ExitStack()

    def make(self) -> None:
        """Make it, and remove those that nobody holds any more."""
        self.path.mkdir(mode=0o700)
        self._held.enter_context(held(self.path / _LOCK, busy="two servers cannot count in one folder."))
        for folder in self.path.parent.glob(f"{_PREFIX}*"):
            with suppress(OSError, InvalidValue):
                _remove_if_left(folder)

    def remove(self) -> None:
        """Remove it; removing it again does nothing."""
        self._held.close()
        shutil.rmtree(self.path, ignore_errors=True)


def _remove_if_left(folder: Path) -> None:
    """Remove a folder of this user's that no server holds.

    Raises:
        InvalidValue: one does.
    """
    status = folder.lstat()
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if is_ours and time.time() - status.st_mtime > _YOUNG_S:
        with held(folder / _LOCK, busy="its server lives."):
            shutil.rmtree(folder, ignore_errors=True)
