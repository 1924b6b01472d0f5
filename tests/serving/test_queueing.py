"""The order of requests, who is refused, and which rung answers: on a clock of our own."""

from types import SimpleNamespace

import numpy as np
import pytest

from millis.bundles import LatencyRow, Rung
from millis.serving.prediction import KEPT, Forecast
from millis.serving.queueing import Queue
from millis.serving.scheduling import NEVER, Job, Ladder, Refused
from millis.tasks.task import Window

MS = 1_000_000


class Model:
    """As much of a model as a ladder looks at."""

    task = SimpleNamespace(may_stop_early=False)

    def __init__(self, name: str, ms: float) -> None:
        self.rung = Rung(name=name, backend="fake", precision="fp32", folder=name, latency=(LatencyRow(tokens=32, p50_ms=ms, p99_ms=ms, n=1),))


def make_ladder(*ms: float) -> Ladder:
    models = [Model(f"rung-{i}", one) for i, one in enumerate(ms)]
    ladder = Ladder("m", models, Forecast([model.rung for model in models], warm_ns=[[]] * len(models)))  # type: ignore[arg-type]
    ladder.forecast.overhead_ns = 0.0
    return ladder


def make_job(ladder: Ladder, *, within_ms: float | None, now_ms: float = 0.0, places: range | None = None, is_own: bool = True) -> Job:
    deadline_ns = NEVER if within_ms is None else int((now_ms + within_ms) * MS)
    job = Job(ladder, ["text"], came_ns=int(now_ms * MS), deadline_ns=deadline_ns, places=places or range(len(ladder.models)), is_own_deadline=is_own)
    job.encoded = [(Window(ids=np.ones(32, np.int64)),)]
    job.needs_ns = ladder.forecast.run_ns(job.places[-1], [32])
    return job


def fill(queue: Queue, ladder: Ladder, *, within_ms: float, n: int, is_own: bool = True) -> list[Job]:
    jobs = [make_job(ladder, within_ms=within_ms, is_own=is_own) for _ in range(n)]
    for job in jobs:
        queue.admit(job, now_ns=0)
        queue.put(job)
    return jobs


def test_the_earliest_deadline_runs_first_and_one_without_any_last() -> None:
    ladder, queue = make_ladder(1.0), Queue(lanes=1)
    late, never, soon = (make_job(ladder, within_ms=ms) for ms in (50, None, 5))
    for job in (late, never, soon):
        queue.put(job)
    assert [queue.take() for _ in range(4)] == [soon, late, never, None]


def test_as_many_are_admitted_as_will_be_in_time_and_the_next_is_told_when_to_come_again() -> None:
    ladder, queue = make_ladder(2.0), Queue(lanes=1)
    fill(queue, ladder, within_ms=10, n=5)
    with pytest.raises(Refused, match=r"too late: after 12\.0 ms of the 10\.0 ms allowed") as refused:
        queue.admit(make_job(ladder, within_ms=10), now_ns=0)
    assert refused.value.status == 503
    assert refused.value.extra == {"predicted_ms": 12.0, "retry_after_ms": 2.0, "rung": None}


def test_two_lanes_admit_twice_as_many() -> None:
    ladder, queue = make_ladder(2.0), Queue(lanes=2)
    queue.busy_until_ns = {0: 0.0, 1: 0.0}
    fill(queue, ladder, within_ms=10, n=9)
    with pytest.raises(Refused):
        queue.admit(make_job(ladder, within_ms=10), now_ns=0)


def test_who_is_in_a_hurry_may_not_make_others_late() -> None:
    ladder, queue = make_ladder(2.0), Queue(lanes=1)
    fill(queue, ladder, within_ms=10, n=5)
    with pytest.raises(Refused, match="make others late") as refused:
        queue.admit(make_job(ladder, within_ms=4), now_ns=0)
    assert refused.value.slug == "would-make-others-late"
    assert len(queue) == 5


