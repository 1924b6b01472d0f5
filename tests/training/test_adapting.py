"""Every way to adapt, through the front door: train, save, load, compile, answer as torch does, go on after a kill."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import toy
from backends.tiny import draw_windows
from millis.backends import BackendSettings
from millis.backends.grafts import KEY, is_of_graft
from millis.compiling.comparing import compare, loaded, run_all
from millis.compiling.onnx import export_embeddings, export_ids, load_for_export
from millis.compiling.openvino import convert_onnx
from millis.compressing.quantize import quantize_openvino
from millis.errors import InvalidValue, MissingExtra
from millis.models.bases import MODEL_TYPES
from millis.models.taggers import build_tagger, load_tagger, save_tagger
from millis.tasks.task import Head
from millis.training.methods import METHODS
from models.tiny import write_base

MERGED = [name for name, method in METHODS.items() if method.is_peft]
RESUMED = {"n": 80, "epochs": 4, "checkpoint_every_s": 0.0, "patience": None, "adapt": "adalora"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random base of every type, with the toy's tokenizer."""
    folder = tmp_path_factory.mktemp("bases")
    tokenizer = toy.write_base(folder / "toy") / "tokenizer.json"
    bases = {kind: write_base(folder / kind, kind, n_pieces=len(toy.PIECES)) for kind in MODEL_TYPES}
    for base in bases.values():
        shutil.copy(tokenizer, base)
    return bases


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "best" / "model.safetensors")


def compile_all(tagger: Path, folder: Path) -> dict[str, Path]:
    model = load_for_export(tagger)
    export_ids(model, folder / "onnxruntime" / "model.onnx")
    table = export_embeddings(model, folder / "embeddings.onnx")
    convert_onnx(folder / "embeddings.onnx", folder / "openvino", table=table.numpy(), second=None)
    return {"torch": tagger, "onnxruntime": folder / "onnxruntime", "openvino": folder / "openvino"}


