"""The short way to the pieces of plain text gives what the library gives, or leaves the text to it."""

import random
from pathlib import Path

import pytest
from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from making import make_tokenizer
from millis.tasks.tokenization import Pieces, Tokenizer
from millis.tasks.units import find_units

WORDS = (
    "a an and b ba c the then there under un ##a ##b ##ba ##c ##er ##n ##s 1 12 ##3 A An The . , ! [ ] # ##. '".split()
)


def write(folder: Path, *, lowercase: bool = True, longest: int = 100) -> Path:
    library = Library(
        models.WordPiece(
            {word: i for i, word in enumerate(["[UNK]", "[SEP]", *WORDS])},
            unk_token="[UNK]",
            max_input_chars_per_word=longest,
        )
    )
    library.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.add_special_tokens(["[SEP]"])
    library.add_tokens(["the end"])
    library.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def draw_texts(n: int) -> list[str]:
    chance = random.Random(4)
    some = [*WORDS, *"abn .,!#\t\n\x00\x1c\x7fé上", "[SEP]", "[sep]", "the end", "bab", "x" * 12, "ba" * 30]
    return [
        "".join(chance.choice(some) + chance.choice(["", " "]) for _ in range(chance.randint(0, 12))) for _ in range(n)
    ]


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("longest", [100, 9])
def test_pieces_are_the_librarys(lowercase: bool, longest: int, tmp_path: Path) -> None:
    file = write(tmp_path, lowercase=lowercase, longest=longest)
    ours, library = Tokenizer(file), Library.from_file(str(file))
    assert ours._plain is not None
    n_plain = 0
    for text in draw_texts(3_000):
        wanted = library.encode(text, add_special_tokens=False)
        found = ours.encode(text)
        assert (found.ids, found.offsets) == (wanted.ids, wanted.offsets), repr(text)
        if found.words is not None:
            units = find_units(text, Pieces(found.ids, found.offsets))
            assert [*map(list, found.words)] == [*map(list, units)], repr(text)
        n_plain += ours._plain.encode(text) is not None
    assert 1_000 < n_plain < 2_900, "both ways were gone"


def test_real_words_of_a_real_base_are_cut_as_the_library_cuts(minilm: Path) -> None:
    ours, library = Tokenizer(minilm / "tokenizer.json"), Library.from_file(str(minilm / "tokenizer.json"))
    library.no_padding()
    library.no_truncation()
    chance = random.Random(5)
    letters = "etaoinshrdlucmfwypvbgkjqxz0123456789.,-'@#/:ETAOIN"
    for _ in range(3_000):
        text = " ".join("".join(chance.choices(letters, k=chance.randint(1, 14))) for _ in range(8))
        wanted = library.encode(text, add_special_tokens=False)
        found = ours.encode(text)
        assert (found.ids, found.offsets) == (wanted.ids, wanted.offsets), text


@pytest.mark.parametrize("added", [["Thé"], ["a\tn"], [f"token{i}" for i in range(200)]])
def test_added_tokens_that_match_otherwise_than_they_are_written_are_left_to_the_library(
    added: list[str], tmp_path: Path
) -> None:
    file = write(tmp_path)
    library = Library.from_file(str(file))
    library.add_tokens([AddedToken(content, normalized=True) for content in added])
    library.save(str(file))
    ours = Tokenizer(file)
    for text in ("a the then", "a n ba", "token7 a token17", "the thé"):
        wanted = library.encode(text, add_special_tokens=False)
        assert ours.encode(text).ids == wanted.ids, text


def test_other_tokenizers_are_left_to_the_library(tmp_path: Path) -> None:
    file = make_tokenizer(tmp_path)
    library = Library.from_file(str(file))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.save(str(file))
    ours = Tokenizer(file)
    assert ours._plain is None
    assert ours.encode("eu rejects").ids == library.encode("eu rejects", add_special_tokens=False).ids
