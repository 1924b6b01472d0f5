"""How to train: a search over the settings that matter, each tried to its end and judged on dev.

Border: proposes by Optuna and trains by training/loop.py. Results stand in the ledger and proposals follow from the
seed and the results, so a killed search goes on where it was, without a database of its own.
Limits: the best of several is a little lucky on dev; test, which nothing is chosen by, says what it is worth.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from millis.bundles import Choice
from millis.models.described import width_of
from millis.searching.case import Case
from millis.telemetry.progress import say
from millis.training.loop import train
from millis.training.settings import TrainSettings, choose_learning_rate

_RATE_RANGE = (0.25, 4.0)
"""Of the learning rate, times the one that is chosen by width."""

_BATCH_SIZES = (16, 32, 64)
_WARMUP_RANGE = (0.0, 0.3)


class Tuned(NamedTuple):
    """The best settings on dev, their run's folder, and how that was found."""

    settings: TrainSettings
    folder: Path
    choice: Choice


def tune(base: Path, *, case: Case, settings: TrainSettings, n_trainings: int) -> Tuned:
    """Train up to n times with other settings, the given ones first, and give what is best on dev.

    Raises: as `train`.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    usual, _ = choose_learning_rate(settings, width=width_of(base))
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=settings.seed))
    rates = [usual * factor for factor in _RATE_RANGE]
    first = {"learning_rate": usual, "batch_size": settings.batch_size, "warmup_share": settings.warmup_share}
    study.enqueue_trial(first)
    best, best_score, best_folder, told = settings, float("-inf"), case.folder / "training", ""
    scores: list[float] = []
    for number in range(n_trainings):
        if number and not case.has_time():
            say(f"tuning ends after {number} of {n_trainings} trainings: the time is up")
            break
        trial = study.ask()
        tried = replace(
            settings,
            learning_rate=trial.suggest_float("learning_rate", *rates, log=True),
            batch_size=trial.suggest_categorical("batch_size", _BATCH_SIZES),
            warmup_share=trial.suggest_float("warmup_share", *_WARMUP_RANGE),
        )
        folder = case.folder / "tuning" / str(number)
        score = _train(base, tried, case=case, folder=folder)
        study.tell(trial, score)
        scores.append(score)
        say(f"training {number + 1} of {n_trainings}: {score:.2f} on dev with {_tell(trial.params)}")
        worse = folder
        if score > best_score:
            worse, best, best_score, best_folder, told = best_folder, tried, score, folder, _tell(trial.params)
        if worse.parent.name == "tuning":
            shutil.rmtree(worse, ignore_errors=True)
    reason = f"{best_score:.2f} on dev, the best of {len(scores)} trainings; {scores[0]:.2f} with the usual settings"
    return Tuned(best, best_folder, Choice(what="training settings", choice=told, reason=reason))


def _train(base: Path, settings: TrainSettings, *, case: Case, folder: Path) -> float:
    """Train to the end, or find in the ledger how that ended."""
    key = msgspec.json.encode(settings).decode()
    known = case.ledger.find("tuned", key)
    if known is None:
        result = train(
            base, task=case.task, train=case.splits.train, dev=case.splits.dev, folder=folder, settings=settings,
            tokenizer_file=case.tokenizer_file,
        )  # fmt: skip
        known = {"dev": result.dev_score.value}
        case.ledger.add("tuned", key, known)
    return float(known["dev"])


def _tell(params: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in params.items())
