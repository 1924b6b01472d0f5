"""The whole loop for embedding, through the real command line, on a small real model."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import millis
from fitting import FILLERS, make_base, run_millis
from millis.contract import Contract
from millis.errors import AllRefused, ContractBroken
from millis.measuring.bench import offer_load
from millis.measuring.results import LoadResult
from millis.models.prediction import predict
from millis.models.taggers import load_tagger
from millis.searching import proving
from millis.searching.case import Case, prepare
from millis.searching.fitting import run_fit
from millis.searching.settings import FitSettings

pytestmark = pytest.mark.slow


def write_pairs(file: Path, n: int, *, seed: int) -> str:
    """Draw queries whose passage has the same words in another order, and a negative that has half of them."""
    chance = random.Random(seed)
    rows = []
    for _ in range(n):
        words = chance.sample(FILLERS, 4)
        negative = words[:2] + chance.sample(FILLERS, 2)
        query = " ".join(words)
        chance.shuffle(words)
        rows.append({"query": query, "positive": " ".join([*words, "maria"]), "negative": " ".join([*negative, "maria"])})
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def test_a_base_as_it_is_goes_through_the_loop_and_is_searched(tmp_path: Path) -> None:
    files = [f"--{part}={write_pairs(tmp_path / f'{part}.jsonl', n, seed=n)}" for part, n in (("train", 120), ("dev", 40), ("test", 60))]
    done = run_millis(
        "fit", "--task", "embedding", *files, "--base", make_base(tmp_path / "base"), "--p99", "500 ms", "--rate", "250", "--prove-for", "2 s",
        "--max-drop", "20", "--rungs", "1", "--epochs", "0", "--pooling", "cls", "--dimensions", "32,16",
        "--query-prefix", "who wrote ", "--passage-prefix", "x ", "-o", tmp_path / "emb.millis", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout)
    assert document["quality"]["name"] == "MRR@10"
    assert {"queries", "queries, 32 dimensions", "queries, 16 dimensions"} <= document["quality"]["by_label"].keys()
    settings = millis.open_bundle(tmp_path / "emb.millis").manifest.task_settings
    assert (settings["pooling"], settings["dimensions"], settings["is_normalised"]) == ("cls", [64, 32, 16], True)
    assert (settings["query_prefix"], settings["passage_prefix"]) == ("who wrote ", "x ")
    model = millis.load(tmp_path / "emb.run" / "drafts" / "openvino-fp32.millis")
    texts = ["hello world", "maria wrote from lisbon about her order"]
    tagger = load_tagger(tmp_path / "emb.run" / "training" / "base")
    for input_type in ("query", "passage"):
        options = [{"input_type": input_type}] * 2
        reference = predict(tagger, task=model.task, texts=texts, options=options)
        for got, want in zip(model(texts, input_type=input_type), reference, strict=True):
            assert np.allclose(got["embedding"], want["embedding"], atol=1e-4)
    evaluated = run_millis("evaluate", tmp_path / "emb.millis", "--test", tmp_path / "test.jsonl")
    assert "60 queries over 120 passages" in evaluated.stdout, evaluated.stderr
    assert "mean cosine" in run_millis("inspect", tmp_path / "emb.millis").stdout


def test_a_contract_for_which_every_request_is_refused_is_broken_and_gets_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, *, n_requests: int, headers: tuple[tuple[str, str], ...], **rest: Any) -> LoadResult:
        if headers:  # a probe, which waits for its answers
            return offer_load(url, n_requests=n_requests, headers=headers, **rest)
        raise AllRefused(f"all {n_requests} requests to {url} were refused (503)")

    monkeypatch.setattr(proving, "offer_load", refuse)  # whether real requests are depends on the machine's speed
    settings = FitSettings(
        task="embedding", train=write_pairs(tmp_path / "train.jsonl", 60, seed=1), epochs=0, rungs=1,
        base=str(make_base(tmp_path / "base")), out=tmp_path / "emb.millis", within_ms=1.0,
    )  # fmt: skip
    with pytest.raises(ContractBroken) as caught:
        run_fit(Contract(p99="5 ms", rate=200, max_drop=20), settings)
    told = str(caught.value)
    assert told.startswith("no candidate answers anybody within 'p99 <= 5 ms"), told
    assert "the server refused those that it did not expect to answer within 5 ms" in told
    assert ": p99 measured " in told
    assert not (tmp_path / "emb.millis").exists()


def test_a_method_whose_training_did_not_help_leaves_nothing_in_the_graph(tmp_path: Path) -> None:
    rows = [{"query": " ".join(words), "positive": " ".join(words).upper()}  # one vector: the base finds them all
            for words in (random.Random(i).sample(FILLERS, 5) for i in range(60))]  # fmt: skip
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = run_millis(
        "fit", "--task", "embedding", "--train", tmp_path / "train.jsonl", "--base", make_base(tmp_path / "base"),
        "--p99", "500 ms", "--rate", "300", "--prove-for", "1 s", "--max-drop", "20", "--rungs", "1", "--epochs", "1",
        "--within", "1s", "--adapt", "prefix", "-o", tmp_path / "emb.millis",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "training did not help (100.00 on dev): the base is taken as it is" in done.stderr
    assert "no pruned rungs" not in done.stderr
    manifest = millis.open_bundle(tmp_path / "emb.millis").manifest
    assert not [note for note in manifest.notes if "pruned" in note]
    assert [one.choice for one in manifest.choices if one.what == "training"] == ["none"]


def test_a_base_that_looks_like_e5_is_fitted_with_a_warning_unless_prefixes_are_said(tmp_path: Path) -> None:
    train = Path(write_pairs(tmp_path / "train.jsonl", 60, seed=1))
    prompted = make_base(tmp_path / "prompted")
    (prompted / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "ask: ", "document": ""}}))

    def find(base: Path, **said: str) -> Case:
        settings = FitSettings(base=str(base), out=tmp_path / "o.millis", train=train, task="embedding", **said)
        return prepare(millis.Contract(p99="1 s"), settings, began=0.0)

    e5 = make_base(tmp_path / "multilingual-e5-tiny")
    warned = find(e5)
    assert any("give --query-prefix 'query: ' --passage-prefix 'passage: '" in note for note in warned.notes)
    assert any("--query-prefix 'ask: ' --passage-prefix ''" in note for note in find(prompted).notes)
    told = find(e5, query_prefix="who wrote ", passage_prefix="x ")
    assert not any("prefix" in note for note in told.notes)
    assert sum(told.lengths) == sum(warned.lengths) + sum(2 if one.positives else 1 for one in told.splits.train)
    for plain in (find(e5, query_prefix=""), find(make_base(tmp_path / "base5"))):
        assert not any("prefix" in note for note in plain.notes)
        assert plain.lengths == warned.lengths


def test_what_was_done_with_a_base_is_found_for_its_weights_wherever_they_stand(tmp_path: Path) -> None:
    train = Path(write_pairs(tmp_path / "train.jsonl", 60, seed=1))

    def find(base: Path) -> dict[str, object] | None:
        settings = FitSettings(base=str(base), out=tmp_path / "o.millis", train=train, task="embedding", epochs=0)
        case = prepare(millis.Contract(p99="1 s"), settings, began=0.0)
        known = case.ledger.find("artifact", "openvino-fp32")
        case.ledger.add("artifact", "openvino-fp32", {"steps": []})
        return known

    base = make_base(tmp_path / "base")
    assert find(base) is None
    assert find(base) == {"steps": []}
    assert find(Path(shutil.copytree(base, tmp_path / "moved"))) == {"steps": []}
    weights = load_file(base / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, base / "model.safetensors", {"format": "pt"})
    assert find(base) is None, "the same folder and the same tokenizer, and another base all the same"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--dimensions", "65"), "dimensions cannot be 65: the base's vectors have 64"),
        (("--dimensions", "many"), "dimensions cannot be 'many': give whole numbers"),
        (("--pooling", "max"), "pooling cannot be 'max'"),
        (("--balance",), "balance is for labels"),
        (("--multi-label",), "task embedding has no setting multi_label"),
        (("--task", "classify", "--pooling", "cls"), "task classify has no setting pooling"),
        (("--task", "classify", "--epochs", "0"), "epochs cannot be 0 where something is trained"),
        (("--epochs", "0", "--tune", "2"), "epochs cannot be 0 where something is trained"),
    ],
)
def test_what_cannot_be_fitted_is_a_sentence(tmp_path: Path, flags: tuple[str, ...], said: str) -> None:
    pairs = write_pairs(tmp_path / "train.jsonl", 60, seed=1)
    task = () if "--task" in flags else ("--task", "embedding")
    done = run_millis(
        "fit", *task, "--train", pairs, "--base", make_base(tmp_path / "base"), "--p99", "5 ms", "-o", tmp_path / "out.millis", *flags
    )
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert list(tmp_path.glob("out*")) == []
