"""Two texts in one window: a base with two token types tells them apart, in every runtime, trained and served."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

import millis
from making import make_tokenizer
from millis.backends import BackendSettings
from millis.backends.encoder import SECOND, LayerShape, shrink
from millis.backends.segments import FILE, read_second
from millis.bundles import Manifest, Rung, save_bundle
from millis.compiling.comparing import compare, loaded, run_all
from millis.compiling.onnx import export_embeddings, export_ids, load_for_export, second_of
from millis.compiling.openvino import convert_onnx
from millis.compressing.quantize import quantize_openvino
from millis.compressing.vocabulary import trim_vocabulary
from millis.data.examples import Question, Ranking
from millis.errors import InvalidBundle
from millis.models.prediction import predict
from millis.models.taggers import Tagger, build_tagger, load_tagger, save_tagger
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from millis.tasks import Task, tasks
from millis.tasks.tokenization import Tokenizer
from millis.training import distillation
from millis.training.vocabulary import UsedRows
from models.tiny import TYPES, write_base

pytestmark = pytest.mark.slow

ASKED = {
    "qa": Question("who wrote", "maria garcia wrote from lisbon about her order"),
    "rerank": Ranking("who wrote", ("maria garcia wrote", "hello world", "eu rejects german call")),
}


def make(folder: Path, *, kind: str = "bert", task: str = "rerank", n_types: int = 2) -> tuple[Path, Task]:
    """Write a tagger for a task of two texts; its types are drawn wide, so that they matter."""
    base = write_base(folder / "base", kind)
    config = json.loads((base / "config.json").read_text())
    tokenizer = Tokenizer(make_tokenizer(base))
    made: Task = tasks[task](tokenizer, max_tokens=32, overlap=4, example=ASKED[task])
    if n_types == 1 and "type_vocab_size" in config:
        from safetensors.torch import load_file, save_file

        weights = load_file(base / "model.safetensors")
        name = next(one for one in weights if one.endswith("token_type_embeddings.weight"))
        weights[name] = weights[name][:1].clone()
        save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
        (base / "config.json").write_text(json.dumps({**config, "type_vocab_size": 1}))
    tagger = build_tagger(base, head=made.head, seed=1)
    save_tagger(tagger, folder / "tagger", tokenizer_file=base / "tokenizer.json")
    return folder / "tagger", made


def ids_of(task: Task, name: str) -> list[np.ndarray]:
    return [window.ids for window in task.encode(ASKED[name])]


def run_library(tagger: Tagger, ids: np.ndarray, types: list[int]) -> np.ndarray:
    """Give what the library's own network says of each token, with types that were written by hand."""
    one = torch.from_numpy(ids)[None]
    with torch.inference_mode():
        out = tagger.network(
            input_ids=one, attention_mask=torch.ones_like(one), token_type_ids=torch.tensor([types])
        ).logits
    logits: np.ndarray = out[0].numpy()
    return logits


def export(folder: Path, tagger: Path) -> dict[str, Path]:
    source = load_for_export(tagger)
    table = export_embeddings(source, folder / "embeddings.onnx")
    convert_onnx(folder / "embeddings.onnx", folder / "openvino", table=table.numpy(), second=second_of(source))
    export_ids(source, folder / "onnxruntime" / "model.onnx")
    return {"torch": tagger, "openvino": folder / "openvino", "onnxruntime": folder / "onnxruntime"}


