"""Which rungs are made and proven, and in which order: the whole model, then pruned ones, until enough are proven.

Border: decides; the rooms below do the work, and a Case says what is asked. Imports the training libraries.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from millis.backends.grafts import read_graft
from millis.bundles import Bundle, Choice
from millis.errors import ContractBroken, MeasurementVoid
from millis.models.bases import find_base
from millis.models.described import read_json
from millis.searching.building import Reference
from millis.searching.calibration import calibrate_reference
from millis.searching.candidates import (
    AT_EASE,
    LIKELY,
    SHARES,
    STATIC,
    Variant,
    fit_table,
    predict_percentile_ms,
    scale_table,
)
from millis.searching.case import Case
from millis.searching.concluding import Proven, choose_served, climb, prove_candidate, save_ladder
from millis.searching.pruning import Pruner, make_pruner
from millis.searching.relaxing import Point, relax
from millis.searching.teaching import be_taught
from millis.searching.trying import Candidate, artifact_case, build_pruned, build_static, build_whole, plan_probe, probe
from millis.searching.tuning import tune
from millis.searching.unlabelled import learn_reference
from millis.searching.vocabulary import trim_reference
from millis.searching.zeros import tell_zeros
from millis.telemetry.progress import say
from millis.training.methods import METHODS
from millis.units import write_ms

_MOST_PROOFS = 3
_MOST_PRUNINGS = 3
_STEP_DOWN = 0.6
"""A further rung of the ladder has at most this share of the layers' time of the one before, if it is not the last."""

_NEAR = 1.25
"""How far two probes may differ though the candidates do not."""


def search(case: Case) -> Bundle:
    """Train the reference, make rungs until the contract is kept and the ladder is full, and save the ladder.

    Raises:
        ContractBroken, MeasurementVoid: see run_fit.
    """
    settings, training, folder = case.settings, case.settings.training(), case.folder / "training"
    base = find_base(settings.base)
    tuned: tuple[Choice, ...] = ()
    if settings.tune:
        training, folder, choice = tune(base, case=case, settings=training, n_trainings=settings.tune)
        tuned = (choice,)
    reference = learn_reference(base, case=case, settings=None if settings.epochs == 0 else training, folder=folder)
    case, reference = be_taught(case, reference, settings=training)
    case, reference = calibrate_reference(case, reference)
    say(f"reference (torch fp32): {reference.test.name} {reference.test.value:.2f} on test\n{reference.test.report}")
    if settings.trim_vocabulary or settings.corpus:
        case, reference = trim_reference(case, reference)
    is_grafted = read_graft(read_json(reference.folder / "config.json")) is not None
    case = _note_untaught(case, reference)
    case = _note_graft(case) if is_grafted else case
    found = _Search(case, reference, is_grafted=is_grafted, choices=(*tuned, *reference.choices))
    found.try_whole()
    if settings.sparse is not None:
        found.notes.append(tell_zeros(case, reference, share=settings.sparse))
    found.try_pruned()
    found.fill_ladder()
    found.try_processes()
    if not found.proven:
        said = f"no candidate answers anybody within '{case.contract}' here, and nothing is written."
        raise ContractBroken(found.advise(said))
    bundle = found.save()
    verdict = choose_served(found.proven).verdict
    for line in verdict.lines():
        say(line)
    say(f"loop done in {write_ms(1000 * (time.monotonic() - case.began))}: {bundle.path}")
    if verdict.status != "kept":
        error = ContractBroken if verdict.status == "broken" else MeasurementVoid
        said = f"no candidate is proven to keep '{case.contract}' here; the best stands at {settings.out}"
        raise error(found.advise(f"{said}, {verdict.status}."))
    return bundle


