"""Labelled text to a proven bundle: the whole loop, recorded step by step in a run folder.

Border: decides and records; the rooms below do the work.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from millis.bundles import Bundle, Choice, Manifest, Rung, ServingShape, load, open_bundle, save_bundle
from millis.bundles.bundle import TOKENIZER
from millis.bundles.manifest import Tried
from millis.contract import Contract, Verdict
from millis.data.lengths import LengthHistogram
from millis.errors import ContractBroken, InvalidValue, MeasurementVoid
from millis.measuring.fingerprint import fingerprint, n_cores
from millis.measuring.quality import bound_drop, measure_quality
from millis.measuring.table import measure_table
from millis.models.bases import find_base
from millis.searching.bodies import bodies_of_texts
from millis.searching.building import Artifact, Built, build_artifact, train_reference
from millis.searching.candidates import Variant, predict_percentile_ms, propose, shapes_for
from millis.searching.case import OVERLAP, Case, FitSettings, prepare
from millis.searching.proving import judge_served, measure_served, plan_requests, write_proof
from millis.searching.relaxing import Point, relax
from millis.tasks import Score
from millis.telemetry.progress import say
from millis.units import write_ms

_PROBE_S = 8.0
_PROBE_REQUESTS = (150, 1_000)  # fewest, most
_MOST_PROBES = 3
_MOST_PROOFS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A rung that exists, in one layout of the server."""

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
        layout = f"{self.shape.threads} threads" if self.shape.threads else f"{self.shape.workers} workers"
        return f"{self.rung.name}, {layout}"


def fit(
    train: str | Path,
    *,
    base: str,
    out: str | Path,
    contract: Contract,
    dev: str | Path | None = None,
    test: str | Path | None = None,
    **rest: Any,
) -> Bundle:
    """Fine-tune, compress, compile, measure and prove, until the contract holds.

    Args:
        train, dev, test: labelled files; dev and test are carved from train when missing.
        base: folder in Hugging Face layout, hub id, or package:NAME.
        out: where the bundle shall stand.
        rest: the other fields of FitSettings (epochs, seed, within_ms, layout, ends, ...).
    Returns:
        the bundle, its certificate kept.
    Raises:
        ContractBroken: nothing kept it; see run_fit.
    """
    unknown = sorted(set(rest) - set(FitSettings.__dataclass_fields__))
    if unknown:
        raise InvalidValue(f"fit has no setting {unknown[0]!r}: it has {', '.join(FitSettings.__dataclass_fields__)}.")
    settings = FitSettings(
        base=base,
        out=Path(out),
        train=Path(train),
        dev=Path(dev) if dev else None,
        test=Path(test) if test else None,
        **rest,
    )
    return run_fit(contract, settings)


def run_fit(contract: Contract, settings: FitSettings) -> Bundle:
    """Fine-tune, compress, compile, measure and prove, until the contract holds.

    Returns:
        the bundle, its certificate kept.

    Raises:
        ContractBroken: nothing kept it; the best rung stands at out all the same, with the nearest feasible points and
            the cheapest relaxation in the message.
        MeasurementVoid: the same, but what was measured decides nothing.
        InvalidData, InvalidBase, InvalidValue: the input cannot be used; nothing was written.
        Interrupted: Ctrl-C; the same command goes on from the run folder.
    """
    began = time.monotonic()
    case = prepare(contract, settings, began=began)
    reference = train_reference(
        find_base(settings.base), task=case.task, splits=case.splits, folder=case.folder,
        tokenizer_file=case.tokenizer_file, epochs=settings.epochs, seed=settings.seed,
    )  # fmt: skip
    say(f"reference (torch fp32): {reference.test.name} {reference.test.value:.2f} on test\n{reference.test.report}")
    candidates = _build_all(case, reference_dev=reference.dev, reference_folder=reference.folder)
    tried = _probe(case, candidates)
    bundle, verdict = _prove_best(case, tried, reference_test=reference.test)
    for line in verdict.lines():
        say(line)
    say(f"loop done in {write_ms(1000 * (time.monotonic() - began))}: {bundle.path}")
    if verdict.status != "kept":
        advice = "\n".join(relax([_point(one) for one in tried], contract=contract, lengths=case.lengths))
        error = ContractBroken if verdict.status == "broken" else MeasurementVoid
        raise error(
            f"no candidate is proven to keep '{contract}' here; the best stands at {settings.out},"
            f" {verdict.status}.\n{advice}"
        )
    return bundle


