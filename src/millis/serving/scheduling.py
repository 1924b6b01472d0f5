"""What is scheduled: a request on its way, the rungs that may answer it, and the refusal of one that would be late.

Border: jobs and clocks; no event loop, no threads, no HTTP. Who runs next and who is refused is decided by queueing.py
where one window runs at a time, and by planning.py where many run together; what both go by is here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from millis.bundles import Model
from millis.bundles.together import count_next, order_windows, put_back
from millis.errors import InvalidRequest
from millis.serving.prediction import Forecast
from millis.tasks.task import NO_OPTIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from millis.tasks.task import Window

NEVER = 1 << 62
"""The deadline of a job that has none, in ns."""

MOST_WAITING = 1000
SHARED = 0.5
"""Of the time that those who wait can spare, how much one request may take for a more accurate rung."""

_REASONS = {
    "queue-full": f"{MOST_WAITING} requests wait already",
    "would-be-late": "the answer would come too late",
    "would-make-others-late": "the answer would make others late that were admitted before",
    "over-share": "requests for this model take their share of the device already, and other models are asked too",
    "deadline-passed": "its turn came too late",
}
_UNTIL_OTHERS_ENDED = ("would-be-late", "would-make-others-late", "over-share")
"""Reasons that are others' requests, unless the request would be late alone."""


class Ladder:
    """Rungs of one bundle, most accurate first, and what is known of their times.

    Attributes:
        rows: how many windows of one text they run together, at most.
    """

    def __init__(self, name: str, models: Sequence[Model], forecast: Forecast) -> None:
        self.name, self.models, self.forecast = name, tuple(models), forecast
        self.task = models[0].task
        self.rows = max(model.rung.rows for model in models)

    @property
    def is_batched(self) -> bool:
        """Say whether it runs on a device that takes many rows at once."""
        return any(model.batching is not None for model in self.models)

    def close(self) -> None:
        """Free the models."""
        for model in self.models:
            model.close()

    def rungs(self, *, rung: str | None, may_fall_back: bool) -> range:
        """Give the places of the rungs that a request allows.

        Raises:
            InvalidRequest: 404, no rung of that name is served.
        """
        if rung is None:
            return range(len(self.models) if may_fall_back else 1)
        for place, model in enumerate(self.models):
            if model.rung.name == rung:
                return range(place, place + 1)
        known = ", ".join(model.rung.name for model in self.models)
        raise InvalidRequest(
            f"no rung of that name is served for {self.name}: choose one of {known}, or leave it out.",
            status=404,
            slug="unknown-rung",
        )


class Refused(InvalidRequest):
    """A request that would not be answered in time; nothing of it was run.

    Args:
        predicted_ms: when it would have been answered, from its coming.
        retry_after_ms: when the same request is predicted to fit, None where waiting does not help.
        rung: the one that would have fitted now, None where none would.
    """

    def __init__(
        self, message: str, *, slug: str, status: int, predicted_ms: float, retry_after_ms: float | None,
        rung: str | None,
    ) -> None:  # fmt: skip
        headers: list[tuple[bytes, bytes]] = []
        if retry_after_ms is not None:
            headers.append((b"retry-after", b"%d" % math.ceil(retry_after_ms / 1000)))
            retry_after_ms = round(retry_after_ms, 3)
        if rung is not None:
            headers.append((b"x-millis-fits", rung.encode()))
        super().__init__(message, status=status, slug=slug, headers=tuple(headers))
        self.extra = {"predicted_ms": round(predicted_ms, 3), "retry_after_ms": retry_after_ms, "rung": rung}


