"""What stays the same through the whole of a fit: data, task, lengths, ledger.

Border: reads and checks; builds and measures nothing.
"""

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from millis.bundles.bundle import MANIFEST, TOKENIZER
from millis.bundles.saving import check_above
from millis.contract import Contract
from millis.data.checks import check
from millis.data.examples import Example
from millis.data.plain import pass_over, read_plain
from millis.data.readers import read_labelled
from millis.data.splits import Splits, make_splits
from millis.errors import InvalidValue
from millis.measuring.fingerprint import fingerprint
from millis.models.bases import find_base
from millis.models.described import has_two_types
from millis.models.prefixes import find_prefixes
from millis.searching.candidates import Variant
from millis.searching.layout import lay_out, list_lengths
from millis.searching.ledger import Ledger
from millis.searching.remembering import hash_base
from millis.searching.runtimes import choose_variants
from millis.searching.settings import FitSettings
from millis.searching.teacher import Teacher, find_teacher
from millis.tasks import Task, tasks
from millis.telemetry.progress import say
from millis.training.augmentation import augment
from millis.training.methods import check_adaptable

_UNPRUNED = "no pruned rungs: what a layer takes is measured on cpu alone so far"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What stays the same through the whole search.

    Args:
        requests: tokens of each window of each text of train.
        buckets, pruned_buckets: static lengths for the whole network, and for pruned ones.
        began: when, by time.monotonic(), in seconds.
        corpus: texts whose pieces are kept when the vocabulary is trimmed.
        unlabelled, domain_text: texts to learn from without labels, none of them in a part that judges.
        teacher: who teaches the reference, where one was given.
    """

    settings: FitSettings
    contract: Contract
    variants: tuple[Variant, ...]
    splits: Splits
    task: Task
    tokenizer_file: Path
    requests: tuple[tuple[int, ...], ...]
    buckets: tuple[int, ...]
    pruned_buckets: tuple[int, ...]
    folder: Path
    ledger: Ledger
    began: float
    notes: tuple[str, ...]
    corpus: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    domain_text: tuple[str, ...] = ()
    teacher: Teacher | None = None

    @property
    def lengths(self) -> tuple[int, ...]:
        """Give the tokens of every window of train."""
        return list_lengths(self.requests)

    def buckets_of(self, *, share: int) -> tuple[int, ...]:
        """Give the static lengths for a network with a percentage of its layers' time left."""
        return self.buckets if share == 100 else self.pruned_buckets

    def has_time(self) -> bool:
        """Say whether further candidates may be tried."""
        within_ms = self.settings.within_ms
        return within_ms is None or 1000 * (time.monotonic() - self.began) < within_ms


def check_place(out: Path) -> None:
    """Refuse a place where no bundle can stand, before anything is done.

    Raises:
        InvalidValue: something else stands there, or a file where a folder has to be.
    """
    if os.path.exists(out) and not os.path.isfile(out / MANIFEST):  # pathlib's raise on long names
        raise InvalidValue(f"{out} exists and is not a bundle: choose another -o.")
    check_above(out)


