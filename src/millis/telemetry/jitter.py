"""What holds a request up besides its own work: the collector, a host or a container that takes the processor away.

Border: reads this process's collector, /proc and cgroups; knows no requests.
Limits: Linux tells the last three; steal is counted by the system in hundredths of a second, and throttling of this
process's control groups is their sum over cores, so that it may be more than the time that passed.
"""

import gc
import os
import threading
from collections import deque
from pathlib import Path
from time import perf_counter_ns
from typing import NamedTuple

from millis.cores import cgroup_folders, read_file

_PAUSES = 256
_SAMPLES = 64
_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_THROTTLED_NS = {"throttled_usec": 1000, "throttled_time": 1}
"""By how the two versions of control groups name it: ns of the unit."""


class Counters(NamedTuple):
    """Sums since the start, in nanoseconds, at a moment."""

    at_ns: int
    steal_ns: int
    throttle_ns: int


class Jitter:
    """Watches one thread, that which makes it.

    Attributes:
        gc_ns: how long the collector has run, all its pauses together.
        core_ns: how long the thread was ready and had no core, as of the last note.
    """

    def __init__(self) -> None:
        self._pauses: deque[tuple[int, int]] = deque(maxlen=_PAUSES)
        self._began_ns: int | None = None
        self.gc_ns = 0
        try:
            self._task = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
        except OSError:
            self._task = -1
        self.core_ns = 0
        self._cores: deque[tuple[int, int]] = deque(maxlen=_SAMPLES)
        self.note()
        self._samples: deque[Counters] = deque([read_counters()], maxlen=_SAMPLES)
        gc.callbacks.append(self._on_gc)

    def close(self) -> None:
        """Watch no longer."""
        gc.callbacks.remove(self._on_gc)
        if self._task >= 0:
            os.close(self._task)

    def note(self) -> None:
        """Read how long the thread has waited for a core; call it at the end of what may be asked about. Some 2 µs."""
        if self._task >= 0:
            self.core_ns = int(os.pread(self._task, 64, 0).split()[1])
        self._cores.append((perf_counter_ns(), self.core_ns))

    def sample(self) -> Counters:
        """Read the machine's counters; call it now and then."""
        self._samples.append(read_counters())
        return self._samples[-1]

    def attribute(self, began_ns: int, ended_ns: int) -> dict[str, float]:
        """Give by cause the ms that may have held up what ran from one moment to another; reads the counters once.

        gc: Python's collector ran. core: the thread was ready and no core was free. steal: another machine had the
        core. throttle: a container's quota was used up.

        Waiting for a core is the difference between two notes, steal and throttling between two samples: what happened
        between the one before and the beginning, or after the end, is in it.
        """
        core_ns = next((ns for at_ns, ns in reversed(self._cores) if at_ns <= began_ns), self._cores[0][1])
        before = next((one for one in reversed(self._samples) if one.at_ns <= began_ns), self._samples[0])
        now = self.sample()
        held = {
            "gc": sum(max(min(end, ended_ns) - max(begin, began_ns), 0) for begin, end in self._pauses),
            "core": self.core_ns - core_ns,
            "steal": now.steal_ns - before.steal_ns,
            "throttle": now.throttle_ns - before.throttle_ns,
        }
        return {cause: round(ns / 1e6, 3) for cause, ns in held.items() if ns > 0}

    def _on_gc(self, phase: str, details: dict[str, int]) -> None:
        now = perf_counter_ns()
        if phase == "start":
            self._began_ns = now
        elif self._began_ns is not None:
            self._pauses.append((self._began_ns, now))
            self.gc_ns += now - self._began_ns
            self._began_ns = None


def read_counters() -> Counters:
    """Read what the system counts of the machine and of the control group."""
    return Counters(perf_counter_ns(), _read_steal(), _read_throttled())


def _read_steal() -> int:
    words = read_file(Path("/proc/stat")).partition("\n")[0].split()
    return int(words[8]) * 1_000_000_000 // _TICKS_PER_S if len(words) > 8 and words[0] == "cpu" else 0


def _read_throttled() -> int:
    rows = (line.split() for folder in cgroup_folders() for line in read_file(folder / "cpu.stat").splitlines())
    return sum(_THROTTLED_NS[name] * int(value) for name, value in rows if name in _THROTTLED_NS)
