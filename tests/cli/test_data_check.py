"""`millis data check` as a user meets it: each kind of row that looks wrong, with its file and line."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from fitting import run_millis
from making import write_conll

WORDS = {"order": ["parcel", "delivery", "courier", "tracking", "arrived"], "refund": ["money", "back", "charged", "returned", "paid"]}


def clean_rows(n: int) -> list[tuple[str, str]]:
    """Draw different texts whose words say their label."""
    chance = random.Random(3)
    labels = [chance.choice(list(WORDS)) for _ in range(n)]
    return [(f"{' '.join(chance.choices(WORDS[label], k=4))} number {i}", label) for i, label in enumerate(labels)]


def write_table(file: Path, rows: list[tuple[str, str]]) -> Path:
    file.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")
    return file


def check(*arguments: str | Path) -> tuple[int, dict[str, Any]]:
    done = run_millis("data", "check", *arguments, "--json")
    return done.returncode, json.loads(done.stdout)


def found(document: dict[str, Any], kind: str) -> list[tuple[str, str]]:
    return [(Path(one["source"]).name, one["said"]) for one in document["findings"] if one["kind"] == kind]


@pytest.mark.slow
def test_clean_files_are_nothing_but_notes_and_exit_0(tmp_path: Path) -> None:
    train = write_table(tmp_path / "train.tsv", clean_rows(60))
    code, document = check("--task", "classify", "--train", train)
    assert code == 0
    assert not document["is_wrong"]
    assert document["findings"] == []
    assert document["examples"] == {"train": 60}


@pytest.mark.slow
def test_each_kind_of_row_is_listed_with_file_and_line(tmp_path: Path) -> None:
    rows = clean_rows(60)
    (first, label), other = rows[0], {"order": "refund", "refund": "order"}[rows[0][1]]
    train = write_table(
        tmp_path / "train.tsv",
        [*rows, (first.upper(), other), (rows[1][0], rows[1][1]), ("!", "order"), ("once upon a time", "story"), ("a parcel", "Ｏrder ")],
    )
    full_width = rows[2][0].replace(" ", "　").replace("number", "ｎｕｍｂｅｒ")
    test = write_table(tmp_path / "test.tsv", [(full_width, rows[2][1]), (rows[3][0], rows[3][1]), ("new", "strange")])
    code, document = check("--task", "classify", "--train", train, "--test", test)
    assert code == 1
    assert document["is_wrong"]
    conflicts = found(document, "conflict")
    assert [where for where, _ in conflicts] == ["train.tsv:62"]
    assert conflicts[0][1].startswith(f"'{other}', and the same text at ")
    assert conflicts[0][1].endswith(f"train.tsv:2: '{label}'")
    assert [where for where, _ in found(document, "duplicate")] == ["train.tsv:63"]
    leaks = found(document, "leak")
    assert [where for where, _ in leaks] == ["test.tsv:2", "test.tsv:3"]
    assert "but for case, blanks or width" in leaks[0][1]
    assert "but for case" not in leaks[1][1]
    assert [where for where, _ in found(document, "empty")] == ["train.tsv:64"]
    assert ("train.tsv:65", "the only one of train with the label 'story'") in found(document, "once")
    assert found(document, "twin")[0][0] == "train.tsv:66"
    assert found(document, "unseen") == [("test.tsv:4", "train has no label 'strange'")]
    assert first not in json.dumps(document)  # of texts nothing is repeated


def test_one_chinese_character_is_a_text_and_a_sign_is_none(tmp_path: Path) -> None:
    train = write_table(tmp_path / "train.tsv", [*clean_rows(20), ("好", "order"), ("。", "order"), ("a", "order")])
    _, document = check("--task", "classify", "--train", train)
    assert [where for where, _ in found(document, "empty")] == ["train.tsv:23", "train.tsv:24"]


def test_questions_with_another_answer_conflict_and_passages_may_stand_in_two_files(tmp_path: Path) -> None:
    def write(name: str, rows: list[dict[str, str]]) -> Path:
        (tmp_path / name).write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
        return tmp_path / name

    asked = {"question": "谁写的？", "context": "张伟写了信"}
    train = write("qa.jsonl", [{**asked, "answer": "张伟"}, {**asked, "answer": "信"}])
    code, document = check("--task", "qa", "--train", train)
    assert code == 1
    assert found(document, "conflict") == [("qa.jsonl:2", f"labelled otherwise than the same text at {train}:1")]
    pairs = [{"query": "退款要多久", "positive": "退款需要五天到账"}, {"query": "怎么付款", "positive": "可以用银行卡付款"}]
    again = [{**pairs[0], "query": "钱什么时候到账"}, pairs[1]]
    code, document = check("--task", "embedding", "--train", write("a.jsonl", pairs), "--test", write("b.jsonl", again))
    assert code == 1
    assert [where for where, _ in found(document, "leak")] == ["b.jsonl:2"], "the query, not what it finds"
    other = write("c.jsonl", [{"query": "怎么 付款", "positive": "可以用现金付款"}])
    code, document = check("--task", "rerank", "--train", tmp_path / "a.jsonl", "--test", other)
    said = f"in train too but for case, blanks or width, at {tmp_path / 'a.jsonl'}:2"
    assert (code, found(document, "leak")) == (1, [("c.jsonl:1", said)]), "whatever is to be ranked"


@pytest.mark.slow
@pytest.mark.parametrize("text", ["好 {}", "! {}", "a {}"])
def test_texts_without_a_word_of_two_letters_are_looked_through(tmp_path: Path, text: str) -> None:
    rows = [(text.format("?!"[row % 2]), ("order", "refund")[row % 2]) for row in range(20)]
    code, document = check("--task", "classify", "--train", write_table(tmp_path / "train.tsv", rows))
    assert code == 0
    assert found(document, "suspicious") == []


def test_labels_that_differ_by_what_nobody_sees_are_named(tmp_path: Path) -> None:
    rows = [*clean_rows(4), ("another text", "\ufefforder"), ("a further text", "order\u200b")]
    code, document = check("--task", "classify", "--train", write_table(tmp_path / "train.tsv", rows))
    assert code == 1
    assert [where for where, _ in found(document, "twin")] == ["train.tsv:6", "train.tsv:7"]


@pytest.mark.slow
def test_flipped_labels_are_suspicious_and_only_a_note(tmp_path: Path) -> None:
    rows = clean_rows(120)
    flipped = [7, 40, 90]
    for row in flipped:
        text, label = rows[row]
        rows[row] = (text, "refund" if label == "order" else "order")
    code, document = check("--task", "classify", "--train", write_table(tmp_path / "train.tsv", rows))
    assert code == 0
    assert {where for where, _ in found(document, "suspicious")} == {f"train.tsv:{row + 2}" for row in flipped}


def test_entity_that_is_labelled_otherwise_elsewhere_is_suspicious(tmp_path: Path) -> None:
    sentences = [[("in", "O"), ("Lisbon", "B-LOC"), (f"x{i}", "O")] for i in range(6)]
    sentences += [[("to", "O"), ("Lisbon", "O"), ("again", "O")], [("Lisbon", "B-PER"), ("Maria", "I-PER"), ("spoke", "O")]]
    train = write_conll(tmp_path / "train.conll", sentences)
    code, document = check("--train", train)
    assert code == 0
    assert found(document, "suspicious") == [("train.conll:25", "'Lisbon' is not labelled, and LOC in 6 of 7 places")]


def test_entity_in_chinese_text_is_found_elsewhere(tmp_path: Path) -> None:
    def tags(text: str, tagged: bool) -> list[tuple[str, str]]:
        marks = iter(["B-LOC", "I-LOC"])
        return [(character, next(marks) if tagged and character in "上海" else "O") for character in text]

    sentences = [tags(f"去上海{end}", tagged=end != "走") for end in "玩吃住看走"]
    code, document = check("--train", write_conll(tmp_path / "train.conll", sentences))
    assert code == 0
    assert [said for _, said in found(document, "suspicious")] == ["'上海' is not labelled, and LOC in 4 of 5 places"]


@pytest.mark.slow
def test_people_see_a_limit_of_rows_of_each_kind(tmp_path: Path) -> None:
    train = write_table(tmp_path / "train.tsv", [*clean_rows(40), *[("the same", "order")] * 9])
    done = run_millis("data", "check", "--task", "classify", "--train", train, "--limit", "3")
    assert done.returncode == 0
    assert "repeated texts in train: 8" in done.stdout
    assert "... and 5 more" in done.stdout
    assert done.stdout.splitlines()[-1] == "nothing but notes"


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("text\tlabel\na\tx\nb\ty\nc\tx\nd\tx\ne\tx\n", "that needs two labels"),
        ("text\tlabel\na one\tx|y\nb two\t\n", "some rows have no label or several"),
    ],
)
def test_where_labels_cannot_be_judged_a_note_says_why(tmp_path: Path, content: str, note: str) -> None:
    (tmp_path / "train.tsv").write_text(content)
    several = ["--separator", "|"] if "|" in content else []
    code, document = check("--task", "classify", "--train", tmp_path / "train.tsv", *several)
    assert code == 0
    assert note in " ".join(document["notes"])


def test_one_label_for_all_texts_is_wrong_as_fit_says_it(tmp_path: Path) -> None:
    train = write_table(tmp_path / "train.tsv", [("a parcel", "order"), ("two parcels", "order")])
    code, document = check("--task", "classify", "--train", train)
    assert code == 1
    assert found(document, "single") == [("train.tsv:2", "every text of train has the label 'order': fit needs two or more")]
    code, document = check("--task", "classify", "--train", train, "--separator", "|")
    assert code == 0, "of several labels a text may have one, or none"


def test_labels_that_are_others_joined_are_told_with_the_flag_that_parts_them(tmp_path: Path) -> None:
    rows = [("a parcel", "order"), ("money", "refund"), ("a parcel and money", "order|refund"), ("both", "refund|order")]
    asked = ("--task", "classify", "--train", write_table(tmp_path / "train.tsv", rows))
    assert "others joined by '|': 2," in " ".join(check(*asked)[1]["notes"])
    assert "others joined" not in " ".join(check(*asked, "--separator", "|")[1]["notes"])


def test_a_file_that_cannot_be_read_is_one_sentence_and_exit_2(tmp_path: Path) -> None:
    done = run_millis("data", "check", "--train", tmp_path / "nowhere.conll")
    assert done.returncode == 2
    assert "no such file" in done.stderr
