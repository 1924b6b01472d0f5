"""What a server does with more than it can carry: the knee, a long run below it, and multiples of it.

    python benchmarks/overload.py --bundle wnut.millis [--minutes 10] [--multiples 2,5,10] [--rival]

The knee is the highest rate of a rising row, each offered for five seconds, at which at most 1 % of the requests miss the
contract's bound, refusals counted as misses. Then 70 % of it for some minutes, judged as a contract is, and multiples of
it for ten seconds each: goodput, latency of what was answered, latency of refusals, which rungs answered, and how many
of the promises were kept. With --rival, ONNX Runtime int8 dynamic behind FastAPI (see ner_http.py) meets the same rates.
Texts are the test sentences of WNUT-17. Open loop; the generator shares the cores. Keeps one JSON line in
benchmarks/results/overload.jsonl.
"""

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from common import keep
from millis.bundles import open_bundle
from millis.contract import Contract, judge_latency
from millis.data.readers import read_examples
from millis.measuring.bench import offer_load
from millis.measuring.results import LoadResult
from millis.searching.bodies import bodies_of_texts
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from ner_http import WNUT, make_rival, start_rival


def write_row(load: LoadResult) -> dict[str, Any]:
    """Give what is kept of a run."""
    in_time = load.n_requests - (load.n_misses or 0)
    return {
        "rate": load.offered_per_s, "n": load.n_requests, "ok": load.n_ok, "refused": load.n_refused,
        "statuses": load.statuses, "goodput_per_s": in_time / load.seconds, "p50_ms": load.latency.p50_ms,
        "p99_ms": load.latency.p99_ms, "refusal_p50_ms": load.refusals.p50_ms if load.refusals else None,
        "refusal_p99_ms": load.refusals.p99_ms if load.refusals else None, "late_p99_ms": load.lateness.p99_ms,
        "rungs": load.rungs, "void": load.void, "unanswered": load.n_unanswered,
    }  # fmt: skip


def tell(name: str, row: dict[str, Any]) -> None:
    """Print a run."""
    refusals = "" if row["refusal_p50_ms"] is None else f", refused in {row['refusal_p50_ms']:.2f} / {row['refusal_p99_ms']:.2f}"
    print(
        f"{name:<8} {row['rate']:7.0f}/s: goodput {row['goodput_per_s']:6.1f}/s, answered in {row['p50_ms']:.2f} /"
        f" {row['p99_ms']:.2f} ms{refusals}; {row['ok']} ok, {row['refused']} refused, {row['unanswered']} unanswered"
        f"{', VOID' if row['void'] else ''}",
        flush=True,
    )


def read_promises(url: str) -> dict[str, float]:
    """Give how many admitted requests were answered in time and how many were not."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return {
        kept: sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f'millis_promises_total{{kept="{kept}"'))
        for kept in ("true", "false")
    }


def main() -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--multiples", default="1,2,5,10")
    parser.add_argument("--rival", action="store_true")
    parser.add_argument("--workers", type=int, default=None, help="as millis serve; the bundle's layout when missing")
    parser.add_argument("--threads", type=int, default=None, help="as millis serve; the bundle's layout when missing")
    asked = parser.parse_args()
    bundle = open_bundle(asked.bundle)
    contract = Contract.from_record(bundle.manifest.contract)
    bodies = bodies_of_texts([example.text for example in read_examples(WNUT / "test.conll")])
    result: dict[str, Any] = {"bound_ms": contract.bound_ms, "rows": {}}
    with ExitStack() as stack:
        server = stack.enter_context(Supervisor(
            ServeSettings(bundles=(str(bundle.path),), port=0, workers=asked.workers, threads=asked.threads)
        ))  # fmt: skip
        result["layout"] = [server.settings.workers, server.settings.threads]
        urls = {"millis": f"{server.url}/v1/{bundle.manifest.task}"}
        if asked.rival:
            urls["rival"] = ""  # it is up in its own turns only: what it has not answered yet would take the cores
            best = bundle.path.with_name(bundle.path.name.removesuffix(".millis") + ".run") / "training" / "best"
            rival = make_rival(best, Path(stack.enter_context(tempfile.TemporaryDirectory())), bundle.manifest.labels)

        def offer(who: str, rate: float, seconds: float) -> LoadResult:
            with ExitStack() as turn:
                url = urls[who] or start_rival(turn, "onnxruntime", model=rival, workers=2)
                return offer_load(
                    url, bodies=bodies, rate_per_s=rate, seconds=seconds, bound_ms=contract.bound_ms, timeout_s=5,
                    name=f"{who}, {rate:.0f}/s", warmup=200,
                )  # fmt: skip

        knees: dict[str, float] = {}
        for who in urls:
            offer(who, 50, 3)
            rate, knee = 100.0, 0.0
            while (load := offer(who, rate, 5)).n_misses is not None and load.n_misses <= 0.01 * load.n_requests:
                knee, rate = rate, rate * 1.2
            knees[who] = knee
            print(f"{who}: knee at {knee:.0f}/s", flush=True)
        result["knee_per_s"] = knee = knees["millis"]
        result["rival_knee_per_s"] = knees.get("rival")
        before = read_promises(server.url)
        for multiple in map(float, asked.multiples.split(",")):
            for who in urls:
                row = write_row(offer(who, multiple * knee, 10))
                tell(who, row)
                result["rows"].setdefault(who, []).append({"multiple": multiple, **row})
        after = read_promises(server.url)
        kept, late = (after[one] - before[one] for one in ("true", "false"))
        result["promises_kept"] = kept / (kept + late)
        print(f"promises kept: {100 * kept / (kept + late):.2f} % of {kept + late:.0f}")
        if asked.minutes:
            load = offer("millis", 0.7 * knee, 60 * asked.minutes)
            clause = judge_latency(
                contract, n_requests=load.n_requests, n_misses=load.n_misses or 0,
                seen_ms=load.percentile_ms(contract.percentile), void=load.void, n_sure_misses=load.n_sure_misses or 0,
            )  # fmt: skip
            result["long"] = {**write_row(load), "minutes": asked.minutes, "verdict": clause.status, "why": clause.detail}
            tell("millis", result["long"])
            print(f"{clause.status}: {clause.detail}")
    print(json.dumps(keep("overload", result)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
