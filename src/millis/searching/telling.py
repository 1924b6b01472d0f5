"""A model that speaks, taught one task: dialogues to a bundle, its answers scored beside those of its base.

    read, carve        dialogues; dev and test from train where there are none
    teach              full, lora or adalora, merged; the epoch with the least loss on dev
    pack               as `millis pack` does, the base too; the tricks of the engine are tried on dev
    shorten            smaller rungs, where more than one is asked for
    score              the likeliest answers to test, and the base's

Border: what a contract is kept by is measured by `millis prove` afterwards.
Limits: answers are scored on the first MOST_SCORED dialogues of test.
"""

import copy
import dataclasses
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from millis.bundles import Bundle, Choice, save_bundle
from millis.compressing.tricks import check_prompts
from millis.contract import Contract
from millis.data.dialogues import read_dialogues
from millis.data.splits import Splits, make_splits
from millis.errors import InvalidData, InvalidValue
from millis.searching.case import check_place
from millis.searching.hearing import MOST_SCORED, answer_all, ask
from millis.searching.ledger import alone_in
from millis.searching.shortening import Course, Packed, choose_rung, make_ladder
from millis.tasks.chat import Chat, Prompt
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
        rungs: how many the ladder shall have; with more than one, layers go (searching/shortening.py).
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
    rungs: int = 1
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
        if not (isinstance(self.rungs, int) and self.rungs >= 1):
            raise InvalidValue(f"rungs cannot be {self.rungs!r}: a ladder has 1 or more.")
        check_speaking_method(self.training.adapt)
        check_place(self.out)
        check_measures(self.task)


def tell(contract: Contract, settings: TellSettings) -> tuple[Bundle, dict[str, Any]]:
    """Teach a model that speaks, and pack it; its quality and its base's stand in the bundle.

    Returns:
        the bundle, and how good its answers to test are: name, value, the values of the base and of the whole model
        taught, and the rung that serves.
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
    n_layers = len(speaker.model.model.layers)
    if settings.rungs > n_layers:
        raise InvalidValue(f"{settings.rungs} rungs cannot be made of {n_layers} layers: ask for {n_layers} at most.")
    packed: dict[str, Any] = {
        "contract": contract, "name": Path(settings.base).name, "context": settings.context,
        "threads": settings.threads, "task": settings.task, "instruction": settings.instruction,
    }  # fmt: skip
    run = settings.out.with_name(settings.out.name.removesuffix(".millis") + ".run")
    with alone_in(run), tempfile.TemporaryDirectory(prefix="millis-fit-") as scratch:
        folder = Path(scratch)
        untaught = dataclasses.replace(speaker, model=copy.deepcopy(speaker.model))  # converting may leave its marks
        bare = pack(untaught, folder / "base.millis", rungs=("int8",), **packed)
        del untaught
        chat = Chat(bare.path, settings=bare.manifest.task_settings)
        longest = min(settings.longest, ROW_TOKENS, chat.context)
        train = _make_lessons(splits.train, chat, longest=longest, name="train")
        dev = _make_lessons(splits.dev, chat, longest=longest, name="dev")
        before = answer_all(bare, splits.test, name="the base")
        taught = teach(speaker.model, train, dev=dev, folder=run / "training", settings=settings.training)
        speaker.model.eval()
        course = Course(
            per_token_ms=contract.per_token_ms, max_drop=math.inf if contract.max_drop is None else contract.max_drop,
            scratch=folder, run=run / "training", packed=packed, prompts=_list_prompts(splits.dev, chat),
            train=train, dev=dev, asked_dev=splits.dev,
            asked_test=splits.test, training=settings.training, n_rungs=settings.rungs,
        )  # fmt: skip
        made, ladder = make_ladder(speaker, course=course)
        serving, why = choose_rung(ladder, max_drop=course.max_drop)
        say(f"{serving.rung.name} serves: {why}")
        quality, told = _compare(settings.task, splits.test, before=before, ladder=ladder, serving=serving)
        choices = (
            *_note(taught, adapt=settings.training.adapt),
            told,
            *([Choice(what="rung", choice=serving.rung.name, reason=why)] if settings.rungs > 1 else []),
        )
        return _save(settings.out, made, ladder=ladder, serving=serving, choices=choices, notes=splits.notes), quality


def _compare(
    task: str, test: Sequence[Any], *, before: Sequence[str], ladder: Sequence[Packed], serving: Packed
) -> tuple[dict[str, Any], Choice]:
    """Say how good answers to test are beside the base's: as `tell` returns it, and as the bundle tells it.

    Args:
        before: the base's answers.
    """
    right = [one.answers for one in test[:MOST_SCORED]]
    was, score = score_rewritten(task, before, right), ladder[0].heard.test
    say(f"on {len(right)} of test: the base {was.report}")
    say(f"on {len(right)} of test: taught {score.report}")
    quality = {
        "name": score.name, "value": serving.heard.test.value, "base": was.value, "whole": score.value,
        "rung": serving.rung.name,
    }  # fmt: skip
    reason = f"the base's: {was.report}; {len(right)} texts"
    return quality, Choice(what="answers to test", choice=score.report, reason=reason)


def _save(
    out: Path, made: Bundle, *, ladder: Sequence[Packed], serving: Packed, choices: Sequence[Choice],
    notes: Sequence[str],
) -> Bundle:  # fmt: skip
    """Write what was packed of the taught model, with the ladder's rungs, and what is to be told of them."""
    manifest = msgspec.structs.replace(
        made.manifest, name=out.stem, choices=(*made.manifest.choices, *choices), notes=(*made.manifest.notes, *notes),
        rungs=tuple(one.rung for one in ladder), rung=serving.rung.name,
    )  # fmt: skip
    parts: dict[str, Path | bytes] = {
        name: made.path / name for name in made.manifest.files if not name.startswith("rungs/")
    }
    parts |= {one.rung.folder: one.folder for one in ladder}
    return save_bundle(out, manifest=manifest, parts=parts)


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
        prompt = chat.encode_prompt(ask(one))
        answer = [*chat.tokenizer.encode(one.answers[0], has_frame=False), end]
        if len(prompt) + len(answer) <= longest:
            made.append(Lesson(np.array([*prompt, *answer], np.int64), len(prompt)))
    n_out = len(dialogues) - len(made)
    if n_out:
        say(f"{name}: {n_out} of {len(dialogues)} dialogues are longer than {longest} tokens and left out")
    if not made:
        raise InvalidData(f"every dialogue of {name} is longer than {longest} tokens: give shorter ones.")
    return made


def _list_prompts(dialogues: Sequence[Any], chat: Chat) -> list[Prompt] | None:
    """List what dialogues ask, to try the engine's tricks on; None where that is too little."""
    try:
        check_prompts([chat.encode_prompt(ask(one)) for one in dialogues], context=chat.context)
    except InvalidValue as error:
        say(f"the engine's tricks are not tried: {error}")
        return None
    return [ask(one) for one in dialogues]
