"""The numbers of a training: TensorBoard's files, and Weights & Biases where it is asked for, without a network."""

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


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(InvalidValue, match="tracker cannot be 'mlflow'"):
        TrainSettings(tracker="mlflow")
