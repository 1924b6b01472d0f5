"""Smaller rungs of a model that speaks: layers go, what is left learns from the whole, until the ladder has its rungs.

    plan       how many layers each rung keeps: evenly down to half, or to what the bound per token leaves
    choose     which ones, by the harm their absence does on dev
    distil     the same training, by the taught model's answers and the right ones, half and half
    pack       in eight and in four bits; of those that dev lets through the faster is the rung

Each rung begins where the one before ended. The fastest whose loss on dev is within max_drop serves; test only tells.
Border: a taught speaker and its dialogues in, rungs and their files out; telling.py writes the bundle.
Limits: layers go whole, widths stay. Times are of one request at a time, of rungs by turns.
"""

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from millis.bundles import Bundle, Choice, Rung
from millis.models.files import write_whole
from millis.searching.candidates import AT_EASE
from millis.searching.hearing import Heard, Times, hear, time_together
from millis.tasks.chat import Prompt
from millis.telemetry.progress import say
from millis.training.settings import TrainSettings

if TYPE_CHECKING:
    from millis.compressing.depth import Kept
    from millis.models.speakers import Speaker
    from millis.training.lessons import Lesson

_EPOCHS = 2
"""Times the epochs of the whole model: what has lost layers has more to learn."""

_LEAST_SHARE = 0.25
"""Of the layers, which stay whatever the bound per token is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What every rung is made and heard with.

    Args:
        per_token_ms: the bound on a later piece, if there is one.
        max_drop: points that a rung may lose on dev.
        scratch: folder for what is packed on the way.
        run: folder of the whole model's training; those of rungs stand beside it.
        packed: keywords of `pack`, without rungs.
        prompts: on which the tricks of the engine are tried for the whole model; None tries none.
        train, dev: lessons.
        asked_dev, asked_test: the dialogues to answer.
        n_rungs: of the ladder, the whole one too.
    """

    per_token_ms: float | None
    max_drop: float
    scratch: Path
    run: Path
    packed: dict[str, Any]
    prompts: list[Prompt] | None
    train: "Sequence[Lesson]"
    dev: "Sequence[Lesson]"
    asked_dev: Sequence[Any]
    asked_test: Sequence[Any]
    training: TrainSettings
    n_rungs: int

    def hear(self, bundle: Bundle, rung: str) -> Heard:
        """Let a rung answer; dev is answered where there is something to choose."""
        dev = self.asked_dev if self.n_rungs > 1 else None
        return hear(bundle, rung=rung, test=self.asked_test, dev=dev)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A rung, and where it comes from.

    Args:
        bundle, source: the bundle that was packed, and the name in it.
        times: None before it was timed.
    """

    rung: Rung
    bundle: Bundle
    source: str
    heard: Heard
    times: Times | None = None

    @property
    def folder(self) -> Path:
        """The folder of its files."""
        return self.bundle.path / self.bundle.rung(self.source).folder


def make_ladder(taught: "Speaker", *, course: Course) -> tuple[Bundle, list[Packed]]:
    """Pack a taught model, and make its smaller rungs.

    Args:
        taught: torch; it is the teacher of those that are smaller. With one rung it is left as converting leaves it.
    Returns:
        the bundle of the whole model, and the rungs, the whole one first.
    Raises:
        InvalidValue: a folder beside course.run holds another run.
        Interrupted: Ctrl-C; the same command goes on after the last finished epoch.
    """
    from millis.compressing.packing import pack

    copied = taught if course.n_rungs == 1 else _copy(taught)
    bundle = pack(copied, course.scratch / "taught.millis", rungs=("int8",), prompts=course.prompts, **course.packed)
    rung = bundle.rung()
    whole = Packed(rung=rung, bundle=bundle, source=rung.name, heard=course.hear(bundle, rung.name))
    ladder = _time([whole, *(_shorten(taught, whole, course=course) if course.n_rungs > 1 else [])], course=course)
    return bundle, [_record(one, reference=whole.heard) for one in ladder]


def _shorten(taught: "Speaker", whole: Packed, *, course: Course) -> list[Packed]:
    from millis.compressing.depth import keep_layers
    from millis.training.speech import teach

    n_layers = len(taught.model.model.layers)
    last, reason = _aim(taught, whole, course=course)
    counts = plan_layers(n_layers, last=last, n_rungs=course.n_rungs)
    say(f"smaller rungs of {', '.join(map(str, counts))} of {n_layers} layers: {reason}")
    settings = dataclasses.replace(course.training, epochs=_EPOCHS * course.training.epochs)
    speaker, left, folder, made = taught, tuple(range(n_layers)), course.run, list[Packed]()
    for n in counts:
        folder = folder.with_name(f"{folder.name}-{n}")  # a rung depends on those before
        kept = _choose(speaker, folder, course=course, n=n)
        left = tuple(left[i] for i in kept.layers)
        speaker = keep_layers(speaker, kept.layers)
        learnt = teach(
            speaker.model, course.train, dev=course.dev, folder=folder, settings=settings, teacher=taught.model
        )
        speaker.model.eval()
        before, after = learnt.perplexity
        choices = (
            Choice(what="layers", choice=f"{n} of {n_layers}: {', '.join(map(str, left))}", reason=reason),
            Choice(
                what="distillation", choice=f"{len(learnt.epochs)} epochs, {learnt.seconds:.0f} s",
                reason=f"dev perplexity {after:.2f}, {before:.2f} before and {math.exp(kept.loss_before):.2f} of"
                " dev's first rows before layers went",
            ),
        )  # fmt: skip
        made.append(_pack(speaker, whole, course=course, name=f"{n}of{n_layers}", choices=choices))
    return made


def plan_layers(n_layers: int, *, last: int, n_rungs: int) -> list[int]:
    """Give how many layers each smaller rung keeps, evenly down to the last; fewer where there are not so many."""
    steps = np.linspace(n_layers, last, n_rungs)[1:]
    return sorted({min(math.ceil(one), n_layers - 1) for one in steps}, reverse=True)


def choose_rung(ladder: Sequence[Packed], *, max_drop: float) -> tuple[Packed, str]:
    """Choose the fastest rung that loses at most max_drop points of the first one's on dev, and say why."""
    whole = ladder[0]
    within = _within(ladder, whole, max_drop=max_drop)
    chosen = min(within, key=_request_ms)
    is_bounded = not math.isinf(max_drop)
    if len(ladder) == 1:
        return whole, "it is the only rung"
    if chosen is whole:
        return whole, f"no other{f' that loses at most {max_drop:g} points of it on dev' * is_bounded} is faster"
    bound = f" that lose at most {max_drop:g} points of {whole.rung.name} on dev" * is_bounded
    return chosen, (
        f"the fastest of {len(within)}{bound}:"
        f" {_drop(chosen, whole):+.2f} lost, a request in {_request_ms(chosen):.1f} ms where it takes"
        f" {_request_ms(whole):.1f} ms"
    )


