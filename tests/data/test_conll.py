"""CoNLL files as people have them, and what is said about the ones that cannot be read."""

from pathlib import Path

import pytest

from millis.data.examples import SpanExample
from millis.data.readers import ReadSettings, read_examples, read_labelled
from millis.errors import InvalidData, InvalidValue

SENTENCE = ["Ada", "Lovelace", "met", "Kim", "in", "New", "South", "Wales", "Oslo", "."]
ENTITIES = [("Ada Lovelace", "PER"), ("Kim", "PER"), ("New South Wales", "LOC"), ("Oslo", "LOC")]
TAGS = {
    "iob1": "I-PER I-PER O I-PER O I-LOC I-LOC I-LOC B-LOC O",
    "bio": "B-PER I-PER O B-PER O B-LOC I-LOC I-LOC B-LOC O",
    "bioes": "B-PER E-PER O S-PER O B-LOC I-LOC E-LOC S-LOC O",
    "bilou": "B-PER L-PER O U-PER O B-LOC I-LOC L-LOC U-LOC O",
    "bmes": "B-PER E-PER O S-PER O B-LOC M-LOC E-LOC S-LOC O",
}


def write(path: Path, tokens: list[str], tags: str, *, between: str = "\t", end: str = "\n") -> Path:
    rows = [f"{token}{between}{tag}" for token, tag in zip(tokens, tags.split(), strict=True)]
    path.write_text(end.join(rows) + end, encoding="utf-8", newline="")
    return path


def entities(example: SpanExample) -> list[tuple[str, str]]:
    return [(example.text[span.start : span.end], span.label) for span in example.spans]


def complaint(path: Path, **options: object) -> list[str]:
    with pytest.raises(InvalidData) as caught:
        read_examples(path, **options)
    return str(caught.value).replace(f"{path}:", "").split("\n")


@pytest.mark.parametrize("scheme", TAGS)
@pytest.mark.parametrize("between", ["\t", " ", "   ", " -X- NN "])
def test_each_scheme_is_read_by_its_name_and_by_auto(tmp_path: Path, scheme: str, between: str) -> None:
    path = write(tmp_path / "a.conll", SENTENCE, TAGS[scheme], between=between)
    for name in (scheme, "auto"):
        (example,) = read_examples(path, scheme=name)
        assert entities(example) == ENTITIES
        assert example.text == " ".join(SENTENCE)
        assert example.source == f"{path}:1"


@pytest.mark.parametrize(
    ("scheme", "tags", "reasons"),
    [
        ("bio", "I-PER O I-LOC", ["1: I-PER after O", "3: I-LOC after O"]),
        ("bio", "B-PER I-LOC O", ["2: I-LOC after B-PER"]),
        ("iob1", "B-PER I-PER O", ["1: B-PER after O"]),
        ("bioes", "B-PER O O", ["2: O after B-PER"]),
        ("bioes", "S-PER E-PER O", ["2: E-PER after S-PER"]),
        ("bilou", "O B-PER I-PER", ["3: I-PER at the end"]),
        ("bmes", "B-PER M-LOC E-LOC", ["2: M-LOC after B-PER"]),
    ],
)
def test_a_tag_out_of_order_is_a_bad_row_of_the_named_scheme_only(
    tmp_path: Path, scheme: str, tags: str, reasons: list[str]
) -> None:
    path = write(tmp_path / "a.conll", ["a", "b", "c"], tags)
    found = complaint(path, scheme=scheme)
    assert found == [f"{r} is not {scheme!r}: correct the tag, or choose scheme 'auto'" for r in reasons]
    assert read_examples(path)


def test_auto_opens_an_entity_where_another_type_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", list("abcdef"), "I-PER I-LOC E-LOC I-LOC M-PER S-PER")
    assert entities(read_examples(path)[0]) == [
        ("a", "PER"), ("b c", "LOC"), ("d", "LOC"), ("e", "PER"), ("f", "PER"),
    ]  # fmt: skip


def test_document_marks_blank_lines_and_hashes_are_no_comments(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("-DOCSTART- -X- O O\n\n\n#tag\tO\n!\tO\n \t\n-DOCSTART-\nOslo\tB-LOC\n")
    examples = read_examples(path)
    assert [(e.text, e.source) for e in examples] == [("#tag !", f"{path}:4"), ("Oslo", f"{path}:8")]


def test_byte_order_mark_and_carriage_returns_change_nothing(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.conll", SENTENCE, TAGS["bio"])
    dressed = write(tmp_path / "b.conll", SENTENCE, TAGS["bio"], end="\r\n")
    dressed.write_bytes(b"\xef\xbb\xbf" + dressed.read_bytes())
    (one,), (other,) = read_examples(plain), read_examples(dressed)
    assert (one.text, one.spans) == (other.text, other.spans)


def test_tokens_may_be_emoji_and_odd_spaces_and_line_separators(tmp_path: Path) -> None:
    tokens = ["👩‍💻", "a\u200bb", "\u00a0", "New York", "x\u2028y", "x\u0085y", "🇳🇴"]
    path = write(tmp_path / "a.conll", tokens, "B-A O O B-LOC O O B-B")
    (example,) = read_examples(path)
    assert example.text == " ".join(tokens)
    assert entities(example) == [("👩‍💻", "A"), ("New York", "LOC"), ("🇳🇴", "B")]
    assert [span.end - span.start for span in example.spans] == [3, 8, 2]


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (list("我在1998年去NBA“看”球。"), "我在1998年去NBA“看”球。"),
        (["我", "喜欢", "Python", "语言", "。"], "我喜欢 Python 语言。"),
        (["カメラ", "を", "買う", "!"], "カメラを買う !"),
        (["𠮷野", "家"], "𠮷野家"),
        (["나는", "서울", "에"], "나는 서울 에"),
        (list("a b".replace(" ", "")), "a b"),
    ],
)
def test_text_is_rebuilt_as_the_language_is_written(tmp_path: Path, tokens: list[str], text: str) -> None:
    path = write(tmp_path / "a.conll", tokens, " ".join(["O"] * (len(tokens) - 1) + ["S-X"]))
    (example,) = read_examples(path)
    assert example.text == text
    assert entities(example) == [(tokens[-1], "X")]


