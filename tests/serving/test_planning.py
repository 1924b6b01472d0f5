"""Which rows run together, in which order, and who is refused: on a clock of our own, with a device that keeps time."""

import contextlib
import random
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from millis.backends import Batching
from millis.bundles import Rung
from millis.serving.batches import Batch, Work, cut
from millis.serving.planning import Plan
from millis.serving.prediction import Forecast
from millis.serving.scheduling import NEVER, Job, Ladder, Refused
from millis.tasks.task import Window

MS = 1_000_000
FIXED_MS, TOKEN_MS = 4.0, 0.01
DEVICE = Batching(max_rows=8, max_tokens=512)


class Model:
    """As much of a model as a plan looks at."""

    def __init__(self, name: str, *, batching: Batching, may_stop: bool) -> None:
        self.rung = Rung(name=name, backend="fake", precision="fp32", folder=name)
        self.batching = batching
        self.task = SimpleNamespace(may_stop_early=may_stop, max_tokens=512)

    def bucket_of(self, n: int) -> int:
        return n


def make_ladder(name: str = "m", *, slower_by: Sequence[float] = (1.0,), batching: Batching = DEVICE, may_stop: bool = False) -> Ladder:
    """A device takes 4 ms for a run and 0.01 ms for a token; its slower rungs so many times as long."""
    models = [Model(f"rung-{i}", batching=batching, may_stop=may_stop) for i in range(len(slower_by))]
    times = [[(n, by * (FIXED_MS + TOKEN_MS * n) * MS) for n in range(1, 1025)] for by in slower_by]
    ladder = Ladder(name, models, Forecast([one.rung for one in models], warm_ns=times))  # type: ignore[arg-type]
    ladder.forecast.overhead_ns = ladder.forecast.margin_ns = 0.0
    return ladder


def make_job(ladder: Ladder, *lengths: int, within_ms: float | None, now_ms: float = 0.0) -> Job:
    """A job of texts of one window each, of so many tokens."""
    deadline_ns = NEVER if within_ms is None else int((now_ms + within_ms) * MS)
    job = Job(ladder, ["text"] * len(lengths), came_ns=int(now_ms * MS), deadline_ns=deadline_ns, places=range(len(ladder.models)), is_own_deadline=within_ms is not None)
    job.encoded = [(Window(ids=np.ones(n, np.int64)),) for n in lengths]
    return job


def admit(plan: Plan, ladder: Ladder, *lengths: int, within_ms: float | None, now_ms: float = 0.0) -> Work:
    return plan.admit(make_job(ladder, *lengths, within_ms=within_ms, now_ms=now_ms), now_ns=int(now_ms * MS))


def admit_many(plan: Plan, ladder: Ladder, *, within_ms: float) -> str:
    """Admit until one is refused; give why."""
    for _ in range(1000):
        try:
            admit(plan, ladder, 60, within_ms=within_ms)
        except Refused as refused:
            return refused.slug
    raise AssertionError("a thousand were admitted")


def run_all(plan: Plan, *, from_ms: float = 0.0) -> list[tuple[float, Batch]]:
    """Run what waits, one batch after another, on a device that keeps to the forecast; give ends in ms."""
    now, ran = int(from_ms * MS), []
    while True:
        batch, late = plan.take(now)
        assert not late
        if batch is None:
            return ran
        now += int(batch.ns)
        plan.busy_until_ns = 0.0
        for work in plan.finish(batch):
            if not plan.extend(work, now_ns=now):
                plan.forget(work)
        ran.append((now / MS, batch))


def sizes(ran: Sequence[tuple[float, Batch]]) -> list[list[int]]:
    return [[len(row.ids) for row in batch.rows] for _, batch in ran]


