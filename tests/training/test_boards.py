"""The numbers of a training: TensorBoard's files, and Weights & Biases where it is asked for, without a network."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import toy
from millis.errors import InvalidValue
from millis.training.settings import TrainSettings

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("tracker", [None, "wandb"])
def test_numbers_go_where_they_were_asked_to_go(tmp_path: Path, tracker: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = tmp_path / "run"
    toy.run(toy.write_base(tmp_path / "base"), folder, n=40, epochs=1, tracker=tracker)
    assert list((folder / "tensorboard").glob("events.*"))
    runs = list((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) == (tracker == "wandb")
    if runs:
        assert b"train/loss" in runs[0].read_bytes()


@pytest.mark.parametrize(("mode", "told"), [("online", "No API key configured"), ("on", "WANDB_MODE cannot be 'on'"), (None, "Not a directory")])
def test_a_tracker_that_cannot_begin_says_why(
    tmp_path: Path, mode: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = tmp_path / "run"
    folder.mkdir()
    if mode is None:
        (folder / "wandb").touch()
    else:
        monkeypatch.setenv("WANDB_MODE", mode)
    with pytest.raises(InvalidValue, match=told):
        toy.run(toy.write_base(tmp_path / "base"), folder, n=40, epochs=1, tracker="wandb")


def test_nothing_is_sent_anywhere_while_it_is_offline(tmp_path: Path) -> None:
    came: list[str] = []

    class Listener(BaseHTTPRequestHandler):
        def log_request(self, *_: object) -> None:
            came.append(self.requestline)

    base = toy.write_base(tmp_path / "base")
    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as maker:
        threading.Thread(target=maker.serve_forever).start()
        usual = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
        asked = json.dumps({"n": 40, "epochs": 1, "tracker": "wandb"})
        done = subprocess.run(
            [sys.executable, toy.__file__, str(base), str(tmp_path / "run"), asked], capture_output=True, text=True,
            check=False, env={**usual, "WANDB_BASE_URL": f"http://127.0.0.1:{maker.server_port}", "WANDB_API_KEY": "a" * 40},
        )  # fmt: skip
        maker.shutdown()
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert came == []


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(InvalidValue, match="tracker cannot be 'mlflow'"):
        TrainSettings(tracker="mlflow")
