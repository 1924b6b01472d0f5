"""A generator in a process of its own: what its engine holds, nobody else waits for; what dies comes back."""

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from millis.backends.apart import Apart
from millis.backends.apart_messages import Asked, Load
from millis.backends.generator import GeneratorSettings, Lookup, Sampling, Step
from millis.errors import InvalidBundle, RunFailed

HOLDING = """
import ctypes
from millis.backends.fake_generator import FakeGenerator

class Holding(FakeGenerator):
    def _step(self, answers):
        ctypes.PyDLL(None).usleep(900_000)  # with the interpreter's lock held, as some engines do
        super()._step(answers)

class Dying(FakeGenerator):
    def load(self, folder, *, settings):
        raise SystemExit(3)
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install generators that the process finds as it finds anybody's."""
    (tmp_path / "holding.py").write_text(HOLDING)
    told = tmp_path / "holding-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: holding\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text("[millis.generators]\nholding = holding:Holding\ndying = holding:Dying\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Apart]:
    one = Apart("fake")
    one.load(tmp_path, settings=GeneratorSettings())
    yield one
    one.close()


def begin(one: Any, ids: list[int], *, n: int) -> "queue.Queue[Step]":
    steps: queue.Queue[Step] = queue.Queue()
    one.start(ids, sampling=Sampling(max_tokens=n), emit=steps.put)
    return steps


def read(steps: "queue.Queue[Step]") -> list[Step]:
    got = [steps.get(timeout=20)]
    while got[-1].ending is None:
        got.append(steps.get(timeout=20))
    return got


@pytest.mark.usefixtures("plugins")
def test_nobody_waits_for_a_step_that_holds_the_interpreter(tmp_path: Path) -> None:
    one = Apart("holding")
    one.load(tmp_path, settings=GeneratorSettings())
    steps, longest, before = begin(one, [5], n=1), 0.0, time.perf_counter()
    while steps.empty():
        time.sleep(0.001)
        longest, before = max(longest, time.perf_counter() - before), time.perf_counter()
    assert longest < 0.5
    assert [step.id for step in read(steps)] == [5]
    one.close()


def test_answers_of_a_process_that_dies_fail_and_the_next_are_answered(fake: Apart) -> None:
    assert fake._child is not None
    first, pid = begin(fake, [5], n=1_000_000), fake._child._process.pid
    assert first.get(timeout=20).id == 5
    os.kill(pid, signal.SIGKILL)
    assert read(first)[-1].ending == "failed"
    deadline = time.monotonic() + 20
    while (got := read(begin(fake, [6], n=2)))[-1].ending == "failed":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert [step.id for step in got] == [6, 6]


def test_a_grammar_that_was_being_tried_when_the_process_died_is_told(fake: Apart) -> None:
    assert fake._child is not None
    os.kill(fake._child._process.pid, signal.SIGSTOP)
    os.kill(fake._child._process.pid, signal.SIGKILL)
    with pytest.raises(RunFailed, match="ask again"):
        fake.accept('root ::= "a"')


def test_what_cannot_be_loaded_says_so_as_it_would_here(tmp_path: Path) -> None:
    (tmp_path / "openvino_model.xml").write_text("<no/>")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidBundle, match="cannot be loaded by OpenVINO GenAI"):
        Apart("genai").load(tmp_path, settings=GeneratorSettings())


@pytest.mark.usefixtures("plugins")
def test_a_process_that_dies_as_it_loads_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="ended while it loaded"):
        Apart("dying").load(tmp_path, settings=GeneratorSettings())


def test_no_process_is_left_behind_whoever_dies(tmp_path: Path) -> None:
    work = (
        "import sys, time; from pathlib import Path; from millis.backends.apart import Apart\n"
        "from millis.backends.generator import GeneratorSettings, Sampling\n"
        "one = Apart('fake'); one.load(Path('.'), settings=GeneratorSettings())\n"
        "one.start([5], sampling=Sampling(max_tokens=10**9), emit=lambda step: None)\n"
        "print(one._child._process.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", work], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_settings_arrive_as_they_were_sent() -> None:
    settings = GeneratorSettings(
        threads=2, context=99, pieces=(b"\xff", b""), prefix=(1, 2), keeps_prefixes=False, lookup=Lookup(guesses=3, ngram=2)
    )
    sent = msgspec.msgpack.encode(Load("fake", "somewhere", settings))
    assert msgspec.msgpack.decode(sent, type=Asked) == Load("fake", "somewhere", settings)
