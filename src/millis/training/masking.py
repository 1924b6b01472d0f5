"""Read on: teach a base the language of a domain by having it guess masked pieces of the domain's texts.

Border: a base folder and texts in, another base folder out, in the same layout. Short, so it keeps no checkpoint: a
run that is killed is made again.
Limits: bases without a head for masked pieces (sentence encoders) get a new one, which is thrown away afterwards.
Source: Devlin et al. 2019, arXiv:1810.04805, 3.1 (15 %: 80 masked, 10 random, 10 kept); Gururangan et al. 2020,
arXiv:2004.10964, for going on with it on the texts of a task.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForMaskedLM

from millis.bundles.bundle import TOKENIZER
from millis.errors import InvalidBase, InvalidValue
from millis.models.described import width_of
from millis.models.prediction import pad
from millis.models.quiet import quietly
from millis.tasks.task import IGNORED
from millis.tasks.tokenization import Tokenizer
from millis.training.batches import plan_epochs
from millis.training.settings import TrainSettings, choose_learning_rate, choose_precision
from millis.training.steps import descend, torch_state

_SHARE = 0.15
_MASKED, _RANDOM = 0.8, 0.1
_LONGEST = 128
_LEAST_PIECES = 3


def read_on(base: Path, texts: Sequence[str], *, out: Path, settings: TrainSettings) -> Path:
    """Write a base that has gone on guessing masked pieces, on these texts.

    Args:
        base: a folder that `find_base` gave.
        out: the folder to write; what stands there is replaced when the new one is whole.
        settings: epochs, batches, learning rate, seed and precision.
    Raises:
        InvalidBase: the base has no masked-language form; else as `check_texts`.
    """
    tokenizer = check_texts(base, texts)
    rows = [row for text in texts for row in _cut(tokenizer, text)]
    lengths = np.array([len(row) for row in rows], np.int64)
    peak, _ = choose_learning_rate(settings.of_every_weight(), width=width_of(base))
    is_bf16, _ = choose_precision(settings)
    with torch_state(settings.seed):
        network = _load(base).train()  # its head may be drawn

        def loss(places: NDArray[np.int64]) -> torch.Tensor:
            ids, mask = pad([rows[place] for place in places], pad_id=int(network.config.pad_token_id or 0))
            hidden, targets = _hide(ids, mask, tokenizer=tokenizer)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
                states = network.base_model(input_ids=hidden, attention_mask=mask).last_hidden_state
                logits = _head(network)(states[targets != IGNORED])
            return torch.nn.functional.cross_entropy(logits.float(), targets[targets != IGNORED])

        optimizer = torch.optim.AdamW(network.parameters(), lr=0.0, weight_decay=settings.weight_decay, fused=True)
        plans = plan_epochs(lengths, settings=settings)
        descend(optimizer, loss, plans=plans, peak=peak, settings=settings, name="reading on")
    return _save(network, base, out)


def check_texts(base: Path, texts: Sequence[str]) -> Tokenizer:
    """Check that a base can read on with texts, up to the first of them that will do; give its tokenizer.

    Raises:
        InvalidValue: no text has more than a few pieces.
        InvalidBase: the base has no piece for a mask.
    """
    tokenizer = Tokenizer(base / TOKENIZER)
    if tokenizer.mask is None:
        raise InvalidBase(f"{base.name} has no piece for a mask, so it cannot guess masked ones: leave the texts out.")
    if not any(_cut(tokenizer, text) for text in texts):
        raise InvalidValue(f"none of {len(texts)} texts has {_LEAST_PIECES} pieces or more: give longer ones.")
    return tokenizer


def _cut(tokenizer: Tokenizer, text: str) -> list[NDArray[np.int64]]:
    ids = tokenizer.encode(text).ids
    room = _LONGEST - tokenizer.n_special(1)
    pieces = [ids[start : start + room] for start in range(0, len(ids), room)]
    return [
        np.array([*tokenizer.prefix, *piece, *tokenizer.suffix], np.int64)
        for piece in pieces if len(piece) >= _LEAST_PIECES
    ]  # fmt: skip


def _hide(
    ids: torch.Tensor, mask: torch.Tensor, *, tokenizer: Tokenizer
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask some pieces, int64 (B, T): what the network sees, and what it is to guess, IGNORED elsewhere."""
    special = torch.tensor([*tokenizer.prefix, *tokenizer.suffix])
    may = mask.bool() & ~torch.isin(ids, special)
    chosen = may & (torch.rand(ids.shape) < _SHARE)
    if not chosen.any():  # short texts, few of them: one piece at least
        chosen[tuple(may.nonzero()[0])] = True
    dice = torch.rand(ids.shape)
    hidden = torch.where(chosen & (dice < _MASKED), torch.tensor(tokenizer.mask), ids)
    is_random = chosen & (dice >= _MASKED) & (dice < _MASKED + _RANDOM)
    hidden = torch.where(is_random, torch.randint(tokenizer.n_vocabulary, ids.shape), hidden)
    return hidden, torch.where(chosen, ids, IGNORED)


def _load(base: Path) -> Any:
    try:
        with quietly():
            network = AutoModelForMaskedLM.from_pretrained(
                base, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32,
                attn_implementation="sdpa",
            )  # fmt: skip
    except Exception as error:  # the library's errors have no common base
        raise InvalidBase(f"{base.name} has no form that guesses masked pieces ({type(error).__name__}).") from error
    return network


def _head(network: Any) -> Any:
    """Give the part that guesses, from hidden states (N, D) to logits (N, V)."""
    kind = network.config.model_type
    if kind == "distilbert":
        return lambda states: network.vocab_projector(
            network.vocab_layer_norm(network.activation(network.vocab_transform(states)))
        )
    if kind == "electra":
        return lambda states: network.generator_lm_head(network.generator_predictions(states))
    return network.cls if kind == "bert" else network.lm_head


def _save(network: Any, base: Path, out: Path) -> Path:
    draft = out.with_name(f"{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    with quietly():
        network.base_model.save_pretrained(draft)
    for file in base.glob("*token*.json"):
        shutil.copyfile(file, draft / file.name)
    shutil.rmtree(out, ignore_errors=True)
    draft.rename(out)
    return out
