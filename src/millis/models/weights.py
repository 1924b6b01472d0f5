"""The weights files of a base: which they are, whether they can be read, how many numbers they hold.

Border: looks at headers; loads no tensor (taggers.py does). Safetensors only: a pickle can run code when it is opened.
"""

import math
from pathlib import Path

from millis.errors import InvalidBase
from millis.models.described import read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.bin", "model.pt")


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
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if not (folder / INDEX).is_file():
        raise _no_weights(folder)
    index = read_json(folder / INDEX)
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise InvalidBase(
            f"{folder.name}/{INDEX} names no shards: copy the file again from where the base came."
        )
    return tuple(folder / name for name in sorted({Path(str(shard)).name for shard in shards.values()}))


def check_weights(folder: Path) -> None:
    """Check that weights can be read.

    Raises:
        InvalidBase: a file is missing, cut short, or holds nothing.
    """
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
            f"{folder.name} has no weights: {WEIGHTS}, or shards with {INDEX}, are needed."
            " Copy the file from where the base came."
        )
    return InvalidBase(
        f"{folder.name} has only {pickles[0]}, a pickle, which can run code when it is opened; {WEIGHTS} is"
        ' needed. Where you trust the file, convert it: python -c "from transformers import AutoModel as M;'
        " M.from_pretrained('FOLDER').save_pretrained('FOLDER')\""
    )
