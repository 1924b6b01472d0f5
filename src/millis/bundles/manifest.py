"""What a bundle says of itself: manifest.json and certificate.json.

Border: shapes only; unknown keys are errors. Reading and checking files is bundle.py's matter.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from millis.backends.generator import Lookup

FORMAT = 1

Name = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f/\\]{1,200}$", description="printable, no slash")]


class Choice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something chosen for the user, with the reason."""

    what: str
    choice: str
    reason: str


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step of making a rung, and how far its outputs are from the source model's.

    Args:
        n_bytes: of the model's files after it.
        quality: points on dev after it, None where they were not counted.
        ms: mean time of an inference over the data's texts after it, None where it was not timed.
    """

    step: str
    seconds: float
    n_bytes: int
    max_abs: float | None = None
    agreement: float | None = None
    quality: float | None = None
    ms: float | None = None
    reason: str = ""


class LatencyRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Time of one inference at one token count, in ms.

    Args:
        p50_ms, p99_ms, n: back to back, the lengths in turns.
        again_ms: median right behind one at the same length, None where that was not measured.
        cold_ms: median of inferences that came after an idle gap, None where that was not measured.
        rows, rows_ms: how many windows of one text its rung runs together, and the median of an inference of so many;
            None where it runs each alone.
        operations: multiplications and additions of one inference.
        n_bytes: of weights and of rows of the table that one inference must read.
    """

    tokens: int
    p50_ms: float
    p99_ms: float
    n: int
    again_ms: float | None = None
    cold_ms: float | None = None
    rows: Annotated[int, Meta(ge=1)] = 1
    rows_ms: float | None = None
    operations: int | None = None
    n_bytes: int | None = None


class LayerTime(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left of a layer, and its time.

    Args:
        ms, whole_ms: mean over the data's texts now and before pruning, by the layer table of this machine: between
            back to back and cold, by the contract's rate.
    """

    heads: int
    channels: int
    ms: float
    whole_ms: float


class TableCheck(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a layer table's predictions were at one token count, for whole networks that it had not seen.

    Args:
        n: networks.
        measured_ms: of the middle one.
        median_error, worst_error: shares of what was measured.
    """

    runtime: str
    tokens: int
    n: int
    measured_ms: float
    median_error: float
    worst_error: float


class Spread(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A median and what lies around it: quartiles of times, the 95 % interval of a median ratio."""

    median: float
    low: float
    high: float


class TrickTrial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A setting of the engine, tried against what was best before it, prompt by prompt in turn.

    Args:
        against: the settings before.
        n_equal: prompts with the same likeliest answer.
        first_ms, first_ms_before: time to the first piece.
        token_ms, token_ms_before: mean time of a later piece.
        first_ratio, token_ratio, whole_ratio: of the same prompt's times (the last: of the whole answer, to the piece
            that both reached), with the trick over without it. Numbers are None where too few prompts had them.
    """

    trick: str
    against: str
    n_prompts: int
    n_equal: int
    first_ms: Spread | None
    first_ms_before: Spread | None
    first_ratio: Spread | None
    token_ms: Spread | None
    token_ms_before: Spread | None
    token_ratio: Spread | None
    whole_ratio: Spread | None = None
    is_kept: bool
    reason: str


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of the bundle as it must be."""

    sha256: str
    n_bytes: int


class Rung(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One compiled variant of the model.

    Args:
        folder: where its files stand in the bundle.
        table: its file of word embeddings, which other rungs may share; None where they are in the model's own file.
        buckets: static token counts, or None for any length.
        rows: windows of one text that run together.
        quality: name, value, reference, drop, low, high in points (low and high bound the drop, 95 %).
        keeps_prefixes, lookup, keeps_float32: how its engine is built, where it speaks; see GeneratorSettings.
        tricks: what was tried before that was decided.
        layers: what pruning left of each, none where nothing was pruned.
    """

    name: Name
    backend: str
    precision: str
    folder: str
    table: str | None = None
    device: str = "cpu"
    threads: int = 1
    buckets: tuple[int, ...] | None = None
    rows: Annotated[int, Meta(ge=1, le=256)] = 1
    keeps_prefixes: bool = True
    lookup: Lookup | None = None
    keeps_float32: bool = False
    tricks: tuple[TrickTrial, ...] = ()
    quality: dict[str, Any] = {}
    latency: tuple[LatencyRow, ...] = ()
    layers: tuple[LayerTime, ...] = ()
    choices: tuple[Choice, ...] = ()
    steps: tuple[Step, ...] = ()


class Tried(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A candidate of the search, as far as it got, in ms at the contract's percentile and points on dev."""

    name: str
    predicted_ms: float
    measured_ms: float | None
    quality: float
    is_chosen: bool = False


class ServingShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the server lays itself out.

    Args:
        workers: processes on one port.
        threads: inference threads in each, which share one copy of the weights; 0 runs each request to its end on
            the event loop, without a hop.
    """

    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    threads: Annotated[int, Meta(ge=0, le=64)] = 0


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """manifest.json: everything needed to load the bundle, and the hash of every other file.

    Args:
        task_settings: keyword arguments of the task.
        rung: name of the rung that serves.
        table_checks: of the layer table that pruning went by; none where nothing was pruned.
        seal: SHA-256 of this manifest without its seal.
    """

    format: int
    name: Name
    task: str
    labels: tuple[str, ...]
    task_settings: dict[str, Any]
    rungs: tuple[Rung, ...]
    rung: str
    contract: dict[str, Any]
    serving: ServingShape = ServingShape()
    base: str = ""
    created: str = ""
    versions: dict[str, str] = {}
    choices: tuple[Choice, ...] = ()
    notes: tuple[str, ...] = ()
    tried: tuple[Tried, ...] = ()
    table_checks: tuple[TableCheck, ...] = ()
    lengths: tuple[tuple[int, int], ...] = ()
    files: dict[str, FileEntry] = {}
    seal: str = ""


class Certificate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """certificate.json: contract, measurement, verdict, and the hashes of the files they speak of.

    Args:
        measurement: the load generator's result, histogram included.
        machine: the fingerprint of where it was measured.
        subject: SHA-256 by file of everything that decides an answer or its time.
    """

    contract: dict[str, Any]
    verdict: dict[str, Any]
    measurement: dict[str, Any]
    machine: dict[str, Any]
    rung: str
    serving: ServingShape
    command: str
    created: str
    versions: dict[str, str]
    subject: dict[str, str]
