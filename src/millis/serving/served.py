"""What is served: a bundle, its ladder, and its example asked as a client would ask.

Border: no HTTP; answers come from executors.
"""

from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter_ns
from typing import Any, NamedTuple

import msgspec

from millis.bundles import Bundle
from millis.bundles.profile import read_profile
from millis.errors import InvalidRequest
from millis.serving.drifting import Drift
from millis.serving.executor import Executor
from millis.serving.scheduling import Job, Ladder, Refused

_SERVERS_SHARE = 0.9
"""Of a contract's bound; the rest is for the way to the client and back."""

_RECENT_NS = 2_000_000_000
_HEALTH_NS, _HEALTH_TRIES = 300_000_000, 3
"""Within which, or within its contract where that is longer, the example is answered, behind whoever is due sooner.
Under overload a forecast may be off by the millisecond that makes it late, so a server is not healthy when that has
failed so often in a row."""


class _Named(NamedTuple):
    """How answers speak of a rung."""

    name: str
    header: bytes
    quality: msgspec.Raw


class Counts:
    """What was seen of a version that is judged: answers to one text each, and those that missed the bound."""

    __slots__ = ("is_trial", "n", "n_missed")

    def __init__(self, *, is_trial: bool) -> None:
        self.is_trial, self.n, self.n_missed = is_trial, 0, 0

    def add(self, *, is_missed: bool) -> None:
        """Count an answer."""
        self.n += 1
        self.n_missed += is_missed


class Served:
    """A version of a bundle and the ladder of rungs that answers for it.

    Args:
        number: of the version, as answers say in X-Millis-Version.
        notes: lines for people about how it was loaded.
        found: what timing it again on this machine gave, None where that was not needed.
    Attributes:
        bound_ns: the contract's.
        usual_ms: deadline of a request that names none: the contract's bound, less what the way to the client takes.
        trial: a new version that some of the requests go to.
        counts: None where it is not judged.
        n_open: requests that began on it and have not ended.
        kept_ns, took_ns: when it last answered within its bound, and how long that took.
        drift: whether requests look like its data, None where the bundle does not say how that looks.
    """

    def __init__(
        self, bundle: Bundle, ladder: Ladder, *, number: int = 1, notes: tuple[str, ...] = (),
        found: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.bundle, self.ladder, self.number, self.notes, self.found = bundle, ladder, number, notes, found
        self.header = b"%d" % number
        self.bound_ns = int(1e6 * float(bundle.manifest.contract["bound_ms"]))
        self.usual_ns = int(_SERVERS_SHARE * self.bound_ns)
        self.usual_ms = self.usual_ns / 1e6
        self.trial: Trial | None = None
        self.counts: Counts | None = None
        self.n_open = 0
        self.kept_ns = self.took_ns = 0
        profile = read_profile(bundle.path, n_pieces=ladder.task.n_pieces)
        self.drift = Drift(profile) if profile is not None else None
        self.rungs = [
            _Named(model.rung.name, model.rung.name.encode(), _name_quality(model.rung.quality))
            for model in ladder.models
        ]

    def join(self, executor: Executor) -> None:
        """Be run by an executor from now on."""
        executor.add(self.ladder)

    async def warm(self, executor: Executor) -> None:
        """Run where requests will run, so that none is the first."""
        await executor.warm(self.ladder)

    async def leave(self, executor: Executor) -> None:
        """Be run by an executor no more."""
        await executor.remove(self.ladder)

    def close(self) -> None:
        """Free the models."""
        self.ladder.close()


class Trial:
    """A new version beside the one that serves, and how many requests it gets; they are spread evenly, not drawn."""

    def __init__(self, served: Served, *, canary_percent: float, shadow_percent: float) -> None:
        self.served = served
        self.n_shadows = 0
        self._canary, self._shadow = canary_percent, shadow_percent
        self._canary_due = self._shadow_due = 0.0

    def takes(self) -> bool:
        """Say whether it answers the request that came now."""
        self._canary_due += self._canary
        is_due = self._canary_due >= 100
        self._canary_due -= 100 * is_due
        return is_due

    def shadows(self) -> bool:
        """Say whether it is asked, behind the client's back, what was answered now."""
        self._shadow_due += self._shadow
        is_due = self._shadow_due >= 100
        self._shadow_due -= 100 * is_due
        return is_due


def _name_quality(quality: Mapping[str, Any]) -> msgspec.Raw:
    """Write what was measured of a rung: {"F1": 91.2}, or null."""
    named = {quality["name"]: round(quality["value"], 2)} if quality else None
    return msgspec.Raw(msgspec.json.encode(named))


def no_such_model(known: Iterable[str]) -> InvalidRequest:
    """Say that no such model is served, and which are."""
    choices = ", ".join(sorted(known))
    return InvalidRequest(
        f"that model is not served here: choose one of {choices}.", status=404, slug="unknown-model", param="model"
    )


async def check_ready(served: Sequence[Served], executor: Executor) -> dict[str, dict[str, Any]]:
    """Ready is who answered within its bound just now: a client, or else the model's own example, asked like a client.

    Raises:
        Refused: the example was refused, again and again.
        InvalidRequest: 503, its answer came, but too late for the contract.
    """
    models: dict[str, dict[str, Any]] = {}
    for one in served:
        if perf_counter_ns() - one.kept_ns < _RECENT_NS:
            by = "a request"
        else:
            by = "its example"
            await _run_example(one, executor)
        models[one.bundle.name] = {"status": "ready", "by": by, "ms": round(one.took_ns / 1e6, 3)}
    return models


async def _run_example(one: Served, executor: Executor) -> None:
    """Ask a model its own example, through the queue of the others."""
    error: InvalidRequest | None = None
    one.n_open += 1
    try:
        for _ in range(_HEALTH_TRIES):
            came_ns = perf_counter_ns()
            job = Job(
                one.ladder, [one.ladder.task.example], came_ns=came_ns,
                deadline_ns=came_ns + max(_HEALTH_NS, one.bound_ns), is_own_deadline=True, places=range(1),
            )  # fmt: skip
            try:
                await executor.answer(job)
            except Refused as refused:
                error = refused
                continue
            took_ns = perf_counter_ns() - came_ns
            if took_ns <= one.bound_ns:
                one.kept_ns, one.took_ns = came_ns + took_ns, took_ns
                return
            error = InvalidRequest(
                f"{one.bundle.name} answered its example in {took_ns / 1e6:.1f} ms where its contract promises"
                f" {one.bound_ns / 1e6:g} ms: ask again, or look at /v1/admin/slowest for what held it up.",
                status=503, slug="not-ready", headers=((b"retry-after", b"1"),),
            )  # fmt: skip
    finally:
        one.n_open -= 1
    assert error is not None
    raise error
