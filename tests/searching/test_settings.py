"""`millis.fit` and `millis fit` before anything is trained: what is asked, by name, checked at once."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import millis
from fitting import make_base
from making import write_conll
from millis.cli.app import app
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
        ({"task": "qa", "balance": True}, "balance is for labels, which answers from a text have none of"),
        ({"unlabelled": Path("x")}, "unlabelled texts teach tasks with one label a text"),
        ({"task": "classify", "multi_label": True, "unlabelled": Path("x")}, "use task classify without multi_label"),
        ({"task": "embedding", "epochs": 0, "adapt": "lora"}, "adapt is for training, and epochs 0 trains nothing"),
        ({"task": "embedding", "epochs": 0, "domain_text": Path("x")}, "domain_text is for training"),
        ({"task": "embedding", "epochs": 0, "track": "wandb"}, "track is for training"),
        ({"sparse": "0.8"}, "sparse cannot be '0.8': give a share"),
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


@pytest.mark.parametrize(
    ("flags", "max_drop", "floor"),
    [((), 1.0, None), (("--floor", "80"), None, 80.0), (("--floor", "80", "--max-drop", "2"), 2.0, 80.0)],
)
def test_a_floor_alone_is_all_the_quality_that_is_promised(
    flags: tuple[str, ...], max_drop: float | None, floor: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def run_fit(contract: millis.Contract, _: object) -> None:
        asked.append((contract.max_drop, contract.floor))
        raise InvalidValue("enough is known")

    monkeypatch.setattr("millis.searching.fitting.run_fit", run_fit)
    CliRunner().invoke(app, ["fit", "--train", "t.conll", "--base", "b", "--p99", "5 ms", "-o", "o.millis", *flags])
    assert asked == [(max_drop, floor)]


@pytest.mark.parametrize(
    ("content", "says"),
    [("退款需要几天才能到账".encode("gb18030"), "texts.txt:1: byte 1 .* is not UTF-8: .*iconv -f GB18030"), (b"\n \n", "has no examples"), (None, "no such file")],
)
def test_texts_without_labels_that_cannot_be_read_are_told_before_anything_is_trained(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    write_conll(tmp_path / "train.conll", ROWS)
    if content is not None:
        (tmp_path / "texts.txt").write_bytes(content)
    with pytest.raises(InvalidData, match=says):
        fit(tmp_path, domain_text=tmp_path / "texts.txt")
    assert not (tmp_path / "o.run").exists()


@pytest.mark.parametrize("name", ["corpus", "domain_text"])
def test_a_file_of_texts_may_be_named_as_train_is(tmp_path: Path, name: str) -> None:
    write_conll(tmp_path / "train.conll", ROWS)
    (tmp_path / "texts.txt").write_text("one text\nand another\n")
    with pytest.raises(InvalidBase, match="nowhere"):  # read, so the base is what is missing
        fit(tmp_path, **{name: str(tmp_path / "texts.txt")})


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


def test_a_device_that_is_not_there_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    write_conll(tmp_path / "train.conll", ROWS)
    base = make_base(tmp_path / "base")
    contract = millis.Contract(p99="5 ms", device="abacus")
    with pytest.raises(InvalidValue, match=r"nothing can be built for device 'abacus' here.* without onnxruntime-fp32-dynamic: .*'abacus'"):
        millis.fit(tmp_path / "train.conll", base=str(base), out=tmp_path / "o.millis", contract=contract)
    assert not (tmp_path / "o.run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_training_on_a_gpu_that_is_not_there_is_refused_before_a_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="sees no GPU"):
        fit(tmp_path, train_on="cuda")


BLOCKED = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("openvino", "nncf"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
import millis.searching.search
from millis.searching.runtimes import choose_variants
found, told = choose_variants(device="cpu")
print([variant.name for variant in found], told)
"""


def test_a_search_without_openvino_goes_on_with_what_there_is_and_says_what_is_not() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "['onnxruntime-int8-dynamic', 'onnxruntime-fp32-dynamic']" in done.stdout
    assert "without openvino-int8, openvino-fp32: backend 'openvino' needs openvino, which is not installed" in done.stdout
