"""Files that are no labelled text at all."""

import gzip
import re
from pathlib import Path

import pytest

from millis.data.readers import read_examples, read_labelled
from millis.errors import InvalidData


@pytest.mark.parametrize("content", [b"", b"\n\n \n", b"\xef\xbb\xbf", b"\r\n", b"-DOCSTART- O\n\n"])
@pytest.mark.parametrize("layout", ["auto", "conll"])
def test_a_file_without_examples_is_refused_by_name(tmp_path: Path, content: bytes, layout: str) -> None:
    path = tmp_path / "empty.conll"
    path.write_bytes(content)
    with pytest.raises(InvalidData) as caught:
        read_examples(path, layout=layout)
    assert str(caught.value).startswith(f"{path}:1: the file has no examples")


def test_a_device_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "endless").symlink_to("/dev/zero")
    for of in ("spans", "labels", "answers", "matches"):
        with pytest.raises(InvalidData, match=r"endless: cannot be read .a device, which may have no end.: give a file of texts"):
            read_labelled(tmp_path / "endless", of=of)


def test_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="a folder: give the path of one file") as caught:
        read_examples(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["missing.conll", "missing/a.conll", "nul\0.conll", "n" * 300])
def test_a_path_that_leads_nowhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidData):
        read_examples(tmp_path / name)


def test_bytes_that_are_not_utf8_are_named_by_line_with_all_other_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "latin1.conll"
    path.write_bytes("a\tO\nZürich\tB-LOC\nb\nMalmö\tB-LOC\n".encode("latin-1"))
    with pytest.raises(InvalidData) as caught:
        read_examples(path)
    convert = "convert the file, as with `iconv -f LATIN1 -t UTF-8`"
    assert str(caught.value).replace(f"{path}:", "").split("\n") == [
        f"2: byte 2 (0xfc) is not UTF-8: {convert}",
        "3: 1 column, but the file's first row (line 1) has 2",
        f"4: byte 5 (0xf6) is not UTF-8: {convert}",
    ]


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        ("配送很快，味道也不错", "gb18030", "GB18030"),
        ("配送很快，味道也不错", "gbk", "GB18030"),
        ("送餐很快，味道也不錯，下次還會再來", "big5", "BIG5"),
        ("Ärger über die Straße in Köln, ¿qué pasó?", "latin-1", "LATIN1"),
    ],
)
def test_a_chinese_file_in_another_encoding_is_told_how_to_convert_it(tmp_path: Path, text: str, encoding: str, said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(f"text,label\n{text},good\nx y,bad\n".encode(encoding))
    with pytest.raises(InvalidData) as caught:
        read_labelled(path, of="labels")
    assert f"`iconv -f {said} -t UTF-8`" in str(caught.value)
    assert path.read_bytes().decode(said) == f"text,label\n{text},good\nx y,bad\n"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_recognised_with_its_mark_and_without(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.conll"
    path.write_bytes("a\tO\n".encode(encoding))
    with pytest.raises(InvalidData, match="iconv -f UTF-16"):
        read_examples(path)


def test_utf32_is_no_utf16(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_bytes("a\tO\n".encode("utf-32"))
    with pytest.raises(InvalidData, match="iconv -f UTF-32"):
        read_examples(path)


@pytest.mark.parametrize("of", ["spans", "labels", "answers", "matches"])
def test_what_is_packed_is_no_text(tmp_path: Path, of: str) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\none,a\n"))
    with pytest.raises(InvalidData) as caught:
        read_labelled(path, of=of)
    assert re.fullmatch(r".*a\.csv\.gz:1: not text: byte \d+ of the file is NUL\. Unpack or export it .*", str(caught.value))


def test_a_file_all_of_whose_rows_are_left_out_says_why(tmp_path: Path) -> None:
    path = tmp_path / "same.jsonl"
    path.write_text('{"query": "a", "positive": "a"}\n' * 3)
    with pytest.raises(InvalidData, match=r"no examples \(.*; 1 pairs left out: query and text are the same\): give"):
        read_labelled(path, of="matches")


def test_a_token_that_looks_like_json_does_not_make_a_file_json(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("{\tO\nOslo\tB-LOC\n}\tO\n")
    assert read_examples(path)[0].text == "{ Oslo }"


def test_layout_by_name_overrules_what_a_file_looks_like(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("Oslo\tB-LOC\n")
    assert len(read_examples(path, layout="conll")) == 1
    with pytest.raises(InvalidData, match="write one JSON object a line"):
        read_examples(path)


@pytest.mark.parametrize("row", ["[" * 100_000, '{"a":' * 100_000, '{"text": "a", "spans": [], "more": ' + "[" * 100_000])
def test_a_row_nested_without_end_is_a_bad_row(tmp_path: Path, row: str) -> None:
    path = tmp_path / "deep.jsonl"
    path.write_text(row)
    with pytest.raises(InvalidData, match=r"deep\.jsonl:1: "):
        read_examples(path)
