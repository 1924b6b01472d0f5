"""Every task with every way to adapt on every kind of base: trained, saved, merged or not, compiled, the same answers.

    python benchmarks/adapt_matrix.py                                # all 210, in an order that meets each soon
    python benchmarks/adapt_matrix.py --tasks qa --adapt lora ia3    # some
    python benchmarks/adapt_matrix.py --keep FILE                    # a line for each that is done; goes on after a stop

A cell is a random base of two layers, 32 wide, three steps at a high rate on 24 made-up rows. What is saved is loaded
again and has to have the score on dev that training saw; what stays in the graph then gets random weights, so that it counts; then the
network is compiled to fp32 OpenVINO and run at free lengths and padded to a static one, beside torch. RoBERTa and XLM-R
have a tokenizer with their own special pieces, two between texts. Exit code 1 when a cell disagrees.

Border: trains, compiles and compares by the rooms; keeps no result of its own but the file that is named.
Limits: fp32 alone; random weights say nothing about quality.
"""

import argparse
import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel

from millis.backends import BackendSettings
from millis.backends.grafts import is_of_graft
from millis.compiling.comparing import compare, loaded, run_all
from millis.compiling.onnx import export_embeddings, load_for_export, second_of
from millis.compiling.openvino import convert_onnx
from millis.data.readers import ReadSettings, read_labelled
from millis.data.splits import Splits
from millis.models.bases import MODEL_TYPES
from millis.models.prediction import predict_examples
from millis.models.taggers import load_tagger
from millis.searching.layout import lay_out
from millis.tasks import tasks
from millis.training.batches import encode_examples
from millis.training.loop import train
from millis.training.methods import METHODS
from millis.training.settings import TrainSettings

TASKS = ("ner", "classify", "several labels", "qa", "embedding", "rerank")
WORDS = [
    "maria", "wrote", "from", "lisbon", "about", "her", "order", "eu", "rejects", "german", "call", "hello", "one", "two",
]  # fmt: skip
NAMES = ("maria", "lisbon")
STATIC = 40


def write_base(folder: Path, kind: str) -> Path:
    """Write a random base of a kind, with a tokenizer that has the kind's special pieces."""
    is_roberta = kind.endswith("roberta")
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>") if is_roberta else ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
    first, pad, last, unknown, _ = special
    pieces = special if is_roberta else (pad, unknown, first, last, special[4])
    ids = {piece: place for place, piece in enumerate((*pieces, *WORDS))}
    narrow: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    if kind == "distilbert":
        narrow = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    if kind == "electra":
        narrow["embedding_size"] = 16
    torch.manual_seed(len(kind))
    config = AutoConfig.for_model(
        kind, vocab_size=len(ids), max_position_embeddings=66, initializer_range=0.3, pad_token_id=ids[pad], **narrow
    )
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    between = f"{last} {last}" if is_roberta else last
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {between} $B:1 {last}:1", special_tokens=[(one, ids[one]) for one in (first, last)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_rows(folder: Path, task: str) -> Splits:
    """Write made-up rows of a task, and read them as a fit does."""
    chance = random.Random(3)

    def draw() -> list[str]:
        return chance.choices(WORDS, k=chance.randint(3, 9))

    file = folder / "rows.jsonl"
    texts = [[*draw(), name, *draw()] for name in NAMES * 12]
    rows: list[dict[str, Any]] = []
    for words in texts:
        text, name = " ".join(words), next(word for word in words if word in NAMES)
        start = text.index(name)
        rows += {
            "ner": [{"text": text, "spans": [{"start": start, "end": start + len(name), "label": name.upper()}]}],
            "classify": [{"text": text, "label": name}],
            "several labels": [{"text": text, "labels": [one for one in NAMES if one in words]}],
            "qa": [{"question": "who wrote", "context": text, "answer": name}],
            "embedding": [{"query": text, "positive": " ".join(reversed(words)), "negative": " ".join(draw())}],
            "rerank": [{"query": text, "positive": " ".join(reversed(words)), "negative": " ".join(draw())}],
        }[task]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kind = "classify" if task == "several labels" else task
    how = ReadSettings(separator=",") if task == "several labels" else None
    examples = read_labelled(file, settings=how, of=tasks[kind].data).examples
    return Splits(train=examples, dev=examples, test=examples)


