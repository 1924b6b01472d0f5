"""A tokenizer.json with fewer pieces, which cuts every text that needs no other as before.

What stays, beside the pieces in use:
- special and added tokens, and whatever else tokenizer.json names by its id;
- single characters, at the beginning of a word and inside it, and the bytes that stand for characters without a piece;
- pieces that hold a character which is no piece by itself, since nothing else could stand for it;
- for BPE, what its merges make these pieces from; for Unigram, the least likely piece: its score sets that of unknowns.
All these are pieces of the base, so each choice it made on the texts is still the best there is, and is made again.

Border: text of a file in, text of a file out; knows no weights.
Limits: WordPiece, Unigram and BPE. New words fall into more pieces than before. One that holds a character which is no
piece by itself can become unknown, when its neighbours are cut otherwise; MiniLM and multilingual-e5 have none such.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from millis.errors import InvalidBase

_KINDS = ("WordPiece", "Unigram", "BPE")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

_Places = list[tuple[Any, Any]]
"""Where an id stands in JSON: the object or list, and the key in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A tokenizer that was cut.

    Args:
        content: of tokenizer.json.
        n_before: pieces that there were.
        numbers: the new id of each old one that stays, in the order of both.
    """

    content: str
    n_before: int
    numbers: Mapping[int, int]

    @property
    def order(self) -> list[int]:
        """List the old ids that stay."""
        return list(self.numbers)


def cut_tokenizer(content: str, *, used: Iterable[int], named: Iterable[int]) -> Cut:
    """Take away the pieces that nobody wants and no other text needs.

    Args:
        content: of tokenizer.json.
        used: ids that stay.
        named: ids that stay where there are pieces for them, and mean nothing where there are none.
    Raises:
        InvalidBase: a vocabulary of another kind, or an id in use without a piece.
    """
    parts: dict[str, Any] = json.loads(content)
    ids = _read_pieces(parts)
    pieces = {number: piece for piece, number in ids.items()}
    places = _list_places(parts)
    wanted = {*used, *(holder[key] for holder, key in places)}
    nameless = wanted - pieces.keys()
    if nameless:
        raise InvalidBase(
            f"tokenizer.json has no piece for id {min(nameless)}, which it or config.json uses: the two do not belong"
            " together. Copy both again from where the base came."
        )
    wanted |= pieces.keys() & set(named)
    kept = _choose(parts["model"], ids, wanted={pieces[number] for number in wanted})
    numbers = {old: new for new, old in enumerate(number for piece, number in ids.items() if piece in kept)}
    parts["model"] = _shrink(parts["model"], kept=kept, numbers=numbers)
    for holder, key in places:
        holder[key] = numbers[holder[key]]
    small = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    return Cut(content=small, n_before=len(ids), numbers=numbers)


def _read_pieces(parts: Mapping[str, Any]) -> dict[str, int]:
    """Give the id of each piece: the model's in the order of their ids, then the tokens added behind them."""
    model = parts["model"]
    kind = model.get("type")
    if kind not in _KINDS:
        raise InvalidBase(
            f"a vocabulary of kind {kind!r} cannot be trimmed, only one of {', '.join(_KINDS)}: give a base with such"
            " a tokenizer.json, or leave its vocabulary whole."
        )
    listed = {piece: i for i, (piece, _) in enumerate(model["vocab"])} if kind == "Unigram" else model["vocab"]
    ids = dict(sorted(listed.items(), key=lambda item: item[1]))
    added = sorted(parts["added_tokens"], key=lambda token: token["id"])
    return ids | {token["content"]: token["id"] for token in added if token["content"] not in ids}


def _list_places(parts: Mapping[str, Any]) -> _Places:
    """List where tokenizer.json names pieces by their ids, outside the vocabulary itself."""
    places: _Places = [(token, "id") for token in parts["added_tokens"]]
    if parts.get("padding"):
        places.append((parts["padding"], "pad_id"))
    if parts["model"].get("unk_id") is not None:
        places.append((parts["model"], "unk_id"))
    for processor in _flatten(parts.get("post_processor")):
        if processor["type"] == "TemplateProcessing":
            lists = [token["ids"] for token in processor["special_tokens"].values()]
            places += [(one, i) for one in lists for i in range(len(one))]
        elif processor["type"] in ("BertProcessing", "RobertaProcessing"):
            places += [(processor["sep"], 1), (processor["cls"], 1)]
    return places


def _flatten(processor: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if processor is None:
        return
    if processor["type"] != "Sequence":
        yield processor
        return
    for inner in processor["processors"]:
        yield from _flatten(inner)


def _choose(model: Mapping[str, Any], ids: Mapping[str, int], *, wanted: Iterable[str]) -> set[str]:
    """Choose the pieces that stay: those wanted, and what this file's head says."""
    kept = set(wanted)
    if isinstance(model.get("unk_token"), str):
        kept.add(model["unk_token"])
    if model.get("byte_fallback"):
        kept.update(filter(_BYTE.fullmatch, ids))
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    for piece in ids:
        letters = _spell(piece, prefix=prefix, suffix=suffix)
        if len(letters) <= 1 or not all(letter in ids for letter in letters):
            kept.add(piece)
    if model["type"] == "Unigram":
        kept.add(min(model["vocab"], key=lambda row: row[1])[0])
    if model["type"] == "BPE":
        _add_sources(kept, model, prefix=prefix)
    return kept & ids.keys()


def _spell(piece: str, *, prefix: str, suffix: str) -> list[str]:
    """Spell a piece by pieces of one character: un##able is a, ##b, ##l, ##e behind its prefix."""
    body = piece.removeprefix(prefix).removesuffix(suffix)
    letters = [prefix + character for character in body]
    if letters and not (prefix and piece.startswith(prefix)):
        letters[0] = body[0]
    if letters and suffix and piece.endswith(suffix):
        letters[-1] += suffix
    return letters


def _add_sources(kept: set[str], model: Mapping[str, Any], *, prefix: str) -> None:
    """Add what kept pieces can be merged from, and that from which these can be."""
    sources: dict[str, list[str]] = {}
    for left, right in map(_split_merge, model["merges"]):
        sources.setdefault(left + right[len(prefix) :], []).extend((left, right))
    todo = list(kept)
    while todo:
        for source in sources.get(todo.pop(), ()):
            if source not in kept:
                kept.add(source)
                todo.append(source)


def _split_merge(merge: str | Sequence[str]) -> tuple[str, str]:
    """Read a merge, "left right" in older files."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _shrink(model: Mapping[str, Any], *, kept: set[str], numbers: Mapping[int, int]) -> dict[str, Any]:
    """Give a tokenizer's model with the kept pieces only, under their new numbers."""
    if model["type"] == "Unigram":
        return {**model, "vocab": [row for i, row in enumerate(model["vocab"]) if i in numbers]}
    small = {**model, "vocab": {piece: numbers[i] for piece, i in model["vocab"].items() if i in numbers}}
    if model["type"] == "BPE":
        prefix = model.get("continuing_subword_prefix") or ""
        merges = [(_split_merge(merge), merge) for merge in model["merges"]]
        small["merges"] = [merge for (left, right), merge in merges if left + right[len(prefix) :] in kept]
    return small
