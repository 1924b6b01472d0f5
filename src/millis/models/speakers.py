"""Causal language models of torch and their tokenizers, from a Hugging Face folder or a GGUF file.

Border: loads and checks; nothing is trained or compiled here. No hub is asked.
Limits: the families in FAMILIES; a GGUF file is widened to fp32. Gemma 3 looks back only SLIDING tokens in some layers;
its context is cut to that, within which both kinds of layers are the same.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millis.errors import InvalidBase, MissingExtra

FAMILIES = ("llama", "qwen2", "gemma3_text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """A causal language model and what is needed to speak with it.

    Args:
        model: torch, fp32, in evaluation mode.
        tokenizer: content of tokenizer.json.
        template: the chat template (Jinja), None for a model that knows no chats.
        stop_ids: pieces that end an answer.
        begin, end: the text of the pieces that begin and end a text, as templates name them.
        context: the most tokens of prompt and answer together.
    """

    model: Any
    tokenizer: str
    template: str | None
    stop_ids: tuple[int, ...]
    begin: str
    end: str
    context: int


def load_speaker(base: str) -> Speaker:
    """Load a causal language model.

    Raises:
        InvalidBase: nothing stands there, it is truncated, or of a family that is not supported.
        MissingExtra: reading GGUF needs a package that is not installed.
    """
    place = Path(base).expanduser()
    is_gguf = place.suffix == ".gguf"
    if not (place.is_file() if is_gguf else (place / "config.json").is_file()):
        raise InvalidBase(
            f"base {base!r} is neither a folder with a config.json nor a .gguf file: give one of the two."
        )
    folder, more = (place.parent, {"gguf_file": place.name}) if is_gguf else (place, {})
    family = _family_of(place)
    if family not in FAMILIES:
        raise InvalidBase(
            f"base {base!r} is of the family {family!r}: give one of {', '.join(FAMILIES)}, the ones that are tested."
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **more)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True, **more
        )
    except ImportError as error:
        raise MissingExtra(f"base {base!r} cannot be read ({error}): pip install 'millis[train,llm]'.") from error
    except Exception as error:  # each reader has its own for a file that ends too early
        said = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        raise InvalidBase(f"base {base!r} cannot be read ({type(error).__name__}: {said}): copy it again.") from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise InvalidBase(f"base {base!r} has no tokenizer.json: save its tokenizer with transformers first.")
    config = model.config
    stops = _list_ids(model.generation_config.eos_token_id, config.eos_token_id, tokenizer.eos_token_id)
    context = min(int(config.max_position_embeddings), int(getattr(config, "sliding_window", None) or 1 << 30))
    template = tokenizer.chat_template
    return Speaker(
        model=model.eval(), tokenizer=tokenizer.backend_tokenizer.to_str(),
        template=template if isinstance(template, str) else None, stop_ids=stops,
        begin=tokenizer.bos_token or "", end=tokenizer.eos_token or "", context=context,
    )  # fmt: skip


def _family_of(place: Path) -> str:
    if place.suffix == ".gguf":
        try:
            from gguf import GGUFReader
        except ImportError as error:
            raise MissingExtra("GGUF files need gguf, which is not installed: pip install 'millis[llm]'.") from error
        try:
            field = GGUFReader(place).fields["general.architecture"]
            return str(field.contents())
        except Exception as error:  # the reader trusts what it reads: numpy's errors, KeyError, ValueError
            raise InvalidBase(f"{place.name} cannot be read as GGUF: truncated or another format. Copy it.") from error
    try:
        return str(json.loads((place / "config.json").read_text("utf-8")).get("model_type"))
    except (ValueError, AttributeError) as error:
        raise InvalidBase(f"{place.name}/config.json is not JSON of a model: copy the folder again.") from error


def _list_ids(*said: int | Sequence[int] | None) -> tuple[int, ...]:
    found: dict[int, None] = {}
    for one in said:
        for i in [one] if isinstance(one, int) else one or ():
            found[i] = None
    return tuple(found)
