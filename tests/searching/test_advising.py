"""`millis advise` as a user meets it, on tiny random bases of every architecture."""

import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from fitting import make_base, make_sentences, run_millis
from making import make_tokenizer, write_conll
from millis.bundles import LatencyRow
from millis.contract import Contract
from millis.searching import advising, timing
from millis.searching.advising import advise
from millis.searching.candidates import Variant
from millis.searching.settings import FitSettings
from millis.tasks.classify import ClassifyTask
from millis.tasks.tokenization import Tokenizer
from millis.training import loop
from models.tiny import TYPES, write_base

pytestmark = pytest.mark.slow


class FakeUntrained:
    """Times that are told instead of measured, by the name of the base; without layers a tenth of them."""

    times_ms: ClassVar = {"narrow": 1.0, "wide": 20.0}
    calls = 0
    most_calls = 1_000

    def __init__(self, base: Path, **_: object) -> None:
        self._ms = self.times_ms[base.name]

    def __enter__(self) -> "FakeUntrained":
        return self

    def __exit__(self, *_: object) -> None: ...

    def time(
        self, variant: Variant, *, buckets: Sequence[int], rows: int = 1, without_layers: bool = False
    ) -> tuple[LatencyRow, ...]:
        if FakeUntrained.calls == self.most_calls:
            raise KeyboardInterrupt
        FakeUntrained.calls += 1
        ms = self._ms * (0.1 if without_layers else 1.0) * (1 if variant.precision == "int8" else 3)
        together = {"rows": rows, "rows_ms": rows * ms} if rows > 1 else {}
        return tuple(LatencyRow(tokens=bucket, p50_ms=ms, p99_ms=ms, n=1, cold_ms=ms, **together) for bucket in buckets)


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


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bases whose times are told, and a cache of its own."""
    monkeypatch.setenv("MILLIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(timing, "UntrainedBase", FakeUntrained)
    monkeypatch.setattr(FakeUntrained, "calls", 0)


@pytest.mark.usefixtures("told")
def test_a_base_that_is_too_slow_whole_fits_pruned(folder: Path) -> None:
    settings = FitSettings(base="", out=Path("model"), train=folder / "train.tsv", task="classify")
    bases = [str(folder / "wide"), str(folder / "narrow")]
    by_name = {Path(one.name).name: one for one in advise(settings, bases=bases, contract=Contract(p99="20 ms", rate=2))}
    assert by_name["narrow"].share == 100
    assert by_name["narrow"].rest_ms == 0.1
    assert by_name["wide"].share == 40  # 2 ms stay, 7 of 18, 0.75 around it, more where another is there too: 16 of 20
    assert by_name["wide"].predicted_ms == pytest.approx(20 + 0.75 + 6, abs=0.5)
    assert by_name["wide"].pruned_ms == pytest.approx(2 + 7.2 + 0.75 + 4.3, abs=0.5)


@pytest.mark.usefixtures("told")
def test_a_base_without_pieces_for_the_script_stands_behind(folder: Path, tmp_path: Path) -> None:
    rows = [f"{'很快好吃' if i % 2 else '太慢难吃'}{i}\t{i % 2}\n" for i in range(60)]
    (tmp_path / "zh.tsv").write_text("text\tlabel\n" + "".join(rows), encoding="utf-8")
    settings = FitSettings(base="", out=Path("model"), train=tmp_path / "zh.tsv", task="classify")
    (one,) = advise(settings, bases=[str(folder / "narrow")])
    assert not one.can_read
    assert "100 % of the pieces are unknown" in one.reason


@pytest.mark.usefixtures("told")
def test_a_call_that_was_stopped_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = FitSettings(base="", out=Path("model"), train=folder / "train.tsv", task="classify")
    monkeypatch.setattr(FakeUntrained, "most_calls", 2)
    with pytest.raises(KeyboardInterrupt):
        advise(settings, bases=[str(folder / "narrow")])
    monkeypatch.setattr(FakeUntrained, "most_calls", 1_000)
    advise(settings, bases=[str(folder / "narrow")])
    assert FakeUntrained.calls == 5  # three runtimes, two threads, no layers: each once


@pytest.mark.usefixtures("told")
def test_what_adapting_leaves_in_the_graph_is_not_predicted_to_be_pruned(folder: Path) -> None:
    settings = FitSettings(base="", out=Path("model"), train=folder / "train.tsv", task="classify", adapt="adapter")
    (one,) = advise(settings, bases=[str(folder / "wide")], contract=Contract(p99="20 ms", rate=2))
    assert FakeUntrained.calls == 4, "not without its layers"
    assert one.share is None
    assert "ms whole, and an adapter behind each half of a layer is not pruned: not well within" in one.reason
    (merged,) = advise(replace(settings, adapt="lora"), bases=[str(folder / "wide")], contract=Contract(p99="20 ms", rate=2))
    assert merged.share == 40, "what is merged leaves nothing"


def test_what_adapting_leaves_in_the_graph_is_timed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tokenizer = Tokenizer(folder / "wide" / "tokenizer.json")
    task = ClassifyTask(tokenizer, labels=("a", "b"))
    n_bytes = {}
    for adapt in ("full", "lora", "adapter", "prefix", "prompt"):
        with timing.UntrainedBase(folder / "wide", task=task, adapt=adapt) as untrained:
            rows = untrained.time(Variant(backend="openvino", precision="fp32", is_bucketed=True), buckets=(16,))
            n_bytes[adapt] = sum(file.stat().st_size for file in tmp_path.rglob("openvino/fp32/*.bin"))
        assert rows[0].p50_ms > 0
    assert n_bytes["lora"] == n_bytes["full"]
    assert min(n_bytes[adapt] for adapt in ("adapter", "prefix", "prompt")) > n_bytes["full"]


@pytest.fixture(scope="module")
def pairs(folder: Path) -> Path:
    """Questions, and queries with texts that fit and texts that do not, each of one length: one bucket."""
    words = "maria wrote from lisbon about her order".split()
    chance = random.Random(2)
    texts = [" ".join(chance.sample(words, 7)) for _ in range(80)]
    asked = [{"question": "who wrote", "context": text, "answer": "maria"} for text in texts]
    (folder / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    found = [{"query": text, "positive": text[::-1], "negative": f"hello {text[::-1]}"} for text in texts]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return folder


@pytest.mark.parametrize(
    ("task", "data", "further"),
    [("qa", "qa", {}), ("rerank", "pairs", {}), ("embedding", "pairs", {"pooling": "cls", "dimensions": (16, 8)})],
)
def test_an_untried_base_is_timed_for_every_task(
    pairs: Path, task: str, data: str, further: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = FitSettings(base="", out=Path("model"), train=pairs / f"{data}.jsonl", task=task, **further)
    (one,) = advise(settings, bases=[str(pairs / "narrow")], contract=Contract(p99="1 s"))
    assert (one.problem, one.share, one.dev) == (None, 100, None)
    assert 0 < one.median_ms <= one.long_ms
    assert one.rest_ms > 0
    monkeypatch.setattr(timing, "UntrainedBase", None)
    assert advise(settings, bases=[str(pairs / "narrow")], contract=Contract(p99="1 s")) == [one]


@pytest.mark.usefixtures("told")
def test_a_query_is_predicted_to_take_as_long_as_all_of_its_documents(pairs: Path) -> None:
    p50_ms = []
    for n in (2, 20):
        rows = [{"query": f"who wrote {i}", "positive": "maria", "negative": [f"hello {k}" for k in range(n - 1)]} for i in range(40)]
        (pairs / f"of_{n}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = FitSettings(base="", out=Path("model"), train=pairs / f"of_{n}.jsonl", task="rerank")
        (one,) = advise(settings, bases=[str(pairs / "narrow")], contract=Contract(p99="1 s", rate=1))
        assert one.median_ms == FakeUntrained.times_ms["narrow"]  # of a document
        p50_ms.append(one.p50_ms)
    assert p50_ms[1] - p50_ms[0] == pytest.approx(18 * FakeUntrained.times_ms["narrow"], rel=0.05)


@pytest.mark.usefixtures("told")
def test_times_of_another_head_are_not_taken_for_this_ones(pairs: Path) -> None:
    for pooling in ("mean", "cls", "mean"):
        settings = FitSettings(
            base="", out=Path("model"), train=pairs / "pairs.jsonl", task="embedding", pooling=pooling
        )
        advise(settings, bases=[str(pairs / "narrow")])
    assert FakeUntrained.calls == 10  # each of the two once


def test_bases_are_tried_on_whole_groups(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advising, "_MOST_TRIED", 20)
    monkeypatch.setattr(advising, "_MOST_JUDGED", 3)
    seen: list[Sequence[Any]] = []

    def note(*_: object, train: Sequence[Any], dev: Sequence[Any], **__: object) -> Any:
        seen.extend((train, dev))
        return SimpleNamespace(dev_score=SimpleNamespace(value=50.0))

    monkeypatch.setattr(loop, "train", note)
    settings = FitSettings(base="", out=Path("model"), train=pairs / "pairs.jsonl", task="embedding")
    monkeypatch.setattr(timing, "UntrainedBase", FakeUntrained)
    (one,) = advise(settings, bases=[str(pairs / "narrow")], try_epochs=1)
    assert one.dev == 50
    for part, most in zip(seen, (20, 3), strict=True):
        texts = {example.text for example in part}
        assert any(example.positives for example in part)
        assert all(text in texts for example in part for text in example.positives)
        assert len(part) <= most


def test_the_fit_for_vectors_is_named_as_it_was_asked(pairs: Path) -> None:
    done = run_millis(
        "advise", "--task", "embedding", "--train", pairs / "pairs.jsonl", "--base", pairs / "narrow",
        "--p99", "1 s", "--pooling", "cls", "--dimensions", "16,8", "--adapt", "ia3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert " --adapt ia3 " in done.stdout.splitlines()[-1]
    assert "--pooling cls --dimensions 16,8" in done.stdout.splitlines()[-1]
