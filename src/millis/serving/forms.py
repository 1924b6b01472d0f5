"""Which grammars the answers of a model can be held to: each is tried once, beside the event loop, and remembered.

Who asks for one that is being tried waits for the same try, which goes on when all who asked have left.
Border: knows no schema and no engine.
"""

import asyncio
import math
from collections.abc import Callable

from millis.errors import InvalidRequest, MillisError
from millis.serving.turns import before, passed

_MOST_WAITING, _MOST_KEPT = 8, 256


class Forms:
    """What was said of each grammar.

    Args:
        accept: a generator's; it may take seconds.
    """

    def __init__(self, accept: Callable[[str], None]) -> None:
        self._accept = accept
        self._said: dict[str, InvalidRequest | None] = {}
        self._trying: dict[str, asyncio.Task[MillisError | None]] = {}

    async def accept(self, grammar: str, *, until_ns: float = math.inf) -> None:
        """Let a grammar through that answers can be held to.

        Args:
            until_ns: when it is too late to answer, on the clock of perf_counter_ns.
        Raises:
            InvalidRequest: they cannot be; 503 when too many others wait to be tried; 504, it was too late.
            RunFailed: it could not be tried.
        """
        refusal: MillisError | None
        if grammar in self._said:
            refusal = self._said[grammar]
        else:
            trying = self._trying.get(grammar) or self._begin(grammar)
            try:
                async with before(until_ns):
                    refusal = await asyncio.shield(trying)
            except TimeoutError as error:
                raise passed() from error
        if refusal is not None:
            raise refusal

    def _begin(self, grammar: str) -> "asyncio.Task[MillisError | None]":
        if len(self._trying) >= _MOST_WAITING:
            raise InvalidRequest(
                f"{len(self._trying)} answer formats that are new here wait to be tried: ask again in a second.",
                status=503, slug="too-busy", headers=((b"retry-after", b"1"),),
            )  # fmt: skip
        self._trying[grammar] = asyncio.create_task(self._try(grammar))
        return self._trying[grammar]

    async def _try(self, grammar: str) -> MillisError | None:
        """Try it, and give the error that it ended with."""
        try:
            await asyncio.to_thread(self._accept, grammar)
            self._said[grammar] = None
        except InvalidRequest as error:
            self._said[grammar] = error
        except MillisError as error:
            return error
        finally:
            del self._trying[grammar]
        while len(self._said) > _MOST_KEPT:
            del self._said[next(iter(self._said))]
        return self._said[grammar]
