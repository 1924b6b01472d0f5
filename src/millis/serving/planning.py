"""Which rows run together on a device, and in which order: the plan is the queue.

Every row that waits has its place in a batch, and every batch its predicted end. A request is admitted when there are
places by which it is in time and by which nobody who was admitted becomes late; of several, those that keep the device
the least longer, which sorts by length wherever padding would cost more than another run. The batch that is due first
runs first. As the plan stands before the device is free, the next batch is formed while the last one runs.
Border: jobs and clocks; no event loop, no threads, no device. The caller locks. The line itself is line.py's.
Limits: one device for all models.
Source: the first due first, Jackson 1955. Joining is a heuristic of ours: the best partition into batches is NP-hard.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from millis.serving.batches import ALONE, Batch, Row, Work, cut, due, fits, longest_of, needs_ns
from millis.serving.demand import Demand
from millis.serving.line import Line, Spot
from millis.serving.scheduling import MOST_WAITING, NEVER, SHARED, Job, Ladder, refuse

_CROWD = 4
"""How many batches ahead of a request make it expect the whole of a forecast's error."""


class _Over(NamedTuple):
    """That there is no place, and why."""

    slug: str
    over_ns: float
    end_ns: float


class Plan:
    """Who comes into the line of batches, where, and what leaves it.

    Attributes:
        busy_until_ns: when what runs is predicted to end, 0 where nothing runs.
    """

    def __init__(self) -> None:
        self._line = Line()
        self._works: dict[Job, Work] = {}
        self._demand = Demand()
        self.busy_until_ns = 0.0

    @property
    def n_waiting(self) -> int:
        """Say how many jobs wait for their turn, or for a part of their rows to have one."""
        return self._line.n_waiting

    def admit(self, job: Job, *, now_ns: int) -> Work:
        """Find places for a job's rows; predict when it ends.

        Raises:
            Refused: it would be late, or make another late, or its model takes its share already, or too many wait.
        """
        forecast, fastest = job.ladder.forecast, job.places[-1]
        self._demand.note(job.ladder.name, now_ns=now_ns)
        work = Work(job)
        n_windows = sum(len(windows) for windows in job.encoded)
        rows = work.grow(sum(map(bool, job.encoded)) if job.may_stop else n_windows)
        needs = partial(needs_ns, job, rows)
        job.needs_ns = needs(fastest)
        if not job.is_own_deadline and job.came_ns + job.needs_ns > job.deadline_ns:
            job.deadline_ns = NEVER
        if not rows:  # of control characters alone
            job.rung = job.places[0]
            return work
        if self.n_waiting >= MOST_WAITING:
            predicted_ns = self._line.predict(self._free(now_ns))[0][-1] + job.needs_ns
            raise refuse(job, slug="queue-full", over_ns=job.needs_ns, predicted_ns=predicted_ns)
        if job.is_own_deadline:
            job.margin_ns = forecast.margin_ns
        elif job.deadline_ns < NEVER:
            job.margin_ns = self._margin(job.ladder, job.deadline_ns, now_ns)
        over = self._place(work, rows, now_ns=now_ns, is_whole=len(rows) == n_windows)
        if over is None:
            self._works[job] = work
            return work
        if not self._line and self.busy_until_ns <= now_ns:
            forecast.observe_refusal()
        raise refuse(job, slug=over.slug, over_ns=over.over_ns, predicted_ns=over.end_ns, needs_ns=needs)

    def foresee(self, ladder: Ladder, *, n_bytes: int, came_ns: int, usual_ns: int, now_ns: int) -> float | None:
        """Give by how many ns an answer would miss the usual deadline because of those ahead; None if it would not."""
        forecast, place = ladder.forecast, len(ladder.models) - 1
        longest = ladder.models[place].bucket_of(min(forecast.n_tokens_of(n_bytes), ladder.task.max_tokens))
        if forecast.run_ns(place, [longest]) + forecast.overhead_ns > usual_ns:  # it is not the others' fault
            return None
        deadline_ns = came_ns + usual_ns
        due_ns = deadline_ns - self._margin(ladder, deadline_ns, now_ns)
        places = range(len(ladder.models))
        found = self._find(1, longest, ladder=ladder, places=places, due_ns=due_ns, now_ns=now_ns)
        if isinstance(found, Spot):
            return None  # it comes in, and is noted then
        self._demand.note(ladder.name, now_ns=now_ns)
        return found.over_ns

    def extend(self, work: Work, *, now_ns: int) -> bool:
        """Give a job that may stop the next windows that there is time for; say whether there are any."""
        job = work.job
        if not job.may_stop:
            return False
        spare_ns, is_alone = self._line.spare(self._free(now_ns)), not self._line
        place = work.places[-1]
        rows = work.grow((job.ladder.models[place].batching or ALONE).max_rows)
        while rows:
            (piece, longest), *more = cut(rows, job.ladder, place)
            if not more:
                found = self._find_for(work, len(piece), longest, now_ns)
                if isinstance(found, Spot) and (is_alone or found.longer_ns <= SHARED * spare_ns):
                    self._line.put(rows, found)
                    return True
            rows = rows[: len(rows) // 2]
        return False

    def take(self, now_ns: int) -> tuple[Batch | None, list[Work]]:
        """Give the batch whose turn it is, and the jobs that can no longer be in time, which are forgotten."""
        late: list[Work] = []
        while self._line:
            batch = self._line.pop()
            for work in batch.works:
                rows = [row for row in batch.rows if row.work is work]
                longest = longest_of(rows, batch.ladder, batch.place)
                alone_ns = batch.ladder.forecast.run_ns(batch.place, [len(rows) * longest])
                if now_ns + alone_ns > work.job.deadline_ns:
                    work.job.predicted_ns = rows[-1].promised_ns + batch.pushed_ns
                    late.append(work)
                    self._works.pop(work.job, None)
                    work.is_over = True
                    self._line.take_out(work, free_ns=self._free(now_ns), also=batch)
            if not batch.rows:
                continue
            self._line.put_off(batch, now_ns=now_ns)
            self._choose_place(batch, now_ns)
            self._line.start(batch)
            self.busy_until_ns = now_ns + batch.ns
            for work in batch.works:
                work.job.rung = batch.place
            return batch, late
        return None, late

    def finish(self, batch: Batch) -> list[Work]:
        """Note that a batch's logits are there; give the jobs that have all of theirs."""
        for row in batch.rows:
            row.work.n_left -= 1
            if not row.work.is_over:
                row.work.job.predicted_ns = row.promised_ns + batch.pushed_ns + batch.tail_ns
        return [work for work in batch.works if not (work.n_left or work.is_over)]

    def forget(self, work: Work) -> None:
        """Forget a job that was answered."""
        self._works.pop(work.job, None)

    def drop(self, job: Job, *, now_ns: int) -> bool:
        """Forget what waits of a job that is to have no answer; say whether any did: what runs, runs to its end."""
        work = self._works.pop(job, None)
        if work is None:
            return False
        work.is_over = True
        self._line.take_out(work, free_ns=self._free(now_ns))
        return True

    def _place(self, work: Work, rows: Sequence[Row], *, now_ns: int, is_whole: bool) -> _Over | None:
        """Put rows where they are in time. What takes several batches is answered by one rung, chosen now."""
        job, over = work.job, None
        is_whole = is_whole and len(cut(rows, job.ladder, job.places[-1])) <= 1
        choices = [job.places] if is_whole else [range(place, place + 1) for place in job.places]
        spare_ns = self._line.spare(self._free(now_ns)) if len(choices) > 1 and self._line else float(NEVER)
        for places in choices:
            work.places, over, longer_ns, job.predicted_ns = places, None, 0.0, 0.0
            for piece, longest in cut(rows, job.ladder, places[-1]):
                found = self._find_for(work, len(piece), longest, now_ns)
                if isinstance(found, _Over):
                    over = found
                    break
                longer_ns += found.longer_ns
                self._line.put(piece, found)
            if over is None and (places[-1] == job.places[-1] or longer_ns <= SHARED * spare_ns):
                return None
            self._line.take_out(work, free_ns=self._free(now_ns))
        return over

    def _find_for(self, work: Work, n_rows: int, longest: int, now_ns: int) -> Spot | _Over:
        job = work.job
        return self._find(n_rows, longest, ladder=job.ladder, places=work.places, due_ns=due(job), now_ns=now_ns)

    def _find(
        self, n_rows: int, longest: int, *, ladder: Ladder, places: range, due_ns: float, now_ns: int
    ) -> Spot | _Over:
        """Look for the place of rows that keeps the device the least longer, and everybody in time."""
        own_ns = ladder.forecast.run_ns(places[-1], [n_rows * longest])
        turn = 0.0
        if due_ns == NEVER:
            turn = self._line.next_turn(ladder.name, takes_ns=own_ns)
        first, batches = self._line.place_of(due_ns, turn), list(self._line)
        options: list[tuple[float, int]] = [(own_ns, len(batches))]
        for i, batch in enumerate(batches):
            is_like = batch.ladder is ladder and batch.places == places
            if is_like and (batch.due_ns == NEVER) == (due_ns == NEVER) and batch.has_room(n_rows, longest):
                n_tokens = (len(batch.rows) + n_rows) * max(longest, batch.longest)
                options.append((ladder.forecast.run_ns(places[-1], [n_tokens]) - batch.ns, i))
        starts, slacks = self._line.predict(self._free(now_ns))
        over = _Over("would-be-late", 0.0, 0.0)
        for longer_ns, i in sorted(options):
            joins = batches[i] if i < len(batches) else None
            at = first if joins is None else min(i, first)
            takes_ns = longer_ns + (joins.ns if joins is not None else 0.0)
            end_ns = starts[at] + takes_ns
            moved_ns = end_ns - starts[i + 1] if joins is not None else 0.0
            n_all = n_rows + (len(joins.rows) if joins is not None else 0)
            latest_ns = min(due_ns, joins.due_ns if joins is not None else NEVER) - ladder.forecast.overhead_ns * n_all
            if joins is None and due_ns < NEVER:
                latest_ns -= self._growth(n_rows, longest, ladder=ladder, place=places[-1], wait_ns=starts[at] - now_ns)
            late_ns = end_ns - latest_ns
            others_ns = max(
                takes_ns - min(slacks[at:i], default=NEVER), longer_ns - min(slacks[i + 1 :], default=NEVER)
            )
            if late_ns <= 0 and others_ns <= 0:
                spot = Spot(joins, at, i + (joins is not None), takes_ns, longer_ns, end_ns, moved_ns)
                return self._share(spot, ladder, due_ns=due_ns, now_ns=now_ns)
            if joins is None:
                said_ns = end_ns + max(due_ns - latest_ns, 0.0)
                slug = "would-be-late" if late_ns > 0 else "would-make-others-late"
                over = _Over(slug, late_ns if late_ns > 0 else others_ns, said_ns)
        return over

    def _growth(self, n_rows: int, longest: int, *, ladder: Ladder, place: int, wait_ns: float) -> float:
        """Predict how much longer a batch will run than now, for those who come until it starts.

        Without room for them a batch that ends just in time stays as small as it began: under overload the device would
        run small batches one after another.
        """
        batching, forecast = ladder.models[place].batching or ALONE, ladder.forecast
        most = max(min(batching.max_rows, batching.max_tokens // longest), n_rows)
        n_all = min(n_rows + self._demand.expect(ladder.name, within_ns=wait_ns), most)
        return forecast.run_ns(place, [n_all * longest]) - forecast.run_ns(place, [n_rows * longest])

    def _share(self, spot: Spot, ladder: Ladder, *, due_ns: float, now_ns: int) -> Spot | _Over:
        """Refuse a place to a model that would take more than its share of the time until then, if others are asked."""
        n_asked = self._demand.n_models(now_ns)
        if n_asked < 2 or due_ns == NEVER:
            return spot
        waiting_ns = sum(batch.ns for batch in self._line if batch.ladder.name == ladder.name)
        over_ns = waiting_ns + spot.longer_ns - (due_ns - now_ns) / n_asked
        return _Over("over-share", over_ns, spot.end_ns) if waiting_ns and over_ns > 0 else spot

    def _choose_place(self, batch: Batch, now_ns: int) -> None:
        """Take the most accurate rung that all in a batch allow and for which there is time, the others' included."""
        fast_ns, fastest = batch.ns, batch.place
        spare_ns = SHARED * self._line.spare(self._free(now_ns + int(fast_ns)))
        for place in batch.places[:-1]:
            batch.settle(place)
            slower_ns = batch.ns - fast_ns
            is_in_time = now_ns + batch.ns <= batch.latest_ns and (not self._line or slower_ns <= spare_ns)
            if is_in_time and fits(batch.ladder, place, n_rows=len(batch.rows), longest=batch.longest):
                batch.pushed_ns += slower_ns
                self._line.push(by_ns=slower_ns)
                return
        batch.settle(fastest)

    def _margin(self, ladder: Ladder, deadline_ns: int, now_ns: int) -> float:
        """Give the distance that a usual deadline is kept at: errors add up over the batches ahead, up to a crowd."""
        n_ahead = sum(batch.due_ns <= deadline_ns for batch in self._line) + (self.busy_until_ns > now_ns)
        return ladder.forecast.margin_ns * min(n_ahead / _CROWD, 1.0)

    def _free(self, now_ns: int) -> float:
        """Predict when the next batch can start."""
        return max(float(now_ns), self.busy_until_ns)
