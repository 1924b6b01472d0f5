"""Tables and JSON lines of labelled texts: what is read, and what is refused with file and line."""

from pathlib import Path

import pytest

from millis.data.examples import LabelExample
from millis.data.readers import ReadSettings, read_labelled
from millis.errors import InvalidData, InvalidValue


def read(tmp_path: Path, content: str | bytes, name: str = "some.csv", **settings: str) -> list[tuple[str, tuple[str, ...]]]:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    reading = read_labelled(file, settings=ReadSettings(**settings), of="labels")
    assert all(isinstance(example, LabelExample) for example in reading.examples)
    return [(example.text, example.labels) for example in reading.examples]


@pytest.mark.parametrize(
    "content",
    [
        "text,label\na fine day,good\nrain,bad\n",
        "label,text\ngood,a fine day\nbad,rain\n",
        "id,Review,Sentiment\n1,a fine day,good\n2,rain,bad\n",
        "\ufefftext,label\r\na fine day,good\r\nrain,bad\r\n",
        "text\tlabel\na fine day\tgood\nrain\tbad\n",
        "a fine day\tgood\nrain\tbad\n",
        "a fine day,good\nrain,bad\n",
        'text,label\n"a fine day",good\n"rain","bad"\n',
        '{"text": "a fine day", "label": "good"}\n{"text": "rain", "label": "bad"}\n',
        '{"sentence": "a fine day", "label": "good", "id": 1}\n\n{"sentence": "rain", "label": ["bad"]}\n',
    ],
)  # fmt: skip
def test_the_usual_shapes_are_read_alike(tmp_path: Path, content: str) -> None:
    assert read(tmp_path, content) == [("a fine day", ("good",)), ("rain", ("bad",))]


def test_quoted_cells_hold_commas_quotes_and_lines(tmp_path: Path) -> None:
    rows = read(tmp_path, 'text,label\n"one, ""two""\nthree",x\nfour,y\n')
    assert rows == [('one, "two"\nthree', ("x",)), ("four", ("y",))]


def test_tabs_part_cells_whatever_quotes_stand_between(tmp_path: Path) -> None:
    assert read(tmp_path, 'he said "no\t0\nan " apart\t1\n') == [('he said "no', ("0",)), ('an " apart', ("1",))]


def test_columns_are_named_or_numbered(tmp_path: Path) -> None:
    content = "日期\t正/负面\t标题\n2019\t1\t净利同比增\n2020\t0\t净利下降\n"
    expected = [("净利同比增", ("1",)), ("净利下降", ("0",))]
    assert read(tmp_path, content, text_column="标题", label_column="正/负面") == expected
    assert read(tmp_path, content, text_column="3", label_column="2") == expected
    assert read(tmp_path, "x,1,a\ny,0,b\n", text_column="3", label_column="1") == [("a", ("x",)), ("b", ("y",))]
    jsonl = '{"q": "who?", "l": 1}\n'
    assert read(tmp_path, jsonl, name="a.jsonl", text_column="q", label_column="l") == [("who?", ("1",))]


def test_several_labels_of_a_text(tmp_path: Path) -> None:
    rows = [("one", ("a", "b")), ("two", ()), ("three", ("b",))]
    assert read(tmp_path, "text,labels\none,b|a\ntwo,\nthree,b\n", separator="|") == rows
    jsonl = '{"text": "one", "labels": ["b", "a"]}\n{"text": "two", "labels": []}\n{"text": "three", "labels": "b"}\n'
    assert read(tmp_path, jsonl, separator=",") == rows


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,label\none,a\ntwo\n", "some.csv:3: 1 column, the first row has 2: quote a text that has commas"),
        ("text,label\none, two,a\n", "some.csv:2: 3 columns, the first row has 2"),
        ("text,label\none,\n", "some.csv:2: the label is blank: write it, or remove the row"),
        ("text,label\n ,a\n", "some.csv:2: the text is blank"),
        ("text,kind,more\none,a,b\n", "some.csv:1: 3 columns, none of which is known for the label"),
        ('text,label\n"one,a\n', "some.csv:2: unexpected end of data: a quote that opens"),
        ('{"text": "one"}\n', "some.csv:1: no key label or labels for the label: the row has text"),
        ('{"text": 1, "label": "a"}\n', "some.csv:1: text is a number, not text"),
        ('{"text": "one", "label": ["a", "b"]}\n', "some.csv:1: 2 labels: one a row, or many with multi_label"),
        ('{"text": "one", "label": 0.5}\n', "some.csv:1: the label is a fraction: give a text or a whole number"),
        ('{"text": "one", "label": null}\n', "some.csv:1: the label is null: give a text or a whole number"),
        ('{"text": "one", "label": "a"}\n{"text": \n', "some.csv:2: Input data was truncated"),
        ("text,label\n", "some.csv:1: the file has no examples"),
        (b"text,label\ncaf\xe9,a\n", "some.csv:2: byte 4 (0xe9) is not UTF-8"),
        ("text,label,Label\none,a,b\n", "some.csv:1: 2 columns are called 'label': choose one by its number"),
        ("text,label\none,a\n\ufefftext,label\ntwo,b\n", "some.csv:3: the names of the first row again: remove the row"),
        ("text,label\rone,a\rtwo,b\r", "some.csv:1: a carriage return inside a cell: end rows with a line feed"),
        ("text,label\none\r,a\n", "some.csv:2: a carriage return inside a cell"),
        ("text,label\n" + "x" * 10_000_001 + ",a\n", "some.csv:2: a cell of more than 10,000,000 characters: shorten it"),
    ],
)  # fmt: skip
def test_bad_rows_are_named(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(InvalidData) as caught:
        read(tmp_path, content)
    assert said in str(caught.value)


def test_one_column_for_text_and_label_is_refused_by_its_number(tmp_path: Path) -> None:
    for label_column in ("1", "text"):
        with pytest.raises(InvalidData, match="column 1 cannot be both text and label"):
            read(tmp_path, "text,label,more\none,a,b\n", label_column=label_column)


def test_marks_of_byte_order_inside_a_file_are_no_letters_of_it(tmp_path: Path) -> None:
    jsonl = '{"text": "one", "label": "a"}\n\ufeff{"text": "two", "label": "b"}\n'
    assert read(tmp_path, jsonl, name="joined.jsonl") == [("one", ("a",)), ("two", ("b",))]
    assert read(tmp_path, "one\ta\n\ufefftwo\tb\n", name="joined.tsv") == [("one", ("a",)), ("two", ("b",))]


def test_true_and_false_are_labels_as_json_writes_them(tmp_path: Path) -> None:
    jsonl = '{"text": "one", "label": true}\n{"text": "two", "label": [false]}\n{"text": "three", "label": "true"}\n'
    assert read(tmp_path, jsonl, name="some.jsonl") == [("one", ("true",)), ("two", ("false",)), ("three", ("true",))]


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no column 'words': the first row has text, label"):
        read(tmp_path, "text,label\none,a\n", text_column="words")


def test_layouts_belong_to_what_is_labelled(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="layout cannot be 'conll' for this task: choose one of auto, table, jsonl"):
        read(tmp_path, "text,label\none,a\n", layout="conll")
    with pytest.raises(InvalidValue, match="separator cannot be empty"):
        ReadSettings(separator="")
