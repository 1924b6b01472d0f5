"""What a check says about data before anything is trained on it."""

import pytest

from millis.data.checks import check
from millis.data.examples import Span, SpanExample
from millis.data.splits import Splits
from millis.errors import InvalidData


def example(text: str, *labels: str, line: int = 1) -> SpanExample:
    spans = tuple(Span(place, place + 1, label) for place, label in enumerate(labels))
    return SpanExample(text=text, spans=spans, source=f"test.conll:{line}")


def test_the_report_counts_labels_and_lengths_by_part() -> None:
    train = (example("Ada and Eve", "PER", "PER"), example("Oslo", "LOC"), example("nothing"))
    report = check(Splits(train=train, dev=(example("Kim", "PER"),), test=(example("Rome", "LOC"),)))
    assert report.examples == {"train": 3, "dev": 1, "test": 1}
    assert report.labels["PER"] == {"train": 2, "dev": 1, "test": 0}
    assert report.characters["train"].counts == ((4, 1), (7, 1), (11, 1))
    assert report.warnings == ()
    lines = report.lines()
    assert lines[0].split() == ["label", "train", "dev", "test"]
    assert lines[2].split() == ["PER", "2", "1", "0"]
    assert lines[3].split() == ["examples", "3", "1", "1"]
    assert lines[4] == "characters in train: median 7, p99 11, longest 11"


def test_texts_that_also_stand_in_train_are_counted_in_a_warning() -> None:
    train = (example("one", "X"), example("two"))
    splits = Splits(train=train, dev=(example("one"),), test=(example("two"), example("two"), example("six")))
    report = check(splits)
    assert [warning.split(" examples")[0] for warning in report.warnings] == ["1 of 1 dev", "2 of 3 test"]
    assert report.lines()[-1].startswith("warning: 2 of 3 test examples also stand in train (the same text)")


def test_labels_that_train_never_saw_are_refused_with_file_and_line() -> None:
    train, dev = (example("one", "X"),), (example("two", "Y", line=9),)
    test = (example("three", "X", line=3), example("four", "Z", line=5), example("five", "Z", line=7))
    with pytest.raises(InvalidData) as caught:
        check(Splits(train=train, dev=dev, test=test))
    assert str(caught.value).split("\n") == [
        "test.conll:9: dev has the label 'Y', which train never saw",
        "test.conll:5: test has the label 'Z', which train never saw",
        "train has X: correct the labels, or add examples of them to train.",
    ]


def test_train_without_a_span_is_refused() -> None:
    part = (example("one"), example("two"))
    with pytest.raises(InvalidData, match=r"test.conll:1: train has 2 examples and no label in any"):
        check(Splits(train=part, dev=part, test=part))