def test_all_bad_rows_are_named_with_line_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("a\tO\nb\tx\tO\nc\n\nd\tX-PER\ne\tB-\n\tO\n\tB-PER\nf\tsecret\n\u200b\tB-PER\ng\tb-per")
    found = complaint(path)
    takes = "scheme 'auto' takes O, or a type after one of B-, I-, M-, E-, L-, S-, U-"
    assert found == [
        "2: 3 columns, but the file's first row (line 1) has 2",
        "3: 1 column, but the file's first row (line 1) has 2",
        f"5: unknown tag 'X-PER': {takes}",
        f"6: unknown tag 'B-': {takes}",
        "7: the token is empty; blanks='skip' leaves it out",
        "8: the token is empty: remove the row",
        f"9: the last column is not a tag: {takes}",
        "10: an entity of blank characters only: tag them O",
        f"11: unknown tag 'b-per': {takes}",
    ]


def test_a_bad_row_does_not_make_its_neighbours_bad(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("a\tO\nb\tX-PER\nc\tI-PER\nd\n")
    assert [row.split(":")[0] for row in complaint(path, scheme="bio")] == ["2", "4"]


def test_beyond_the_limit_bad_rows_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", ["a"] * 30, " ".join(["?"] * 30))
    found = complaint(path, limit=4)
    assert [row.split(":")[0] for row in found] == ["1", "2", "3", "4", "... and 26 more"]
    assert len(complaint(path)) == 21
    with pytest.raises(InvalidValue, match="limit cannot be 0"):
        read_examples(path, limit=0)


def test_a_file_of_one_column_asks_for_two(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("hello\nworld\n")
    assert complaint(path)[0].startswith("1: 1 column: a row needs a token and a tag")


def test_rows_with_an_empty_token_are_left_out_on_request_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("a\tO\n\tO\nb\tO\n\n \tO\n")
    reading = read_labelled(path, settings=ReadSettings(blanks="skip"))
    assert [example.text for example in reading.examples] == ["a b"]
    (note,) = reading.notes
    assert note == "2 rows with an empty token, 1 whole sentences, were left out (blanks='skip')."


@pytest.mark.parametrize("option", ["layout", "scheme", "ends", "overlaps", "blanks"])
def test_an_unknown_option_value_lists_the_known_ones(tmp_path: Path, option: str) -> None:
    path = write(tmp_path / "a.conll", ["a"], "O")
    with pytest.raises(InvalidValue, match=f"{option} cannot be 'odd': choose one of"):
        read_examples(path, **{option: "odd"})


@pytest.mark.parametrize(
    ("file", "options", "count"),
    [
        ("ner_en_wnut17/train.conll", {"scheme": "bio"}, 3394),
        ("ner_en_wnut17/dev.conll", {"scheme": "bio"}, 1009),
        ("ner_en_wnut17/test.conll", {"scheme": "bio"}, 1287),
        ("ner_zh_msra/train.txt", {}, 12000),
        ("ner_zh_msra/dev.txt", {"scheme": "bio"}, 1500),
    ],
)
def test_real_files_are_read_whole(shared: Path, file: str, options: dict[str, str], count: int) -> None:
    path = shared / "data" / file
    examples = read_examples(path, **options)
    assert len(examples) == count
    n_begun = sum(b"\tB-" in line for line in path.read_bytes().split(b"\n"))
    n_found = sum(len(example.spans) for example in examples)
    # Two entities of the MSRA training file begin with I-; that is why it is read leniently.
    assert n_found == n_begun + (2 if file == "ner_zh_msra/train.txt" else 0)
    if file.startswith("ner_zh"):
        # One sentence of the training file has no Chinese character in it.
        assert sum(" " in example.text for example in examples) == (file == "ner_zh_msra/train.txt")


def test_broad_twitter_corpus_needs_its_empty_tokens_left_out(shared: Path) -> None:
    folder = shared / "data" / "ner_en_btc"
    lines = [row.split(":")[0] for row in complaint(folder / "h.conll")]
    assert lines == ["22918", "30879", "30881", "30888"]
    readings = {name: read_labelled(folder / f"{name}.conll", settings=ReadSettings(blanks="skip")) for name in "abefgh"}
    # 9,339 tweets, one of which is an empty token and nothing else.
    assert sum(len(reading.examples) for reading in readings.values()) == 9338
    assert [name for name, reading in readings.items() if reading.notes] == ["f", "h"]
