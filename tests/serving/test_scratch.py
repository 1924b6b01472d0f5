"""The folder of a server's numbers: gone with it, or with the next one where it was killed."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from millis.serving.scratch import Scratch

HOLD = "from millis.serving.scratch import Scratch; one = Scratch(); one.make(); print(one.path, flush=True); input()"


def age(folder: Path) -> None:
    """Make a folder older than one that a server may not hold yet."""
    os.utime(folder, (1, 1))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_who_was_killed_is_tidied_up_after_and_who_lives_is_left_alone(folder: Path) -> None:
    servers = [
        subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in "ab"
    ]
    lives, killed = (Path(server.stdout.readline().strip()) for server in servers if server.stdout)
    (killed / "counts.db").touch()
    servers[1].kill()
    servers[1].communicate()
    (other := folder / "millis-metrics-file").touch()
    for one in (lives, killed, other):
        age(one)
    (young := folder / "millis-metrics-young").mkdir()
    scratch = Scratch()
    assert not scratch.path.exists(), "named before it is made"
    scratch.make()
    assert sorted(folder.iterdir()) == sorted([lives, other, young, scratch.path])
    assert scratch.path.stat().st_mode & 0o777 == 0o700
    scratch.remove()
    scratch.remove()
    servers[0].communicate("")
    assert sorted(folder.iterdir()) == sorted([lives, other, young])
