"""Look for the next request instead of sleeping: for a while after each answer, or always, with the model kept warm.

A core that sleeps loses its caches to others and wakes late: on a virtual machine that costs more than the server
does itself.
Border: keeps the event loop awake; knows no requests.
"""

import asyncio
from collections.abc import Callable

_IDLE_S = 0.002
"""Without work before the model is run to keep it warm. WNUT-17 at 10 requests/s: p50 2.1 ms; at 5 ms of idling 2.3."""


class Polling:
    """An event loop that does not sleep for a while after each answer.

    Args:
        for_ms: how long it looks for the next request; 0 lets it sleep at once.
        keep_warm: work that is done whenever there was none for 2 ms; then the loop never sleeps.
    """

    def __init__(self, for_ms: float, *, keep_warm: Callable[[], object] | None = None) -> None:
        self._for_s = for_ms / 1000
        self._keep_warm = keep_warm
        self._until = self._worked = 0.0
        self._is_awake = False

    def go_on(self) -> None:
        """Stay awake from now; call it on the loop, when an answer was sent, and once in the beginning."""
        if not self._for_s and self._keep_warm is None:
            return
        loop = asyncio.get_running_loop()
        self._worked = loop.time()
        self._until = self._worked + self._for_s
        if not self._is_awake:
            self._is_awake = True
            loop.call_soon(self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        if self._keep_warm is not None and now > self._worked + _IDLE_S:
            self._keep_warm()
            self._worked = loop.time()
        self._is_awake = self._keep_warm is not None or now < self._until
        if self._is_awake:
            loop.call_soon(self._look, loop)  # the loop asks its sockets between two turns, without waiting
