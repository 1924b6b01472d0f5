"""A causal language model to a bundle that chats: stateful IR, weights of eight or four bits, tokenizer, template.

Border: base in, bundle out; nothing is trained. Each step's logits are compared with the torch source's, and the
differences stand in the manifest: the conversion has to be exact, what rounding costs is shown. Rungs for other engines
hold the base's files as they came (carrying.py).
"""

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from millis.backends.generator import GeneratorSettings
from millis.bundles import Bundle, Choice, Manifest, Rung, save_bundle
from millis.bundles.bundle import TOKENIZER
from millis.bundles.manifest import FORMAT, Step
from millis.compiling.causal import convert_causal, run_source, run_stateful, save_causal
from millis.compiling.comparing import Difference, compare, require_exact
from millis.compressing.carrying import CARRIED, agree_with_llamacpp, carry, check_carried
from millis.compressing.rounding import cut_windows, round_weights
from millis.compressing.tricks import check_prompts, try_tricks
from millis.compressing.vocabulary import Trimmed, trim_speaker
from millis.contract import Contract
from millis.errors import InvalidBase, InvalidRequest, InvalidValue
from millis.models.speakers import Speaker, load_speaker
from millis.models.speech import Speech, load_speech
from millis.tasks.chat import TEMPLATE, Chat, Prompt
from millis.tasks.instructing import CHAT, SPEAKING, USUAL_INSTRUCTIONS, check_instruction
from millis.telemetry.progress import say
from millis.units import write_bytes

COMPILED = ("int8", "int4", "fp32")
RUNGS = (*COMPILED, *CARRIED)
_SPEECH = (TOKENIZER, TEMPLATE)
_N_FIRST, _N_PROBE = 24, 32
_TEXT = (
    "The tide comes in twice a day. In a small harbour the boats rise with it, and the children count the steps that"
    " are still dry. 潮水每天来两次。 def steps(height): return int(height / 0.25) + 1"
)


def pack(
    base: str | Speaker, out: str | Path, *, contract: Contract, rungs: Sequence[str] = ("int8", "int4"),
    context: int = 2048, threads: int = 1, task: str = CHAT, instruction: str | None = None,
    system: str | None = None, corpus: Sequence[str] | None = None, round_by: Sequence[str] | None = None,
    prompts: Sequence[Prompt] | None = None, may_change: bool = False, name: str | None = None,
) -> Bundle:  # fmt: skip
    """Compile a causal language model into a bundle, or take its files as they are; the first of the rungs serves.

    Args:
        base: a folder in Hugging Face layout, a .gguf file, or a model that is loaded already.
        contract: its bound is on the time to the first token.
        rungs: out of RUNGS; compiled ones, and engines that read the base as it came.
        context: the most tokens of prompt and answer together.
        threads: of the engine.
        task: "chat", "translate" or "summarise".
        instruction: what is asked of each text, with {text} in its place; the usual one when missing.
        system: what stands before messages that bring no system message; it is read once, when a server loads.
        corpus: texts whose pieces stay; what neither they nor the chat template use is taken out. None leaves all.
        round_by: texts by which four-bit weights are rounded, where that loses less than without.
        prompts: texts or messages as they will come, on which each trick of the engine is tried (tricks.py).
        may_change: keep a trick that is faster even where it changes answers to them.
        name: of the base; its file name when missing.
    Raises:
        InvalidValue: a rung that there is not, a context that the model has not, a corpus without texts, or a system
            message that the template refuses or the context has no room for; or too few prompts.
        InvalidBase: the base cannot be used.
        RunFailed: the conversion changed the model, or the disk is full.
    """
    _check(rungs, corpus=corpus, round_by=round_by)
    carried = [one for one in rungs if one in CARRIED]
    for one in carried:
        check_carried(base, one)
    further = _instruct(task, instruction) | _add_system(system)
    compiled = [one for one in rungs if one in COMPILED]
    speaker = base if isinstance(base, Speaker) else load_speaker(base) if compiled else None
    speech = load_speech(str(base)) if speaker is None else speaker.speech
    known_as = name or (Path(base).name if isinstance(base, str) else "a loaded model")
    if not context >= 1:
        raise InvalidValue(f"context cannot be {context}: give 1 to {speech.context} tokens.")
    fits = min(context, speech.context)
    reason = "as asked" if fits == context else f"the model has no more than {speech.context}"
    choices = [Choice(what="context", choice=f"{fits} tokens", reason=reason)]
    if "llamacpp" in carried:
        tokenizer, ends, agreed = agree_with_llamacpp(speech.tokenizer, str(base))
        stops = tuple(dict.fromkeys([*(i for i in speech.stop_ids if i in ends), *ends]))  # the usual one first
        speech = dataclasses.replace(speech, tokenizer=tokenizer, stop_ids=stops)
        choices.append(agreed)
    if corpus is not None:
        assert speaker is not None  # what is carried keeps its vocabulary: _check
        speaker, trimmed = trim_speaker(speaker, texts=[*corpus, *further.values()])  # an instruction is read too
        speech = speaker.speech
        choices.append(_note_trimming(trimmed, n_texts=len(corpus)))
    windows = () if round_by is None else cut_windows(speech.tokenizer, round_by)
    settings = {
        "context": fits, "stop_ids": list(speech.stop_ids), "begin": speech.begin, "end": speech.end, **further,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="millis-pack-") as scratch:
        _write_speech(speech, Path(scratch))
        chat = Chat(Path(scratch), settings=settings)
        n_fixed = _count_fixed(chat)
        asked = None if prompts is None else [chat.encode_prompt(one) for one in prompts]
        if system is not None:
            choices.append(_note_fixed(n_fixed))
        if asked is not None:
            check_prompts(asked, context=fits)
        made = {one: carry(str(base), one, scratch=Path(scratch), threads=threads) for one in carried}
        if speaker is not None:
            say(f"converting {known_as}")
            ids = _probe(speech.tokenizer, n_pieces=speaker.model.config.vocab_size)
            made |= _compile(speaker.model, compiled, ids=ids, scratch=Path(scratch), threads=threads, windows=windows)
        written = [made[one] for one in rungs]
        if asked is not None:
            written[0] = _settle_engine(
                written[0], Path(scratch), chat=chat, prompts=asked, may_change=may_change
            )
        parts: dict[str, Path | bytes] = {f"rungs/{rung.name}": Path(scratch) / rung.name for rung in written}
        parts |= {name: Path(scratch) / name for name in _SPEECH if (Path(scratch) / name).is_file()}
        place = Path(out)
        manifest = Manifest(
            format=FORMAT, name=place.stem, task=task, labels=(), task_settings=settings, rungs=tuple(written),
            rung=written[0].name, contract=contract.record(), base=known_as,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), versions=_versions(carried),
            choices=tuple(choices),
        )  # fmt: skip
        return save_bundle(place, manifest=manifest, parts=parts)


