"""The parent's part of a change, without processes: messages in, messages out."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from millis.contract import Contract
from millis.errors import InvalidRequest
from millis.serving.directing import Director
from millis.serving.messages import Answered, Asked, Follow, Followed, Loaded, Prepare, Prepared, Seen, Told
from millis.serving.placement import Judging, Placed, Placement, Version

CONTRACT = Contract(p99="10 ms").record()


def version(name: str = "people", *, number: int = 0, path: str = "/models/new", seal: str = "b") -> Version:
    return Version(number=number, name=name, path=path, seal=seal, task="ner", contract=CONTRACT)


class Workers:
    """Workers that say only what a test makes them say, and a director over them."""

    def __init__(self, n: int) -> None:
        self.told: list[tuple[int, Told]] = []
        self.events: list[str] = []
        first = Placed(name="people", serving=version(number=1, path="/models/old", seal="a"))
        self.director = Director(
            Placement(models=(first,)), send=lambda worker, told: self.told.append((worker, told)), tell=lambda line, **_: self.events.append(line)
        )
        for worker in range(n):
            self.director.hear(worker, Loaded(revision=1))

    def take(self) -> list[tuple[int, Told]]:
        """Give what was told since the last time."""
        told, self.told = self.told, []
        return told

    def ask(self, worker: int, **asked: Any) -> None:
        self.director.hear(worker, Asked(number=7, **asked))

    def follow(self) -> Answered:
        """Let every worker do what it is told until nobody is told anything; give the answer to whoever asked."""
        answered = None
        while told := self.take():
            for worker, message in told:
                if isinstance(message, Prepare):
                    self.director.hear(worker, Prepared(revision=message.placement.revision))
                elif isinstance(message, Follow):
                    self.director.hear(worker, Followed(revision=message.placement.revision))
                else:
                    answered = message
        assert answered is not None
        return answered


def only(told: list[tuple[int, Told]], kind: type) -> int:
    assert len(told) == 1
    assert isinstance(told[0][1], kind)
    return told[0][0]


def test_workers_prepare_one_after_the_other_and_follow_together() -> None:
    workers = Workers(3)
    workers.ask(1, what="load", version=version("places"))
    for worker in range(3):
        assert only(workers.take(), Prepare) == worker
        workers.director.hear(worker, Prepared(revision=2))
    told = workers.take()
    assert [(worker, type(message)) for worker, message in told] == [(0, Follow), (1, Follow), (2, Follow)]
    workers.director.hear(0, Followed(revision=2))
    workers.director.hear(2, Followed(revision=2))
    assert workers.take() == []
    workers.director.hear(1, Followed(revision=2))
    worker, answered = workers.take()[0]
    assert worker == 1
    assert isinstance(answered, Answered)
    assert (answered.number, answered.revision, [one.name for one in answered.models]) == (7, 2, ["people", "places"])


def test_a_worker_that_cannot_prepare_ends_the_change_for_all() -> None:
    workers = Workers(3)
    workers.ask(0, what="load", version=version("places"))
    workers.take()
    workers.director.hear(0, Prepared(revision=2))
    workers.take()
    workers.director.hear(1, Prepared(revision=2, reason="weights.bin was altered"))
    told = workers.take()
    followed = [message.placement.revision for _, message in told if isinstance(message, Follow)]
    refused = next(message for _, message in told if isinstance(message, Answered))
    assert followed == [1, 1, 1]
    assert (refused.status, refused.reason) == (422, "weights.bin was altered")
    assert workers.director.placement.revision == 1
    workers.ask(2, what="load", version=version("places"))
    assert [one.name for one in workers.follow().models] == ["people", "places"]


@pytest.mark.parametrize("n_prepared", [0, 1, 2, 3])
def test_a_change_goes_on_without_a_worker_that_dies_and_its_successor_gets_there_too(n_prepared: int) -> None:
    workers = Workers(3)
    workers.ask(0, what="load", version=version("places"))
    for worker in range(n_prepared):
        assert only(workers.take(), Prepare) == worker
        workers.director.hear(worker, Prepared(revision=2))
    workers.director.leave(1)
    workers.director.hear(9, Loaded(revision=1))
    assert [one.name for one in workers.follow().models] == ["people", "places"]
    assert workers.director.placement.revision == 2
    assert workers.director._workers == {0: 2, 2: 2, 9: 2}


def test_changes_that_come_together_are_done_one_after_the_other() -> None:
    workers = Workers(2)
    workers.ask(0, what="load", version=version("places"))
    workers.ask(1, what="load", version=version("people", path="/models/newer"), canary_percent=50.0)
    workers.ask(0, what="unload", name="nobody")
    workers.follow()
    assert [one.name for one in workers.director.placement.models] == ["people", "places"]
    assert workers.director.placement.find("people").trial == version(number=3, path="/models/newer")
    assert workers.director.placement.revision == 3


def judged(workers: Workers, seen: Callable[[], list[Seen]]) -> Placed:
    for worker, one in enumerate(seen()):
        workers.director.hear(worker, one)
    if workers.told:
        while told := workers.take():
            for worker, message in told:
                if isinstance(message, Prepare):
                    workers.director.hear(worker, Prepared(revision=message.placement.revision))
                elif isinstance(message, Follow):
                    workers.director.hear(worker, Followed(revision=message.placement.revision))
    return workers.director.placement.find("people")


def test_what_workers_saw_is_added_up_and_a_version_takes_over_and_is_proven_by_it() -> None:
    workers = Workers(2)
    workers.ask(0, what="load", version=version())
    workers.follow()
    placed = judged(workers, lambda: [Seen(version=2, is_trial=True, n=230, n_missed=0), Seen(version=2, is_trial=True, n=200, n_missed=0)])
    assert placed.trial is not None
    placed = judged(workers, lambda: [Seen(version=2, is_trial=True, n=240, n_missed=0), Seen(version=2, is_trial=True, n=230, n_missed=0)])
    assert (placed.serving.number, placed.trial) == (2, None)
    assert placed.former is not None
    late = [Seen(version=2, is_trial=True, n=900, n_missed=900)]  # said before it took over, heard after
    assert judged(workers, lambda: late).serving.number == 2
    placed = judged(workers, lambda: [Seen(version=2, is_trial=False, n=470, n_missed=0)])
    assert (placed.serving.number, placed.former) == (2, None)


def test_a_version_that_broke_its_promise_gives_way_whether_it_took_over_or_not() -> None:
    for has_taken_over in (False, True):
        workers = Workers(1)
        workers.ask(0, what="load", version=version())
        workers.follow()
        if has_taken_over:
            workers.ask(0, what="promote", name="people")
            workers.follow()
        placed = judged(workers, lambda: [Seen(version=2, is_trial=not has_taken_over, n=30, n_missed=12)])  # noqa: B023 - used at once
        assert placed == Placed(name="people", serving=version(number=1, path="/models/old", seal="a"))
        assert "broke its contract" in workers.events[-1]


def test_what_was_on_its_way_before_a_restart_is_judged_from_zero() -> None:
    before = Workers(1)
    before.ask(0, what="load", version=version())
    before.follow()
    before.director.hear(0, Seen(version=2, is_trial=True, n=460, n_missed=0))
    workers = Workers(1)
    workers.director = Director(
        before.director.placement, send=lambda worker, told: workers.told.append((worker, told)), tell=lambda line, **_: None, n_versions=7
    )
    workers.director.hear(0, Loaded(revision=before.director.placement.revision))
    assert judged(workers, lambda: [Seen(version=2, is_trial=True, n=20, n_missed=0)]).trial is not None
    assert judged(workers, lambda: [Seen(version=2, is_trial=True, n=464, n_missed=0)]).serving.number == 2
    workers.ask(0, what="load", version=version("places", path="/models/other"))
    workers.follow()
    assert workers.director.placement.find("places").serving.number == 8


def test_a_shadow_alone_never_takes_over() -> None:
    workers = Workers(1)
    workers.ask(0, what="load", version=version(), shadow_percent=20.0)
    workers.follow()
    placed = judged(workers, lambda: [Seen(version=2, is_trial=True, n=5000, n_missed=0)])
    assert placed.trial is not None
    assert (placed.canary_percent, placed.shadow_percent) == (0.0, 20.0)


def test_looks_are_few_and_a_version_at_its_bound_is_seldom_misjudged() -> None:
    judging = Judging(CONTRACT)
    looks = [n for n in range(1, 2000) if judging.look(n, n_missed=0) is not None]
    assert looks == [464, 928, 1856]
    assert Judging(CONTRACT).look(28, n_missed=28) is None  # too early to say anything
    assert Judging(CONTRACT).look(29, n_missed=4) == "broken"
    assert Judging(CONTRACT).look(29, n_missed=1) is None


def test_what_is_served_is_never_changed_in_place() -> None:
    before = Placement(models=(Placed(name="people", serving=version(number=1, path="/a")),))
    told = msgspec.json.encode(before)
    after = before.load(version(number=2, path="/b"), canary_percent=None, shadow_percent=None).promote("people")
    assert msgspec.json.encode(before) == told
    assert after.roll_back("people").find("people") == before.find("people")
    assert sorted(after.versions()) == [1, 2]
    assert sorted(after.settle("people").versions()) == [2]
    with pytest.raises(InvalidRequest):
        after.load(version(number=3, path="/c"), canary_percent=None, shadow_percent=None)
