"""A GPU end to end: its tests, the backend alone, training, a fit, and load against other ways to serve.

    python benchmarks/gpu.py --base FOLDER --out FILE.jsonl
    python benchmarks/gpu.py --base FOLDER --out FILE.jsonl --data FOLDER --data-task classify   # train.* and test.* in it
    python benchmarks/gpu.py --base FOLDER --out FILE.jsonl --device cpu                          # a small rehearsal

Each part runs in a process of its own with a time limit; one that fails leaves its traceback as a line, and the next
one runs. Lines are written as they come. Needs torch, transformers, pytest and what `millis` needs but openvino.

Border: measures; the numbers that are kept are copied to benchmarks/results/gpu.jsonl by hand, with the machine's line.
Limits: one GPU; the generator is on the same machine.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it, before torch is there

from common import ROOT, free_port, serve

ALL_S = 410.0
"""Of the whole script: a part gets what is left, and at most its own limit."""

TESTS = ("tests/backends/test_on_a_gpu.py", "tests/training/test_training_on_a_gpu.py")
TOKENS = (16, 32, 64, 128)
BOUND_MS = 5.0


class Run:
    """What a part is given.

    Args:
        is_small: a rehearsal on the processor.
    """

    def __init__(self, asked: argparse.Namespace) -> None:
        self.base, self.out, self.work = Path(asked.base), Path(asked.out), Path(asked.work)
        self.data = Path(asked.data) if asked.data else None
        self.data_task, self.device = str(asked.data_task), str(asked.device)
        self.is_small = self.device == "cpu" or bool(asked.small)

    def tell(self, part: str, **found: Any) -> None:
        """Write one line."""
        line = json.dumps({"part": part, **found}, ensure_ascii=False)
        print(line[:600], flush=True)
        with self.out.open("a") as file:
            file.write(line + "\n")

    def write_corpus(self) -> Any:
        """Write the demo corpus."""
        from millis.data.demo import write_demo

        sizes = {"n_train": 300, "n_dev": 60, "n_test": 100} if self.is_small else {}
        return write_demo(self.work / "corpus", seed=7, **sizes)


def run_tests(run: Run) -> None:
    """Run the tests that other machines skip."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *TESTS], cwd=ROOT, capture_output=True,
        text=True,
    )  # fmt: skip
    run.tell("tests", code=done.returncode, said=done.stdout[-6000:], also=done.stderr[-1500:])


def time_backend(run: Run) -> None:
    """Time the backend by itself, launched and replayed, and compare it with fp32 on the processor."""
    from millis.backends import BackendSettings
    from millis.compiling.narrowing import narrow
    from millis.models.bases import find_base
    from millis.models.taggers import build_tagger, save_tagger
    from millis.models.work import read_work
    from millis.tasks.task import Head

    head = Head(("O", *(f"{way}-{kind}" for kind in ("A", "B", "C", "D") for way in "BI")))
    tagger = build_tagger(find_base(str(run.base)), head=head, seed=7)
    save_tagger(tagger, run.work / "tagger", tokenizer_file=run.base / "tokenizer.json")
    tokens, n_rows = (TOKENS[:2], (1, 4)) if run.is_small else (TOKENS, (1, 2, 4, 8, 16, 32, 64))
    batches = {(n, t): _draw(n, t) for t in tokens for n in n_rows}
    work = read_work(run.work / "tagger")  # what a chip has to do at least: operations, and bytes of weights
    exact = _load(run.work / "tagger", BackendSettings(threads=1 if run.is_small else os.cpu_count() or 1))
    wanted = {shape: exact.run(batch)["logits"] for shape, batch in batches.items()}
    exact.close()
    for precision in ("fp32", "fp16", "bf16"):
        narrow(run.work / "tagger", run.work / precision, precision=precision)
        for way, buckets in (("launched", None), ("replayed", tokens)):
            began = time.perf_counter()
            backend = _load(run.work / precision, BackendSettings(device=run.device, buckets=buckets))
            loaded_s = time.perf_counter() - began
            run.tell(
                "backend", precision=precision, way=way, load_s=round(loaded_s, 3),
                is_replayed=backend._graphs is not None, memory_mb=_gpu_mb(),
            )  # fmt: skip
            for shape, batch in batches.items():
                answer = backend.run(batch)["logits"]
                run.tell(
                    "backend", precision=precision, way=way, rows=shape[0], tokens=shape[1], **_time(backend, batch),
                    operations=shape[0] * work.operations(shape[1]),
                    weight_bytes=work.matrices * (4 if precision == "fp32" else 2),
                    furthest=float(np.abs(answer - wanted[shape]).max()),
                    agreement=float((answer.argmax(-1) == wanted[shape].argmax(-1)).mean()),
                )  # fmt: skip
            backend.close()


