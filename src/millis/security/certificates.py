"""The server's certificate for TLS: read once at the start, and again when its files change.

Border: two PEM files in, an SSLContext out; no sockets.
Limits: no certificates of clients; keys with a passphrase are refused, since nobody is there to type it.
"""

import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path

from millis.errors import InvalidValue
from millis.regular import read_regular


def make_context(certificate: str, key: str) -> ssl.SSLContext:
    """Make what TLS connections are opened with: TLS 1.2 and later, Python's own choice of ciphers.

    Args:
        certificate: PEM file, its chain behind it.
        key: PEM file of its private key.
    Raises:
        InvalidValue: a file cannot be read, is not PEM, has a passphrase, or the two do not belong together.
    """
    context = _make_empty()
    _load(context, certificate, key)
    return context


class Certificates:
    """A context that follows its files.

    Args:
        tell: says to people that there is another certificate, or that it cannot be used.
    Attributes:
        context: what connections are opened with.
        pair: the same, for who has no use for a context: the key and the certificate, as PEM.
    """

    def __init__(self, certificate: str, key: str, *, tell: Callable[[str], None]) -> None:
        self._files = (certificate, key)
        self._tell = tell
        self._stamp = self._look()
        self.context = _make_empty()
        self.pair = _load(self.context, certificate, key)

    def follow(self) -> None:
        """Take the files anew where they changed, for connections from now on; call it now and then.

        A certificate that cannot be used changes nothing: it is said once, and the one before goes on.
        """
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            make_context(*self._files)  # a trial: half of a pair in the context that serves would break it
            self.pair = _load(self.context, *self._files)
        except InvalidValue as error:
            self._tell(f"{error} The certificate before is used until then.")
        else:
            self._tell("there is a new TLS certificate; connections from now on use it.")

    def _look(self) -> list[tuple[int, int, int]]:
        found = []
        for file in self._files:
            with contextlib.suppress(OSError):
                stat = Path(file).stat()
                found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return found


def _make_empty() -> ssl.SSLContext:
    return ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)


def _load(context: ssl.SSLContext, certificate: str, key: str) -> tuple[bytes, bytes]:
    """Put both into a context; give them too, the key first."""
    try:
        pair = read_regular(key), read_regular(certificate)
        context.load_cert_chain(certificate, key, password="")
        return pair
    except (OSError, ValueError) as error:  # SSLError is an OSError
        reason = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
        raise InvalidValue(
            f"the TLS certificate {certificate} and the key {key} cannot be used"
            f" ({reason or getattr(error, 'reason', None) or 'not PEM, or a passphrase'}): give two PEM files that"
            " belong together, the key without a passphrase."
        ) from error
