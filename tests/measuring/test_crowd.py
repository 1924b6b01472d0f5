"""Who else had the cores while something was measured: a /proc of our own, since the real one belongs to everybody."""

import os
from pathlib import Path

import pytest

from millis.measuring import crowd as module
from millis.measuring.crowd import Crowd

OURS, CHILD, GRANDCHILD, OTHER = os.getpid(), 900_001, 900_002, 900_003


def write_proc(folder: Path, *, user: int, idle: int, steal: int, spent: dict[int, int]) -> None:
    """Write ticks of all cores and of four processes, one of them another's."""
    (folder / "stat").write_text(f"cpu  {user} 0 0 {idle} 0 0 0 {steal} 0 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n")
    parents = {OURS: 1, CHILD: OURS, GRANDCHILD: CHILD, OTHER: 1}
    for pid, ticks in spent.items():
        (folder / str(pid)).mkdir(exist_ok=True)
        (folder / str(pid) / "stat").write_text(f"{pid} (a (name) of words) S {parents[pid]} 0 0 0 0 0 0 0 0 0 {ticks} 0 0 0 20\n")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "_PROC", tmp_path)
    return tmp_path


def test_what_we_started_is_ours_and_the_rest_is_others(proc: Path) -> None:
    write_proc(proc, user=1_000, idle=1_000, steal=0, spent={OURS: 10, CHILD: 10, OTHER: 500})
    with Crowd() as crowd:
        assert crowd.others is None
        # 200 ticks: we 20 and 60, another 90, nobody 20, other machines 10
        write_proc(proc, user=1_170, idle=1_020, steal=10, spent={OURS: 30, CHILD: 10, GRANDCHILD: 60, OTHER: 590})
    assert crowd.record() == {"others_share": 0.45, "steal_share": 0.05}
    assert crowd.share == 0.5
    assert crowd.is_crowded
    assert "other processes had 45 % of the cores meanwhile and other machines 5 %" in crowd.note()


def test_a_machine_of_ones_own_is_not_mentioned(proc: Path) -> None:
    write_proc(proc, user=1_000, idle=1_000, steal=0, spent={OURS: 10})
    with Crowd() as crowd:
        write_proc(proc, user=1_100, idle=1_100, steal=0, spent={OURS: 100})
    assert crowd.record() == {"others_share": 0.05, "steal_share": 0.0}
    assert not crowd.is_crowded
    assert crowd.note() == ""


def test_where_the_system_does_not_tell_nothing_is_said(proc: Path) -> None:
    with Crowd() as crowd:
        pass
    assert crowd.record() == {}
    assert crowd.share is None
    assert crowd.note() == ""