class Job:
    """One request on its way: its windows, where it is, and what it cost.

    Args:
        came_ns: when its bytes may have arrived.
        deadline_ns: when it must be answered; NEVER where it has no deadline.
        is_own_deadline: the client named it, and is promised it. Where it did not, a refusal breaks the contract as
            much as a late answer would: the forecast's margin does not count while nobody is ahead, and else as much
            as its caution says; who is too long for the usual deadline has none, and runs behind all that have.
        places: of the rungs that it allows, in its ladder.
        options: what it chose of the task's encoding and decoding.
        most_tokens: that it may have; None as many as it likes.
    Attributes:
        encoded: windows of each text, in the order in which they run.
        orders: of each text, the places that those windows have in it.
        logits: of the text whose turn it is, as far as its windows ran.
        n_next: how many windows run next, where not as many as can: it may stop, and has no time for more.
        rung: the place of the rung that answers, None until its turn comes.
        margin_ns: how much sooner than its deadline it had to be predicted to end when it was admitted.
        n_ahead: how many, a lane, were ahead of it then; None where a plan said when it would run.
        needs_ns: predicted for what is left of it, on the fastest rung that it allows.
        may_stop: its windows are run as long as there is time, and those that were are the answer.
    """

    __slots__ = (
        "came_ns", "deadline_ns", "decode_ns", "encoded", "future", "is_gone", "is_own_deadline", "ladder", "logits",
        "margin_ns", "may_stop", "most_tokens", "n_ahead", "n_next", "needs_ns", "options", "orders", "places",
        "predicted_ns", "results", "run_ns", "rung", "texts", "tokenize_ns", "worked_ns",
    )  # fmt: skip

    def __init__(
        self, ladder: Ladder, texts: Sequence[str], *, came_ns: int, deadline_ns: int, is_own_deadline: bool,
        places: range, options: Mapping[str, Any] = NO_OPTIONS, most_tokens: int | None = None,
    ) -> None:  # fmt: skip
        self.ladder, self.texts, self.places, self.most_tokens = ladder, texts, places, most_tokens
        self.came_ns, self.deadline_ns, self.is_own_deadline = came_ns, deadline_ns, is_own_deadline
        self.options = options
        self.may_stop = is_own_deadline and ladder.task.may_stop_early
        self.encoded: list[Sequence[Window]] = []
        self.orders: list[Sequence[int]] = []
        self.n_next = 1 if self.may_stop else None
        self.logits: list[NDArray[Any]] = []
        self.results: list[Any] = []
        self.rung: int | None = None
        self.margin_ns = self.needs_ns = self.predicted_ns = 0.0
        self.n_ahead: float | None = None
        self.tokenize_ns = self.run_ns = self.decode_ns = self.worked_ns = 0
        self.future: Any = None
        self.is_gone = False

    def encode(self) -> None:
        """Cut its texts into windows.

        Raises:
            InvalidRequest: 413, these have more tokens than it may have; texts behind that are not cut any more.
        """
        began, n, rows = perf_counter_ns(), 0, 1 if self.may_stop else self.ladder.rows
        for text in self.texts:
            windows = self.ladder.task.encode(text, options=self.options)
            lengths = [len(window.ids) for window in windows]
            self.orders.append(order := order_windows(lengths, rows=rows))
            self.encoded.append(windows if rows == 1 else [windows[place] for place in order])
            n += sum(lengths)
            if self.most_tokens is not None and n > self.most_tokens:
                raise InvalidRequest(
                    f"the texts have more than the {self.most_tokens:,} tokens allowed, counting what their windows"
                    " share: send fewer or shorter ones.",
                    status=413, slug="too-many-tokens",
                )  # fmt: skip
        self.tokenize_ns = perf_counter_ns() - began

    @property
    def n_tokens(self) -> int:
        """Tokens of all its windows, special tokens included."""
        return sum(len(window.ids) for windows in self.encoded for window in windows)

    @property
    def is_done(self) -> bool:
        """Say whether every text has its result."""
        return len(self.results) == len(self.texts)

    @property
    def turn_ns(self) -> float:
        """Predict by how much it delays who is behind it."""
        return self.needs_ns + self.ladder.forecast.slip_ns

    def observe_end(self, ended_ns: float) -> None:
        """Let its forecast learn when it ended, or would have."""
        forecast = self.ladder.forecast
        forecast.observe_end(ended_ns - self.predicted_ns, n_ahead=self.n_ahead)
        is_kept = ended_ns <= self.deadline_ns
        if not self.is_own_deadline and (is_kept or self.n_ahead):
            forecast.observe_promise(is_kept=is_kept)

    def predict_ns(self, place: int) -> float:
        """Predict what is left of it on a rung; where it may stop, a window of each text."""
        forecast = self.ladder.forecast
        left = len(self.texts) - len(self.results)
        return sum(forecast.text_ns(place, one) for one in self._least_lengths()) + forecast.overhead_ns * left

    def predict_next_ns(self, place: int, *, n: int) -> tuple[float, float]:
        """Predict the next n windows of the text that runs, and what then is left: as many of each text behind it."""
        ran, forecast = len(self.logits), self.ladder.forecast
        windows, *behind = ([len(window.ids) for window in one] for one in self.encoded[len(self.results) :])
        takes_ns = forecast.text_ns(place, windows[ran : ran + n])
        then_ns = sum(forecast.text_ns(place, one[: ran + n]) for one in behind)
        return takes_ns, then_ns + forecast.overhead_ns * (1 + len(behind))

    def next_windows(self, *, rows: int) -> Sequence["Window"]:
        """Give the windows that run next, in one inference; none where a text has none.

        Args:
            rows: of the rung that answers.
        """
        windows, n_run = self.encoded[len(self.results)], len(self.logits)
        return windows[n_run : n_run + (self.n_next or count_next(self.n_left, rows=rows))]

    def end_text(self) -> None:
        """Read the answer of the text whose turn it is from the windows that ran."""
        place = len(self.results)
        order = self.orders[place][: len(self.logits)]
        windows, logits = (put_back(one, order=order) for one in (self.encoded[place][: len(order)], self.logits))
        self.results.append(self.ladder.task.decode(self.texts[place], windows, logits, self.options))
        self.logits, self.n_next = [], 1 if self.may_stop else None

    @property
    def n_left(self) -> int:
        """Count the windows that are left of the text whose turn it is."""
        return len(self.encoded[len(self.results)]) - len(self.logits)

    def _least_lengths(self) -> list[list[int]]:
        """List the token counts of the windows that must be run yet, by text."""
        left = [[len(window.ids) for window in windows] for windows in self.encoded[len(self.results) :]]
        if self.may_stop:
            return [one[:1] for one in left[bool(self.logits) :]]
        if self.logits:
            left[0] = left[0][len(self.logits) :]
        return left


