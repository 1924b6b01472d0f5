"""What the load generator is asked for, and what it answers: a plan in, what was seen and progress out.

Border: values that travel between two processes as JSON; nothing is sent and nothing judged.
"""

import random

import msgspec

from millis.errors import InvalidValue
from millis.measuring.streaming import Spoken

MOST_CONNECTIONS = 900


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to offer.

    Args:
        head: request line and headers, without Content-Length and the empty line.
        bodies: request bodies (base64 in JSON); sent in an order drawn from seed, then in the same order again.
        connections: opened at the start; more, up to most_connections, when all are busy.
        timeout_s: how long after the last arrival answers are waited for.
        warmup: requests sent one after another before the clock starts; not counted.

    Raises:
        InvalidValue: a setting out of its bounds.
    """

    host: str
    port: int
    head: str
    bodies: tuple[bytes, ...]
    rate_per_s: float
    n_requests: int
    seed: int
    connections: int
    most_connections: int
    timeout_s: float
    warmup: int

    def __post_init__(self) -> None:
        """Refuse what cannot be offered."""
        for name, value, low, high in (
            ("rate_per_s", self.rate_per_s, 1e-3, 1e5),
            ("the number of requests", self.n_requests, 1, 1e8),
            ("the number of bodies", len(self.bodies), 1, 1e7),
            ("most_connections", self.most_connections, 1, MOST_CONNECTIONS),
            ("connections", self.connections, 1, self.most_connections),
            ("timeout_s", self.timeout_s, 1e-3, 3600),
            ("warmup", self.warmup, 0, 1e6),
        ):
            if not low <= value <= high:
                raise InvalidValue(f"{name} cannot be {value:g}: give {low:g} to {high:g}.")


class Raw(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What was seen, request by request.

    Args:
        seconds: from the start of the arrivals to the last answer, or to the end of waiting.
        ok_ns: latencies of 2xx answers, from the scheduled arrival.
        refused_ns: latencies of 429, 503 and 504 answers, likewise.
        late_ns: for each request sent, how long after it could have been: after it was due or, when all connections
            were busy, after one was free. Requests that it never came to, since it stood still, are late by the end.
        statuses: answers by status.
        failures: requests whose connection could not be opened, broke, or answered what is not HTTP, by reason.
        n_unsent: requests for which this machine had no descriptor, port or memory.
        n_waited: requests that found every connection busy, and no more allowed.
        n_connections: opened in all.
        is_first: whether the system lets the generator run before others when something is due.
        timings: Server-Timing values of 2xx answers, as they came.
        rungs: 2xx answers by X-Millis-Rung.
        spoken: 2xx answers that came as events.
    """

    seconds: float
    ok_ns: list[int]
    refused_ns: list[int]
    late_ns: list[int]
    statuses: dict[int, int]
    failures: dict[str, int]
    n_unsent: int
    n_waited: int
    n_connections: int
    timings: list[str]
    rungs: dict[str, int]
    spoken: list[Spoken] = []
    is_first: bool = False


class Progress(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A line on standard error: how many requests are done, or why it ended."""

    done: int = 0
    total: int = 0
    error: str = ""


def draw_arrivals(plan: Plan, *, start_ns: int) -> list[int]:
    """Draw when each request is due, in ns from the clock's zero: a Poisson process, the same for the same seed."""
    chance = random.Random(plan.seed)  # noqa: S311 - no secret
    due, at = [], float(start_ns)
    for _ in range(plan.n_requests):
        at += chance.expovariate(plan.rate_per_s) * 1e9
        due.append(int(at))
    return due
