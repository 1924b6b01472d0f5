"""Look for the next request instead of sleeping, for a while after each answer.

A core that sleeps loses its caches to others and wakes late: on a virtual machine that costs more than the server
does itself.
Border: keeps the event loop awake; knows no requests.
"""

import asyncio


class Polling:
    """An event loop that does not sleep for a while after each answer.

    Args:
        for_ms: how long it looks for the next request; 0 lets it sleep at once.
    """

    def __init__(self, for_ms: float) -> None:
        self._for_s = for_ms / 1000
        self._until = 0.0
        self._is_awake = False

    def go_on(self) -> None:
        """Stay awake from now; call it on the loop, when an answer was sent."""
        if not self._for_s:
            return
        loop = asyncio.get_running_loop()
        self._until = loop.time() + self._for_s
        if not self._is_awake:
            self._is_awake = True
            loop.call_soon(self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_awake = loop.time() < self._until
        if self._is_awake:
            loop.call_soon(self._look, loop)  # the loop asks its sockets between two turns, without waiting
