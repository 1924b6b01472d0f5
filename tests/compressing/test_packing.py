"""A causal language model becomes a bundle that computes what its source computes."""

from pathlib import Path

import numpy as np
import pytest

from millis.bundles import open_bundle
from millis.compiling.causal import convert_causal, run_source, run_stateful
from millis.compressing.packing import pack
from millis.contract import Contract
from millis.errors import InvalidBase, InvalidValue
from millis.models.speakers import load_speaker
from speaking import END, TEMPLATE, make_speaker

pytestmark = pytest.mark.slow
CONTRACT = Contract(p99="1 s", rate="2/s")


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
def test_converted_model_with_a_past_says_what_torch_says(tmp_path: Path, family: str) -> None:
    speaker = load_speaker(str(make_speaker(tmp_path / family, family=family)))
    ids = np.random.default_rng(0).integers(0, 258, 40)
    want = run_source(speaker.model, ids)
    made = convert_causal(speaker.model)
    for n_first in (1, 17, 40):
        got = run_stateful(made, ids, n_first=n_first)
        assert np.abs(got - want).max() < 1e-3 * np.abs(want).max()
    assert np.abs(want).max() > 0.5  # a model that says nothing would pass too


def test_packed_bundle_holds_what_was_asked_and_how_far_each_step_is(tmp_path: Path) -> None:
    folder = make_speaker(tmp_path / "tiny")
    pack(str(folder), tmp_path / "tiny.millis", contract=CONTRACT, rungs=("int8", "int4", "fp32"), context=1000)
    bundle = open_bundle(tmp_path / "tiny.millis")
    assert [rung.name for rung in bundle.manifest.rungs] == ["int8", "int4", "fp32"]
    assert bundle.manifest.task_settings["context"] == 256  # the model's, less than what was asked
    assert bundle.manifest.task_settings["stop_ids"] == [END]
    assert (bundle.path / "chat_template.jinja").read_text() == TEMPLATE
    int8, int4, exact = bundle.manifest.rungs
    assert exact.steps[-1].max_abs is not None
    assert exact.steps[-1].max_abs < 1e-3
    assert int8.steps[-1].max_abs < int4.steps[-1].max_abs  # type: ignore[operator]
    sizes = [bundle.count_bytes(rung) for rung in (int4, int8, exact)]
    assert sizes == sorted(sizes)


def test_wrong_rungs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="int8, int4, fp32"):
        pack("nothing", tmp_path / "x.millis", contract=CONTRACT, rungs=("int3",))


def test_unusable_bases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidBase, match="neither a folder"):
        load_speaker(str(tmp_path / "nothing"))
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InvalidBase, match="'bert'"):
        load_speaker(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(InvalidBase, match="not JSON"):
        load_speaker(str(folder))
    broken = tmp_path / "cut.gguf"
    broken.write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(InvalidBase, match="GGUF"):
        load_speaker(str(broken))
