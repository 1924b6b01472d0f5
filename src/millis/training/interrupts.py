"""Ctrl-C as a wish that the loop can see, instead of an exception anywhere.

Border: SIGINT only, in the main thread only; elsewhere the wish never comes.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from millis.telemetry.progress import say


@dataclass(slots=True)
class Stop:
    """Whether the user wants the run to stop."""

    is_wanted: bool = False


@contextmanager
def catch_interrupt() -> Iterator[Stop]:
    """Turn the first Ctrl-C into a wish; the second one interrupts as usual."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def note(_number: int, _frame: FrameType | None) -> None:
        stop.is_wanted = True
        signal.signal(signal.SIGINT, before)
        say("stopping after this step and saving; Ctrl-C again stops at once")

    signal.signal(signal.SIGINT, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