def _load(folder: Path, settings: Any) -> Any:
    from millis.backends.torch import TorchBackend

    backend = TorchBackend()
    backend.load(folder, settings=settings)
    return backend


def _draw(n_rows: int, n_tokens: int) -> dict[str, np.ndarray]:
    """Draw a batch whose last row is half padding, where there are several."""
    ids = np.random.default_rng(n_rows * n_tokens).integers(1000, 30_000, (n_rows, n_tokens))
    mask = np.ones_like(ids)
    if n_rows > 1:
        mask[-1, n_tokens // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _time(backend: Any, batch: dict[str, np.ndarray], *, most: int = 300, within_s: float = 0.35) -> dict[str, Any]:
    """Time runs back to back, in microseconds."""
    for _ in range(3):
        backend.run(batch)
    seen: list[float] = []
    end = time.perf_counter() + within_s
    while len(seen) < 20 or (len(seen) < most and time.perf_counter() < end):
        began = time.perf_counter_ns()
        backend.run(batch)
        seen.append((time.perf_counter_ns() - began) / 1e3)
    return {"n": len(seen), "p50_us": round(float(np.median(seen)), 1), "p99_us": round(float(np.percentile(seen, 99)), 1)}


def _gpu_mb() -> float | None:
    import torch

    return round(torch.cuda.memory_reserved() / 1e6, 1) if torch.cuda.is_available() else None


def time_training(run: Run) -> None:
    """Time epochs on the device and on the processor."""
    from millis.data.readers import read_examples
    from millis.data.splits import make_splits
    from millis.models.bases import find_base
    from millis.searching.layout import lay_out
    from millis.training.loop import train
    from millis.training.settings import TrainSettings

    files = run.write_corpus()
    parts = [read_examples(file) for file in (files.train, files.dev, files.test)]
    splits = make_splits(parts[0], dev=parts[1], test=parts[2], seed=7)
    base = find_base(str(run.base))
    task = lay_out(base, splits, task="ner", asked={}).task
    for device, epochs in dict.fromkeys([(run.device, 3), ("cpu", 1)]):
        result = train(
            base, task=task, train=splits.train, dev=splits.dev, folder=run.work / f"training-{device}-{epochs}",
            settings=TrainSettings(epochs=epochs, patience=None, device=device), tokenizer_file=base / "tokenizer.json",
        )  # fmt: skip
        run.tell(
            "training", device=device, n_examples=len(splits.train), reasons=result.reasons,
            epochs=[{"seconds": round(one.seconds, 3), "loss": round(one.loss, 4), "dev": one.dev} for one in result.epochs],
        )  # fmt: skip


def fit(run: Run) -> None:
    """Fit the demo corpus under a contract."""
    files = run.write_corpus()
    out = run.work / "gpu.millis"
    asked = ["--p99", "1 s", "--rate", "15/s"] if run.is_small else ["--p99", "5 ms", "--rate", "500/s"]
    began = time.perf_counter()
    with (run.work / "fit.log").open("w") as log:  # a fit that is ended at its limit leaves what it said
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-m", "millis", "fit", "--task", "ner", "--device", run.device, *asked,
             "--base", str(run.base), "--train", str(files.train), "--dev", str(files.dev), "--test", str(files.test),
             "--rungs", "1", "--epochs", "2" if run.is_small else "4", "--prove-for", "4 s" if run.is_small else "10 s",
             "-o", str(out), "--json"],
            stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    said = (run.work / "fit.log").read_text()
    run.tell("fit", code=done.returncode, seconds=round(time.perf_counter() - began, 1), said=said[-9000:])
    inspected = subprocess.run([sys.executable, "-m", "millis", "inspect", str(out)], capture_output=True, text=True)
    run.tell("fit", inspect=inspected.stdout[-5000:], also=inspected.stderr[-1000:])
    prove = subprocess.run(
        [sys.executable, "-m", "millis", "prove", str(out), "--seconds", "4"], capture_output=True, text=True
    )
    run.tell("fit", prove=prove.returncode, said=(prove.stdout + prove.stderr)[-2500:])


