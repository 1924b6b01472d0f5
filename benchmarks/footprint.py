"""What millis costs before the first request: import, start, memory.

    python benchmarks/footprint.py BUNDLE [BUNDLE ...]

Prints the median time of `import millis` beside a bare interpreter's, and for each bundle the time from `millis serve`
to ready on a second start (compiled models cached) with the resident memory of each worker. Keeps one JSON line in
benchmarks/results/footprint.jsonl.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import keep


def time_program(program: str, *, rounds: int = 11) -> float:
    """Give the median wall time of a Python program, in ms."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def start_bundle(bundle: Path) -> dict[str, Any]:
    """Serve a bundle, wait until it says ready, read its workers' memory, stop it."""
    began = time.perf_counter()
    serving = subprocess.Popen(
        [sys.executable, "-m", "millis", "serve", str(bundle), "--port", "0", "--json"], stdout=subprocess.PIPE
    )
    try:
        assert serving.stdout is not None
        told = json.loads(serving.stdout.readline())
        ready_s = time.perf_counter() - began
        rss_mb = [
            int(line.split()[1]) * 1024 / 1e6
            for pid in told["workers"]
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith("VmRSS:")
        ]
    finally:
        serving.terminate()
        serving.wait()
    return {"ready_s": ready_s, "worker_rss_mb": rss_mb}


def main() -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", type=Path, nargs="+")
    asked = parser.parse_args()
    bare_ms, import_ms = time_program("pass"), time_program("import millis")
    result: dict[str, Any] = {"interpreter_ms": bare_ms, "import_ms": import_ms - bare_ms, "bundles": {}}
    print(f"import millis: {import_ms - bare_ms:.1f} ms beside {bare_ms:.1f} ms for the interpreter alone")
    for bundle in asked.bundles:
        start_bundle(bundle)
        runs = [start_bundle(bundle) for _ in range(3)]
        ready_s = statistics.median(run["ready_s"] for run in runs)
        result["bundles"][bundle.name] = {"ready_s": ready_s, "worker_rss_mb": runs[-1]["worker_rss_mb"], "runs": runs}
        rss = ", ".join(f"{mb:.0f}" for mb in runs[-1]["worker_rss_mb"])
        print(f"{bundle.name}: ready in {ready_s:.2f} s on a second start; resident MB by worker: {rss}")
    print(json.dumps(keep("footprint", result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
