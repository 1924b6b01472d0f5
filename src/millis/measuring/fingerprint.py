"""What a machine is, as far as it decides speed.

Border: reads /proc, cgroups and package metadata; no host name, no path, imports no runtime.
Limits: the processor's name and flags, and a container's limits, are read on Linux; elsewhere what `platform` knows.
"""

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from millis.cores import cpu_flags, n_cores, read_cpuinfo, read_file, read_quota

_FLAGS = (
    "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16",
    "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
_SERVING = ("millis", "numpy", "openvino", "starlette", "tokenizers", "uvicorn")
_OPTIONAL = ("nncf", "onnxruntime", "torch")
_CGROUP = Path("/sys/fs/cgroup")
_NVIDIA = Path("/proc/driver/nvidia/gpus")
_ABSENT = "absent"


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A machine and the versions on it.

    Args:
        cpu: the processor's name as the system gives it.
        flags: the instruction sets of the processor that matter to inference.
        cores: logical cores that this process may run on.
        quota_cores: how many cores' worth of time a container may use, None without such a limit.
        gpus: names of the GPUs that NVIDIA's driver shows; empty where there are none.
        memory_mb: decimal megabytes, or the container's limit when that is less.
        system: operating system, its release and the architecture; told, but not compared.
        versions: of Python and of the packages that matter, where installed.
    """

    cpu: str
    flags: tuple[str, ...]
    cores: int
    quota_cores: float | None = None
    memory_mb: int
    system: str
    versions: dict[str, str]
    gpus: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Hash what changes speed and what every serving install has, in 12 hexadecimal digits."""
        versions = {name: self.versions.get(name, _ABSENT) for name in ("python", *_SERVING)}
        told = msgspec.json.encode((self._compared(), versions), order="sorted")
        return hashlib.sha256(told).hexdigest()[:12]

    def differences(self, other: "Fingerprint") -> list[str]:
        """Say in what another machine differs from this one, as far as it changes speed.

        A package that only one of the two has is no difference: it did not make the other's times.
        """
        mine, theirs = self._compared(), other._compared()
        shared = sorted(set(self.versions) & set(other.versions))
        mine |= {name: self.versions[name] for name in shared}
        theirs |= {name: other.versions[name] for name in shared}
        return [
            f"{name}: {mine.get(name, 'none')} here, {theirs.get(name, 'none')} there"
            for name in dict.fromkeys([*mine, *theirs]) if mine.get(name) != theirs.get(name)
        ]  # fmt: skip

    def __str__(self) -> str:
        """Describe the machine in a line."""
        quota = f" (limited to {self.quota_cores:g})" if self.quota_cores is not None else ""
        flags = " ".join(self.flags) or "no vector flags known"
        gpus = f", {' and '.join(self.gpus)}" if self.gpus else ""
        return f"{self.cpu}, {self.cores} cores{quota}, {flags}{gpus}, {self.memory_mb / 1000:.1f} GB, {self.system}"

    def _compared(self) -> dict[str, str]:
        """Give what is compared besides versions; memory to a gigabyte, since kernels keep some for themselves."""
        return {
            "cpu": self.cpu,
            "flags": " ".join(self.flags) or "none",
            "cores": str(self.cores),
            "quota": "none" if self.quota_cores is None else f"{self.quota_cores:g} cores",
            **({"gpus": " and ".join(self.gpus)} if self.gpus else {}),
            "memory": f"{round(self.memory_mb / 1000)} GB",
        }


def fingerprint() -> Fingerprint:
    """Take the fingerprint of this machine, now."""
    flags = cpu_flags()
    return Fingerprint(
        cpu=read_cpuinfo().get("model name") or platform.processor() or platform.machine(),
        flags=tuple(flag for flag in _FLAGS if flag in flags),
        cores=n_cores(),
        quota_cores=read_quota(),
        memory_mb=_read_memory_mb(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions={"python": platform.python_version(), **_versions()},
        gpus=_read_gpus(),
    )


def _read_gpus() -> tuple[str, ...]:
    """Read the names of GPUs as NVIDIA's driver gives them."""
    told = [read_file(file) for file in sorted(_NVIDIA.glob("*/information"))]
    names = [line.partition(":")[2].strip() for text in told for line in text.splitlines() if line.startswith("Model:")]
    return tuple(names)


def _read_memory_mb() -> int:
    n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = (read_file(_CGROUP / "memory.max") or read_file(_CGROUP / "memory" / "memory.limit_in_bytes")).strip()
    return (min(n_bytes, int(limit)) if limit.isdigit() else n_bytes) // 1_000_000


def _versions() -> dict[str, str]:
    found = {}
    for package in (*_SERVING, *_OPTIONAL):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
