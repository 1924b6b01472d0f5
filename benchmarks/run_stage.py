"""The run stage of every rung of a bundle against PyTorch fp32, unpadded, one text at a time on one thread.

    python benchmarks/run_stage.py --bundle wnut.millis --test ../shared/data/ner_en_wnut17/test.conll [--ends inclusive] [--texts 500] [--gap-ms 10]

Takes the fine-tuned fp32 weights from the bundle's run folder (training/best), the texts from a labelled test
file. Every text goes to every model in turn before the next text comes, once back to back and once
after an idle gap; a text of several windows counts as one. Prints p50 and p99 of each, the ratio over PyTorch, F1 with
the paired interval of the drop, bytes; keeps one JSON line in benchmarks/results/run_stage.jsonl.
Known limits: in this process, so without a server's other work in between; the drop is judged on the same test set that
`fit` chose by.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common import keep
from millis.backends import BackendSettings
from millis.bundles import load, open_bundle
from millis.compiling.comparing import loaded
from millis.data.readers import read_examples
from millis.measuring.quality import bound_drop
from millis.tasks.ner import NerTask
from millis.tasks.task import Window
from millis.tasks.tokenization import Tokenizer

Run = Callable[[np.ndarray], np.ndarray]


def time_texts(
    runs: dict[str, Run], cut: dict[str, list[tuple[Window, ...]]], *, gap_s: float, n: int | None = None
) -> dict[str, np.ndarray]:
    """Time the texts, cut into windows for each model, on every model in turn, every other text in reverse order."""
    seen: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(n or len(cut["torch"])):
        for name in list(runs) if turn % 2 else reversed(runs):
            run, windows = runs[name], cut[name][turn]
            if gap_s:
                time.sleep(gap_s)
            else:
                run(windows[0].ids)  # back to back: the one before was its own
            began = time.perf_counter_ns()
            for window in windows:
                run(window.ids)
            seen[name].append((time.perf_counter_ns() - began) / 1e6)
    return {name: np.array(times) for name, times in seen.items()}


def sum_up(times: np.ndarray, over: np.ndarray) -> dict[str, float]:
    """Give percentiles, and how many times PyTorch takes as long."""
    told = {}
    for percentile in (50, 99):
        ms = float(np.percentile(times, percentile))
        told |= {f"p{percentile}_ms": round(ms, 4), f"p{percentile}_ratio": round(float(np.percentile(over, percentile)) / ms, 2)}
    return told


def main() -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True, help="labelled test file")
    parser.add_argument("--ends", default="exclusive", help="span ends in it")
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--gap-ms", type=float, default=10.0)
    asked = parser.parse_args()
    bundle = open_bundle(asked.bundle)
    best = asked.bundle.with_name(asked.bundle.name.removesuffix(".millis") + ".run") / "training" / "best"
    examples = read_examples(asked.test, ends=asked.ends)
    models = {rung.name: load(bundle, rung=rung.name) for rung in bundle.manifest.rungs}
    scores = {name: model.task.score(examples, [model(one.text) for one in examples]) for name, model in models.items()}
    whole_task = NerTask(Tokenizer(best / "tokenizer.json"), labels=bundle.manifest.labels, **bundle.manifest.task_settings)
    with loaded("torch", best, settings=BackendSettings(threads=1)) as torch:

        def run_torch(ids: np.ndarray) -> np.ndarray:
            return torch.run({"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)})["logits"][0]

        windows = [whole_task.encode(one.text) for one in examples]
        answers = [
            whole_task.decode(one.text, whole, [run_torch(window.ids) for window in whole])
            for one, whole in zip(examples, windows, strict=True)
        ]
        reference = whole_task.score(examples, answers)
        texts = [one.text for one, whole in zip(examples, windows, strict=True) if whole]
        texts = texts[:: max(len(texts) // asked.texts, 1)][: asked.texts]
        runs: dict[str, Run] = {"torch": run_torch, **{name: model.run for name, model in models.items()}}
        tasks = {"torch": whole_task, **{name: model.task for name, model in models.items()}}  # a vocabulary each
        cut = {name: [task.encode(text) for text in texts] for name, task in tasks.items()}
        time_texts(runs, cut, gap_s=0, n=20)
        hot = time_texts(runs, cut, gap_s=0)
        cold = time_texts(runs, cut, gap_s=asked.gap_ms / 1000)
    rows: dict[str, Any] = {}
    print(f"{'model':<28} {'p50':>7} {'p99':>7} {'x p99':>6}   after {asked.gap_ms:g} ms: {'p50':>7} {'p99':>7} {'x p99':>6}  {'F1':>6}  drop (95 %)")
    for name in runs:
        row: dict[str, Any] = {"hot": sum_up(hot[name], hot["torch"]), "cold": sum_up(cold[name], cold["torch"])}
        score = reference if name == "torch" else scores[name]
        drop, low, high = bound_drop(reference, score)
        row |= {"f1": score.value, "drop": drop, "low": low, "high": high}
        if name != "torch":
            row |= {"n_bytes": bundle.count_bytes(bundle.rung(name)), "threads": bundle.rung(name).threads}
        rows[name] = row
        a, b = row["hot"], row["cold"]
        print(
            f"{name:<28} {a['p50_ms']:7.3f} {a['p99_ms']:7.3f} {a['p99_ratio']:6.1f}   {'':>12} {b['p50_ms']:7.3f} {b['p99_ms']:7.3f}"
            f" {b['p99_ratio']:6.1f}  {score.value:6.2f}  {drop:+.2f} ({low:+.2f} to {high:+.2f})"
        )
    total = sum(entry.n_bytes for entry in bundle.manifest.files.values())
    lengths = [sum(len(window.ids) for window in whole) for whole in cut["torch"]]
    result = {
        "data": asked.test.parent.name, "base": bundle.manifest.base, "n_texts": len(texts), "median_tokens": float(np.median(lengths)),
        "p99_tokens": float(np.percentile(lengths, 99)), "bundle_bytes": total, "serves": bundle.manifest.rung, "rows": rows,
    }
    print(f"{len(texts)} texts, {np.median(lengths):.0f} tokens at the median; bundle {total / 1e6:.1f} MB")
    print(json.dumps(keep("run_stage", result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
