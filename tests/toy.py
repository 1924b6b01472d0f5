"""A tiny base, a tiny task and a runner: what the training tests share.

As a program, `python toy.py BASE RUN_FOLDER SETTINGS_JSON`, it trains in a process of its own, to be killed.
"""

import json
import math
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from millis.data.examples import Span, SpanExample
from millis.errors import MillisError
from millis.tasks import Score, Window
from millis.tasks.task import Head
from millis.tasks.tokenization import Tokenizer

NAMES = [f"name{i}" for i in range(12)]
WORDS = [f"word{i}" for i in range(40)]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *NAMES, *WORDS, *[f"unused{i}" for i in range(30)]]


@pytest.fixture(autouse=True, scope="module")
def one_core() -> Iterator[None]:
    """Keep to one core: the models are too small to share, a second thread only waits for the first."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})
    yield
    os.sched_setaffinity(0, cores)


def write_base(folder: Path, *, n_pieces: int = len(PIECES), **config: Any) -> Path:
    """Write a random BERT of two narrow layers, with a tokenizer, in Hugging Face layout."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(1)
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
                "max_position_embeddings": 64, "vocab_size": n_pieces, **config}  # fmt: skip
    BertModel(BertConfig(**settings)).save_pretrained(folder)
    numbers = {piece: i for i, piece in enumerate(PIECES)}
    tokenizer = HuggingFaceTokenizer(WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def make_examples(n: int, *, seed: int) -> list[SpanExample]:
    """Make sentences of 2 to 20 words, names among them."""
    draw = random.Random(seed)
    examples = []
    for _ in range(n):
        words = draw.choices([*NAMES, *WORDS], k=draw.randint(2, 20))
        starts = [sum(len(word) + 1 for word in words[:i]) for i in range(len(words))]
        spans = tuple(
            Span(start, start + len(word), "NAME")
            for start, word in zip(starts, words, strict=True)
            if word in NAMES
        )
        examples.append(SpanExample(text=" ".join(words), spans=spans))
    return examples


class ToyTask:
    """One label per piece; its score is the mean probability of the right label, which hardly ever ties."""

    example = "name1 word2"
    labels = ("O", "NAME")
    head = Head(labels)

    def __init__(self, tokenizer_file: Path, *, scores: list[float] | None = None) -> None:
        self._tokenizer = Tokenizer(tokenizer_file)
        self._scores = scores

    def encode(self, text: str, *, example: SpanExample | None = None, options: Any = None) -> tuple[Window, ...]:
        pieces = self._tokenizer.encode(text)
        ids = np.array([*self._tokenizer.prefix, *pieces.ids, *self._tokenizer.suffix], np.int64)
        targets = None
        if example:
            named = {span.start for span in example.spans}
            targets = np.array([-100, *(int(start in named) for start, _ in pieces.offsets), -100], np.int64)
        return (Window(ids=ids, targets=targets, places=pieces.offsets),) if pieces.ids else ()

    def decode(self, text: str, windows: Any, logits: Any, options: Any = None) -> dict[str, Any]:
        if not windows:
            return {"names": {}}
        odds = logits[0][1:-1, 1] - logits[0][1:-1, 0]
        return {"names": {start: 1 / (1 + math.exp(-float(odd)))
                          for (start, _), odd in zip(windows[0].places, odds, strict=True)}}  # fmt: skip

    def score(self, examples: Any, answers: Any) -> Score:
        if self._scores:
            return Score(value=self._scores.pop(0), name="F1")
        right = [
            chance if start in {span.start for span in example.spans} else 1 - chance
            for example, answer in zip(examples, answers, strict=True)
            for start, chance in answer["names"].items()
        ]
        return Score(value=100 * sum(right) / len(right), name="rightness")


def run(base: Path, folder: Path, *, scores: list[float] | None = None, n: int = 200, **settings: Any) -> Any:
    """Train on the toy."""
    from millis.training.loop import train
    from millis.training.settings import TrainSettings

    tokenizer_file = base / "tokenizer.json"
    return train(
        base,
        task=ToyTask(tokenizer_file, scores=scores),
        train=make_examples(n, seed=1),
        dev=make_examples(40, seed=2),
        folder=folder,
        settings=TrainSettings(**{"learning_rate": 3e-3, "batch_size": 8, **settings}),
        tokenizer_file=tokenizer_file,
    )


if __name__ == "__main__":
    try:
        run(Path(sys.argv[1]), Path(sys.argv[2]), **json.loads(sys.argv[3]))
    except MillisError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
