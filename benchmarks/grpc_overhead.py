"""What the server itself costs over gRPC: the fake backend against a bare grpc.aio echo of the same messages, interleaved.

    python benchmarks/grpc_overhead.py [--rate 200] [--rounds 6] [--seconds 10]

Two servers: one that looks for the next call before it sleeps, as usual, and one that does not (`--poll 0`); the library
reads on threads of its own, which want a core too. Calls at Poisson arrivals, from one process and over one connection; a latency counts from when its call was due. Prints
the medians over rounds of p50 and p99 and their differences; keeps one JSON line in
benchmarks/results/grpc_overhead.jsonl. The messages hold the texts of overhead.py, in raw_input_contents.
Known limits: the client is grpc.aio too and takes more of a core than either server, so a round is void where it was
late itself; the fake backend still tokenizes and decodes, so the difference holds that work too.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc
import msgspec
import uvloop
from grpc.aio import insecure_channel

from common import ROOT, free_port, keep, serve
from millis.serving.protobuf import messages
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from millis.serving.tensors import pack_elements
from overhead import BODIES, make_bundle

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_WARMUP = 100
_LATE_MS = 1.0


def make_messages() -> list[bytes]:
    """Write the texts of overhead.py as requests."""
    made = []
    for body in BODIES:
        request = messages["ModelInferRequest"](
            model_name="fake", raw_input_contents=[pack_elements([json.loads(body)["input"].encode()])]
        )
        request.inputs.add(name="text", datatype="BYTES", shape=[1])
        made.append(request.SerializeToString())
    return made


async def offer(address: str, *, sent: list[bytes], rate_per_s: float, seconds: float, seed: int) -> dict[str, Any]:
    """Call at Poisson arrivals; give p50 and p99 of the answers, of the lateness, and how many failed."""
    draw = random.Random(seed)
    took_ms: list[float] = []
    late_ms: list[float] = []
    codes: list[str] = []
    async with insecure_channel(address) as channel:
        ask = channel.unary_unary(_INFER)
        for message in sent[:_WARMUP]:
            with suppress(grpc.RpcError):
                await ask(message)

        async def call(message: bytes, due: float) -> None:
            late_ms.append(1000 * (perf_counter() - due))
            try:
                await ask(message, timeout=10)
            except grpc.RpcError as error:
                codes.append(error.code().name)
            else:
                took_ms.append(1000 * (perf_counter() - due))

        async with asyncio.TaskGroup() as calls:
            due = began = perf_counter()
            while due < began + seconds:
                due += draw.expovariate(rate_per_s)
                await asyncio.sleep(max(due - perf_counter(), 0))
                calls.create_task(call(draw.choice(sent), due))
    late_p99_ms = _percentile(late_ms, 99)
    return {
        "p50_ms": _percentile(took_ms, 50), "p99_ms": _percentile(took_ms, 99), "late_p99_ms": late_p99_ms,
        "ok": len(took_ms), "failed": codes, "void": late_p99_ms > _LATE_MS,
    }  # fmt: skip


def _percentile(values: list[float], percentile: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percentile - 1]


def main() -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=10.0)
    asked = parser.parse_args()
    port = free_port()
    seen: dict[str, list[dict[str, Any]]] = {"echo": [], "millis": [], "millis --poll 0": []}
    sent = make_messages()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(serve([sys.executable, str(ROOT / "benchmarks" / "grpc_echo.py"), str(port)], port=port))
        addresses = {"echo": f"127.0.0.1:{port}"}
        settings = ServeSettings(bundles=(str(make_bundle(folder)),), port=0, grpc_port=0)
        for name, one in (("millis", settings), ("millis --poll 0", msgspec.structs.replace(settings, poll_ms=0.0))):
            addresses[name] = str(stack.enter_context(Supervisor(one)).grpc_address)
        for turn in range(asked.rounds + 1):
            for who in list(addresses) if turn % 2 else reversed(addresses):
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    run = runner.run(
                        offer(addresses[who], sent=sent, rate_per_s=asked.rate, seconds=asked.seconds, seed=turn)
                    )
                if turn:
                    seen[who].append(run)
    result: dict[str, Any] = {"rate_per_s": asked.rate, "rounds": asked.rounds, "seconds": asked.seconds, "runs": seen}
    for name in ("p50_ms", "p99_ms", "late_p99_ms"):
        medians = {who: statistics.median(run[name] for run in runs) for who, runs in seen.items()}
        result[name] = dict(medians)
        print(f"{name}: " + ", ".join(f"{who} {ms:.3f}" for who, ms in medians.items()))
        for who in list(seen)[1:]:
            differences = [b[name] - a[name] for a, b in zip(seen["echo"], seen[who], strict=True)]
            spread = {"median": statistics.median(differences), "low": min(differences), "high": max(differences)}
            result[name][f"{who} over echo"] = spread
            print(f"  {who} over echo: {spread['median']:+.3f} ({spread['low']:+.3f} to {spread['high']:+.3f})")
    print(json.dumps(keep("grpc_overhead", result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
