"""Questions with answers from files: SQuAD's JSON and JSON lines, read whole or not at all."""

import json
from pathlib import Path
from typing import Any

import pytest

from millis.data.examples import AnswerExample, Question
from millis.data.readers import ReadSettings, read_labelled
from millis.data.splits import make_splits
from millis.errors import InvalidData, InvalidValue

CONTEXT = "Maria wrote from Lisbon. 张伟住在上海。"


def squad(*asked: dict[str, Any], context: str = CONTEXT) -> str:
    return json.dumps({"version": "1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": asked}]}]})


def read(file: Path, text: str, **settings: Any) -> tuple[AnswerExample, ...]:
    file.write_text(text, encoding="utf-8")
    return read_labelled(file, settings=ReadSettings(**settings), of="answers").examples


def test_squad_is_read_with_all_its_answers_and_those_that_are_impossible(tmp_path: Path) -> None:
    where = {"id": "a", "question": "From where?", "answers": [
        {"text": "Lisbon", "answer_start": 17}, {"text": "Lisbon", "answer_start": 17}, {"text": "from Lisbon", "answer_start": 12},
    ]}  # fmt: skip
    who = {"id": "b", "question": "谁住在上海?", "answers": [{"text": "张伟", "answer_start": 25}]}
    none = {"id": "c", "question": "Why?", "is_impossible": True, "answers": [{"text": "Maria", "answer_start": 0}]}
    examples = read(tmp_path / "set.json", squad(where, who, none))
    assert [example.surfaces for example in examples] == [("Lisbon", "from Lisbon"), ("张伟",), ()]
    assert examples[0].text == Question("From where?", CONTEXT)
    assert [example.labels for example in examples] == [("answer",), ("answer",), ("no answer",)]
    assert examples[1].source.endswith("set.json:1: question b")


def test_json_lines_are_read_one_question_each(tmp_path: Path) -> None:
    rows = [
        {"question": "Who?", "context": CONTEXT, "answers": [{"text": "Maria", "start": 0}]},
        {"question": "Where?", "context": CONTEXT, "answer": "上海"},
        {"question": "When?", "context": CONTEXT},
    ]
    examples = read(tmp_path / "set.jsonl", "\n".join(map(json.dumps, rows)))
    assert [example.surfaces for example in examples] == [("Maria",), ("上海",), ()]


def test_an_answer_that_stands_elsewhere_is_an_error_or_left_out_and_counted(tmp_path: Path) -> None:
    good = {"id": "good", "question": "Who?", "answers": [{"text": "Maria", "answer_start": 0}]}
    moved = {"id": "moved", "question": "Where?", "answers": [{"text": "Lisbon", "answer_start": 3}]}
    stray = {"id": "stray", "question": "Why?", "answers": [{"text": "because", "answer_start": 0}]}
    with pytest.raises(InvalidData) as caught:
        read(tmp_path / "set.json", squad(good, moved, stray))
    said = str(caught.value)
    assert "question moved: an answer of 6 characters does not stand at 3 in the text; it stands at 17" in said
    assert "question stray: an answer of 7 characters stands nowhere in the text" in said
    (tmp_path / "set.json").write_text(squad(good, moved, stray))
    reading = read_labelled(tmp_path / "set.json", settings=ReadSettings(strays="skip"), of="answers")
    assert [example.surfaces for example in reading.examples] == [("Maria",)]
    assert reading.notes[0].startswith("2 questions")


def test_blank_questions_are_left_out_on_request(tmp_path: Path) -> None:
    good = {"id": "good", "question": "Who?", "answers": [{"text": "Maria", "answer_start": 0}]}
    blank = {"id": "blank", "question": " ", "answers": []}
    (tmp_path / "set.json").write_text(squad(good, blank))
    reading = read_labelled(tmp_path / "set.json", settings=ReadSettings(blanks="skip"), of="answers")
    assert len(reading.examples) == 1
    assert reading.notes == ("1 blank questions were left out (blanks='skip').",)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"question": "Who?"}', "missing required field `context`"),
        ('{"question": "", "context": "x y"}', "the question is blank"),
        ('{"question": "Who?", "context": " "}', "the context is blank: write it, or remove the question"),
        ('{"question": "Who?", "context": "x", "answers": [{"text": " "}]}', "an answer is blank"),
        ('{"question": "Who?", "context": "x", "answers": [], "answer": "x"}', "a row needs one of them"),
        ('["Who?", "x"]', "Expected `object`"),
        ('{"question": "Who?", "context": "x", "more": ' + "[" * 5000, "nested too deeply"),
        ("Who?", "one JSON object a line"),
    ],
)
def test_a_bad_line_is_named_with_its_reason(tmp_path: Path, row: str, reason: str) -> None:
    good = json.dumps({"question": "Who?", "context": CONTEXT, "answer": "Maria"})
    with pytest.raises(InvalidData) as caught:
        read(tmp_path / "set.jsonl", f"{good}\n{row}\n")
    assert str(caught.value).startswith(f"{tmp_path / 'set.jsonl'}:2: ")
    assert reason in str(caught.value)


def test_what_is_not_squad_is_said_where_squad_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="SQuAD's JSON"):
        read(tmp_path / "set.json", '{"data": 3}', layout="squad")
    with pytest.raises(InvalidValue, match="strays cannot be 'drop'"):
        ReadSettings(strays="drop")


def test_questions_about_one_text_stay_on_one_side(tmp_path: Path) -> None:
    rows = [
        {"question": f"Where is {name} from?", "context": f"Text {i} says that {name} is from Lisbon.", "answer": name}
        for i in range(30) for name in ("Maria", "Wei", "Olu")
        if name  # three questions a context
    ]  # fmt: skip
    for row in rows:
        row["context"] = row["context"].split(" says")[0] + " says that Maria, Wei and Olu are from Lisbon."
    examples = read(tmp_path / "set.jsonl", "\n".join(map(json.dumps, rows)))
    splits = make_splits(examples, seed=3)
    contexts = [{example.text.context for example in part} for part in (splits.train, splits.dev, splits.test)]
    assert all(contexts)
    assert not contexts[0] & contexts[1]
    assert not contexts[0] & contexts[2]