def _compile(
    model: Any, rungs: Sequence[str], *, ids: NDArray[np.int64], scratch: Path, threads: int,
    windows: Sequence[NDArray[np.int64]],
) -> dict[str, Rung]:  # fmt: skip
    """Convert a model and write each rung in a folder of its name."""
    want = run_source(model, ids)
    if not np.isfinite(want).all():
        raise InvalidBase("the base says what is no number: its weights are harmed. Copy it again, or train it anew.")
    began = time.perf_counter()
    made = convert_causal(model)
    exact = compare([want], [run_stateful(made, ids, n_first=_N_FIRST)])
    require_exact(exact, step="conversion to OpenVINO")
    config = model.config.to_json_string()
    source = scratch / "fp32"
    save_causal(made, source, config=config)
    steps = (_note("convert", source, exact, began=began),)
    del made
    return {
        rung: _write_rung(
            rung, source, ids=ids, want=want, steps=steps, threads=threads, config=config, windows=windows
        )
        for rung in rungs
    }


def _check(rungs: Sequence[str], *, corpus: Sequence[str] | None, round_by: Sequence[str] | None) -> None:
    wrong = [one for one in rungs if one not in RUNGS]
    if wrong or not rungs or len(set(rungs)) < len(rungs):
        raise InvalidValue(f"rungs cannot be {', '.join(rungs) or 'none'}: give each once, out of {', '.join(RUNGS)}.")
    carried = [one for one in rungs if one in CARRIED]
    if corpus is not None and carried:
        raise InvalidValue(f"a corpus came for {', '.join(carried)}: files as they came keep their vocabulary.")
    if corpus is not None and not corpus:
        raise InvalidValue("the corpus has no text: give a file with a text on each line, as they will come and go.")
    if round_by is not None and "int4" not in rungs:
        raise InvalidValue(f"texts to round by came for {', '.join(rungs)}: only int4 is rounded by texts, ask for it.")


def _instruct(task: str, instruction: str | None) -> dict[str, str]:
    """Give the settings that a task adds."""
    if task not in SPEAKING:
        raise InvalidValue(f"the task cannot be {task!r}: choose one of {', '.join(SPEAKING)}.")
    if task == CHAT and instruction is not None:
        raise InvalidValue("an instruction came for chat, where clients say what to do: leave it out, or give a task.")
    if task == CHAT:
        return {}
    return {"instruction": check_instruction(USUAL_INSTRUCTIONS[task] if instruction is None else instruction)}


