"""Rows that run together on a device: what of a job is in them, how long they take, when they are due.

Border: jobs and numbers; in which order batches run is planning.py's.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from millis.backends import Batching
from millis.serving.scheduling import NEVER, Job, Ladder

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALONE = Batching(max_rows=1, max_tokens=1)
"""What a rung takes at once that does not batch."""


class Row:
    """The window of a job that stands at a place of one of its texts.

    Attributes:
        promised_ns: when its answer was predicted, less what its batch had been pushed by then.
        logits: None until it has run.
    """

    __slots__ = ("ids", "logits", "place", "promised_ns", "text", "work")

    def __init__(self, work: "Work", *, text: int, place: int) -> None:
        self.work, self.text, self.place = work, text, place
        self.ids = work.job.encoded[text][place].ids
        self.logits: NDArray[Any] | None = None
        self.promised_ns = 0.0


class Work:
    """A job and its rows, in the order in which they were planned; those of a text are its first ones.

    Attributes:
        places: of the rungs that may answer it; one alone where its rows do not fit into one batch.
        n_waiting, n_left: rows that are in the plan, and those whose logits are not there.
        is_over: it left the plan without all of its rows (its client went away, a row failed, it came too late); what
            still runs of it is for nobody.
    """

    __slots__ = ("is_over", "job", "n_left", "n_waiting", "places", "rows")

    def __init__(self, job: Job) -> None:
        self.job, self.places = job, job.places
        self.rows: list[Row] = []
        self.n_left = self.n_waiting = 0
        self.is_over = False

    def grow(self, n_rows: int) -> list[Row]:
        """Give rows for the next windows: the first of each text that has none, then in order."""
        taken = [0] * len(self.job.encoded)
        for row in self.rows:
            taken[row.text] += 1
        first = [(text, 0) for text, windows in enumerate(self.job.encoded) if windows and not taken[text]]
        rest = [
            (text, place)
            for text, windows in enumerate(self.job.encoded)
            for place in range(max(taken[text], 1), len(windows))
        ]
        return [Row(self, text=text, place=place) for text, place in (first + rest)[:n_rows]]


class Batch:
    """Rows that run together on one rung, each padded to the longest.

    Attributes:
        longest: tokens of the longest row, or its bucket.
        due_ns: when the first of its jobs must be answered, the distance that promises keep included; NEVER where none
            has a deadline.
        turn: its place among those without a deadline.
        pushed_ns: by how much its end has been moved since rows came into it, on purpose.
        place: of the rung that runs it: the fastest until its turn comes.
        usual_ns: how long that takes where the device is as fast as usual.
    """

    __slots__ = ("due_ns", "ladder", "longest", "place", "places", "pushed_ns", "rows", "turn", "usual_ns")

    def __init__(self, rows: list[Row], *, turn: float = 0.0) -> None:
        self.rows, self.turn = rows, turn
        work = rows[0].work
        self.ladder, self.places = work.job.ladder, work.places
        self.pushed_ns = 0.0
        self.settle(self.places[-1])

    @property
    def n_tokens(self) -> int:
        """Tokens that run, padding included."""
        return len(self.rows) * self.longest

    @property
    def ns(self) -> float:
        """Predict how long it runs."""
        return self.usual_ns * self.ladder.forecast.speed

    @property
    def latest_ns(self) -> float:
        """Say when it must end."""
        return self.due_ns - self.tail_ns

    @property
    def tail_ns(self) -> float:
        """Predict how long after its end the last of its answers is out: they are written one after another."""
        return self.ladder.forecast.overhead_ns * len(self.rows)

    @property
    def works(self) -> list[Work]:
        """List whose rows these are."""
        return list(dict.fromkeys(row.work for row in self.rows))

    def has_room(self, n_rows: int, longest: int) -> bool:
        """Say whether so many more rows of such length still fit onto the device."""
        return fits(self.ladder, self.place, n_rows=n_rows + len(self.rows), longest=max(longest, self.longest))

    def settle(self, place: int) -> None:
        """Bring what it says of its rows up to date, when some came or left, or another rung is to run them."""
        self.place = place
        self.longest = longest_of(self.rows, self.ladder, place)
        self.due_ns = min(due(row.work.job) for row in self.rows)
        self.usual_ns = self.ladder.forecast.usual_ns(place, self.n_tokens)


def due(job: Job) -> float:
    """Say when a job must be answered, the distance that promises keep included; NEVER where it has no deadline."""
    return NEVER if job.deadline_ns == NEVER else job.deadline_ns - job.margin_ns


def longest_of(rows: Sequence[Row], ladder: Ladder, place: int) -> int:
    """Give the tokens that each of these rows costs in one batch."""
    return ladder.models[place].bucket_of(max(len(row.ids) for row in rows))


def fits(ladder: Ladder, place: int, *, n_rows: int, longest: int) -> bool:
    """Say whether a rung's device takes such a batch; one row it always takes."""
    batching = ladder.models[place].batching or ALONE
    return n_rows == 1 or (n_rows <= batching.max_rows and n_rows * longest <= batching.max_tokens)


def cut(rows: Sequence[Row], ladder: Ladder, place: int) -> list[tuple[list[Row], int]]:
    """Cut rows into batches, the longest first, where the device asks for it or padding would cost more than a run."""
    batching, forecast = ladder.models[place].batching or ALONE, ladder.forecast
    left = sorted(rows, key=lambda row: -len(row.ids))
    pieces: list[tuple[list[Row], int]] = []
    while left:
        longest = longest_of(left[:1], ladder, place)
        n = min(len(left), batching.max_rows, max(batching.max_tokens // longest, 1))
        whole_ns = forecast.run_ns(place, [n * longest])
        for k in range(1, n):
            rest = longest_of(left[k : k + 1], ladder, place)
            if rest < longest and forecast.run_ns(place, [k * longest, (n - k) * rest]) < whole_ns:
                n = k
                break
        pieces.append((left[:n], longest))
        left = left[n:]
    return pieces


def needs_ns(job: Job, rows: Sequence[Row], place: int) -> float:
    """Predict what a job takes on a rung, its rows alone in batches of their own."""
    forecast = job.ladder.forecast
    runs_ns = sum(forecast.run_ns(place, [len(piece) * longest]) for piece, longest in cut(rows, job.ladder, place))
    return runs_ns + forecast.overhead_ns * len(job.texts)