def test_what_comes_while_the_device_runs_is_one_batch_when_it_is_free() -> None:
    plan, ladder = Plan(), make_ladder()
    admit(plan, ladder, 10, within_ms=100)
    first, _ = plan.take(0)
    assert first is not None
    assert len(first.rows) == 1, "an idle device starts at once"
    for i in range(5):
        admit(plan, ladder, 10 + i, within_ms=100, now_ms=1.0)
    assert sizes(run_all(plan, from_ms=5.0)) == [[10, 11, 12, 13, 14]]


def test_rows_are_sorted_by_length_where_padding_costs_more_than_a_run() -> None:
    plan, ladder = Plan(), make_ladder(batching=Batching(max_rows=64, max_tokens=100_000))
    for n in (10, 500, 12, 480, 11, 490, 14):
        admit(plan, ladder, n, within_ms=1000)
    assert sizes(run_all(plan)) == [[10, 12, 11, 14], [500, 480, 490]]


def test_a_list_is_cut_by_length_and_by_what_the_device_takes() -> None:
    ladder = make_ladder()
    rows = Work(make_job(ladder, *([20] * 10 + [400, 380]), within_ms=None)).grow(12)
    pieces = [([len(row.ids) for row in piece], longest) for piece, longest in cut(rows, ladder, 0)]
    assert pieces == [([400], 400), ([380], 380), ([20] * 8, 20), ([20] * 2, 20)]


def test_no_batch_is_larger_than_the_device_takes_and_one_row_is_always_taken() -> None:
    plan, ladder = Plan(), make_ladder()
    for n in [100] * 12 + [10] * 20 + [900]:
        admit(plan, ladder, n, within_ms=None)
    for _, batch in run_all(plan):
        assert len(batch.rows) == 1 or (len(batch.rows) <= 8 and batch.n_tokens <= 512)


def test_the_batch_that_is_due_first_runs_first_and_without_a_deadline_last() -> None:
    plan, ladder = Plan(), make_ladder(batching=Batching(max_rows=1, max_tokens=512))
    never, late, soon = (admit(plan, ladder, 10, within_ms=ms) for ms in (None, 100, 10))
    assert [batch.works for _, batch in run_all(plan)] == [[soon], [late], [never]]


def test_who_is_in_a_hurry_is_taken_into_a_batch_that_then_runs_earlier() -> None:
    plan, ladder = Plan(), make_ladder()
    patient = admit(plan, ladder, 300, within_ms=50)
    others = [admit(plan, ladder, 10, within_ms=100) for _ in range(3)]
    hurried = admit(plan, ladder, 10, within_ms=9)
    assert [batch.works for _, batch in run_all(plan)] == [[*others, hurried], [patient]]


def test_nobody_is_put_into_a_batch_that_would_make_somebody_in_it_late() -> None:
    plan, ladder = Plan(), make_ladder()
    admit(plan, ladder, 10, within_ms=5)  # 4.1 ms alone
    admit(plan, ladder, 200, within_ms=100)  # together 8 ms
    assert sizes(run_all(plan)) == [[10], [200]]


def test_who_would_be_late_or_make_others_late_is_refused_and_told_by_how_much() -> None:
    plan, ladder = Plan(), make_ladder()
    admit(plan, ladder, 100, within_ms=5.5)
    with pytest.raises(Refused) as refused:
        admit(plan, ladder, 100, within_ms=5.2)
    assert refused.value.slug == "would-make-others-late"
    with pytest.raises(Refused) as refused:
        admit(plan, ladder, 100, within_ms=9)
    assert refused.value.slug == "would-be-late"
    assert refused.value.extra == {"predicted_ms": 10.0, "retry_after_ms": 1.0, "rung": None}
    admit(plan, ladder, 100, within_ms=10)