def prepare(contract: Contract, settings: FitSettings, *, began: float) -> Case:
    """Read and check the data, choose windows and buckets, open the ledger."""
    check_place(settings.out)
    if settings.sparse is not None and contract.device != "cpu":
        raise InvalidValue(f"sparse is measured on cpu, the contract says {contract.device}: leave one of them out.")
    if settings.train_on == "cuda":
        from millis.models.devices import choose_device  # loads torch, which nobody else's mistake has to wait for

        choose_device(settings.train_on)
    files = (settings.corpus, settings.unlabelled, settings.domain_text)
    texts = {file: read_plain(file) for file in files if file is not None}  # what is wrong is told before all else
    splits, read_notes = read_splits(settings)
    report = check(splits)
    unlabelled, passed = _leave_known(settings.unlabelled, texts, parts=splits.parts())
    judging = {"dev": splits.dev, "test": splits.test}  # train may be read on, labels or not
    domain_text, passed_of_domain = _leave_known(settings.domain_text, texts, parts=judging)
    read_notes = (*read_notes, *passed, *passed_of_domain)
    for line in (*read_notes, *splits.notes, *report.lines()):
        say(line)
    if settings.augment:
        copies = augment(splits.train, ways=settings.augment, seed=settings.seed)
        say(f"{len(copies):,} altered copies of {len(splits.train):,} texts of train: {', '.join(settings.augment)}")
        splits = replace(splits, train=(*splits.train, *copies))
    base = _find_usable_base(settings, domain_text=domain_text)
    variants, left_out = choose_variants(device=contract.device)
    warning = _warn_of_prefixes(base, settings=settings)
    if warning:
        say(warning)
    laid = lay_out(base, splits, task=settings.task, asked=settings.asked())
    task = laid.task
    told = [*left_out, *([_UNPRUNED] if contract.device != "cpu" else [])]
    for line in told:
        say(line)
    told += [warning] if warning else []
    if task.head.separator is not None and has_two_types(base):
        told.append("the base has two token types: the two texts of a window are told apart by them")
        say(told[-1])
    notes = (*read_notes, *splits.notes, *report.warnings, *told, *task.notes(splits.test))
    folder = settings.out.with_name(settings.out.name.removesuffix(".millis") + ".run")
    teacher = None
    if settings.teacher is not None:
        teacher = find_teacher(settings.teacher, task=task, kind=settings.task, tokenizer_file=base / TOKENIZER)
    inputs = [
        hash_base(base), settings.seed, settings.epochs, settings.tune, contract.max_drop,
        contract.floor, contract.device, settings.trim_vocabulary, settings.adapt,
        *(texts.get(file) if file else None for file in files),
        settings.layers, settings.activation, settings.sparse,
        settings.augment, settings.task, settings.asked(), settings.balance, teacher and teacher.digest,
        [[example.record() for example in part] for part in splits.parts().values()],
        fingerprint().digest, fingerprint().versions,
    ]  # fmt: skip
    return Case(
        settings=settings, contract=contract, variants=variants, splits=splits, task=task,
        tokenizer_file=base / TOKENIZER,
        requests=laid.requests, buckets=laid.buckets, pruned_buckets=laid.pruned_buckets,
        folder=folder, ledger=Ledger(folder, inputs=inputs), began=began, notes=notes,
        corpus=tuple(texts[settings.corpus]) if settings.corpus is not None else (),
        unlabelled=unlabelled, domain_text=domain_text, teacher=teacher,
    )  # fmt: skip


def _find_usable_base(settings: FitSettings, *, domain_text: Sequence[str]) -> Path:
    """Find the base, and refuse one with which what is asked cannot be done."""
    base = find_base(settings.base)
    check_adaptable(base, adapt=settings.adapt)
    if settings.domain_text is not None:
        from millis.training.masking import check_texts  # loads torch, which nobody else's mistake has to wait for

        check_texts(base, domain_text)
    _check_layers_of(base, settings.layers)
    return base


def _leave_known(
    file: Path | None, texts: Mapping[Path, Sequence[str]], *, parts: Mapping[str, Sequence[Example]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give a file's texts that stand in no part, and the sentences that count the others; none where no file is."""
    if file is None:
        return (), ()
    fresh, said = pass_over(texts[file], parts=parts, name=file.name)
    return fresh, (said,) if said else ()


def _warn_of_prefixes(base: Path, *, settings: FitSettings) -> str | None:
    """Say that a base wants prefixes, where it seems so and nobody said whether there are any."""
    is_told = settings.query_prefix is not None or settings.passage_prefix is not None
    found = find_prefixes(base, name=settings.base) if "query_prefix" in tasks[settings.task].asked else None
    if is_told or found is None:
        return None
    flags = " ".join(f"--{name}-prefix {shlex.quote(text)}" for name, text in found._asdict().items())
    return (
        f"base {settings.base} seems to be trained with prefixes, and finds less without them: give {flags}, or"
        " --query-prefix '' if it was not"
    )


def read_splits(settings: FitSettings) -> tuple[Splits, tuple[str, ...]]:
    """Read train, dev and test, carve what is missing; give them, and what reading left out."""
    notes: list[str] = []

    def read(path: Path | None) -> tuple[Example, ...] | None:
        if path is None:
            return None
        reading = read_labelled(path, settings=settings.reading, of=tasks[settings.task].data)
        notes.extend(f"{path.name}: {note}" for note in reading.notes)
        return reading.examples

    train, dev, test = read(settings.train), read(settings.dev), read(settings.test)
    return make_splits(train or (), dev=dev, test=test, seed=settings.seed), tuple(notes)


def _check_layers_of(base: Path, layers: tuple[int, ...] | None) -> None:
    if layers is None:
        return
    from millis.models.work import read_work  # loads torch, which a mistake in the data need not wait for

    n_layers = read_work(base).layers
    if layers[-1] >= n_layers:
        raise InvalidValue(f"layers cannot have {layers[-1]} in them: this base has 0 to {n_layers - 1}.")
