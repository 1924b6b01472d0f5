"""What the plan of batches does on a device that keeps time: against one by one, and against waiting for more to come.

    python benchmarks/batching.py [--fixed-ms 4] [--token-ms 0.005] [--rows 16] [--bound-ms 50] [--n 4000]

The server's own plan (serving/planning.py) on a clock of its own: Poisson arrivals, lengths log-normal around 18 tokens up to 128, a device that
takes fixed + per token, padding included. `first come` is the rival: the oldest that wait, padded together, nobody refused. No sockets and no Python in the times, so it is the same on every machine; what a real server adds is seen by
tests/serving/test_batching.py. `window` waits so long on an idle device before a batch begins, unless it is full. Seed 1.
"""

import argparse
import contextlib
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from common import keep
from millis.backends import Batching
from millis.bundles import Rung
from millis.serving.planning import Plan
from millis.serving.prediction import Forecast
from millis.serving.scheduling import Job, Ladder, Refused
from millis.tasks.task import Window

if TYPE_CHECKING:
    from millis.serving.batches import Batch

MS = 1_000_000
RATES = (50, 100, 200, 400, 800, 1600, 3200)
MOST_TOKENS = 128


def make_ladder(asked: argparse.Namespace, *, rows: int) -> Ladder:
    """Give a ladder of one rung whose times are known."""
    rung = Rung(name="only", backend="fake", precision="fp32", folder="only")
    model: Any = SimpleNamespace(
        rung=rung, batching=Batching(max_rows=rows, max_tokens=rows * MOST_TOKENS), bucket_of=lambda n: n,
        task=SimpleNamespace(may_stop_early=False),
    )  # fmt: skip
    times = [(n, (asked.fixed_ms + asked.token_ms * n) * MS) for n in range(1, rows * MOST_TOKENS + 1)]
    ladder = Ladder("m", [model], Forecast([rung], warm_ns=[times]))
    ladder.forecast.overhead_ns = ladder.forecast.margin_ns = 0.0
    return ladder


def draw_requests(asked: argparse.Namespace, *, rate_per_s: float) -> list[tuple[float, int]]:
    """Give when each request comes, in ns, and its tokens."""
    draw, now, requests = random.Random(1), 0.0, []
    for _ in range(asked.n):
        now += draw.expovariate(rate_per_s) * 1e9
        requests.append((now, min(max(int(draw.lognormvariate(2.9, 0.6)), 4), MOST_TOKENS)))
    return requests


def run_plan(
    asked: argparse.Namespace, *, requests: Sequence[tuple[float, int]], rows: int, window_ms: float
) -> tuple[list[float], list[list[int]]]:
    """Give how long each answer took, in ms, and the lengths of each batch."""
    plan, ladder, idle = Plan(), make_ladder(asked, rows=rows), float("inf")
    free, running = idle, None  # when the device is, in ns; idle until somebody comes
    batches: list[Batch] = []
    took_ms: list[float] = []

    def advance(until: float) -> None:
        nonlocal free, running
        while free <= until:
            if running is not None:
                plan.busy_until_ns = 0.0
                for work in plan.finish(running):
                    plan.forget(work)
                    took_ms.append((free - work.job.came_ns) / MS)
            running, late = plan.take(int(free))
            assert not late
            free = free + running.ns if running is not None else idle
            batches.extend([running] if running is not None else [])

    for now, length in requests:
        advance(now)
        deadline_ns = int(now + asked.bound_ms * MS)
        job = Job(ladder, ["text"], came_ns=int(now), deadline_ns=deadline_ns, is_own_deadline=True, places=range(1))
        job.encoded = [(Window(ids=np.ones(length, np.int64)),)]
        if free == idle:
            free = plan.busy_until_ns = now + window_ms * MS
        with contextlib.suppress(Refused):
            plan.admit(job, now_ns=int(now))
        if running is None and plan.n_waiting >= rows:
            free = plan.busy_until_ns = now
    advance(1e18)
    return took_ms, [[len(row.ids) for row in batch.rows] for batch in batches]


def run_first_come(
    asked: argparse.Namespace, *, requests: Sequence[tuple[float, int]]
) -> tuple[list[float], list[list[int]]]:
    """The rival: whoever waits when the device is free, in the order of coming, and nobody refused."""
    free, took_ms, batches, left = 0.0, [], [], list(requests)
    while left:
        free = max(free, left[0][0])
        batch = [one for one in left[: asked.rows] if one[0] <= free]
        left = left[len(batch) :]
        lengths = [length for _, length in batch]
        free += (asked.fixed_ms + asked.token_ms * len(batch) * max(lengths)) * MS
        took_ms += [(free - came) / MS for came, _ in batch]
        batches.append(lengths)
    return took_ms, batches


def sum_up(
    asked: argparse.Namespace, rate: int, how: str, *, took_ms: Sequence[float], batches: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Give a row of the table."""
    p50, p99 = np.percentile(took_ms, [50, 99])
    n_padded = sum(len(one) * max(one) for one in batches)
    return {
        "rate_per_s": rate, "how": how, "in_time_per_s": round(rate * sum(ms <= asked.bound_ms for ms in took_ms) / asked.n),
        "refused_percent": round(100 - 100 * len(took_ms) / asked.n), "p50_ms": round(float(p50), 1), "p99_ms": round(float(p99), 1),
        "rows": round(len(took_ms) / len(batches), 1), "padding_percent": round(100 - 100 * sum(map(sum, batches)) / n_padded),
    }  # fmt: skip


def main() -> None:
    """Simulate and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fixed-ms", type=float, default=4.0)
    parser.add_argument("--token-ms", type=float, default=0.005)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--bound-ms", type=float, default=50.0)
    parser.add_argument("--n", type=int, default=4000)
    asked = parser.parse_args()
    print("| rate/s | how | in time/s | refused % | p50 ms | p99 ms | rows a batch | padding % |\n|---|---|---|---|---|---|---|---|")
    seen: list[dict[str, Any]] = []
    for rate in RATES:
        requests = draw_requests(asked, rate_per_s=rate)
        ways = {"one by one": (1, 0.0), "plan": (asked.rows, 0.0), "plan, window 1 ms": (asked.rows, 1.0), "plan, window 5 ms": (asked.rows, 5.0)}
        ran = {how: run_plan(asked, requests=requests, rows=rows, window_ms=ms) for how, (rows, ms) in ways.items()}
        ran["first come"] = run_first_come(asked, requests=requests)
        for how, (took_ms, batches) in ran.items():
            seen.append(sum_up(asked, rate, how, took_ms=took_ms, batches=batches))
            print("|", *(f"{value} |" for value in seen[-1].values()), flush=True)
    keep("batching", {"settings": vars(asked), "rows": seen})


if __name__ == "__main__":
    main()
