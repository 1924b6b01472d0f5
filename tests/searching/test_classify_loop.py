"""The whole loop for classification, through the real command line, on a small real model."""

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

import millis
from fitting import FILLERS, NAMES, make_base, run_millis
from making import make_tokenizer
from millis.data.readers import ReadSettings, read_labelled
from millis.models.prediction import predict
from millis.models.taggers import build_tagger, load_tagger, save_tagger
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from millis.tasks.task import Head

pytestmark = pytest.mark.slow

KINDS = {"PER": "person", "ORG": "company", "LOC": "place"}


def make_rows(n: int, *, seed: int, is_multi: bool = False) -> list[tuple[str, str]]:
    """Draw texts that name a person, a company or a place, or nobody at all."""
    chance = random.Random(seed)
    rows = []
    for _ in range(n):
        kinds = chance.sample(list(KINDS), chance.randint(0, 3) if is_multi else chance.choice([0, 1, 1, 1]))
        words = chance.choices(FILLERS, k=chance.randint(3, 8)) + [chance.choice(NAMES[kind]) for kind in kinds]
        chance.shuffle(words)
        rows.append((" ".join(words), "|".join(KINDS[kind] for kind in kinds) or ("" if is_multi else "nobody")))
    return rows


def write_table(file: Path, rows: list[tuple[str, str]]) -> str:
    file.write_text("".join(f"{text}\t{label}\n" for text, label in [("text", "label"), *rows]))
    return str(file)


