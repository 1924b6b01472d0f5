"""The line of batches that wait for a device: in which order they stand, and when each of them ends.

What moves a batch on purpose is noted in it (`pushed_ns`), so that only what the device took otherwise than predicted
counts as an error of the forecast.
Border: batches and clocks; which rows stand where is planning.py's.
Source: turns of batches without a deadline by the finish tags of self-clocked fair queueing, Golestani 1994.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from millis.serving.batches import Batch, Row, Work
from millis.serving.scheduling import NEVER


class Spot(NamedTuple):
    """A place for rows: in a batch that is there, or (None) in one of their own, which is the at-th then.

    Args:
        behind: index of the first batch, as they stand now, that is moved by longer_ns only; those from `at` to it are
            moved by takes_ns.
        takes_ns, longer_ns: that the batch then runs, and that it runs longer than it did.
        end_ns, moved_ns: when it then ends, and how much later that is than it was.
    """

    joins: Batch | None
    at: int
    behind: int
    takes_ns: float
    longer_ns: float
    end_ns: float
    moved_ns: float


class Line:
    """Batches, those that are due first in front.

    Attributes:
        n_waiting: jobs with rows in it.
    """

    def __init__(self) -> None:
        self._batches: list[Batch] = []
        self._turn = 0.0
        self._turns: dict[str, float] = {}
        self.n_waiting = 0

    def __len__(self) -> int:
        """Give how many batches wait."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """Give those that wait, in their order."""
        return iter(self._batches)

    def next_turn(self, name: str, *, takes_ns: float) -> float:
        """Give the turn of a batch without a deadline for the model of this name."""
        return max(self._turn, self._turns.get(name, 0.0)) + takes_ns

    def place_of(self, due_ns: float, turn: float) -> int:
        """Say how many batches stand in front of one that is due then."""
        return bisect_right([(batch.due_ns, batch.turn) for batch in self._batches], (due_ns, turn))

    def predict(self, free_ns: float) -> tuple[list[float], list[float]]:
        """Predict when each batch starts, and one behind them all would; and how much later each might end.

        Args:
            free_ns: when the device is, for the first of them.
        """
        at_ns = free_ns
        starts, slacks = [at_ns], []
        for batch in self._batches:
            at_ns += batch.ns
            starts.append(at_ns)
            slacks.append(max(batch.latest_ns - at_ns, 0.0))
        return starts, slacks

    def spare(self, free_ns: float) -> float:
        """Predict how much later all of them could end and still be in time, in ns."""
        return min(self.predict(free_ns)[1], default=float(NEVER))

    def put(self, rows: Sequence[Row], spot: Spot) -> None:
        """Put rows where a place was found."""
        work, batch = rows[0].work, spot.joins
        for other in self._batches[spot.at : spot.behind]:
            other.pushed_ns += spot.takes_ns
        for other in self._batches[spot.behind :]:
            other.pushed_ns += spot.longer_ns
        if batch is None:
            batch = Batch(list(rows))
            if batch.due_ns == NEVER:
                name = batch.ladder.name
                batch.turn = self._turns[name] = self.next_turn(name, takes_ns=batch.ns)
        else:
            self._batches.remove(batch)
            batch.rows += rows
            batch.pushed_ns += spot.moved_ns - spot.takes_ns  # it was among those in front of `behind`
            batch.settle(batch.place)
        self._batches.insert(spot.at, batch)
        for row in rows:
            row.promised_ns = spot.end_ns - batch.pushed_ns
        work.job.predicted_ns = max(work.job.predicted_ns, spot.end_ns + batch.tail_ns)
        work.rows += rows
        work.n_left += len(rows)
        self._count(rows, by=1)

    def pop(self) -> Batch:
        """Take the first batch out; its rows count as waiting until it starts."""
        return self._batches.pop(0)

    def start(self, batch: Batch) -> None:
        """Note that a batch that was popped runs now."""
        self._turn = max(self._turn, batch.turn)
        self._count(batch.rows, by=-1)

    def push(self, *, by_ns: float) -> None:
        """Move all ends on purpose."""
        for batch in self._batches:
            batch.pushed_ns += by_ns

    def take_out(self, work: Work, *, free_ns: float, also: Batch | None = None) -> None:
        """Take a job's rows out, and out of a batch that was just popped."""
        before = self._ends(free_ns)
        gone: list[Row] = []
        for batch in [*self._batches, *([also] if also is not None else [])]:
            rows = [row for row in batch.rows if row.work is work]
            if rows:
                gone += rows
                batch.rows = [row for row in batch.rows if row.work is not work]
                if batch.rows:
                    batch.settle(batch.place)
        self._count(gone, by=-1)
        left = set(gone)
        work.rows = [row for row in work.rows if row not in left]
        work.n_left -= len(gone)
        self._batches = sorted(
            (batch for batch in self._batches if batch.rows), key=lambda batch: (batch.due_ns, batch.turn)
        )
        for batch, end_ns in self._ends(free_ns).items():  # they end sooner on purpose
            batch.pushed_ns += end_ns - before.get(batch, end_ns)

    def put_off(self, batch: Batch, *, now_ns: int) -> None:
        """Take those who can wait longest out of a popped batch and back into the line, as long as not all are in time.

        They were when they came in together: the device became slower.
        """
        put_off: list[Row] = []
        while now_ns + batch.ns > min(row.work.job.deadline_ns for row in batch.rows):
            works = batch.works
            if len(works) == 1:
                break
            last = max(works, key=lambda work: (work.job.deadline_ns, len(work.rows[0].ids)))
            put_off += [row for row in batch.rows if row.work is last]
            batch.rows = [row for row in batch.rows if row.work is not last]
            batch.settle(batch.place)
        if put_off:
            for row in put_off:
                row.promised_ns += batch.pushed_ns  # that it is late is an error of the forecast, and counted as one
            rest = Batch(put_off)
            self._batches.insert(self.place_of(rest.due_ns, rest.turn), rest)

    def _ends(self, free_ns: float) -> dict[Batch, float]:
        return dict(zip(self._batches, self.predict(free_ns)[0][1:], strict=True))

    def _count(self, rows: Sequence[Row], *, by: int) -> None:
        """Count rows that came or left, and the jobs that wait."""
        for row in rows:
            work = row.work
            was_waiting = work.n_waiting > 0
            work.n_waiting += by
            self.n_waiting += (work.n_waiting > 0) - was_waiting
