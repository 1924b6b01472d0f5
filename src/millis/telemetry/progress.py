"""Progress on standard error: a bar with an estimate for anything over two seconds, lines for choices.

Border: standard output is never touched. On a pipe, bars become one line every few seconds.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

Advance = Callable[[float, str], None]
"""advance(done, note): done counts up to the total; note is shown behind the bar."""

_LINE_EVERY_S = 5.0


def say(line: str) -> None:
    """Write one line to standard error, now."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


@contextmanager
def bar(name: str, *, total: float) -> Iterator[Advance]:
    """Show a bar named name while the block runs.

    Yields:
        advance(done, note), to be called with what is done so far, in the unit of total.
    """
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=Console(stderr=True, force_jupyter=False)) as progress:
            row = progress.add_task(name, total=total, note="")

            def update(done: float, note: str) -> None:
                progress.update(row, completed=done, note=note)

            yield update
        return
    started = time.monotonic()
    last = started

    def advance(done: float, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _LINE_EVERY_S or done <= 0:
            return
        last = now
        left_s = (now - started) * max(total - done, 0) / done
        say(f"{name}: {100 * done / total:.0f} %, about {left_s:.0f} s left {note}".rstrip())

    yield advance
