"""API keys: made, shown once, kept as hashes, found again in constant time, revoked while servers run.

A key is `mk_ID_SECRET`, its secret 256 random bits; the file keeps the SHA-256 of the secret. That is no password that
somebody chose, so nothing slower is needed to keep it from being guessed.
Border: one JSON file, readable by its owner alone, replaced as a whole.
"""

import fcntl
import hashlib
import hmac
import math
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from millis.errors import InvalidValue, RunFailed
from millis.regular import read_with_mode

ANY = "*"
ADMIN = "admin"
READ, LOAD, UNLOAD, PROMOTE, ROLL_BACK = (
    f"{ADMIN}:{action}" for action in ("read", "load", "unload", "promote", "rollback")
)
ACTIONS = (READ, LOAD, UNLOAD, PROMOTE, ROLL_BACK)
"""Scopes of one deed each, where ADMIN is of all."""
METRICS = "metrics"

_PREFIX = "mk"
_LOOK_AGAIN_S = 0.5
_NOBODY = "0" * 64
_SCOPE = rf"^(\*|[a-z0-9-]{{1,40}}|{'|'.join(ACTIONS)}|model:[^\x00-\x1f\x7f/\\]{{1,200}})$"

_LONGEST_S = 100 * 365 * 86400.0
_LEAST_RATE_PER_S = 1e-6

