"""What is served: a bundle, its ladder, and its example asked as a client would ask.

Border: no HTTP; answers come from executors.
"""

from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter_ns
from typing import Any, NamedTuple

import msgspec

from millis.bundles import Bundle
from millis.errors import InvalidRequest
from millis.serving.execution import Executor
from millis.serving.scheduling import Job, Ladder, Refused

_SERVERS_SHARE = 0.9
"""Of a contract's bound; the rest is for the way to the client and back."""

_HEALTH_NS, _HEALTH_TRIES = 300_000_000, 3
"""Within which the example is answered, behind whoever is due sooner. Under overload a forecast may be off by the
millisecond that makes it late, so a server is not healthy when that has failed so often in a row."""


class _Named(NamedTuple):
    """How answers speak of a rung."""

    name: str
    header: bytes
    quality: msgspec.Raw


class Served:
    """A bundle and the ladder of rungs that answers for it.

    Attributes:
        usual_ms: deadline of a request that names none: the contract's bound, less what the way to the client takes.
    """

    def __init__(self, bundle: Bundle, ladder: Ladder) -> None:
        self.bundle, self.ladder = bundle, ladder
        self.usual_ms = _SERVERS_SHARE * float(bundle.manifest.contract["bound_ms"])
        self.rungs = [
            _Named(model.rung.name, model.rung.name.encode(), _name_quality(model.rung.quality))
            for model in ladder.models
        ]


def _name_quality(quality: Mapping[str, Any]) -> msgspec.Raw:
    """Write what was measured of a rung: {"F1": 91.2}, or null."""
    named = {quality["name"]: round(quality["value"], 2)} if quality else None
    return msgspec.Raw(msgspec.json.encode(named))


def no_such_model(known: Iterable[str], wrong: str) -> InvalidRequest:
    """Say that no such model is served, and which are."""
    return InvalidRequest(f"{wrong}: choose one of {', '.join(sorted(known))}.", status=404, slug="unknown-model")


async def run_examples(served: Sequence[Served], executor: Executor) -> dict[str, dict[str, Any]]:
    """Ready means that every model just answered its own example, through the queue of the others; give their ms."""
    models = {}
    for one in served:
        began = perf_counter_ns()
        await _run_example(one, executor)
        models[one.bundle.name] = {"status": "ready", "ms": round((perf_counter_ns() - began) / 1e6, 3)}
    return models


async def _run_example(one: Served, executor: Executor) -> None:
    for tries_left in reversed(range(_HEALTH_TRIES)):
        came_ns = perf_counter_ns()
        job = Job(
            one.ladder, [one.ladder.task.example], came_ns=came_ns, deadline_ns=came_ns + _HEALTH_NS,
            is_own_deadline=True, places=range(1),
        )  # fmt: skip
        try:
            await executor.answer(job)
        except Refused:
            if not tries_left:
                raise
        else:
            return
