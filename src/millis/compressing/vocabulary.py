"""A smaller vocabulary: the pieces that given texts use, and those that every other text can be spelt with.

    trim_vocabulary   a folder with fewer pieces and embedding rows, and the same answers on these texts
    trim_speaker      the same of a language model in memory: its table of embeddings and its head

What stays, beside the pieces in use:
- special and added tokens, and whatever else tokenizer.json or config.json names by its id;
- ids up to the padding's, with their numbers: RoBERTa counts positions from the id that pads;
- single characters, at the beginning of a word and inside it, and the bytes that stand for characters without a piece;
- pieces that hold a character which is no piece by itself, since nothing else could stand for it;
- for BPE, what its merges make these pieces from; for Unigram, the least likely piece: its score sets that of unknowns.
All these are pieces of the base, so each choice it made on the texts is still the best there is, and is made again.

Border: folder in, folder out, as `find_base` gives and `save_tagger` writes them (a speaker as `load_speaker` gives it,
and what its chat template spells stays too). Only config.json, tokenizer.json and
model.safetensors are written: older tokenizer files speak of the old ids.
Limits: WordPiece, Unigram and BPE. New words fall into more pieces than before. One that holds a character which is no
piece by itself can become unknown, when its neighbours are cut otherwise; MiniLM and multilingual-e5 have none such.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as _to_safetensors

from millis.bundles.bundle import TOKENIZER
from millis.errors import InvalidBase, InvalidValue, RunFailed
from millis.models.files import write_whole
from millis.models.speakers import Speaker
from millis.models.weights import weights_files
from millis.tasks.tokenization import Tokenizer
from millis.telemetry.progress import bar

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_KINDS = ("WordPiece", "Unigram", "BPE")
_EMBEDDINGS = "word_embeddings.weight"
_ROW_PER_PIECE = re.compile(
    r"(^|\.)(word_embeddings|predictions|predictions\.decoder|lm_head|lm_head\.decoder|generator_lm_head"
    r"|vocab_projector)\.(weight|bias)$"
)
"""Tensors of the supported types with a row for each piece: the embeddings, and heads that guess masked pieces."""

_FRAMES = ("system\n", "user\n", "assistant\n", "developer\n", "model\n")
"""What chat templates put into a message's head from its role."""

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_Places = list[tuple[Any, Any]]
"""Where an id stands in JSON: the object or list, and the key in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trimmed:
    """What trimming took away.

    Args:
        bytes_before, bytes_after: of configuration, tokenizer and weights together.
    """

    pieces_before: int
    pieces_after: int
    bytes_before: int
    bytes_after: int


def trim_vocabulary(folder: Path, out: Path, *, texts: Sequence[str]) -> Trimmed:
    """Write a copy of a base or tagger with the pieces that the texts use, and those that spell all others.

    Args:
        folder: with config.json, tokenizer.json and safetensors weights; may be pruned.
        out: must not exist; it appears whole, or not at all.
        texts: what must be cut as before.
    Raises:
        InvalidBase: a tokenizer of another kind, or one that does not belong to the weights.
        InvalidValue: out exists, or a text is not valid Unicode.
        RunFailed: the disk is full, or a text was cut otherwise than before.
    Cost: every text is cut three times; all weights are held once, and what is left of them twice.
    """
    if out.exists():
        raise InvalidValue(f"{out} exists: give another place for the trimmed model, or move it away.")
    before = Tokenizer(folder / TOKENIZER)
    parts: dict[str, Any] = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))
    config: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    ids = _read_pieces(parts)
    pieces = {number: piece for piece, number in ids.items()}
    places = [*_places_in_tokenizer(parts), *_places_in_config(config, known=pieces)]
    wanted = {*_find_used(before, texts), *(holder[key] for holder, key in places)}
    wanted |= set(range(int(config.get("pad_token_id") or 0) + 1))
    nameless = wanted - pieces.keys()
    if nameless:
        raise InvalidBase(
            f"tokenizer.json has no piece for id {min(nameless)}, which it or config.json uses: the two do not belong"
            " together. Copy both again from where the base came."
        )
    kept = _choose(parts["model"], ids, wanted={pieces[number] for number in wanted})
    order = [number for piece, number in ids.items() if piece in kept]
    numbers = {old: new for new, old in enumerate(order)}

    parts["model"] = _shrink(parts["model"], kept=kept, numbers=numbers)
    for holder, key in places:
        holder[key] = numbers[holder[key]]
    config["vocab_size"] = len(order)
    files = weights_files(folder)
    tensors = _keep_rows({name: tensor for file in files for name, tensor in load_file(file).items()}, order)

    draft = out.with_name(f".{out.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        _write(draft / TOKENIZER, json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode())
        _require_same(before, Tokenizer(draft / TOKENIZER), texts, numbers=numbers)
        _write(draft / _CONFIG, json.dumps(config, indent=2, sort_keys=True).encode())
        _write(draft / _WEIGHTS, _to_safetensors(tensors, metadata={"format": "pt"}))
        draft.rename(out)
    except OSError as error:
        raise RunFailed(f"cannot write {out.name}: {error.strerror}. Free some space and go on.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Trimmed(
        pieces_before=len(ids), pieces_after=len(order),
        bytes_before=_count_bytes([folder / _CONFIG, folder / TOKENIZER, *files]),
        bytes_after=_count_bytes([out / _CONFIG, out / TOKENIZER, out / _WEIGHTS]),
    )  # fmt: skip


def trim_speaker(speaker: Speaker, *, texts: Sequence[str]) -> tuple[Speaker, Trimmed]:
    """Take away the pieces of a language model that neither the texts nor its chat template use.

    Args:
        speaker: its model is changed, not copied.
        texts: what must be cut as before.
    Returns:
        the speaker under its new ids, and what was taken; bytes are of tokenizer, table and head, in float32.
    Raises:
        InvalidBase: a tokenizer of another kind, or one that does not belong to the weights.
        InvalidValue: a text is not valid Unicode.
        RunFailed: a text was cut otherwise than before.
    """
    parts: dict[str, Any] = json.loads(speaker.tokenizer)
    ids = _read_pieces(parts)
    pieces = {number: piece for piece, number in ids.items()}
    places = _places_in_tokenizer(parts)
    config = speaker.model.config
    named = {key: getattr(config, key, None) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    texts = [*texts, *_FRAMES, *([speaker.template] if speaker.template else [])]
    with tempfile.TemporaryDirectory(prefix="millis-trim-") as scratch:
        file = Path(scratch) / TOKENIZER
        file.write_text(speaker.tokenizer, "utf-8")
        before = Tokenizer(file)
        wanted = {*_find_used(before, texts), *(holder[key] for holder, key in places), *speaker.stop_ids}
        for one in named.values():
            wanted.update(one if isinstance(one, list) else () if one is None else (one,))
        kept = _choose(parts["model"], ids, wanted={pieces[number] for number in wanted if number in pieces})
        order = [number for piece, number in ids.items() if piece in kept]
        numbers = {old: new for new, old in enumerate(order)}
        parts["model"] = _shrink(parts["model"], kept=kept, numbers=numbers)
        for holder, key in places:
            holder[key] = numbers[holder[key]]
        small = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
        file.write_text(small, "utf-8")
        _require_same(before, Tokenizer(file), texts, numbers=numbers)
    n_bytes = _keep_pieces(speaker.model, order)
    for key, one in named.items():
        new = [numbers[i] for i in one if i in numbers] if isinstance(one, list) else numbers.get(one)  # type: ignore[arg-type]
        setattr(config, key, new)
    trimmed = Trimmed(
        pieces_before=len(ids), pieces_after=len(order), bytes_before=n_bytes[0] + len(speaker.tokenizer.encode()),
        bytes_after=n_bytes[1] + len(small.encode()),
    )  # fmt: skip
    stops = tuple(numbers[i] for i in speaker.stop_ids if i in numbers)
    return replace(speaker, tokenizer=small, stop_ids=stops), trimmed


def _keep_pieces(model: Any, order: Sequence[int]) -> tuple[int, int]:
    """Leave these rows of a language model's table and head; give the bytes of both before and after."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if max(order) >= len(table.weight):
        raise InvalidBase(
            f"the tokenizer has piece {max(order)}, and the base has {len(table.weight)} embedding rows: the two do not"
            " belong together. Give the tokenizer.json that came with the base."
        )
    is_tied, rows = head.weight is table.weight, torch.tensor(order)
    before = table.weight.nbytes + (0 if is_tied else head.weight.nbytes)
    table.weight = torch.nn.Parameter(table.weight.detach()[rows], requires_grad=False)
    table.padding_idx = None  # it only matters in training
    head.weight = table.weight if is_tied else torch.nn.Parameter(head.weight.detach()[rows], requires_grad=False)
    if head.bias is not None:
        head.bias = torch.nn.Parameter(head.bias.detach()[rows], requires_grad=False)
    table.num_embeddings = head.out_features = model.vocab_size = model.config.vocab_size = len(order)
    return before, table.weight.nbytes + (0 if is_tied else head.weight.nbytes)


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


