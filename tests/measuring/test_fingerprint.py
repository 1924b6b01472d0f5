"""The fingerprint of this machine, and what makes two machines different."""

import getpass
import os
import re
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest

from making import make_control_groups
from millis.cores import n_cores, read_quota
from millis.measuring.fingerprint import Fingerprint, fingerprint


def other(**changes: object) -> Fingerprint:
    return msgspec.structs.replace(fingerprint(), **changes)


def test_it_knows_this_machine() -> None:
    here = fingerprint()
    assert here.cpu
    assert here.cores == n_cores() >= 1
    assert here.memory_mb > 100
    assert here.versions["numpy"] == version("numpy")
    assert here.versions["python"].startswith("3.")


def test_it_is_the_same_again_and_survives_json() -> None:
    here = fingerprint()
    assert fingerprint() == here
    again = msgspec.json.decode(msgspec.json.encode(here), type=Fingerprint)
    assert again == here
    assert again.digest == here.digest
    assert here.differences(again) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cpu": "Another 9000"}, "cpu: .* here, Another 9000 there"),
        ({"cores": 64}, r"cores: \d+ here, 64 there"),
        ({"flags": ("avx2", "avx512_vnni", "amx_int8")}, "flags: .* there"),
        ({"quota_cores": 0.5}, "quota: .* here, 0.5 cores there"),
        ({"memory_mb": 1_000_000}, "memory: .* GB here, 1000 GB there"),
        ({"versions": fingerprint().versions | {"openvino": "1.0"}}, "openvino: .* here, 1.0 there"),
    ],
)
def test_what_changes_speed_is_a_difference_and_another_digest(changes: dict[str, object], told: str) -> None:
    here, there = fingerprint(), other(**changes)
    (line,) = here.differences(there)
    assert re.fullmatch(told, line)
    assert here.digest != there.digest


def test_a_kernel_update_and_a_few_megabytes_are_no_difference() -> None:
    here = other(memory_mb=24_200)
    there = msgspec.structs.replace(here, memory_mb=24_190, system="Linux 99.1 x86_64")
    assert here.differences(there) == []
    assert here.digest == there.digest


def test_a_package_for_making_that_a_server_lacks_is_no_difference() -> None:
    here = fingerprint()
    versions = {name: number for name, number in here.versions.items() if name not in ("torch", "nncf", "onnxruntime")}
    there = msgspec.structs.replace(here, versions=versions)
    assert here.differences(there) == []
    assert here.digest == there.digest


def test_it_tells_no_host_user_or_path() -> None:
    text = msgspec.json.encode(fingerprint()).decode()
    host = socket.gethostname()
    assert "/" not in text.replace(fingerprint().cpu, "")
    assert len(host) < 4 or host not in text
    assert len(getpass.getuser()) < 5 or getpass.getuser() not in text
    assert os.getcwd() not in text


@pytest.mark.parametrize("groups", [1, 2])
def test_the_tightest_quota_around_this_process_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: int) -> None:
    service = make_control_groups(tmp_path, monkeypatch, version=groups)
    assert read_quota() is None

    def ration(folder: Path, quota: str) -> None:
        if groups == 2:
            (folder / "cpu.max").write_text(f"{quota.replace('-1', 'max')} 100000\n")
        else:
            (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
            (folder / "cpu.cfs_period_us").write_text("100000\n")

    ration(service, "-1")
    assert read_quota() is None
    ration(service, "150000")
    assert read_quota() == 1.5
    ration(service.parent, "80000")
    assert fingerprint().quota_cores == 0.8


def test_taking_it_imports_no_runtime() -> None:
    code = (
        "import sys; from millis.measuring.fingerprint import fingerprint; fingerprint();"
        " print(sorted({'openvino', 'onnxruntime', 'torch', 'numpy', 'nncf'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_gpus_are_part_of_the_machine_where_there_are_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = fingerprint()
    for place, name in (("0000:01:00.0", "NVIDIA H100 80GB HBM3"), ("0000:02:00.0", "NVIDIA L4")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 17\n")
    monkeypatch.setattr("millis.measuring.fingerprint._NVIDIA", tmp_path)
    found = fingerprint()
    assert found.gpus == ("NVIDIA H100 80GB HBM3", "NVIDIA L4")
    assert "NVIDIA H100 80GB HBM3 and NVIDIA L4" in str(found)
    assert found.digest != bare.digest
    assert "gpus: none here, NVIDIA H100 80GB HBM3 and NVIDIA L4 there" in bare.differences(found)
