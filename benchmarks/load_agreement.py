"""Does our load generator agree with one written in C? Interleaved rounds on the same echo server.

    python benchmarks/load_agreement.py [--rounds 5] [--seconds 10] [--rates 50,200,500] [--load ../shared/tools/load.c]

Compiles load.c (Poisson arrivals, epoll_pwait2, latency from the scheduled arrival, as ours), starts one echo under
uvicorn (uvloop, httptools, one worker), and takes turns on it, the order changing from round to round, since the speed
of a machine drifts within seconds. Prints the median over rounds of p50, p95 and p99 of both, and the median ratio with
its range; keeps one JSON line in benchmarks/results/load_agreement.jsonl.

Known limits: needs gcc and Linux. load.c keeps 16 connections and queues above them, ours opens more: on an echo that
is never late the two are the same. load.c has no warm-up, so a round is run first and thrown away.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

from common import ROOT, free_port, keep, serve
from millis.errors import MillisError, RunFailed
from millis.measuring.bench import offer_load
from millis.telemetry.progress import say

PERCENTILES = ("p50_ms", "p95_ms", "p99_ms")
CONNECTIONS = 16
BODIES = [json.dumps({"input": "x" * (20 + 7 * i % 90)}).encode() for i in range(200)]


def compile_load(source: Path, folder: Path) -> Path:
    """Compile load.c."""
    if not source.is_file():
        raise RunFailed(f"{source} is not there: give --load FILE, or put the folder `shared` beside the repository.")
    program = folder / "load"
    done = subprocess.run(["gcc", "-O2", "-o", str(program), str(source), "-lm"], capture_output=True, text=True)
    if done.returncode != 0:
        raise RunFailed(f"gcc could not compile {source}: {done.stderr.strip()[-500:]}")
    return program


def run_c(program: Path, *, port: int, bodies: Path, rate: float, seconds: float) -> dict[str, Any]:
    """Run load.c once."""
    command = [str(program), str(port), "/echo", str(bodies), str(rate), str(seconds), str(CONNECTIONS)]
    seen = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {name: seen[name] for name in (*PERCENTILES, "ok", "errors", "unanswered")} | {
        "late_p99_ms": seen["generator_late_p99_ms"]
    }


def run_ours(*, port: int, rate: float, seconds: float) -> dict[str, Any]:
    """Run our generator once."""
    seen = offer_load(
        f"http://127.0.0.1:{port}/echo", bodies=BODIES, rate_per_s=rate, seconds=seconds, connections=CONNECTIONS,
        name=f"ours at {rate:g}/s",
    )  # fmt: skip
    return {name: getattr(seen.latency, name) for name in PERCENTILES} | {
        "ok": seen.n_ok, "errors": seen.n_errors + seen.n_refused, "unanswered": seen.n_unanswered,
        "late_p99_ms": seen.lateness.p99_ms, "void": seen.void,
    }  # fmt: skip


def measure(
    program: Path, *, port: int, bodies: Path, rates: list[float], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Take turns, both orders, and throw the first round away."""
    runs = []
    for turn, rate in product(range(rounds + 1), rates):
        for who in ("c", "ours") if turn % 2 else ("ours", "c"):
            seen = (
                run_c(program, port=port, bodies=bodies, rate=rate, seconds=seconds)
                if who == "c"
                else run_ours(port=port, rate=rate, seconds=seconds)
            )
            if turn:
                runs.append({"round": turn, "who": who, "rate_per_s": rate, **seen})
        say(f"round {turn} of {rounds} at {rate:g}/s done" + ("" if turn else " (thrown away)"))
    return runs


def compare(runs: list[dict[str, Any]], *, rates: list[float]) -> list[dict[str, Any]]:
    """Sum up by rate and percentile: medians over rounds, and ours over C's of the same round."""
    rows = []
    for rate, name in product(rates, PERCENTILES):
        here = [run for run in runs if run["rate_per_s"] == rate]
        seen = {who: [run[name] for run in here if run["who"] == who] for who in ("c", "ours")}
        ratios = [ours / c for ours, c in zip(seen["ours"], seen["c"], strict=True)]
        rows.append({
            "rate_per_s": rate, "percentile": name.removesuffix("_ms"),
            "c_ms": statistics.median(seen["c"]), "ours_ms": statistics.median(seen["ours"]),
            "ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios),
        })  # fmt: skip
    return rows


def main() -> int:
    """Measure, print the table and one JSON line, keep the line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rates", default="50,200,500")
    parser.add_argument("--load", type=Path, default=ROOT.parent / "shared" / "tools" / "load.c")
    asked = parser.parse_args()
    rates = [float(rate) for rate in asked.rates.split(",")]
    port = free_port()
    server = [
        sys.executable, "-m", "uvicorn", "echo:app", "--app-dir", str(ROOT / "benchmarks"), "--port", str(port),
        "--loop", "uvloop", "--http", "httptools", "--workers", "1", "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip
    try:
        with tempfile.TemporaryDirectory() as folder, serve(server, port=port):
            bodies = Path(folder) / "bodies.jsonl"
            bodies.write_bytes(b"\n".join(BODIES) + b"\n")
            program = compile_load(asked.load, Path(folder))
            runs = measure(
                program, port=port, bodies=bodies, rates=rates, rounds=asked.rounds, seconds=asked.seconds
            )
    except MillisError as error:
        say(str(error))
        return error.exit_code
    rows = compare(runs, rates=rates)
    print(f"{'rate/s':>7} {'':4} {'load.c ms':>10} {'ours ms':>9} {'ours/C':>7}  range over {asked.rounds} rounds")
    for row in rows:
        print(
            f"{row['rate_per_s']:>7g} {row['percentile']:4} {row['c_ms']:>10.3f} {row['ours_ms']:>9.3f}"
            f" {row['ratio']:>7.2f}  {row['ratio_low']:.2f} to {row['ratio_high']:.2f}"
        )
    n_void = sum(1 for run in runs if run.get("void"))
    if n_void:
        print(f"{n_void} of our {len(runs) // 2} runs are void: the generator was late, stop what else runs here")
    result = {"rounds": asked.rounds, "seconds": asked.seconds, "rows": rows, "runs": runs}
    print(json.dumps(keep("load_agreement", result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
