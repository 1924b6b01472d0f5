"""A larger model teaches the reference: who may, what is learnt of it, and dev decides."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import millis
from fitting import make_base
from making import make_fake_bundle, make_tokenizer, write_conll
from millis.errors import InvalidBase, InvalidBundle, InvalidValue
from millis.models.prediction import answer_windows
from millis.models.taggers import Tagger, build_tagger, load_tagger, save_tagger
from millis.searching.building import score_reference
from millis.searching.case import Case, prepare
from millis.searching.settings import FitSettings
from millis.searching.teaching import _load, be_taught
from millis.tasks.task import Head
from millis.training.settings import TrainSettings
from toy import one_core  # noqa: F401  # a fixture, used by name

LABELS = ("complaint", "order", "refund")
TEXTS = {"complaint": "her german call rejects", "order": "order the x from lisbon", "refund": "eu wrote about z"}
CONTRACT = millis.Contract(p99="5 ms")
SETTINGS = TrainSettings(epochs=2, batch_size=8, learning_rate=3e-3, autocast="off")


def write_teacher(
    folder: Path, *, labels: tuple[str, ...] = LABELS[::-1], rows: int | None = 1, width: int = 48
) -> Path:
    """Write a tagger of random weights whose opinions are strong; its labels are in another order."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(2)
    config = BertConfig(vocab_size=60, hidden_size=width, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
                        max_position_embeddings=128, initializer_range=0.3)  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tagger = build_tagger(folder, head=Head(labels, rows=rows), seed=2)
    with torch.no_grad():
        tagger.network.classifier.weight.mul_(30)
    save_tagger(tagger, folder / "best", tokenizer_file=make_tokenizer(folder))
    return folder / "best"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teaching")
    fillers = "of in is at and hello world one two three".split()
    for seed, (part, n) in enumerate((("train", 180), ("dev", 30), ("test", 30))):
        draw = np.random.default_rng(seed)
        rows = [f"{TEXTS[label]} {' '.join(draw.choice(fillers, 5))}\t{label}" for label in LABELS * (n // 3)]
        (folder / f"{part}.tsv").write_text("text\tlabel\n" + "".join(f"{row}\n" for row in rows))
    make_base(folder / "base")
    write_teacher(folder / "large")
    write_teacher(folder / "as-wide", width=64)
    write_teacher(folder / "other-pieces")
    file = folder / "other-pieces" / "best" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    words = tokenizer["model"]["vocab"]
    words["hello"], words["order"] = words["order"], words["hello"]
    file.write_text(json.dumps(tokenizer))
    make_fake_bundle(folder, task="classify")
    return folder


def ready(folder: Path, teacher: str) -> Case:
    files = {part: folder / f"{part}.tsv" for part in ("train", "dev", "test")}
    settings = FitSettings(
        base=str(folder / "base"), out=folder / f"{Path(teacher).parts[0]}-out.millis", task="classify",
        teacher=folder / teacher, **files,
    )  # fmt: skip
    return prepare(CONTRACT, settings, began=0.0)


def ask(case: Case) -> list[np.ndarray]:
    """Ask a teacher about each text of train, apart from how it is asked in teaching."""
    teacher = case.teacher
    assert teacher is not None
    texts = [example.text for example in case.splits.train]
    if teacher.bundle is not None:
        model = millis.load(teacher.bundle)
        return [model.run(model.task.encode(text)[0].ids) for text in texts]
    windows = [teacher.task.encode(text)[0].ids for text in texts]
    return answer_windows(_load(teacher), windows, head=case.task.head)


def diverge(student: Tagger, case: Case, wanted: list[np.ndarray]) -> float:
    ids = [case.task.encode(example.text)[0].ids for example in case.splits.train]
    got, want = (
        torch.from_numpy(np.concatenate(some)).log_softmax(-1)
        for some in (answer_windows(student, ids, head=case.task.head), wanted)
    )
    return float(torch.nn.functional.kl_div(got, want, reduction="batchmean", log_target=True))


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["large/best", "as-wide/best", "other-pieces/best", "fake.millis"])
def test_a_reference_learns_what_its_teacher_answers_and_dev_decides(folder: Path, teacher: str) -> None:
    case = ready(folder, teacher)
    student = build_tagger(folder / "base", head=case.task.head, seed=1)
    start = case.folder / "start"
    save_tagger(student, start, tokenizer_file=case.tokenizer_file)
    reference = score_reference(start, task=case.task, splits=case.splits)
    noted, kept = be_taught(case, reference, settings=SETTINGS)
    wanted = ask(case)
    before, after = (diverge(load_tagger(one), case, wanted) for one in (start, case.folder / "taught"))
    assert after < 0.75 * before
    taught = score_reference(case.folder / "taught", task=case.task, splits=case.splits)
    assert kept.dev.value == max(reference.dev.value, taught.dev.value)
    assert ("it is kept" in noted.notes[-1]) == (taught.dev.value > reference.dev.value)
    written = (case.folder / "taught" / "model.safetensors").stat().st_mtime_ns
    be_taught(case, reference, settings=SETTINGS)
    assert (case.folder / "taught" / "model.safetensors").stat().st_mtime_ns == written, "found in the run folder"


def test_labels_in_another_order_are_laid_beside_ours(folder: Path) -> None:
    case = ready(folder, "large/best")
    assert case.teacher is not None
    assert case.teacher.order == (2, 1, 0)
    ids = [case.task.encode("hello world")[0].ids]
    ours = answer_windows(_load(case.teacher), ids, head=case.task.head)[0]
    theirs = answer_windows(load_tagger(folder / "large" / "best"), ids, head=case.task.head)[0]
    assert ours[0].tolist() == theirs[0, ::-1].tolist()


@pytest.mark.parametrize(
    ("teacher", "task", "says"),
    [
        ("nowhere", "classify", "has no config.json: give a bundle, or a folder"),
        ("tokens/best", "classify", "head .BertForTokenClassification. that is not of this task"),
        ("labels/best", "classify", "only one of the two has refund, spam: give a teacher of the same labels"),
        ("short/best", "classify", "reads 64 tokens, and the windows of these texts have 128"),
        ("fake.millis", "ner", "is a bundle for classify, and this fit is for ner"),
        ("names/best", "ner", "cuts texts into other pieces than the base"),
        ("list/best", "classify", "id2label in config.json is no object"),
        ("array/best", "classify", "best/tokenizer.json is no JSON object"),
        ("torn.millis", "classify", "rungs/fake/fake.json is missing"),
    ],
)
def test_who_cannot_teach_is_told_why_before_anything_is_trained(
    folder: Path, tmp_path: Path, teacher: str, task: str, says: str
) -> None:
    place = folder / teacher
    if teacher == "tokens/best":
        write_teacher(folder / "tokens", rows=None)
    elif teacher == "labels/best":
        write_teacher(folder / "labels", labels=("complaint", "order", "spam"))
    elif teacher == "short/best":
        shutil.copytree(folder / "large", folder / "short")
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    elif teacher == "list/best":
        shutil.copytree(folder / "large", folder / "list")
        (place / "config.json").write_text(json.dumps({"id2label": ["complaint", "order", "refund"]}))
    elif teacher == "array/best":
        shutil.copytree(folder / "large", folder / "array")
        (place / "tokenizer.json").write_text("[]")
    elif teacher == "names/best":
        write_teacher(folder / "names", labels=("O", "B-PER", "I-PER"), rows=None)
        shutil.copy(folder / "other-pieces" / "best" / "tokenizer.json", place)
    elif teacher == "torn.millis":
        shutil.copytree(folder / "fake.millis", place)
        (place / "rungs" / "fake" / "fake.json").unlink()
    train = folder / "train.tsv"
    if task == "ner":
        train = write_conll(
            tmp_path / "train.conll", [[("maria", "B-PER"), ("wrote", "O"), (f"x{i}", "O")] for i in range(40)]
        )
    with pytest.raises((InvalidValue, InvalidBase, InvalidBundle), match=says):
        millis.fit(
            train, base=str(folder / "base"), out=tmp_path / "out.millis", contract=CONTRACT, task=task, teacher=place
        )
    assert not list(tmp_path.glob("out*"))
