"""Taggers: built from every supported type, quiet, saved and loaded to the bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import toy
from millis.errors import InvalidBase
from millis.models.bases import MODEL_TYPES
from millis.models.prediction import predict
from millis.models.taggers import build_tagger, load_tagger, save_tagger
from millis.tasks.task import Head
from models.tiny import write_base

LABELS = ("O", "B-X", "I-X")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return toy.write_base(tmp_path / "base")


def write_base_of_type(folder: Path, kind: str) -> Path:
    write_base(folder, kind, n_pieces=len(toy.PIECES))
    toy.write_base(folder.parent / "bert")
    (folder / "tokenizer.json").write_bytes((folder.parent / "bert" / "tokenizer.json").read_bytes())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_every_supported_type_trains(tmp_path: Path, kind: str) -> None:
    base = write_base_of_type(tmp_path / kind, kind)
    result = toy.run(base, tmp_path / "run", n=60, epochs=2, warmup_share=0.0)
    assert result.epochs[-1].loss < result.epochs[0].loss
    tagger = load_tagger(result.best)
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    assert tagger(ids, torch.ones_like(ids)).shape == (1, 5, 2)
    assert tagger.longest == 64
    ids = torch.full((1, 64), 5)
    assert tagger(ids, torch.ones_like(ids)).shape == (1, 64, 2)


def test_neighbours_in_a_batch_change_no_answer(base: Path) -> None:
    tagger = build_tagger(base, head=Head(("O", "NAME")), seed=1).eval()
    task = toy.ToyTask(base / "tokenizer.json")
    texts = [example.text for example in toy.make_examples(30, seed=4)] + [""]
    together = predict(tagger, task=task, texts=texts, batch_tokens=100)
    alone = [predict(tagger, task=task, texts=[text])[0] for text in texts]
    assert together[-1] == {"names": {}}
    for one, other in zip(together, alone, strict=True):
        assert one["names"].keys() == other["names"].keys()
        np.testing.assert_allclose(list(one["names"].values()), list(other["names"].values()), atol=1e-5)


def test_predicting_leaves_the_mode_as_it_was(base: Path) -> None:
    tagger = build_tagger(base, head=Head(LABELS), seed=1).train()
    predict(tagger, task=toy.ToyTask(base / "tokenizer.json"), texts=["name1"])
    assert tagger.training


def test_head_follows_the_seed(base: Path) -> None:
    one, two, three = (build_tagger(base, head=Head(LABELS), seed=seed).state_dict() for seed in (1, 1, 2))
    name = "network.classifier.weight"
    assert torch.equal(one[name], two[name])
    assert not torch.equal(one[name], three[name])


def test_building_says_nothing(base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build_tagger(base, head=Head(LABELS), seed=1)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_saved_tagger_loads_to_the_bit(base: Path, tmp_path: Path) -> None:
    tagger = build_tagger(base, head=Head(LABELS), seed=1)
    save_tagger(tagger, tmp_path / "saved", tokenizer_file=base / "tokenizer.json")
    loaded = load_tagger(tmp_path / "saved")
    assert loaded.labels == LABELS
    assert not loaded.training
    for name, tensor in tagger.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert sorted(file.name for file in (tmp_path / "saved").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip


def test_half_precision_base_is_widened(base: Path) -> None:
    from transformers import BertModel

    BertModel.from_pretrained(base, dtype=torch.float16).save_pretrained(base)
    tagger = build_tagger(base, head=Head(LABELS), seed=1)
    assert {tensor.dtype for tensor in tagger.parameters()} == {torch.float32}


def test_trained_tagger_is_a_base_for_other_labels(base: Path, tmp_path: Path) -> None:
    tagger = build_tagger(base, head=Head(LABELS), seed=1)
    save_tagger(tagger, tmp_path / "saved", tokenizer_file=base / "tokenizer.json")
    assert build_tagger(tmp_path / "saved", head=Head(("O", "B-Y")), seed=1).labels == ("O", "B-Y")


def test_weights_of_another_configuration_are_refused(base: Path) -> None:
    config = (base / "config.json").read_text()
    (base / "config.json").write_text(config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(InvalidBase, match="lacks 16 of the weights"):
        build_tagger(base, head=Head(LABELS), seed=1)


@pytest.mark.parametrize(("key", "value"), [("hidden_size", "wide"), ("vocab_size", None), ("num_attention_heads", 0)])
def test_a_config_of_wrong_values_is_refused(base: Path, key: str, value: object) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(InvalidBase, match="cannot be loaded as an encoder"):
        build_tagger(base, head=Head(LABELS), seed=1)


def test_base_is_no_trained_tagger(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidBase, match="its head is missing"):
        load_tagger(base)
    with pytest.raises(InvalidBase, match="cannot be loaded"):
        load_tagger(tmp_path / "nothing")
