"""How many of labels flipped by chance `millis data check` finds, and how many of those it lists were flipped.

    python benchmarks/label_noise.py TRAIN [--share 0.05] [--seed 7]

Prints precision and recall among the flipped rows, also of the first rows listed; keeps one JSON line in
benchmarks/results/label_noise.jsonl. Rows that were wrong before anything was flipped count against the precision.
"""

import argparse
import json
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

from common import keep
from millis.data.readers import read_labelled
from millis.training.label_noise import find_mislabelled

_FIRST = (20, 50, 100, 200)


def main() -> int:
    """Flip, look, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    examples = read_labelled(asked.train, of="labels").examples
    names = sorted({example.labels[0] for example in examples})
    chance = random.Random(asked.seed)
    flipped = set(chance.sample(range(len(examples)), round(asked.share * len(examples))))
    noisy = [
        replace(one, source=str(row), labels=(chance.choice([name for name in names if name != one.labels[0]]),) if row in flipped else one.labels)
        for row, one in enumerate(examples)
    ]
    began = time.monotonic()
    found = [int(one.source) for one in find_mislabelled(noisy, seed=asked.seed)]
    seconds = time.monotonic() - began
    n_right = len(flipped & set(found))
    told = {
        "n_examples": len(examples), "n_labels": len(names), "n_flipped": len(flipped), "n_listed": len(found),
        "precision": round(n_right / max(len(found), 1), 4), "recall": round(n_right / len(flipped), 4),
        "precision_of_first": {n: round(len(flipped & set(found[:n])) / len(found[:n]), 4) for n in _FIRST if len(found) >= n},
        "seconds": round(seconds, 1),
    }  # fmt: skip
    print(f"{len(flipped)} of {len(examples)} labels flipped, {len(found)} listed in {seconds:.1f} s: precision {told['precision']:.2f}, recall {told['recall']:.2f}")
    for n, precision in told["precision_of_first"].items():
        print(f"  of the first {n:>3} listed {100 * precision:.0f} % were flipped")
    print(json.dumps(keep("label_noise", told)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
