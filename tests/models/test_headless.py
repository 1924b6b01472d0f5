"""A network without a head: its hidden state, pooled, is the answer, wherever it is loaded again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from making import make_tokenizer
from millis.backends import BackendSettings
from millis.backends.encoder import find_parts, record_shape
from millis.compiling.comparing import compare, loaded, run_all
from millis.errors import InvalidBase
from millis.models.bases import MODEL_TYPES
from millis.models.described import pooling_of
from millis.models.taggers import build_tagger, load_tagger, save_tagger
from millis.tasks.task import Head
from models.tiny import write_base

pytestmark = pytest.mark.slow


def make(folder: Path, *, kind: str = "bert", pooled: str = "mean") -> tuple[object, Head]:
    base = write_base(folder / "base", kind)
    make_tokenizer(base)
    width = json.loads((base / "config.json").read_text())
    width = width.get("hidden_size") or width["dim"]
    head = Head(tuple(map(str, range(width))), rows=1, pooled=pooled)
    return build_tagger(base, head=head, seed=1).eval(), head


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_the_answer_is_the_pooled_hidden_state(tmp_path: Path, kind: str) -> None:
    ids, mask = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    for pooled in ("mean", "cls"):
        tagger, head = make(tmp_path / pooled, kind=kind, pooled=pooled)
        with torch.inference_mode():
            hidden = tagger.network.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
            got = tagger(ids, mask)
        wanted = torch.stack([hidden[0].mean(0), hidden[1, :3].mean(0)]) if pooled == "mean" else hidden[:, 0]
        assert got.shape == (2, 1, len(head.outputs))
        assert torch.allclose(got[:, 0], wanted, atol=1e-6)
        assert not any(name.startswith("classifier") for name in tagger.network.state_dict())


def test_it_is_the_same_when_saved_pruned_and_loaded_again(tmp_path: Path) -> None:
    tagger, head = make(tmp_path)
    for name in ("whole", "pruned"):
        if name == "pruned":
            find_parts(tagger.network)[0].keep([0])
            record_shape(tagger.network)
        save_tagger(tagger, tmp_path / name, tokenizer_file=tmp_path / "base" / "tokenizer.json")
        again = load_tagger(tmp_path / name)
        assert (again.rows, len(again.labels)) == (1, len(head.outputs))
        ids = [np.array([2, 7, 8, 3], np.int64)]
        with torch.inference_mode():
            wanted = tagger(torch.from_numpy(ids[0])[None], torch.ones(1, 4, dtype=torch.int64))[0].numpy()
        with loaded("torch", tmp_path / name, settings=BackendSettings()) as backend:
            difference = compare([wanted], run_all(backend, ids, head=head), head=head)
        assert difference.max_abs < 1e-5
        assert difference.agreement == pytest.approx(1, abs=1e-5)


def test_a_headless_base_takes_a_head_again(tmp_path: Path) -> None:
    tagger, _ = make(tmp_path)
    save_tagger(tagger, tmp_path / "saved", tokenizer_file=tmp_path / "base" / "tokenizer.json")
    labelled = build_tagger(tmp_path / "saved", head=Head(("O", "NAME")), seed=1)
    assert labelled(torch.tensor([[2, 7, 3]]), torch.ones(1, 3, dtype=torch.int64)).shape[-1] == 2


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        (None, "mean"),
        ({"pooling_mode_max_tokens": True}, "pools by max_tokens: mean or cls is read here"),
        ({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}, "mean or cls is read here"),
    ],
)
def test_pooling_is_read_from_the_base(tmp_path: Path, config: dict[str, object] | None, found: str) -> None:
    if config is not None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    if " " not in found:
        assert pooling_of(tmp_path) == found
        (tmp_path / "2_Dense").mkdir()
        found = "has a layer behind its pooling"
    with pytest.raises(InvalidBase, match=found):
        pooling_of(tmp_path)
