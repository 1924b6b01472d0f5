"""Distillation brings a pruned tagger back towards the one that it was made from."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from backends.tiny import draw_windows
from millis.backends.encoder import find_parts, read_shape
from millis.models.taggers import Tagger, build_tagger
from millis.tasks.task import Head, Window
from millis.training.distillation import Noise, _compare_relations, _heard, distil, plan_lessons
from millis.training.settings import TrainSettings
from models.tiny import TYPES, write_base

pytestmark = pytest.mark.slow


def diverge(tagger: Tagger, teacher: Tagger) -> float:
    total = 0.0
    with torch.inference_mode():
        for ids in draw_windows(40, seed=9):
            batch = torch.from_numpy(ids)[None]
            got, want = (one(batch, torch.ones_like(batch)).log_softmax(-1) for one in (tagger, teacher))
            total += float(torch.nn.functional.kl_div(got, want, reduction="sum", log_target=True))
    return total


@pytest.mark.parametrize("kind", TYPES)
def test_a_distilled_tagger_answers_more_like_its_teacher(kind: str, tmp_path: Path) -> None:
    teacher = build_tagger(write_base(tmp_path, kind), head=Head(("O", "B-X", "I-X")), seed=2).eval()
    pruned = copy.deepcopy(teacher)
    for part in find_parts(pruned.network):
        part.keep(range(part.n_units // 2))
    windows = [Window(ids=ids, targets=np.zeros_like(ids)) for ids in draw_windows(200, seed=3)]
    before = copy.deepcopy(pruned.state_dict())
    settings = TrainSettings(epochs=4, learning_rate=2e-3, autocast="off")
    student = distil(pruned, teacher=teacher, windows=windows, settings=settings, name="test")
    assert diverge(student, teacher) < 0.7 * diverge(pruned, teacher)
    assert read_shape(student.network) == read_shape(pruned.network)
    assert all(torch.equal(weights, before[name]) for name, weights in pruned.state_dict().items()), "a copy is trained"
    again = distil(pruned, teacher=teacher, windows=windows, settings=settings, name="test")
    assert all(torch.equal(a, b) for a, b in zip(student.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize(("epochs", "asked"), [(1, 4), (2, 8), (5, 10), (6, 8), (12, 16)])
def test_a_teacher_is_asked_less_often_than_there_are_steps(epochs: int, asked: int, tmp_path: Path) -> None:
    """Four batches an epoch; every text is in two lessons at least, where there are two epochs."""
    teacher = build_tagger(write_base(tmp_path, "bert"), head=Head(("O", "B-X", "I-X")), seed=2).eval()
    windows = [Window(ids=ids, targets=np.zeros_like(ids)) for ids in draw_windows(32, seed=3)]
    runs: list[bool] = []
    copied = copy.deepcopy(teacher)
    copied.network.register_forward_pre_hook(lambda module, _: runs.append(module.training))
    distil(copied, teacher=copied, windows=windows, settings=TrainSettings(epochs=epochs, batch_size=8, autocast="off"), name="test")
    assert (runs.count(False), runs.count(True)) == (asked, 4 * epochs)


def test_lessons_come_among_others_each_as_often() -> None:
    plan = plan_lessons(300, times=3, at_once=24, seed=1)
    assert len(plan) == 300
    assert sorted(plan) == sorted(list(range(100)) * 3)
    assert sorted(plan[:72]) == sorted(list(range(24)) * 3), "as many as are held at once"
    assert plan[:24] != plan[24:48]
    assert plan_lessons(7, times=1, at_once=4, seed=1) == list(range(7))
    assert len(plan_lessons(7, times=3, at_once=4, seed=1)) == 7


@pytest.mark.parametrize("kind", TYPES)
def test_a_wider_teacher_is_learnt_by_its_labels_and_its_attention_relations(kind: str, tmp_path: Path) -> None:
    head = Head(("O", "B-X", "I-X"))
    teacher = build_tagger(write_base(tmp_path / "wide", kind, width=48), head=head, seed=2).eval()
    student = build_tagger(write_base(tmp_path / "narrow", kind), head=head, seed=1).eval()
    windows = [Window(ids=ids, targets=np.zeros_like(ids)) for ids in draw_windows(100, seed=3)]
    settings = TrainSettings(epochs=3, batch_size=8, learning_rate=2e-3, autocast="off")
    taught = distil(student, teacher=teacher, windows=windows, settings=settings, name="test")
    assert diverge(taught, teacher) < 0.7 * diverge(student, teacher)
    assert differ(taught, teacher) < 0.9 * differ(student, teacher)


def differ(tagger: Tagger, teacher: Tagger) -> float:
    """Measure how far apart attention relations are on texts that were not learnt."""
    total = 0.0
    with torch.inference_mode():
        for ids in draw_windows(40, seed=9):
            batch = torch.from_numpy(ids)[None]
            real = torch.ones_like(batch)
            with _heard(tagger) as mine, _heard(teacher) as theirs:
                tagger(batch, real)
                teacher(batch, real)
            assert [states.shape[:2] for states in (*mine, *theirs)] == [batch.shape] * 6
            total += float(_compare_relations(mine, theirs, real=real.bool()))
    return total


def test_noise_replaces_pieces_by_pieces_and_leaves_special_tokens_and_padding() -> None:
    windows = [Window(ids=np.array([101, *range(start, start + 50), 102])) for start in (1_000, 1_050)]
    ids = torch.from_numpy(np.stack([window.ids for window in windows])).repeat(50, 1)
    mask = torch.ones_like(ids)
    mask[::2, 30:] = 0
    torch.manual_seed(1)
    noisy = Noise(windows).disturb(ids, mask)
    is_hit = noisy != ids
    assert not is_hit[:, [0, -1]].any()
    assert not is_hit[mask == 0].any()
    assert set(noisy[is_hit].tolist()) <= set(range(1_000, 1_100))
    shares = is_hit[1::2].float().mean(1)
    assert 0.15 < float(shares.mean()) < 0.25
    assert float(shares.min()) < 0.05, "some texts are hardly touched"
