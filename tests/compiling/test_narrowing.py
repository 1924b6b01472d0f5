"""Files of backend torch in half the bits, run by it."""

import json
from pathlib import Path

import numpy as np
import pytest

from backends.tiny import draw_windows, write_tagger
from millis.compiling.comparing import compare, loaded, run_all
from millis.compiling.narrowing import narrow
from millis.errors import RunFailed


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tagger(tmp_path_factory.mktemp("narrow") / "tagger")


@pytest.mark.parametrize(("precision", "furthest", "share"), [("fp32", 0.0, 1.0), ("fp16", 0.05, 0.5), ("bf16", 0.4, 0.5)])
def test_a_narrowed_tagger_answers_nearly_as_it_did(
    precision: str, furthest: float, share: float, tagger: Path, tmp_path: Path
) -> None:
    narrow(tagger, tmp_path / "out", precision=precision)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tagger, tmp_path / "out")]
    assert sizes[1] / sizes[0] == pytest.approx(share, abs=0.06)
    ids = draw_windows(12)
    with loaded("torch", tagger) as source, loaded("torch", tmp_path / "out") as other:
        answers = run_all(other, ids)
        difference = compare(run_all(source, ids), answers)
    assert answers[0].dtype == np.float32
    assert difference.max_abs <= furthest
    assert difference.agreement >= 0.95


def test_a_pruned_tagger_is_narrowed_too(tagger: Path, tmp_path: Path) -> None:
    from millis.backends.encoder import LayerShape, shrink
    from millis.models.taggers import load_tagger, save_tagger

    pruned = load_tagger(tagger)
    shrink(pruned.network, [LayerShape(1, 16), LayerShape(0, 8)])
    save_tagger(pruned, tmp_path / "pruned", tokenizer_file=tagger / "tokenizer.json")
    narrow(tmp_path / "pruned", tmp_path / "out", precision="bf16")
    ids = draw_windows(6)
    with loaded("torch", tmp_path / "pruned") as source, loaded("torch", tmp_path / "out") as other:
        difference = compare(run_all(source, ids), run_all(other, ids))
        assert other._model.dtype.is_floating_point
        assert other._model.dtype.itemsize == 2
    assert 0 < difference.max_abs < 0.4


def test_weights_that_are_not_there_are_a_sentence_and_leave_nothing(tagger: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(RunFailed, match="cannot be written to out"):
        narrow(tagger, tmp_path / "out", precision="fp16")
    assert json.loads((tagger / "config.json").read_text())["dtype"] == "float32"
