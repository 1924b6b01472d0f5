"""Causal language models of torch and their tokenizers, from a Hugging Face folder or a GGUF file.

Border: loads and checks; nothing is trained or compiled here. No hub is asked.
Limits: the families in FAMILIES; a GGUF file is widened to fp32. Gemma 3 looks back only SLIDING tokens in some layers;
its context is cut to that, within which both kinds of layers are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millis.errors import InvalidBase
from millis.models.speech import (
    Speech,
    find_place,
    list_ids,
    pick_template,
    read_config,
    read_fields,
    unreadable,
    write_tokenizer,
)
from millis.telemetry.progress import say

FAMILIES = ("llama", "qwen2", "gemma3_text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """A causal language model and what is needed to speak with it.

    Args:
        model: torch, fp32, in evaluation mode.
    """

    model: Any
    speech: Speech


def load_speaker(base: str) -> Speaker:
    """Load a causal language model.

    Raises:
        InvalidBase: nothing stands there, it is truncated, weights are missing, its tokenizer is another model's, or
            it is of a family that is not supported.
        MissingExtra: reading GGUF needs a package that is not installed.
    """
    place = find_place(base)
    is_gguf = place.suffix == ".gguf"
    folder, more = (place.parent, {"gguf_file": place.name}) if is_gguf else (place, {})
    family = _family_of(place)
    if family not in FAMILIES:
        raise InvalidBase(
            f"base {base!r} is of the family {family!r}: give one of {', '.join(FAMILIES)}, the ones that are tested."
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from millis.models.quiet import quietly

    say(f"reading {place.name}")
    try:
        with quietly():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **more)
            model, told = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True,
                output_loading_info=True, **more,
            )  # fmt: skip
    except Exception as error:  # each reader has its own for a file that ends too early
        raise unreadable(base, error) from error
    _check_whole(base, missing=[*told["missing_keys"], *told["mismatched_keys"]])
    content = write_tokenizer(tokenizer, base=base)
    _check_fits(base, tokenizer.backend_tokenizer, n_rows=int(model.config.vocab_size))
    config = model.config
    stops = list_ids(model.generation_config.eos_token_id, config.eos_token_id, tokenizer.eos_token_id)
    context = min(int(config.max_position_embeddings), int(getattr(config, "sliding_window", None) or 1 << 30))
    speech = Speech(
        tokenizer=content, template=pick_template(tokenizer), stop_ids=stops, begin=tokenizer.bos_token or "",
        end=tokenizer.eos_token or "", context=context,
    )
    return Speaker(model=model.eval(), speech=speech)


def _check_whole(base: str, *, missing: Sequence[Any]) -> None:
    """Refuse a model of which weights are missing, or of another shape: the library draws them at random."""
    if missing:
        names = sorted(one if isinstance(one, str) else str(one[0]) for one in missing)
        more = f", and {len(names) - 1} more" if len(names) > 1 else ""
        raise InvalidBase(
            f"base {base!r} is not whole: {names[0]} is missing, or of another shape than its config says{more}. Copy"
            " it again."
        )


def _check_fits(base: str, tokenizer: Any, *, n_rows: int) -> None:
    """Refuse a tokenizer of another model: it has ordinary pieces that this one has no row for."""
    added = tokenizer.get_added_tokens_decoder()  # of what models of pictures add, which no text spells
    most = max((i for i in tokenizer.get_vocab(with_added_tokens=False).values() if i not in added), default=-1)
    if most >= n_rows:
        raise InvalidBase(
            f"base {base!r} has a tokenizer whose pieces go up to id {most:,}, and {n_rows:,} rows for them: it is"
            " another model's. Give the one that belongs to it."
        )


def _family_of(place: Path) -> str:
    if place.suffix == ".gguf":
        return str(read_fields(place, "general.architecture").get("general.architecture"))
    return str(read_config(place).get("model_type"))
