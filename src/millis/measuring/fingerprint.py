"""What a machine is, as far as it decides speed.

Border: reads /proc and package metadata; no host name, no path, imports no runtime.
Limits: flags and the processor's name are read on Linux; elsewhere they are what `platform` knows.
"""

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm")
_PACKAGES = ("millis", "openvino", "onnxruntime", "torch", "nncf", "tokenizers", "numpy", "starlette", "uvicorn")


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine and the versions on it.

    Args:
        flags: the processor's instruction sets that matter to inference.
        versions: of the packages that matter, where installed.
    """

    cpu: str
    flags: tuple[str, ...]
    cores: int
    memory_gib: int
    system: str
    python: str
    versions: dict[str, str]

    @property
    def digest(self) -> str:
        """Hash what changes speed, shortly."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:12]

    def differences(self, other: "Fingerprint") -> list[str]:
        """Say in what another fingerprint differs from this one."""
        told = []
        for name in ("cpu", "flags", "cores", "memory_gib", "system", "python"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                told.append(f"{name}: {_plain(mine)} here, {_plain(theirs)} there")
        for name in sorted({*self.versions, *other.versions}):
            mine, theirs = self.versions.get(name, "absent"), other.versions.get(name, "absent")
            if mine != theirs and "absent" not in (mine, theirs):
                told.append(f"{name} {mine} here, {theirs} there")
        return told

    def __str__(self) -> str:
        """Describe the machine in a line."""
        return f"{self.cpu}, {self.cores} cores ({' '.join(self.flags) or 'no vector flags known'}), {self.memory_gib} GiB"


def fingerprint() -> Fingerprint:
    """Take the fingerprint of this machine, now."""
    described = _read_cpuinfo()
    flags = set(described.get("flags", described.get("Features", "")).split())
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Fingerprint(
        cpu=described.get("model name", platform.processor() or platform.machine()),
        flags=tuple(flag for flag in _FLAGS if flag in flags),
        cores=n_cores(),
        memory_gib=round(pages / 2**30),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions=_versions(),
    )


def n_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read_cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    rows = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in rows}


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
