"""The fingerprint of this machine, and what makes two machines different."""

import getpass
import os
import re
import socket
import subprocess
import sys
from importlib.metadata import version

import msgspec
import pytest

from millis.cores import n_cores
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


def test_taking_it_imports_no_runtime() -> None:
    code = (
        "import sys; from millis.measuring.fingerprint import fingerprint; fingerprint();"
        " print(sorted({'openvino', 'onnxruntime', 'torch', 'numpy', 'nncf'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
