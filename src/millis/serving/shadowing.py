"""What the one that serves answered, asked of a new version on trial too: whether the two agree is counted.

Border: jobs, and counts in the metrics; no client waits for it, and none sees it.
Limits: _MOST_SHADOWS of a trial wait at the same time; further ones are skipped, and counted.
"""

import asyncio
from time import perf_counter_ns

from millis.serving.agreeing import agree
from millis.serving.executor import Executor
from millis.serving.scheduling import NEVER, Job, Refused
from millis.serving.served import Trial
from millis.telemetry.metrics import Metrics

_MOST_SHADOWS = 8


class Shadows:
    """Asks again, behind all who wait."""

    def __init__(self, executor: Executor, *, metrics: Metrics) -> None:
        self._executor, self._metrics = executor, metrics
        self._asked: set[asyncio.Task[None]] = set()

    def ask(self, trial: Trial, job: Job) -> None:
        """Ask the version on trial what was answered by the one that serves."""
        if trial.n_shadows >= _MOST_SHADOWS:
            self._metrics.try_out(model=job.ladder.name, outcome="skipped")
            return
        trial.n_shadows += 1
        trial.served.n_open += 1
        task = asyncio.get_running_loop().create_task(self._compare(trial, job))
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def _compare(self, trial: Trial, job: Job) -> None:
        assert job.rung is not None
        ladder = trial.served.ladder
        place = min(job.rung, len(ladder.models) - 1)
        again = Job(
            ladder, job.texts, came_ns=perf_counter_ns(), deadline_ns=NEVER, is_own_deadline=False,
            places=range(place, place + 1), options=job.options,
        )  # fmt: skip
        try:
            await self._executor.answer(again)
            outcome = "agrees" if agree(job.results, again.results) else "differs"
        except Refused:
            outcome = "skipped"
        except Exception:  # whatever it is, it is the new version's, and what operators look for is in the counts
            outcome = "failed"
        finally:
            trial.n_shadows -= 1
            trial.served.n_open -= 1
        self._metrics.try_out(model=job.ladder.name, outcome=outcome)