@pytest.mark.parametrize("kind", ["bert", "electra"])
def test_every_runtime_says_what_the_library_says_with_types_written_by_hand(tmp_path: Path, kind: str) -> None:
    folder, task = make(tmp_path, kind=kind, task="qa")
    (ids,) = ids_of(task, "qa")
    tagger = load_tagger(folder)
    types = [0, 0, 0, 0] + [1] * 9  # [CLS] who wrote [SEP], eight words, [SEP]
    wanted = run_library(tagger, ids, types).T
    assert np.abs(wanted - run_library(tagger, ids, [0] * 13).T).max() > 0.1, "the types matter"
    for name, files in export(tmp_path, folder).items():
        for padding, buckets in ((0, None), (3, (16,))):
            settings = BackendSettings(buckets=buckets)
            with loaded(name, files, settings=settings) as backend:
                (got,) = run_all(backend, [ids], padding=padding, head=task.head)
            assert np.allclose(got, wanted, atol=1e-4), f"{name} at {buckets}"
        with loaded(name, files, settings=BackendSettings(buckets=(16,), rows=2)) as backend:
            batch = {"input_ids": np.zeros((3, 16), np.int64), "attention_mask": np.zeros((3, 16), np.int64)}
            batch["input_ids"][:, :13], batch["attention_mask"][:, :13] = ids, 1
            together = backend.run(batch)["logits"]
        assert all(np.allclose(task.head.cut(one, 13), wanted, atol=1e-4) for one in together), f"{name}, two rows at once"


@pytest.mark.parametrize("kind", TYPES)
def test_a_base_without_two_types_is_left_as_it_was(tmp_path: Path, kind: str) -> None:
    folder, _ = make(tmp_path, kind=kind, n_types=1)
    tagger = load_tagger(folder)
    assert getattr(tagger.config, SECOND, None) is None
    source = load_for_export(folder)
    convert_onnx(
        _embedded(source, tmp_path), tmp_path / "openvino", table=np.ones((60, 32), np.float32), second=second_of(source)
    )
    assert not (tmp_path / "openvino" / FILE).exists()


def _embedded(source: Tagger, folder: Path) -> Path:
    export_embeddings(source, folder / "embeddings.onnx")
    return folder / "embeddings.onnx"


def test_one_text_has_one_type(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "bert")
    task = tasks["ner"](Tokenizer(make_tokenizer(base)), labels=("O", "B-PER", "I-PER"), max_tokens=32, overlap=4)
    assert getattr(build_tagger(base, head=task.head, seed=1).config, SECOND, None) is None


def test_eight_bits_know_the_second_text_too(tmp_path: Path) -> None:
    folder, task = make(tmp_path)
    files = export(tmp_path, folder)
    ids = ids_of(task, "rerank")
    quantize_openvino(files["openvino"], tmp_path / "int8", calibration=ids)
    assert read_second(tmp_path / "int8") is not None
    with loaded("torch", folder) as torch_, loaded("openvino", tmp_path / "int8") as int8:
        difference = compare(run_all(torch_, ids, head=task.head), run_all(int8, ids, head=task.head), head=task.head)
    (tmp_path / "int8" / FILE).unlink()
    with loaded("torch", folder) as torch_, loaded("openvino", tmp_path / "int8") as int8:
        without = compare(run_all(torch_, ids, head=task.head), run_all(int8, ids, head=task.head), head=task.head)
    assert difference.max_abs < without.max_abs / 4


def test_training_on_few_rows_sees_the_same_types(tmp_path: Path) -> None:
    folder, task = make(tmp_path)
    tagger = load_tagger(folder)
    windows = task.encode(Ranking("maria wrote", ("hello world",)))  # no unknown piece: ids behind its own move
    own = getattr(tagger.config, SECOND)
    mask = torch.ones(1, len(windows[0].ids), dtype=torch.int64)
    with torch.inference_mode():
        wanted = tagger(torch.from_numpy(windows[0].ids)[None], mask)
    rows = UsedRows(tagger, windows)
    few = rows.renumber(windows[0])
    assert few.ids.tolist() != windows[0].ids.tolist()
    with torch.inference_mode():
        assert torch.allclose(tagger(torch.from_numpy(few.ids)[None], mask), wanted, atol=1e-6)
    with rows.whole():
        assert getattr(tagger.config, SECOND) == own
    assert getattr(tagger.config, SECOND) != own


def test_a_pruned_network_knows_them_too(tmp_path: Path) -> None:
    folder, task = make(tmp_path)
    tagger = load_tagger(folder)
    shrink(tagger.network, [LayerShape(1, 20), LayerShape(2, 0)])
    save_tagger(tagger, tmp_path / "pruned", tokenizer_file=folder / "tokenizer.json")
    ids = ids_of(task, "rerank")
    types = [[0] * 4 + [1] * (len(one) - 4) for one in ids]
    wanted = [run_library(tagger.eval(), *pair).mean(0, keepdims=True) for pair in zip(ids, types, strict=True)]
    for name, files in export(tmp_path, tmp_path / "pruned").items():
        with loaded(name, files) as backend:
            got = run_all(backend, ids, head=task.head)
        assert all(np.allclose(*pair, atol=1e-4) for pair in zip(got, wanted, strict=True)), name


