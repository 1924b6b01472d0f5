"""Which request runs next, and which is refused because it would be late or make others late.

Earliest deadline first. A request is admitted when it, and everybody who waits, will make it if each is answered by the
fastest rung that it allows; a more accurate one is taken when its turn comes and time is left. So under overload
quality bends first and refusing comes second.
Border: jobs and clocks; no event loop, no threads, no HTTP. The caller locks.
Source: admission by simulating the earliest-deadline-first schedule, as for periodic tasks in Liu & Layland 1973.
"""

from bisect import insort
from operator import attrgetter

from millis.serving.scheduling import MOST_WAITING, NEVER, SHARED, Job, Ladder, refuse

_by_deadline = attrgetter("deadline_ns")


class Queue:
    """Jobs that wait, earliest deadline first.

    Args:
        lanes: how many run at the same time.
    """

    def __init__(self, *, lanes: int) -> None:
        self._lanes = lanes
        self._jobs: list[Job] = []
        self.busy_until_ns: dict[object, float] = {}
        """By lane that runs, when it is predicted to be free."""
        self._coming_ns: list[float] = []
        """Turns of those who were foreseen to fit and have not come in yet: sockets are read several at a time."""

    def __len__(self) -> int:
        """Give how many wait."""
        return len(self._jobs)

    def admit(self, job: Job, *, now_ns: int) -> None:
        """Check that a job, and everybody who waits, will be in time; predict when it ends.

        Raises:
            Refused: it would be late, or make another late, or too many wait.
        """
        self._coming_ns.clear()  # whoever was read together comes in together
        starts_ns = self._starts(job.deadline_ns, now_ns)
        forecast, job.n_ahead = job.ladder.forecast, 0.0
        if starts_ns > now_ns:
            job.n_ahead = self._count_ahead(job.deadline_ns)
        job.predicted_ns = starts_ns + job.needs_ns + forecast.late_ns
        if len(self._jobs) >= MOST_WAITING:
            raise refuse(job, slug="queue-full", over_ns=job.needs_ns, predicted_ns=job.predicted_ns)
        if job.deadline_ns == NEVER:
            return
        job.margin_ns = forecast.margin_ns
        if not job.is_own_deadline:
            job.margin_ns *= forecast.caution if job.n_ahead else 0.0
        over_ns = job.predicted_ns + job.margin_ns - job.deadline_ns
        if over_ns > 0:
            if starts_ns == now_ns:
                forecast.observe_refusal()
            raise refuse(job, slug="would-be-late", over_ns=over_ns, predicted_ns=job.predicted_ns)
        over_ns = job.turn_ns / self._lanes - self._spare(job.deadline_ns, now_ns)
        if over_ns > 0:
            raise refuse(
                job, slug="would-make-others-late", over_ns=over_ns, predicted_ns=job.predicted_ns, lanes=self._lanes
            )
        for other in self._jobs:
            if other.deadline_ns > job.deadline_ns:
                other.predicted_ns += job.turn_ns / self._lanes

    def foresee(self, ladder: Ladder, *, n_bytes: int, came_ns: int, usual_ns: int, now_ns: int) -> float | None:
        """Give by how many ns an answer would miss the usual deadline because of those ahead; None if it would not."""
        forecast = ladder.forecast
        needs_ns = forecast.body_ns(len(ladder.models) - 1, n_bytes) + forecast.overhead_ns
        if needs_ns > usual_ns:  # then it is not the others' fault, and nobody is refused for it
            return None
        deadline_ns = came_ns + usual_ns
        starts_ns = self._starts(deadline_ns, now_ns)
        margin_ns = forecast.margin_ns * forecast.caution if starts_ns > now_ns else 0.0
        over_ns = starts_ns + needs_ns + forecast.late_ns + margin_ns - deadline_ns
        if over_ns > 0:
            return over_ns
        self._coming_ns.append(needs_ns + forecast.slip_ns)
        return None

    def misses_by(self, deadline_ns: int, *, least_ns: float, now_ns: int) -> float:
        """Give by how many ns an answer that takes least_ns would miss a deadline; below 0 it would not."""
        return self._starts(deadline_ns, now_ns) + least_ns - deadline_ns

    def put(self, job: Job) -> None:
        """Let a job wait for its turn."""
        insort(self._jobs, job, key=_by_deadline)

    def take(self) -> Job | None:
        """Give the job whose turn it is."""
        self._coming_ns.clear()
        return self._jobs.pop(0) if self._jobs else None

    def drop(self, job: Job) -> bool:
        """Forget a job whose client went away; say whether it waited."""
        if job not in self._jobs:
            return False
        self._jobs.remove(job)
        return True

    def choose_rung(self, job: Job, *, now_ns: int) -> int | None:
        """Give the most accurate rung for which there is time, the others' included; None if no rung can make it."""
        fastest = job.places[-1]
        fast_ns = job.predict_ns(fastest)
        if now_ns + fast_ns > job.deadline_ns:
            return None
        spare_ns = SHARED * self._lanes * self._spare(-1, now_ns + fast_ns / self._lanes)
        for place in job.places[:-1]:
            takes_ns = job.predict_ns(place)
            is_in_time = now_ns + takes_ns + job.ladder.forecast.margin_ns <= job.deadline_ns
            if is_in_time and (not self._jobs or takes_ns - fast_ns <= spare_ns):
                self._expect(job, longer_ns=takes_ns - fast_ns)
                return place
        return fastest

    def may_go_on(self, job: Job, *, takes_ns: float, now_ns: int, then_ns: float = 0.0) -> bool:
        """Say whether a job that may stop and all others have time for one more window, which then is expected.

        Args:
            then_ns: what is left of the job behind that window.
        """
        if now_ns + takes_ns + then_ns + job.ladder.forecast.margin_ns > job.deadline_ns:
            return False
        if self._jobs and takes_ns > SHARED * self._lanes * self._spare(-1, now_ns):
            return False
        self._expect(job, longer_ns=takes_ns)
        return True

    def _expect(self, job: Job, *, longer_ns: float) -> None:
        """Predict later ends, since a job takes more on purpose: that is no error of the forecast."""
        job.predicted_ns += longer_ns
        for other in self._jobs:
            other.predicted_ns += longer_ns / self._lanes

    def _count_ahead(self, deadline_ns: int) -> float:
        """Count who runs or is due earlier, a lane."""
        n_ahead = sum(job.deadline_ns <= deadline_ns for job in self._jobs) + len(self.busy_until_ns)
        return (n_ahead + len(self._coming_ns)) / self._lanes

    def _starts(self, deadline_ns: int, now_ns: float) -> float:
        """Predict when a job of this deadline would start: behind what runs and what is due earlier."""
        ahead_ns = sum(job.turn_ns for job in self._jobs if job.deadline_ns <= deadline_ns) + sum(self._coming_ns)
        running_ns = sum(max(end - now_ns, 0.0) for end in list(self.busy_until_ns.values()))
        idle = self._lanes - len(self.busy_until_ns)
        if not ahead_ns and idle > 0:
            return now_ns
        return now_ns + (ahead_ns + running_ns) / self._lanes

    def _spare(self, after_ns: int, now_ns: float) -> float:
        """Predict how much later those due after a deadline could start and still be in time, in ns."""
        least, ends_ns = float(NEVER), self._starts(after_ns, now_ns)
        for job in self._jobs:
            if job.deadline_ns > after_ns:
                ends_ns += job.turn_ns / self._lanes
                ended_ns = ends_ns + job.ladder.forecast.late_ns
                least = min(least, job.deadline_ns - ended_ns - job.margin_ns)
        return max(least, 0.0)
