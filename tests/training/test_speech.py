"""Teaching a tiny causal language model: what a row's loss is over, and that a run goes on where it was."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from millis.errors import InvalidValue
from millis.models.speakers import load_speaker
from millis.training import speech
from millis.training.checkpoints import save_checkpoint
from millis.training.lessons import ROW_TOKENS, Lesson, pack_rows, row_loss
from millis.training.methods import SPEAKING_METHODS
from millis.training.settings import TrainSettings
from millis.training.speech import teach
from speaking import make_speaker

pytestmark = pytest.mark.slow


def draw(n: int, *, seed: int = 3) -> list[Lesson]:
    chance = np.random.default_rng(seed)
    return [Lesson(chance.integers(0, 250, 8 + i % 5), 4) for i in range(n)]


@pytest.fixture(params=["llama", "gemma3_text"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return load_speaker(str(make_speaker(tmp_path / "base", family=request.param))).model


def test_a_row_is_as_its_dialogues_alone_and_only_answers_count(model: Any) -> None:
    lessons = draw(4)
    with torch.no_grad():
        total, n = row_loss(model, lessons)
        alone = [row_loss(model, [one])[0] for one in lessons]
        logits = model(torch.from_numpy(lessons[0].ids)[None]).logits[0]
    assert n == sum(len(one.ids) - 4 for one in lessons)
    assert float(total) == pytest.approx(sum(map(float, alone)), rel=1e-4)
    answer = torch.from_numpy(lessons[0].ids[4:])
    plain = torch.nn.functional.cross_entropy(logits[3:-1], answer, reduction="sum")
    assert float(alone[0]) == pytest.approx(float(plain), rel=1e-4)


def test_what_a_teacher_says_counts_as_much_as_what_is_right(model: Any, tmp_path: Path) -> None:
    teacher = load_speaker(str(make_speaker(tmp_path / "teacher"))).model
    for weights in teacher.parameters():
        weights.data.mul_(0.9)
    lessons = draw(4)
    with torch.no_grad():
        total, _ = row_loss(model, lessons, teacher=teacher)
        plain, _ = row_loss(model, lessons)
        distance = 0.0
        for one in lessons:
            said, wanted = (who(torch.from_numpy(one.ids)[None]).logits[0, 3:-1].softmax(-1) for who in (model, teacher))
            distance += float((wanted * (wanted.log() - said.log())).sum())
        same, _ = row_loss(model, lessons, teacher=model)
    assert float(total) == pytest.approx((float(plain) + distance) / 2, rel=1e-4)
    assert float(same) == pytest.approx(float(plain) / 2, rel=1e-5)


def test_rows_hold_each_dialogue_once_and_no_more_than_their_room() -> None:
    lessons = [Lesson(np.zeros(size, np.int64), 1) for size in np.random.default_rng(5).integers(2, 700, 80)]
    rows = pack_rows(lessons, seed="a")
    assert sorted(place for row in rows for place in row) == list(range(80))
    assert max(sum(len(lessons[place].ids) for place in row) for row in rows) <= ROW_TOKENS


@pytest.mark.parametrize("adapt", SPEAKING_METHODS)
def test_a_run_that_ended_early_goes_on_to_the_same_weights(adapt: str, tmp_path: Path) -> None:
    base = str(make_speaker(tmp_path / "base"))
    settings = TrainSettings(epochs=2, adapt=adapt, patience=None, autocast="off", learning_rate=1e-2)
    whole, parted = load_speaker(base).model, load_speaker(base).model
    taught = teach(whole, draw(300), dev=draw(20), folder=tmp_path / "whole", settings=settings)
    assert taught.perplexity[1] < taught.perplexity[0]

    def save_and_die(*args: Any, **named: Any) -> None:
        save_checkpoint(*args, **named)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speech, "save_checkpoint", save_and_die)  # the process ends behind its first epoch
        with pytest.raises(KeyboardInterrupt):
            teach(parted, draw(300), dev=draw(20), folder=tmp_path / "parted", settings=settings)
    again = load_speaker(base).model
    teach(again, draw(300), dev=draw(20), folder=tmp_path / "parted", settings=settings)
    for name, weights in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weights, rtol=0, atol=0)
    (tmp_path / "parted/best.pt").unlink()
    anew = load_speaker(base).model
    assert teach(anew, draw(300), dev=draw(20), folder=tmp_path / "parted", settings=settings).perplexity == taught.perplexity
    with pytest.raises(InvalidValue, match=r"holds another run.*teacher"):
        teach(load_speaker(base).model, draw(300), dev=draw(20), folder=tmp_path / "parted", settings=settings, teacher=whole)
    with pytest.raises(InvalidValue, match="holds another run"):
        teach(load_speaker(base).model, draw(30), dev=draw(20), folder=tmp_path / "parted", settings=settings)


def test_what_would_stay_in_the_graph_is_refused(model: Any, tmp_path: Path) -> None:
    settings = dataclasses.replace(TrainSettings(), adapt="prefix")
    with pytest.raises(InvalidValue, match="choose one of full, lora, adalora"):
        teach(model, draw(3), dev=draw(3), folder=tmp_path, settings=settings)


def test_a_gpu_is_refused_where_training_would_not_use_it(model: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="models that speak are trained on the processor"):
        teach(model, draw(3), dev=draw(3), folder=tmp_path, settings=TrainSettings(device="cuda"))
