"""Question answering and reranking beside the plain recipe: score on test and seconds of training, same base and budget.

    python benchmarks/pairs_quality.py --sets cmrc --base E5_FOLDER       # Chinese answers from texts
    python benchmarks/pairs_quality.py --sets simclue --base E5_FOLDER    # Chinese ranking, triples

Ours is what `millis fit` does up to the reference. The rival is AutoModelForQuestionAnswering (or
AutoModelForSequenceClassification on pairs) under transformers' Trainer with its defaults (float32, AdamW, linear decay,
token types where the base has them), padded to the longest window, the same epochs and learning rate, answers taken
as its examples take them: the best of 20 starts and ends by the sum of their logits. int8 is ours quantised by NNCF, run
by OpenVINO. Scores are ours for all: F1 by character and exact match, or how often the first document fits.

Border: reads ../shared/data; writes nothing but the result.
Limits: one seed a run (--seed); the two train one after the other, so the ratio of times carries the machine's drift.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from classify_quality import Parts, train_task
from common import ROOT, keep
from millis.cores import n_cores
from millis.data.readers import ReadSettings, read_labelled
from millis.data.splits import make_splits
from millis.models.bases import find_base
from millis.tasks.qa import QaTask
from millis.tasks.rerank import RerankTask
from millis.tasks.scoring import score_answers, score_rankings
from millis.tasks.tokenization import Tokenizer

DATA = ROOT.parent / "shared" / "data"
STRIDE, BEST = 64, 20


def main() -> None:
    """Train both on each set, tell, keep."""
    options = read_options()
    base = find_base(options.base)
    kinds = {"cmrc": (QaTask, answer_plainly), "simclue": (RerankTask, rank_plainly)}
    for name in options.sets:
        parts = read_set(name, seed=options.seed, most=options.limit)
        kind, plainly = kinds[name]
        task = kind.learn(Tokenizer(base / "tokenizer.json"), parts.train, max_tokens=options.longest, overlap=STRIDE)
        ours = train_task(base, parts, task=task, options=options)
        tell("pairs_quality", name, ours=ours, plain=plainly(base, parts, options=options), parts=parts, options=options)


def tell(
    benchmark: str, name: str, *, ours: dict[str, Any], plain: dict[str, Any], parts: Parts, options: Any
) -> None:
    """Print what both reached on a set, and keep it."""
    int8 = float("nan") if ours["int8_score"] is None else ours["int8_score"]
    print(f"{name}: {len(parts.train)} / {len(parts.dev)} / {len(parts.test)}\n{'':28}{'score':>10}{'seconds':>10}")
    print(f"{'millis, fp32':28}{ours['score']:10.2f}{ours['seconds']:10.1f}   {ours['report']}")
    print(f"{'millis, int8 compiled':28}{int8:10.2f}")
    print(f"{'Trainer, padded':28}{plain['score']:10.2f}{plain['seconds']:10.1f}   {plain['report']}", flush=True)
    keep(benchmark, {
        "set": name, "ours": ours, "plain": plain, "ratio": round(plain["seconds"] / ours["seconds"], 2),
        "epochs": options.epochs, "longest": options.longest, "seed": options.seed, "base": Path(options.base).name,
        "rows": [len(one) for one in parts],
    })  # fmt: skip


def read_set(name: str, *, seed: int, most: int | None) -> Parts:
    """Read a set by name, dev and test carved as INDEX.md says where it has none."""
    if name == "cmrc":
        folder = DATA / "qa_zh_cmrc2018"
        train_part, test = (
            read_labelled(folder / f"cmrc2018_{one}.json", settings=ReadSettings(strays="skip", blanks="skip"), of="answers").examples
            for one in ("dev", "trial")
        )
        return Parts(*make_splits(train_part[:most], test=test[:most], seed=seed).parts().values())
    if name == "simclue":
        rows = read_labelled(DATA / "match_zh_simclue" / "train_rank_1w.json", of="rankings").examples
        return Parts(*make_splits(rows[:most], seed=seed).parts().values())
    raise SystemExit(f"no set {name}: choose among cmrc, simclue.")


def answer_plainly(base: Path, parts: Parts, *, options: Any) -> dict[str, Any]:
    """Fine-tune for answers under Trainer; score on test."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    torch.manual_seed(options.seed)
    model = AutoModelForQuestionAnswering.from_pretrained(base, local_files_only=True)

    def encode(examples: Sequence[Any]) -> Any:
        return tokenizer(
            [one.text.question for one in examples], [one.text.context for one in examples], truncation="only_second",
            max_length=options.longest, stride=STRIDE, return_overflowing_tokens=True, return_offsets_mapping=True,
            padding="max_length",
        )  # fmt: skip

    def keys(encoded: Any, i: int) -> dict[str, Any]:
        return {key: encoded[key][i] for key in ("input_ids", "attention_mask", "token_type_ids") if key in encoded}

    encoded = encode(parts.train)
    rows = []
    for i, owner in enumerate(encoded["overflow_to_sample_mapping"]):
        places, example = encoded.sequence_ids(i), parts.train[owner]
        start = end = 0
        if example.answers:
            inside = [
                at for at, (first, last) in enumerate(encoded["offset_mapping"][i])
                if places[at] == 1 and first < example.answers[0][1] and example.answers[0][0] < last
            ]  # fmt: skip
            offsets = encoded["offset_mapping"][i]
            is_whole = inside and offsets[inside[0]][0] <= example.answers[0][0] and offsets[inside[-1]][1] >= example.answers[0][1]
            start, end = (inside[0], inside[-1]) if is_whole else (0, 0)
        rows.append({**keys(encoded, i), "start_positions": start, "end_positions": end})
    trainer, seconds = run_trainer(model, rows, options=options)
    encoded = encode(parts.test)
    starts, ends = trainer.predict([keys(encoded, i) for i in range(len(encoded["input_ids"]))]).predictions[:2]
    best: dict[int, tuple[float, str]] = {}
    for i, owner in enumerate(encoded["overflow_to_sample_mapping"]):
        places, offsets = encoded.sequence_ids(i), encoded["offset_mapping"][i]
        firsts, lasts = (np.argsort(-logits[i])[:BEST].tolist() for logits in (starts, ends))
        for first in firsts:
            for last in lasts:
                if places[first] == places[last] == 1 and first <= last < first + 64:
                    score = float(starts[i][first] + ends[i][last])
                    if score > best.get(owner, (-np.inf, ""))[0]:
                        best[owner] = (score, parts.test[owner].text.context[offsets[first][0] : offsets[last][1]])
    answers = [best.get(i, (0.0, ""))[1] for i in range(len(parts.test))]
    score = score_answers([one.surfaces for one in parts.test], answers)
    return {"score": round(score.value, 2), "seconds": seconds, "report": score.report.replace("\n", "; ")}