def offer(run: Run) -> None:
    """Offer rates to the bundle, to its rung one request at a time, and to the rivals."""
    from millis.bundles import open_bundle
    from millis.data.readers import read_examples
    from millis.measuring.bench import offer_load
    from millis.searching.bodies import bodies_of_examples

    bundle = open_bundle(run.work / "gpu.millis")
    bodies = bodies_of_examples(read_examples(run.work / "corpus" / "test.conll"), seed=7)
    rates = (10, 40) if run.is_small else (500, 1000, 2000, 4000)
    for name, start in _ways(run, bundle):
        lost = 0
        try:
            with start() as url:
                for rate in rates:
                    result = offer_load(
                        url, bodies=bodies, rate_per_s=rate, seconds=2.5, bound_ms=BOUND_MS, timeout_s=1.5, warmup=100
                    )
                    in_time = result.n_requests - (result.n_misses or 0)
                    run.tell(
                        "load", way=name, rate=rate, n=result.n_requests, goodput=round(in_time / result.n_requests * rate, 1),
                        ok=result.n_ok, refused=result.n_refused, errors=result.n_errors, unanswered=result.n_unanswered,
                        p50_ms=result.latency.p50_ms, p95_ms=result.latency.p95_ms, p99_ms=result.latency.p99_ms,
                        late_p99_ms=result.lateness.p99_ms, void=result.void,
                        stages={stage: [one.p50_ms, one.p99_ms] for stage, one in result.stages.items()},
                    )  # fmt: skip
                    lost = lost + 1 if in_time < result.n_requests / 2 else 0
                    if lost == 2:
                        break
        except Exception:
            run.tell("load", way=name, error=traceback.format_exc()[-2000:])


