"""Carving dev and test from train."""

from collections import Counter

import pytest

from millis.data.checks import check
from millis.data.examples import Span, SpanExample
from millis.data.splits import make_splits
from millis.errors import InvalidData


def example(text: str, label: str | None = "X") -> SpanExample:
    return SpanExample(text=text, spans=(Span(0, 1, label),) if label else (), source=f"a.conll:{text}")


MANY = [example(f"{number}", None if number % 2 else "X") for number in range(200)]


def test_a_tenth_is_carved_for_each_missing_part_and_said() -> None:
    splits = make_splits(MANY, seed=1)
    assert [len(part) for part in splits.parts().values()] == [160, 20, 20]
    assert sorted(splits.train + splits.dev + splits.test, key=lambda e: int(e.text)) == MANY
    assert splits.notes == (
        "test: 20 of 200 examples carved from train (none was given), by text, seed 1.",
        "dev: 20 of 200 examples carved from train (none was given), by text, seed 1.",
    )
    assert sum(bool(e.spans) for e in splits.test) == 10


def test_the_seed_decides_what_is_carved() -> None:
    assert make_splits(MANY, seed=1) == make_splits(MANY, seed=1)
    assert make_splits(MANY, seed=1).test != make_splits(MANY, seed=2).test


def test_parts_that_are_given_are_kept_as_they_are() -> None:
    dev, test = MANY[:3], MANY[3:5]
    splits = make_splits(MANY, dev=dev, test=test, seed=1)
    assert (list(splits.train), list(splits.dev), list(splits.test), splits.notes) == (MANY, dev, test, ())


def test_the_same_text_never_stands_on_two_sides() -> None:
    repeated = [example(f"{number % 37}") for number in range(300)]
    for seed in range(20):
        texts = [{e.text for e in part} for part in make_splits(repeated, seed=seed).parts().values()]
        assert sum(map(len, texts)) == 37
        assert all(texts)


def test_a_text_of_a_given_part_is_not_carved() -> None:
    dev = MANY[:150]
    for seed in range(5):
        splits = make_splits(MANY, dev=dev, seed=seed)
        assert not {e.text for e in splits.test} & {e.text for e in dev}
        assert [note.split(":")[0] for note in splits.notes] == ["test"]


def test_the_last_text_of_a_label_stays_in_train() -> None:
    rare = [*MANY[:40], example("rare one", "RARE")]
    for seed in range(30):
        assert check(make_splits(rare, seed=seed)).labels["RARE"] == {"train": 1, "dev": 0, "test": 0}


def test_small_and_repetitive_data_still_gives_one_example_to_each_part() -> None:
    splits = make_splits([example("1"), example("2"), example("3")], seed=1)
    assert [len(part) for part in splits.parts().values()] == [1, 1, 1]
    doubled = [example(f"{number // 4}") for number in range(12)]
    assert Counter(map(len, make_splits(doubled, seed=1).parts().values())) == {4: 3}


@pytest.mark.parametrize(
    ("train", "why"),
    [
        ([example("1")], "too small to carve"),
        ([example("1"), example("2")], "too small to carve"),
        ([example("1")] * 50, "all 50 examples of train have the same text"),
        ([example(str(number), f"label {number}") for number in range(20)], "too small to carve"),
    ],
)
def test_too_few_examples_are_refused(train: list[SpanExample], why: str) -> None:
    with pytest.raises(InvalidData, match=why):
        make_splits(train, seed=1)


@pytest.mark.parametrize("name", ["train", "dev", "test"])
def test_a_part_given_empty_is_refused(name: str) -> None:
    parts = {"train": MANY, name: []}
    with pytest.raises(InvalidData, match=f"{name} has no examples"):
        make_splits(parts.pop("train"), seed=1, **parts)
