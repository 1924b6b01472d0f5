"""A smaller vocabulary: the pieces that given texts use, and those that every other text can be spelt with.

    trim_vocabulary   a folder with fewer pieces and embedding rows, and the same answers on these texts
    trim_speaker      the same of a language model in memory: its table of embeddings and its head

What stays is said in pieces.py; beside it ids up to the padding's keep their numbers: RoBERTa counts positions from the
id that pads.

Border: folder in, folder out, as `find_base` gives and `save_tagger` writes them (a speaker as `load_speaker` gives it,
and what its chat template spells stays too). Only config.json, tokenizer.json and
model.safetensors are written: older tokenizer files speak of the old ids.
Limits: as those of pieces.py.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as _to_safetensors

from millis.bundles.bundle import TOKENIZER
from millis.compressing.pieces import cut_tokenizer
from millis.errors import InvalidBase, InvalidValue, RunFailed, reason_of
from millis.models.files import write_whole
from millis.models.speakers import Speaker
from millis.models.weights import weights_files
from millis.tasks.tokenization import Tokenizer
from millis.telemetry.progress import bar

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_EMBEDDINGS = "word_embeddings.weight"
_ROW_PER_PIECE = re.compile(
    r"(^|\.)(word_embeddings|predictions|predictions\.decoder|lm_head|lm_head\.decoder|generator_lm_head"
    r"|vocab_projector)\.(weight|bias)$"
)
"""Tensors of the supported types with a row for each piece: the embeddings, and heads that guess masked pieces."""

_FRAMES = ("system\n", "user\n", "assistant\n", "developer\n", "model\n")
"""What chat templates put into a message's head from its role."""


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
    config: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    named = {key: one for key, one in config.items() if key.endswith("_token_id") and isinstance(one, int)}
    padding = range(int(config.get("pad_token_id") or 0) + 1)
    used = {*_find_used(before, texts), *padding}
    cut = cut_tokenizer((folder / TOKENIZER).read_text(encoding="utf-8"), used=used, named=named.values())
    config |= {key: cut.numbers.get(one, one) for key, one in named.items()} | {"vocab_size": len(cut.numbers)}
    files = weights_files(folder)
    tensors = _keep_rows({name: tensor for file in files for name, tensor in load_file(file).items()}, cut.order)

    draft = out.with_name(f".{out.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        _write(draft / TOKENIZER, cut.content.encode())
        _require_same(before, Tokenizer(draft / TOKENIZER), texts, numbers=cut.numbers)
        _write(draft / _CONFIG, json.dumps(config, indent=2, sort_keys=True).encode())
        _write(draft / _WEIGHTS, _to_safetensors(tensors, metadata={"format": "pt"}))
        draft.rename(out)
    except OSError as error:
        raise RunFailed(f"cannot write {out.name}: {reason_of(error)}. Free some space and go on.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Trimmed(
        pieces_before=cut.n_before, pieces_after=len(cut.numbers),
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
    config, speech = speaker.model.config, speaker.speech
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    named: dict[str, Any] = {key: getattr(config, key, None) for key in keys}
    listed = [i for one in named.values() for i in (one if isinstance(one, list) else [one])]
    texts = [*texts, *_FRAMES, *([speech.template] if speech.template else [])]
    with tempfile.TemporaryDirectory(prefix="millis-trim-") as scratch:
        file = Path(scratch) / TOKENIZER
        file.write_text(speech.tokenizer, "utf-8")
        before = Tokenizer(file)
        cut = cut_tokenizer(speech.tokenizer, used=_find_used(before, texts), named=[*listed, *speech.stop_ids])
        file.write_text(cut.content, "utf-8")
        _require_same(before, Tokenizer(file), texts, numbers=cut.numbers)
    n_bytes = _keep_pieces(speaker.model, cut.order)
    numbers = cut.numbers
    for key, one in named.items():
        new = [numbers[i] for i in one if i in numbers] if isinstance(one, list) else numbers.get(one)
        setattr(config, key, new)
    trimmed = Trimmed(
        pieces_before=cut.n_before, pieces_after=len(numbers),
        bytes_before=n_bytes[0] + len(speech.tokenizer.encode()), bytes_after=n_bytes[1] + len(cut.content.encode()),
    )  # fmt: skip
    stops = tuple(numbers[i] for i in speech.stop_ids if i in numbers)
    return replace(speaker, speech=replace(speech, tokenizer=cut.content, stop_ids=stops)), trimmed


def _keep_pieces(model: Any, order: Sequence[int]) -> tuple[int, int]:
    """Leave these rows of a language model's table and head; give the bytes of both before and after."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    _require_rows(order, n_rows=len(table.weight))
    is_tied, rows = head.weight is table.weight, torch.tensor(order)
    before = table.weight.nbytes + (0 if is_tied else head.weight.nbytes)
    table.weight = torch.nn.Parameter(table.weight.detach()[rows], requires_grad=False)
    table.padding_idx = None  # it only matters in training
    head.weight = table.weight if is_tied else torch.nn.Parameter(head.weight.detach()[rows], requires_grad=False)
    if head.bias is not None:
        head.bias = torch.nn.Parameter(head.bias.detach()[rows], requires_grad=False)
    table.num_embeddings = head.out_features = model.vocab_size = model.config.vocab_size = len(order)
    return before, table.weight.nbytes + (0 if is_tied else head.weight.nbytes)


def _find_used(tokenizer: Tokenizer, texts: Sequence[str]) -> set[int]:
    used: set[int] = set()
    with bar("pieces in use", total=len(texts)) as advance:
        for done, text in enumerate(texts, 1):
            used.update(tokenizer.encode(text).ids)
            advance(done, "")
    return used


def _keep_rows(tensors: Mapping[str, torch.Tensor], order: Sequence[int]) -> dict[str, torch.Tensor]:
    """Give the tensors with these rows only, wherever a row stands for a piece."""
    n_rows = next((len(tensor) for name, tensor in tensors.items() if name.endswith(_EMBEDDINGS)), 0)
    _require_rows(order, n_rows=n_rows)
    rows = torch.tensor(order)
    return {name: tensor[rows] if _ROW_PER_PIECE.search(name) else tensor for name, tensor in tensors.items()}


def _require_rows(order: Sequence[int], *, n_rows: int) -> None:
    if max(order) >= n_rows:
        raise InvalidBase(
            f"the tokenizer has piece {max(order)}, and the base has {n_rows} embedding rows: the two do not belong"
            " together. Give the tokenizer.json that came with the base."
        )


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
