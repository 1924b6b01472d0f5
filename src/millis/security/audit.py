"""Who did what, when, and how it ended: lines that each seal the one before. Never the text.

A folder holds files FILE.jsonl, one after the other for each process that wrote; what seals them is sealing.py's,
whether they are whole is told by verifying.py.
Border: files; when to write is the caller's to say, since a line costs microseconds and a write more.
Limits: what was told and not written yet is lost when the process is killed.
"""

import fcntl
import os
import secrets
import time
from pathlib import Path

from millis.errors import RunFailed
from millis.security.sealing import Head, Line, Seals, open_seals
from millis.security.verifying import walk

FILE_BYTES = 64_000_000
_MOST_PENDING = 100_000


class AuditLog:
    """The log of one process.

    Args:
        folder: of all logs; made when it is not there.
        seals: folder of heads, register and secret; the same when None.
        file_bytes: size from which on another file is begun.
    Raises:
        RunFailed: it cannot be written.
    """

    _name: str
    _has_begun: bool
    _n: int
    _n_bytes: int
    _seal: str

    def __init__(
        self, folder: str | Path, *, seals: str | Path | None = None, file_bytes: int = FILE_BYTES
    ) -> None:
        self._folder, self._file_bytes = Path(folder), file_bytes
        self._seals = open_seals(self._folder if seals is None else Path(seals))
        self._held: int | None = None
        self._rows: list[bytes] = []
        self._n_lost = 0
        self._turn_to_another()
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for file in sorted(self._folder.glob("*.jsonl")):
                _finish(file, self._seals)
        except OSError as error:
            raise self._cannot_write(error) from error

    def tell(self, what: str, *, outcome: str, who: str = "", on: str = "", times: int = 1) -> None:
        """Seal a line; `write` brings it to the file. Beyond what memory holds, lines are counted as lost."""
        if len(self._rows) >= _MOST_PENDING:
            self._n_lost += times
            return
        if not self._rows and self._n_bytes >= self._file_bytes:
            self._turn_to_another()
        line = Line(n=self._n + 1, at=time.time(), who=who, what=what, on=on, outcome=outcome, times=times)
        row, self._seal = self._seals.write(line, before=self._seal)
        self._n += 1
        self._rows.append(row)

    def write(self) -> None:
        """Append what was told; what cannot be written now stays for the next time.

        Raises:
            RunFailed: the disk is full, or the folder is gone.
        """
        if not self._rows:
            return
        try:
            if not self._has_begun:
                self._begin()
            rows = b"".join(self._rows)
            _append(self._folder / f"{self._name}.jsonl", rows)
            self._rows.clear()
            self._n_bytes += len(rows)
            self._seals.write_head(self._name, Head(n=self._n, last=self._seal))
        except OSError as error:
            raise self._cannot_write(error) from error
        if self._n_lost:
            lost, self._n_lost = self._n_lost, 0
            self.tell("lost", outcome="not written", times=lost)
            self.write()

    def _turn_to_another(self) -> None:
        """Give the next lines another file, which begins when they are written."""
        if self._held is not None:
            os.close(self._held)
            self._held = None
        self._name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}-{secrets.token_hex(3)}"
        self._has_begun = False
        self._n, self._seal, self._n_bytes = 0, self._seals.begin(self._name), 0

    def _begin(self) -> None:
        """Begin a file: first it is there, then it is counted, and only then it has lines."""
        if self._held is None:  # else it was begun before, and the disk was full
            self._held = os.open(self._folder / f"{self._name}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            fcntl.flock(self._held, fcntl.LOCK_EX)  # until this process ends: nobody else finishes the file
        self._seals.write_head(self._name, Head(n=0, last=self._seals.begin(self._name)))
        self._seals.register(self._name)
        self._has_begun = True

    def _cannot_write(self, error: OSError) -> RunFailed:
        return RunFailed(f"the audit log in {self._folder} cannot be written ({error.strerror}).")


def _finish(file: Path, seals: Seals) -> None:
    """Put a line that says so in the place of one that was not finished, where its writer has ended.

    A file with anything else wrong stays as it is: nobody is to seal what somebody changed.
    """
    descriptor = os.open(file, os.O_RDWR)
    try:
        if not os.fstat(descriptor).st_size or _ends_a_line(descriptor):
            return
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = walk(file, seals)
        if found.wrong is not None or not found.is_unfinished:
            return
        line = Line(n=found.n + 1, at=time.time(), what="unfinished line", outcome="removed")
        row, seal = seals.write(line, before=found.last)
        os.ftruncate(descriptor, found.n_bytes)
        _append(file, row)
        seals.write_head(file.stem, Head(n=line.n, last=seal))
    except BlockingIOError:
        return  # who writes it is at it
    finally:
        os.close(descriptor)


def _ends_a_line(descriptor: int) -> bool:
    return os.pread(descriptor, 1, os.fstat(descriptor).st_size - 1) == b"\n"


def _append(file: Path, rows: bytes) -> None:
    """Append rows, or nothing: half a line would look like somebody's deed."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        try:
            while rows:
                rows = rows[os.write(descriptor, rows) :]
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
