"""How much a day: requests of each key, counted over all workers and over restarts.

Each worker keeps a file of its own counts in one folder and reads the others' twice a second, so a key may get through
what it can ask in half a second more than its quota. Days are of UTC.
Border: counts by key id, in files; whose quota is how large is keys.py's.
"""

import contextlib
import os
import secrets
import time
from pathlib import Path

import msgspec

_DAY_S = 86_400


class Quotas:
    """Counts one worker's requests by key, beside what others counted.

    Args:
        folder: of all workers' files; made with the first request that counts.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._name = f"{os.getpid()}-{secrets.token_hex(3)}.json"
        self._day = _today()
        self._mine: dict[str, int] = {}
        self._others: dict[str, int] = {}
        self._is_changed = False
        self.share()

    def take(self, key_id: str, *, most: int) -> float:
        """Count a request; give 0, or the seconds until the next day where the quota is used up."""
        if _today() != self._day:
            self._begin_day()
        mine = self._mine.get(key_id, 0)
        if mine + self._others.get(key_id, 0) >= most:
            return max((self._day + 1) * _DAY_S - time.time(), 1.0)
        self._mine[key_id] = mine + 1
        self._is_changed = True
        return 0.0

    def share(self) -> None:
        """Write what changed, read what others counted, forget the days before; call it now and then.

        Raises:
            OSError: the disk is full, or the folder is gone.
        """
        if _today() != self._day:
            self._begin_day()
        own = self._folder / f"{self._day}-{self._name}"
        if self._is_changed:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            part = own.with_suffix(".part")
            part.write_bytes(msgspec.json.encode(self._mine))
            part.replace(own)
            self._is_changed = False
        others: dict[str, int] = {}
        for file in self._folder.glob("*.json"):
            if not file.name.startswith(f"{self._day}-"):
                with contextlib.suppress(FileNotFoundError):  # another worker was faster
                    file.unlink()
            elif file != own:
                with contextlib.suppress(msgspec.DecodeError):
                    for key_id, n in msgspec.json.decode(file.read_bytes(), type=dict[str, int]).items():
                        others[key_id] = others.get(key_id, 0) + n
        self._others = others

    def _begin_day(self) -> None:
        self._day, self._mine, self._others = _today(), {}, {}


def _today() -> int:
    return int(time.time()) // _DAY_S
