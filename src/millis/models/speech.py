"""How a language model is spoken with: its tokenizer, chat template and ends, from its files without the weights.

Border: a folder in Hugging Face layout or a GGUF file, of any family. No hub is asked.
Limits: a GGUF file's tokenizer is built by transformers, which knows fewer kinds than llama.cpp and takes GPT-2's rule
for those it does not know; rules that neither it nor this file knows are refused. Whoever serves the file with
llama.cpp compares the two (compressing/carrying.py).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millis.bundles.bundle import TOKENIZER
from millis.errors import InvalidBase, MissingExtra

_RULE = "tokenizer.ggml.pre"
_DIGITS_FIRST = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
_AS_GPT2 = frozenset({"default", "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling"})
"""How GGUF files name GPT-2's rule of cutting a text before pieces are sought, and the same behind a cut around each
digit, which transformers does not know. Source: llama.cpp, src/llama-vocab.cpp."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """What is needed to speak with a causal language model.

    Args:
        tokenizer: content of tokenizer.json.
        template: the chat template (Jinja), None for a model that knows no chats.
        stop_ids: pieces that end an answer.
        begin, end: the text of the pieces that begin and end a text, as templates name them.
        context: the most tokens of prompt and answer together.
    """

    tokenizer: str
    template: str | None
    stop_ids: tuple[int, ...]
    begin: str
    end: str
    context: int


def load_speech(base: str) -> Speech:
    """Read how a model is spoken with.

    Raises:
        InvalidBase: nothing stands there, it is truncated, or its tokenizer is of a kind that cannot be read.
        MissingExtra: reading GGUF needs a package that is not installed.
    """
    place = find_place(base)
    is_gguf = place.suffix == ".gguf"
    told = _read_gguf(place) if is_gguf else _read_folder(place)
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from millis.models.quiet import quietly

    try:
        with quietly():
            tokenizer: Any = (
                PreTrainedTokenizerFast.from_pretrained(place.parent, local_files_only=True, gguf_file=place.name)
                if is_gguf
                else AutoTokenizer.from_pretrained(place, local_files_only=True)
            )
    except Exception as error:  # each reader has its own for what it does not know
        raise unreadable(base, error) from error
    return Speech(
        tokenizer=write_tokenizer(tokenizer, base=base), template=pick_template(tokenizer),
        stop_ids=list_ids(*told["stops"], tokenizer.eos_token_id), begin=tokenizer.bos_token or "",
        end=tokenizer.eos_token or "", context=int(told["context"]),
    )  # fmt: skip


def find_place(base: str) -> Path:
    """Give the folder or the .gguf file of a base.

    Raises:
        InvalidBase: it is neither.
    """
    place = Path(base).expanduser()
    if not (place.is_file() if place.suffix == ".gguf" else (place / "config.json").is_file()):
        raise InvalidBase(
            f"base {base!r} is neither a folder with a config.json nor a .gguf file: give one of the two."
        )
    return place


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        return dict(config)
    except (ValueError, TypeError) as error:
        raise InvalidBase(f"{folder.name}/config.json is not JSON of a model: copy the folder again.") from error


def read_fields(file: Path, *names: str) -> dict[str, Any]:
    """Read fields of a GGUF file by name, those that it has; {arch} stands for the name of its architecture."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise MissingExtra("GGUF files need gguf, which is not installed: pip install 'millis[llm]'.") from error
    try:
        fields = GGUFReader(file).fields
        family = str(fields["general.architecture"].contents())
        asked = {name: fields.get(name.format(arch=family)) for name in names}
        return {name: field.contents() for name, field in asked.items() if field is not None}
    except Exception as error:  # the reader trusts what it reads: numpy's errors, KeyError, ValueError
        raise InvalidBase(f"{file.name} cannot be read as GGUF: truncated or another format. Copy it.") from error


