"""Which grammars the answers of a model can be held to: each is tried once, beside the event loop, and remembered.

Border: knows no schema and no engine.
"""

import asyncio
from collections.abc import Callable

from millis.errors import InvalidRequest

_MOST_WAITING, _MOST_KEPT = 8, 256


class Forms:
    """What was said of each grammar.

    Args:
        accept: a generator's; it may take seconds.
    """

    def __init__(self, accept: Callable[[str], None]) -> None:
        self._accept = accept
        self._said: dict[str, InvalidRequest | None] = {}
        self._n_waiting = 0

    async def accept(self, grammar: str) -> None:
        """Let a grammar through that answers can be held to.

        Raises:
            InvalidRequest: they cannot be; 503 when too many others wait to be tried.
            RunFailed: it could not be tried.
        """
        if grammar not in self._said:
            await self._try(grammar)
        refusal = self._said.get(grammar)
        if refusal is not None:
            raise refusal

    async def _try(self, grammar: str) -> None:
        if self._n_waiting >= _MOST_WAITING:
            raise InvalidRequest(
                f"{self._n_waiting} answer formats that are new here wait to be tried: ask again in a second.",
                status=503, slug="too-busy", headers=((b"retry-after", b"1"),),
            )  # fmt: skip
        self._n_waiting += 1
        try:
            await asyncio.to_thread(self._accept, grammar)
            self._said[grammar] = None
        except InvalidRequest as error:
            self._said[grammar] = error
        finally:
            self._n_waiting -= 1
        while len(self._said) > _MOST_KEPT:
            del self._said[next(iter(self._said))]