def run_tagger(folder: Path, windows: list[Any]) -> list[np.ndarray]:
    tagger = load_tagger(folder)
    with torch.inference_mode():
        return [tagger(torch.from_numpy(ids)[None], torch.ones(1, len(ids), dtype=torch.long))[0].numpy() for ids in windows]


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODEL_TYPES)
@pytest.mark.parametrize("adapt", [name for name in METHODS if name != "full"])
def test_what_a_method_trained_compiles_and_answers_as_torch_does(
    adapt: str, kind: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    base, windows = bases[kind], draw_windows(6)
    result = toy.run(base, tmp_path / "run", n=16, epochs=1, adapt=adapt, learning_rate=None)
    assert 0 < result.n_trained < result.n_weights
    assert result.reasons[-1].startswith(f"adapted by {adapt}: {result.n_trained:,} of ")
    assert result.peak_mb > 50
    config = json.loads((result.best / "config.json").read_text())
    after, before = weights(tmp_path / "run"), load_file(base / "model.safetensors")
    plain = {name: before[name.partition(".")[2]] for name in after if name.partition(".")[2] in before}
    assert len(plain) > 20
    changed = {name for name, old in plain.items() if not torch.equal(old, after[name])}
    if adapt in MERGED:
        assert KEY not in config
        assert changed
        assert all(".layer." in name for name in changed)
    else:
        assert config[KEY]["kind"] == adapt
        assert all("norm" in name.lower() for name in changed), "the base is frozen"
        added = {name: tensor + 0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
                 for name, tensor in after.items() if is_of_graft(name)}  # fmt: skip
        assert added
        unmoved = run_tagger(result.best, windows)
        save_file(after | added, result.best / "model.safetensors", metadata={"format": "pt"})
        difference = compare(unmoved, run_tagger(result.best, windows))
        assert difference.max_abs > 0.02, "what was added counts"
    wanted = run_tagger(result.best, windows)
    for name, folder in compile_all(result.best, tmp_path).items():
        for padding in (0, 5):
            with loaded(name, folder) as backend:
                difference = compare(wanted, run_all(backend, windows, padding=padding))
            assert difference.max_abs < 1e-4, (name, padding)


@pytest.mark.slow
@pytest.mark.parametrize("adapt", METHODS)
def test_every_method_teaches_the_task(adapt: str, tmp_path: Path) -> None:
    base = toy.write_base(tmp_path / "base")
    result = toy.run(base, tmp_path / "run", n=200, epochs=2, adapt=adapt, learning_rate=None)
    assert result.epochs[-1].dev > 60
    assert result.epochs[-1].loss < 0.95 * result.epochs[0].loss


@pytest.mark.slow
def test_killed_adalora_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    base = toy.write_base(tmp_path / "base")
    toy.run(base, tmp_path / "whole", **RESUMED)
    for words in ("epoch 1:", "epoch 3:"):  # while ranks are being taken away, and after
        process = subprocess.Popen(
            [sys.executable, toy.__file__, str(base), str(tmp_path / "killed"), json.dumps(RESUMED)],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stderr
        assert any(line.startswith(words) for line in process.stderr)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert toy.run(base, tmp_path / "killed", **RESUMED).was_resumed
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_adapting_is_part_of_what_a_run_is(bases: dict[str, Path], tmp_path: Path) -> None:
    toy.run(bases["bert"], tmp_path, n=16, epochs=1, adapt="ia3")
    with pytest.raises(InvalidValue, match="its adapt was 'ia3' and is now 'prompt'"):
        toy.run(bases["bert"], tmp_path, n=16, epochs=1, adapt="prompt")


@pytest.mark.slow
@pytest.mark.parametrize("adapt", [*METHODS])
def test_a_base_that_was_changed_before_is_refused(adapt: str, bases: dict[str, Path], tmp_path: Path) -> None:
    grafted = tmp_path / "grafted"
    save_tagger(build_tagger(bases["bert"], head=Head(("O", "NAME")), seed=1), grafted, tokenizer_file=bases["bert"] / "tokenizer.json")
    graft, pruned = {KEY: {"kind": "prefix", "size": 4}}, {"millis_layers": [[1, 8], [2, 64]]}
    for changes in (graft, pruned) if adapt != "full" else (graft,):
        config = json.loads((grafted / "config.json").read_text()) | {KEY: None, "millis_layers": None} | changes
        (grafted / "config.json").write_text(json.dumps(config))
        with pytest.raises(InvalidValue, match="give the base that it was made from"):
            toy.run(grafted, tmp_path / "run", adapt=adapt)
    assert not (tmp_path / "run").exists()


def test_a_base_without_layers_is_refused(tmp_path: Path) -> None:
    base = toy.write_base(tmp_path / "base", num_hidden_layers=0)
    with pytest.raises(InvalidValue, match="has no layers: choose full"):
        toy.run(base, tmp_path / "run", adapt="adapter")
    assert not (tmp_path / "run").exists()


def test_a_missing_library_is_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = toy.write_base(tmp_path / "base")
    monkeypatch.setattr("millis.training.methods.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"adapt lora needs peft.*millis\[train\]"):
        toy.run(base, tmp_path / "run", adapt="lora")


@pytest.mark.slow
@pytest.mark.parametrize("adapt", [name for name, method in METHODS.items() if method.note])
def test_what_stays_answers_in_eight_bits_at_a_static_length_as_at_any(
    adapt: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    windows = [window for window in draw_windows(12) if len(window) <= 24]
    result = toy.run(bases["bert"], tmp_path / "run", n=16, epochs=1, adapt=adapt, learning_rate=None)
    plain, out = compile_all(result.best, tmp_path)["openvino"], tmp_path / "int8"
    quantize_openvino(plain, out, calibration=windows)
    with loaded("openvino", out) as free, loaded("openvino", out, settings=BackendSettings(buckets=(24,))) as static:
        wanted = run_all(free, windows)
        got = [run_all(static, [window], padding=24 - len(window))[0] for window in windows]
    assert compare(wanted, got).max_abs < 0.1, "a value may be rounded the other way"
