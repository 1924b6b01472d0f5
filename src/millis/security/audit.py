"""Who did what, when, and how it ended: lines that each seal the one before. Never the text.

A folder holds one file for each process that wrote, FILE.jsonl, beside it FILE.head with the number of lines and the
last seal, and `audit.key`, the secret by which seals are made: whoever may change lines but not read the secret cannot
seal them again, and a line that is missing at the end is missed by the head. Keep the secret where the log is not, to
verify against somebody who can read both.
Border: files; when to write is the caller's to say, since a line costs microseconds and a write more.
Limits: what was told and not written yet is lost when the process is killed.
"""

import hmac
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from millis.errors import InvalidData, RunFailed

SECRET = "audit.key"  # noqa: S105 - a file's name
_FIRST = "0" * 64
_MOST_PENDING = 100_000


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line of the log.

    Args:
        n: its number in its file, from 1.
        at: seconds since 1970.
        who: the id of a key, "" where nobody was known.
        what: method and route, or the deed.
        on: the model.
        outcome: the HTTP status, or a word.
        times: how many alike it stands for.
        seal: HMAC-SHA-256 of the seal before and of this line without its own.
    """

    n: int
    at: float
    who: str = ""
    what: str
    on: str = ""
    outcome: str
    times: int = 1
    seal: str = ""


class AuditLog:
    """The log of one process.

    Args:
        folder: of all logs; made when it is not there.
    Raises:
        RunFailed: it cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._secret = _read_secret(self._folder)
        name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}-{secrets.token_hex(3)}"
        self._file = self._folder / f"{name}.jsonl"
        self._rows: list[bytes] = []
        self._n_lost = 0
        self._n, self._seal = 0, _FIRST

    def tell(self, what: str, *, outcome: str, who: str = "", on: str = "", times: int = 1) -> None:
        """Seal a line; `write` brings it to the file. Beyond what memory holds, lines are counted as lost."""
        if len(self._rows) >= _MOST_PENDING:
            self._n_lost += times
            return
        self._n += 1
        line = Line(n=self._n, at=time.time(), who=who, what=what, on=on, outcome=outcome, times=times)
        bare = msgspec.json.encode(line)
        self._seal = _seal(self._secret, self._seal, bare)
        self._rows.append(b'%b,"seal":"%b"}\n' % (bare[:-1], self._seal.encode()))

    def write(self) -> None:
        """Append what was told; what cannot be written now stays for the next time.

        Raises:
            RunFailed: the disk is full, or the folder is gone.
        """
        if not self._rows:
            return
        try:
            _append(self._file, b"".join(self._rows))
            self._rows.clear()
            part = self._file.with_suffix(".part")
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
                stream.write(msgspec.json.encode(_head(self._secret, self._n, self._seal)))
            part.replace(self._file.with_suffix(".head"))
        except OSError as error:
            raise RunFailed(f"the audit log in {self._folder} cannot be written ({error.strerror}).") from error
        if self._n_lost:
            lost, self._n_lost = self._n_lost, 0
            self.tell("lost", outcome="not written", times=lost)
            self.write()


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at a folder found.

    Args:
        problems: file, line and what is wrong with it.
    """

    files: int
    lines: int
    problems: tuple[str, ...]


def verify(folder: str | Path) -> Verified:
    """Check every line of every log in a folder.

    Raises:
        InvalidData: there is no log, or no secret to check it by.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.jsonl"))
    heads = {file.stem for file in folder.glob("*.head")}
    if not (folder / SECRET).is_file() or not (files or heads):
        raise InvalidData(f"there is no audit log with its {SECRET} in {folder}: name the folder that --audit named.")
    secret = (folder / SECRET).read_bytes()
    problems = [f"{name}.jsonl: the whole file is missing" for name in sorted(heads - {file.stem for file in files})]
    n_lines = 0
    for file in files:
        n, wrong = _verify_file(file, secret)
        n_lines += n
        problems += [f"{file.name}:{line}: {what}" for line, what in wrong]
    return Verified(files=len(files), lines=n_lines, problems=tuple(problems))


def _verify_file(file: Path, secret: bytes) -> tuple[int, Sequence[tuple[int, str]]]:
    seal, n = _FIRST, 0
    for n, row in enumerate(file.read_bytes().splitlines(), 1):
        try:
            line = msgspec.json.decode(row, type=Line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return n, [(n, "is no line of an audit log")]
        seal = _seal(secret, seal, msgspec.json.encode(msgspec.structs.replace(line, seal="")))
        if line.n != n or not hmac.compare_digest(seal, line.seal):
            return n, [(n, "was changed, or a line before it was removed or put in")]
    try:
        head = msgspec.json.decode(file.with_suffix(".head").read_bytes(), type=dict[str, Any])
        is_sealed = head == _head(secret, int(head["n"]), str(head["last"]))
    except (OSError, ValueError, KeyError, TypeError):
        return n, [(n, "the head of this log is missing or unreadable, so lines may be missing at its end")]
    if not is_sealed:
        return n, [(n, "the head of this log was changed")]
    if n < head["n"]:
        return n, [(n, f"{head['n'] - n} lines are missing at the end")]
    return n, []


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


def _seal(secret: bytes, before: str, bare: bytes) -> str:
    return hmac.digest(secret, before.encode() + bare, "sha256").hex()


def _head(secret: bytes, n: int, last: str) -> dict[str, Any]:
    return {"n": n, "last": last, "seal": hmac.digest(secret, f"{n} {last}".encode(), "sha256").hex()}


def _read_secret(folder: Path) -> bytes:
    """Read the secret, or make it; of several processes that begin together one makes it."""
    file = folder / SECRET
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = folder / f"{SECRET}.{os.getpid()}"
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(secrets.token_bytes(32))
        try:
            os.link(part, file)  # fails where there is one
        except FileExistsError:
            pass
        finally:
            part.unlink()
        return file.read_bytes()
    except OSError as error:
        raise RunFailed(
            f"the audit log in {folder} cannot be written ({error.strerror}): name another folder."
        ) from error