def test_a_student_sees_the_same_types(tmp_path: Path) -> None:
    folder, task = make(tmp_path)
    tagger = load_tagger(folder)
    ids = torch.from_numpy(ids_of(task, "rerank")[0])[None]
    with torch.inference_mode():
        out = distillation._run(tagger, ids, torch.ones_like(ids))
        assert torch.equal(out.logits, tagger(ids, torch.ones_like(ids)))


def test_a_trimmed_vocabulary_keeps_the_separator(tmp_path: Path) -> None:
    folder, task = make(tmp_path)
    asked = ASKED["rerank"]
    trim_vocabulary(folder, tmp_path / "small", texts=[asked.query, *asked.documents])
    small = load_tagger(tmp_path / "small")
    assert getattr(small.config, SECOND) == Tokenizer(tmp_path / "small" / "tokenizer.json").separator
    theirs = task.with_tokenizer(Tokenizer(tmp_path / "small" / "tokenizer.json"))
    (got,), (wanted,) = (predict(one, task=of, texts=[asked]) for one, of in ((small, theirs), (load_tagger(folder), task)))
    assert got == wanted


def save(folder: Path, files: Path, task: Task, *, name: str = "pairs") -> Any:
    rung = Rung(name="fp32", backend="openvino", precision="fp32", folder="rungs/fp32", buckets=(16, 32))
    manifest = Manifest(
        format=1, name=name, task="rerank", labels=task.labels, task_settings=task.settings, rungs=(rung,), rung="fp32",
        contract=millis.Contract(p99="1 s", rate=50).record(), lengths=((8, 1),),
    )  # fmt: skip
    parts = {"tokenizer.json": folder / "tagger" / "tokenizer.json", "rungs/fp32": files}
    return save_bundle(folder / f"{name}.millis", manifest=manifest, parts=parts)


def test_served_is_loaded_is_torch(tmp_path: Path) -> None:
    folder, task = make(tmp_path)
    bundle = save(tmp_path, export(tmp_path, folder)["openvino"], task)
    asked = ASKED["rerank"]
    (wanted,) = predict(load_tagger(folder), task=task, texts=[asked])
    answer = millis.load(bundle)(asked)
    assert [one["index"] for one in answer["ranking"]] == [one["index"] for one in wanted["ranking"]]
    for got, want in zip(answer["ranking"], wanted["ranking"], strict=True):
        assert got["relevance_score"] == pytest.approx(want["relevance_score"], abs=1e-4)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        body = {"query": asked.query, "documents": asked.documents}
        served = httpx.post(f"{server.url}/v1/rerank", json=body).json()
    assert served["results"] == answer["ranking"]


def test_a_bundle_made_before_answers_as_it_did(tmp_path: Path) -> None:
    folder, task = make(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config[SECOND]  # what training wrote before
    (folder / "config.json").write_text(json.dumps(config))
    bundle = save(tmp_path, export(tmp_path, folder)["openvino"], task)
    asked, (ids, *_) = ASKED["rerank"], ids_of(task, "rerank")
    plain = run_library(load_tagger(folder), ids, [0] * len(ids)).mean(0)
    scores = {one["index"]: one["relevance_score"] for one in millis.load(bundle)(asked)["ranking"]}
    assert scores[0] == pytest.approx(1 / (1 + np.exp(plain[0] - plain[1])), abs=1e-4)


def test_a_damaged_offset_is_a_sentence(tmp_path: Path) -> None:
    files = export(tmp_path, make(tmp_path)[0])["openvino"]
    (files / FILE).write_bytes((files / FILE).read_bytes()[:50])
    with pytest.raises(InvalidBundle, match="Make the bundle anew"), loaded("openvino", files):
        pass
