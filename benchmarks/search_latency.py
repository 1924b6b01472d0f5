"""Time /v1/search over many synthetic passages, open loop, the query's embedding included.

    python benchmarks/search_latency.py emb.millis [--passages 100000] [--rate 100] [--seconds 30]

Passages are drawn words of the model's own vocabulary, Zipf-distributed as in text, so that some words are in nearly all
passages; queries are words of a passage with some left out. The index is kept beside the bundle and used again.
Prints p50, p95 and p99 from the scheduled arrival, the mean of each stage, and what building took.
"""

import argparse
import random
import re
import time
from pathlib import Path

import httpx
import msgspec

from millis.bundles import open_bundle
from millis.bundles.bundle import TOKENIZER
from millis.measuring.bench import offer_load
from millis.retrieving import build_index
from millis.retrieving.passages import Passage
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from millis.tasks.tokenization import Tokenizer


def draw_passages(words: list[str], n: int, *, seed: int = 7) -> list[Passage]:
    """Draw n passages of 8 to 40 words."""
    chance = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(len(words))]
    drawn = iter(chance.choices(words, weights=weights, k=41 * n))
    return [
        Passage(
            id=str(i), text=" ".join(next(drawn) for _ in range(chance.randint(8, 40))), fields={"topic": i % 10}
        )
        for i in range(n)
    ]


def draw_queries(passages: list[Passage], n: int, *, seed: int = 8) -> list[str]:
    """Take words of n passages, some left out."""
    chance = random.Random(seed)
    queries = []
    for passage in chance.choices(passages, k=n):
        words = passage.text.split()
        queries.append(" ".join(words[: chance.randint(4, 10)]))
    return queries


def main() -> None:
    """Build or find the index, serve it, offer the load, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--bound-ms", type=float, default=10.0)
    asked = parser.parse_args()
    words = Tokenizer(open_bundle(asked.bundle).path / TOKENIZER).whole_words(20_000)
    passages = draw_passages(words, asked.passages)
    path = asked.bundle.with_name(f"synthetic-{asked.passages}.index")
    if not path.exists():
        began = time.monotonic()
        build_index(path, passages=passages, model=asked.bundle)
        print(f"built in {time.monotonic() - began:.1f} s: {path}")
    queries = draw_queries(passages, 2_000)
    with Supervisor(ServeSettings(bundles=(str(asked.bundle),), indexes=(str(path),), port=0, fallback=False)) as server:
        for name, more in (("no filter", {}), ("a tenth allowed by a filter", {"filter": {"topic": 3}})):
            bodies = [msgspec.json.encode({"query": query, **more}) for query in queries]
            result = offer_load(
                f"{server.url}/v1/search", bodies=bodies, rate_per_s=asked.rate,
                n_requests=round(asked.rate * asked.seconds), bound_ms=asked.bound_ms, warmup=200, name=name,
            )
            shown = "  ".join(f"p{p:g} {result.percentile_ms(p):6.2f}" for p in (50, 95, 99))
            print(f"{name}: {shown} ms at {asked.rate:g}/s, {result.n_misses} of {result.n_requests} over {asked.bound_ms:g} ms")
            with httpx.Client() as client:
                stages: dict[str, list[float]] = {}
                for body in bodies[:200]:
                    answer = client.post(f"{server.url}/v1/search", content=body)
                    for stage, ms in re.findall(r"(\w+);dur=([\d.]+)", answer.headers.get("server-timing", "")):  # none: refused
                        stages.setdefault(stage, []).append(float(ms))
            print(f"  mean of {max(map(len, stages.values()), default=0)}, one by one: " + "  ".join(f"{stage} {sum(ms) / len(ms):.2f}" for stage, ms in stages.items()))


if __name__ == "__main__":
    main()
