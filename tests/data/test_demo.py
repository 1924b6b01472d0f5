"""The corpus that the project writes itself."""

from pathlib import Path

import pytest

from millis.data.checks import check
from millis.data.demo import LABELS, DemoFiles, split_patterns, write_demo
from millis.data.demo_patterns import PATTERNS
from millis.data.readers import read_examples
from millis.data.splits import Splits
from millis.errors import InvalidValue, RunFailed


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    return write_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def splits(files: DemoFiles) -> Splits:
    parts = {name: read_examples(getattr(files, name), scheme="bio") for name in ("train", "dev", "test")}
    return Splits(**parts)


def test_the_corpus_passes_its_own_check(splits: Splits) -> None:
    report = check(splits)
    assert report.examples == {"train": 1600, "dev": 300, "test": 600}
    assert set(report.labels) == {"PERSON", "ORG", "PRODUCT", "PLACE", "ORDER"}
    assert min(min(counts.values()) for counts in report.labels.values()) >= 40
    assert report.warnings == ()
    assert 0.05 < sum(not e.spans for e in splits.train) / len(splits.train) < 0.3


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(files: DemoFiles, tmp_path: Path) -> None:
    again, other = write_demo(tmp_path / "again"), write_demo(tmp_path / "other", seed=8)
    for name in ("train", "dev", "test"):
        written = getattr(files, name).read_bytes()
        assert getattr(again, name).read_bytes() == written
        assert getattr(other, name).read_bytes() != written


def test_patterns_are_many_and_each_belongs_to_one_part() -> None:
    everything = [line for lines in PATTERNS.values() for line in lines.strip().split("\n")]
    assert len(everything) == len(set(everything)) >= 120
    for seed in (7, 8):
        parts = split_patterns(seed)
        assert sorted(line for lines in parts.values() for line in lines) == sorted(everything)
        for lines in PATTERNS.values():
            kind = set(lines.strip().split("\n"))
            assert all(kind & set(part) for part in parts.values())


@pytest.mark.parametrize("part", ["dev", "test"])
def test_half_of_the_names_are_unseen(splits: Splits, part: str) -> None:
    def names(examples):
        return [
            (span.label, e.text[span.start : span.end].casefold())
            for e in examples for span in e.spans if span.label != "ORDER"
        ]  # fmt: skip

    seen = set(names(splits.train))
    for label in set(LABELS.values()) - {"ORDER"}:
        found = [name for name in names(splits.parts()[part]) if name[0] == label]
        assert 0.35 < sum(name not in seen for name in found) / len(found) < 0.65


def test_names_are_ambiguous_and_case_varies(splits: Splits) -> None:
    labels: dict[str, set[str]] = {}
    for e in splits.train:
        for span in e.spans:
            labels.setdefault(e.text[span.start : span.end].casefold(), set()).add(span.label)
    assert sum(len(found) > 1 for found in labels.values()) > 20
    assert 0.2 < sum(e.text == e.text.lower() for e in splits.train) / len(splits.train) < 0.5


def test_a_small_corpus_still_has_every_label(tmp_path: Path) -> None:
    for seed in range(10):
        files = write_demo(tmp_path, seed=seed, n_train=60, n_dev=10, n_test=20)
        report = check(Splits(**{n: read_examples(getattr(files, n)) for n in ("train", "dev", "test")}))
        assert len(report.labels) == 5


def test_a_corpus_of_nothing_or_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="n_dev 0"):
        write_demo(tmp_path, n_dev=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailed, match="cannot be written"):
        write_demo(tmp_path / "file")
