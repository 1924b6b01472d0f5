"""What a search has done, one JSON line each, so that a killed search goes on where it was.

Border: appends and finds; knows not what the lines mean. A line cut short by a crash is dropped.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from millis.errors import RunFailed
from millis.locks import held

_LOCK = "lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Be the one who works in a run folder while the block runs; a killed one is there no longer.

    Raises:
        InvalidValue: another process works in it.
        RunFailed: the folder cannot be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(held(
                folder / _LOCK, busy=f"another fit works in {folder.name} now: wait for its end, or choose another -o."
            ))  # fmt: skip
        except OSError as error:  # of the lock, not of what is done in the folder
            raise _unusable(folder, error) from error
        yield


class Ledger:
    """The lines of one search, in its run folder.

    Args:
        folder: the run folder; made when it is not there.
        inputs: everything that the results depend on; lines of other inputs are not found again.
    Raises:
        RunFailed: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, inputs: Any) -> None:
        self.path = folder / "ledger.jsonl"
        self._digest = hashlib.sha256(msgspec.json.encode(inputs, order="sorted")).hexdigest()[:16]
        self._rows: list[dict[str, Any]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
            for line in lines:
                try:
                    self._rows.append(msgspec.json.decode(line, type=dict[str, Any]))
                except msgspec.DecodeError:
                    continue
            if lines and lines[-1]:
                with self.path.open("ab") as stream:
                    stream.write(b"\n")
        except OSError as error:
            raise _unusable(folder, error) from error

    def find(self, what: str, key: str) -> dict[str, Any] | None:
        """Give the newest line of this kind and key for the same inputs."""
        for row in reversed(self._rows):
            if (row.get("what"), row.get("key"), row.get("inputs")) == (what, key, self._digest):
                found: dict[str, Any] = row["result"]
                return found
        return None

    def add(self, what: str, key: str, result: Any) -> None:
        """Append a line and see it to the disk.

        Raises:
            RunFailed: the disk is full; the lines before stay whole.
        """
        row = {"what": what, "key": key, "inputs": self._digest, "result": msgspec.to_builtins(result)}
        try:
            with self.path.open("ab") as stream:
                stream.write(msgspec.json.encode(row) + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise RunFailed(
                f"the ledger cannot be written: {error.strerror}. Free some space; what it holds is whole."
            ) from error
        self._rows.append(row)


def _unusable(folder: Path, error: OSError) -> RunFailed:
    return RunFailed(
        f"the run folder {folder.name} cannot be used ({error.strerror}): make room for it, or choose another -o."
    )
