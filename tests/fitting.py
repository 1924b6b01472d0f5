"""A small corpus, a small base, and the command line to fit them with.

Border: used by tests only.
"""

import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from making import make_tokenizer

FILLERS = "of wrote from about order her the a to in is at and rejects german call hello world one two three".split()
NAMES = {"PER": ["maria", "garcia"], "ORG": ["northwind", "eu"], "LOC": ["lisbon"]}


def make_sentences(n: int, *, seed: int) -> list[list[tuple[str, str]]]:
    """Draw sentences in which certain words are names."""
    chance = random.Random(seed)
    sentences = []
    for _ in range(n):
        rows = []
        for _ in range(chance.randint(4, 14)):
            if chance.random() < 0.25:
                label = chance.choice(list(NAMES))
                rows.append((chance.choice(NAMES[label]), f"B-{label}"))
            else:
                rows.append((chance.choice(FILLERS), "O"))
        sentences.append(rows)
    return sentences


def make_base(folder: Path) -> Path:
    """Write a random BERT of two narrow layers in Hugging Face layout."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=60, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=128,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    make_tokenizer(folder)
    return folder


def run_millis(*arguments: str | Path, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "millis", *map(str, arguments)], capture_output=True, text=True, timeout=timeout_s, check=False
    )


@dataclass(frozen=True, slots=True)
class Case:
    """The files of a fit, and the flags that repeat it."""

    folder: Path
    flags: tuple[str, ...]

    @property
    def bundle(self) -> Path:
        return self.folder / "names.millis"
