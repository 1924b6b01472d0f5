"""An export computes what torch computes, and one that does not is refused."""

from pathlib import Path

import numpy as np
import pytest

from backends.tiny import draw_windows, room_for, write_backend_files, write_tagger
from millis.compiling.comparing import compare, loaded, require_exact, run_all
from millis.compiling.onnx import export_embeddings, export_ids, load_for_export
from millis.compiling.openvino import convert_onnx
from millis.errors import InvalidBase, RunFailed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exports")
    return write_backend_files(folder, tagger=write_tagger(folder / "tagger"))


@pytest.fixture(scope="module")
def wanted(files: dict[str, Path]) -> list[np.ndarray]:
    with loaded("torch", files["torch"]) as torch:
        return run_all(torch, draw_windows(20))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("padding", [0, 5])
def test_export_equals_torch_at_every_length_bare_and_padded(
    name: str, padding: int, files: dict[str, Path], wanted: list[np.ndarray]
) -> None:
    with loaded(name, files[name]) as backend:
        difference = compare(wanted, run_all(backend, draw_windows(20), padding=padding))
    require_exact(difference, step=f"torch to {name}")
    assert difference.max_abs < 1e-4


def test_export_of_another_model_is_refused(tmp_path: Path, wanted: list[np.ndarray]) -> None:
    others = write_backend_files(tmp_path, tagger=write_tagger(tmp_path / "other", seed=2))
    for name in ("onnxruntime", "openvino"):
        with loaded(name, others[name]) as backend:
            difference = compare(wanted, run_all(backend, draw_windows(20)))
        with pytest.raises(RunFailed, match=f"torch to {name} changed the model"):
            require_exact(difference, step=f"torch to {name}")


def test_logits_that_are_not_numbers_are_refused(wanted: list[np.ndarray]) -> None:
    broken = [logits.copy() for logits in wanted]
    broken[1][0, 0] = np.nan
    with pytest.raises(RunFailed, match="nan"):
        require_exact(compare(wanted, broken), step="an export")


def test_export_is_quiet(tmp_path: Path, files: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    write_backend_files(tmp_path, tagger=files["torch"])
    assert capfd.readouterr() == ("", "")


def test_folder_without_a_tagger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidBase):
        load_for_export(tmp_path)


@pytest.mark.parametrize("n_bytes", [2_000, 20_000])
def test_a_full_disk_is_said_in_a_sentence(n_bytes: int, files: dict[str, Path], tmp_path: Path) -> None:
    tagger = load_for_export(files["torch"])
    with room_for(n_bytes), pytest.raises(RunFailed, match=r"cannot be written to model\.onnx.*MB are free on that disk"):
        export_ids(tagger, tmp_path / "ids" / "model.onnx")
    table = export_embeddings(tagger, tmp_path / "draft.onnx").numpy()
    with room_for(n_bytes), pytest.raises(RunFailed, match=r"cannot be written to ir.*MB are free on that disk"):
        convert_onnx(tmp_path / "draft.onnx", tmp_path / "ir", table=table, second=None)
    assert not (tmp_path / "ids" / "model.onnx").exists()
    assert not (tmp_path / "ir").exists()
