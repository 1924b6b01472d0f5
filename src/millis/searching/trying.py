"""Candidates: rungs that exist, in one layout of the server each; built, scored on dev, timed, probed over HTTP.

Border: decides nothing about the contract; proving is concluding.py's matter. What was finished
is found again in the run folder's ledger.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from millis.bundles import Rung, ServingShape, load
from millis.contract import MOST_BOUND_MS, Contract
from millis.cores import n_cores
from millis.measuring.quality import measure_quality
from millis.measuring.table import measure_table
from millis.models.work import read_work
from millis.searching.bodies import bodies_of_examples
from millis.searching.building import Artifact, Built, Reference, build_artifact
from millis.searching.candidates import (
    AT_EASE,
    STATIC,
    Variant,
    count_rows,
    mean_ms,
    predict_percentile_ms,
    shapes_for,
)
from millis.searching.case import Case
from millis.searching.drafting import name_table, save_draft
from millis.searching.proving import measure_served
from millis.searching.pruning import Pruning
from millis.telemetry.progress import say

_PROBE_SHARE = 0.4  # of a proof
_FEWEST, _MOST = 150, 1_000  # requests of a probe
_PROBE_DEADLINE_MS = MOST_BOUND_MS
"""Answers to those that would be refused under the bound are waited for: without them it looks faster than it is."""

_MOST_PROBES = 3
_BYTES = {"int8": 1, "fp16": 2, "bf16": 2, "fp32": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A rung that exists, in one layout of the server.

    Args:
        quality, drop: points on dev, and how many fewer than the reference's.
        predicted_ms, measured_ms: at the contract's percentile: from the rung's table, and by a probe over HTTP.
    """

    variant: Variant
    rung: Rung
    built: Built
    shape: ServingShape
    quality: float
    drop: float
    predicted_ms: float
    measured_ms: float | None = None

    @property
    def seen_ms(self) -> float:
        """As measured, or as predicted where it was not."""
        return self.predicted_ms if self.measured_ms is None else self.measured_ms

    @property
    def name(self) -> str:
        """Name the rung and the layout."""
        layout = f"{self.shape.threads} threads" if self.shape.threads else f"{self.shape.workers} workers"
        return f"{self.rung.name}, {layout}"

    def keeps_floor(self, contract: Contract) -> bool:
        """Say whether dev reaches the floor, where one was promised."""
        return contract.allows(quality=self.quality, drop=0.0)

    def keeps_quality(self, contract: Contract) -> bool:
        """Say whether dev is content."""
        return contract.allows(quality=self.quality, drop=self.drop)


def build_whole(case: Case, reference: Reference) -> list[Candidate]:
    """Build every variant, score it on dev, time it; then the likeliest one with two threads in an inference."""
    candidates: list[Candidate] = []
    for variant in case.variants:
        if not case.has_time() and candidates:
            say(f"{variant.name}: not built, the time is up")
            continue
        candidates += _build_one(case, variant, reference=reference)
    if case.has_time():
        candidates += _build_doubled(case, candidates, reference=reference)
    return candidates


def build_pruned(
    case: Case, pruning: Pruning, *, kinds: Sequence[Variant], reference: Reference
) -> list[Candidate]:
    """Build a pruned reference on the runtimes of these variants, with one thread and with two in an inference."""
    candidates: list[Candidate] = []
    for kind in kinds:
        variant = replace(kind, share=pruning.share, threads=1)
        built = _build_one(case, variant, reference=reference, pruning=pruning)
        candidates += [*built, *_build_doubled(case, built, reference=reference, pruning=pruning)]
    return candidates


def build_static(case: Case, *, reference: Reference) -> list[Candidate]:
    """Build the rung without attention, where the task has one: not for tokens, nor for a text beside another."""
    head = case.task.head
    if head.rows is None or head.separator is not None or case.contract.device != "cpu" or not case.has_time():
        return []
    return _build_one(case, STATIC, reference=reference)