def test_batches_stay_large_under_overload() -> None:
    plan, ladder = Plan(), make_ladder()
    free_ms, batches = 0.0, list[Batch]()
    for now_ms in range(1000):  # eight a millisecond, where two fit
        while free_ms <= now_ms:
            plan.busy_until_ns = 0.0
            batch, _ = plan.take(int(free_ms * MS))
            if batch is None:
                break
            batches.append(batch)
            free_ms += batch.ns / MS
        for _ in range(8):
            with contextlib.suppress(Refused):
                admit(plan, ladder, 20, within_ms=40, now_ms=now_ms)
    later = batches[len(batches) // 2 :]
    assert sum(len(batch.rows) for batch in later) > 6 * len(later), "each was let in at the last moment, with no room to grow"


@pytest.mark.parametrize("seed", range(6))
def test_whoever_is_admitted_is_in_time_and_ends_when_it_was_said(seed: int) -> None:
    draw, plan, now = random.Random(seed), Plan(), 0.0
    ladders = [make_ladder("a"), make_ladder("b"), make_ladder("c", slower_by=(3.0, 1.0))]
    admitted: list[Work] = []
    n_refused, free_ms, running = 0, 0.0, None
    ended: dict[Work, float] = {}

    def advance(until_ms: float) -> None:
        nonlocal free_ms, running
        while True:
            if running is not None:
                if free_ms > until_ms:
                    return
                plan.busy_until_ns = 0.0
                for work in plan.finish(running):
                    plan.forget(work)
                    ended[work] = free_ms
            running, late = plan.take(int(max(free_ms, now) * MS))
            assert not late, "an admitted request expired on a device that keeps to the forecast"
            if running is None:
                return
            free_ms = max(free_ms, now) + running.ns / MS

    for _ in range(1200):
        later = now + draw.expovariate(1.0)
        advance(later)
        now = later
        advance(now)
        ladder = draw.choice(ladders)
        lengths = [draw.choice([5, 20, 60, 200]) for _ in range(draw.choice([1, 1, 1, 1, 12]))]
        try:
            admitted.append(admit(plan, ladder, *lengths, within_ms=draw.choice([12, 40, 150]), now_ms=now))
        except Refused:
            n_refused += 1
        if admitted and draw.random() < 0.1:
            plan.drop(admitted[-1].job, now_ns=int(now * MS))
    advance(1e9)
    assert n_refused > 20, "there was not more work than time"
    assert len(ended) > 100
    for work, end_ms in ended.items():
        if work.is_over:
            continue
        assert end_ms <= work.job.deadline_ns / MS + 0.01
        assert end_ms == pytest.approx(work.job.predicted_ns / MS, abs=0.01), "not when it was said, all that was meant counted"


def test_a_device_that_became_slower_is_left_to_those_who_are_still_in_time() -> None:
    plan, ladder = Plan(), make_ladder()
    first, second, third = (admit(plan, ladder, 50, within_ms=ms) for ms in (6.0, 7.0, 60.0))
    batch, late = plan.take(int(1.2 * MS))  # 4.5 ms alone, 5.0 for two, 5.5 for three
    assert batch is not None
    assert not late
    assert batch.works == [first], "together they would be late"
    plan.busy_until_ns = 0.0
    batch, late = plan.take(int(5.7 * MS))
    assert batch is not None
    assert (late, batch.works) == ([second], [third]), "what is late does not reach the device"
    assert plan.n_waiting == 0


def test_who_went_away_is_not_run_and_makes_room() -> None:
    plan, ladder = Plan(), make_ladder(batching=Batching(max_rows=1, max_tokens=512))
    admit(plan, ladder, 100, within_ms=10)
    left = admit(plan, ladder, 100, within_ms=10)
    with pytest.raises(Refused):
        admit(plan, ladder, 100, within_ms=10)
    assert plan.drop(left.job, now_ns=0)
    assert not plan.drop(left.job, now_ns=0)
    admit(plan, ladder, 100, within_ms=10)
    assert len(run_all(plan)) == 2


def test_quality_bends_before_anybody_is_refused_and_a_batch_at_ease_is_accurate() -> None:
    plan, ladder = Plan(), make_ladder(slower_by=(5.0, 1.0))
    at_ease = admit(plan, ladder, 10, within_ms=100)
    run_all(plan)
    assert at_ease.job.rung == 0
    crowd = [admit(plan, ladder, 60, within_ms=40) for _ in range(30)]
    for end_ms, batch in run_all(plan):
        assert all(end_ms <= work.job.deadline_ns / MS for work in batch.works)
    assert [work.job.rung for work in crowd].count(1) >= 16


def test_a_list_of_several_batches_is_answered_by_one_rung() -> None:
    plan, ladder = Plan(), make_ladder(slower_by=(5.0, 1.0))
    long = admit(plan, ladder, *([60] * 20), within_ms=500)
    assert len(run_all(plan)) == 3
    assert long.job.rung == 0
    hurried = admit(plan, ladder, *([60] * 20), within_ms=50)
    run_all(plan)
    assert hurried.job.rung == 1


def test_a_model_in_demand_leaves_another_its_share() -> None:
    plan, flood, trickle = Plan(), make_ladder("flood"), make_ladder("trickle")
    assert admit_many(plan, flood, within_ms=100) == "would-be-late"
    n_alone = plan.n_waiting
    with pytest.raises(Refused):
        admit(plan, trickle, 60, within_ms=100)  # all time is promised; but now it is known that it is asked
    run_all(plan)
    assert admit_many(plan, flood, within_ms=100) == "over-share"
    assert n_alone * 0.35 < plan.n_waiting < n_alone * 0.6
    admit(plan, trickle, 60, within_ms=100)


def test_without_deadlines_models_take_turns() -> None:
    plan, flood, trickle = Plan(), make_ladder("flood"), make_ladder("trickle")
    for _ in range(80):
        admit(plan, flood, 60, within_ms=None)
    admit(plan, trickle, 60, within_ms=None)
    assert [batch.ladder.name for _, batch in run_all(plan)].index("trickle") <= 2


def test_what_may_stop_runs_batch_by_batch_as_long_as_there_is_time() -> None:
    plan, ladder = Plan(), make_ladder(may_stop=True)
    job = make_job(ladder, 10, within_ms=30)
    job.encoded = [tuple(Window(ids=np.ones(60, np.int64)) for _ in range(100))]
    work = plan.admit(job, now_ns=0)
    ran = run_all(plan)
    assert [len(batch.rows) for _, batch in ran][:3] == [1, 8, 8]
    assert ran[-1][0] <= 30
    assert 8 < len(work.rows) < 100
    other = make_job(ladder, 10, within_ms=10)
    other.encoded = [tuple(Window(ids=np.ones(60, np.int64)) for _ in range(100))]
    plan.admit(other, now_ns=0)
    waiting = admit(plan, ladder, 400, within_ms=13)
    assert run_all(plan)[-1][1].works == [waiting], "others leave no time for more"


def test_a_thousand_fill_the_queue() -> None:
    plan, ladder = Plan(), make_ladder()
    for _ in range(1000):
        admit(plan, ladder, 10, within_ms=None)
    with pytest.raises(Refused, match="1000 requests wait already"):
        admit(plan, ladder, 10, within_ms=None)


def test_a_body_that_by_its_length_is_late_is_foreseen_and_one_that_takes_too_long_alone_is_not_refused_for_others() -> None:
    ladder, plan = make_ladder(batching=Batching(max_rows=1, max_tokens=512)), Plan()
    ladder.forecast.observe_length(1000, 250)
    for _ in range(2):
        plan.admit(make_job(ladder, 10, within_ms=9), now_ns=0)  # 4.1 ms each
    asked = {"came_ns": 0, "usual_ns": 13 * MS, "now_ns": 0}
    assert plan.foresee(ladder, n_bytes=40, **asked) is None
    assert plan.foresee(ladder, n_bytes=1600, **asked) is not None  # 400 tokens: 8 ms
    assert plan.foresee(ladder, n_bytes=1600, **{**asked, "usual_ns": 7 * MS}) is None