def write_tokenizer(tokenizer: Any, *, base: str) -> str:
    """Give the content of tokenizer.json."""
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise InvalidBase(f"base {base!r} has no tokenizer.json: save its tokenizer with transformers first.")
    made = tokenizer.backend_tokenizer
    place = find_place(base)
    if place.suffix == ".gguf":
        return str(_split_as_told(made, place).to_str())
    return str(_keep_own(made, place / TOKENIZER).to_str())


def _keep_own(tokenizer: Any, file: Path) -> Any:
    """Give the tokenizer of tokenizer.json; transformers builds some anew, by the rules of the class that is named.

    Of transformers stays what stands around a text, which tokenizer_config.json may change.
    """
    from tokenizers import Tokenizer

    if not file.is_file():
        return tokenizer
    own = Tokenizer.from_file(str(file))
    own.post_processor = tokenizer.post_processor
    return own


def _split_as_told(tokenizer: Any, file: Path) -> Any:
    """Give a GGUF file's tokenizer the rule that the file names where transformers took GPT-2's for want of it.

    Raises:
        InvalidBase: the rule is not known here.
    """
    from tokenizers import Tokenizer, pre_tokenizers

    usual = tokenizer.pre_tokenizer
    if not (isinstance(usual, pre_tokenizers.ByteLevel) and usual.use_regex):
        return tokenizer
    rule = str(read_fields(file, _RULE).get(_RULE, "default"))
    if rule in _AS_GPT2:
        return tokenizer
    if rule not in _DIGITS_FIRST:
        raise InvalidBase(
            f"{file.name} cuts texts by the rule {rule!r}, which is not known here: give the model's folder in Hugging"
            " Face layout."
        )
    made = Tokenizer.from_str(tokenizer.to_str())
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), usual])
    return made


def pick_template(tokenizer: Any) -> str | None:
    """Give the chat template, the one called default where there are several; None where there is none."""
    found = tokenizer.chat_template
    return found.get("default") if isinstance(found, dict) else found


def list_ids(*said: int | Sequence[int] | None) -> tuple[int, ...]:
    """List ids in their order, each once."""
    found: dict[int, None] = {}
    for one in said:
        for i in [one] if isinstance(one, int) else one or ():
            found[i] = None
    return tuple(found)


def unreadable(base: str, error: Exception) -> InvalidBase | MissingExtra:
    """Word what a library said of a base."""
    if isinstance(error, ImportError):
        return MissingExtra(f"base {base!r} cannot be read ({error}): pip install 'millis[train,llm]'.")
    said = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
    return InvalidBase(f"base {base!r} cannot be read ({type(error).__name__}: {said}): copy it again.")


def read_precision(base: str) -> str:
    """Give the kind of numbers that a base's weights are, as its files name it."""
    place = find_place(base)
    if place.suffix != ".gguf":
        config = read_config(place)
        return str(config.get("dtype") or config.get("torch_dtype") or "float32")
    said = read_fields(place, "general.file_type")
    from gguf import LlamaFileType

    names = {int(one): str(one.name).removeprefix("MOSTLY_").removeprefix("ALL_") for one in LlamaFileType}
    return names.get(said.get("general.file_type", -1), "mixed")


def _read_gguf(file: Path) -> dict[str, Any]:
    stops = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    said = read_fields(file, "{arch}.context_length", *stops)
    if "{arch}.context_length" not in said:
        raise InvalidBase(f"{file.name} does not say how many tokens it reads: give a GGUF file of a language model.")
    return {"stops": [said.get(one) for one in stops], "context": said["{arch}.context_length"]}


def _read_folder(folder: Path) -> dict[str, Any]:
    config = read_config(folder)
    config |= config.get("text_config") or {}  # of a model that sees too
    file = folder / "generation_config.json"
    asked = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if "max_position_embeddings" not in config:
        raise InvalidBase(f"{folder.name}/config.json does not say how many tokens it reads: give a language model.")
    stops = [asked.get("eos_token_id"), config.get("eos_token_id")]
    return {"stops": stops, "context": config["max_position_embeddings"]}
