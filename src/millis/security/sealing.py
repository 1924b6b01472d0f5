"""What makes an audit log's lines hard to change: a secret, the seal of each line, heads that count, and a register.

A folder of seals holds `audit.key`, the secret by which seals are made; FILE.head for each file of the log, with the
number of its lines and its last seal; and `audit.files`, the register of all files that were begun. Whoever can read
the secret can seal a changed log again, and whoever can put older heads and an older register back can hide what came
since: keep that folder where those who can write the log cannot.
Border: a folder of small files; the lines themselves are audit.py's.
"""

import fcntl
import hmac
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from millis.errors import RunFailed

SECRET = "audit.key"  # noqa: S105 - a file's name
REGISTER = "audit.files"


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
        seal: HMAC-SHA-256 of the seal before (of the first, that of its file's name) and of this line without its own.
    """

    n: int
    at: float
    who: str = ""
    what: str
    on: str = ""
    outcome: str
    times: int = 1
    seal: str = ""


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file must hold: so many lines, this seal of the last."""

    n: int
    last: str


class Seals:
    """A folder of seals.

    Args:
        folder: with its secret.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._secret = (folder / SECRET).read_bytes()

    def begin(self, name: str) -> str:
        """Give the seal that the first line of a file of this name stands behind: no file passes for another."""
        return self._sign(name.encode())

    def write(self, line: Line, *, before: str) -> tuple[bytes, str]:
        """Give a line as it stands in the file behind another, and its seal."""
        bare = msgspec.json.encode(msgspec.structs.replace(line, seal=""))
        seal = self._sign(before.encode() + bare)
        return b'%b,"seal":"%b"}\n' % (bare[:-1], seal.encode()), seal

    def write_head(self, name: str, head: Head) -> None:
        """Write what a file holds now.

        Raises:
            OSError: the disk is full, or the folder is gone.
        """
        self._replace(f"{name}.head", {"n": head.n, "last": head.last, "seal": self._sign_head(head)})

    def read_head(self, name: str) -> Head | None:
        """Read what a file must hold; None where that was changed.

        Raises:
            OSError, ValueError: it is missing or unreadable.
        """
        said = msgspec.json.decode((self.folder / f"{name}.head").read_bytes(), type=dict[str, Any])
        head = msgspec.convert({"n": said.get("n"), "last": said.get("last")}, type=Head)
        return head if said == {"n": head.n, "last": head.last, "seal": self._sign_head(head)} else None

    def register(self, name: str) -> None:
        """Note that a file was begun; processes that do so at the same time wait for each other.

        Raises:
            OSError: the disk is full, or the folder is gone.
        """
        with (self.folder / f"{REGISTER}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                names = [*self.read_register(), name]
            except FileNotFoundError:
                names = [name]
            except ValueError:
                return  # it stays as it was found, for `verify` to tell of it
            self._replace(REGISTER, {"files": names, "seal": self._sign_names(names)})

    def read_register(self) -> tuple[str, ...]:
        """Read which files were begun.

        Raises:
            OSError, ValueError: it is missing, unreadable or changed.
        """
        said = msgspec.json.decode((self.folder / REGISTER).read_bytes(), type=dict[str, Any])
        names = msgspec.convert(said.get("files"), type=tuple[str, ...])
        if said.get("seal") != self._sign_names(names):
            raise ValueError("changed")
        return names

    def _sign(self, content: bytes) -> str:
        return hmac.digest(self._secret, content, "sha256").hex()

    def _sign_head(self, head: Head) -> str:
        return self._sign(f"{head.n} {head.last}".encode())

    def _sign_names(self, names: Sequence[str]) -> str:
        return self._sign(msgspec.json.encode(names))

    def _replace(self, name: str, document: object) -> None:
        part = self.folder / f"{name}.part"
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(msgspec.json.encode(document))
        part.replace(self.folder / name)


def open_seals(folder: Path) -> Seals:
    """Open a folder of seals, or make it; of several processes that begin together one makes the secret.

    Raises:
        RunFailed: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = folder / f"{SECRET}.{os.getpid()}"
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(secrets.token_bytes(32))
        try:
            os.link(part, folder / SECRET)  # fails where there is one
        except FileExistsError:
            pass
        finally:
            part.unlink()
        return Seals(folder)
    except OSError as error:
        raise RunFailed(
            f"the audit log in {folder} cannot be written ({error.strerror}): name another folder."
        ) from error
