"""JSON lines with character spans, and what is said about the ones that cannot be read."""

import json
from pathlib import Path

import pytest

from millis.data.examples import Span
from millis.data.readers import ReadSettings, read_examples, read_labelled
from millis.errors import InvalidData

TEXT = "😀 Ada of Oslo"


def write(path: Path, *rows: object, end: str = "\n") -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text(end.join(lines) + end, encoding="utf-8", newline="")
    return path


def complaint(path: Path, **options: object) -> list[str]:
    with pytest.raises(InvalidData) as caught:
        read_examples(path, **options)
    return str(caught.value).replace(f"{path}:", "").split("\n")


@pytest.mark.parametrize(
    ("fields", "ends"),
    [
        ({"spans": [[9, 13, "LOC"], [2, 5, "PER"]]}, "exclusive"),
        ({"spans": [[2, 4, "PER"], [9, 12, "LOC"]]}, "inclusive"),
        ({"entities": [{"start": 2, "end": 5, "label": "PER"}, [9, 13, "LOC"]], "id": 7}, "exclusive"),
        ({"spans": [{"start": 2, "end": 4, "label": "PER", "text": "Ada"}, [9, 12, "LOC"]]}, "inclusive"),
        ({"label": {"PER": {"Ada": [[2, 4]]}, "LOC": {"Oslo": [[9, 12]]}}}, "inclusive"),
        ({"label": {"PER": {"Ada": [[2, 5]]}, "LOC": {"Oslo": [[9, 13]]}}}, "exclusive"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
def test_each_shape_is_read_with_its_ends(tmp_path: Path, fields: dict, ends: str, name: str) -> None:
    path = write(tmp_path / name, {"text": TEXT, **fields}, "", {"text": "no entity", "spans": []})
    if "label" in fields and ends == "exclusive":
        path = write(tmp_path / name, {"text": TEXT, **fields}, "", {"text": "no entity", "label": {}})
    first, second = read_examples(path, ends=ends)
    assert (first.text, first.spans) == (TEXT, (Span(2, 5, "PER"), Span(9, 13, "LOC")))
    assert (second.spans, second.source) == ((), f"{path}:3")


def test_byte_order_mark_and_carriage_returns_change_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "Oslo", "spans": [[0, 4, "LOC"]]}, end="\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (example,) = read_examples(path)
    assert (example.text, example.spans) == ("Oslo", (Span(0, 4, "LOC"),))


def test_a_surface_that_does_not_match_names_the_ends_that_would_fit(tmp_path: Path) -> None:
    rows = [
        {"text": TEXT, "label": {"PER": {"Ada": [[2, 4]]}}},
        {"text": TEXT, "spans": [{"start": 2, "end": 5, "label": "PER", "text": "Eve"}]},
        {"text": TEXT, "spans": [[9, 9, "X"]]},
    ]
    path = write(tmp_path / "a.jsonl", *rows)
    mismatch = "with exclusive ends is not the surface text given beside it"
    assert complaint(path) == [
        f"1: span [2, 4] {mismatch}; ends='inclusive' would fit",
        f"2: span [2, 5] {mismatch}",
        "3: span [9, 9] with exclusive ends holds nothing but blanks; ends='inclusive' would fit",
    ]
    path = write(tmp_path / "b.jsonl", {"text": TEXT, "spans": [[9, 13, "LOC"]]})
    assert complaint(path, ends="inclusive") == [
        "1: span [9, 13] is outside the text of 13 characters with inclusive ends; ends='exclusive' would fit"
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"text": "secret', "Input data was truncated: write one JSON object a line"),
        ('{"text": "secret" "x"}', "JSON is malformed"),
        ("[1, 2]", "Expected `object`, got `array`"),
        ({"spans": []}, "missing required field `text`"),
        ({"text": "secret"}, "0 of the keys spans, entities and label: a row needs exactly one of them"),
        ({"text": "secret", "spans": [], "entities": []}, "2 of the keys"),
        ({"text": " \u200b", "spans": []}, "the text is blank: write it, or remove the row"),
        ({"text": "secret", "spans": [[0, 9, "X"]]}, "[0, 9] is outside the text of 6 characters"),
        ({"text": "secret", "spans": [[-1, 3, "X"]]}, "[-1, 3] is outside the text"),
        ({"text": "secret", "spans": [[3, 1, "X"]]}, "[3, 1] is outside the text"),
        ({"text": "secret", "spans": [[0, 10**30, "X"]]}, "is outside the text"),
        ({"text": "secret", "spans": [[0, 1.0, "X"]]}, "Expected `int`, got `float`"),
        ({"text": "secret", "spans": [[0, True, "X"]]}, "Expected `int`, got `bool`"),
        ({"text": "secret", "spans": [["0", 1, "X"]]}, "Expected `int`, got `str`"),
        ({"text": "secret", "spans": [[0, 1]]}, "Expected `array` of length 3"),
        ({"text": "secret", "spans": [[0, 1, " "]]}, "a label that is blank"),
        ({"text": "se cret", "spans": [[2, 3, "X"]]}, "holds nothing but blanks"),
        ({"text": "secret", "spans": [[0, 4, "X"], [1, 2, "Y"]]}, "spans [0, 4) and [1, 2) overlap"),
        ({"text": "secret", "spans": [[0, 2, "X"], [0, 2, "X"]]}, "spans [0, 2) and [0, 2) overlap"),
        ('{"text": "secret\\ud800", "spans": []}', "JSON is malformed"),
    ],
)
def test_a_bad_row_is_named_and_never_quoted(tmp_path: Path, row: object, reason: str) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "fine", "spans": []}, row, {"text": "fine", "spans": []})
    (found,) = complaint(path)
    assert found.startswith("2: ")
    assert reason in found
    assert "secret" not in found


def test_of_overlapping_spans_the_longest_is_kept_on_request_and_the_rest_counted(tmp_path: Path) -> None:
    spans = [[0, 2, "A"], [1, 5, "B"], [4, 6, "C"], [6, 7, "D"]]
    path = write(tmp_path / "a.jsonl", {"text": "abcdefg", "spans": spans})
    reading = read_labelled(path, settings=ReadSettings(overlaps="longest"))
    assert reading.examples[0].spans == (Span(1, 5, "B"), Span(6, 7, "D"))
    assert reading.notes == ("2 spans that overlap a longer one were left out (overlaps='longest').",)


def test_cluener_is_read_whole_with_inclusive_ends(shared: Path) -> None:
    folder = shared / "data" / "ner_zh_cluener"
    dev = read_labelled(folder / "dev.json", settings=ReadSettings(ends="inclusive"))
    assert (len(dev.examples), dev.notes) == (1343, ())
    # One book title holds a company, twice labelled: nothing is dropped unasked.
    assert complaint(folder / "train.json", ends="inclusive")[0].startswith("1507: spans [15, 35)")
    train = read_labelled(folder / "train.json", settings=ReadSettings(ends="inclusive", overlaps="longest"))
    assert len(train.examples) == 10748
    assert train.notes[0].startswith("2 spans")
    assert "... and 1323 more" in complaint(folder / "dev.json")