def test_a_margin_keeps_its_distance_to_the_deadline() -> None:
    ladder, queue = make_ladder(2.0), Queue(lanes=1)
    ladder.forecast.margin_ns = 3.0 * MS
    fill(queue, ladder, within_ms=10, n=3)
    with pytest.raises(Refused):
        queue.admit(make_job(ladder, within_ms=10), now_ns=0)


def test_the_most_accurate_rung_that_fits_answers_and_a_faster_one_when_time_is_short() -> None:
    ladder, queue = make_ladder(8.0, 4.0, 1.0), Queue(lanes=1)
    assert [queue.choose_rung(make_job(ladder, within_ms=ms), now_ns=0) for ms in (9, 5, 2, 0.5)] == [0, 1, 2, None]


def test_quality_bends_before_anybody_is_refused() -> None:
    ladder, queue = make_ladder(8.0, 1.0), Queue(lanes=1)
    fill(queue, ladder, within_ms=10, n=10)  # ten times the fast rung; the accurate one would have fitted once
    rungs, now = [], 0.0
    while (job := queue.take()) is not None:
        rung = queue.choose_rung(job, now_ns=int(now))
        assert rung is not None, "an admitted request was late"
        rungs.append(rung)
        now += ladder.forecast.run_ns(rung, [32])
        assert now <= job.deadline_ns
    assert rungs.count(1) >= 9


def test_who_waits_leaves_no_time_for_a_better_rung() -> None:
    ladder, queue = make_ladder(8.0, 1.0), Queue(lanes=1)
    fill(queue, ladder, within_ms=10, n=2)
    assert queue.choose_rung(make_job(ladder, within_ms=30), now_ns=0) == 1
    queue.take(), queue.take()
    assert queue.choose_rung(make_job(ladder, within_ms=30), now_ns=0) == 0


def test_a_pinned_rung_is_kept_and_the_refusal_names_the_one_that_would_fit() -> None:
    ladder, queue = make_ladder(8.0, 1.0), Queue(lanes=1)
    job = make_job(ladder, within_ms=5, places=ladder.rungs(rung="rung-0", may_fall_back=True))
    with pytest.raises(Refused) as refused:
        queue.admit(job, now_ns=0)
    assert refused.value.extra["rung"] == "rung-1"
    queue.admit(make_job(ladder, within_ms=5), now_ns=0)
    assert list(ladder.rungs(rung=None, may_fall_back=False)) == [0]


def test_what_cannot_be_in_time_alone_is_not_told_to_come_again() -> None:
    ladder, queue = make_ladder(8.0), Queue(lanes=1)
    ladder.forecast.margin_ns = 1.0 * MS
    fill(queue, ladder, within_ms=9.5, n=1)
    with pytest.raises(Refused, match=r"nobody ahead .* take 8\.0 ms of the 7\.5 ms allowed\. Waiting does not help: allow more\.") as refused:
        queue.admit(make_job(ladder, within_ms=7.5), now_ns=0)
    assert (refused.value.status, refused.value.slug, refused.value.headers) == (503, "deadline-too-short", ())
    assert refused.value.extra["retry_after_ms"] is None
    with pytest.raises(Refused) as refused:
        queue.admit(make_job(ladder, within_ms=9.5), now_ns=0)
    assert (refused.value.slug, refused.value.headers) == ("would-be-late", ((b"retry-after", b"1"),))
    with pytest.raises(Refused) as refused:  # only the margin keeps it out, and that shrinks
        Queue(lanes=1).admit(make_job(ladder, within_ms=8.5), now_ns=0)
    assert refused.value.slug == "would-be-late"