def _ways(run: Run, bundle: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Give the ways to serve, each with what starts it: a block that gives its URL."""
    yield "millis, 1 worker", lambda: _serve_millis(bundle.path)
    if not run.is_small:
        yield "millis, 4 workers", lambda: _serve_millis(bundle.path, "--workers", "4")
    if bundle.rung().backend == "torch":
        yield "millis, one request at a time", lambda: _serve_alone(run, bundle)
    weights = {precision: run.work / f"rival-{precision}" for precision in ("fp16", "fp32")}
    reference = run.work / "gpu.run" / "training" / "best"
    if (calibrated := run.work / "gpu.run" / "calibrated").is_dir():
        reference = calibrated
    from millis.compiling.narrowing import narrow

    for precision, folder in weights.items():
        narrow(reference, folder, precision=precision)
    for precision, way in (("fp16", "together"), ("fp16", "alone"), ("fp32", "alone")):
        yield f"starlette {precision}, {way}", lambda p=precision, w=way: _serve_rival(run, weights[p], w)


@contextmanager
def _serve_millis(path: Path, *flags: str, python_path: Path | None = None) -> Iterator[str]:
    port = free_port()
    more = {"PYTHONPATH": f"{python_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"} if python_path else {}
    command = [sys.executable, "-m", "millis", "serve", str(path), "--port", str(port), *flags]
    with serve(command, port=port, within_s=90, env=more):
        _wait_ready(port)
        yield f"http://127.0.0.1:{port}/v1/ner"


def _wait_ready(port: int) -> None:
    """Wait until a text is answered: a port may listen before that."""
    import httpx

    for _ in range(300):
        try:
            if httpx.post(f"http://127.0.0.1:{port}/v1/ner", json={"input": "Ada wrote from Rome."}, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"nothing answers on port {port}")


def _serve_alone(run: Run, bundle: Any) -> Any:
    """Serve a bundle's rung by a plugin that does not batch."""
    import msgspec

    from millis.bundles import save_bundle

    plugin = run.work / "plugin"
    information = plugin / "oneatatime-1.dist-info"
    information.mkdir(parents=True, exist_ok=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: oneatatime\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[millis.backends]\noneatatime = oneatatime:Alone\n")
    (plugin / "oneatatime.py").write_text(
        "from millis.backends.torch import TorchBackend\n\n\n"
        "class Alone(TorchBackend):\n    name = 'oneatatime'\n\n"
        "    def load(self, folder, *, settings):\n        super().load(folder, settings=settings)\n"
        "        self.batching = None\n"
    )
    rung = msgspec.structs.replace(bundle.rung(), backend="oneatatime")
    manifest = msgspec.structs.replace(bundle.manifest, rungs=(rung,), files={}, seal="")
    parts = {"tokenizer.json": bundle.path / "tokenizer.json", rung.folder: bundle.path / rung.folder}
    made = save_bundle(run.work / "alone.millis", manifest=manifest, parts=parts)
    return _serve_millis(made.path, python_path=plugin)


@contextmanager
def _serve_rival(run: Run, folder: Path, way: str) -> Iterator[str]:
    port = free_port()
    command = [
        sys.executable, "-m", "uvicorn", "gpu_rival:app", "--app-dir", str(ROOT / "benchmarks"), "--port", str(port),
        "--log-level", "warning", "--no-access-log", "--loop", "uvloop", "--http", "httptools",
    ]  # fmt: skip
    more = {"MODEL": str(folder), "TOKENIZER": str(run.base / "tokenizer.json"), "DEVICE": run.device, "WAY": way}
    with serve(command, port=port, within_s=90, env=more):
        _wait_ready(port)
        yield f"http://127.0.0.1:{port}/v1/ner"


def learn(run: Run) -> None:
    """Train on a data set that was brought, and score it."""
    if run.data is None:
        run.tell("data", skipped="no --data")
        return
    from millis.contract import Contract
    from millis.searching.building import train_reference
    from millis.searching.case import prepare
    from millis.searching.settings import FitSettings

    found = {part: next(iter(sorted(run.data.glob(f"{part}.*"))), None) for part in ("train", "dev", "test")}
    settings = FitSettings(
        base=str(run.base), out=run.work / "data.millis", task=run.data_task, epochs=1 if run.is_small else 6, **found
    )
    case = prepare(Contract(p99="5 ms", device=run.device), settings, began=time.monotonic())
    began = time.perf_counter()
    reference = train_reference(
        run.base, task=case.task, splits=case.splits, folder=case.folder / "training",
        tokenizer_file=case.tokenizer_file, settings=settings.training(),
    )  # fmt: skip
    run.tell(
        "data", task=run.data_task, n_train=len(case.splits.train), n_test=len(case.splits.test), score=reference.test.name,
        seconds=round(time.perf_counter() - began, 2), dev=reference.dev.value, test=reference.test.value,
    )  # fmt: skip


PARTS: dict[str, tuple[Callable[[Run], None], float]] = {
    "backend": (time_backend, 100), "tests": (run_tests, 110), "training": (time_training, 80), "fit": (fit, 260),
    "load": (offer, 170), "data": (learn, 60),
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Run every part, or the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--base", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data")
    parser.add_argument("--data-task", default="ner")
    parser.add_argument("--work", default="gpu-work")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--parts", default=",".join(PARTS), help="in this order")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    for name in ("base", "out", "work", "data"):
        if getattr(asked, name):
            setattr(asked, name, str(Path(getattr(asked, name)).absolute()))
    run = Run(asked)
    run.work.mkdir(parents=True, exist_ok=True)
    if asked.part:
        try:
            PARTS[asked.part][0](run)
        except BaseException:
            run.tell(asked.part, error=traceback.format_exc()[-3000:])
            raise
        return 0
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the part under way is ended
    run.tell("machine", **_describe())
    for part in asked.parts.split(","):
        patience = 3 if run.is_small else 1
        limit_s = min(patience * PARTS[part][1], patience * ALL_S - (time.monotonic() - began))
        if limit_s < 10:
            run.tell(part, error="no time was left for it")
            continue
        _run_part(run, part, arguments, limit_s=limit_s)
    run.tell("end", seconds=round(time.monotonic() - began, 1))
    return 0


def _run_part(run: Run, part: str, arguments: Sequence[str], *, limit_s: float) -> None:
    """Run a part in a process of its own, and end all that it started when its time is up."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, __file__, *arguments, "--part", part], start_new_session=True)
    code: int | None = None
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        pass
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):  # servers that it left behind, too
            try:
                os.killpg(process.pid, how)
            except ProcessLookupError:
                break
            time.sleep(0.5)
        process.wait()
    run.tell(part, code=code, is_over_time=code is None, part_seconds=round(time.monotonic() - began, 1))


def _describe() -> dict[str, Any]:
    import msgspec
    import torch
    import transformers

    from millis.measuring.fingerprint import fingerprint

    has_gpu = torch.cuda.is_available()
    return {
        "machine": msgspec.to_builtins(fingerprint()), "torch": torch.__version__, "transformers": transformers.__version__,
        "gpu": torch.cuda.get_device_name() if has_gpu else None,
        "capability": torch.cuda.get_device_capability() if has_gpu else None,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
