"""When the bytes that were just read may have come, and whether anybody else is there.

While a window runs on the event loop nobody looks at the sockets: what is read afterwards may have come at any time
since it began, and is held to have come then. So a deadline never starts too late, whoever blocked the loop.
Border: clocks; fed by the protocol and by the executor.
"""

from time import perf_counter_ns


class SocketClock:
    """One event loop's view of its sockets.

    Attributes:
        n_events: connections that came or went, and pieces of data that were read.
    """

    def __init__(self) -> None:
        self.n_events = 0
        self._n_before = 0
        self._blocked_ns: int | None = None

    @property
    def is_crowded(self) -> bool:
        """Say whether more happened since the last rest than one piece of data on a connection that was there."""
        return self.n_events > self._n_before + 1

    def read(self) -> int:
        """Note that data was read, and give the earliest time at which it may have come, in ns."""
        self.n_events += 1
        return perf_counter_ns() if self._blocked_ns is None else self._blocked_ns

    def block(self) -> None:
        """Note that sockets are looked at no longer."""
        self._blocked_ns, self._n_before = perf_counter_ns(), self.n_events

    def unblock(self) -> None:
        """Note that all sockets have been looked at since."""
        self._blocked_ns = None

    def rest(self) -> None:
        """Note that nothing waits to be run."""
        self._blocked_ns, self._n_before = None, self.n_events
