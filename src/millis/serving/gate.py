"""The one gate in front of every route but the one that says the process lives: whose key, may it, how often.

Border: headers in, a key or a refusal out; what was done goes to the audit log from here. Without keys the gate is
open, and the server listens on loopback only.
"""

import asyncio
import base64
import binascii
import math
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

from millis.errors import InvalidRequest, RunFailed
from millis.security.audit import AuditLog
from millis.security.keys import ACTIONS, ADMIN, METRICS, Key, KeyRing
from millis.security.quotas import Quotas
from millis.security.rates import Rates

ON = "millis.on"
"""Where a request's scope holds the model that it is about, for the log."""

KEY = "millis.key"
"""Where a request's scope holds the key it came with."""

UNKNOWN = "an unknown route"
"""How logs call a path that is none of ours."""

_WRITE_S = 0.1
_NEEDS = {"/metrics": (METRICS, ADMIN), "/dashboard": (METRICS, ADMIN)}
_ADMIN_ROUTES = "/v1/admin/"
"""A key for one of their deeds gets in; whether it is for the one it asks, the route says."""
_CHALLENGE = tuple((b"www-authenticate", b'%b realm="millis"' % scheme) for scheme in (b"Bearer", b"Basic"))
"""One header each: browsers read the first challenge of a header and no further."""


class Gate:
    """Keeps a server's routes.

    Args:
        keys: None lets everybody in.
        audit: None keeps no log.
        tell: says to people that the log cannot be written.
        rates, quotas: count requests by second and by day; None counts none.
    """

    def __init__(
        self, *, keys: KeyRing | None = None, audit: AuditLog | None = None, tell: Callable[[str], None],
        rates: Rates | None = None, quotas: Quotas | None = None,
    ) -> None:  # fmt: skip
        self._keys, self._audit = keys, audit
        self._tell, self._rates, self._quotas = tell, rates, quotas
        self._is_writing = False
        self._is_sharing = True

    def check(self, scope: MutableMapping[str, Any]) -> None:
        """Put the key of a request into its scope.

        Raises:
            InvalidRequest: 401 without a valid key, 403 where it may not, 429 too often.
        """
        if self._keys is None:
            return
        key = self._find(scope["headers"])
        scope[KEY] = key
        if key.rate_per_s is not None and self._rates is not None:
            wait_s = self._rates.take(key.id, per_s=key.rate_per_s)
            if wait_s:
                raise InvalidRequest(
                    f"this key may ask {key.rate_per_s:g} times a second: ask again in {1000 * wait_s:.0f} ms.",
                    status=429, slug="too-often", headers=((b"retry-after", b"%d" % math.ceil(wait_s)),),
                )  # fmt: skip
        if key.quota_per_day is not None and self._quotas is not None:
            wait_s = self._quotas.take(key.id, most=key.quota_per_day)
            if wait_s:
                raise InvalidRequest(
                    f"this key may ask {key.quota_per_day:,} times a day, and has: ask again after midnight (UTC), in"
                    f" {wait_s / 3600:.1f} hours.",
                    status=429, slug="quota-used", headers=((b"retry-after", b"%d" % math.ceil(wait_s)),),
                )  # fmt: skip
        needs = (ADMIN, *ACTIONS) if scope["path"].startswith(_ADMIN_ROUTES) else _NEEDS.get(scope["path"])
        if needs:
            self.allow(scope, *needs)

    def allow(self, scope: MutableMapping[str, Any], *scopes: str) -> None:
        """Let a request pass whose key has one of these scopes.

        Raises:
            InvalidRequest: 403, it has none of them.
        """
        if self._keys is None or scope[KEY].may(*scopes):
            return
        raise InvalidRequest(
            f"this key is not for that: it takes one of the scopes {', '.join(scopes)}.", status=403, slug="forbidden"
        )

    def note(
        self, scope: MutableMapping[str, Any], *, status: int, on: str = "", route: str | None = None
    ) -> None:
        """Write into the audit log how a request ended.

        Args:
            route: what was asked; None where the path is a route as it stands, and nothing that a client made up.
        """
        if self._audit is None:
            return
        key = scope.get(KEY)
        what = f"{scope['method'][:20]} {route or scope['path']}"
        self._audit.tell(what, outcome=str(status), who=key.id if key else "", on=on)
        self._write_soon()

    def note_shed(self, route: str, *, times: int) -> None:
        """Write into the audit log that requests were refused before anybody looked who asked."""
        if self._audit is not None:
            self._audit.tell(f"POST {route}", outcome="503", times=times)
            self._write_soon()

    def share(self) -> None:
        """Bring the counts of quotas to the other workers and theirs here; call it now and then."""
        if self._quotas is None:
            return
        try:
            self._quotas.share()
            self._is_sharing = True
        except OSError as error:
            if self._is_sharing:  # said once
                self._tell(f"requests by day cannot be counted in common ({error.strerror}): each worker counts alone.")
            self._is_sharing = False

    def close(self) -> None:
        """Write what was noted."""
        self._is_writing = False
        if self._audit is None:
            return
        try:
            self._audit.write()
        except RunFailed as error:
            self._tell(str(error))

    def _write_soon(self) -> None:
        if not self._is_writing:
            self._is_writing = True
            asyncio.get_running_loop().call_later(_WRITE_S, self.close)

    def _find(self, headers: Iterable[tuple[bytes, bytes]]) -> Key:
        assert self._keys is not None
        said = [(name, value) for name, value in headers if name in (b"authorization", b"x-api-key")]
        if len(said) != 1:
            raise _refuse("no key came" if not said else "more than one key came")
        key = self._keys.find(_read_key(*said[0]))
        if key is None:
            raise _refuse("this key is not known")
        state = key.state()
        if state != "valid":
            raise _refuse(f"this key is {state}")
        return key


def _read_key(name: bytes, value: bytes) -> str:
    """Take the key out of `X-API-Key: KEY`, `Authorization: Bearer KEY`, or Basic with the key as password."""
    text = value.decode("latin-1").strip()
    if name == b"x-api-key":
        return text
    scheme, _, rest = text.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).decode("latin-1").partition(":")[2]
        except binascii.Error:
            return ""
    return ""


def _refuse(wrong: str) -> InvalidRequest:
    return InvalidRequest(
        f"{wrong}: send one as `Authorization: Bearer KEY` or `X-API-Key: KEY`; `millis keys create` makes them.",
        status=401, slug="no-key", headers=_CHALLENGE,
    )  # fmt: skip
