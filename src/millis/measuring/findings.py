"""What a report is told: plain values, every part of which may be absent.

Border: shapes only; unknown keys are errors. Drawing them is report.py's matter.
"""

from typing import Any

import msgspec

from millis.bundles.manifest import Choice, LayerTime, Step, TableCheck, TrickTrial
from millis.contract import Verdict


class Latency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Latencies through HTTP.

    Args:
        bins: (upper edge in ms, count), ascending; a bin begins where the one before ends.
        percentiles: ms by name, such as {"p50": 2.1, "p99": 6.4}.
    """

    bins: tuple[tuple[float, int], ...] = ()
    bound_ms: float | None = None
    percentiles: dict[str, float] = {}


class Tokens(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How answers came that come piece by piece; `Latency` is then of first pieces.

    Args:
        first, each: ms by percentile, to the first piece and for each later one; each is empty where none came.
        per_s: pieces of all answers in a second.
        bound_ms: on each later piece.
        ceiling: the least time that memory allows a piece, beside the time seen, in a sentence.
    """

    first: dict[str, float]
    each: dict[str, float] = {}
    per_s: float
    bound_ms: float | None = None
    ceiling: str = ""


class Candidate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that was considered.

    Args:
        measured_ms: the contract's percentile as measured through HTTP, None when it was not.
        predicted_ms: as predicted before, None when it was not.
        quality: points, None when it was not scored.
    """

    name: str
    measured_ms: float | None = None
    predicted_ms: float | None = None
    quality: float | None = None
    note: str = ""
    is_chosen: bool = False


class BucketTime(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Time of one inference of a rung at a bucket (None: any length).

    Args:
        cold_ms: median after an idle gap.
        rows, rows_ms: how many windows of one text run together, and the median of an inference of so many.
        operations, n_bytes: of one inference: multiplications and additions, and what it must read.
    """

    rung: str
    bucket: int | None = None
    p50_ms: float
    p99_ms: float
    cold_ms: float | None = None
    rows: int = 1
    rows_ms: float | None = None
    operations: int | None = None
    n_bytes: int | None = None


class RungFound(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rung of the ladder.

    Args:
        measured_ms: the contract's percentile through HTTP, None when it was not measured.
        status: of its verdict, "" without one.
        layers, table, steps, choices: how it came about, as Report has them of the rung that serves; given of others.
    """

    name: str
    measured_ms: float | None = None
    quality: float | None = None
    drop: float | None = None
    n_bytes: int = 0
    status: str = ""
    is_serving: bool = False
    layers: tuple[LayerTime, ...] = ()
    table: tuple[BucketTime, ...] = ()
    steps: tuple[Step, ...] = ()
    choices: tuple[Choice, ...] = ()


class Lengths(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long texts are: (tokens, count of texts), and the buckets chosen from that."""

    counts: tuple[tuple[int, int], ...] = ()
    buckets: tuple[int, ...] = ()


class Quality(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How good the chosen rung is, in points.

    Args:
        name: "F1".
        reference: points of the uncompressed model on the same examples.
        interval: 95 % bounds of the drop.
        by_label: precision, recall, f1 and support by label, as `Score.by_label` has them.
        reference_by_label: the same of the uncompressed model.
    """

    name: str = "F1"
    value: float
    reference: float | None = None
    drop: float | None = None
    interval: tuple[float, float] | None = None
    by_label: dict[str, dict[str, float]] = {}
    reference_by_label: dict[str, dict[str, float]] = {}


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a report page can show.

    Args:
        created: date and time, as they are to be read.
        contract: as `Contract` has it, builtin values.
        machine: what the fingerprint says, by name.
        stages: ms by percentile ("p50", "p99"), by stage in order.
        layers: what pruning left of the rung that serves.
        tokens: of a model that speaks.
        tricks: of the engine, tried for the rung that serves.
        table_checks: what the layer table predicted of whole networks, against their measured times.
        command: what was run.
    """

    title: str
    created: str = ""
    verdict: Verdict | None = None
    contract: dict[str, Any] = {}
    machine: dict[str, Any] = {}
    versions: dict[str, str] = {}
    latency: Latency | None = None
    tokens: Tokens | None = None
    candidates: tuple[Candidate, ...] = ()
    stages: dict[str, dict[str, float]] = {}
    ladder: tuple[RungFound, ...] = ()
    layers: tuple[LayerTime, ...] = ()
    table_checks: tuple[TableCheck, ...] = ()
    table: tuple[BucketTime, ...] = ()
    lengths: Lengths | None = None
    quality: Quality | None = None
    tricks: tuple[TrickTrial, ...] = ()
    steps: tuple[Step, ...] = ()
    choices: tuple[Choice, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""
