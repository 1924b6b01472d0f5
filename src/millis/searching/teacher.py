"""Find the larger model that is to teach, and check that its answers can be laid beside the student's.

Border: reads configurations and manifests; loads no network, so that a mistake is told at once. Who teaches is
teaching.py.
Limits: folders must be what training wrote. A teacher of another tokenizer can answer whole texts only.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millis.bundles import Bundle, open_bundle
from millis.bundles.bundle import MANIFEST, TOKENIZER, hash_file
from millis.bundles.model import load_task
from millis.errors import InvalidBase, InvalidValue
from millis.models.described import check_vocabulary, longest_input, read_json
from millis.tasks import Task
from millis.tasks.tokenization import Tokenizer

_MOST_NAMED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A model that can teach.

    Args:
        path: as it was given.
        bundle: opened, where it is one; else path is a folder that training wrote.
        rung: of the bundle, the one of best quality.
        task: in the teacher's own pieces.
        order: the place of each of the student's outputs among the teacher's.
        has_same_pieces: windows of the student's are windows of the teacher's.
        digest: of what it answers by.
    """

    path: Path
    bundle: Bundle | None
    rung: str | None
    task: Task
    order: tuple[int, ...]
    has_same_pieces: bool
    digest: str

    @property
    def name(self) -> str:
        """Name it as people know it: folders of trainings are all called best."""
        return self.bundle.name if self.bundle else "/".join(self.path.absolute().parts[-3:])


def find_teacher(path: Path, *, task: Task, kind: str, tokenizer_file: Path) -> Teacher:
    """Find a teacher for a task.

    Args:
        path: a bundle, or a folder with config.json, tokenizer.json and model.safetensors.
        kind: the name of the task.
        tokenizer_file: the student's.
    Raises:
        InvalidValue: it has other labels, is for another task, or cannot be laid beside the student's answers.
        InvalidBase, InvalidBundle: it cannot be read.
    """
    if task.head.pooled is not None:
        raise InvalidValue(f"task {kind} has no labels that a teacher could give: leave --teacher out.")
    if (path / MANIFEST).is_file():
        return _find_bundle(path, task=task, kind=kind, tokenizer_file=tokenizer_file)
    for name in ("config.json", TOKENIZER, "model.safetensors"):
        if not (path / name).is_file():
            raise InvalidValue(
                f"--teacher {path} has no {name}: give a bundle, or a folder that training wrote, like"
                " NAME.run/training/best."
            )
    config = read_json(path / "config.json")
    labels = config.get("id2label", {})
    if not isinstance(labels, dict) or not all(key.isdecimal() for key in labels):
        raise InvalidBase(
            f"--teacher {path}: id2label in config.json is no object of numbers and labels: copy the folder again."
        )
    _check_head(path, config, task=task)
    outputs = tuple(str(labels[key]) for key in sorted(labels, key=int))
    is_same = _has_same_pieces(path / TOKENIZER, tokenizer_file)
    theirs = task if is_same else task.with_tokenizer(Tokenizer(path / TOKENIZER))
    check_vocabulary(path, n_pieces=theirs.n_pieces)
    longest = longest_input(path)
    if longest < task.max_tokens:
        raise InvalidValue(
            f"--teacher {path} reads {longest} tokens, and the windows of these texts have {task.max_tokens}: give a"
            " teacher that reads as many."
        )
    if not is_same:
        _check_whole_texts(path, kind=kind)
    return Teacher(
        path=path, bundle=None, rung=None, task=theirs, order=_order(path, outputs, task=task), has_same_pieces=is_same,
        digest=" ".join(hash_file(path / name) for name in ("config.json", TOKENIZER, "model.safetensors")),
    )  # fmt: skip


def _find_bundle(path: Path, *, task: Task, kind: str, tokenizer_file: Path) -> Teacher:
    bundle = open_bundle(path)
    if bundle.manifest.task != kind:
        raise InvalidValue(
            f"--teacher {path} is a bundle for {bundle.manifest.task}, and this fit is for {kind}: give a teacher of"
            " the same task."
        )
    theirs = load_task(bundle)
    is_same = _has_same_pieces(path / TOKENIZER, tokenizer_file) and theirs.max_tokens >= task.max_tokens
    if not is_same:
        _check_whole_texts(path, kind=kind)
    rung = max(bundle.manifest.rungs, key=lambda one: float(one.quality.get("value", 0.0)))
    return Teacher(
        path=path, bundle=bundle, rung=rung.name, task=theirs, order=_order(path, theirs.head.outputs, task=task),
        has_same_pieces=is_same, digest=hash_file(path / MANIFEST),
    )  # fmt: skip


def _check_head(folder: Path, config: dict[str, Any], *, task: Task) -> None:
    """Refuse a head that speaks of something else: its weights might fit all the same."""
    head = task.head
    asked = (head.rows, head.is_across)
    found = (config.get("millis_rows"), bool(config.get("millis_across")))
    kinds = config.get("architectures") or ["none"]
    if found != asked or not str(kinds[0]).endswith("ForTokenClassification"):
        raise InvalidValue(
            f"--teacher {folder} has a head ({kinds[0]}) that is not of this task: give a folder that millis trained"
            " for it, or the bundle."
        )


def _check_whole_texts(path: Path, *, kind: str) -> None:
    if kind != "classify":
        raise InvalidValue(
            f"--teacher {path} cuts texts into other pieces than the base, or shorter windows, and the answers of"
            f" {kind} go by pieces: give a teacher with the base's own tokenizer.json."
        )


def _order(path: Path, outputs: tuple[str, ...], *, task: Task) -> tuple[int, ...]:
    mine = task.head.outputs
    if sorted(outputs) != sorted(mine):
        strange = sorted({*outputs} ^ {*mine})
        raise InvalidValue(
            f"--teacher {path} has {len(outputs)} outputs and these texts ask for {len(mine)}; only one of the two has"
            f" {', '.join(strange[:_MOST_NAMED]) or 'some of them twice'}: give a teacher of the same labels."
        )
    return tuple(outputs.index(name) for name in mine)


def _has_same_pieces(one: Path, other: Path) -> bool:
    """Say whether two tokenizers cut alike; how they pad or cut off is not theirs to say here."""
    told = []
    for file in (one, other):
        content = read_json(file)
        told.append({key: value for key, value in content.items() if key not in ("padding", "truncation")})
    return told[0] == told[1]
