"""Half of the load that fits, for a long time: does memory drift, does anything fail.

    python benchmarks/soak.py --bundle wnut.millis [--minutes 30] [--rate R]

Without --rate the knee is looked for first: the highest rate of a rising row, each offered for five seconds, at which at
most 1 % miss the contract's bound; the soak runs at 50 % of it. Memory is the resident memory of all workers, once a
minute (twelve times in a short run); the drift compares the median of the last quarter with that of the second, since the
first fills caches. Exit code 1 above 2 %, or on any answer that is no 200 and no refusal. Texts are of 8 to 60 made-up
words. Keeps one JSON line in benchmarks/results/soak.jsonl.
"""

import argparse
import json
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

from common import keep
from millis.bundles import open_bundle
from millis.contract import Contract
from millis.measuring.bench import offer_load
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from overhead import BODIES

MOST_DRIFT = 0.02


def resident_mb(server: Supervisor) -> float:
    """Give the resident memory of all workers."""
    statuses = (Path(f"/proc/{pid}/status").read_text() for pid in server.pids)
    return sum(int(status.split("VmRSS:")[1].split()[0]) for status in statuses) / 1000


def find_knee(url: str, *, bound_ms: float) -> float:
    """Give the highest rate of a rising row that misses at most 1 %."""
    rate, knee = 50.0, 0.0
    while True:
        load = offer_load(url, bodies=BODIES, rate_per_s=rate, seconds=5, bound_ms=bound_ms, timeout_s=5, name=f"{rate:.0f}/s")
        if load.n_misses is None or load.n_misses > 0.01 * load.n_requests:
            return knee
        knee, rate = rate, rate * 1.25


def main() -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float)
    asked = parser.parse_args()
    bundle = open_bundle(asked.bundle)
    bound_ms = Contract.from_record(bundle.manifest.contract).bound_ms
    seconds = 60 * asked.minutes
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        url = f"{server.url}/v1/{bundle.manifest.task}"
        knee = None if asked.rate else find_knee(url, bound_ms=bound_ms)
        rate = asked.rate or 0.5 * (knee or 0)
        if rate <= 0:
            print("no rate keeps this contract on this machine now: give --rate.", file=sys.stderr)
            return 1
        memory: list[float] = []
        is_over = threading.Event()

        def watch() -> None:
            while not is_over.wait(min(60.0, seconds / 12)):
                memory.append(resident_mb(server))

        watching = threading.Thread(target=watch)
        watching.start()
        began = time.monotonic()
        load = offer_load(url, bodies=BODIES, rate_per_s=rate, seconds=seconds, bound_ms=bound_ms, name=f"soak at {rate:.0f}/s")
        is_over.set()
        watching.join()
    quarter = max(len(memory) // 4, 1)
    before, after = statistics.median(memory[quarter : 2 * quarter] or memory), statistics.median(memory[-quarter:])
    drift = after / before - 1
    result: dict[str, Any] = {
        "knee_per_s": knee, "rate_per_s": rate, "minutes": (time.monotonic() - began) / 60, "n": load.n_requests, "ok": load.n_ok,
        "refused": load.n_refused, "errors": load.n_errors, "unanswered": load.n_unanswered, "statuses": load.statuses, "bound_ms": bound_ms,
        "misses": load.n_misses, "p50_ms": load.latency.p50_ms, "p99_ms": load.latency.p99_ms, "void": load.void,
        "memory_mb": [round(one, 1) for one in memory], "drift": round(drift, 5),
    }  # fmt: skip
    print(json.dumps(keep("soak", result)))
    is_well = abs(drift) < MOST_DRIFT and not load.n_errors and not load.n_unanswered
    print(f"memory {before:.1f} -> {after:.1f} MB, {100 * drift:+.2f} %; {load.n_errors + load.n_unanswered} errors", file=sys.stderr)
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
