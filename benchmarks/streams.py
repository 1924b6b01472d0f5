"""Four streams at once, and an encoder served beside them: does each keep its share, does the encoder keep its contract.

    python benchmarks/streams.py MODEL [--encoder BUNDLE] [--rounds 10] [--seconds 6]

MODEL is a base as `millis pack` takes it, packed for this run (--rung), or a bundle. One server has it and the encoder.
Each round, in an order that turns: one stream alone; four at once; with --encoder its requests at its contract's rate
(or --rate), open loop, alone, and then beside four streams. A stream asks one prompt after the other for --seconds,
64 pieces of SciTLDR's papers in ../shared/data, no two alike, and is answered by up to 64, the likeliest ones.

An answer's TPOT is its mean time per later token. Its fair share is printed in two ways: four times the TPOT alone,
which is what four streams have that take turns, and the batched step, the median time between two tokens of a stream
while four are open, which is what this engine really shares out. The p99 of TPOT is held against 1.5 times the smaller
of the two. The encoder is held to its own contract by the exact test, all rounds together.
Prints a table and one JSON line, kept in benchmarks/results/streams.jsonl (not with --brief). Exit code 1 when a clause
is broken.
Limits: whoever asks shares the cores with the server. An answer counts that began and ended within its turn, so all but
one in each stream. A prompt of 64 pieces that begins stops the others for as long as it is read; that is in their TPOT.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

import httpx
import msgspec
import numpy as np
from tokenizers import Tokenizer

from common import keep, pack_speaker
from generation import PAPERS, ask, cut_prompts
from millis.bundles.bundle import TOKENIZER, Bundle, open_bundle
from millis.contract import Contract, judge_latency
from millis.errors import RunFailed
from millis.measuring.bench import LoadResult, offer_load
from millis.measuring.histograms import Histogram
from millis.measuring.streaming import Spoken
from millis.searching.bodies import bodies_of_lengths
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor

STREAMS, MOST_SHARES = 4, 1.5


class Turns:
    """What was heard in each kind of turn.

    Args:
        prompts: as many as all turns together can ask.
        seconds: of each turn.
    """

    def __init__(self, url: str, *, model: str, prompts: Iterator[str], seconds: float) -> None:
        self._url, self._model, self._seconds = url, model, seconds
        self._prompts, self._drawing = prompts, Lock()
        self.heard: dict[str, list[list[Spoken]]] = {}
        self.loads: dict[str, list[LoadResult]] = {}

    def speak(self, name: str, *, streams: int) -> None:
        """Open so many streams for a turn."""
        until_s = time.monotonic() + self._seconds
        with ThreadPoolExecutor(streams) as pool:
            self.heard.setdefault(name, []).extend(pool.map(self._follow, [until_s] * streams))

    def _follow(self, until_s: float) -> list[Spoken]:
        """Ask one prompt after the other; give what ended in time."""
        heard: list[Spoken] = []
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while True:
                with self._drawing:
                    prompt = next(self._prompts, None)
                if prompt is None:
                    raise RunFailed("no prompts are left: give fewer --rounds or --seconds.")
                said = ask(client, prompt, model=self._model, stream_options={"include_usage": True})
                if time.monotonic() > until_s:
                    return heard
                heard.append(said)

    def load(self, name: str, encoder: Bundle, *, rate: float, seed: int, streams: int) -> None:
        """Ask the encoder for a turn, beside so many streams."""
        contract = Contract.from_record(encoder.manifest.contract)
        with ThreadPoolExecutor(1) if streams else nullcontext() as pool:
            beside = pool.submit(self.speak, f"beside {encoder.name}", streams=streams) if pool else None
            self.loads.setdefault(name, []).append(offer_load(
                f"{self._url}/v1/{encoder.manifest.task}", bodies=bodies_of_lengths(encoder), rate_per_s=rate,
                seconds=self._seconds, bound_ms=contract.bound_ms, seed=seed, name=name,
            ))  # fmt: skip
            if beside is not None:
                beside.result()


def sum_up(answers: Sequence[Spoken]) -> dict[str, Any]:
    """Give p50, p95 and p99 of TTFT, TPOT and the gaps between tokens, in ms."""
    times = {
        "ttft": [one.first_ns / 1e6 for one in answers],
        "tpot": [one.later_ns / 1e6 / (one.n_tokens - 1) for one in answers if one.n_tokens > 1],
        "gap": [gap / 1e6 for one in answers for gap in one.gaps_ns],
    }
    found: dict[str, Any] = {"n": len(answers), "tokens": sum(one.n_tokens for one in answers)}
    for name, values in times.items():
        found |= {f"{name}_p{q}_ms": float(np.percentile(values, q)) if values else None for q in (50, 95, 99)}
    return found


def judge_shares(alone: Sequence[Sequence[Spoken]], together: Sequence[Sequence[Spoken]]) -> dict[str, Any]:
    """Hold each of the streams that spoke at once to its fair share; the i-th of a turn is stream i."""
    one, all_four = sum_up([said for row in alone for said in row]), sum_up([said for row in together for said in row])
    if not (one["tpot_p50_ms"] and all_four["gap_p50_ms"]):
        raise RunFailed("no answer ended within a turn: give more --seconds.")
    shares = {"four alone": STREAMS * one["tpot_p50_ms"], "batched step": all_four["gap_p50_ms"]}
    smaller = min(shares.values())
    by_stream = [sum_up([said for row in together[i::STREAMS] for said in row]) for i in range(STREAMS)]
    over = [row["tpot_p99_ms"] / smaller for row in by_stream]
    return {
        "alone": one, "together": all_four, "by_stream": by_stream, "fair_share_ms": shares,
        "p99_over_share": over, "is_kept": max(over) <= MOST_SHARES,
    }  # fmt: skip


def judge_encoder(encoder: Bundle, loads: Sequence[LoadResult]) -> dict[str, Any]:
    """Hold an encoder to its contract, all turns together."""
    contract = Contract.from_record(encoder.manifest.contract)
    latency = Histogram()
    for one in loads:
        latency.merge(Histogram(one.histogram))
    clause = judge_latency(
        contract, n_requests=sum(one.n_requests for one in loads), n_misses=sum(one.n_misses or 0 for one in loads),
        n_sure_misses=sum(one.n_sure_misses or 0 for one in loads), seen_ms=latency.percentile_ms(contract.percentile),
        void=next((one.void for one in loads if one.void), None),
    )  # fmt: skip
    return {
        "rate_per_s": loads[0].offered_per_s, "bound_ms": contract.bound_ms, "verdict": clause.status, "why": clause.detail,
        "refused": sum(one.n_refused for one in loads), "p99_by_round": [one.latency.p99_ms for one in loads],
        **msgspec.to_builtins(latency.summary()),
    }  # fmt: skip


def main() -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--encoder", type=Path, help="a bundle of another task, served beside it")
    parser.add_argument("--rate", type=float, help="requests/s to the encoder; its contract's without")
    parser.add_argument("--rung", default="int8")
    parser.add_argument("--threads", type=int, default=2, help="of the engine, where MODEL is packed here")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each turn")
    parser.add_argument("--brief", action="store_true", help="a try: nothing is kept")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="millis-streams-") as scratch:
        bundle = open_bundle(pack_speaker(asked.model, Path(scratch), rung=asked.rung, threads=asked.threads))
        encoder = open_bundle(asked.encoder) if asked.encoder else None
        bundles = [bundle.path, *([encoder.path] if encoder else [])]
        tokenizer = Tokenizer.from_file(str(bundle.path / TOKENIZER))
        texts = (text for file in ("train", "test") for text, _ in cut_prompts(tokenizer, PAPERS / f"{file}.jsonl"))
        with Supervisor(ServeSettings(bundles=tuple(map(str, bundles)), port=0)) as server:
            turns = Turns(server.url, model=bundle.name, prompts=texts, seconds=asked.seconds)
            turns.speak("warm", streams=STREAMS)
            for i in range(asked.rounds):
                kinds: list[Any] = [
                    lambda: turns.speak("alone", streams=1), lambda: turns.speak("together", streams=STREAMS),
                ]  # fmt: skip
                if encoder is not None:
                    rate = asked.rate or Contract.from_record(encoder.manifest.contract).rate_per_s
                    kinds += [
                        lambda i=i, rate=rate: turns.load("encoder alone", encoder, rate=rate, seed=i, streams=0),
                        lambda i=i, rate=rate: turns.load("encoder beside", encoder, rate=rate, seed=i, streams=STREAMS),
                    ]  # fmt: skip
                for take in kinds if i % 2 == 0 else reversed(kinds):
                    take()
    shares = judge_shares(turns.heard["alone"], turns.heard["together"])
    print(f"{'':<22} {'answers':>8} {'TTFT p50':>9} {'p99':>8} {'TPOT p50':>9} {'p99':>8} {'gap p50':>8} {'p99':>8}")
    rows = {"alone": shares["alone"], "four at once": shares["together"]}
    rows |= {f"  stream {i}": row for i, row in enumerate(shares["by_stream"])}
    if encoder is not None:
        shares["beside"] = sum_up([said for row in turns.heard[f"beside {encoder.name}"] for said in row])
        rows[f"four beside {encoder.name}"] = shares["beside"]
    for name, row in rows.items():
        times = [row[f"{what}_p{q}_ms"] or float("nan") for what in ("ttft", "tpot", "gap") for q in (50, 99)]
        print(f"{name:<22} {row['n']:8d} " + " ".join(f"{ms:{9 if i % 2 == 0 and i < 4 else 8}.2f}" for i, ms in enumerate(times)))
    told = ", ".join(f"{name} {ms:.2f} ms" for name, ms in shares["fair_share_ms"].items())
    print(f"fair share: {told}; TPOT p99 over the smaller: {', '.join(f'{one:.2f}' for one in shares['p99_over_share'])} (at most {MOST_SHARES:g})")
    encoders = {name: judge_encoder(encoder, loads) for name, loads in turns.loads.items()} if encoder else {}
    for name, row in encoders.items():
        print(f"{name}: {row['verdict']}: {row['why']}; p50 {row['p50_ms']:.2f}, p99 {row['p99_ms']:.2f} ms")
    result = {
        "model": asked.model.name, "rung": bundle.manifest.rung, "threads": bundle.rung().threads, "rounds": asked.rounds,
        "seconds": asked.seconds, "streams": STREAMS, "shares": shares, "encoder": encoders,
    }  # fmt: skip
    print(json.dumps(result if asked.brief else keep("streams", result)))
    return 0 if shares["is_kept"] and all(row["verdict"] != "broken" for row in encoders.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
