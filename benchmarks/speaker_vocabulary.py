"""A language model with the vocabulary of its texts alone: time per token beside the whole, in one interleaved run.

    python benchmarks/speaker_vocabulary.py MODEL.gguf [--rung int8] [--rounds 5] [--requests 20]

`millis pack` makes two bundles of MODEL: whole, and with --trim-vocabulary by the papers and summaries of SciTLDR's train. Both
are served together and asked in turn (generation.py): prompts of 64 pieces of test's papers, answers of 64 pieces, one request
at a time. Then the surprise at dev's papers, which no trimming has seen, in nats for each byte: a text may be cut into more
pieces where some are gone, so perplexities by the piece could not be compared.
Border: reads ../shared/data; keeps one JSON line in benchmarks/results/speaker_vocabulary.jsonl (not with --brief).
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from common import keep
from generation import CONTEXT, PAPERS, THREADS, cut_prompts, cut_windows, measure, score_packed, serve_all
from millis.bundles.bundle import TOKENIZER, Bundle
from millis.compressing.packing import pack
from millis.contract import Contract


def read_texts(part: str) -> list[str]:
    """Give the papers and summaries of a part."""
    rows = [json.loads(line) for line in (PAPERS / f"{part}.jsonl").read_text("utf-8").splitlines()]
    return [text for row in rows for text in (" ".join(row["source"]), *row["target"])]


def score(bundle: Bundle, rung: str, *, n_windows: int) -> float:
    """Give nats for each byte of dev's papers."""
    tokenizer = Tokenizer.from_file(str(bundle.path / TOKENIZER))
    windows = cut_windows(tokenizer, PAPERS / "dev.jsonl", n=n_windows)
    n_nats = math.log(score_packed(bundle.path / "rungs" / rung, windows)) * sum(len(ids) - 1 for ids in windows)
    return n_nats / sum(len(tokenizer.decode(ids[1:], skip_special_tokens=False).encode()) for ids in windows)


def main() -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--rung", default="int8", choices=("int8", "int4"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=20, help="of each kind, for each server in each round")
    parser.add_argument("--windows", type=int, default=40, help="of pieces, for the surprise")
    parser.add_argument("--brief", action="store_true", help="a try: nothing is kept")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="millis-vocabulary-") as scratch:
        bundles = {
            who: pack(
                str(asked.model), Path(scratch) / f"{who}.millis", contract=Contract(p99="1 s", rate=1), rungs=(asked.rung,),
                context=CONTEXT, threads=THREADS, corpus=corpus,
            )
            for who, corpus in (("whole", None), ("trimmed", read_texts("train")))
        }  # fmt: skip
        table: dict[str, dict[str, Any]] = {
            who: {
                "pieces": Tokenizer.from_file(str(one.path / TOKENIZER)).get_vocab_size(), "bytes": one.count_bytes(one.rung()),
                "nats_a_byte": score(one, asked.rung, n_windows=asked.windows),
            }
            for who, one in bundles.items()
        }  # fmt: skip
        found = cut_prompts(Tokenizer.from_file(str(bundles["whole"].path / TOKENIZER)), PAPERS / "test.jsonl")
        prompts = [text for text, _ in found]
        with serve_all({who: one.path for who, one in bundles.items()}, {}, python=Path(sys.executable), before="") as clients:
            timed = measure(
                clients, prompts=prompts, instruction="Go on with this text.", rounds=asked.rounds, requests=asked.requests
            )
    for who, row in table.items():
        row |= timed[who]["plain"]
        print(
            f"{who:<8} {row['pieces']:,} pieces, {row['bytes'] / 1e6:.1f} MB, {row['nats_a_byte']:.4f} nats a byte; TTFT"
            f" {row['ttft_p50_ms']:.2f} / {row['ttft_p99_ms']:.2f} ms, TPOT {row['tpot_p50_ms']:.2f} / {row['tpot_p99_ms']:.2f}"
        )
    by_round = [1 - ours / theirs for ours, theirs in zip(table["trimmed"]["tpot_p50_by_round"], table["whole"]["tpot_p50_by_round"], strict=True)]
    saved = {"tpot_saved": statistics.median(by_round), "tpot_saved_by_round": by_round}
    print(f"{100 * saved['tpot_saved']:.1f} % of TPOT saved, by round {', '.join(f'{100 * one:.1f}' for one in by_round)}")
    result = {"model": asked.model.name, "rung": asked.rung, "threads": THREADS, "table": table, **saved}
    print(json.dumps(result if asked.brief else keep("speaker_vocabulary", result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
