"""`millis advise` as a user meets it, on tiny random bases of every architecture."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from fitting import make_base, make_sentences, run_millis
from making import make_tokenizer, write_conll
from millis.searching import timing
from millis.searching.advising import advise
from millis.searching.case import FitSettings
from millis.training import loop
from models.tiny import TYPES, write_base

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled names, labelled texts, and a cache that the whole file shares."""
    folder = tmp_path_factory.mktemp("advise")
    write_conll(folder / "train.conll", [rows[:4] for rows in make_sentences(60, seed=0)])  # of one length: few buckets
    chance = random.Random(1)
    words = {"order": "maria wrote from lisbon about her order".split(), "refund": "eu rejects german call hello world".split()}
    rows = [(" ".join(chance.choices(words[label], k=6)) + f" {i}", label) for i in range(60) for label in words]
    (folder / "train.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    make_tokenizer(write_base(folder / "narrow", "bert"))
    make_base(folder / "wide")
    return folder


@pytest.fixture(autouse=True)
def own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLIS_CACHE", str(folder / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # too small to share: a second thread only waits for the first


def run(folder: Path, *flags: str, data: str = "train.tsv") -> tuple[int, dict[str, Any], str]:
    task = "classify" if data.endswith("tsv") else "ner"
    done = run_millis("advise", "--task", task, "--train", folder / data, *flags, "--json")
    return done.returncode, json.loads(done.stdout), done.stderr


def test_bases_are_timed_ranked_and_the_unusable_told_and_the_fit_named(folder: Path) -> None:
    wide, narrow, none = (str(folder / name) for name in ("wide", "narrow", "nowhere"))
    code, document, _ = run(folder, "--base", none, "--base", narrow, "--base", wide, "--p99", "1 s")
    assert code == 0
    first, second, last = document["bases"]
    assert (first["name"], second["name"], last["name"]) == (wide, narrow, none)  # more weights of its layers fit
    assert "is nothing" in last["problem"]
    assert first["share"] == second["share"] == 100
    assert (first["layers"], first["width"]) == (2, 64)
    assert 0 < first["median_ms"] <= first["p50_ms"] <= first["p99_ms"] == first["predicted_ms"]
    assert first["pieces"] >= 7
    assert 0 < first["unknown"] < 0.2  # the numbers behind each text
    assert document["command"].startswith("millis fit --task classify --train ")
    assert f"--base {wide} --p99 '1 s' --rate 50/s -o model.millis" in document["command"]


def test_the_same_again_measures_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = FitSettings(base="", out=Path("model"), train=folder / "train.tsv", task="classify")
    before = advise(settings, bases=[str(folder / "narrow")])
    monkeypatch.setattr(timing, "UntrainedBase", None)
    assert advise(settings, bases=[str(folder / "narrow")]) == before


def test_a_bound_below_everything_is_told_and_the_nearest_named(folder: Path) -> None:
    done = run_millis(
        "advise", "--task", "classify", "--train", folder / "train.tsv", "--base", folder / "narrow", "--p99", "0.5 ms"
    )  # fmt: skip
    assert done.returncode == 0
    assert "does not fit" in done.stdout
    assert "none is predicted to fit" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("millis fit ")


def test_no_usable_base_is_exit_2_with_each_reason(folder: Path) -> None:
    (folder / "broken").mkdir()
    code, document, stderr = run(folder, "--base", str(folder / "broken"), "--base", str(folder / "nowhere"))
    assert code == 2
    assert document["error"]["slug"] == "invalid-base"
    assert "has no config.json" in stderr
    assert "is nothing" in stderr


def test_tried_bases_have_a_score_on_dev(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--base", str(folder / "wide"), "--base", str(folder / "narrow"), "--try-epochs", "1")
    code, document, _ = run(folder, *flags)
    assert code == 0
    scores = [one["dev"] for one in document["bases"]]
    assert scores == sorted(scores, reverse=True)
    assert document["is_fitting"] is None
    assert f"--p99 '{-(-document['bases'][0]['p99_ms'] // 0.67):.0f} ms'" in document["command"]
    monkeypatch.setattr(loop, "train", None)  # found again, nothing is trained
    settings = FitSettings(base="", out=Path("model"), train=folder / "train.tsv", task="classify")
    assert [one.dev for one in advise(settings, bases=flags[1:4:2], try_epochs=1)] == scores


def test_every_architecture_is_measured(folder: Path) -> None:
    bases = []
    for kind in TYPES:
        make_tokenizer(write_base(folder / kind, kind))
        bases += ["--base", str(folder / kind)]
    code, document, _ = run(folder, *bases, "--p95", "500 ms", "--rate", "20/s", data="train.conll")
    assert code == 0
    assert {Path(one["name"]).name for one in document["bases"]} == set(TYPES)
    for one in document["bases"]:
        assert one["problem"] is None
        assert one["share"] == 100
        assert one["rest_ms"] > 0
        assert one["layers"] == 2
