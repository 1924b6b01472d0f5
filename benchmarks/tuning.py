"""A small language model taught one task: its answers on test before and after, through the same engine at eight bits.

    python benchmarks/tuning.py MODEL.gguf --set scitldr [--limit 400] [--epochs 2] [--adapt full]
    python benchmarks/tuning.py MODEL.gguf --set tatoeba [--limit 4000] [--rungs 3 --max-drop 2]

SciTLDR: one-sentence summaries of papers (ROUGE-L). Tatoeba: English to Chinese (chrF), split by the English side.
Border: reads ../shared/data; keeps one JSON line in benchmarks/results/tuning.jsonl.
Limits: one seed a run; --limit rows of train and MOST_SCORED of test, drawn at random.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

from common import ROOT, keep
from millis.bundles import open_bundle
from millis.contract import Contract
from millis.data.dialogues import read_dialogues
from millis.data.splits import make_splits
from millis.searching.hearing import MOST_SCORED
from millis.searching.telling import TellSettings, tell
from millis.training.settings import TrainSettings

DATA = ROOT.parent / "shared" / "data"
TASKS = {
    "scitldr": ("summarise", "Summarise this paper in one sentence.\n\n{text}"),
    "tatoeba": ("translate", "Translate into Chinese: {text}"),
}


def read_set(name: str, *, seed: int) -> dict[str, list[dict[str, object]]]:
    """Give rows of train, dev and test as fit reads them, in random order."""
    if name == "scitldr":
        files = {part: DATA / "summ_en_scitldr" / f"{part}.jsonl" for part in ("train", "dev", "test")}
        found = {part: read_dialogues(file, is_chat=False) for part, file in files.items()}
    else:
        found = make_splits(read_dialogues(DATA / "mt_tatoeba_cmn" / "cmn.txt", is_chat=False), seed=seed).parts()
    draw = random.Random(seed)  # files stand in order, Tatoeba's with the shortest first
    return {
        part: [{"source": one.text, "target": list(one.answers)} for one in draw.sample(rows, k=len(rows))]
        for part, rows in found.items()
    }


def main() -> None:
    """Teach, score, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--set", choices=TASKS, required=True)
    parser.add_argument("--limit", type=int, default=400, help="rows of train; of dev a quarter of that")
    parser.add_argument("--scored", type=int, default=MOST_SCORED)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--adapt", default="full")
    parser.add_argument("--rungs", type=int, default=1, help="of the ladder; layers go in the smaller ones")
    parser.add_argument("--max-drop", type=float, default=1.0, help="points that the rung that serves may lose on dev")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--brief", action="store_true", help="a try: nothing is kept")
    asked = parser.parse_args()
    rows = read_set(asked.set, seed=asked.seed)
    most = {"train": asked.limit, "dev": max(asked.limit // 4, 1), "test": asked.scored}
    task, instruction = TASKS[asked.set]
    with tempfile.TemporaryDirectory(prefix="millis-tuning-") as scratch:
        files = {part: Path(scratch) / f"{part}.jsonl" for part in most}
        for part, file in files.items():
            file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[part][: most[part]]), "utf-8")
        out = Path(scratch) / "taught.millis"
        training = TrainSettings(epochs=asked.epochs, adapt=asked.adapt, seed=asked.seed)
        _, quality = tell(Contract(p99="500 ms", rate=2, max_drop=asked.max_drop), TellSettings(
            base=asked.model, out=out, task=task, instruction=instruction, training=training, rungs=asked.rungs, **files,
        ))  # fmt: skip
        made = open_bundle(out).manifest
    told = {choice.what: (choice.choice, choice.reason) for choice in made.choices}
    rungs = {
        one.name: {
            "quality": one.quality, "latency": [(row.tokens, row.p50_ms, row.p99_ms) for row in one.latency],
            "told": {choice.what: (choice.choice, choice.reason) for choice in one.choices},
        }
        for one in made.rungs
    }  # fmt: skip
    result = {
        "set": asked.set, "model": Path(asked.model).name, "rows": most, "epochs": asked.epochs, "adapt": asked.adapt,
        "seed": asked.seed, "quality": quality, "told": told, "rungs": rungs,
    }  # fmt: skip
    print(json.dumps(result if asked.brief else keep("tuning", result), ensure_ascii=False))


if __name__ == "__main__":
    main()
