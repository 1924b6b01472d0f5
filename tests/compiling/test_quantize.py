"""int8 stays near fp32, is smaller, and gives layers back until the floor holds."""

from pathlib import Path

import pytest

from backends.tiny import draw_windows, room_for, write_backend_files, write_tagger
from millis.bundles import Choice
from millis.compiling.comparing import compare, loaded, run_all
from millis.compressing.quantize import quantize_onnx, quantize_openvino
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


def quantize(name: str, files: dict[str, Path], out: Path, **options: object) -> tuple[Choice, ...]:
    if name == "onnxruntime":
        return quantize_onnx(files[name], out, **options)
    return quantize_openvino(files[name], out, calibration=draw_windows(20, seed=5), **options)


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


@pytest.mark.parametrize("name", NAMES)
def test_layers_go_back_until_the_floor_holds(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    def loss(folder: Path) -> float:
        return difference_from_fp32(name, files, folder)[0]

    quantize(name, files, tmp_path / "all")
    full = loss(tmp_path / "all")
    (choice,) = quantize(name, files, tmp_path / "some", loss=loss, max_drop=full / 2)
    assert loss(tmp_path / "some") <= full / 2
    assert choice.what == "layers kept in fp32"
    assert f"lost {full:.2f}" in choice.reason


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
