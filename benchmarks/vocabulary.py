"""What trimming a base's vocabulary to a labelled file saves: pieces, bytes, load time, memory.

    python benchmarks/vocabulary.py BASE DATA [--ends inclusive] [--overlaps longest] [--unseen FILE]

Trims the base by the texts of DATA into a temporary folder, and loads what a server loads of both, each in a process of
its own, in turn: the tokenizer, and the embedding table as the OpenVINO backend has it (fp16, memory-mapped), whose
rows are then looked up for every text of DATA. Memory is what the process's resident set grew by, mapped pages in use
included. With --unseen, tells how many more pieces those texts are cut into. Keeps one JSON line in
benchmarks/results/vocabulary.jsonl.

Border: the graph behind the embeddings is the same before and after, and is not loaded. Limits: Linux; files are in the
page cache, so load time is without a disk.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from common import keep
from millis.backends.ir import EMBEDDINGS
from millis.bundles.bundle import TOKENIZER
from millis.compressing.vocabulary import trim_vocabulary
from millis.data.readers import read_examples
from millis.models.bases import find_base
from millis.models.weights import weights_files
from millis.tasks.tokenization import Tokenizer

LOAD = """
import json, sys, time
from pathlib import Path
import numpy as np
from millis.tasks.tokenization import Tokenizer

def resident_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024 / 1e6

folder = Path(sys.argv[1])
texts = np.split(np.load(folder / "ids.npy"), np.load(folder / "ends.npy")[:-1])
rest, began = resident_mb(), time.perf_counter()
tokenizer = Tokenizer(folder / "tokenizer.json")
tokenizer_ms, tokenizer_mb = 1000 * (time.perf_counter() - began), resident_mb() - rest
rest, began = resident_mb(), time.perf_counter()
table = np.load(folder / "embeddings.npy", mmap_mode="r")
for ids in texts:
    table[ids].astype(np.float32)
rows_ms, rows_mb = 1000 * (time.perf_counter() - began), resident_mb() - rest
print(json.dumps(dict(tokenizer_ms=tokenizer_ms, tokenizer_mb=tokenizer_mb, rows_ms=rows_ms, rows_mb=rows_mb)))
"""


def write_serving_files(base: Path, folder: Path, *, texts: Sequence[str]) -> None:
    """Write what a server loads of a base, and the ids that its tokenizer gives for the texts."""
    folder.mkdir()
    (folder / TOKENIZER).write_bytes((base / TOKENIZER).read_bytes())
    tensors = {name: tensor for file in weights_files(base) for name, tensor in load_file(file).items()}
    table = next(tensor for name, tensor in tensors.items() if name.endswith("word_embeddings.weight"))
    np.save(folder / EMBEDDINGS, table.numpy().astype(np.float16))
    tokenizer = Tokenizer(folder / TOKENIZER)
    ids = [np.array(tokenizer.encode(text).ids, np.int64) for text in texts]
    np.save(folder / "ids.npy", np.concatenate(ids))
    np.save(folder / "ends.npy", np.cumsum([len(one) for one in ids]))


def load(folder: Path) -> dict[str, float]:
    """Load serving files in a fresh process: milliseconds and resident MB."""
    done = subprocess.run([sys.executable, "-c", LOAD, str(folder)], capture_output=True, text=True, check=True)
    seen: dict[str, float] = json.loads(done.stdout)
    return seen


def count_pieces(file: Path, texts: Sequence[str]) -> int:
    """Count the pieces that texts are cut into."""
    tokenizer = Tokenizer(file)
    return sum(len(tokenizer.encode(text).ids) for text in texts)


def measure(base: Path, *, texts: Sequence[str], unseen: Sequence[str], rounds: int) -> dict[str, Any]:
    """Trim, then load both in turn; medians, and every round."""
    with tempfile.TemporaryDirectory() as scratch:
        small = Path(scratch) / "small"
        began = time.perf_counter()
        trimmed = trim_vocabulary(base, small, texts=texts)
        trim_s = time.perf_counter() - began
        places = {"before": base, "after": small}
        served = {name: Path(scratch) / name for name in places}
        for name, place in places.items():
            write_serving_files(place, served[name], texts=texts)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in places}
        for _ in range(rounds):
            for name, folder in served.items():
                runs[name].append(load(folder))
        result: dict[str, Any] = {"n_texts": len(texts), "n_unseen": len(unseen), "trim_s": trim_s}
        for name, place in places.items():
            result[name] = {
                "pieces": getattr(trimmed, f"pieces_{name}"),
                "model_mb": getattr(trimmed, f"bytes_{name}") / 1e6,
                "tokenizer_file_mb": (place / TOKENIZER).stat().st_size / 1e6,
                "table_file_mb": (served[name] / EMBEDDINGS).stat().st_size / 1e6,
                **{key: statistics.median(run[key] for run in runs[name]) for key in runs[name][0]},
                "unseen_pieces": count_pieces(place / TOKENIZER, unseen),
                "runs": runs[name],
            }
    return result


def main() -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("base")
    parser.add_argument("data", type=Path)
    parser.add_argument("--ends", default="exclusive")
    parser.add_argument("--overlaps", default="error")
    parser.add_argument("--unseen", type=Path, help="texts that the vocabulary is not trimmed by")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()

    def read(file: Path | None) -> list[str]:
        if file is None:
            return []
        return [example.text for example in read_examples(file, ends=asked.ends, overlaps=asked.overlaps)]

    result = measure(find_base(asked.base), texts=read(asked.data), unseen=read(asked.unseen), rounds=asked.rounds)
    print(f"{'':20}{'before':>12}{'after':>12}   trimmed in {result['trim_s']:.1f} s")
    for key in result["before"]:
        if key != "runs":
            before, after = result["before"][key], result["after"][key]
            print(f"{key:20}{before:12,.1f}{after:12,.1f}" if isinstance(before, float) else f"{key:20}{before:12,}{after:12,}")
    print(json.dumps(keep("vocabulary", result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
