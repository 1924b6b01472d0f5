"""The parent's part of a change: every worker prepares, then every worker follows; the judge over new versions.

A change goes to one worker after the other, so that the others answer while one loads. When all have it loaded, all are
told to serve it; a worker that cannot load it ends the change, and nobody has served anything of it. A worker that
starts meanwhile is brought to the same.
Border: messages in and out; no processes, no pipes, no models.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from millis.errors import InvalidRequest, RunFailed
from millis.serving.messages import (
    Answered,
    Asked,
    Follow,
    Followed,
    Loaded,
    Prepare,
    Prepared,
    Said,
    Seen,
    State,
    Told,
)
from millis.serving.placement import Judging, Placement, Version

_CHANGE_LIMIT_S = 300.0
_MOST_HISTORY = 20


@dataclass(slots=True)
class _Change:
    """A change on its way: who still has to prepare it, who still has to follow it, and who asked."""

    wanted: Placement
    why: str
    name: str
    asker: int | None
    number: int
    began: float
    to_prepare: list[int]
    preparing: int | None = None
    to_follow: set[int] | None = None


@dataclass(slots=True)
class _Judged:
    """A version that is judged, on trial or after it took over, and what each worker saw of it, ended ones too."""

    version: Version
    is_trial: bool
    judging: Judging
    seen: dict[int, tuple[int, int]] = field(default_factory=dict)

    def totals(self) -> tuple[int, int]:
        """Add up."""
        return sum(n for n, _ in self.seen.values()), sum(missed for _, missed in self.seen.values())


class Director:
    """Keeps what is to be served, and brings workers to it.

    Args:
        placement: in the beginning.
        send: tells a worker (by process id) something.
        tell: says to people what happened.
        n_versions: numbered so far; None where it is those of the placement.
        keep: remembers what is served from now on; raises RunFailed where it cannot.
    """

    def __init__(
        self, placement: Placement, *, send: Callable[[int, Told], None], tell: Callable[..., None],
        n_versions: int | None = None, keep: Callable[[Placement], None] | None = None,
    ) -> None:  # fmt: skip
        self.placement = placement
        self._send, self._tell, self._keep = send, tell, keep
        self._workers: dict[int, int] = {}  # by process id, the revision it serves
        self._n_versions = max(placement.versions()) if n_versions is None else n_versions
        self._change: _Change | None = None
        self._asked: list[tuple[int, Asked]] = []
        self._judged: dict[str, _Judged] = {}
        self._history: dict[str, list[str]] = {}
        self._judge_what_is_new()

    def hear(self, worker: int, said: Said) -> None:
        """Take what a worker says."""
        if isinstance(said, Loaded):
            self._join(worker, said)
        elif isinstance(said, Asked):
            self._asked.append((worker, said))
        elif isinstance(said, Prepared):
            self._note_prepared(worker, said)
        elif isinstance(said, Followed):
            self._note_followed(worker, said.revision)
        elif isinstance(said, Seen):
            self._judge(worker, said)
        self._go_on()

    def leave(self, worker: int) -> None:
        """Go on without a worker that ended."""
        self._workers.pop(worker, None)
        self._asked = [one for one in self._asked if one[0] != worker]
        change = self._change
        if change is not None:
            change.to_prepare = [one for one in change.to_prepare if one != worker]
            if change.preparing == worker:
                change.preparing = None
            if change.to_follow is not None:
                change.to_follow.discard(worker)
        self._go_on()

    def look(self) -> None:
        """Give up a change that takes too long; call it now and then."""
        change = self._change
        if change is not None and change.to_follow is None and time.monotonic() - change.began > _CHANGE_LIMIT_S:
            self._give_up(change, f"a worker was not ready for it after {_CHANGE_LIMIT_S:.0f} s")
            self._go_on()

    def _join(self, worker: int, said: Loaded) -> None:
        self._workers[worker] = said.revision
        for note in said.notes:
            self._tell(note)
        change = self._change
        if change is not None and change.to_follow is None:
            change.to_prepare.append(worker)
        elif said.revision != self.placement.revision:  # it started before the last change
            self._send(worker, Prepare(placement=self.placement))
            self._send(worker, Follow(placement=self.placement))

    def _go_on(self) -> None:
        """Take the next step of the change on its way, or begin the next one."""
        while self._change is None and self._asked:
            self._begin_asked(*self._asked.pop(0))
        change = self._change
        if change is None:
            return
        if change.to_follow is None and change.preparing is None:
            if change.to_prepare:
                change.preparing = change.to_prepare.pop(0)
                self._send(change.preparing, Prepare(placement=change.wanted))
            else:
                self._commit(change)
        if change.to_follow is not None and not change.to_follow:
            self._change = None
            self._answer(change.asker, change.number)
            self._go_on()

    def _begin_asked(self, worker: int, asked: Asked) -> None:
        if asked.what == "list":
            self._answer(worker, asked.number)
            return
        try:
            if asked.what == "load":
                assert asked.version is not None
                version = msgspec.structs.replace(asked.version, number=self._n_versions + 1)
                wanted = self.placement.load(
                    version, canary_percent=asked.canary_percent, shadow_percent=asked.shadow_percent
                )
                name = version.name
                if version.number in wanted.versions():
                    self._n_versions += 1
                    why = f"version {version.number} was loaded"
                else:
                    why = "the version on trial was given other shares"
            else:
                name = asked.name
                does = {
                    "unload": (self.placement.unload, "it was unloaded"),
                    "promote": (self.placement.promote, "the version on trial was promoted"),
                    "rollback": (self.placement.roll_back, "it was rolled back by hand"),
                }
                make, why = does[asked.what]
                wanted = make(name)
        except InvalidRequest as error:
            self._send(
                worker, Answered(number=asked.number, status=error.status, slug=error.slug, reason=str(error))
            )
            return
        self._begin(wanted, name=name, why=why, asker=worker, number=asked.number)

    def _begin(self, wanted: Placement, *, name: str, why: str, asker: int | None = None, number: int = 0) -> None:
        self._change = _Change(
            wanted, why, name, asker, number, began=time.monotonic(), to_prepare=list(self._workers)
        )

    def _note_prepared(self, worker: int, said: Prepared) -> None:
        for note in said.notes:
            self._tell(note)
        change = self._change
        if change is None or change.preparing != worker or said.revision != change.wanted.revision:
            return
        change.preparing = None
        if said.reason:
            self._give_up(change, said.reason)

    def _note_followed(self, worker: int, revision: int) -> None:
        if worker in self._workers:
            self._workers[worker] = revision
        change = self._change
        if change is not None and change.to_follow is not None and revision == change.wanted.revision:
            change.to_follow.discard(worker)

    def _commit(self, change: _Change) -> None:
        """Every worker has it: from here on it is what is served, whoever ends meanwhile."""
        self.placement = change.wanted
        self._note(change.name, change.why)
        if self._keep is not None:
            try:
                self._keep(self.placement)
            except RunFailed as error:
                self._note(change.name, str(error))
        change.to_follow = set(self._workers)
        for worker in self._workers:
            self._send(worker, Follow(placement=change.wanted))
        self._judge_what_is_new()

    def _judge_what_is_new(self) -> None:
        """Judge each version that is to prove itself, from zero where it was not judged so before."""
        before, self._judged = self._judged, {}
        for one in self.placement.models:
            if one.judged is not None:
                known, is_trial = before.get(one.name), one.trial is not None
                is_same = known is not None and (known.version, known.is_trial) == (one.judged, is_trial)
                self._judged[one.name] = (
                    known if known and is_same else _Judged(one.judged, is_trial, Judging(one.judged.contract))
                )

    def _give_up(self, change: _Change, reason: str) -> None:
        self._change = None
        self._note(change.name, f"a change failed: {reason}")
        for worker in self._workers:  # who prepared something lets it go
            self._send(worker, Follow(placement=self.placement))
        if change.asker is not None:
            self._send(change.asker, Answered(number=change.number, status=422, slug="not-loaded", reason=reason))

    def _judge(self, worker: int, seen: Seen) -> None:
        for name, judged in self._judged.items():
            if (judged.version.number, judged.is_trial) == (seen.version, seen.is_trial):
                judged.seen[worker] = (seen.n, seen.n_missed)
                if self._change is None:
                    self._decide(name, judged)
                return

    def _decide(self, name: str, judged: _Judged) -> None:
        n, n_missed = judged.totals()
        verdict = judged.judging.look(n, n_missed=n_missed)
        if verdict is None:
            return
        placed, number, detail = self.placement.find(name), judged.version.number, judged.judging.detail
        if verdict == "broken":
            self._begin(
                self.placement.roll_back(name), name=name, why=f"version {number} broke its contract ({detail}) and was"
                " rolled back",
            )  # fmt: skip
        elif placed.trial is not None:
            self._begin(
                self.placement.promote(name), name=name,
                why=f"version {number} kept its contract beside the other ({detail}) and took over",
            )  # fmt: skip
        else:
            self._begin(
                self.placement.settle(name), name=name,
                why=f"version {number} kept its contract under all requests ({detail})",
            )  # fmt: skip

    def _note(self, name: str, what: str) -> None:
        self._history[name] = [*self._history.get(name, []), f"{_now()} {what}"][-_MOST_HISTORY:]
        self._tell(f"{name}: {what}")

    def _answer(self, asker: int | None, number: int) -> None:
        if asker is not None:
            self._send(asker, Answered(number=number, revision=self.placement.revision, models=self._states()))

    def _states(self) -> tuple[State, ...]:
        states = []
        for one in self.placement.models:
            judged = self._judged.get(one.name)
            n, n_missed = judged.totals() if judged else (0, 0)
            if one.trial is not None:
                state = "on trial"
            else:
                state = "serving" if one.former is None else "taken over, not proven yet"
            states.append(
                State(
                    name=one.name, state=state, serving=one.serving, trial=one.trial, former=one.former,
                    canary_percent=one.canary_percent, shadow_percent=one.shadow_percent, n_answered=n,
                    n_missed=n_missed, detail=judged.judging.detail if judged else "",
                    history=tuple(self._history.get(one.name, ())),
                )
            )  # fmt: skip
        return tuple(states)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
