"""From candidates to a bundle: score the chosen ones on test, prove each behind a server, write what stands at the end.

Border: which candidates, and when to stop, is search.py's matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from millis.bundles import Bundle, Certificate, Choice, load, save_bundle
from millis.bundles.bundle import TOKENIZER
from millis.bundles.manifest import Rung, TableCheck, Tried
from millis.bundles.profile import FILE as PROFILE
from millis.bundles.profile import Profile
from millis.bundles.saving import proof_parts
from millis.contract import Verdict
from millis.measuring.quality import bound_drop, measure_quality
from millis.searching.bodies import bodies_of_examples
from millis.searching.building import Reference
from millis.searching.case import Case
from millis.searching.drafting import make_manifest, parts_of, save_draft
from millis.searching.layout import OVERLAP
from millis.searching.proving import Served, judge_served, make_certificate, measure_served, plan_proof, read_served
from millis.searching.remembering import make_key
from millis.searching.reporting import report_proof
from millis.searching.trying import Candidate
from millis.tasks.tokenization import Tokenizer
from millis.telemetry.progress import say
from millis.training.batches import encode_asked

_PROOF_HOLDS = timedelta(days=1)
"""So long a fit that is started again does not prove again: its machine is as it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """A candidate with its quality on test, and the verdict on it.

    Args:
        rung: the candidate's, its quality filled in.
    """

    candidate: Candidate
    rung: Rung
    served: Served
    verdict: Verdict
    certificate: Certificate

    @property
    def has_quality(self) -> bool:
        """Say whether the quality's clauses are kept on test."""
        return all(one.status == "kept" for one in self.verdict.clauses if one.name.startswith("quality"))

    @property
    def keeps_floor(self) -> bool:
        """Say whether test reaches the floor, where one was promised."""
        return all(one.status == "kept" for one in self.verdict.clauses if one.name == "quality floor")

    @property
    def is_fast(self) -> bool:
        """Say whether the latency's clause is kept."""
        return self.verdict.clauses[0].status == "kept"

    @property
    def is_kept(self) -> bool:
        """Say whether every clause is."""
        return self.verdict.status == "kept"

    @property
    def seen_ms(self) -> float:
        """What clients saw at the contract's percentile."""
        return self.served.load.percentile_ms(self._percentile)

    @property
    def order_ms(self) -> tuple[float, float]:
        """By what proofs are compared: the percentile of all that was due, refusals last; then that of the answers."""
        due_ms = self.served.load.due_percentile_ms(self._percentile)
        return (float("inf") if due_ms is None else due_ms, self.seen_ms)

    @property
    def _percentile(self) -> float:
        return float(self.certificate.contract["percentile"])


def prove_candidate(case: Case, candidate: Candidate, *, reference: Reference) -> Proven:
    """Score a candidate on test and measure it under the contract; once more where others had the machine.

    What was proven of the same files under the same contract within a day, here, is found again.
    """
    rung = _score(case, candidate, reference=reference)
    draft = save_draft(case, rung, candidate.built, shape=candidate.shape)
    bodies = bodies_of_examples(case.splits.test, seed=case.settings.seed)
    n_requests = plan_proof(case.contract, for_ms=case.settings.prove_for_ms)
    key = make_key([candidate.name, n_requests, case.contract.record(), draft.subject()])
    known = case.ledger.find("proof", key)
    if known is not None:
        certificate = msgspec.convert(known, type=Certificate)
        verdict = msgspec.convert(certificate.verdict, type=Verdict)
        age = datetime.now(UTC) - datetime.fromisoformat(certificate.created)
        if abs(age) < _PROOF_HOLDS:
            say(f"{candidate.name}: {verdict.status}, as proven at {certificate.created}; millis prove measures anew")
            return Proven(
                candidate=candidate, rung=rung, served=read_served(certificate), verdict=verdict,
                certificate=certificate,
            )  # fmt: skip
    for is_last in (False, True):
        served = measure_served(
            draft, contract=case.contract, bodies=bodies, n_requests=n_requests, name=f"{candidate.name}: proof"
        )
        verdict = judge_served(draft, contract=case.contract, served=served)
        is_clear = verdict.status == "kept" or not (verdict.status == "void" or served.crowd.is_crowded)
        if is_last or is_clear:
            break
        say(f"{candidate.name}: measured again: {verdict.clauses[0].detail}")
    why = "; ".join(clause.detail for clause in verdict.clauses if clause.status != "kept")
    say(f"{candidate.name}: {verdict.status}{f'; {why}' if why else ''}")
    certificate = make_certificate(
        draft, contract=case.contract, served=served, verdict=verdict, name=case.settings.out.name
    )
    if is_clear and verdict.status in ("kept", "broken"):  # else it says nothing, and is worth another try
        case.ledger.add("proof", key, certificate)
    return Proven(candidate=candidate, rung=rung, served=served, verdict=verdict, certificate=certificate)


def choose_served(proven: Sequence[Proven]) -> Proven:
    """Choose the one that serves: the fastest that keeps the contract, or else the best, quality first, then time.

    Where its rung keeps the contract in several layouts it is that of the most processes (docs/decisions/0040).
    """
    def order(one: Proven) -> tuple[bool, bool, bool, tuple[float, float]]:
        return (not one.is_kept, not one.has_quality, not one.is_fast, one.order_ms)

    best = min(proven, key=order)
    kept = [one for one in proven if one.is_kept and one.rung.name == best.rung.name]
    return max(kept, key=lambda one: one.candidate.shape.workers, default=best)


