"""Texts without labels: learnt by the labels a model is sure of, and by guessing masked pieces."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fitting import FILLERS, NAMES, make_base
from making import make_tokenizer
from millis.data.examples import LabelExample
from millis.errors import InvalidBase, InvalidValue
from millis.models.bases import find_base
from millis.models.prediction import predict
from millis.models.taggers import build_tagger, load_tagger, save_tagger
from millis.tasks.classify import ClassifyTask
from millis.tasks.task import Head
from millis.tasks.tokenization import Tokenizer
from millis.training.loop import train
from millis.training.masking import _hide, read_on
from millis.training.self_training import LEAST, label_texts, self_train
from millis.training.settings import TrainSettings
from models.tiny import TYPES, write_base

SETTINGS = TrainSettings(epochs=14, autocast="off")


def draw(n: int, *, seed: int) -> list[LabelExample]:
    chance = random.Random(seed)
    examples = []
    for _ in range(n):
        kind = chance.choice(list(NAMES))
        words = [*chance.choices(FILLERS, k=5), chance.choice(NAMES[kind])]
        chance.shuffle(words)
        examples.append(LabelExample(text=" ".join(words), labels=(kind,)))
    return examples


@pytest.mark.slow
def test_a_model_teaches_itself_with_what_it_is_sure_of_and_dev_decides(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    tokenizer = base / "tokenizer.json"
    labelled, dev = draw(250, seed=1), draw(80, seed=2)
    task = ClassifyTask.learn(Tokenizer(tokenizer), labelled)
    first = train(base, task=task, train=labelled, dev=dev, folder=tmp_path / "first", settings=SETTINGS, tokenizer_file=tokenizer)
    texts = [example.text for example in draw(300, seed=3)]
    some, more = (label_texts(first.best, task=task, texts=texts, share=share, dev=dev) for share in (0.3, 1.0))
    assert 0 < len(some) < len(more)
    assert {one.text for one in some} < {one.text for one in more}, "the surest come first"
    truth = {example.text: example.labels for example in draw(300, seed=3)}
    right = [one.labels == truth[one.text] for one in some]
    assert np.mean(right) > LEAST, "what it is sure of is mostly right"
    best = self_train(
        base, task=task, first=first.best, dev_score=first.dev_score.value, train_part=labelled, dev=dev,
        texts=[*texts, labelled[0].text], folder=tmp_path / "self", settings=SETTINGS, tokenizer_file=tokenizer,
    )  # fmt: skip
    assert (tmp_path / "self" / "round-1" / "best").is_dir()
    assert best in (first.best, *(folder / "best" for folder in (tmp_path / "self").iterdir()))


def test_texts_out_of_scope_are_learnt_as_such_and_not_as_the_next_best_label(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    tokenizer = Tokenizer(base / "tokenizer.json")
    task = ClassifyTask.learn(tokenizer, [LabelExample(text="x", labels=(name,)) for name in ("a", "b", "none")], out_of_scope="none")
    tagger = build_tagger(base, head=task.head, seed=1)
    with torch.no_grad():
        tagger.network.classifier.weight.zero_()
        tagger.network.classifier.bias.copy_(torch.tensor([2.0, 0.0, 9.0]))
    save_tagger(tagger, tmp_path / "sure", tokenizer_file=base / "tokenizer.json")
    dev = [LabelExample(text="x", labels=(name,)) for name in ("a", *["none"] * 19)]
    found = label_texts(tmp_path / "sure", task=task, texts=["hello", "world"], share=1.0, dev=dev)
    assert [one.labels for one in found] == [("none",), ("none",)]


@pytest.mark.slow
def test_a_model_that_is_right_before_it_is_sure_teaches_itself_too(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    labelled, dev = draw(250, seed=1), draw(80, seed=2)
    task = ClassifyTask.learn(Tokenizer(base / "tokenizer.json"), labelled)
    few = replace(SETTINGS, epochs=6)
    first = train(base, task=task, train=labelled, dev=dev, folder=tmp_path / "first", settings=few, tokenizer_file=base / "tokenizer.json")
    assert first.dev_score.value > 85
    texts = [example.text for example in draw(100, seed=3)]
    answers = predict(load_tagger(first.best), task=task, texts=texts)
    assert max(answer["score"] for answer in answers) < LEAST, "it says so of none"
    truth = {example.text: example.labels for example in draw(100, seed=3)}
    found = label_texts(first.best, task=task, texts=texts, share=1.0, dev=dev)
    assert len(found) > 40
    assert np.mean([one.labels == truth[one.text] for one in found]) > LEAST


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_a_base_of_any_kind_reads_on_and_is_a_base_again(tmp_path: Path, kind: str) -> None:
    base = write_base(tmp_path / "base", kind)
    make_tokenizer(base)
    texts = [example.text for example in draw(60, seed=1)]
    out = read_on(base, texts, out=tmp_path / "read", settings=TrainSettings(epochs=2, autocast="off", learning_rate=1e-3))
    assert find_base(str(out)) == out
    before, after = (build_tagger(folder, head=Head(("a", "b")), seed=1).network.base_model.state_dict() for folder in (base, out))
    assert before.keys() == after.keys()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) > len(before) / 2
    again = read_on(base, texts, out=tmp_path / "again", settings=TrainSettings(epochs=2, autocast="off", learning_rate=1e-3))
    same = build_tagger(again, head=Head(("a", "b")), seed=1).network.base_model.state_dict()
    assert all(torch.equal(after[name], same[name]) for name in after), "the same seed, the same base"


def test_a_base_reads_on_at_its_own_rate_whatever_is_adapted_after(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "bert")
    make_tokenizer(base)
    texts = [example.text for example in draw(8, seed=1)]
    tuned = TrainSettings(epochs=1, autocast="off", adapt="prompt", learning_rate=0.1)
    plain, before = (read_on(base, texts, out=tmp_path / one.adapt, settings=one) for one in (TrainSettings(epochs=1, autocast="off"), tuned))
    read = [load_file(folder / "model.safetensors") for folder in (plain, before)]
    assert all(torch.equal(read[0][name], read[1][name]) for name in read[0])


def test_some_pieces_are_hidden_and_special_ones_never(tmp_path: Path) -> None:
    tokenizer = Tokenizer(make_tokenizer(tmp_path))
    torch.manual_seed(1)
    ids = torch.full((200, 12), 20)
    ids[:, 0], ids[:, -1] = tokenizer.prefix[0], tokenizer.suffix[0]
    mask = torch.ones_like(ids)
    mask[:, 9:] = 0
    hidden, targets = _hide(ids, mask, tokenizer=tokenizer)
    chosen = targets != -100
    assert not chosen[:, [0, 9, 10, 11]].any()
    assert 0.1 < chosen[:, 1:9].float().mean() < 0.2
    assert (hidden[~chosen] == ids[~chosen]).all()
    assert 0.7 < (hidden[chosen] == tokenizer.mask).float().mean() < 0.9
    assert (targets[chosen] == 20).all()


def test_a_base_without_a_mask_or_texts_without_pieces_are_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path, "bert")
    file = make_tokenizer(tmp_path)
    with pytest.raises(InvalidValue, match="none of 1 texts"):
        read_on(base, ["one"], out=tmp_path / "out", settings=SETTINGS)
    file.write_text(file.read_text().replace("[MASK]", "[HIDE]"))
    with pytest.raises(InvalidBase, match="no piece for a mask"):
        read_on(base, ["one two three four"], out=tmp_path / "out", settings=SETTINGS)
