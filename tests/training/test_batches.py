"""Batches waste nothing and replay; the small embedding table is the large one's twin."""

from pathlib import Path

import numpy as np
import pytest
import torch

import toy
from millis.data.examples import LabelExample
from millis.errors import InvalidBase, InvalidValue
from millis.models.taggers import build_tagger
from millis.tasks.classify import ClassifyTask
from millis.tasks.task import Head
from millis.tasks.tokenization import Tokenizer
from millis.training.batches import encode_examples, make_batch, padding_share, plan_epoch
from millis.training.settings import TrainSettings, choose_learning_rate, choose_precision
from millis.training.steps import Steps, compare_labels, rate_share
from millis.training.vocabulary import UsedRows

LENGTHS = np.random.default_rng(5).integers(3, 60, size=1000)


def plan(*, epoch: int = 0, seed: int = 7, batch_tokens: int = 8192) -> list[np.ndarray]:
    return plan_epoch(LENGTHS, batch_size=32, batch_tokens=batch_tokens, seed=seed, epoch=epoch)


def test_every_window_stands_in_one_batch() -> None:
    assert sorted(np.concatenate(plan()).tolist()) == list(range(1000))
    assert max(len(batch) for batch in plan()) <= 32


def test_batches_are_of_like_length() -> None:
    assert padding_share(LENGTHS, plan()) < 0.05


def test_no_batch_is_left_with_a_window_or_two() -> None:
    assert min(len(batch) for batch in plan()) > 16


def test_batch_keeps_to_its_tokens() -> None:
    batches = plan(batch_tokens=256)
    assert all(LENGTHS[batch].max() * len(batch) <= 256 for batch in batches)
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))


def test_window_over_the_bound_runs_alone() -> None:
    batches = plan(batch_tokens=40)
    assert all(len(batch) == 1 for batch in batches if LENGTHS[batch].max() > 40)


def test_plan_replays_and_differs_by_epoch_and_seed() -> None:
    def flat(batches: list[np.ndarray]) -> list[int]:
        return np.concatenate(batches).tolist()

    assert flat(plan()) == flat(plan())
    assert flat(plan()) != flat(plan(epoch=1))
    assert flat(plan()) != flat(plan(seed=8))


def test_batch_is_padded_to_its_own_longest(tmp_path: Path) -> None:
    task = toy.ToyTask(toy.write_base(tmp_path) / "tokenizer.json")
    windows = encode_examples(task, toy.make_examples(50, seed=1))[:5]
    ids, mask, targets = make_batch(windows, pad_id=0)
    assert ids.shape == (5, max(len(window.ids) for window in windows))
    for row, window in enumerate(windows):
        n = len(window.ids)
        assert ids[row, :n].tolist() == window.ids.tolist()
        assert targets[row, :n].tolist() == window.targets.tolist()
        assert not ids[row, n:].any()
        assert set(targets[row, n:].tolist()) <= {-100}
        assert mask[row].tolist() == [1] * n + [0] * (ids.shape[1] - n)


@pytest.mark.slow
def test_small_embedding_table_learns_what_the_whole_one_learns(tmp_path: Path) -> None:
    base = toy.write_base(tmp_path)
    windows = encode_examples(toy.ToyTask(base / "tokenizer.json"), toy.make_examples(40, seed=1))
    plain = build_tagger(base, head=Head(("O", "NAME")), seed=1).eval()
    small = build_tagger(base, head=Head(("O", "NAME")), seed=1).eval()
    rows = UsedRows(small, windows)
    assert rows.n < rows.n_all
    fewer = [rows.renumber(window) for window in windows]
    for tagger, seen in ((plain, windows), (small, fewer)):
        optimizer = torch.optim.AdamW(tagger.parameters(), lr=1e-2, weight_decay=0.0)
        for first in range(0, 40, 8):
            ids, mask, targets = make_batch(seen[first : first + 8], pad_id=0)
            logits = tagger(ids, mask)
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()
    with rows.whole():
        learnt = small.state_dict()
        for name, tensor in plain.state_dict().items():
            torch.testing.assert_close(learnt[name], tensor, rtol=1e-3, atol=1e-4)


def test_tokenizer_of_another_base_is_refused(tmp_path: Path) -> None:
    base = toy.write_base(tmp_path, n_pieces=20)
    windows = encode_examples(toy.ToyTask(base / "tokenizer.json"), toy.make_examples(40, seed=1))
    with pytest.raises(InvalidBase, match="the base has 20 embedding rows"):
        UsedRows(build_tagger(base, head=Head(("O", "NAME")), seed=1), windows)


def test_balance_gives_each_of_several_labels_the_same_however_rare(tmp_path: Path) -> None:
    labels = [("a",)] * 12 + [("a", "b")] * 3 + [("c",)] + [()] * 4
    examples = [LabelExample(text=f"name{i % 12}", labels=one) for i, one in enumerate(labels)]
    task = ClassifyTask.learn(Tokenizer(toy.write_base(tmp_path) / "tokenizer.json"), examples, multi_label=True)
    windows = encode_examples(task, examples)
    steps = Steps(tmp_path, head=task.head, windows=windows, settings=TrainSettings(balance=True))
    targets = torch.from_numpy(np.stack([window.targets for window in windows]))
    logits = torch.zeros(len(windows), 3, 2)
    logits.requires_grad_(True)
    compare_labels(logits, targets, weights=steps.weights).backward()
    of_yes = (logits.grad[:, :, 1] * (targets == 1)).sum(dim=0)
    torch.testing.assert_close(of_yes, of_yes[:1].expand(3))
    assert steps.step(0, 0, step=0)[0] > 0


def test_balance_of_single_labels_is_torchs_own() -> None:
    logits, targets = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(1)), torch.arange(20).reshape(5, 4) % 3
    targets[0, 1] = -100
    weights = torch.tensor([0.5, 1.0, 3.0])
    want = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), weight=weights)
    torch.testing.assert_close(compare_labels(logits, targets, weights=weights[None]), want)


def test_rate_rises_then_falls() -> None:
    shares = [rate_share(step, n_steps=100, warmup_share=0.1) for step in range(100)]
    assert shares[:11] == sorted(shares[:11])
    assert shares[10] == 1.0
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert shares[-1] > 0
    assert rate_share(0, n_steps=1, warmup_share=1.0) == 1.0


def test_narrow_base_gets_a_higher_rate_and_the_reason() -> None:
    narrow, reason = choose_learning_rate(TrainSettings(), width=384)
    wide, _ = choose_learning_rate(TrainSettings(), width=768)
    assert narrow > wide == 5e-5
    assert "384 wide" in reason
    assert choose_learning_rate(TrainSettings(learning_rate=1e-4), width=384)[0] == 1e-4


def test_precision_comes_with_its_reason() -> None:
    flags = Path("/proc/cpuinfo").read_text()
    is_bf16, reason = choose_precision(TrainSettings())
    assert is_bf16 == ("avx512_bf16" in flags or "amx_bf16" in flags)
    assert "this processor has" in reason
    assert choose_precision(TrainSettings(autocast="off")) == (False, "fp32: as set")


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("epochs", 1.5), ("batch_size", True), ("learning_rate", 0.0), ("warmup_share", 1.1),
     ("patience", 0), ("seed", -1), ("weight_decay", float("nan")), ("autocast", "fp8")],
)  # fmt: skip
def test_impossible_setting_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidValue, match=f"{name} cannot be"):
        TrainSettings(**{name: value})
