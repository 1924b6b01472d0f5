"""How long a long prompt keeps a stream waiting, and what reading it in steps costs itself.

    python benchmarks/stalls.py BUNDLE [--prompt 1500] [--steps 128,256,2048] [--rounds 3]

The serving rung of a chat bundle on OpenVINO GenAI, loaded once for each number of prompt tokens a step. Each round, one
after the other: the long prompt alone; one of 64 tokens alone; the long one beside a stream that has said 30 pieces.
A stall is the longest time between two pieces of that stream from then on. Ids are drawn, no two prompts alike.
Prints medians and ranges, and one JSON line, kept in benchmarks/results/stalls.jsonl (not with --brief).
Limits: no server and no second process; what the engine does is all that is timed.
"""

import argparse
import json
import queue
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common import keep
from millis.backends import genai
from millis.backends.generator import GeneratorSettings, Sampling, Step
from millis.bundles.bundle import open_bundle

SHORT, SAID, LATER = 64, 30, 90
COLUMNS = ("long_ms", "short_ms", "stall_ms", "beside_ms")


def load(bundle: Path, *, step_tokens: int, n_prompt: int) -> genai.GenAiGenerator:
    """Load a bundle's rung with another number of prompt tokens a step."""
    opened = open_bundle(bundle)
    rung = opened.rung()
    genai.STEP_TOKENS = step_tokens  # type: ignore[attr-defined]
    one = genai.GenAiGenerator()
    one.load(
        opened.path / rung.folder,
        settings=GeneratorSettings(
            context=max(2048, n_prompt + LATER), threads=rung.threads, keeps_float32=rung.keeps_float32
        ),
    )
    return one


def read(one: genai.GenAiGenerator, ids: list[int]) -> float:
    """Time a prompt to its first piece, in ms."""
    said: queue.SimpleQueue[Step] = queue.SimpleQueue()
    began = time.perf_counter()
    one.start(ids, sampling=Sampling(max_tokens=1), emit=said.put)
    said.get(timeout=60)
    return 1000 * (time.perf_counter() - began)


def stall(one: genai.GenAiGenerator, short: list[int], ids: list[int]) -> tuple[float, float]:
    """Give a stream's longest gap while a prompt is read beside it, and the prompt's time, in ms."""
    said: queue.SimpleQueue[tuple[float, Step]] = queue.SimpleQueue()
    one.start(short, sampling=Sampling(max_tokens=SAID + LATER), emit=lambda step: said.put((time.perf_counter(), step)))
    for _ in range(SAID):
        last_s, _step = said.get(timeout=60)
    beside_ms = read(one, ids)
    longest_s, ending = 0.0, None
    while ending is None:
        at_s, step = said.get(timeout=60)
        longest_s, last_s, ending = max(longest_s, at_s - last_s), at_s, step.ending
    return 1000 * longest_s, beside_ms


def draw(seed: int) -> Iterator[random.Random]:
    """Give what draws ids, for ever."""
    while True:
        seed += 1
        yield random.Random(seed)


def main() -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--prompt", type=int, default=1500, help="tokens of the long prompt")
    parser.add_argument("--steps", default="128,256,2048", help="tokens of prompts a step, by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--brief", action="store_true", help="a try: nothing is kept")
    asked = parser.parse_args()
    draws = draw(1)

    def prompt(n: int) -> list[int]:
        return next(draws).choices(range(100, 30_000), k=n)

    engines = {int(n): load(asked.bundle, step_tokens=int(n), n_prompt=asked.prompt) for n in asked.steps.split(",")}
    for one in engines.values():
        read(one, prompt(SHORT))
        read(one, prompt(asked.prompt))
    seen: dict[int, list[tuple[float, ...]]] = {n: [] for n in engines}
    for _ in range(asked.rounds):
        for n, one in engines.items():
            alone = read(one, prompt(asked.prompt)), read(one, prompt(SHORT))
            seen[n].append((*alone, *stall(one, prompt(SHORT), prompt(asked.prompt))))
    for one in engines.values():
        one.close()
    print(f"{'a step':>8}" + "".join(f"{name:>22}" for name in COLUMNS))
    rows = {}
    for n, rounds in seen.items():
        values = np.array(rounds)
        low, middle, high = values.min(axis=0), np.median(values, axis=0), values.max(axis=0)
        rows[n] = {name: [round(float(ms), 1) for ms in values[:, i]] for i, name in enumerate(COLUMNS)}
        cells = (f"{m:.0f} ({a:.0f}-{b:.0f})" for m, a, b in zip(middle, low, high, strict=True))
        print(f"{n:8d}" + "".join(f"{cell:>22}" for cell in cells))
    result = {"bundle": asked.bundle.name, "prompt": asked.prompt, "rounds": asked.rounds, "by_step": rows}
    print(json.dumps(result if asked.brief else keep("stalls", result)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
