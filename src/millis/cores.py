"""What processor this process may use: its kind, cores, and the time that a container rations.

Border: asks the system; decides nothing. Importing it loads nothing but the standard library.
"""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def n_cores() -> int:
    """Count the logical cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_cpuinfo() -> dict[str, str]:
    """Read what Linux tells of the first core, by name; nothing elsewhere."""
    rows = (line.partition(":") for line in read_file(Path("/proc/cpuinfo")).split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in rows}


def cpu_flags() -> set[str]:
    """Give the instruction sets of this processor by Linux's names; none elsewhere."""
    described = read_cpuinfo()
    return set((described.get("flags") or described.get("Features") or "").split())


def read_quota() -> float | None:
    """Read the time limit of a container or a service (cgroup v2 or v1), in cores; None without one."""
    return min(filter(None, map(_quota_of, cgroup_folders())), default=None)


def cgroup_folders() -> list[Path]:
    """Give the folders of the control groups that ration this process's time, its own first, of each version."""
    folders = []
    for line in read_file(_OWN_CGROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):  # version 2 names none
            own = (_CGROUP / "cpu" if controllers else _CGROUP) / path.lstrip("/")
            folders += [own, *(one for one in own.parents if one.is_relative_to(_CGROUP))]
    return list(dict.fromkeys(folders))


def _quota_of(folder: Path) -> float | None:
    words = read_file(folder / "cpu.max").split()
    if not words:
        words = [read_file(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # no such file, or "max"
        return None
    return round(quota / period, 2) if quota > 0 and period > 0 else None


def read_file(path: Path) -> str:
    """Read a file in which the system tells something; nothing where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