@dataclass(frozen=True)
class Fitted:
    folder: Path
    document: dict[str, Any]
    told: str

    @property
    def bundle(self) -> Path:
        return self.folder / "kinds.millis"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    folder = tmp_path_factory.mktemp("classify")
    files = [
        f"--{part}={write_table(folder / f'{part}.tsv', make_rows(n, seed=seed))}"
        for seed, (part, n) in enumerate((("train", 1500), ("dev", 120), ("test", 160)))
    ]
    unlabelled = [text for text, _ in (*make_rows(150, seed=9), *make_rows(20, seed=2), *make_rows(30, seed=0))]
    (folder / "plain.txt").write_text("\n".join(unlabelled) + "\n\n")
    plain = folder / "plain.txt"
    done = run_millis(
        "fit", "--task", "classify", *files, "--unlabelled", plain, "--domain-text", plain, "--base", make_base(folder / "base"), "--out-of-scope", "nobody",
        "--rate", "250", "--prove-for", "2 s", "--p99", "500 ms", "--epochs", "6", "--max-drop", "5", "--rungs", "2",
        "-o", folder / "kinds.millis", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return Fitted(folder, json.loads(done.stdout), done.stderr)


def test_a_fit_of_labels_keeps_its_contract(fitted: Fitted) -> None:
    assert fitted.document["certificate"]["verdict"]["status"] == "kept"
    assert fitted.document["quality"]["name"] == "accuracy"
    assert fitted.document["quality"]["value"] > 80
    manifest = millis.open_bundle(fitted.bundle).manifest
    assert manifest.labels == ("company", "person", "place")
    assert len(manifest.task_settings["out_of_scope"]["weights"]) == 4
    assert any(step.step == "calibrated" for step in manifest.rungs[0].steps)
    assert "calibrated" in run_millis("inspect", fitted.bundle).stdout


def test_texts_without_labels_were_learnt_and_dev_decided(fitted: Fitted) -> None:
    said = next(line for line in fitted.told.splitlines() if line.startswith("reading on first: "))
    with_, without = (float(word.strip(",:")) for word in said.split() if word.strip(",:").replace(".", "").isdigit())
    assert said.endswith("it is kept" if with_ > without else "it is not used")
    assert "self-training, round 1: " in fitted.told
    passed = "plain.txt: 50 of 200 texts are passed over, since they stand elsewhere too (test 20, train 30)"
    assert passed in fitted.told, "what judges is not learnt"
    assert passed in millis.open_bundle(fitted.bundle).manifest.notes
    assert "plain.txt: 20 of 200 texts are passed over, since they stand elsewhere too (test 20)" in fitted.told
    assert "of 150 texts learnt" in fitted.told


def test_served_loaded_and_reference_answers_are_the_same(fitted: Fitted) -> None:
    examples = read_labelled(fitted.folder / "test.tsv", of="labels").examples
    texts = [example.text for example in examples]
    model = millis.load(fitted.folder / "kinds.run" / "drafts" / "openvino-int8.millis")
    loaded = model(texts)
    reference = predict(load_tagger(fitted.folder / "kinds.run" / "calibrated"), task=model.task, texts=texts)
    same = sum(one["label"] == other["label"] for one, other in zip(loaded, reference, strict=True))
    assert same >= 0.97 * len(texts), "eight bits change hardly a label"
    with Supervisor(ServeSettings(bundles=(str(fitted.bundle),), port=0)) as server:
        served = [
            httpx.post(f"{server.url}/v1/classify", json={"input": text}).json()["results"][0] for text in texts[:40]
        ]
    assert served == millis.load(fitted.bundle)(texts[:40])
    assert {answer["label"] for answer in loaded} == {None, "company", "person", "place"}


def test_a_server_sees_that_requests_are_no_longer_like_the_data(fitted: Fitted) -> None:
    usual = [example.text for example in read_labelled(fitted.folder / "test.tsv", of="labels").examples]

    def read_metrics(url: str) -> dict[str, float]:
        rows = (line.rsplit(" ", 1) for line in httpx.get(f"{url}/metrics").text.splitlines() if line[:1] != "#")
        return {name: float(value) for name, value in rows if "drift" in name or "out_of_dist" in name}

    def settle(url: str, *, is_moved: bool) -> dict[str, float]:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            found = read_metrics(url)
            index = found.get('millis_drift_index{model="kinds",signal="surprise"}')
            if index is not None and (index > 0.25) == is_moved:
                return found
        raise AssertionError(f"the index does not get there: {found}")

    with Supervisor(ServeSettings(bundles=(str(fitted.bundle),), port=0, workers=1)) as server:
        for start in range(0, 320, 80):
            body = {"input": [usual[i % len(usual)] for i in range(start, start + 80)]}
            assert httpx.post(f"{server.url}/v1/classify", json=body).status_code == 200
        found = settle(server.url, is_moved=False)
        odd = 'millis_out_of_distribution_total{model="kinds"}'
        assert found[odd] <= 0.05 * 320
        for _ in range(5):
            body = {"input": ["unbelievable schwarzenegger , . ! ? unbelievable"] * 80}
            assert httpx.post(f"{server.url}/v1/classify", json=body).status_code == 200
        assert settle(server.url, is_moved=True)[odd] >= 400


def test_a_rung_without_attention_is_built_and_tried(fitted: Fitted) -> None:
    tried = {one.name: one for one in millis.open_bundle(fitted.bundle).manifest.tried}
    static = next(one for name, one in tried.items() if name.startswith("static"))
    assert static.quality > 60
    model = millis.load(fitted.folder / "kinds.run" / "drafts" / "static.millis")
    answers = [answer["label"] for answer in model(["hello maria wrote", "northwind wrote about order"])]
    assert answers == ["person", "company"]


def test_evaluate_reads_the_table_and_reports_calibration_and_scope(fitted: Fitted) -> None:
    done = run_millis("evaluate", fitted.bundle, "--test", fitted.folder / "test.tsv")
    assert done.returncode == 0, done.stderr
    for word in ("accuracy", "calibration error", "out of scope (nobody): AUROC", "person", "macro F1"):
        assert word in done.stdout


def test_several_labels_a_text_through_the_loop_in_python(tmp_path: Path) -> None:
    train = write_table(tmp_path / "train.tsv", make_rows(1500, seed=3, is_multi=True))
    outputs = tuple(f"{answer} {kind}" for kind in KINDS.values() for answer in ("yes:", "no:"))
    stranger = build_tagger(make_base(tmp_path / "stranger"), head=Head(outputs, rows=3), seed=1)
    save_tagger(stranger, tmp_path / "stranger", tokenizer_file=make_tokenizer(tmp_path))
    bundle = millis.fit(
        train, task="classify", base=str(make_base(tmp_path / "base")), out=tmp_path / "several.millis",
        contract=millis.Contract(p99="500 ms", rate="250/s", max_drop=5), multi_label=True, separator="|", epochs=6,
        rungs=1, balance=True, prove_for_ms=2_000, teacher=tmp_path / "stranger",
    )  # fmt: skip
    assert any("stranger" in note and note.endswith("not used") for note in bundle.manifest.notes), "it knows nothing"
    assert bundle.rung().quality["name"] == "F1"
    assert bundle.rung().quality["value"] > 80
    answer = millis.load(bundle)("hello maria of northwind wrote")
    assert answer["labels"] == ["company", "person"] or answer["labels"] == ["person", "company"]
    test = write_table(tmp_path / "test.tsv", make_rows(100, seed=4, is_multi=True))
    score = millis.evaluate(bundle.path, test, separator="|")
    assert score.value > 80
    assert score == millis.evaluate(bundle.path, read_labelled(test, settings=ReadSettings(separator="|"), of="labels").examples)


@pytest.mark.parametrize(
    ("flags", "labels", "said"),
    [
        ((), "aa", "train has 1 label (a)"),
        (("--multi-label", "--out-of-scope", "a"), "ab", "a text with no label is none of"),
        (("--separator", "|"), "ab", "a separator between labels is for multi_label"),
        (("--task", "ner", "--out-of-scope", "a"), "ab", "task ner has no setting out_of_scope"),
        (("--task", "sing"), "ab", "unknown task 'sing': choose one of classify, "),
        (("--label-column", "3"), "ab", "train.csv:1: no column '3': the first row has text, label"),
    ],
)
def test_what_cannot_be_fitted_is_a_sentence(tmp_path: Path, flags: tuple[str, ...], labels: str, said: str) -> None:
    rows = [f"text {i},{labels[i % 2]}" for i in range(30)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]))
    done = run_millis(
        "fit", "--task", "classify", "--train", tmp_path / "train.csv", "--base", make_base(tmp_path / "base"),
        "--p99", "5 ms", "-o", tmp_path / "out.millis", *flags,
    )  # fmt: skip
    assert done.returncode == 2
    assert said in done.stderr
    assert list(tmp_path.glob("out*")) == []
