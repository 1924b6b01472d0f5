"""`millis.fit` and `millis fit` before anything is trained: what is asked, by name, checked at once."""

from pathlib import Path

import pytest

import millis
from making import write_conll
from millis.errors import InvalidBase, InvalidData, InvalidValue

CONTRACT = millis.Contract(p99="5 ms")
ROWS = [[("maria", "B-PER"), ("wrote", "O"), (f"x{i}", "O")] for i in range(40)]


def fit(folder: Path, **settings: object) -> None:
    millis.fit(folder / "train.conll", base=str(folder / "nowhere"), out=folder / "o.millis", contract=CONTRACT, **settings)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"layout": "odd"}, "auto, conll, spans"),
        ({"scheme": "odd"}, "bioes"),
        ({"scheme": ["bio"]}, "bioes"),
        ({"ends": "odd"}, "inclusive"),
        ({"overlaps": "odd"}, "longest"),
        ({"blanks": "odd"}, "skip"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": "3"}, "epochs"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"within_ms": 0}, "within_ms"),
        ({"within_ms": "30m"}, "within_ms"),
        ({"within_ms": float("nan")}, "within_ms"),
        ({"adapt": "poetry"}, "full, lora, adalora, ia3, adapter, prefix, prompt"),
        ({"adapt": ["lora"]}, "full, lora"),
        ({"task": "poetry"}, "poetry"),
        ({"query_prefix": "query: "}, "task ner has no setting query_prefix"),
        ({"task": "embedding", "passage_prefix": 3}, "passage_prefix cannot be 3: give the text"),
        ({"teacher": "t", "adapt": "prefix"}, "a teacher teaches a plain network, and adapt prefix"),
        ({"speed": "high"}, "layout"),
        ({"reading": None}, "layout"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_a_file_is_read(
    tmp_path: Path, wrong: dict[str, object], says: str
) -> None:
    with pytest.raises(InvalidValue, match=says):
        fit(tmp_path, **wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [".millis", "a\nb.millis", "\udcff.millis", "x" * 300 + ".millis", ""])
def test_a_name_that_no_bundle_can_have_is_refused_before_the_training(tmp_path: Path, name: str) -> None:
    write_conll(tmp_path / "train.conll", ROWS)
    with pytest.raises(InvalidValue, match=r"out|is not a bundle"):
        millis.fit(tmp_path / "train.conll", base="b", out=tmp_path / name, contract=CONTRACT)


def test_how_files_are_read_is_told_by_name(tmp_path: Path) -> None:
    row = '{"text": "maria wrote x%d", "spans": [{"start": 0, "end": 4, "label": "PER", "text": "maria"}]}\n'
    (tmp_path / "train.conll").write_text("".join(row % i for i in range(40)))
    with pytest.raises(InvalidData, match="ends='inclusive' would fit"):
        fit(tmp_path)
    with pytest.raises(InvalidBase, match="nowhere"):  # read well, so the base is what is missing
        fit(tmp_path, layout="spans", ends="inclusive")