class _Search:
    """What was tried and what was proven so far.

    Args:
        is_grafted: adapting left something in the reference, which pruning cannot cut.
    Attributes:
        tried: candidates, those to prove first in front.
        proven: in the order of the proofs.
        notes: what was measured beside it, and why something was not tried.
    """

    def __init__(
        self, case: Case, reference: Reference, *, is_grafted: bool, choices: tuple[Choice, ...] = ()
    ) -> None:
        self._is_grafted = is_grafted
        self._case, self._reference, self._contract = case, reference, case.contract
        self.tried: list[Candidate] = []
        self.proven: list[Proven] = []
        self.notes: list[str] = []
        self._choices = choices
        self._refused: set[str] = set()  # candidates whose server refused every request of their proof
        self._is_bound_in_reach = True
        self._pruner: Pruner | None = None
        self._kinds: list[Variant] = []

    def try_whole(self) -> None:
        """Build and probe the whole model; prove it where a proof is likely to be kept."""
        self.tried = probe(self._case, build_whole(self._case, self._reference))
        if not self._is_at_ease():
            self._try_static()
        if self._is_at_ease() or not self._can_prune():
            self._prove_best()

    def try_pruned(self) -> None:
        """Prune as far as the contract asks, and a step further, or less far, where that did not do."""
        if self.is_kept() or not self._can_prune():
            return
        best = next(one for one in self.tried if one.variant != STATIC)
        pruner = self._make_pruner()
        bound_ms = self._contract.bound_ms
        predicted = self._predict_shares(best, pruner)
        rest_ms = pruner.rest_ms * len(self._case.lengths) / len(self._case.requests)
        if rest_ms > bound_ms:
            self._is_bound_in_reach = False
            self._note(
                f"embeddings, norms and head alone take {write_ms(rest_ms)} of a text of train, more than the"
                f" bound of {write_ms(bound_ms)}: nothing is pruned, since no pruning takes them away"
                f" (p{self._contract.percentile:g} with {SHARES[-1]} % of the layers' time left: predicted"
                f" {write_ms(predicted[SHARES[-1]])})"
            )
            return
        easy = [share for share in SHARES if predicted[share] < LIKELY * bound_ms] or [SHARES[-1]]
        less = [share for share in reversed(SHARES) if share > easy[0] and predicted[share] < bound_ms]
        say(f"{best.name} is not well within {write_ms(bound_ms)}: its layers are pruned to {easy[0]} % of their time")
        pruned = self._of_share(self._prune_to(easy[0]))
        keeps_quality = any(one.keeps_quality(self._contract) for one in pruned)
        self._prove_best()
        for share in (easy[1:] if keeps_quality else less)[: _MOST_PRUNINGS - 1]:
            if self.is_kept() or not self._case.has_time():
                break
            self._prune_to(share)
            self._prove_best()

    def _predict_shares(self, candidate: Candidate, pruner: Pruner) -> dict[int, float]:
        """Predict what a client would see of a candidate by the percentage of its layers' time that is left."""
        asked: dict[str, Any] = {
            "requests": self._case.requests, "rate_per_s": self._contract.rate_per_s, "shape": candidate.shape,
            "percentile": self._contract.percentile,
        }  # fmt: skip
        table = fit_table(
            candidate.rung.latency, seen_ms=candidate.measured_ms, n_requests=plan_probe(self._case), **asked
        )
        return {
            share: predict_percentile_ms(scale_table(table, pruner.predict_share(share)), **asked) for share in SHARES
        }

    def fill_ladder(self) -> None:
        """Add rungs further and further down until the front of time and quality has as many as were asked."""
        if not self.proven:
            self._prove_best()
        wanted = self._case.settings.rungs
        if wanted > 1:
            self._try_static()
            self._prove_share(100)
            self._prove_static()
        for share in SHARES:
            if len(climb(self.proven)) >= wanted or not self._can_prune():
                break
            if not _is_further(share, than=min(one.variant.share for one in self.tried)):
                continue
            made = self._prune_to(share)
            if not any(one.keeps_floor(self._contract) for one in self._of_share(made)):
                self._note(f"the ladder ends above {made} %: what that leaves is below the floor on dev")
                break
            self._prove_share(made)
        else:
            self._note_short(f"less than {min(one.variant.share for one in self.tried)} % is not tried")
        if not self._case.has_time():
            self._note_short("the time is up")

    def try_processes(self) -> None:
        """Prove what keeps the contract on threads in processes side by side too (docs/decisions/0040)."""
        if self.is_kept() and self._case.has_time():
            served = choose_served(self.proven).candidate
            for one in self._unproven():
                if one.rung.name == served.rung.name and one.shape.workers > served.shape.workers:
                    self._prove(one)

    def save(self) -> Bundle:
        """Write the bundle as far as there is one."""
        noted = replace(self._case, notes=(*self._case.notes, *self.notes))
        checks = self._pruner.checks if self._pruner else ()
        return save_ladder(noted, self.proven, self.tried, choices=self._choices, checks=checks)

    def advise(self, said: str) -> str:
        """Add to a sentence what was noted, and what to ask for instead."""
        points = [_point(one, self.proven, percentile=self._contract.percentile) for one in self.tried]
        ways = relax(points, contract=self._contract, requests=self._case.requests, n_probed=plan_probe(self._case))
        return "\n".join((said, *self.notes, *ways))

    def is_kept(self) -> bool:
        """Say whether the contract is kept by one of those proven."""
        return any(one.is_kept for one in self.proven)

    def _can_prune(self) -> bool:
        is_cuttable = not self._is_grafted and self._contract.device == "cpu"
        return is_cuttable and self._case.has_time() and self._is_bound_in_reach and self._is_floor_in_reach()

    def _is_floor_in_reach(self) -> bool:
        """Say whether the network has a quality to lose; where it has none, say so once."""
        floor, dev, test = self._contract.floor, self._reference.dev, self._reference.test
        if floor is None or self._reference.reaches(floor):
            return True
        self._note(
            f"the uncompressed model itself reaches {dev.name} {dev.value:.2f} on dev and {test.value:.2f} on test,"
            f" below the floor of {floor:g}: nothing is pruned, since that cannot raise it"
        )
        return False

    def _note(self, line: str) -> None:
        """Say a line once, here and in the bundle."""
        if line not in self.notes:
            say(line)
            self.notes.append(line)

    def _make_pruner(self) -> Pruner:
        if self._pruner is None:
            self._kinds = self._fastest_kinds()
            self._pruner = make_pruner(
                artifact_case(self._case, self._reference), self._reference, runtime=self._kinds[0].runtime,
                buckets=self._case.pruned_buckets, lengths=self._case.lengths, rate_per_s=self._contract.rate_per_s,
                layers=self._case.settings.layers, activation=self._case.settings.activation,
            )  # fmt: skip
        return self._pruner

    def _fastest_kinds(self) -> list[Variant]:
        """Give what to build pruned ones in: the first over HTTP, then the best of every other runtime as precise.

        Which is faster changes with the size: one copy of the weights for all lengths is found warm more often, a copy
        for each wins where there is more to compute.
        """
        pruned = [one.variant for one in self.tried if one.variant != STATIC]
        alike = [one for one in pruned if one.precision == pruned[0].precision]
        return list({one.runtime: one for one in reversed(alike)}.values())[::-1]

    def _note_short(self, why: str) -> None:
        """Note why the ladder has fewer rungs than were asked for, where it has."""
        rungs, wanted = {one.rung.name for one in climb(self.proven)}, self._case.settings.rungs
        if len(rungs) < wanted:
            beaten = {one.rung.name for one in self.proven} - rungs
            others = f"; proven too, but slower and no better, or below the floor: {', '.join(sorted(beaten))}"
            self._note(f"the ladder has {len(rungs)} of {wanted} rungs: {why}{others if beaten else ''}")

    def _of_share(self, share: int) -> list[Candidate]:
        return [one for one in self.tried if one.variant.share == share]

    def _prune_to(self, share: int) -> int:
        """Prune, build, probe; give the share whose network it is, another one where that has the same layers."""
        pruning = self._make_pruner().prune_to(share)
        if pruning.share != share:
            self._note(f"pruned to {share} % the layers are those of {pruning.share} %: it is not trained twice")
        if not self._of_share(pruning.share):
            found = build_pruned(self._case, pruning, kinds=self._kinds, reference=self._reference)
            self.tried = probe(self._case, found, known=self.tried)
        return pruning.share

    def _is_at_ease(self) -> bool:
        """Say whether the first candidate was seen so far within the contract that its proof will say so."""
        first = self.tried[0]
        return (
            first.measured_ms is not None
            and first.measured_ms < AT_EASE * self._contract.bound_ms
            and first.keeps_quality(self._contract)
        )

    def _prove_best(self) -> None:
        """Prove candidates in order until one keeps the contract, or the next is clearly slower than one too slow."""
        for _ in range(_MOST_PROOFS):
            candidate = next(iter(self._unproven()), None)
            too_slow_ms = min((one.candidate.seen_ms for one in self.proven if not one.is_fast), default=float("inf"))
            is_over = self.is_kept() or (self.proven and not self._case.has_time())
            if candidate is None or candidate.seen_ms > _NEAR * too_slow_ms or is_over:
                break
            self._prove(candidate)

    def _prove_share(self, share: int) -> None:
        """Prove the likeliest candidate of those pruned to a share, unless one of them was."""
        mine = [one for one in self._unproven() if one.variant.share == share and one.variant != STATIC]
        of_share = [one.candidate.variant for one in self.proven if one.candidate.variant.share == share]
        if mine and not any(variant != STATIC for variant in of_share):
            self._prove(min(mine, key=lambda one: (one.measured_ms is None, one.seen_ms)))

    def _try_static(self) -> None:
        """Build and probe the rung without attention, unless it was."""
        if any(one.variant == STATIC for one in self.tried):
            return
        found = build_static(self._case, reference=self._reference)
        below = [one for one in found if not one.keeps_floor(self._contract)]
        if below:
            floor = self._contract.floor
            self._note(f"{STATIC.name}: left out, {below[0].quality:.2f} on dev is below the floor of {floor:g}")
        elif found:
            self.tried = probe(self._case, found, known=self.tried)

    def _prove_static(self) -> None:
        """Prove the rung without attention, which is the ladder's last, unless it was."""
        mine = [one for one in self._unproven() if one.variant == STATIC]
        if mine and not any(one.candidate.variant == STATIC for one in self.proven):
            self._prove(min(mine, key=lambda one: one.seen_ms))

    def _prove(self, candidate: Candidate) -> None:
        try:
            proven = prove_candidate(self._case, candidate, reference=self._reference)
        except ContractBroken as error:
            self._refused.add(candidate.name)
            self._note(f"{candidate.name}: {error}")
            return
        self.proven.append(proven)
        if self.proven[-1].is_kept:  # whatever becomes of the rest of the search
            self.save()
            say(f"{candidate.name} keeps the contract; the best so far stands at {self._case.settings.out}")

    def _unproven(self) -> list[Candidate]:
        """Give the candidates that may be proven yet; files that lost their quality on test do so in any layout."""
        names = {one.candidate.name for one in self.proven} | self._refused
        lost = {one.candidate.variant.artifact for one in self.proven if not one.has_quality}
        return [one for one in self.tried if one.name not in names and one.variant.artifact not in lost]


