"""What a base says of itself in its JSON files: how long, how wide, how it is pooled, how many pieces it knows.

Border: reads config.json and its neighbours; opens no weights.
"""

import json
from pathlib import Path
from typing import Any

from millis.errors import InvalidBase


def longest_input(folder: Path) -> int:
    """Give how many tokens a base takes, special tokens included, from its config.json.

    Raises:
        InvalidBase: what config.json says of it is no number.
    """
    config = read_json(folder / "config.json")
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
    n_rows = read_json(folder / "config.json").get("vocab_size")
    if isinstance(n_rows, int) and n_rows < n_pieces:
        raise InvalidBase(
            f"{folder.name} has word embeddings for {n_rows:,} pieces, its tokenizer.json has {n_pieces:,}: give the"
            " tokenizer that belongs to these weights (or make room: resize_token_embeddings of transformers)."
        )


def width_of(folder: Path) -> int:
    """Give the width of a base's hidden states."""
    config = read_json(folder / "config.json")
    return int(config.get("hidden_size") or config["dim"])


def has_two_types(folder: Path) -> bool:
    """Say whether a base was made to be told which of two texts a token is of."""
    return read_json(folder / "config.json").get("type_vocab_size") == 2


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
    config = read_json(file)
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


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object of a base.

    Raises:
        InvalidBase: it is none.
    """
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