def test_the_most_accurate_rung_that_fits_a_requests_own_length_is_named() -> None:
    ms = {"slow": (2.0, 40.0), "middle": (1.9, 20.0), "fast": (1.8, 5.0)}  # nearly alike on what is short
    models = [Model(name, 1.0) for name in ms]
    for model, (short, long) in zip(models, ms.values(), strict=True):
        rows = tuple(LatencyRow(tokens=n, p50_ms=one, p99_ms=one, n=1) for n, one in ((8, short), (32, long)))
        model.rung = Rung(name=model.rung.name, backend="fake", precision="fp32", folder="a", latency=rows)
    ladder = Ladder("m", models, Forecast([model.rung for model in models], warm_ns=[[]] * 3))  # type: ignore[arg-type]
    ladder.forecast.overhead_ns = ladder.forecast.margin_ns = 0.0
    for within_ms, named in ((25, "middle"), (6, "fast"), (4, None)):
        with pytest.raises(Refused) as refused:
            Queue(lanes=1).admit(make_job(ladder, within_ms=within_ms, places=range(1)), now_ns=0)
        assert refused.value.extra["rung"] == named
        assert refused.value.headers == (() if named is None else ((b"x-millis-fits", named.encode()),))
        assert named is None or f"or ask the rung {named}, which would fit" in str(refused.value)


def test_a_thousand_without_a_deadline_fill_the_queue() -> None:
    ladder, queue = make_ladder(1.0), Queue(lanes=1)
    for _ in range(1000):
        job = make_job(ladder, within_ms=None)
        queue.admit(job, now_ns=0)
        queue.put(job)
    with pytest.raises(Refused, match="1000 requests wait already"):
        queue.admit(make_job(ladder, within_ms=None), now_ns=0)


def test_a_forecast_follows_the_machine_and_its_margin_the_tail() -> None:
    forecast = make_ladder(2.0).forecast
    for _ in range(200):
        forecast.observe_run(0, 32, ns=3.0 * MS)
    assert forecast.run_ns(0, [32]) == pytest.approx(3.0 * MS, rel=0.01)
    late = [5.0 * MS if i % 50 == 0 else 0.1 * MS for i in range(20_000)]  # 2 % are late: more than may be
    for ns in late:
        forecast.observe_end(ns)
    assert forecast.margin_ns >= 5.0 * MS * 0.9
    for _ in range(20_000):
        forecast.observe_end(0.1 * MS)
    assert forecast.margin_ns < 1.0 * MS
    assert 0.985 < KEPT < 0.999


@pytest.mark.parametrize(("buckets", "ms"), [((16, 32), 3.0), (None, 2.0)])
def test_between_two_timed_lengths_only_what_pads_takes_as_long_as_the_longer(buckets: tuple[int, ...] | None, ms: float) -> None:
    latency = (LatencyRow(tokens=16, p50_ms=1.0, p99_ms=1.0, n=1), LatencyRow(tokens=32, p50_ms=3.0, p99_ms=3.0, n=1))
    rung = Rung(name="one", backend="fake", precision="fp32", folder="one", latency=latency, buckets=buckets)
    forecast = Forecast([rung], warm_ns=[[]])
    assert [forecast.usual_ns(0, n) / MS for n in (8, 16, 24, 32, 64)] == pytest.approx([1.0, 1.0, ms, 3.0, 6.0])


def test_a_request_without_a_deadline_of_its_own_is_not_kept_out_of_an_idle_server_by_the_margin() -> None:
    ladder, queue = make_ladder(2.0), Queue(lanes=1)
    ladder.forecast.margin_ns = 50.0 * MS
    queue.admit(make_job(ladder, within_ms=10, is_own=False), now_ns=0)
    with pytest.raises(Refused):
        queue.admit(make_job(ladder, within_ms=10), now_ns=0)


def test_requests_without_a_deadline_of_their_own_keep_as_much_of_the_margin_as_broken_promises_call_for() -> None:
    ladder, queue = make_ladder(1.0), Queue(lanes=1)
    ladder.forecast.margin_ns = 4.0 * MS

    def admits(within_ms: float) -> bool:
        try:
            queue.admit(make_job(ladder, within_ms=within_ms, is_own=False), now_ns=0)
        except Refused:
            return False
        return True

    (ahead,) = fill(queue, ladder, within_ms=1, n=1, is_own=False)
    assert ahead.n_ahead == 0
    assert admits(2.5), "nobody's promise was broken yet"
    for _ in range(20):
        ladder.forecast.observe_promise(is_kept=False)
    assert not admits(5.5)
    assert admits(6.5)
    for _ in range(1600):
        ladder.forecast.observe_promise(is_kept=True)
    assert admits(2.5)


