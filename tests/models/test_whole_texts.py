"""Heads that do not speak of each token: for whole texts, the mean over real tokens; across the tokens, which of them
it is. The same in every runtime, pruned or not.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from backends.tiny import draw_windows
from making import make_tokenizer
from millis.backends import BackendSettings
from millis.backends.encoder import LayerShape, shrink
from millis.compiling.comparing import compare, loaded, run_all
from millis.compiling.onnx import export_embeddings, export_ids, load_for_export
from millis.compiling.openvino import convert_onnx
from millis.compressing.quantize import quantize_openvino
from millis.models.taggers import Tagger, build_tagger, load_tagger, save_tagger
from millis.tasks.task import Head
from models.tiny import TYPES, write_base

pytestmark = pytest.mark.slow

HEADS = {
    "single": Head(("a", "b", "c"), rows=1), "multi": Head(tuple("nynyny"), rows=3),
    "across": Head(("start", "end"), is_across=True),
}  # fmt: skip
HEAD_OF = {"bert": "multi", "roberta": "across", "distilbert": "across"}


def build(base: Path, head: Head) -> Tagger:
    return build_tagger(base, head=head, seed=1).eval()


def run(tagger: Tagger, ids: np.ndarray, *, padding: int = 0) -> torch.Tensor:
    mask = np.array([[1] * len(ids) + [0] * padding])
    with torch.inference_mode():
        return tagger(torch.from_numpy(np.pad(ids, (0, padding))[None]), torch.from_numpy(mask))


@pytest.mark.parametrize("name", ["single", "multi"])
def test_padding_changes_nothing_and_the_mean_is_the_tokens(tmp_path: Path, name: str) -> None:
    head = HEADS[name]
    tagger = build(write_base(tmp_path, "bert"), head)
    ids = draw_windows(1)[0]
    got = run(tagger, ids)
    assert got.shape == (1, *head.shape(len(ids)))
    torch.testing.assert_close(run(tagger, ids, padding=7), got, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        tokens = tagger.network(input_ids=torch.from_numpy(ids)[None]).logits
    torch.testing.assert_close(got.flatten(), tokens.mean(1).flatten(), atol=1e-5, rtol=1e-5)


def test_across_the_tokens_padding_is_never_the_place(tmp_path: Path) -> None:
    tagger = build(write_base(tmp_path, "bert"), HEADS["across"])
    ids = draw_windows(1)[0]
    got = run(tagger, ids)
    assert got.shape == (1, 2, len(ids))
    padded = run(tagger, ids, padding=7)
    torch.testing.assert_close(padded[:, :, : len(ids)], got, atol=1e-5, rtol=1e-5)
    assert padded.softmax(-1)[:, :, len(ids) :].max() == 0
    with torch.inference_mode():
        tokens = tagger.network(input_ids=torch.from_numpy(ids)[None]).logits
    torch.testing.assert_close(got, tokens.transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("is_pruned", [False, True])
def test_every_runtime_answers_alike(tmp_path: Path, kind: str, is_pruned: bool) -> None:
    head = HEADS[HEAD_OF.get(kind, "single")]
    tagger = build(write_base(tmp_path / "base", kind), head)
    if is_pruned:
        shrink(tagger.network, [LayerShape(1, 48), LayerShape(0, 16)])
    save_tagger(tagger, tmp_path / "torch", tokenizer_file=make_tokenizer(tmp_path / "tokenizer"))
    ids = draw_windows(12, seed=3)
    again = load_tagger(tmp_path / "torch")
    assert (again.rows, again.is_across) == (head.rows, head.is_across)
    with loaded("torch", tmp_path / "torch") as backend:
        wanted = run_all(backend, ids, head=head)
    assert np.abs(wanted[0] - run(tagger, ids[0])[0].numpy()).max() < 1e-5
    table = export_embeddings(load_for_export(tmp_path / "torch"), tmp_path / "embeddings.onnx")
    convert_onnx(tmp_path / "embeddings.onnx", tmp_path / "openvino", table=table.numpy(), second=None)
    export_ids(load_for_export(tmp_path / "torch"), tmp_path / "onnxruntime" / "model.onnx")
    for name in ("openvino", "onnxruntime"):
        with loaded(name, tmp_path / name) as backend:
            assert compare(wanted, run_all(backend, ids, padding=4, head=head)).max_abs < 1e-4
    with loaded("openvino", tmp_path / "openvino", settings=BackendSettings(buckets=(32,))) as backend:
        padded = run_all(backend, ids[:1], padding=32 - len(ids[0]), head=head)
        assert compare(wanted[:1], padded).max_abs < 1e-4, "at a static length too"
    quantize_openvino(tmp_path / "openvino", tmp_path / "int8", calibration=draw_windows(20, seed=5))
    with loaded("openvino", tmp_path / "int8") as backend:
        assert compare(wanted, run_all(backend, ids, head=head)).agreement > 0.7
