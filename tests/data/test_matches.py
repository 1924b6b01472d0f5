"""Texts that fit one another, from files, and how they are split."""

import json
from pathlib import Path

import pytest

from millis.data.checks import check
from millis.data.readers import ReadSettings, read_labelled
from millis.data.rows import Reading
from millis.data.splits import make_splits
from millis.errors import InvalidData, InvalidValue


def read(tmp_path: Path, *rows: object) -> Reading:
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows))
    return read_labelled(file, of="matches")


def test_each_text_is_one_example_that_knows_what_fits(tmp_path: Path) -> None:
    reading = read(
        tmp_path,
        {"query": "how long", "positive": "five days", "negative": "ten euros"},
        {"query": "how long", "positive": ["a week"], "negative": ["ten euros", "by mail"]},
        {"query": "how much", "positive": "ten euros"},
    )
    by_text = {example.text: example for example in reading.examples}
    assert by_text["how long"].positives == ("five days", "a week")
    assert by_text["how long"].negatives == ("ten euros", "by mail")
    assert by_text["how long"].labels == ("query",)
    assert by_text["ten euros"].labels == ("passage",)
    assert len(by_text) == len(reading.examples) == 6
    assert by_text["five days"].group == by_text["a week"].group != by_text["how much"].group


def test_simclue_has_two_shapes(tmp_path: Path) -> None:
    reading = read(
        tmp_path,
        {"query": "胡子长得太快怎么办？", "title": "胡子长得快怎么办？", "neg_title": "怎样使胡子不浓密！"},
        {"sentence1": "买手表", "sentence2": "手表哪里好", "label": "1"},
        {"sentence1": "买手表", "sentence2": "买手机", "label": "0"},
        {"sentence1": "蜡烛", "sentence2": "没有关系", "label": 0},
    )
    by_text = {example.text: example for example in reading.examples}
    assert by_text["买手表"].negatives == ("买手机",)
    assert "蜡烛" not in by_text
    assert reading.notes == ("1 rows left out: no text fits their query in any row",)


def test_what_contradicts_itself_is_left_out_and_told(tmp_path: Path) -> None:
    reading = read(
        tmp_path,
        {"query": "a", "positive": "b", "negative": "c"},
        {"query": "a", "positive": "c"},
        {"query": "a", "positive": "a"},
    )
    assert next(one for one in reading.examples if one.text == "a").positives == ("b", "c")
    assert reading.notes == (
        "1 negatives left out: another row says that they fit the same query",
        "1 pairs left out: query and text are the same",
    )


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("[1]", "write one JSON object a line"),
        ({"query": "a"}, "no key positive or title for the positive: the row has query"),
        ({"positive": "a"}, "no key query or sentence1 for the query"),
        ({"query": " ", "positive": "b"}, "query is blank: write it, or remove the row"),
        ({"query": "a", "positive": []}, "positive is blank"),
        ({"query": 3, "positive": "b"}, "query holds a number, not text"),
        ({"query": ["a", "b"], "positive": "b"}, "2 queries: give one a row"),
        ({"sentence1": "a", "sentence2": "b", "label": 2}, "the label is neither 0 nor 1"),
    ],
)
def test_a_bad_row_is_told_with_its_line(tmp_path: Path, row: object, said: str) -> None:
    with pytest.raises(InvalidData, match=r"pairs\.jsonl:2: ") as raised:
        read(tmp_path, {"query": "a", "positive": "b"}, row)
    assert said in str(raised.value)


def test_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="columns and separators are for labels"):
        read_labelled(tmp_path / "x", settings=ReadSettings(text_column="a"), of="matches")


def test_texts_that_fit_stay_on_one_side(tmp_path: Path) -> None:
    rows = [{"query": f"q{i}", "positive": f"p{i // 2}", "negative": f"p{i // 2 + 1}"} for i in range(80)]
    splits = make_splits(read(tmp_path, *rows).examples, seed=3)
    assert min(map(len, splits.parts().values())) > 5
    for part in splits.parts().values():
        texts = {example.text for example in part}
        assert all(text in texts for example in part for text in example.positives)
    assert not check(splits).warnings