def test_one_who_ran_late_with_nobody_ahead_calls_for_no_more_care_and_one_in_line_does() -> None:
    ladder, queue = make_ladder(1.0), Queue(lanes=1)
    first, second = fill(queue, ladder, within_ms=10, n=2, is_own=False)
    first.observe_end(11.0 * MS)
    assert ladder.forecast.caution == 0.0
    second.observe_end(11.0 * MS)
    assert ladder.forecast.caution > 0.0


@pytest.mark.parametrize("lanes", [1, 2])
def test_what_those_ahead_delay_beside_their_own_needs_is_learnt_and_predicted(lanes: int) -> None:
    ladder = make_ladder(1.0)
    for _ in range(400):  # each ahead takes 1.5 ms in truth, and whoever is alone 1.2
        queue = Queue(lanes=lanes)
        for job in fill(queue, ladder, within_ms=1000, n=2 * lanes + 1):
            job.observe_end((1.2 + 1.5 * job.n_ahead) * MS)
    queue = Queue(lanes=lanes)
    *_, last = fill(queue, ladder, within_ms=1000, n=2 * lanes + 1)
    assert last.n_ahead == 2
    assert last.predicted_ns == pytest.approx(4.2 * MS, rel=0.02)


def test_who_comes_later_and_is_due_sooner_is_no_error_of_the_forecast() -> None:
    ladder, queue = make_ladder(2.0), Queue(lanes=1)
    (patient,) = fill(queue, ladder, within_ms=100, n=1)
    before = patient.predicted_ns
    fill(queue, ladder, within_ms=10, n=2)
    assert patient.predicted_ns - before == pytest.approx(4.0 * MS)


def test_more_windows_than_were_promised_are_no_error_of_the_forecast() -> None:
    ladder, queue = make_ladder(2.0), Queue(lanes=1)
    job, other = make_job(ladder, within_ms=50), make_job(ladder, within_ms=80)
    queue.admit(job, now_ns=0)
    queue.admit(other, now_ns=0)
    queue.put(other)
    promised_ns = (job.predicted_ns, other.predicted_ns)
    n_more = 0
    while queue.may_go_on(job, takes_ns=2.0 * MS, now_ns=(n_more + 1) * 2 * MS):
        n_more += 1
    assert n_more > 5
    assert (job.predicted_ns, other.predicted_ns) == tuple(ns + n_more * 2 * MS for ns in promised_ns)


def test_who_is_read_together_is_foreseen_one_behind_the_other_until_they_come_in() -> None:
    ladder, queue = make_ladder(2.0), Queue(lanes=1)
    ladder.forecast.margin_ns = 0.0
    fill(queue, ladder, within_ms=10, n=3)
    asked = {"n_bytes": 40, "came_ns": 0, "usual_ns": 10 * MS, "now_ns": 0}
    assert [queue.foresee(ladder, **asked) for _ in range(3)] == [None, None, 2 * MS]
    fill(queue, ladder, within_ms=10, n=1)  # the first of the two comes in, and the other may be answered from a cache
    assert [queue.foresee(ladder, **asked) for _ in range(2)] == [None, 2 * MS]


def test_a_body_is_as_long_in_tokens_as_those_of_late_were() -> None:
    ladder, queue = make_ladder(2.0), Queue(lanes=1)
    ladder.forecast.margin_ns = 0.0
    fill(queue, ladder, within_ms=10, n=3)
    for _ in range(100):
        ladder.forecast.observe_length(1000, 160)
    ladder.forecast.observe_length(1000, 0)  # an answer that was kept: nothing was cut
    asked = {"came_ns": 0, "usual_ns": 10 * MS, "now_ns": 0}
    assert queue.foresee(ladder, n_bytes=500, **asked) == pytest.approx(1 * MS)  # 80 tokens, five halves of 32
    assert queue.foresee(ladder, n_bytes=2000, **asked) is None  # longer than allowed alone: nobody ahead is at fault
    assert queue.foresee(ladder, n_bytes=100, **asked) is None
