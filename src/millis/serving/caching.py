"""Keep whole answers for texts that come again, word by word: off unless the operator asks, and off in every proof.

What is kept is found by a digest of whose key asked, the manifest's seal (it covers every file of the model), the
rung, the options and the texts. So nobody is answered from what another key asked, and nobody gets a rung that he did
not allow: only the most accurate rung that a request allows is looked up.
Border: bytes by digest, the least recently used go first; one for each worker.
Limits: results hold pieces of the texts, in memory, until others push them out. All keys share the space.
"""

import hashlib
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

_ENTRY_BYTES = 400
"""Of an entry beside its results: digest, tuple, the table's share. tracemalloc saw 230 to 260 while a table grows."""

_encode = msgspec.json.Encoder().encode


class Asked(NamedTuple):
    """What was asked, by whom; the rung is added when it is looked up or kept."""

    tenant: str
    model: str
    options: Mapping[str, Any]
    texts: Sequence[str]

    def digest(self, rung: str) -> bytes:
        """Give the name under which the answer of a rung is kept."""
        whole = _encode((self.tenant, self.model, rung, self.options, self.texts))
        return hashlib.blake2b(whole, digest_size=32).digest()


class AnswerCache:
    """Answers, up to a size.

    Args:
        most_bytes: of the results and what it takes to find them.
    Attributes:
        n_bytes: what is kept now.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[bytes, tuple[bytes, ...]] = OrderedDict()
        self.n_bytes = 0

    def find(self, asked: Asked, *, rung: str) -> list[msgspec.Raw] | None:
        """Give the results, as JSON, that a rung gave to the same question; None where it is not kept."""
        digest = asked.digest(rung)
        found = self._kept.get(digest)
        if found is None:
            return None
        self._kept.move_to_end(digest)
        return [msgspec.Raw(one) for one in found]

    def keep(self, asked: Asked, results: Sequence[Any], *, rung: str) -> None:
        """Keep results; what alone is larger than the whole space is not."""
        digest = asked.digest(rung)
        encoded = tuple(_encode(one) for one in results)
        n_bytes = _size(encoded)
        if n_bytes > self._most_bytes:
            return
        self._forget(digest)
        self._kept[digest] = encoded
        self.n_bytes += n_bytes
        while self.n_bytes > self._most_bytes:
            self._forget(next(iter(self._kept)))

    def _forget(self, digest: bytes) -> None:
        gone = self._kept.pop(digest, None)
        if gone is not None:
            self.n_bytes -= _size(gone)


def _size(results: tuple[bytes, ...]) -> int:
    return _ENTRY_BYTES + sum(map(sys.getsizeof, results))
