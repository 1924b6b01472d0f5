"""Which base to fit: what a client would see of each is foretold before anything is trained, and they are ranked.

Bases may be fine-tuned briefly, for a score on dev.
Border: ranks and says why; foretelling.py times a base, a fit measures over HTTP and proves. Scores are kept in the
user's cache, as the times are, so that a killed call goes on.
Limits: bases are timed one after another, and a machine whose speed drifts by half favours one of them by as much.
"""

import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from millis.bundles.bundle import TOKENIZER
from millis.bundles.cache import cache_root
from millis.contract import Contract
from millis.data.checks import check
from millis.data.examples import Example
from millis.errors import InvalidBase, InvalidValue
from millis.models.bases import find_base
from millis.searching.candidates import SHARES
from millis.searching.case import read_splits
from millis.searching.foretelling import N_STEPS, SHELF, VERSION, Measured, Question, foretell
from millis.searching.layout import lay_out
from millis.searching.remembering import hash_base, make_key, recall, remember
from millis.searching.settings import FitSettings
from millis.telemetry.progress import Advance, bar, say
from millis.training.methods import METHODS

_MOST_TRIED, _MOST_JUDGED = 3_000, 1_000


def advise(
    settings: FitSettings,
    *,
    bases: Sequence[str],
    contract: Contract | None = None,
    rate_per_s: float = 50.0,
    try_epochs: int = 0,
) -> list[Measured]:
    """Time each base, predict what a client would see of it, and rank, the one to fit first.

    Args:
        settings: of the fit that is to come; its base is not looked at.
        rate_per_s: where there is no contract; else the contract's counts.
        try_epochs: fine-tune each usable base for so long on up to 3,000 texts, and rank by dev; 0 trains nothing.
    Raises:
        InvalidBase: none can be used; the message has each one's reason.
        InvalidData, InvalidValue: the data or a setting cannot be used.
        Interrupted: Ctrl-C; what was measured is kept.
    Cost: some seconds a base where it was measured before, else a minute for six layers on two busy cores.
    """
    if not (isinstance(try_epochs, int) and try_epochs >= 0):
        raise InvalidValue(f"try_epochs cannot be {try_epochs!r}: give a whole number, 0 for none.")
    splits, notes = read_splits(settings)
    for note in (*notes, *splits.notes, *check(splits).warnings):
        say(note)
    question = Question(
        settings=settings, splits=splits, contract=contract,
        rate_per_s=contract.rate_per_s if contract else rate_per_s,
        percentile=contract.percentile if contract else 99.0,
    )  # fmt: skip
    names = list(dict.fromkeys(bases))
    found: list[Measured] = []
    with bar("measuring bases", total=N_STEPS * len(names)) as advance:
        for number, name in enumerate(names):
            found.append(foretell(name, question, step=partial(_advance, advance, N_STEPS * number)))
            advance(N_STEPS * (number + 1), "")
    if all(one.problem for one in found):
        raise InvalidBase("no base can be used.\n" + "\n".join(f"{one.name}: {one.problem}" for one in found))
    if try_epochs:
        found = [one if one.problem else _try(one, question, epochs=try_epochs) for one in found]
    return [_explain(one, question) for one in sorted(found, key=lambda one: _order(one, question))]


def _advance(advance: Advance, before: int, done: int) -> None:
    advance(before + done, "")


def _order(one: Measured, question: Question) -> tuple[float, ...]:
    """Rank: usable, fitting, able to read; then by dev, else by what fits, else by time."""
    worth = one.dev if one.dev is not None else one.n_kept if one.share else 0.0
    misfit = question.contract is not None and one.share is None
    return (one.problem is not None, misfit, not one.can_read, -worth, one.pruned_ms or one.predicted_ms)


def _explain(one: Measured, question: Question) -> Measured:
    if one.problem:
        return replace(one, reason="cannot be used")
    why = []
    if not one.can_read:
        why.append(f"{100 * one.unknown:.0f} % of the pieces are unknown to it: it cannot read this data")
    if question.contract is not None and one.share is None:
        left = METHODS[question.settings.adapt].note
        cut = f"whole, and {left} is not pruned" if left else f"with {SHARES[-1]} % of its layers' time"
        why.append(f"still {one.pruned_ms:.2f} ms {cut}: not well within the bound")
    if one.dev is not None:
        why.append(f"{one.dev:.2f} on dev, fine-tuned briefly, " + ("whole" if one.share == 100 else "before pruning"))
    elif one.share:
        why.append(f"{one.n_kept / 1e6:.1f} M weights of its layers fit, in {one.pruned_ms:.2f} ms; more learn more")
    elif question.contract is None:
        why.append("by time alone: a bound (--p99) or --try-epochs would say more")
    return replace(one, reason="; ".join(why))


def _try(one: Measured, question: Question, *, epochs: int) -> Measured:
    """Fine-tune a base briefly and give its score on dev."""
    settings, splits = question.settings, question.splits
    chance = random.Random(settings.seed)  # noqa: S311 - which texts, not a secret
    train_part, dev_part = (
        _draw(part, most=most, chance=chance)
        for part, most in ((splits.train, _MOST_TRIED), (splits.dev, _MOST_JUDGED))
    )
    base = find_base(one.name)
    training = replace(settings, epochs=epochs).training()
    records = [[example.record() for example in part] for part in (train_part, dev_part)]
    key = make_key([VERSION, hash_base(base), settings.task, settings.asked(), training, records])
    score = recall(SHELF, key, kind=float)
    if score is None:
        from millis.training.loop import train

        say(f"{one.name}: {epochs} epochs on {len(train_part):,} texts, judged on {len(dev_part):,}")
        folder = cache_root() / SHELF / key
        laid = lay_out(base, splits, task=settings.task, asked=settings.asked())
        try:
            result = train(
                base, task=laid.task, train=train_part, dev=dev_part, folder=folder, settings=training,
                tokenizer_file=base / TOKENIZER,
            )  # fmt: skip
        except InvalidBase as error:
            return Measured(name=one.name, problem=str(error))
        score = result.dev_score.value
        remember(SHELF, key, value=score)
        shutil.rmtree(folder, ignore_errors=True)
    return replace(one, dev=round(score, 2))


def _draw(part: Sequence[Example], *, most: int, chance: random.Random) -> list[Example]:
    """Draw examples, up to so many beside the first group; those of one group together, a query finds no others."""
    groups: dict[str, list[Example]] = {}
    for example in part:
        groups.setdefault(example.group, []).append(example)
    drawn: list[Example] = []
    for group in chance.sample(list(groups.values()), len(groups)):
        if not drawn or len(drawn) + len(group) <= most:
            drawn += group
    return drawn
