"""A random BERT of two narrow layers, as a trained tagger and as the files of every backend.

Border: used by tests only; makes files in the folders that it is given.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from making import make_tokenizer
from millis.backends.fake import write_fake
from millis.backends.static import StaticWeights, save_static

LABELS = ("O", "B-ORG", "I-ORG", "B-PER", "I-PER")


def write_tagger(folder: Path, *, seed: int = 1) -> Path:
    """Write a tagger in Hugging Face layout, its weights drawn wide enough that labels differ clearly."""
    import torch
    from transformers import BertConfig, BertModel

    from millis.models.taggers import build_tagger, save_tagger
    from millis.tasks.task import Head

    base = folder.with_name(f"{folder.name}-base")
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    BertModel(config).save_pretrained(base)
    save_tagger(build_tagger(base, head=Head(LABELS), seed=seed), folder, tokenizer_file=make_tokenizer(base))
    return folder


def write_backend_files(folder: Path, *, tagger: Path) -> dict[str, Path]:
    """Write a tagger's fp32 files for every backend: a folder by the backend's name."""
    from millis.compiling.onnx import export_embeddings, export_ids, load_for_export, second_of
    from millis.compiling.openvino import convert_onnx

    loaded = load_for_export(tagger)
    table = export_embeddings(loaded, folder / "embeddings.onnx")
    convert_onnx(folder / "embeddings.onnx", folder / "openvino", table=table.numpy(), second=second_of(loaded))
    export_ids(loaded, folder / "onnxruntime" / "model.onnx")
    write_fake(folder / "fake", labels=len(LABELS))
    save_static(folder / "static", draw_static())
    return {name: folder / name for name in ("fake", "onnxruntime", "openvino", "static")} | {"torch": tagger}


def draw_static(*, rows: int = 2, n_outputs: int = 6, seed: int = 1) -> StaticWeights:
    """Draw a static model of 60 pieces."""
    chance = np.random.default_rng(seed)

    def draw(*shape: int) -> NDArray[np.float32]:
        return chance.normal(size=shape).astype(np.float32)

    return StaticWeights(
        table=draw(60, 16).astype(np.float16), pairs=draw(32, 16).astype(np.float16), inside=draw(16, 24),
        inside_bias=draw(24), out=draw(24, n_outputs), out_bias=draw(n_outputs), rows=rows,
    )  # fmt: skip


def draw_windows(n: int, *, seed: int = 0) -> list[NDArray[np.int64]]:
    """Draw windows of 4 to 24 token ids."""
    chance = np.random.default_rng(seed)
    return [chance.integers(5, 60, int(length)) for length in chance.integers(4, 25, n)]


@contextmanager
def room_for(n_bytes: int) -> Iterator[None]:
    """Let no file grow beyond n_bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
