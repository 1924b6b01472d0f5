"""The slowest answers of the last minutes, of all workers of a server, with what may have held them up.

Border: numbers and names, never a text; workers share a folder, each writes a file of its own there.
"""

import contextlib
import heapq
import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

MOST = 20
_MINUTES = 10.0
_PREFIX = "slowest-"


class Slow(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that was slow.

    Args:
        at: seconds since 1970.
        stages_ms: by stage.
        causes_ms: besides its own work, see Jitter.attribute.
    """

    at: float
    model: str
    rung: str
    version: int
    total_ms: float
    bound_ms: float
    n_tokens: int
    request_id: str
    stages_ms: Mapping[str, float]
    causes_ms: Mapping[str, float]


class Slowest:
    """The slowest answers of one worker.

    Args:
        file: where they are written for the other workers to read.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._kept: list[tuple[float, int, Slow]] = []
        self._order = itertools.count()
        self._is_changed = False

    def is_slow(self, total_ms: float) -> bool:
        """Say whether an answer would be kept: one comparison, for every answer."""
        return len(self._kept) < MOST or total_ms > self._kept[0][0]

    def keep(self, slow: Slow) -> None:
        """Keep an answer, and forget the fastest of too many."""
        entry = (slow.total_ms, next(self._order), slow)
        if len(self._kept) < MOST:
            heapq.heappush(self._kept, entry)
        else:
            heapq.heappushpop(self._kept, entry)
        self._is_changed = True

    def write(self) -> None:
        """Forget what is old, and write what changed to the file; call it now and then."""
        oldest = time.time() - 60 * _MINUTES
        kept = [entry for entry in self._kept if entry[2].at >= oldest]
        if len(kept) < len(self._kept):
            heapq.heapify(kept)
            self._kept, self._is_changed = kept, True
        if self._is_changed:
            part = self._file.with_suffix(".part")
            with contextlib.suppress(OSError):  # a full disk: the list is old meanwhile, and written the next time
                part.write_bytes(msgspec.json.encode([slow for _, _, slow in self._kept]))
                part.replace(self._file)
                self._is_changed = False


def slowest_file(folder: Path, pid: int) -> Path:
    """Name the file of a worker."""
    return folder / f"{_PREFIX}{pid}.json"


def read_slowest(folder: Path) -> list[Any]:
    """Give the slowest answers of all workers, the slowest first."""
    found: list[Slow] = []
    for file in folder.glob(f"{_PREFIX}*.json"):
        found += msgspec.json.decode(file.read_bytes(), type=list[Slow])
    return sorted(found, key=lambda slow: -slow.total_ms)[:MOST]
