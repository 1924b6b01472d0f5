"""Texts without labels, one a line."""

from pathlib import Path

import pytest

from millis.data.examples import AnswerExample, LabelExample, MatchExample, Question
from millis.data.plain import pass_over, read_plain
from millis.errors import InvalidData


def test_a_text_ends_at_a_line_feed_and_nowhere_else(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes("\ufeff退款\u2028要多久\x0b？\r\n\r\n second\x85one \n".encode())
    assert read_plain(file) == ["退款\u2028要多久\x0b？", " second\x85one "]


def test_texts_that_stand_in_labelled_data_are_passed_over_and_counted() -> None:
    parts = {
        "train": [LabelExample(text="refund please", labels=("a",))],
        "test": [LabelExample(text="退款 要多久", labels=("b",)), LabelExample(text="where is it", labels=("b",))],
    }
    texts = ["new", "Refund  please", "退款要多久", "ｗｈｅｒｅ is it", "other", "new", "where is it"]
    fresh, said = pass_over(texts, parts=parts, name="texts.txt")
    assert fresh == ("new", "other")
    assert said == "texts.txt: 5 of 7 texts are passed over, since they stand elsewhere too (lines before 1, test 3, train 1)"
    assert pass_over(["new"], parts=parts, name="texts.txt") == (("new",), None)
    with pytest.raises(InvalidData, match=r"texts.txt: all 2 texts stand in labelled data too \(test 1, train 1\): give others"):
        pass_over(["refund please", "where is it"], parts=parts, name="texts.txt")


def test_a_text_that_is_searched_may_be_read_and_a_question_or_what_it_is_asked_of_may_not() -> None:
    parts = {
        "dev": [AnswerExample(text=Question("who wrote", "maria wrote"))],
        "test": [MatchExample(text="a query", positives=("an answer",)), MatchExample(text="an answer", is_passage=True)],
    }
    fresh, _ = pass_over(["who wrote", "maria wrote", "a query", "an answer"], parts=parts, name="texts.txt")
    assert fresh == ("an answer",)