def _aim(taught: "Speaker", whole: Packed, *, course: Course) -> tuple[int, str]:
    """Say how many layers the last rung keeps, and why; for a bound per token half of the layers are timed too.

    What was said is remembered: times are never quite the same, and a run that was killed shall go on as it began.
    """
    n_layers = len(taught.model.model.layers)
    half, bound_ms = max(n_layers // 2, 1), course.per_token_ms
    if bound_ms is None:
        return half, "evenly down to half, as no time per token is asked for"
    file = course.run / f"aim-{bound_ms:g}ms.json"
    if file.is_file():
        return msgspec.json.decode(file.read_bytes(), type=tuple[int, str])
    from millis.compressing.depth import keep_layers
    from millis.compressing.packing import pack

    say(f"timing {half} of {n_layers} layers, whichever they are")
    shorter = pack(
        keep_layers(taught, range(half)), course.scratch / "half.millis", rungs=("int8",), **course.packed
    )
    pair = [(whole.bundle, whole.source), (shorter, "int8")]
    whole_ms, half_ms = (float(np.median(one.each_ms)) for one in time_together(pair, timed=course.dev))
    aim = aim_layers(n_layers, whole_ms=whole_ms, half_ms=half_ms, bound_ms=bound_ms)
    write_whole(file, lambda out: out.write(msgspec.json.encode(aim)))
    return aim


def aim_layers(n_layers: int, *, whole_ms: float, half_ms: float, bound_ms: float) -> tuple[int, str]:
    """Say how many layers keep a bound on the time per token at ease, by a line through two depths; else half.

    Args:
        whole_ms, half_ms: time per token of all layers, and of half of them.
    Returns:
        a quarter of the layers at least, and the reason.
    """
    half = max(n_layers // 2, 1)
    layer_ms = (whole_ms - half_ms) / (n_layers - half)
    told = f"a token takes {whole_ms:.2f} ms, {half_ms:.2f} ms with {half} layers"
    if whole_ms <= AT_EASE * bound_ms:
        return half, f"{told}: within {AT_EASE:g} of the {bound_ms:g} ms asked, so evenly down to half"
    if layer_ms <= 0:
        return half, f"{told}: it is not the layers that take it, so evenly down to half"
    fits = math.floor(half + (AT_EASE * bound_ms - half_ms) / layer_ms)
    least = max(math.ceil(_LEAST_SHARE * n_layers), 1)
    if fits < least:
        return least, f"{told}: {least} layers, the least there are, where {bound_ms:g} ms ask for fewer"
    return min(fits, n_layers - 1), f"{told}: so many take {AT_EASE:g} of the {bound_ms:g} ms asked"


def _choose(speaker: "Speaker", folder: Path, *, course: Course, n: int) -> "Kept":
    """Choose layers, or remember what was chosen before the run ended."""
    from millis.compressing.depth import Kept, choose_layers

    file = folder / "kept.json"
    if file.is_file():
        return msgspec.json.decode(file.read_bytes(), type=Kept)
    kept = choose_layers(speaker.model, course.dev, n=n, settings=course.training)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, lambda out: out.write(msgspec.json.encode(kept)))
    n_before = len(speaker.model.model.layers)
    say(f"{n} of {n_before} layers stay: loss on answers {kept.loss:.3f}, {kept.loss_before:.3f} before")
    return kept


def _pack(
    speaker: "Speaker", whole: Packed, *, course: Course, name: str, choices: tuple[Choice, ...]
) -> Packed:  # fmt: skip
    """Pack a model in eight and in four bits; of those that dev lets through give the faster, else the better."""
    from millis.compressing.packing import pack

    bundle = pack(_copy(speaker), course.scratch / f"{name}.millis", rungs=("int8", "int4"), **course.packed)
    rungs = [
        Packed(rung=rung, bundle=bundle, source=rung.name, heard=course.hear(bundle, rung.name))
        for rung in bundle.manifest.rungs
    ]
    found = _time(rungs, course=course)
    within = _within(found, whole, max_drop=course.max_drop)
    chosen = min(within, key=_request_ms) if within else min(found, key=lambda one: _drop(one, whole))
    told = "; ".join(
        f"{one.rung.name} {_request_ms(one):.1f} ms a request, {_drop(one, whole):+.2f} lost" for one in found
    )
    say(f"{name}, on dev: {told}")
    choice = Choice(what="precision", choice=chosen.rung.name, reason=f"on dev: {told}")
    name = f"{chosen.source}-{name}"
    rung = msgspec.structs.replace(
        chosen.rung, name=name, folder=f"rungs/{name}", choices=(*chosen.rung.choices, *choices, choice)
    )
    return dataclasses.replace(chosen, rung=rung)


def _copy(speaker: "Speaker") -> "Speaker":
    """Copy a model for the converter, which may leave its marks."""
    return dataclasses.replace(speaker, model=copy.deepcopy(speaker.model))


def _time(ladder: Sequence[Packed], *, course: Course) -> list[Packed]:
    times = time_together([(one.bundle, one.source) for one in ladder], timed=course.dev)
    return [dataclasses.replace(one, times=found) for one, found in zip(ladder, times, strict=True)]


def _record(one: Packed, *, reference: Heard) -> Packed:
    """Write what was heard and timed into the rung."""
    assert one.times is not None
    took = Choice(
        what="time of a request", choice=f"{_request_ms(one):.1f} ms",
        reason=f"median of {len(one.times.request_ms)} of dev, one at a time, answers as long as the right ones",
    )  # fmt: skip
    rung = msgspec.structs.replace(
        one.rung, quality=one.heard.quality(reference), latency=one.times.latency(), choices=(*one.rung.choices, took)
    )
    return dataclasses.replace(one, rung=rung)


def _within(ladder: Sequence[Packed], whole: Packed, *, max_drop: float) -> list[Packed]:
    return [one for one in ladder if _drop(one, whole) <= max_drop]


def _drop(one: Packed, whole: Packed) -> float:
    """Give the points that a rung loses on dev."""
    if one.heard is whole.heard:
        return 0.0
    assert one.heard.dev is not None
    assert whole.heard.dev is not None
    return whole.heard.dev.value - one.heard.dev.value


def _request_ms(one: Packed) -> float:
    assert one.times is not None
    return float(np.median(one.times.request_ms))
