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
from millis.errors import ContractBroken, MeasurementVoid
from millis.measuring.fingerprint import fingerprint, n_cores
from millis.measuring.quality import bound_drop, measure_quality
from millis.measuring.table import measure_table
from millis.models.bases import find_base
from millis.searching.bodies import bodies_of_texts
from millis.searching.building import Artifact, Built, Reference, build_artifact, train_reference
from millis.searching.candidates import Variant, predict_percentile_ms, propose, shapes_for
from millis.searching.case import OVERLAP, Case, FitSettings, name_settings, prepare
from millis.searching.proving import judge_served, measure_served, plan_requests, write_proof
from millis.searching.pruning import DISTILLED, UNTRAINED, Pruning, prune_reference
from millis.searching.relaxing import Point, relax
from millis.tasks import Score
from millis.telemetry.progress import say
from millis.units import write_ms

_PROBE_S = 8.0
_PROBE_REQUESTS = (150, 1_000)  # fewest, most
_MOST_PROBES = 3
_MOST_PROOFS = 3
_AT_EASE = 0.67
"""Share of the bound within which a probe of some hundred requests promises that the proof will be kept."""

_NEAR = 1.25
"""How far two probes may differ though the candidates do not."""


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


@dataclass(frozen=True, slots=True)
class _Proven:
    """A candidate and the verdict on it."""

    candidate: _Candidate
    verdict: Verdict

    @property
    def has_quality(self) -> bool:
        return all(one.status == "kept" for one in self.verdict.clauses if one.name.startswith("quality"))

    @property
    def is_fast(self) -> bool:
        return self.verdict.clauses[0].status == "kept"


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
        rest: the other fields of FitSettings and of ReadSettings (epochs, seed, within_ms, layout, ends, ...).
    Returns:
        the bundle, its certificate kept.
    Raises:
        ContractBroken: nothing kept it; see run_fit.
    """
    paths = {"dev": Path(dev) if dev else None, "test": Path(test) if test else None}
    settings = name_settings({"train": Path(train), "base": base, "out": Path(out), **paths, **rest})
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
    tried = _probe(case, _build_all(case, reference))
    proven: list[_Proven] = []
    for shares in (UNTRAINED, DISTILLED, ()):
        is_last = not shares or contract.device != "cpu" or not case.has_time()
        if is_last or _is_at_ease(tried, proven, contract):
            proven += _prove_best(case, tried, proven, reference_test=reference.test)
        if is_last or (proven and proven[-1].verdict.status == "kept"):
            break
        tried = _probe(case, [*tried, *_build_pruned(case, tried, reference=reference, shares=shares)])
    bundle, verdict = _settle(case, tried, proven, reference_test=reference.test)
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


def _build_all(case: Case, reference: Reference) -> list[_Candidate]:
    """Build every variant, score it on dev, time it; then the likeliest one with two threads in an inference."""
    candidates: list[_Candidate] = []
    for variant in propose(device=case.contract.device):
        if not case.has_time() and candidates:
            say(f"{variant.name}: not built, the time is up")
            continue
        candidates += _build_one(case, variant, reference=reference)
    if case.has_time():
        candidates += _build_doubled(case, candidates, reference=reference)
    return candidates


def _build_doubled(
    case: Case, candidates: Sequence[_Candidate], *, reference: Reference, pruning: Pruning | None = None
) -> list[_Candidate]:
    """Give the likeliest of candidates two threads in an inference, where there are two cores."""
    if n_cores() < 2 or case.contract.device != "cpu":
        return []
    good = [one for one in candidates if _keeps_quality(one, case.contract)] or candidates
    best = min(good, key=lambda one: one.predicted_ms)
    doubled = replace(best.variant, threads=2)
    return _build_one(case, doubled, reference=reference, pruning=pruning, like=best)


def _build_pruned(
    case: Case, tried: Sequence[_Candidate], *, reference: Reference, shares: Sequence[int]
) -> list[_Candidate]:
    """Prune the reference and build what is likely to be fast enough, on the runtimes that did best so far.

    Of the prunings that keep the quality on dev: the one that leaves most and is predicted to be at ease with the
    bound, and the one that leaves least.
    """
    best = tried[0]
    say(f"{best.name} is not well within {write_ms(case.contract.bound_ms)}: heads and channels are pruned")
    prunings = prune_reference(_artifact_case(case, reference), reference, shares=shares, has_time=case.has_time)
    if not prunings:
        say("no such pruning keeps the quality on dev")
        return []
    likeliest = min(tried, key=lambda one: one.predicted_ms)
    bound_ms = _AT_EASE * case.contract.bound_ms * 100 / best.variant.share
    easy = [one for one in prunings if best.seen_ms * one.share / 100 < bound_ms] or prunings[-1:]
    candidates: list[_Candidate] = []
    for pruning in {one.share: one for one in (easy[0], prunings[-1])}.values():
        for kind in {one.variant.backend: one.variant for one in (best, likeliest)}.values():
            variant = replace(kind, share=pruning.share, threads=1)
            built = _build_one(case, variant, reference=reference, pruning=pruning)
            candidates += [*built, *_build_doubled(case, built, reference=reference, pruning=pruning)]
    return candidates


def _is_at_ease(tried: Sequence[_Candidate], proven: Sequence[_Proven], contract: Contract) -> bool:
    """Say whether the first candidate not yet proven was seen so far within the contract that its proof will say so."""
    first = next(iter(_unproven(tried, proven)), None)
    return (
        first is not None
        and first.measured_ms is not None
        and first.measured_ms < _AT_EASE * contract.bound_ms
        and _keeps_quality(first, contract)
    )


def _build_one(
    case: Case,
    variant: Variant,
    *,
    reference: Reference,
    pruning: Pruning | None = None,
    like: _Candidate | None = None,
) -> list[_Candidate]:
    """Make one rung, in each layout of the server; one that is like another has its quality."""
    source = pruning.folder if pruning else reference.folder
    built = build_artifact(variant, case=_artifact_case(case, reference), reference=source)
    if pruning:
        built = replace(built, steps=(pruning.step, *built.steps), choices=(pruning.choice, *built.choices))
    rung, quality = _measure_rung(case, variant, built, quality=like.quality if like else None)
    drop = reference.dev.value - quality
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


def _artifact_case(case: Case, reference: Reference) -> Artifact:
    """Say what building may lose: the contract's drop, and no more than leads down to its floor."""
    contract = case.contract
    allowed = [] if contract.max_drop is None else [contract.max_drop]
    allowed += [] if contract.floor is None else [max(reference.dev.value - contract.floor, 0.0)]
    return Artifact(
        folder=case.folder, task=case.task, splits=case.splits, tokenizer_file=case.tokenizer_file,
        dev=reference.dev.value, max_drop=min(allowed, default=None), ledger=case.ledger,
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


def _probe(case: Case, candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Measure the likeliest candidates behind a real server, briefly; give all, those to prove first in front.

    Candidates that keep the quality on dev come by their time over HTTP, then those only predicted, then the rest.
    """
    contract = case.contract
    bodies = bodies_of_texts([example.text for example in case.splits.dev], seed=case.settings.seed)
    good = sorted((one for one in candidates if _keeps_quality(one, contract)), key=lambda one: one.predicted_ms)
    rest = sorted((one for one in candidates if not _keeps_quality(one, contract)), key=lambda one: one.drop)
    probed = [one for one in good if one.measured_ms is not None]
    unseen = [one for one in good if one.measured_ms is None]
    likeliest = {one.rung.name: one for one in reversed(unseen)}  # of each rung's layouts; tables know no crowded cache
    for candidate in sorted(likeliest.values(), key=lambda one: one.predicted_ms)[:_MOST_PROBES]:
        if probed and not case.has_time():
            say("the time is up: the best so far goes to the proof")
            break
        measured_ms = _probe_one(case, candidate, bodies=bodies)
        probed.append(replace(candidate, measured_ms=measured_ms))
        unseen.remove(candidate)
        say(
            f"{candidate.name}: p{contract.percentile:g} {measured_ms:.2f} ms over HTTP, predicted"
            f" {candidate.predicted_ms:.2f}"
        )
    return [*sorted(probed, key=lambda one: one.seen_ms), *unseen, *rest]


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


def _unproven(tried: Sequence[_Candidate], proven: Sequence[_Proven]) -> list[_Candidate]:
    """Give the candidates that may be proven yet; model files that lost their quality on test do so in any layout."""
    names = {one.candidate.name for one in proven}
    lost = {one.candidate.variant.artifact for one in proven if not one.has_quality}
    return [one for one in tried if one.name not in names and one.variant.artifact not in lost]


def _prove_best(
    case: Case, tried: Sequence[_Candidate], proven: Sequence[_Proven], *, reference_test: Score
) -> list[_Proven]:
    """Prove candidates in order until one keeps the contract, or the next are clearly slower than one that did not."""
    found: list[_Proven] = []
    while len(found) < _MOST_PROOFS and (case.has_time() or not (found or proven)):
        candidate = next(iter(_unproven(tried, [*proven, *found])), None)
        slowest_ms = min((one.candidate.seen_ms for one in found if not one.is_fast), default=float("inf"))
        if candidate is None or candidate.seen_ms > _NEAR * slowest_ms:
            break
        verdict = _conclude(case, candidate, tried, reference_test=reference_test)
        if verdict.status == "void":
            say(f"{candidate.name}: measured again, since nothing was: {verdict.clauses[0].detail}")
            verdict = _conclude(case, candidate, tried, reference_test=reference_test)
        found.append(_Proven(candidate, verdict))
        if verdict.status == "kept":
            break
        say(
            f"{candidate.name}: {verdict.status}; " + "; ".join(c.detail for c in verdict.clauses if c.status != "kept")
        )
    return found


def _settle(
    case: Case, tried: Sequence[_Candidate], proven: Sequence[_Proven], *, reference_test: Score
) -> tuple[Bundle, Verdict]:
    """Leave the one that kept the contract where the bundle belongs, or else the best: quality first, then time."""
    best = min(
        proven,
        key=lambda one: (one.verdict.status != "kept", not one.has_quality, not one.is_fast, one.candidate.seen_ms),
    )
    if best is proven[-1]:
        return open_bundle(case.settings.out), best.verdict
    verdict = _conclude(case, best.candidate, tried, reference_test=reference_test)
    return open_bundle(case.settings.out), verdict


def _conclude(
    case: Case, chosen: _Candidate, tried: Sequence[_Candidate], *, reference_test: Score
) -> Verdict:
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
    write_proof(bundle, contract=case.contract, served=served, verdict=verdict)
    return verdict


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