def _build_doubled(
    case: Case, candidates: Sequence[Candidate], *, reference: Reference, pruning: Pruning | None = None
) -> list[Candidate]:
    """Give the likeliest of candidates two threads in an inference, where there are two cores."""
    if n_cores() < 2 or case.contract.device != "cpu":
        return []
    good = [one for one in candidates if one.keeps_quality(case.contract)] or candidates
    best = min(good, key=lambda one: one.predicted_ms)
    doubled = replace(best.variant, threads=2)
    return _build_one(case, doubled, reference=reference, pruning=pruning, like=best)


def _build_one(
    case: Case,
    variant: Variant,
    *,
    reference: Reference,
    pruning: Pruning | None = None,
    like: Candidate | None = None,
) -> list[Candidate]:
    """Make one rung, in each layout of the server; one that is like another has its quality."""
    source = pruning.folder if pruning else reference.folder
    artifact = replace(artifact_case(case, reference), buckets=case.buckets_of(share=variant.share))
    if pruning and artifact.max_drop is not None and pruning.drop > artifact.max_drop:
        artifact = replace(artifact, max_drop=pruning.drop + artifact.max_drop)  # eight bits lost none of that
    built = build_artifact(variant, case=artifact, reference=source)
    built = replace(built, steps=(*reference.steps, *([pruning.step] if pruning else []), *built.steps))
    if pruning:
        built = replace(built, choices=(*pruning.choices, *built.choices))
    rung, quality = _measure_rung(case, variant, built, quality=like.quality if like else None)
    if variant.backend != STATIC.backend:
        rung = _count_work(rung, source)
    if pruning:
        rung = msgspec.structs.replace(rung, layers=pruning.layers)
    if pruning and variant.threads == 1 and variant.runtime == pruning.runtime:
        rung = msgspec.structs.replace(rung, choices=(*rung.choices, pruning.compare(rung.latency)))
    drop = reference.dev.value - quality
    middle = rung.latency[len(rung.latency) // 2]
    say(
        f"{variant.name}: {reference.dev.name} {quality:.2f} on dev ({drop:+.2f} lost), {middle.p50_ms:.2f} ms at"
        f" {middle.tokens} tokens"
    )
    return [
        Candidate(
            variant=variant, rung=rung, built=built, shape=shape, quality=quality, drop=drop,
            predicted_ms=predict_percentile_ms(
                rung.latency, requests=case.requests, rate_per_s=case.contract.rate_per_s, shape=shape,
                percentile=case.contract.percentile, is_batched=variant.backend == "torch",
                n_requests=plan_probe(case),
            ),
        )
        for shape in shapes_for(variant, cores=n_cores(), device=case.contract.device)
    ]  # fmt: skip


def _count_work(rung: Rung, source: Path) -> Rung:
    """Write the operations and bytes of an inference beside its times."""
    work, weight_bytes = read_work(source), _BYTES[rung.precision]
    row_bytes = 2 if weight_bytes == 1 and rung.table else weight_bytes  # a table that stands apart is in halves
    latency = tuple(
        msgspec.structs.replace(
            row, operations=work.operations(row.tokens),
            n_bytes=work.n_bytes(row.tokens, weight_bytes=weight_bytes, row_bytes=row_bytes),
        )
        for row in rung.latency
    )  # fmt: skip
    return msgspec.structs.replace(rung, latency=latency)


def artifact_case(case: Case, reference: Reference) -> Artifact:
    """Say what building may lose: the contract's drop, and no more than leads down to a floor that is in reach."""
    contract = case.contract
    allowed = [] if contract.max_drop is None else [contract.max_drop]
    if contract.floor is not None and reference.reaches(contract.floor):
        allowed.append(max(reference.dev.value - contract.floor, 0.0))
    return Artifact(
        folder=case.folder, task=case.task, splits=case.splits, tokenizer_file=case.tokenizer_file,
        dev=reference.dev.value, max_drop=min(allowed, default=None), buckets=case.buckets, ledger=case.ledger,
        device=contract.device,
    )  # fmt: skip


def _measure_rung(case: Case, variant: Variant, built: Built, *, quality: float | None) -> tuple[Rung, float]:
    """Fill a rung's latency table and score it on dev unless its quality is known; or take both from the ledger."""
    known = case.ledger.find("rung", variant.name)
    if known is not None:
        return msgspec.convert(known["rung"], type=Rung), float(known["quality"])
    lengths = case.buckets_of(share=variant.share)
    rung = Rung(
        name=variant.name, backend=variant.backend, precision=variant.precision, folder=f"rungs/{variant.name}",
        table=name_table(built), device=case.contract.device, threads=variant.threads,
        buckets=lengths if variant.is_bucketed else None,
        rows=count_rows(variant, requests=case.requests, contract=case.contract),
        choices=built.choices, steps=built.steps,
    )  # fmt: skip
    model = load(save_draft(case, rung, built), cache=case.folder / "cache")
    try:
        if quality is None:
            quality = measure_quality(model, case.splits.dev, name=f"{variant.name}: dev").value
        latency = measure_table(model, lengths)
        last = msgspec.structs.replace(built.steps[-1], quality=quality, ms=mean_ms(latency, case.lengths))
        rung = msgspec.structs.replace(rung, latency=latency, steps=(*built.steps[:-1], last))
    finally:
        model.close()
    case.ledger.add("rung", variant.name, {"rung": rung, "quality": quality})
    return rung, quality


def probe(case: Case, fresh: Sequence[Candidate], *, known: Sequence[Candidate] = ()) -> list[Candidate]:
    """Measure the likeliest of the fresh candidates behind a real server, briefly; give all, the first to prove first.

    Candidates that keep the quality on dev come by their time over HTTP, then those only predicted, then the rest.
    """
    bodies = bodies_of_examples(case.splits.dev, seed=case.settings.seed)
    likely = sorted(fresh, key=lambda one: (not one.keeps_quality(case.contract), one.predicted_ms))
    likeliest = {one.rung.name: one for one in reversed(likely)}  # of each rung's layouts; tables know no crowded cache
    seen: dict[str, Candidate] = {one.name: one for one in (*known, *fresh)}
    for candidate in [one for one in likely if likeliest[one.rung.name] is one][:_MOST_PROBES]:
        if not case.has_time() and any(one.measured_ms is not None for one in seen.values()):
            say("the time is up: the best so far goes to the proof")
            break
        measured_ms = _probe_one(case, candidate, bodies=bodies)
        seen[candidate.name] = replace(candidate, measured_ms=measured_ms)
        say(
            f"{candidate.name}: p{case.contract.percentile:g} {measured_ms:.2f} ms over HTTP, predicted"
            f" {candidate.predicted_ms:.2f}"
        )
    return sorted(seen.values(), key=lambda one: _proof_order(one, case.contract))


def _proof_order(one: Candidate, contract: Contract) -> tuple[float, ...]:
    if not one.keeps_quality(contract):
        return (2, one.drop, one.seen_ms)
    return (0 if one.measured_ms is not None else 1, one.seen_ms)


def plan_probe(case: Case) -> int:
    """Say how many requests a probe sends."""
    planned = round(_PROBE_SHARE * case.settings.prove_for_ms / 1000 * case.contract.rate_per_s)
    return min(max(planned, _FEWEST), _MOST)


def _probe_one(case: Case, candidate: Candidate, *, bodies: Sequence[bytes]) -> float:
    """Measure, or find measured, what a client sees; requests still waiting at the end are in it as if they went on so.

    Where more comes than is answered the queue grows evenly, so n of m answered say m / n of the wait for all.
    """
    key = f"{candidate.name}: p{case.contract.percentile:g} of {plan_probe(case)} at {case.contract.rate_per_s:g}/s"
    known = case.ledger.find("probe", key)
    if known is None:
        draft = save_draft(case, candidate.rung, candidate.built, shape=candidate.shape)
        for is_last in (False, True):
            served = measure_served(
                draft, contract=case.contract, bodies=bodies, n_requests=plan_probe(case),
                name=f"{candidate.name}: probe", deadline_ms=_PROBE_DEADLINE_MS,
            )  # fmt: skip
            load = served.load
            measured_ms = load.percentile_ms(case.contract.percentile) * load.n_requests / load.n_ok
            if is_last or measured_ms < AT_EASE * case.contract.bound_ms or not served.crowd.is_crowded:
                break
            say(f"{candidate.name}: probed again: {served.crowd.note()}")
        known = {"measured_ms": measured_ms}
        case.ledger.add("probe", key, known)
    return float(known["measured_ms"])