def _add_system(system: str | None) -> dict[str, str]:
    if system is not None and not system.strip():
        raise InvalidValue("the system message is empty: give a text, or leave it out.")
    return {} if system is None else {"system": system}


def _write_speech(speech: Speech, folder: Path) -> None:
    """Write what Chat reads."""
    (folder / TOKENIZER).write_text(speech.tokenizer, "utf-8")
    if speech.template is not None:
        (folder / TEMPLATE).write_text(speech.template, "utf-8")


def _count_fixed(chat: Chat) -> int:
    """Count the tokens that every prompt begins with."""
    try:
        n = len(chat.list_fixed())
    except InvalidRequest as error:
        raise InvalidValue(
            "the base cannot be given a system message: its chat template refuses one, or it has none. Leave it out."
        ) from error
    if n >= chat.context:
        raise InvalidValue(f"what every prompt begins with has {n:,} of {chat.context:,} tokens: cut it.")
    return n


def _settle_engine(
    rung: Rung, folder: Path, *, chat: Chat, prompts: Sequence[Sequence[int]], may_change: bool
) -> Rung:
    """Give a rung the settings of the engine that its prompts are answered soonest with."""
    asked = GeneratorSettings(threads=rung.threads, context=chat.context, prefix=chat.list_fixed())
    settings, trials = try_tricks(
        folder / rung.name, backend=rung.backend, prompts=prompts, settings=asked, stop_ids=chat.stop_ids,
        may_change=may_change,
    )
    return msgspec.structs.replace(
        rung, threads=settings.threads, keeps_prefixes=settings.keeps_prefixes, lookup=settings.lookup,
        keeps_float32=settings.keeps_float32, tricks=trials,
    )


def _note_fixed(n_fixed: int) -> Choice:
    return Choice(
        what="system message", choice=f"prompts begin with the same {n_fixed:,} tokens",
        reason="they are read when a server loads, and stay read",
    )  # fmt: skip


def _note_trimming(trimmed: Trimmed, *, n_texts: int) -> Choice:
    saved = write_bytes(trimmed.bytes_before - trimmed.bytes_after)
    return Choice(
        what="vocabulary", choice=f"{trimmed.pieces_after:,} of {trimmed.pieces_before:,} pieces",
        reason=f"what {n_texts:,} texts use, and what spells all others; table, head and tokenizer are {saved} smaller"
        " in float32, where eight bits save a quarter of that",
    )  # fmt: skip


def _write_rung(
    name: str, source: Path, *, ids: NDArray[np.int64], want: NDArray[np.float32], steps: tuple[Step, ...],
    threads: int, config: str, windows: Sequence[NDArray[np.int64]],
) -> Rung:  # fmt: skip
    choices: tuple[Choice, ...] = ()
    if name != "fp32":
        say(f"rounding weights to {name}")
        began = time.perf_counter()
        made, choices = round_weights(source, bits=4 if name == "int4" else 8, windows=windows)
        difference = compare([want], [run_stateful(made, ids, n_first=_N_FIRST)])
        save_causal(made, source.parent / name, config=config)
        steps += (_note(name, source.parent / name, difference, began=began),)
    return Rung(
        name=name, backend="genai", precision=name, folder=f"rungs/{name}", threads=threads, choices=choices,
        steps=steps,
    )  # fmt: skip


def _probe(tokenizer: str, *, n_pieces: int) -> NDArray[np.int64]:
    """Cut a text of prose, Chinese and code into the pieces on which models are compared."""
    from tokenizers import Tokenizer

    ids = [i for i in Tokenizer.from_str(tokenizer).encode(_TEXT).ids if i < n_pieces][:_N_PROBE]
    return np.array(ids, np.int64)


def _note(step: str, folder: Path, difference: Difference, *, began: float) -> Step:
    return Step(
        step=step, seconds=round(time.perf_counter() - began, 2),
        n_bytes=sum(file.stat().st_size for file in folder.iterdir()), max_abs=difference.max_abs,
        agreement=difference.agreement,
    )  # fmt: skip


def _versions(carried: Sequence[str]) -> dict[str, str]:
    from importlib.metadata import version

    more = ["llama-cpp-python"] if "llamacpp" in carried else []
    return {name: version(name) for name in ("millis", "openvino", "nncf", "torch", "transformers", *more)}