def _places_in_tokenizer(parts: Mapping[str, Any]) -> _Places:
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


def _places_in_config(config: dict[str, Any], *, known: Mapping[int, str]) -> _Places:
    """List where config.json names pieces by their ids; an id without a piece means nothing, before and after."""
    return [
        (config, key) for key, number in config.items()
        if key.endswith("_token_id") and isinstance(number, int) and number in known
    ]  # fmt: skip


def _find_used(tokenizer: Tokenizer, texts: Sequence[str]) -> set[int]:
    used: set[int] = set()
    with bar("pieces in use", total=len(texts)) as advance:
        for done, text in enumerate(texts, 1):
            used.update(tokenizer.encode(text).ids)
            advance(done, "")
    return used


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


def _keep_rows(tensors: Mapping[str, torch.Tensor], order: Sequence[int]) -> dict[str, torch.Tensor]:
    """Give the tensors with these rows only, wherever a row stands for a piece."""
    n_rows = next((len(tensor) for name, tensor in tensors.items() if name.endswith(_EMBEDDINGS)), 0)
    if max(order) >= n_rows:
        raise InvalidBase(
            f"the tokenizer has piece {max(order)}, and the base has {n_rows} embedding rows: the two do not belong"
            " together. Give the tokenizer.json that came with the base."
        )
    rows = torch.tensor(order)
    return {name: tensor[rows] if _ROW_PER_PIECE.search(name) else tensor for name, tensor in tensors.items()}


def _require_same(before: Tokenizer, after: Tokenizer, texts: Sequence[str], *, numbers: Mapping[int, int]) -> None:
    """Refuse a tokenizer that cuts a text otherwise than it was cut before.

    Raises:
        RunFailed: it does.
    """
    same = [numbers[i] for i in (*before.prefix, *before.suffix)] == [*after.prefix, *after.suffix]
    n_other = 0
    with bar("trimmed pieces compared", total=len(texts)) as advance:
        for done, text in enumerate(texts, 1):
            old, new = before.encode(text), after.encode(text)
            n_other += [numbers[i] for i in old.ids] != new.ids or old.offsets != new.offsets
            advance(done, "")
    if n_other or not same:
        raise RunFailed(
            f"trimming changed how {n_other} of {len(texts)} texts are cut{'' if same else ', and what stands around'}:"
            " it is not used. Leave the vocabulary whole, and report this with the base."
        )


def _write(file: Path, content: bytes) -> None:
    write_whole(file, lambda out: out.write(content))


def _count_bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)