def run_cell(task: str, adapt: str, kind: str, *, folder: Path) -> str:
    """Train, save, load, compile and compare; give what is wrong, or nothing."""
    base, splits = write_base(folder / "base", kind), write_rows(folder, task)
    name, asked = ("classify", {"multi_label": True}) if task == "several labels" else (task, {})
    made = lay_out(base, splits, task=name, asked=asked).task
    settings = TrainSettings(
        epochs=3, patience=None, adapt=adapt, learning_rate=0.01, warmup_share=0.0, batch_size=64, autocast="off"
    )
    result = train(
        base, task=made, train=splits.train, dev=splits.dev, folder=folder / "run", settings=settings,
        tokenizer_file=base / "tokenizer.json",
    )  # fmt: skip
    again = made.score(splits.dev, predict_examples(load_tagger(result.best), task=made, examples=splits.dev))
    if again.value != result.dev_score.value:
        return f"{result.dev_score.value:.4f} on dev while it was trained, {again.value:.4f} as it was saved"
    file = result.best / "model.safetensors"
    after, before = load_file(file), load_file(base / "model.safetensors")
    plain = {key: key.partition(".")[2] for key in after if key.partition(".")[2] in before}
    moved = [key for key, old in plain.items() if not torch.equal(after[key], before[old]) and "norm" not in key.lower()]
    added = [key for key in after if is_of_graft(key)]
    if bool(added) != bool(METHODS[adapt].note) or bool(moved) == bool(added):
        return f"{len(moved)} matrices moved, {len(added)} added"
    random_again = torch.Generator().manual_seed(1)
    for key in added:
        after[key] = after[key] + 0.3 * torch.randn(after[key].shape, generator=random_again)
    save_file(after, file, metadata={"format": "pt"})
    windows = [window.ids for window in encode_examples(made, splits.dev)]
    if max(map(len, windows)) > STATIC:
        return f"windows of {max(map(len, windows))} tokens, more than the static length"
    model = load_for_export(result.best)
    table = export_embeddings(model, folder / "embeddings.onnx")
    convert_onnx(folder / "embeddings.onnx", folder / "openvino", table=table.numpy(), second=second_of(model))
    with loaded("torch", result.best) as backend:
        wanted = run_all(backend, windows, head=made.head)
    for buckets in (None, (STATIC,)):
        with loaded("openvino", folder / "openvino", settings=BackendSettings(buckets=buckets)) as backend:
            got = run_all(backend, windows, buckets=buckets, head=made.head)
        difference = compare(wanted, got, head=made.head)
        if difference.max_abs > 2e-4 or difference.agreement < 0.9999:
            return f"static lengths {buckets}: logits within {difference.max_abs:.3g}, {difference.agreement:.4f} agree"
    return ""


def main() -> None:
    """Run the cells that are asked for and not done yet."""
    parser = argparse.ArgumentParser()
    for flag, known in (("--tasks", TASKS), ("--adapt", tuple(METHODS)), ("--bases", tuple(MODEL_TYPES))):
        parser.add_argument(flag, nargs="+", choices=known, default=known)
    parser.add_argument("--keep", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells = [(task, adapt, kind) for task in options.tasks for adapt in options.adapt for kind in options.bases]
    cells.sort(key=lambda cell: (TASKS.index(cell[0]) + list(METHODS).index(cell[1]) + list(MODEL_TYPES).index(cell[2])) % len(MODEL_TYPES))
    known = [json.loads(line) for line in options.keep.read_text().splitlines()] if options.keep and options.keep.is_file() else []
    wrong = {tuple(row["cell"]): row["wrong"] for row in known}
    for cell in [cell for cell in cells if cell not in wrong]:
        folder, told = Path(tempfile.mkdtemp()), io.StringIO()
        try:
            with contextlib.redirect_stderr(told):
                wrong[cell] = run_cell(*cell, folder=folder)
        except Exception as error:  # a cell that breaks is told like one that disagrees
            wrong[cell] = f"{type(error).__name__}: {error}"
            sys.stderr.write(traceback.format_exc())
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(*cell, wrong[cell] or "agrees", sep=" | ", flush=True)
        if options.keep:
            with options.keep.open("a") as file:
                file.write(json.dumps({"cell": cell, "wrong": wrong[cell]}) + "\n")
    bad = [cell for cell in cells if wrong[cell]]
    print(f"{len(cells) - len(bad)} of {len(cells)} agree")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