def _build_all(case: Case, *, reference_dev: Score, reference_folder: Path) -> list[_Candidate]:
    """Build every variant, score it on dev, time it; then the likeliest one with two threads in an inference."""
    candidates: list[_Candidate] = []
    for variant in propose(device=case.contract.device):
        if not case.has_time() and candidates:
            say(f"{variant.name}: not built, the time is up")
            continue
        candidates += _build_one(case, variant, reference_dev=reference_dev, reference_folder=reference_folder)
    if n_cores() > 1 and case.contract.device == "cpu" and case.has_time():
        good = [one for one in candidates if _keeps_quality(one, case.contract)] or candidates
        best = min(good, key=lambda one: one.predicted_ms)
        doubled = replace(best.variant, threads=2)
        candidates += _build_one(
            case, doubled, reference_dev=reference_dev, reference_folder=reference_folder, like=best
        )
    return candidates


def _build_one(
    case: Case, variant: Variant, *, reference_dev: Score, reference_folder: Path, like: _Candidate | None = None
) -> list[_Candidate]:
    """Make one rung, in each layout of the server; one that is like another has its quality."""
    built = build_artifact(variant, case=_artifact_case(case, reference_dev=reference_dev), reference=reference_folder)
    rung, quality = _measure_rung(case, variant, built, quality=like.quality if like else None)
    drop = reference_dev.value - quality
    middle = rung.latency[len(rung.latency) // 2]
    say(f"{variant.name}: F1 {quality:.2f} on dev ({drop:+.2f} lost), {middle.p50_ms:.2f} ms at {middle.tokens} tokens")
    return [
        _Candidate(
            variant=variant, rung=rung, built=built, shape=shape, quality=quality, drop=drop,
            predicted_ms=predict_percentile_ms(
                rung.latency, lengths=case.lengths, rate_per_s=case.contract.rate_per_s, shape=shape,
                percentile=case.contract.percentile,
            ),
        )
        for shape in shapes_for(variant, cores=n_cores())
    ]  # fmt: skip


def _artifact_case(case: Case, *, reference_dev: Score) -> Artifact:
    """Say what building may lose: the contract's drop, and no more than leads down to its floor."""
    contract = case.contract
    allowed = [] if contract.max_drop is None else [contract.max_drop]
    allowed += [] if contract.floor is None else [max(reference_dev.value - contract.floor, 0.0)]
    return Artifact(
        folder=case.folder, task=case.task, splits=case.splits, tokenizer_file=case.tokenizer_file,
        max_drop=min(allowed, default=None), ledger=case.ledger,
    )  # fmt: skip


def _measure_rung(case: Case, variant: Variant, built: Built, *, quality: float | None) -> tuple[Rung, float]:
    """Fill a rung's latency table and score it on dev unless its quality is known; or take both from the ledger."""
    known = case.ledger.find("rung", variant.name)
    if known is not None:
        return msgspec.convert(known["rung"], type=Rung), float(known["quality"])
    buckets = case.buckets if variant.is_bucketed else None
    rung = Rung(
        name=variant.name, backend=variant.backend, precision=variant.precision, folder=f"rungs/{variant.name}",
        device=case.contract.device, threads=variant.threads, buckets=buckets, choices=built.choices, steps=built.steps,
    )  # fmt: skip
    model = load(_save_draft(case, rung, built), cache=case.folder / "cache")
    try:
        if quality is None:
            quality = measure_quality(model, case.splits.dev, name=f"{variant.name}: dev").value
        rung = msgspec.structs.replace(rung, latency=measure_table(model, case.buckets))
    finally:
        model.close()
    case.ledger.add("rung", variant.name, {"rung": rung, "quality": quality})
    return rung, quality


def _probe(case: Case, candidates: list[_Candidate]) -> list[_Candidate]:
    """Measure the likeliest candidates behind a real server, briefly; give all, those to prove first in front.

    Candidates that keep the quality on dev come by their time over HTTP, then those only predicted, then the rest.
    """
    contract = case.contract
    bodies = bodies_of_texts([example.text for example in case.splits.dev], seed=case.settings.seed)
    good = sorted((one for one in candidates if _keeps_quality(one, contract)), key=lambda one: one.predicted_ms)
    rest = sorted((one for one in candidates if not _keeps_quality(one, contract)), key=lambda one: one.drop)
    probed: list[_Candidate] = []
    for candidate in good[:_MOST_PROBES]:
        if probed and not case.has_time():
            say("the time is up: the best so far goes to the proof")
            break
        measured_ms = _probe_one(case, candidate, bodies=bodies)
        probed.append(replace(candidate, measured_ms=measured_ms))
        say(
            f"{candidate.name}: p{contract.percentile:g} {measured_ms:.2f} ms over HTTP, predicted"
            f" {candidate.predicted_ms:.2f}"
        )
    return [*sorted(probed, key=lambda one: one.seen_ms), *good[len(probed) :], *rest]


def _keeps_quality(candidate: _Candidate, contract: Contract) -> bool:
    return (contract.max_drop is None or candidate.drop <= contract.max_drop) and (
        contract.floor is None or candidate.quality >= contract.floor
    )


def _probe_one(case: Case, candidate: _Candidate, *, bodies: Sequence[bytes]) -> float:
    key = f"{candidate.name} at {case.contract.rate_per_s:g}/s"
    known = case.ledger.find("probe", key)
    if known is None:
        draft = _save_draft(case, candidate.rung, candidate.built, shape=candidate.shape)
        fewest, most = _PROBE_REQUESTS
        n_requests = min(max(round(_PROBE_S * case.contract.rate_per_s), fewest), most)
        served = measure_served(
            draft, contract=case.contract, bodies=bodies, n_requests=n_requests, name=f"{candidate.name}: probe"
        )
        known = {"measured_ms": served.load.percentile_ms(case.contract.percentile)}
        case.ledger.add("probe", key, known)
    return float(known["measured_ms"])


def _prove_best(case: Case, tried: Sequence[_Candidate], *, reference_test: Score) -> tuple[Bundle, Verdict]:
    """Prove candidates in order until one keeps the contract; when none does, leave the first where it stood."""
    proven: list[tuple[_Candidate, Verdict]] = []
    for candidate in tried[:_MOST_PROOFS]:
        if proven and not case.has_time():
            break
        bundle, verdict = _conclude(case, candidate, tried, reference_test=reference_test)
        if verdict.status == "void":
            say(f"{candidate.name}: measured again, since nothing was: {verdict.clauses[0].detail}")
            bundle, verdict = _conclude(case, candidate, tried, reference_test=reference_test)
        if verdict.status == "kept":
            return bundle, verdict
        say(
            f"{candidate.name}: {verdict.status}; " + "; ".join(c.detail for c in verdict.clauses if c.status != "kept")
        )
        proven.append((candidate, verdict))
        if verdict.clauses[0].status != "kept":
            break  # the next ones were slower; they can only help where quality broke
    if len(proven) == 1:
        return open_bundle(case.settings.out), proven[0][1]
    return _conclude(case, proven[0][0], tried, reference_test=reference_test)


def _conclude(
    case: Case, chosen: _Candidate, tried: Sequence[_Candidate], *, reference_test: Score
) -> tuple[Bundle, Verdict]:
    """Score the chosen rung on test, write the bundle, prove it, write certificate and report."""
    draft = _save_draft(case, chosen.rung, chosen.built, shape=chosen.shape)
    model = load(draft, cache=case.folder / "cache")
    try:
        score = measure_quality(model, case.splits.test, name="test")
    finally:
        model.close()
    drop, low, high = bound_drop(reference_test, score)
    quality: dict[str, Any] = {
        "name": score.name, "value": score.value, "reference": reference_test.value, "drop": drop, "low": low,
        "high": high, "n": len(case.splits.test), "by_label": score.by_label,
        "reference_by_label": reference_test.by_label,
    }  # fmt: skip
    say(f"{chosen.rung.name}: {score.name} {score.value:.2f} on test\n{score.report}")
    rung = msgspec.structs.replace(chosen.rung, quality=quality)
    bundle = _save(case, case.settings.out, rung, chosen, tried)
    bodies = bodies_of_texts([example.text for example in case.splits.test], seed=case.settings.seed)
    served = measure_served(
        bundle, contract=case.contract, bodies=bodies, name="proof",
        n_requests=plan_requests(case.contract, seconds=None, n_requests=None),
    )  # fmt: skip
    verdict = judge_served(bundle, contract=case.contract, served=served)
    return write_proof(bundle, contract=case.contract, served=served, verdict=verdict), verdict


def _save_draft(case: Case, rung: Rung, built: Built, *, shape: ServingShape | None = None) -> Bundle:
    """Write a bundle of one rung into the run folder, to load and to serve it as it will be."""
    manifest = _manifest(case, rung, shape=shape or ServingShape(), name="draft")
    return save_bundle(
        case.folder / "drafts" / f"{rung.name}.millis",
        manifest=manifest,
        parts={TOKENIZER: case.tokenizer_file, rung.folder: built.folder},
    )


def _save(case: Case, out: Path, rung: Rung, chosen: _Candidate, tried: Sequence[_Candidate]) -> Bundle:
    others = [one for one in tried if one.name != chosen.name and one.measured_ms is not None]
    beaten = ", ".join(f"{one.name} {one.measured_ms:.2f} ms" for one in others) or "no other was measured"
    choices = (
        Choice(
            what="rung and layout",
            choice=chosen.name,
            reason=f"p{case.contract.percentile:g} {chosen.seen_ms:.2f} ms over HTTP at"
            f" {case.contract.rate_per_s:g}/s, {chosen.drop:+.2f} points lost on dev; {beaten}",
        ),
        Choice(
            what="buckets",
            choice=" ".join(map(str, rung.buckets)) if rung.buckets else "none",
            reason="fewest padded tokens over train's lengths"
            if rung.buckets
            else "this runtime takes any length unpadded",
        ),
        Choice(
            what="longest window",
            choice=f"{case.task.max_tokens} tokens",
            reason=f"takes in 99.9 % of train whole; longer texts are cut into windows that overlap by {OVERLAP}",
        ),
    )
    rows = tuple(
        Tried(
            name=one.name, predicted_ms=one.predicted_ms, measured_ms=one.measured_ms, quality=one.quality,
            is_chosen=one.name == chosen.name,
        )
        for one in tried
    )  # fmt: skip
    name = out.name.removesuffix(".millis")
    manifest = _manifest(case, rung, shape=chosen.shape, choices=choices, name=name, tried=rows)
    bundle = save_bundle(
        out, manifest=manifest, parts={TOKENIZER: case.tokenizer_file, rung.folder: chosen.built.folder}
    )
    return open_bundle(bundle.path)


def _manifest(
    case: Case,
    rung: Rung,
    *,
    shape: ServingShape,
    name: str,
    choices: tuple[Choice, ...] = (),
    tried: tuple[Tried, ...] = (),
) -> Manifest:
    counted = LengthHistogram.from_lengths(case.lengths)
    return Manifest(
        format=1, name=name, task=case.settings.task, labels=case.task.labels,
        task_settings={"max_tokens": case.task.max_tokens, "overlap": OVERLAP, "example": case.task.example},
        rungs=(rung,), rung=rung.name, contract=case.contract.record(), serving=shape,
        base=_base_name(case.settings.base),
        created=datetime.now(UTC).isoformat(timespec="seconds"), versions=fingerprint().versions, choices=choices,
        notes=case.notes, tried=tried, lengths=counted.counts,
    )  # fmt: skip


def _base_name(base: str) -> str:
    return base if base.startswith("package:") else Path(base).name


def _point(candidate: _Candidate) -> Point:
    return Point(
        name=candidate.name, quality=candidate.quality, drop=candidate.drop, predicted_ms=candidate.predicted_ms,
        measured_ms=candidate.measured_ms, table=candidate.rung.latency, shape=candidate.shape,
    )  # fmt: skip
