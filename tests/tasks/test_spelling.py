"""The bytes that each id of a tokenizer adds to a text, in which grammars are read."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models

from millis.tasks.tokenization import SpeakingTokenizer
from speaking import make_byte_tokenizer

LOW_LINE = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


def _save(folder: Path, tokenizer: Tokenizer) -> SpeakingTokenizer:
    tokenizer.save(str(folder / "tokenizer.json"))
    return SpeakingTokenizer(folder / "tokenizer.json")


@pytest.mark.parametrize(("decoder", "pieces"), [(LOW_LINE, (b" a", b"\xc3", b"\xa9", b"", b"<x>")), (decoders.WordPiece(), None), (None, None)])
def test_pieces_are_spelled_as_their_decoder_does(tmp_path: Path, decoder: Any, pieces: Any) -> None:
    tokenizer = Tokenizer(models.BPE(vocab={"▁a": 0, "<0xC3>": 1, "<0xA9>": 2}, merges=[], byte_fallback=True))
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    tokenizer.add_tokens([AddedToken("<x>", special=False)])
    assert _save(tmp_path, tokenizer).spell_all() == pieces


def test_bytes_of_byte_level_pieces_make_the_text_again(tmp_path: Path) -> None:
    tokenizer = _save(tmp_path, make_byte_tokenizer())
    pieces, text = tokenizer.spell_all(), "héllo 你好\n\x00🙂"
    assert pieces is not None
    assert b"".join(pieces[i] for i in tokenizer.encode(text, has_frame=False)).decode() == text
    assert sorted(pieces) == sorted([b"", b"", *(bytes([i]) for i in range(256))])
