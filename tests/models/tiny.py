"""A random encoder of two narrow layers, of any type that can be a base.

Border: used by tests only.
"""

from pathlib import Path
from typing import Any

from millis.models.bases import MODEL_TYPES as TYPES

__all__ = ["TYPES", "write_base"]


def write_base(folder: Path, kind: str, *, n_pieces: int = 60, width: int = 32) -> Path:
    """Write config.json and weights; the tokenizer is the caller's."""
    import torch
    from transformers import AutoConfig, AutoModel

    longest = 64 + 2 * (kind.endswith("roberta"))  # RoBERTa counts positions from 2
    narrow: dict[str, Any] = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2,
                              "intermediate_size": 64, "initializer_range": 0.3}  # fmt: skip
    if kind == "distilbert":
        narrow = {"dim": width, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "initializer_range": 0.3}
    if kind == "electra":
        narrow["embedding_size"] = 16
    torch.manual_seed(1)
    config = AutoConfig.for_model(kind, vocab_size=n_pieces, max_position_embeddings=longest, **narrow)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder
