"""How much of the machine others had while something was measured: their share says what a bad number is worth.

Border: reads /proc; this process and everything that it started count as ours.
Limits: Linux; where the system does not tell, nothing is known. In a container the cores are the host's, all of them.
"""

import os
from pathlib import Path
from typing import NamedTuple, Self

CROWDED = 0.15
"""Share of the cores from which a measurement that disappoints is worth repeating."""

_PROC = Path("/proc")


class _Ticks(NamedTuple):
    """Sums over all cores since the start, in the system's ticks."""

    all: int
    busy: int
    steal: int
    ours: int


class Crowd:
    """Count what others took between entering and leaving.

    Attributes:
        others: share of all cores that processes of others had, 0 to 1; None before leaving, or where nobody tells.
        steal: share that other machines on the same host had, likewise.

    Usage:
        with Crowd() as crowd:
            ...
        crowd.note()  # a clause to add to a verdict, empty on a machine of one's own
    """

    def __init__(self) -> None:
        self.others: float | None = None
        self.steal: float | None = None

    def __enter__(self) -> Self:
        """Begin."""
        self._began = _count()
        return self

    def __exit__(self, *_: object) -> None:
        """Sum up."""
        began, ended = self._began, _count()
        if began is None or ended is None or ended.all <= began.all:
            return
        spent = ended.all - began.all
        self.steal = round((ended.steal - began.steal) / spent, 4)
        self.others = round(max(ended.busy - began.busy - (ended.ours - began.ours), 0) / spent, 4)

    @property
    def share(self) -> float | None:
        """What others and other machines had together, 0 to 1; None where nobody tells."""
        return None if self.others is None or self.steal is None else self.others + self.steal

    @property
    def is_crowded(self) -> bool:
        """Say whether others had so much that the measurement speaks of them too."""
        return (self.share or 0.0) > CROWDED

    def note(self) -> str:
        """Say who had the cores, where it was much; else nothing."""
        if not self.is_crowded:
            return ""
        return (
            f"other processes had {100 * (self.others or 0.0):.0f} % of the cores meanwhile and other machines"
            f" {100 * (self.steal or 0.0):.0f} %: measure again when they rest"
        )

    def record(self) -> dict[str, float]:
        """Give what a certificate says of it."""
        if self.others is None or self.steal is None:
            return {}
        return {"others_share": self.others, "steal_share": self.steal}


def _count() -> _Ticks | None:
    """Read user, nice, system, idle, iowait, irq, softirq, steal of all cores; guests are in user already."""
    try:
        words = (_PROC / "stat").read_text().partition("\n")[0].split()
        user, nice, system, idle, waiting, irq, soft, steal = map(int, words[1:9])
    except (OSError, ValueError):
        return None
    busy = user + nice + system + irq + soft
    return _Ticks(busy + idle + waiting + steal, busy, steal, _count_ours())


def _count_ours() -> int:
    """Add up this process, what it started and is there, and what those that are there have seen the end of."""
    spent: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "stat").read_text().rpartition(")")[2].split()  # a name may hold spaces
        except OSError:  # it ended meanwhile
            continue
        spent[int(folder.name)] = sum(map(int, words[11:15]))  # utime, stime, and those of children waited for
        children.setdefault(int(words[1]), []).append(int(folder.name))
    total, waiting = 0, [os.getpid()]
    while waiting:
        pid = waiting.pop()
        total += spent.get(pid, 0)
        waiting += children.get(pid, [])
    return total
