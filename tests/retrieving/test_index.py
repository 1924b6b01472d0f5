"""An index on disk: built, searched, changed, killed in the middle, damaged."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from making import make_fake_bundle, small_disk
from millis import load
from millis.bundles import Bundle
from millis.bundles.bundle import hash_file
from millis.bundles.manifest import FileEntry
from millis.errors import InvalidBundle, InvalidData, InvalidRequest, InvalidValue, RunFailed
from millis.retrieving import Index, add_passages, build_index, delete_passages, open_index
from millis.retrieving.passages import Passage, read_passages
from millis.retrieving.storing import read_manifest, write_manifest, writing

ROWS = [
    {"id": "r1", "text": "Refunds take five days.", "topic": "refund", "year": 2024, "tags": ["money", "time"]},
    {"id": "r2", "text": "A refund goes to the card you paid with.", "topic": "refund", "year": 2026},
    {"id": "o1", "text": "Orders leave Lisbon on Monday.", "topic": "order", "is_new": True},
    {"id": 7, "text": "退款需要五天到账。", "topic": "refund", "year": 2025},
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_fake_bundle(tmp_path_factory.mktemp("model"), name="emb", task="embedding")


def write_rows(file: Path, rows: Sequence[object]) -> Path:
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return file


def make(folder: Path, bundle: Bundle, rows: Sequence[object] = ROWS) -> Path:
    path = folder / "faq.index"
    build_index(path, passages=read_passages(write_rows(folder / "rows.jsonl", rows)), model=bundle.path)
    return path


def find(index: Index, bundle: Bundle, query: str, **asked: object) -> list[str]:
    vector = np.array(load(bundle)(query)["embedding"], np.float32)
    return [one["id"] for one in index.search(query, vector, **{"k": 10, **asked}).results]


def test_vectors_and_words_find_together(tmp_path: Path, bundle: Bundle) -> None:
    index = open_index(make(tmp_path, bundle))
    assert (len(index), index.name) == (4, "faq")
    assert find(index, bundle, "Refunds take five days.")[0] == "r1"
    vector = np.array(load(bundle)("Orders leave Lisbon on Monday.")["embedding"], np.float32)
    found = index.search("Orders leave Lisbon on Monday.", vector, k=2)
    best = found.results[0]
    assert best["id"] == "o1"
    assert best["fields"] == {"topic": "order", "is_new": True}
    assert best["cosine"] == pytest.approx(1, abs=2e-3)
    assert best["ranks"] == {"vectors": 1, "words": 1}
    assert len(found.results) == 2
    assert list(found.times_ns) == ["filter", "vectors", "words", "fuse"]


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ({"topic": "refund"}, {"r1", "r2", "7"}),
        ({"topic": ["order", "unknown"]}, {"o1"}),
        ({"topic": "refund", "year": {"min": 2025}}, {"r2", "7"}),
        ({"year": {"min": 2024, "max": 2025}}, {"r1", "7"}),
        ({"tags": "time"}, {"r1"}),
        ({"is_new": True}, {"o1"}),
        ({"is_new": 1}, set()),
        ({"year": "2024"}, set()),
    ],
)
def test_a_filter_lets_through_what_it_says(tmp_path: Path, bundle: Bundle, where: dict[str, object], ids: set[str]) -> None:
    index = open_index(make(tmp_path, bundle))
    assert set(find(index, bundle, "refund", where=where)) == ids


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"colour": 1}, "the fields are is_new, tags, topic, year"),
        ({"year": {}}, "the filter on 'year' is none"),
        ({"year": {"min": "x"}}, "the filter on 'year' is none"),
        ({"year": {"above": 1}}, "the filter on 'year' is none"),
        ({"year": []}, "the filter on 'year' is none"),
        ({"year": None}, "the filter on 'year' is none"),
    ],
)
def test_a_filter_that_cannot_be_is_a_sentence(tmp_path: Path, bundle: Bundle, where: dict[str, object], said: str) -> None:
    index = open_index(make(tmp_path, bundle))
    with pytest.raises(InvalidRequest, match=said):
        find(index, bundle, "refund", where=where)


def test_passages_are_added_replaced_and_deleted(tmp_path: Path, bundle: Bundle) -> None:
    path = make(tmp_path, bundle)
    before = open_index(path)
    changed = add_passages(
        path, passages=[Passage(id="r1", text="Refunds take a week."), Passage(id="n1", text="We are in Lisbon.")],
        model=bundle.path,
    )
    assert changed == (1, 1, 0, 5)
    index = before.refresh()
    assert find(index, bundle, "Refunds take a week.")[0] == "r1"
    assert {one["text"] for one in index.search("days", np.ones(16, np.float32), k=10).results}.isdisjoint(
        {"Refunds take five days."}
    )
    assert delete_passages(path, ids=["r1", "o1"]) == (0, 0, 2, 3)
    index = index.refresh()
    assert set(find(index, bundle, "refunds")) == {"r2", "7", "n1"}
    assert index.refresh() is index
    assert len(before.search("Refunds take five days.", np.ones(16, np.float32), k=10).results) == 4, "a state stays"
    assert delete_passages(path, ids=["r2", "7", "n1"]).n == 0
    assert find(open_index(path), bundle, "refunds") == []


def test_a_build_that_was_killed_is_done_by_the_same_command(tmp_path: Path, bundle: Bundle) -> None:
    path = make(tmp_path, bundle)
    (path / "index.json").rename(path / "index.json.new")  # a moment before the end
    assert len(open_index(make(tmp_path, bundle))) == 4
    assert len(list((path / "segments").iterdir())) == 1
    for name in ("somebodys", ".lock"):
        (tmp_path / "other" / name / "segments").mkdir(parents=True)
        with pytest.raises(InvalidValue, match="exists: choose another -o"):
            build_index(tmp_path / "other", passages=[Passage(id="x", text="x")], model=bundle.path)


def test_a_value_that_a_passage_has_twice_counts_once(tmp_path: Path, bundle: Bundle) -> None:
    rows = [{"id": "a", "text": "one", "tags": ["x", "x"]}, {"id": "b", "text": "two", "tags": ["x"]}]
    index = open_index(make(tmp_path, bundle, rows))
    found = index.search("two", np.ones(16, np.float32), k=10, where={"tags": "x"}).results
    assert found == index.search("two", np.ones(16, np.float32), k=10).results


def test_many_small_additions_make_few_segments(tmp_path: Path, bundle: Bundle) -> None:
    path = make(tmp_path, bundle)
    for i in range(12):
        add_passages(path, passages=[Passage(id=f"n{i}", text=f"hello {i}")], model=bundle.path)
    index = open_index(path)
    assert len(index) == 16
    assert len(index.manifest.segments) <= 4
    assert len(list((path / "segments").iterdir())) == len(index.manifest.segments), "nothing is left behind"
    best = index.search("hello 7", np.ones(16, np.float32), k=16).results
    assert next(one["id"] for one in best if one["ranks"].get("words") == 1) == "n7"


def test_a_change_that_cannot_be_changes_nothing(tmp_path: Path, bundle: Bundle) -> None:
    path = make(tmp_path, bundle)
    seal = open_index(path).manifest.seal
    with pytest.raises(InvalidValue, match="has no passage 'nobody': nothing was deleted"):
        delete_passages(path, ids=["r1", "nobody"])
    with pytest.raises(InvalidValue, match="exists: choose another -o"):
        build_index(path, passages=[Passage(id="x", text="x")], model=bundle.path)
    with writing(path), pytest.raises(InvalidValue, match=r"another process writes faq\.index now"):
        delete_passages(path, ids=["r1"])
    assert open_index(path).manifest.seal == seal


def test_another_model_is_refused_by_name(tmp_path: Path, bundle: Bundle) -> None:
    path = make(tmp_path, bundle)
    other = make_fake_bundle(tmp_path / "other", name="other", task="embedding", buckets=(8, 32), delay_ms=0.1)
    with pytest.raises(InvalidBundle, match=r"index faq\.index was built by model emb, .*those of other as it is now"):
        add_passages(path, passages=[Passage(id="x", text="x")], model=other.path)
    ner = make_fake_bundle(tmp_path / "ner", name="names")
    with pytest.raises(InvalidBundle, match=r"names\.millis is for ner, and an index needs vectors"):
        add_passages(path, passages=[Passage(id="x", text="x")], model=ner.path)


def test_a_damaged_index_is_refused_by_name(tmp_path: Path, bundle: Bundle) -> None:
    path = make(tmp_path, bundle)
    whole = tmp_path / "whole.index"
    shutil.copytree(path, whole)
    for file in sorted(one.relative_to(path) for one in path.rglob("*") if one.is_file() and one.name != ".lock"):
        content = (whole / file).read_bytes()
        for damaged in (content[: len(content) // 2], b"", content[:-1] + bytes([content[-1] ^ 1]), None):
            (path / file).unlink(missing_ok=True)
            if damaged is not None:
                (path / file).write_bytes(damaged)
            with pytest.raises(InvalidBundle, match=r"faq\.index") as raised:
                open_index(path)
            assert "anew" in str(raised.value) or "makes one" in str(raised.value)
        (path / file).write_bytes(content)
    manifest = json.loads((path / "index.json").read_text())
    (path / "index.json").write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(InvalidBundle, match="an index of format 2, and this version of millis reads 1"):
        open_index(path)
    with pytest.raises(InvalidBundle, match="is no index"):
        open_index(tmp_path / "nothing")


def test_an_index_of_before_with_a_graph_is_read_and_the_graph_goes_with_its_segment(tmp_path: Path, bundle: Bundle) -> None:
    path = make(tmp_path, bundle)
    manifest = read_manifest(path)
    (segment,) = manifest.segments
    name = f"segments/{segment.name}/graph.usearch"
    (path / name).write_bytes(b"usearch")
    files = {**segment.files, name: FileEntry(sha256=hash_file(path / name), n_bytes=7)}
    write_manifest(path, msgspec.structs.replace(manifest, segments=(msgspec.structs.replace(segment, files=files),)))
    assert find(open_index(path), bundle, "Refunds take five days.")[0] == "r1"
    add_passages(path, passages=[Passage(id="n1", text="We are in Lisbon.")], model=bundle.path)
    assert not list(path.rglob("graph.usearch"))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "a"}, {"id": "x"}], r"rows.jsonl:2: no text under 'text'"),
        ([{"text": " "}], "no text under 'text'"),
        ([{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], "the id 'a' stands there twice"),
        ([{"id": True, "text": "x"}], "the id is no text"),
        ([{"id": "", "text": "x"}], "the id is no text"),
        ([{"text": "x" * 100_001}], "a text of 100,001 characters"),
        ([["x"]], "Expected `object`, got `array`: write one JSON object a line"),
    ],
)
def test_bad_rows_are_told_with_their_lines(tmp_path: Path, rows: list[object], said: str) -> None:
    with pytest.raises(InvalidData, match=said):
        read_passages(write_rows(tmp_path / "rows.jsonl", rows))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rows.jsonl/x.index", r"x\.index cannot stand below .*rows\.jsonl, which is a file: choose another -o"),
        ("x" * 300, "cannot stand there .file name too long.: choose another -o"),
    ],
)
def test_a_place_where_no_index_can_stand_is_refused_before_the_vectors_are_made(
    tmp_path: Path, bundle: Bundle, name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    passages = read_passages(write_rows(tmp_path / "rows.jsonl", ROWS))
    monkeypatch.setattr("millis.retrieving.writing._embed", lambda *_: pytest.fail("vectors were made"))
    with pytest.raises(InvalidValue, match=said):
        build_index(tmp_path / name, passages=passages, model=bundle.path)
    assert {one.name for one in tmp_path.iterdir()} == {"rows.jsonl"}


def test_a_passage_without_an_id_is_named_by_its_text(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"q": "hello"}, {"q": "hello"}])
    (passage,) = read_passages(rows, text_key="q")
    assert passage.id == read_passages(rows, text_key="q")[0].id
    assert len(passage.id) == 16


def test_a_full_disk_leaves_the_index_as_it_was_and_says_what_happened(tmp_path: Path, bundle: Bundle) -> None:
    with small_disk(tmp_path, n_kilobytes=64) as disk:
        path = make(disk, bundle)
        for n in (300, 1_200):  # passages fit and vectors do not; nothing does
            passages = [Passage(id=f"k{i}", text=f"hello {i}") for i in range(n)]
            with pytest.raises(RunFailed, match=r"cannot write .*faq\.index: (?!None).+\. The index is as it was"):
                add_passages(path, passages=passages, model=bundle.path)
            assert len(open_index(path)) == len(ROWS)


_ADD_FOR_EVER = """
import sys
from pathlib import Path
from millis.retrieving import add_passages, delete_passages
from millis.retrieving.passages import Passage
index, model, began = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
for i in range(began, began + 1000):
    add_passages(index, passages=[Passage(id=f"k{i}", text=f"hello {i}")], model=model)
    print("added", f"k{i}", flush=True)
    if (i - began) % 3 == 2:
        delete_passages(index, ids=[f"k{i - 1}"])
        print("deleted", f"k{i - 1}", flush=True)
"""


def test_a_writer_that_is_killed_loses_nothing_that_it_said(tmp_path: Path, bundle: Bundle) -> None:
    path = make(tmp_path, bundle)
    there, gone = set(), set()
    for turn in range(4):
        began = 1000 * turn
        child = subprocess.Popen(
            [sys.executable, "-c", _ADD_FOR_EVER, str(path), str(bundle.path), str(began)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for _ in range(4 + turn):
            what, name = child.stdout.readline().split()
            (there.add if what == "added" else gone.add)(name)
        os.kill(child.pid, signal.SIGKILL)  # somewhere in the change after the last that was said
        rest = child.communicate()[0].split()
        for what, name in zip(rest[::2], rest[1::2], strict=True):
            (there.add if what == "added" else gone.add)(name)
        ids = {passage.id for _, _, passage in open_index(path).passages()}
        assert there - gone <= ids
        assert not gone & ids
        assert len(ids - there - {"r1", "r2", "o1", "7"}) <= turn + 1, "at most the change that was under way"
    add_passages(path, passages=[Passage(id="last", text="hello")], model=bundle.path)
    assert len(list((path / "segments").iterdir())) == len(open_index(path).manifest.segments)
