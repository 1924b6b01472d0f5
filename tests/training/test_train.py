"""Training through its front door, on a base small enough to train in a second."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import toy
from backends.tiny import room_for
from millis.errors import InvalidValue, RunFailed
from millis.models.taggers import load_tagger

pytestmark = pytest.mark.slow

FOUR_EPOCHS = {"n": 80, "epochs": 4, "checkpoint_every_s": 0.0, "patience": None}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_base(tmp_path_factory.mktemp("toy") / "base")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "best" / "model.safetensors")


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def start(base: Path, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, toy.__file__, str(base), str(folder), json.dumps(FOUR_EPOCHS)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def lines_until(process: "subprocess.Popen[str]", words: str) -> Iterator[str]:
    assert process.stderr
    for line in process.stderr:
        yield line
        if line.startswith(words):
            return


@pytest.fixture(scope="module")
def whole_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, toy.run(base, folder, **FOUR_EPOCHS)


def test_training_teaches_the_task(whole_run: tuple[Path, object]) -> None:
    folder, result = whole_run
    assert result.dev_score.value > 95
    assert result.epochs[-1].dev > result.epochs[0].dev
    assert result.best == folder / "best"
    assert not result.was_resumed
    assert list((folder / "tensorboard").iterdir())


def test_what_training_leaves_loads_and_answers(whole_run: tuple[Path, object]) -> None:
    from millis.models.prediction import predict

    folder, result = whole_run
    task = toy.ToyTask(folder / "best" / "tokenizer.json")
    dev = toy.make_examples(40, seed=2)
    tagger = load_tagger(folder / "best")
    assert tagger.labels == ("O", "NAME")
    answers = predict(tagger, task=task, texts=[example.text for example in dev])
    assert task.score(dev, answers).value == pytest.approx(result.dev_score.value, abs=1e-4)


def test_killed_run_resumes_to_the_same_weights(
    base: Path, tmp_path: Path, whole_run: tuple[Path, object]
) -> None:
    for words in ("epoch 1:", "epoch 3:"):
        process = start(base, tmp_path)
        list(lines_until(process, words))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert (tmp_path / "checkpoint.pt").is_file()
    result = toy.run(base, tmp_path, **FOUR_EPOCHS)
    folder, uninterrupted = whole_run
    assert result.was_resumed
    for row, same in zip(result.epochs, uninterrupted.epochs, strict=True):
        assert (row.loss, row.dev) == (same.loss, same.dev)
    assert result.epochs[-1].is_best
    assert are_equal(weights(tmp_path), weights(folder))


def test_ctrl_c_keeps_the_best_and_says_how_to_go_on(
    base: Path, tmp_path: Path, whole_run: tuple[Path, object]
) -> None:
    process = start(base, tmp_path)
    list(lines_until(process, "epoch 1:"))
    process.send_signal(signal.SIGINT)
    assert process.stderr
    said = process.stderr.read()
    assert process.wait() == 130
    assert "Run the same command again" in said
    assert "Traceback" not in said
    assert load_tagger(tmp_path / "best").labels == ("O", "NAME")
    toy.run(base, tmp_path, **FOUR_EPOCHS)
    assert are_equal(weights(tmp_path), weights(whole_run[0]))


def test_finished_run_is_not_trained_again(base: Path, whole_run: tuple[Path, object]) -> None:
    folder, result = whole_run
    before = (folder / "best" / "model.safetensors").stat().st_mtime_ns
    again = toy.run(base, folder, **FOUR_EPOCHS)
    assert again.was_resumed
    assert (again.epochs, again.dev_score, again.reasons) == (result.epochs, result.dev_score, result.reasons)
    assert (folder / "best" / "model.safetensors").stat().st_mtime_ns == before


def test_folder_of_another_run_is_refused(base: Path, whole_run: tuple[Path, object]) -> None:
    with pytest.raises(InvalidValue, match=r"its epochs was 4 and is now 5.*another folder"):
        toy.run(base, whole_run[0], **{**FOUR_EPOCHS, "epochs": 5})
    with pytest.raises(InvalidValue, match="its training data differ"):
        toy.run(base, whole_run[0], **{**FOUR_EPOCHS, "n": 60})


def test_a_run_that_an_earlier_version_began_begins_anew(
    base: Path, tmp_path: Path, whole_run: tuple[Path, object], capsys: pytest.CaptureFixture[str]
) -> None:
    process = start(base, tmp_path)
    list(lines_until(process, "epoch 1:"))
    process.send_signal(signal.SIGINT)
    process.wait()
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del content["recipe"], content["tensors"]["optimizer"]["param_groups"][0]
    torch.save(content, tmp_path / "checkpoint.pt")
    result = toy.run(base, tmp_path, **FOUR_EPOCHS)
    assert "begun by another version of millis" in capsys.readouterr().err
    assert not result.was_resumed
    assert are_equal(weights(tmp_path), weights(whole_run[0]))


def test_unreadable_checkpoint_is_refused(base: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK but no checkpoint")
    with pytest.raises(RunFailed, match="cannot be read as a checkpoint"):
        toy.run(base, tmp_path)


def test_training_stops_when_dev_has_stopped_rising(base: Path, tmp_path: Path) -> None:
    result = toy.run(base, tmp_path, scores=[0, 0, 0, 10, 20, 15, 18, 30], n=16, epochs=8, patience=2)
    assert [row.epoch for row in result.epochs if row.is_best] == [1, 4, 5]
    assert len(result.epochs) == 7
    assert result.dev_score.value == 20
    assert "stopped after epoch 7: dev F1 had not risen for 2 epochs" in result.reasons


def test_same_seed_gives_the_same_weights_and_another_does_not(base: Path, tmp_path: Path) -> None:
    for folder, seed in (("one", 7), ("two", 7), ("three", 8)):
        toy.run(base, tmp_path / folder, n=40, epochs=1, seed=seed)
    assert are_equal(weights(tmp_path / "one"), weights(tmp_path / "two"))
    assert not are_equal(weights(tmp_path / "one"), weights(tmp_path / "three"))


def test_training_leaves_torch_as_it_was(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    before, threads, interrupted = torch.get_rng_state(), torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    toy.run(base, tmp_path, n=16, epochs=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert signal.getsignal(signal.SIGINT) is interrupted


def test_forced_bf16_trains_and_says_so(base: Path, tmp_path: Path) -> None:
    result = toy.run(base, tmp_path, n=40, epochs=1, autocast="bf16")
    assert "bf16: as set" in result.reasons
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path).values())


def test_full_disk_leaves_the_run_resumable(
    base: Path, tmp_path: Path, whole_run: tuple[Path, object]
) -> None:
    for name in ("best/model.safetensors", "checkpoint.pt"):
        full = tmp_path / f"{name}.part"
        full.parent.mkdir(exist_ok=True)
        full.symlink_to("/dev/full")  # every write to it fails with ENOSPC
        with pytest.raises(RunFailed, match=rf"the disk is full: {full.stem} .*run the same command again"):
            toy.run(base, tmp_path, **FOUR_EPOCHS)
        assert not os.path.lexists(full)
    result = toy.run(base, tmp_path, **FOUR_EPOCHS)
    assert result.dev_score.value == whole_run[1].dev_score.value
    assert are_equal(weights(tmp_path), weights(whole_run[0]))


def test_a_limit_of_the_size_of_files_is_told_as_one(base: Path, tmp_path: Path) -> None:
    with room_for(20_000), pytest.raises(RunFailed, match=r"^files may not grow so large here .*same command again"):
        toy.run(base, tmp_path, n=40, epochs=1)
    assert toy.run(base, tmp_path, n=40, epochs=1).epochs


def test_loss_that_is_no_number_ends_the_run_with_advice(base: Path, tmp_path: Path) -> None:
    broken = toy.write_base(tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][:] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunFailed, match=r"loss became nan at step 1 .*lower learning rate"):
        toy.run(broken, tmp_path / "run", epochs=1)


def test_nothing_to_train_on_is_a_sentence(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="0 windows to train on and 40 dev examples"):
        toy.run(base, tmp_path, n=0)


def test_window_longer_than_the_base_is_a_sentence(tmp_path: Path) -> None:
    short = toy.write_base(tmp_path / "short", max_position_embeddings=16)
    with pytest.raises(InvalidValue, match="the base reads 16: cut windows with max_tokens=16"):
        toy.run(short, tmp_path / "run")
