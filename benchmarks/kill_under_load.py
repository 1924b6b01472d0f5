"""Kill a worker with SIGKILL while clients ask: who fails, how long until the service is whole, does the log verify.

    python benchmarks/kill_under_load.py --bundle wnut.millis [--rate 50] [--seconds 20] [--kills 3] [--workers 2] [--threads 0] [--standby]

Open loop over kept connections, keys and audit log on. Whole again means: as many workers as before, each of which
answered a request on a connection of its own. Exit code 1 where a request failed that was not on its way in the worker
that died, where it took longer than 2 s to be whole, or where the audit log does not verify. Keeps one JSON line in
benchmarks/results/kill_under_load.jsonl.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from common import keep
from millis.bundles import load, open_bundle
from millis.security.keys import KeyFile
from millis.security.verifying import verify
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor

WHOLE_S = 2.0
REFUSED = ("429", "503", "504")
_TRIES = 12


async def ask_for(server: Supervisor, *, key: str, rate_per_s: float, seconds: float, route: str, text: str) -> list[tuple[float, str]]:
    """Ask at random arrivals; give when each request was sent and how it ended: a status, or the name of what broke."""
    ended: list[tuple[float, str]] = []
    draw = random.Random(7)
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=server.url, headers={"X-API-Key": key}, timeout=10, limits=limits) as client:

        async def ask() -> None:
            sent = time.monotonic()
            try:
                said = str((await client.post(route, json={"input": text})).status_code)
            except httpx.TransportError as error:
                said = type(error).__name__
            ended.append((sent, said))

        began, due, asked = time.monotonic(), 0.0, set()
        while due < seconds:
            due += draw.expovariate(rate_per_s)
            await asyncio.sleep(max(began + due - time.monotonic(), 0))
            asked.add(asyncio.create_task(ask()))
        await asyncio.gather(*asked)
    return ended


def wait_until_whole(server: Supervisor, *, n: int, key: str, route: str, text: str) -> float:
    """Wait until n workers live and new connections are answered again and again; give the seconds."""
    began = time.monotonic()
    n_answered = 0
    while n_answered < _TRIES:
        try:
            answer = httpx.post(f"{server.url}{route}", json={"input": text}, headers={"X-API-Key": key}, timeout=5)
            is_answered = answer.status_code == 200
        except httpx.TransportError:
            is_answered = False
        n_answered = n_answered + 1 if is_answered and len(server.ready_pids) == n else 0
        if time.monotonic() - began > 30:
            break
        time.sleep(0.01)
    return time.monotonic() - began


def main() -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="that infer in each worker; 0 is its event loop")
    parser.add_argument("--standby", action="store_true", help="a worker more that takes the place of one that dies")
    asked = parser.parse_args()
    bundle = open_bundle(asked.bundle)
    route, text = f"/v1/{bundle.manifest.task}", load(bundle).task.example
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key, _ = KeyFile(folder / "keys.json").create(name="", scopes=["*"])
        settings = ServeSettings(
            bundles=(str(bundle.path),), port=0, workers=asked.workers, threads=asked.threads, standby=asked.standby, keys=str(folder / "keys.json"), audit=str(folder / "audit")
        )
        kills: list[tuple[float, float]] = []
        stop = threading.Event()
        with Supervisor(settings) as server:
            watching = threading.Thread(target=server.watch_until, args=(stop,))
            watching.start()

            def kill() -> None:
                for _ in range(asked.kills):
                    time.sleep(asked.seconds / (asked.kills + 1))
                    killed = time.monotonic()
                    os.kill(random.choice(server.pids), signal.SIGKILL)
                    kills.append((killed, wait_until_whole(server, n=asked.workers, key=key, route=route, text=text)))

            killing = threading.Thread(target=kill)
            killing.start()
            ended = asyncio.run(ask_for(server, key=key, rate_per_s=asked.rate, seconds=asked.seconds, route=route, text=text))
            killing.join()
            stop.set()
            watching.join()
        verified = verify(folder / "audit")
    refused = sum(said in REFUSED for _, said in ended)
    failed = [(sent, said) for sent, said in ended if said != "200" and said not in REFUSED]
    # A request that failed must have been on its way when a worker died: sent before, and not long before.
    unexplained = [one for one in failed if not any(killed - 10 <= one[0] <= killed + 0.1 for killed, _ in kills)]
    result: dict[str, Any] = {
        "rate_per_s": asked.rate, "seconds": asked.seconds, "workers": asked.workers, "threads": asked.threads, "standby": asked.standby, "n": len(ended), "refused": refused, "failed": len(failed),
        "failures": sorted({said for _, said in failed}), "unexplained": len(unexplained), "whole_s": [round(s, 3) for _, s in kills],
        "audit_lines": verified.lines, "audit_problems": list(verified.problems),
    }  # fmt: skip
    print(json.dumps(keep("kill_under_load", result)))
    is_well = not unexplained and all(s <= WHOLE_S for _, s in kills) and not verified.problems
    print("kept" if is_well else "BROKEN", file=sys.stderr)
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
