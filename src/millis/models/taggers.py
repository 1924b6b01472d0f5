"""Encoders with a head that labels every token, or the text, or without one: build from a base, save, load.

Border: folders in Hugging Face layout to torch modules and back; training and exporting are done elsewhere.
Limits: the types in bases.MODEL_TYPES.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as _to_safetensors
from transformers import AutoConfig, AutoModelForTokenClassification

from millis.backends.encoder import ACROSS, POOLED, ROWS, SECOND, find_types, read_out, take_head_off
from millis.backends.grafts import load_changed
from millis.errors import InvalidBase
from millis.models.files import write_whole
from millis.models.quiet import quietly
from millis.tasks.task import Head

_HEAD = "classifier."
_ATTENTION_DROPOUT = {"distilbert": "attention_dropout"}  # the others: attention_probs_dropout_prob


class Tagger(torch.nn.Module):
    """An encoder with a head, for tokens or whole texts, as a plain function of arrays.

    Usage:
        logits = tagger(input_ids, attention_mask)   # int64 (B, T) twice -> float32 (B, R, C)

    Args:
        network: the transformers model; its weights, configuration and embeddings are reached through it.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    @property
    def config(self) -> Any:
        """The model's configuration, as config.json has it."""
        return self.network.config

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(self.config.id2label[i] for i in range(self.config.num_labels))

    @property
    def rows(self) -> int | None:
        """How many rows of logits a text gets; None for one per token."""
        return getattr(self.config, ROWS, None)

    @property
    def is_across(self) -> bool:
        """Whether each output is a row of logits over the tokens."""
        return bool(getattr(self.config, ACROSS, False))

    @property
    def pad_id(self) -> int:
        """The id that fills a row up."""
        return int(self.config.pad_token_id or 0)

    @property
    def longest(self) -> int:
        """How many tokens an input may have, special tokens included."""
        offset = self.pad_id + 1 if self.config.model_type in ("roberta", "xlm-roberta") else 0
        return int(self.config.max_position_embeddings) - offset

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Give logits (B, R, C) for ids and mask, int64 (B, T)."""
        types = find_types(input_ids, config=self.config)
        logits: torch.Tensor = self.network(input_ids=input_ids, attention_mask=attention_mask, **types).logits
        return read_out(logits, attention_mask, config=self.config)


def build_tagger(base: Path, *, head: Head, seed: int) -> Tagger:
    """Put a new head on a base.

    Args:
        base: a folder that `find_base` gave.
        head: what the network is to answer.
        seed: of the head's first weights.
    Raises:
        InvalidBase: the weights do not load, or are not those of this configuration.
    Attention has no dropout: the fast CPU kernel knows none. The base's dropout elsewhere stays.
    """
    with torch.random.fork_rng(devices=[]), quietly():
        torch.manual_seed(seed)
        config = _configure(base, head)
        network, report = _load(base, config=config, ignore_mismatched_sizes=True)
    wrong = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    wrong = {key for key in wrong if not key.startswith(_HEAD)}
    if wrong:
        raise InvalidBase(
            f"{base.name} lacks {len(wrong)} of the weights that its config.json asks for, {min(wrong)} among"
            " them: the two do not belong together. Copy both again from where the base came."
        )
    return Tagger(network)


def load_tagger(folder: Path) -> Tagger:
    """Load a tagger that `save_tagger` saved, in fp32, ready to run.

    Raises:
        InvalidBase: the folder holds no whole tagger.
    """
    with quietly():
        network, report = _load(folder)
    if report["missing_keys"] or report["mismatched_keys"]:
        raise InvalidBase(
            f"{folder.name} is no trained tagger, its head is missing: give the folder that training wrote."
        )
    tagger = Tagger(network)
    tagger.eval()
    return tagger


def divide_logits(model: Tagger, *, by: float) -> None:
    """Let the head answer logits that are so many times smaller, in place."""
    head = model.network.classifier
    with torch.no_grad():
        head.weight /= by
        head.bias /= by


def save_tagger(model: Tagger, folder: Path, *, tokenizer_file: Path) -> None:
    """Write config.json, tokenizer.json and model.safetensors, each whole or not at all, the weights last.

    Raises:
        RunFailed: the disk is full; what stood there before is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {**model.config.to_dict(), "architectures": [type(model.network).__name__], "dtype": "float32"}
    write_whole(
        folder / "config.json", lambda out: out.write(json.dumps(config, indent=2, sort_keys=True).encode())
    )
    with tokenizer_file.open("rb") as tokenizer:
        write_whole(folder / "tokenizer.json", lambda out: shutil.copyfileobj(tokenizer, out))
    tensors = {name: tensor.contiguous() for name, tensor in model.network.state_dict().items()}
    weights = _to_safetensors(tensors, metadata={"format": "pt"})
    write_whole(folder / "model.safetensors", lambda out: out.write(weights))


def _configure(base: Path, head: Head) -> Any:
    try:
        config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library's errors have no common base
        raise _not_loaded(base, error) from error
    setattr(config, _ATTENTION_DROPOUT.get(config.model_type, "attention_probs_dropout_prob"), 0.0)
    config.id2label = dict(enumerate(head.outputs))
    config.label2id = {label: i for i, label in enumerate(head.outputs)}
    second = head.separator if getattr(config, "type_vocab_size", 0) == 2 else None
    found = ((ROWS, head.rows), (ACROSS, head.is_across or None), (POOLED, head.pooled), (SECOND, second))
    for name, value in found:
        if value is not None or hasattr(config, name):  # a base may have been trained with another head, or without
            setattr(config, name, value)
    return config


def _load(folder: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    try:
        changed = load_changed(folder)
        if changed is not None:
            return changed, {"missing_keys": (), "mismatched_keys": ()}
        network, report = AutoModelForTokenClassification.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True,
            attn_implementation="sdpa", dtype=torch.float32, output_loading_info=True, **options,
        )  # fmt: skip
    except Exception as error:  # the library's errors have no common base
        raise _not_loaded(folder, error) from error
    take_head_off(network)
    if getattr(network.config, POOLED, None) is not None:
        report = report | {"missing_keys": {key for key in report["missing_keys"] if not key.startswith(_HEAD)}}
    return network, report


def _not_loaded(folder: Path, error: Exception) -> InvalidBase:
    return InvalidBase(
        f"{folder.name} cannot be loaded as an encoder ({type(error).__name__}):"
        " give a folder whose config.json and model.safetensors belong together."
    )
