"""Load new versions of a bundle beside live traffic: does a request fail, and what does it cost those who ask.

    python benchmarks/reload.py --bundle wnut.millis [--rate 50] [--seconds 60] [--reloads 6]

Open loop. First a quiet run, then the same with reloads: a copy of the bundle is loaded as a new version that takes all
requests at once, promoted, and the next one follows when the former is let go. Exit code 1 where a request failed. Texts
are of 8 to 60 made-up words. Keeps one JSON line in benchmarks/results/reload.jsonl.
"""

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from common import keep
from millis.bundles import open_bundle
from millis.contract import Contract
from millis.measuring.bench import offer_load
from millis.measuring.results import LoadResult
from millis.security.keys import KeyFile
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from overhead import BODIES

MODELS = "/v1/admin/models"


def write_run(load: LoadResult) -> dict[str, Any]:
    """Give what is kept of a run."""
    return {
        "n": load.n_requests, "ok": load.n_ok, "refused": load.n_refused, "errors": load.n_errors, "unanswered": load.n_unanswered,
        "misses": load.n_misses, "p50_ms": load.latency.p50_ms, "p99_ms": load.latency.p99_ms, "max_ms": load.latency.max_ms, "void": load.void,
    }  # fmt: skip


def main() -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--reloads", type=int, default=6)
    asked = parser.parse_args()
    bundle = open_bundle(asked.bundle)
    bound_ms = Contract.from_record(bundle.manifest.contract).bound_ms
    stop = threading.Event()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(1) as pool:
        folder = Path(name)
        key, _ = KeyFile(folder / "keys.json").create(name="", scopes=["*"])
        settings = ServeSettings(bundles=(str(bundle.path),), port=0, keys=str(folder / "keys.json"), models_from=(str(folder),))
        with Supervisor(settings) as server:
            watching = threading.Thread(target=server.watch_until, args=(stop,))
            watching.start()
            headers = [("X-API-Key", key)]

            def offer(what: str) -> LoadResult:
                url = f"{server.url}/v1/{bundle.manifest.task}"
                return offer_load(
                    url, bodies=BODIES, rate_per_s=asked.rate, seconds=asked.seconds, bound_ms=bound_ms, headers=headers, name=what, warmup=200
                )

            def change(method: str, route: str, **body: Any) -> float:
                began = time.monotonic()
                answer = http.request(method, route, json=body or None)
                answer.raise_for_status()
                return time.monotonic() - began

            quiet = offer("quiet")
            running = pool.submit(offer, "reloading")
            load_s: list[float] = []
            with httpx.Client(base_url=server.url, headers=dict(headers), timeout=300) as http:
                for place in range(asked.reloads):
                    time.sleep(asked.seconds / (2 * asked.reloads))
                    shutil.copytree(bundle.path, folder / f"{place}.millis")
                    load_s.append(change("POST", MODELS, path=f"{place}.millis", name=bundle.name, canary_percent=100))
                    change("POST", f"{MODELS}/{bundle.name}/promote")
                    time.sleep(asked.seconds / (4 * asked.reloads))
                    if http.get(MODELS).json()["data"][0]["former"] is not None:  # not proven yet: the next needs its place
                        change("POST", f"{MODELS}/{bundle.name}/rollback")
                n_done = len(load_s) if not running.done() else None
            reloading = running.result()
            stop.set()
            watching.join()
    result: dict[str, Any] = {
        "rate_per_s": asked.rate, "bound_ms": bound_ms, "workers": settings.workers or bundle.manifest.serving.workers, "reloads_under_load": n_done,
        "load_s": [round(one, 3) for one in load_s], "quiet": write_run(quiet), "reloading": write_run(reloading),
    }  # fmt: skip
    print(json.dumps(keep("reload", result)))
    return 1 if reloading.n_errors + reloading.n_unanswered else 0


if __name__ == "__main__":
    sys.exit(main())