def save_ladder(
    case: Case,
    proven: Sequence[Proven],
    tried: Sequence[Candidate],
    *,
    choices: tuple[Choice, ...] = (),
    checks: tuple[TableCheck, ...] = (),
) -> Bundle:
    """Write the bundle: what serves first, then the other proven rungs on the front of time and quality.

    Args:
        proven: one per rung at most counts, its best layout.
        choices: what was chosen before there were candidates.
        checks: of the layer table, where one was needed.
    """
    served = choose_served(proven)
    ladder = [served, *(one for one in climb(proven) if one.rung.name != served.rung.name)]
    proven_ms = {one.candidate.name: one.seen_ms for one in proven}
    rows = tuple(
        Tried(
            name=one.name, predicted_ms=one.predicted_ms, quality=one.quality,
            measured_ms=proven_ms.get(one.name, one.measured_ms),
            is_chosen=one.name == served.candidate.name,
        )
        for one in tried
    )  # fmt: skip
    name = case.settings.out.name.removesuffix(".millis")
    manifest = make_manifest(
        case, [one.rung for one in ladder], shape=served.candidate.shape, name=name,
        choices=(*choices, *_choices(case, served, proven)), tried=rows, checks=checks,
    )  # fmt: skip
    files = [part for one in ladder for part in parts_of(one.rung, one.candidate.built).items()]
    parts = {TOKENIZER: case.tokenizer_file, PROFILE: _profile(case).write(), **dict(files)}
    certificates = [one.certificate for one in ladder]

    def add_proof(bundle: Bundle) -> dict[str, bytes]:
        pages = report_proof(bundle, certificates=certificates, load=served.served.load)
        return proof_parts(certificates, serving=bundle.manifest.rung, reports=pages)

    return save_bundle(case.settings.out, manifest=manifest, parts=parts, finish=add_proof)


def _profile(case: Case) -> Profile:
    """Say what ordinary requests look like, so that a server sees when they change."""
    train, dev = (
        [window.ids for example in part for window in encode_asked(case.task, example)]
        for part in (case.splits.train, case.splits.dev)
    )
    tokenizer = Tokenizer(case.tokenizer_file)
    special = (*tokenizer.prefix, *tokenizer.suffix)
    return Profile.learn(train, dev, n_pieces=case.task.n_pieces, unknown=tokenizer.unknown, special=special)


def climb(proven: Sequence[Proven]) -> list[Proven]:
    """Give the rungs that no other beats in both time and quality on test, and that keep the floor, fastest first."""
    front: list[Proven] = []
    allowed = [one for one in proven if one.keeps_floor]
    for one in sorted(allowed, key=lambda one: (*one.order_ms, -one.rung.quality["value"])):
        if not front or one.rung.quality["value"] > front[-1].rung.quality["value"]:
            front.append(one)
    return front


def _score(case: Case, candidate: Candidate, *, reference: Reference) -> Rung:
    """Score a candidate's rung on test beside the reference; another layout of the same files has the same quality."""
    known = case.ledger.find("quality", candidate.variant.artifact)
    if known is None:
        model = load(save_draft(case, candidate.rung, candidate.built), cache=case.folder / "cache")
        try:
            score = measure_quality(model, case.splits.test, name=f"{candidate.rung.name}: test")
        finally:
            model.close()
        drop, low, high = bound_drop(reference.test, score)
        known = {
            "name": score.name, "value": score.value, "reference": reference.test.value, "drop": drop, "low": low,
            "high": high, "n": len(case.splits.test), "by_label": score.by_label,
            "reference_by_label": reference.test.by_label,
        }  # fmt: skip
        say(f"{candidate.rung.name}: {score.name} {score.value:.2f} on test\n{score.report}")
        case.ledger.add("quality", candidate.variant.artifact, known)
    quality: dict[str, Any] = known
    return msgspec.structs.replace(candidate.rung, quality=quality)


def _choices(case: Case, served: Proven, proven: Sequence[Proven]) -> tuple[Choice, ...]:
    chosen, rung = served.candidate, served.rung
    others = [
        f"{one.candidate.name} {one.verdict.status}, {one.seen_ms:.2f} ms" for one in proven if one is not served
    ]
    beaten = f"beside it {'; '.join(others)}" if others else "no other was proven"
    if any(one.is_kept and one.rung.name == rung.name for one in proven if one is not served):
        beaten += ". Of layouts that keep it the one of most processes serves: it carries more beyond that rate"
    return (
        Choice(
            what="rung and layout",
            choice=chosen.name,
            reason=f"{served.verdict.status}, p{case.contract.percentile:g} {served.seen_ms:.2f} ms in its proof at"
            f" {case.contract.rate_per_s:g}/s, {rung.quality['drop']:+.2f} points lost on test; {beaten}",
        ),
        Choice(
            what="buckets",
            choice=" ".join(map(str, rung.buckets)) if rung.buckets else "none",
            reason="fewest padded tokens over train's lengths and some longer ones"
            if rung.buckets
            else "this runtime takes any length unpadded",
        ),
        Choice(
            what="longest window",
            choice=f"{case.task.max_tokens} tokens",
            reason=f"takes in 99.9 % of train whole; longer texts are cut into windows that overlap by {OVERLAP}",
        ),
    )