def _note_graft(case: Case) -> Case:
    """Say, here and in the bundle, that there will be no pruned rungs."""
    adapt = case.settings.adapt
    left = METHODS[adapt].note
    note = (
        f"no pruned rungs: {adapt} leaves {left}, which pruning cannot cut. Adapt by full, or by what is merged"
        f" ({', '.join(name for name, one in METHODS.items() if one.is_peft)}), to have them"
    )
    return _note(case, note)


def _note_untaught(case: Case, reference: Reference) -> Case:
    """Say so where training taught nothing that test sees: anything keeps a drop from that."""
    test = reference.test
    if test.value > 0:
        return case
    return _note(
        case,
        f"the uncompressed model reaches {test.name} {test.value:.2f} on test: it has not learnt the task, and a drop"
        " from that promises nothing. Give more data or epochs, or another base; --floor bounds the score itself",
    )


def _note(case: Case, line: str) -> Case:
    say(line)
    return replace(case, notes=(*case.notes, line))


def _point(candidate: Candidate, proven: Sequence[Proven], *, percentile: float) -> Point:
    """Tell of a candidate what proofs found: of its files on test, and of itself behind a server."""
    quality, drop, measured_ms = candidate.quality, candidate.drop, candidate.measured_ms
    memory_mb: float | None = None
    for one in proven:
        if one.candidate.variant.artifact == candidate.variant.artifact:
            quality, drop = one.rung.quality["value"], one.rung.quality["drop"]
        if one.candidate.name == candidate.name:
            memory_mb = one.served.memory_mb
            measured_ms = one.served.load.due_percentile_ms(percentile) or measured_ms
    return Point(
        name=candidate.name, quality=quality, drop=drop, predicted_ms=candidate.predicted_ms, measured_ms=measured_ms,
        table=candidate.rung.latency, shape=candidate.shape, memory_mb=memory_mb,
    )  # fmt: skip


def _is_further(share: int, *, than: int) -> bool:
    """Say whether a share of the layers' time is far enough below another for a rung of its own."""
    return share <= _STEP_DOWN * than or SHARES[-1] == share < than
