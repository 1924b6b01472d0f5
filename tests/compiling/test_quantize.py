"""int8 stays near fp32, is smaller, and gives layers back until the floor holds."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from backends.tiny import draw_windows, room_for, write_backend_files, write_tagger
from millis.bundles import Choice
from millis.compiling.comparing import compare, loaded, run_all
from millis.compressing import sensitivity
from millis.compressing.quantize import Floor, quantize_onnx, quantize_openvino
from millis.errors import RunFailed

pytestmark = pytest.mark.slow
NAMES = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("quantize")
    return write_backend_files(folder, tagger=write_tagger(folder / "tagger"))


def test_standard_output_stays_empty(files: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        quantize(name, files, tmp_path / name)
    assert capfd.readouterr().out == ""


def quantize(
    name: str, files: dict[str, Path], out: Path, *, loss: Callable[[Path], float] | None = None, max_drop: float = 0.0
) -> tuple[Choice, ...]:
    windows = draw_windows(20, seed=5)
    floor = None if loss is None else Floor(loss=loss, max_drop=max_drop, windows=windows)
    if name == "onnxruntime":
        return quantize_onnx(files[name], out, floor=floor)
    return quantize_openvino(files[name], out, calibration=windows, floor=floor)


def error_of(name: str, files: dict[str, Path], folder: Path) -> float:
    """Add up the squared differences from fp32 of all outputs, which one text's length or another does not change."""
    ids = draw_windows(20, seed=5)
    with loaded(name, files[name]) as source, loaded(name, folder) as made:
        pairs = zip(run_all(source, ids), run_all(made, ids), strict=True)
        return sum(float(np.square(want - got).sum()) for want, got in pairs)


def difference_from_fp32(name: str, files: dict[str, Path], folder: Path) -> tuple[float, float]:
    ids = draw_windows(30, seed=9)
    with loaded(name, files[name]) as source, loaded(name, folder) as made:
        difference = compare(run_all(source, ids), run_all(made, ids))
    return difference.max_abs, difference.agreement


def snapshot(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("name", NAMES)
def test_int8_agrees_with_fp32_and_leaves_its_source_alone(
    name: str, files: dict[str, Path], tmp_path: Path
) -> None:
    before = snapshot(files[name])
    assert quantize(name, files, tmp_path / "int8") == ()
    max_abs, agreement = difference_from_fp32(name, files, tmp_path / "int8")
    assert agreement > 0.9
    assert max_abs > 0, "nothing was quantised"
    assert snapshot(files[name]) == before
    largest = {"onnxruntime": "model.onnx", "openvino": "embeddings.npy"}[name]
    assert (tmp_path / "int8" / largest).stat().st_size < (files[name] / largest).stat().st_size


def test_layers_go_back_until_the_floor_holds_and_no_further(files: dict[str, Path], tmp_path: Path) -> None:
    tried: dict[bytes, float] = {}

    def loss(folder: Path) -> float:
        found = error_of("onnxruntime", files, folder)
        return tried.setdefault((folder / "model.onnx").read_bytes(), found)

    quantize("onnxruntime", files, tmp_path / "all")
    full = error_of("onnxruntime", files, tmp_path / "all")
    (choice,) = quantize("onnxruntime", files, tmp_path / "some", loss=loss, max_drop=0.3 * full)
    assert tried[(tmp_path / "some" / "model.onnx").read_bytes()] <= 0.3 * full, "what stands there is what was judged"
    assert choice.what == "layers kept in fp32"
    n_kept, n_layers = int(choice.choice.split()[0]), int(choice.choice.split()[2].rstrip(","))
    assert 1 < n_kept < n_layers
    assert len(tried) < n_layers, "not one by one"


@pytest.mark.parametrize("name", NAMES)
def test_of_layers_that_take_the_same_time_the_most_harmful_goes_back_first(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "perf_counter_ns", itertools.count(step=1_000_000).__next__)
    spoil_one_layer(write_tagger(tmp_path / "tagger"))
    files = write_backend_files(tmp_path, tagger=tmp_path / "tagger")
    quantize(name, files, tmp_path / "all")
    full = error_of(name, files, tmp_path / "all")
    (choice,) = quantize(name, files, tmp_path / "int8", loss=lambda folder: error_of(name, files, folder), max_drop=0.7 * full)
    assert choice.choice.startswith("1 of "), "one is enough"
    first, share, ms = re.search(r"one by one: (\S+) (\d+) % for (\S+) ms", choice.reason).groups()
    assert int(share) > 100 / 15, "more than a layer of fifteen usually does"
    assert ms == "0.00"
    if name == "onnxruntime":  # NNCF smooths it away, and another is the worst
        assert first == "layer.1/output/dense"


def spoil_one_layer(tagger: Path) -> None:
    """Make one matrix hard to round: a few of its inputs count much, its other weights share their coarse scale."""
    weights = load_file(tagger / "model.safetensors")
    matrix = weights["bert.encoder.layer.1.output.dense.weight"]
    matrix[:, :2] *= 60
    save_file(weights, tagger / "model.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_a_floor_that_holds_keeps_every_layer_in_int8(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    assert quantize(name, files, tmp_path / "int8", loss=lambda _: 0.3, max_drop=0.5) == ()


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_said_in_a_sentence(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    with room_for(2_000), pytest.raises(RunFailed, match=r"cannot be written to int8.*MB are free on that disk"):
        quantize(name, files, tmp_path / "int8")
    assert not (tmp_path / "int8").exists()


def test_every_layer_may_go_back(files: dict[str, Path], tmp_path: Path) -> None:
    (choice,) = quantize("onnxruntime", files, tmp_path / "none", loss=lambda _: 9.0, max_drop=0.0)
    n_layers = choice.choice.split()[2].rstrip(",")
    assert choice.choice.startswith(f"{n_layers} of {n_layers},")
    assert error_of("onnxruntime", files, tmp_path / "none") < 1e-6
