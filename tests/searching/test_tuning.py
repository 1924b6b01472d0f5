"""Trying several trainings, on a small base."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from fitting import make_base, make_sentences
from making import write_conll
from millis.contract import Contract
from millis.errors import InvalidValue
from millis.searching import tuning
from millis.searching.case import Case, prepare
from millis.searching.settings import FitSettings

pytestmark = pytest.mark.slow


@pytest.fixture
def asked(tmp_path: Path) -> FitSettings:
    for seed, (part, n) in enumerate((("train", 200), ("dev", 60), ("test", 60))):
        write_conll(tmp_path / f"{part}.conll", make_sentences(n, seed=seed))
    files = {part: tmp_path / f"{part}.conll" for part in ("train", "dev", "test")}
    return FitSettings(base=str(make_base(tmp_path / "base")), out=tmp_path / "names.millis", epochs=2, tune=3, **files)


def start(asked: FitSettings) -> Case:
    return prepare(Contract(p99="100 ms", rate=50), asked, began=time.monotonic())


def test_the_best_of_several_trainings_is_taken_and_found_again(asked: FitSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    base, case = Path(asked.base), start(asked)
    best, folder, choice = tuning.tune(base, case=case, settings=asked.training(), n_trainings=3)
    assert (folder / "best" / "model.safetensors").is_file()
    assert [other.name for other in folder.parent.iterdir()] == [folder.name], "the others are not kept"
    rows = [row for row in case.ledger._rows if row["what"] == "tuned"]
    scores = [row["result"]["dev"] for row in rows]
    assert len({row["key"] for row in rows}) == 3
    assert '"learning_rate":0.001' in rows[0]["key"], "what is usual is tried first"
    assert scores[int(folder.name)] == max(scores)
    assert choice.reason == f"{max(scores):.2f} on dev, the best of 3 trainings; {scores[0]:.2f} with the usual settings"
    assert f"learning_rate {best.learning_rate:.3g}" in choice.choice
    monkeypatch.setattr(tuning, "train", None)  # a killed search trains nothing again
    assert tuning.tune(base, case=start(asked), settings=asked.training(), n_trainings=3) == (best, folder, choice)


def test_tuning_ends_when_the_time_is_up_with_one_training_at_least(asked: FitSettings) -> None:
    case = start(replace(asked, within_ms=0.001))
    _, folder, _ = tuning.tune(Path(asked.base), case=case, settings=asked.training(), n_trainings=3)
    assert folder.name == "0"
    assert len([row for row in case.ledger._rows if row["what"] == "tuned"]) == 1


def test_fewer_than_no_trainings_are_refused() -> None:
    with pytest.raises(InvalidValue, match="tune cannot be -1"):
        FitSettings(base="b", out=Path("o"), train=Path("t"), tune=-1)
    with pytest.raises(InvalidValue, match="rungs cannot be 0"):
        FitSettings(base="b", out=Path("o"), train=Path("t"), rungs=0)