def rank_plainly(base: Path, parts: Parts, *, options: Any) -> dict[str, Any]:
    """Fine-tune a classifier of pairs under Trainer; score on test."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    torch.manual_seed(options.seed)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2, local_files_only=True)

    def rows(examples: Sequence[Any]) -> list[dict[str, Any]]:
        pairs = [
            (one.text.query, document, fits) for one in examples
            for document, fits in zip(one.text.documents, one.is_relevant, strict=True)
        ]  # fmt: skip
        encoded = tokenizer(
            [pair[0] for pair in pairs], [pair[1] for pair in pairs], truncation=True, max_length=options.longest,
            padding="max_length",
        )  # fmt: skip
        names = [key for key in ("input_ids", "attention_mask", "token_type_ids") if key in encoded]
        return [{**{key: encoded[key][i] for key in names}, "labels": int(pair[2])} for i, pair in enumerate(pairs)]

    trainer, seconds = run_trainer(model, rows(parts.train), options=options)
    logits = trainer.predict(rows(parts.test)).predictions
    scores = iter((1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))).tolist())
    by_query = [[next(scores) for _ in one.is_relevant] for one in parts.test]
    score = score_rankings([one.is_relevant for one in parts.test], by_query)
    return {"score": round(score.value, 2), "seconds": seconds, "report": score.report.replace("\n", "; ")}


def run_trainer(model: Any, rows: list[dict[str, Any]], *, options: Any) -> tuple[Any, float]:
    """Train under Trainer; give it, and the seconds."""
    from transformers import Trainer, TrainingArguments, default_data_collator

    torch.set_num_threads(n_cores())
    folder = tempfile.mkdtemp()
    trainer = Trainer(
        model=model.float(),
        args=TrainingArguments(
            output_dir=folder, num_train_epochs=options.epochs, per_device_train_batch_size=32,
            per_device_eval_batch_size=32, learning_rate=options.rate, seed=options.seed, save_strategy="no",
            report_to="none", use_cpu=not torch.cuda.is_available(), disable_tqdm=True, logging_strategy="no", warmup_steps=0.1,
        ),
        train_dataset=rows, data_collator=default_data_collator,
    )  # fmt: skip
    started = time.perf_counter()
    trainer.train()
    return trainer, round(time.perf_counter() - started, 1)


def read_options(
    description: str | None = __doc__, *, sets: Sequence[str] = ("cmrc",), base: str | None = None, epochs: int = 2,
    longest: int = 256,
) -> Any:  # fmt: skip
    """Read the command line; the rest is what is usual for a benchmark."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=list(sets))
    parser.add_argument("--base", default=base, required=base is None)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--rate", type=float, default=2e-4, help="peak learning rate of both")
    parser.add_argument("--longest", type=int, default=longest, help="tokens of a window, all its texts together")
    parser.add_argument("--limit", type=int, default=None, help="rows to take, to try it")
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    main()