def _write(ms: float) -> str:
    return f"{ms:.1f}" if ms >= 1 else f"{ms:.2g}"


def refuse(
    job: Job, *, slug: str, over_ns: float, predicted_ns: float, lanes: int = 1,
    needs_ns: Callable[[int], float] | None = None,
) -> Refused:  # fmt: skip
    """Say no, with the time that was predicted, when to come again, and the rung that would have fitted.

    What would be late on an empty queue too is not told to come again: no wait makes it fit.

    Args:
        slug: one of _REASONS.
        over_ns: what it lacks; as much later, or for a rung that takes `lanes` times as much less, it would fit.
        needs_ns: what the job takes on the rung at a place, where that is not one window after the other.
    """
    allowed_ns = job.deadline_ns - job.came_ns
    is_hopeless = slug in _UNTIL_OTHERS_ENDED and allowed_ns < job.needs_ns  # a margin that grew shrinks again
    fits = _find_fitting(job, over_ns=lanes * over_ns, needs_ns=needs_ns or job.predict_ns)
    advice = "allow more" if fits is None else f"allow more, or ask the rung {fits}, which would fit"
    allowed = f" of the {_write(allowed_ns / 1e6)} ms allowed" if job.deadline_ns < NEVER else ""
    predicted_ms = (predicted_ns - job.came_ns) / 1e6
    if is_hopeless:
        slug = "deadline-too-short"
        alone = f"{_write(job.needs_ns / 1e6)} ms{allowed}"
        message = f"with nobody ahead the answer would still take {alone}. Waiting does not help: {advice}."
    else:
        after = f"{_write(predicted_ms)} ms{allowed}"
        message = f"{_REASONS[slug]}: after {after}. Ask again in {math.ceil(over_ns / 1e6)} ms, or {advice}."
    return Refused(
        message, slug=slug, status=504 if slug == "deadline-passed" else 503, predicted_ms=predicted_ms,
        retry_after_ms=None if is_hopeless else over_ns / 1e6, rung=fits,
    )  # fmt: skip


def _find_fitting(job: Job, *, over_ns: float, needs_ns: Callable[[int], float]) -> str | None:
    """Name the most accurate rung, of those that a job does not allow, which saves so much on texts as long as its."""
    models, fastest = job.ladder.models, job.places[-1]
    for place in range(fastest + 1, len(models)):
        if needs_ns(fastest) - needs_ns(place) >= over_ns:
            return models[place].rung.name
    return None
