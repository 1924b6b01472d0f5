"""Altered copies of labelled texts: they differ, and what is labelled stands where it stood."""

import pytest

from millis.data.examples import AnswerExample, LabelExample, Question, RankExample, Ranking, Span, SpanExample
from millis.errors import InvalidValue
from millis.training.augmentation import WAYS, alter_texts, augment

TEXT = "Maria wrote from Lisbon about orders, 服务台在大厅里"


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_has_as_many_characters_and_its_labels(way: str) -> None:
    example = SpanExample(text=TEXT, spans=(Span(17, 23, "LOC"),))
    copies = augment([example] * 200, ways=[way], seed=1)
    assert 60 < len(copies) < 140, "half of them, where the way changes anything"
    assert len({copy.text for copy in copies}) >= (10 if way == "typos" else 1)
    for copy in copies:
        assert copy.text != TEXT
        assert len(copy.text) == len(TEXT)
        assert copy.spans == example.spans
    assert [copy.text for copy in copies] == [copy.text for copy in augment([example] * 200, ways=[way], seed=1)]


def test_each_way_does_what_its_name_says() -> None:
    def altered(way: str, text: str) -> str:
        (one,) = alter_texts([LabelExample(text=text, labels=("a",))], way=way, seed=2)
        assert isinstance(one, str)
        return one

    assert altered("width", "abc 1") == "ａｂｃ １"
    assert altered("width", "ａｂｃ") == "abc"
    assert altered("script", "头发") == "頭髮"
    assert altered("script", "頭髮") == "头发"
    assert altered("case", "abc") in ("ABC", "Abc")
    assert altered("script", "abc") == "abc", "nothing to change"


def test_questions_and_rankings_are_altered_in_all_their_texts() -> None:
    question = AnswerExample(text=Question("where", "in Lisbon"), answers=((3, 9),))
    (copy,) = {one.text for one in augment([question] * 9, ways=["width"], seed=1)}
    assert (copy.question, copy.context) == ("ｗｈｅｒｅ", "ｉｎ Ｌｉｓｂｏｎ")
    ranking = RankExample(text=Ranking("where", ("in", "at")), is_relevant=(True, False))
    (copy,) = {one.text for one in augment([ranking] * 9, ways=["width"], seed=1)}
    assert copy.documents == ("ｉｎ", "ａｔ")


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(InvalidValue, match="augment cannot be 'noise': choose of typos, case, width, script"):
        augment([], ways=["noise"], seed=1)
