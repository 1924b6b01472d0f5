"""Text to pieces: token ids with the characters each one stands for.

Border: wraps the `tokenizers` library, the one file that imports it; windows and labels are the task's matter.
Plain text for BERT's WordPiece takes a shorter way (wordpieces.py) to the same pieces.
Limits: reads tokenizer.json only; truncation and padding set in it are switched off.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as _Tokenizer
from tokenizers import models, normalizers, pre_tokenizers
from tokenizers.decoders import DecodeStream

from millis.errors import InvalidBase, InvalidValue
from millis.tasks.wordpieces import Characters, WordPieces, Words

_MOST_ADDED = 100
"""Added tokens that are looked for at every character of a text; more cost what the short way saves."""

_LOW_LINE_KINDS = frozenset({"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"})
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_VISIBLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_BYTE_OF_LETTER = {chr(byte): byte for byte in _VISIBLE} | {
    chr(256 + i): byte for i, byte in enumerate(sorted(set(range(256)) - set(_VISIBLE)))
}
"""How byte-level BPE writes bytes as letters. Source: Radford et al. 2019, GPT-2's encoder.py."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """The pieces of a text without special tokens.

    Args:
        ids: of each piece.
        offsets: its characters, in code points, half-open.
        words: runs of letters and digits, and every other character; None where the task has to find them itself.
    """

    ids: list[int]
    offsets: list[Characters]
    words: Words | None = None


class Tokenizer:
    """A tokenizer.json, ready to use.

    Args:
        file: path of tokenizer.json.
    Attributes:
        prefix, suffix: ids of the special tokens around a text, or around two that are read together.
        between: ids of those between the two; separator is the last of them.
        unknown: id of the piece for what has no piece; None where every text has pieces.
        mask: id of the piece that hides another; None where there is none.
    Raises:
        InvalidBase: the file is missing or is not a tokenizer.
    """

    def __init__(self, file: Path) -> None:
        self._tokenizer = _open(file)
        self.prefix, _, self.suffix = _split_special(self._tokenizer.encode("a"))
        self.between: list[int] = _split_special(self._tokenizer.encode("a", "a"))[1] or self.suffix
        self.separator: int | None = self.between[-1] if self.between else None
        self.n_vocabulary: int = self._tokenizer.get_vocab_size()
        self.unknown: int | None = _find_unknown(self._tokenizer)
        masks = (self._tokenizer.token_to_id(name) for name in ("[MASK]", "<mask>"))
        self.mask: int | None = next((one for one in masks if one is not None), None)
        self._plain = _find_short_way(self._tokenizer)

    def encode(self, text: str) -> Pieces:
        """Cut a text into pieces.

        Raises:
            InvalidValue: the text holds half of a surrogate pair, which no UTF-8 can carry.
        """
        if self._plain is not None and isinstance(text, str):
            plain = self._plain.encode(text)
            if plain is not None:
                return Pieces(*plain)
        try:
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:
            raise InvalidValue(
                f"the text is not valid Unicode: {'a lone surrogate' if isinstance(text, str) else type(text).__name__}"
                " came where characters are expected. Send well-formed text."
            ) from error
        return Pieces(encoding.ids, encoding.offsets)

    def n_special(self, n_texts: int) -> int:
        """Count the special tokens around so many texts that are read together, 1 or 2."""
        return len(self.prefix) + len(self.suffix) + (n_texts - 1) * len(self.between)

    def whole_words(self, n: int) -> list[str]:
        """Give n words that are one piece each, the same ones every time."""
        words: list[str] = []
        for piece in sorted(self._tokenizer.get_vocab()):
            word = piece.lstrip("▁Ġ")
            if 3 <= len(word) <= 10 and word.isascii() and word.isalpha() and len(self.encode(word).ids) == 1:
                words.append(word)
        step = max(len(words) // n, 1)
        return words[::step][:n] or ["a"]


def _open(file: Path) -> _Tokenizer:
    try:
        tokenizer = _Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise InvalidBase(f"{file.name} cannot be read as a tokenizer: {error}. Give a tokenizer.json.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _split_special(encoding: Any) -> tuple[list[int], list[int], list[int]]:
    """Give the ids of special tokens before the first piece, between pieces and after the last."""
    inner = [i for i, is_special in enumerate(encoding.special_tokens_mask) if not is_special]
    first, last = inner[0], inner[-1]
    between = [encoding.ids[i] for i in range(first, last) if i not in inner]
    return encoding.ids[:first], between, encoding.ids[last + 1 :]


def _find_unknown(tokenizer: _Tokenizer) -> int | None:
    """Give the id of the piece for what has no piece; None where every text has pieces."""
    named = getattr(tokenizer.model, "unk_token", None)
    found = (tokenizer.token_to_id(name) for name in (named, "<unk>", "[UNK]") if name)
    return next((one for one in found if one is not None), None)


def _find_short_way(tokenizer: _Tokenizer) -> WordPieces | None:
    """Give the short way for plain text where the tokenizer goes by BERT's rules in every step."""
    model, normalizer = tokenizer.model, tokenizer.normalizer
    if not (
        isinstance(model, models.WordPiece)
        and isinstance(normalizer, normalizers.BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
    ):
        return None
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    unknown = vocabulary.get(model.unk_token)
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    is_plain = all(content.isascii() and content.isprintable() for content in added)  # else it may match in other words
    if unknown is None or not model.continuing_subword_prefix or not is_plain or len(added) > _MOST_ADDED:
        return None
    return WordPieces(
        vocabulary, lowercase=normalizer.lowercase, unknown=unknown, prefix=model.continuing_subword_prefix,
        longest=model.max_input_chars_per_word, added=added,
    )  # fmt: skip


class SpeakingTokenizer:
    """A tokenizer.json both ways: text to ids, and ids to text as they come.

    Raises:
        InvalidBase: the file is missing or is not a tokenizer.
    """

    def __init__(self, file: Path) -> None:
        self._tokenizer = _open(file)
        self.n_pieces: int = self._tokenizer.get_vocab_size()

    def encode(self, text: str, *, has_frame: bool) -> list[int]:
        """Cut a text into ids.

        Args:
            has_frame: put in front and behind what the tokenizer puts around every text.
        """
        return list(self._tokenizer.encode(text, add_special_tokens=has_frame).ids)

    def speller(self) -> "Speller":
        """Begin to spell an answer."""
        return Speller(self._tokenizer)

    def spell(self, i: int) -> str:
        """Give the text of one piece, special ones too."""
        return str(self._tokenizer.decode([i], skip_special_tokens=False))

    def spell_all(self) -> tuple[bytes, ...] | None:
        """Give the bytes that each id adds to a text, nothing for special ones; None for a decoder of another kind.

        Limits: byte-level BPE, and the kind that writes a space as a low line and rare bytes as <0x0A>.
        """
        parts = json.loads(self._tokenizer.to_str())
        steps = parts["decoder"] or {}
        kinds = {one["type"] for one in steps.get("decoders", [steps]) if "type" in one}
        if kinds == {"ByteLevel"}:
            as_bytes: dict[str, int] | None = _BYTE_OF_LETTER
        elif kinds and kinds <= _LOW_LINE_KINDS:
            as_bytes = None
        else:
            return None
        added = {one["id"]: b"" if one["special"] else one["content"].encode() for one in parts["added_tokens"]}
        pieces = []
        for i in range(self.n_pieces):
            piece = self._tokenizer.id_to_token(i)
            if i in added or piece is None:
                pieces.append(added.get(i, b""))
            elif as_bytes is not None:
                pieces.append(bytes(as_bytes[letter] for letter in piece if letter in as_bytes))
            elif _BYTE.fullmatch(piece):
                pieces.append(bytes.fromhex(piece[3:5]))
            else:
                pieces.append(piece.replace("\u2581", " ").encode())
        return tuple(pieces)


class Speller:
    """Text of ids as they come; a character of several pieces comes whole with its last one."""

    def __init__(self, tokenizer: _Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def add(self, i: int) -> str:
        """Give what is new."""
        return self._stream.step(self._tokenizer, i) or ""
