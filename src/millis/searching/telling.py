"""A model that speaks, taught one task: dialogues to a bundle, its answers scored beside those of its base.

    read, carve        dialogues; dev and test from train where there are none
    teach              full, lora or adalora, merged; the epoch with the least loss on dev
    pack               as `millis pack` does, the base too, so that both answer through the same engine
    score              the likeliest answers to test, and the base's

Border: what a contract is kept by is measured by `millis prove` afterwards.
Limits: answers are scored on the first MOST_SCORED dialogues of test.
"""

import copy
import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from millis.bundles import Bundle, Choice, save_bundle
from millis.contract import Contract
from millis.data.dialogues import read_dialogues
from millis.data.splits import Splits, make_splits
from millis.errors import InvalidData, InvalidValue
from millis.searching.case import check_place
from millis.searching.hearing import MOST_SCORED, answer_all, encode_prompt
from millis.tasks.chat import Chat
from millis.tasks.instructing import CHAT, SPEAKING, check_instruction
from millis.tasks.wording import check_measures, score_rewritten
from millis.telemetry.progress import say
from millis.training.methods import check_speaking_method
from millis.training.settings import TrainSettings

if TYPE_CHECKING:
    from millis.training.speech import Taught


@dataclass(frozen=True, slots=True, kw_only=True)
class TellSettings:
    """What is to be taught, and how.

    Args:
        base: folder in Hugging Face layout, or a .gguf file.
        task: "chat", "translate" or "summarise".
        instruction: what is asked of each text, with {text} in its place; the usual one when missing.
        longest: tokens of prompt and answer; a longer dialogue is left out, and counted.
        training: as for every model.
    Raises:
        InvalidValue: a task, an instruction, a way to adapt or a place that cannot be.
        MissingExtra: a library is not installed that is needed at the end.
    """

    base: str
    out: Path
    train: Path
    dev: Path | None = None
    test: Path | None = None
    task: str = CHAT
    instruction: str | None = None
    longest: int = 512
    context: int = 2048
    threads: int = 2
    training: TrainSettings = field(default_factory=TrainSettings)

    def __post_init__(self) -> None:
        if self.task not in SPEAKING:
            raise InvalidValue(f"the task cannot be {self.task!r}: choose one of {', '.join(SPEAKING)}.")
        if self.task == CHAT and self.instruction is not None:
            raise InvalidValue("an instruction came for chat, whose dialogues say what to do: leave it out.")
        if self.instruction is not None:
            check_instruction(self.instruction)
        check_speaking_method(self.training.adapt)
        check_place(self.out)
        check_measures(self.task)


def tell(contract: Contract, settings: TellSettings) -> tuple[Bundle, dict[str, Any]]:
    """Teach a model that speaks, and pack it; its quality and its base's stand in the bundle.

    Returns:
        the bundle, and how good its answers to test are: name, value, and the base's value.
    Raises:
        InvalidData, InvalidBase, InvalidValue: the input cannot be used; nothing was written.
        Interrupted: Ctrl-C; the same command goes on after the last finished epoch.
    """
    splits = _read(settings)
    from millis.compressing.packing import pack
    from millis.models.speakers import load_speaker
    from millis.training.lessons import ROW_TOKENS
    from millis.training.speech import teach

    speaker = load_speaker(settings.base)
    packed: dict[str, Any] = {
        "contract": contract, "name": Path(settings.base).name, "rungs": ("int8",), "context": settings.context,
        "threads": settings.threads, "task": settings.task, "instruction": settings.instruction,
    }  # fmt: skip
    run = settings.out.with_name(settings.out.name.removesuffix(".millis") + ".run")
    with tempfile.TemporaryDirectory(prefix="millis-fit-") as scratch:
        folder = Path(scratch)
        untaught = dataclasses.replace(speaker, model=copy.deepcopy(speaker.model))  # converting may leave its marks
        bare = pack(untaught, folder / "base.millis", **packed)
        del untaught
        chat = Chat(bare.path, settings=bare.manifest.task_settings)
        longest = min(settings.longest, ROW_TOKENS, chat.context)
        train = _make_lessons(splits.train, chat, longest=longest, name="train")
        dev = _make_lessons(splits.dev, chat, longest=longest, name="dev")
        before = answer_all(bare, splits.test, name="the base")
        taught = teach(speaker.model, train, dev=dev, folder=run / "training", settings=settings.training)
        speaker.model.eval()
        made = pack(speaker, folder / "taught.millis", **packed)
        after = answer_all(made, splits.test, name="the model taught")
        asked: Sequence[Any] = splits.test[:MOST_SCORED]
        right = [one.answers for one in asked]
        was, score = (score_rewritten(settings.task, answers, right) for answers in (before, after))
        say(f"on {len(right)} of test: the base {was.report}")
        say(f"on {len(right)} of test: taught {score.report}")
        quality = {"name": score.name, "value": score.value, "base": was.value}
        choices = (
            *made.manifest.choices,
            *_note(taught, adapt=settings.training.adapt),
            Choice(what="answers to test", choice=score.report, reason=f"the base's: {was.report}; {len(right)} texts"),
        )
        manifest = msgspec.structs.replace(
            made.manifest, name=settings.out.stem, choices=choices, notes=(*made.manifest.notes, *splits.notes),
        )  # fmt: skip
        parts: dict[str, Path | bytes] = {name: made.path / name for name in made.manifest.files}
        return save_bundle(settings.out, manifest=manifest, parts=parts), quality


def _note(taught: "Taught", *, adapt: str) -> tuple[Choice, ...]:
    before, after = taught.perplexity
    spent = f"{adapt}, {len(taught.epochs)} epochs, {taught.seconds:.0f} s"
    return (
        Choice(what="training", choice=spent, reason="; ".join(taught.reasons)),
        Choice(what="dev perplexity", choice=f"{after:.2f}", reason=f"the base's is {before:.2f}"),
    )


def _read(settings: TellSettings) -> Splits:
    files = {"train": settings.train, "dev": settings.dev, "test": settings.test}
    read = {
        name: None if file is None else read_dialogues(file, is_chat=settings.task == CHAT)
        for name, file in files.items()
    }
    assert read["train"] is not None
    parts: Any = read  # dialogues have what splitting looks at: a text, a group, no labels
    splits = make_splits(parts["train"], dev=parts["dev"], test=parts["test"], seed=settings.training.seed)
    for note in splits.notes:
        say(note)
    return splits


def _make_lessons(dialogues: Sequence[Any], chat: Chat, *, longest: int, name: str) -> list[Any]:
    from millis.training.lessons import Lesson

    made, end = [], chat.end_of_answer()
    for one in dialogues:
        prompt = encode_prompt(one, chat)
        answer = [*chat.tokenizer.encode(one.answers[0], has_frame=False), end]
        if len(prompt) + len(answer) <= longest:
            made.append(Lesson(np.array([*prompt, *answer], np.int64), len(prompt)))
    n_out = len(dialogues) - len(made)
    if n_out:
        say(f"{name}: {n_out} of {len(dialogues)} dialogues are longer than {longest} tokens and left out")
    if not made:
        raise InvalidData(f"every dialogue of {name} is longer than {longest} tokens: give shorter ones.")
    return made