Scope = Annotated[str, Meta(pattern=_SCOPE)]
Name = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{0,200}$")]


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of a key.

    Args:
        name: for people.
        sha256: of its secret.
        scopes: tasks ("ner"), models ("model:NAME"), "metrics", "admin" or some of ACTIONS; "*" is every one.
        rate_per_s: requests a second that it may make; None without limit.
        quota_per_day: requests that it may make between two midnights of UTC; None without limit.
        created, expires: seconds since 1970.
    """

    id: Annotated[str, Meta(pattern="^[0-9a-f]{12}$")]
    name: Name
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...]
    rate_per_s: Annotated[float, Meta(ge=_LEAST_RATE_PER_S)] | None = None
    quota_per_day: Annotated[int, Meta(ge=1)] | None = None
    created: float
    expires: float | None = None
    is_revoked: bool = False

    def may(self, *scopes: str) -> bool:
        """Say whether the key has one of these scopes."""
        return ANY in self.scopes or any(scope in self.scopes for scope in scopes)

    def state(self) -> str:
        """Say "valid", "expired" or "revoked"."""
        if self.is_revoked:
            return "revoked"
        return "expired" if self.expires is not None and time.time() >= self.expires else "valid"


class KeyFile:
    """A file of keys.

    Args:
        path: it need not be there yet; a file that is there is readable by its owner alone, or refused.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def read(self) -> tuple[Key, ...]:
        """Read every key.

        Raises:
            InvalidValue: the file cannot be read, is not of this shape, has a key twice, or others may read it.
        """
        try:
            content, mode = read_with_mode(self.path)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise InvalidValue(
                f"the keys in {self.path} cannot be read ({error.strerror}): name a file that can."
            ) from error
        if mode & 0o077:
            raise InvalidValue(f"others may read the keys in {self.path}: run `chmod 600` on it.")
        try:
            keys = msgspec.json.decode(content, type=tuple[Key, ...])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidValue(
                f"{self.path} holds no keys of millis ({error}): name a file that `millis keys create` wrote."
            ) from error
        twice = [key_id for key_id, n in Counter(key.id for key in keys).items() if n > 1]
        if twice:  # one of them revoked would leave the other
            raise InvalidValue(f"{self.path} has the key {twice[0]} more than once: remove all but one.")
        return keys

    def create(
        self, *, name: str, scopes: Sequence[str], expires_s: float | None = None, rate_per_s: float | None = None,
        quota_per_day: int | None = None,
    ) -> tuple[str, Key]:
        """Make a key.

        Args:
            expires_s: how long it is valid; None for good.
        Returns:
            the key itself, which is nowhere else, and what is kept of it.
        Raises:
            InvalidValue: no scope, or one that cannot be; a name, time or rate that cannot be.
        """
        if not (expires_s is None or 0 <= expires_s <= _LONGEST_S) or any(
            limit is not None and not least <= limit < math.inf
            for limit, least in ((rate_per_s, _LEAST_RATE_PER_S), (quota_per_day, 1))
        ):
            raise InvalidValue(
                f"a key cannot have {expires_s} seconds, {rate_per_s} requests a second or {quota_per_day} a day: give"
                f" up to 100 years, a rate from {_LEAST_RATE_PER_S:f}/s and a quota from 1/day, or leave them out."
            )
        secret, now = secrets.token_hex(32), time.time()
        record = {
            "id": secrets.token_hex(6), "name": name, "sha256": _hash(secret), "scopes": list(scopes),
            "rate_per_s": rate_per_s, "quota_per_day": quota_per_day,
            "created": now, "expires": None if expires_s is None else now + expires_s,
        }  # fmt: skip
        try:
            key = msgspec.convert(record, type=Key)
        except msgspec.ValidationError as error:
            raise InvalidValue(
                f"a key cannot have the scopes {list(scopes)} and the name {name[:40]!r}: give tasks (ner), model:NAME,"
                " metrics, admin or admin:ACTION, or * for all, and a name of up to 200 printable characters."
            ) from error
        if not scopes:
            raise InvalidValue("a key without scopes opens nothing: give at least one, like --scope ner.")
        with self._writing() as keys:
            keys.append(key)
        return f"{_PREFIX}_{key.id}_{secret}", key

    def revoke(self, key_id: str) -> Key:
        """Make a key worthless, in running servers too within half a second.

        Raises:
            InvalidValue: there is no such key.
        """
        with self._writing() as keys:
            for place, key in enumerate(keys):
                if key.id == key_id:
                    keys[place] = msgspec.structs.replace(key, is_revoked=True)
                    return keys[place]
        raise InvalidValue(f"{self.path} has no key {key_id!r}: `millis keys list` shows those there are.")

    @contextmanager
    def _writing(self) -> Iterator[list[Key]]:
        """Give the keys to be changed, alone; what an error leaves behind is the old file."""
        if not self.path.name:
            raise InvalidValue(f"{str(self.path)!r} is no file of keys: name a file.")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.with_name(f"{self.path.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                keys = list(self.read())
                yield keys
                part = self.path.with_name(f"{self.path.name}.part")
                part.unlink(missing_ok=True)
                with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                    stream.write(msgspec.json.format(msgspec.json.encode(keys), indent=1))
                    stream.flush()
                    os.fsync(stream.fileno())
                part.replace(self.path)
        except OSError as error:
            raise RunFailed(
                f"the keys in {self.path} cannot be written ({error.strerror}): name another file."
            ) from error


class KeyRing:
    """The keys of a file as a server sees them; looks again when the file changed.

    Args:
        tell: says to people that nobody gets in any more, and why.
    """

    def __init__(self, file: KeyFile, *, tell: Callable[[str], None]) -> None:
        self._file, self._tell = file, tell
        self._keys: dict[str, Key] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._look_at = 0.0
        self._load()

    def find(self, key: str) -> Key | None:
        """Give what is kept of a key, expired and revoked ones too; None for one that never was.

        A wrong secret and an unknown name take the same time.
        """
        if time.monotonic() >= self._look_at:
            self._load()
        prefix, _, rest = key.partition("_")
        key_id, _, secret = rest.partition("_")
        known = self._keys.get(key_id) if prefix == _PREFIX else None
        is_right = hmac.compare_digest(_hash(secret), known.sha256 if known else _NOBODY)
        return known if is_right else None

    def _load(self) -> None:
        """Read the file when it, or who may read it, is another than before; what cannot be read lets nobody in."""
        self._look_at = time.monotonic() + _LOOK_AGAIN_S
        try:
            found = self._file.path.stat()
        except OSError:
            found = None
        stamp = (found.st_ctime_ns, found.st_size, found.st_ino) if found else (0, 0, 0)
        if stamp == self._stamp:
            return
        is_first, self._stamp = self._stamp is None, stamp
        self._keys = {}
        try:
            self._keys = {key.id: key for key in self._file.read()}
        except InvalidValue as error:
            if is_first:
                raise
            self._tell(f"{error} Nobody gets in until then.")
        else:
            if not self._keys:
                self._tell(f"there is no key in {self._file.path}: nobody gets in; `millis keys create` makes one.")


def write_time(seconds: float | None) -> str:
    """Write a moment for people, in UTC; "never" for None."""
    if seconds is None:
        return "never"
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError):  # a file that was edited by hand
        return "beyond the calendar"


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
