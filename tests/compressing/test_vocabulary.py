"""Trimming leaves the texts it was given as they were, and lets no other text become unknown."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from backends.tiny import room_for
from making import make_tokenizer
from millis.backends.encoder import LayerShape, read_shape, shrink
from millis.compressing.vocabulary import Trimmed, trim_vocabulary
from millis.errors import InvalidBase, InvalidValue, MillisError, RunFailed
from millis.models.taggers import build_tagger, load_tagger, save_tagger
from millis.tasks.task import Head
from millis.tasks.tokenization import Tokenizer as Reading
from models.tiny import TYPES, write_base

LABELS = ("O", "B-ORG", "I-ORG")
KINDS = ("wordpiece", "unigram", "unigram bytes", "bpe bytes", "bpe letters")
MODEL_TYPE = {"wordpiece": "bert", "bpe bytes": "roberta", "bpe letters": "distilbert"}  # the others: xlm-roberta
KEPT = [
    "the committee delegated unbelievable authority to northwind in lisbon",
    "ordering 12,000 reports costs more than reordering 250 of them!",
    "浙商银行企业信贷部叶老桂博士从另一个角度解读 😀",
    "",
    "mixed 中文 and english, naïve café 👍🏽 <mask> [SEP] </s>",
]
NEW = ["deregulated reporting of unordered believers", "银行信贷博士解读北京角度", "😀👍 café", "zzz qqqq x 9", "龘 ꙮ"]


def learn_from() -> list[str]:
    chance = random.Random(3)
    stems, ends = ["order", "report", "believ", "regulat", "commit", "deleg"], ["ing", "ed", "able", "ation", "er", "s"]
    words = [chance.choice(["", "un", "re", "de"]) + chance.choice(stems) + chance.choice(ends) for _ in range(3_000)]
    return [" ".join(words[i : i + 8]) for i in range(0, len(words), 8)] + [*KEPT, *NEW[:-1]] * 3


def train(kind: str, file: Path, *, minilm: Path) -> Path:
    """Write a tokenizer of a kind, its special tokens where the real ones of the kind have them."""
    if kind == "wordpiece":
        file.write_bytes((minilm / "tokenizer.json").read_bytes())
        return file
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    model, name = kind.split()[0], kind.partition(" ")[2]
    if model == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=700, special_tokens=special, unk_token="<unk>", show_progress=False)
    elif name == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False,
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    else:
        affixes = {"continuing_subword_prefix": "##", "end_of_word_suffix": "</w>"}
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", **affixes))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False, **affixes)
    tokenizer.train_from_iterator(learn_from(), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.add_special_tokens([*special, "<mask>"])
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>")
    tokenizer.save(str(file))
    if kind == "unigram bytes":
        parts = json.loads(file.read_text())
        parts["model"]["byte_fallback"] = True
        parts["model"]["vocab"] += [[f"<0x{byte:02X}>", -30.0] for byte in range(256)]
        parts["added_tokens"][-1]["id"] = len(parts["model"]["vocab"])
        file.write_text(json.dumps(parts))
    return file


class Case:
    """A tagger before and after trimming, and its tokenizers."""

    def __init__(self, folder: Path, *, kind: str, minilm: Path) -> None:
        self.kind, self.whole, self.small = kind, folder / "whole", folder / "small"
        file = train(kind, folder / "tokenizer.json", minilm=minilm)
        n_pieces = Tokenizer.from_file(str(file)).get_vocab_size()
        base = write_base(folder / "base", MODEL_TYPE.get(kind, "xlm-roberta"), n_pieces=n_pieces + 7)
        save_tagger(build_tagger(base, head=Head(LABELS), seed=1), self.whole, tokenizer_file=file)
        self.result = trim_vocabulary(self.whole, self.small, texts=KEPT)
        self.before, self.after = (self.read(place / "tokenizer.json") for place in (self.whole, self.small))

    @staticmethod
    def read(file: Path) -> Tokenizer:
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def unknown(self, text: str) -> list[tuple[int, int]]:
        """List the characters that are unknown before but not after, or the other way round."""
        found = [
            {offsets for token, offsets in zip(one.tokens, one.offsets, strict=True) if token in ("[UNK]", "<unk>")}
            for one in (tokenizer.encode(text, add_special_tokens=False) for tokenizer in (self.before, self.after))
        ]
        return sorted(found[0] ^ found[1])


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Case:
    return Case(tmp_path_factory.mktemp("trim"), kind=request.param, minilm=minilm)


def test_given_texts_are_cut_as_before(case: Case) -> None:
    for text in KEPT:
        before, after = case.before.encode(text), case.after.encode(text)
        assert before.tokens == after.tokens
        assert before.offsets == after.offsets
        assert before.special_tokens_mask == after.special_tokens_mask


def test_answers_to_given_texts_are_the_same(case: Case) -> None:
    whole, small = load_tagger(case.whole), load_tagger(case.small)
    assert small.longest == whole.longest
    with torch.inference_mode():
        for text in filter(None, KEPT):
            answers = []
            for tagger, tokenizer in ((whole, case.before), (small, case.after)):
                ids = torch.tensor([[*tokenizer.encode(text).ids[:60], *[tagger.pad_id] * 3]])
                mask = torch.ones_like(ids)
                mask[:, -3:] = 0
                answers.append(tagger(ids, mask)[:, :-3])
            assert torch.equal(*answers)


def test_no_text_becomes_unknown(case: Case) -> None:
    assert not [text for text in NEW if case.unknown(text)]
    chance = random.Random(5)
    letters = sorted({character for text in (*KEPT, *NEW) for character in text})
    words = ["".join(chance.choices(letters, k=chance.randint(1, 12))) for _ in range(500)]
    assert not [word for word in words if case.unknown(word)]


def test_new_words_of_the_base_fall_into_pieces(case: Case) -> None:
    words = ["ordering", "report", "believer", "unregulated", "deletion", "authority", "institution", "reordered"]
    cut = {word: [one.encode(word, add_special_tokens=False).tokens for one in (case.before, case.after)] for word in words}
    fallen = {word for word, (before, after) in cut.items() if len(before) < len(after)}
    assert fallen, "some of these words are known to the base and stand in no text"
    assert not any(map(case.unknown, fallen))


def test_special_tokens_keep_their_meaning(case: Case) -> None:
    config = [json.loads((place / "config.json").read_text()) for place in (case.whole, case.small)]
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        before, after = (one.get(key) for one in config)
        if before is not None:
            assert case.before.id_to_token(before) == case.after.id_to_token(after)
    assert config[0]["pad_token_id"] == config[1]["pad_token_id"], "RoBERTa counts positions from it"
    assert config[1]["vocab_size"] == case.after.get_vocab_size() == case.result.pieces_after
    for token in case.before.get_added_tokens_decoder().values():
        assert case.after.encode(token.content, add_special_tokens=False).tokens == [token.content]
    padding = json.loads((case.small / "tokenizer.json").read_text())["padding"]
    assert case.after.id_to_token(padding["pad_id"]) == padding["pad_token"]
    assert Reading(case.small / "tokenizer.json").prefix == [case.after.token_to_id(case.after.encode("a").tokens[0])]


def test_files_are_smaller_and_counted(case: Case) -> None:
    sizes = [sum(file.stat().st_size for file in place.iterdir()) for place in (case.whole, case.small)]
    assert sizes[1] < sizes[0]
    assert case.result == Trimmed(
        pieces_before=case.before.get_vocab_size(), pieces_after=case.after.get_vocab_size(),
        bytes_before=sizes[0], bytes_after=sizes[1],
    )  # fmt: skip
    assert sorted(file.name for file in case.small.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert not list(case.small.parent.glob(".*")), "no draft is left"


def test_trimming_again_changes_nothing(case: Case, tmp_path: Path) -> None:
    again = trim_vocabulary(case.small, tmp_path / "again", texts=KEPT)
    assert again.pieces_after == again.pieces_before
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (case.small / "tokenizer.json").read_bytes()


def write_whole(folder: Path, kind: str = "bert", *, n_pieces: int = 60) -> Path:
    make_tokenizer(write_base(folder, kind, n_pieces=n_pieces))
    return folder


@pytest.mark.parametrize("kind", TYPES)
def test_heads_that_guess_pieces_are_cut_too(kind: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForMaskedLM

    config = AutoConfig.from_pretrained(write_whole(tmp_path / "base", kind))
    config.tie_word_embeddings = False
    network = AutoModelForMaskedLM.from_config(config).eval()
    network.save_pretrained(tmp_path / "base")
    trim_vocabulary(tmp_path / "base", tmp_path / "small", texts=["maria wrote from lisbon"])
    small = AutoModelForMaskedLM.from_pretrained(tmp_path / "small").eval()
    readers = [Reading(tmp_path / name / "tokenizer.json") for name in ("base", "small")]
    ids = [torch.tensor([reader.encode("maria wrote lisbon").ids]) for reader in readers]
    with torch.inference_mode():
        whole, fewer = network(ids[0]).logits[0], small(ids[1]).logits[0]
    assert fewer.shape[1] == readers[1].n_vocabulary < whole.shape[1]
    torch.testing.assert_close(fewer[:, ids[1][0]], whole[:, ids[0][0]], atol=1e-6, rtol=1e-5)


def test_a_pruned_tagger_stays_pruned(tmp_path: Path) -> None:
    tagger = build_tagger(write_base(tmp_path / "base", "bert"), head=Head(LABELS), seed=1)
    shape = (LayerShape(1, 16), LayerShape(0, 0))
    shrink(tagger.network, shape)
    save_tagger(tagger, tmp_path / "whole", tokenizer_file=make_tokenizer(tmp_path / "base"))
    trim_vocabulary(tmp_path / "whole", tmp_path / "small", texts=["hello world"])
    assert read_shape(load_tagger(tmp_path / "small").network) == shape


def edit(folder: Path, **model: object) -> None:
    parts = json.loads((folder / "tokenizer.json").read_text())
    parts["model"] |= model
    (folder / "tokenizer.json").write_text(json.dumps(parts))


def cut(folder: Path, text: str) -> Sequence[str]:
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).tokens


def test_a_character_without_a_piece_keeps_those_that_hold_it(tmp_path: Path) -> None:
    base = write_whole(tmp_path / "base")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abc", "##a", "##b", "ab", "abc", "##bc", "##ab"]
    edit(base, vocab={piece: i for i, piece in enumerate(vocabulary)})
    trim_vocabulary(base, tmp_path / "small", texts=["b"])
    assert cut(tmp_path / "small", "abc") == ["abc"]
    assert cut(tmp_path / "small", "abab") == ["a", "##b", "##a", "##b"]


def test_older_merges_are_read(tmp_path: Path) -> None:
    base = write_whole(tmp_path / "base")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abc", "ab", "abc", "bc", "ca"]
    parts = json.loads((base / "tokenizer.json").read_text())
    parts["model"] = {"type": "BPE", "vocab": {piece: i for i, piece in enumerate(vocabulary)}, "unk_token": "[UNK]",
                      "merges": ["a b", "c a", "b c", "ab c"]}  # fmt: skip
    (base / "tokenizer.json").write_text(json.dumps(parts))
    trim_vocabulary(base, tmp_path / "small", texts=["abc"])
    assert cut(tmp_path / "small", "abc ca bcx") == ["abc", "c", "a", "b", "c", "[UNK]"]


def test_an_unknown_costs_what_it_did(tmp_path: Path) -> None:
    """Unigram gives an unknown character ten less than its least likely piece: without aaaa, ab and x would win."""
    base = write_whole(tmp_path / "base")
    parts = json.loads((base / "tokenizer.json").read_text())
    pieces = [["[UNK]", 0], ["[PAD]", 0], ["[CLS]", 0], ["[SEP]", 0], ["a", -15], ["b", -15], ["ab", -1], ["bx", -15], ["aaaa", -30]]
    parts["model"] = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False}
    (base / "tokenizer.json").write_text(json.dumps(parts))
    trim_vocabulary(base, tmp_path / "small", texts=["ab"])
    assert cut(tmp_path / "base", "abx") == cut(tmp_path / "small", "abx") == ["a", "bx"]


def spoil_kind(base: Path) -> None:
    edit(base, type="WordLevel")


def spoil_tokenizer(base: Path) -> None:
    (base / "tokenizer.json").unlink()


def spoil_post_processor(base: Path) -> None:
    text = (base / "tokenizer.json").read_text()
    (base / "tokenizer.json").write_text(text.replace('"ids": [\n          3', '"ids": [\n          999'))


def spoil_rows(base: Path) -> None:
    write_base(base, "bert", n_pieces=20)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_kind, "'WordLevel' cannot be trimmed, only one of WordPiece, Unigram, BPE"),
        (spoil_tokenizer, "tokenizer.json cannot be read as a tokenizer"),
        (spoil_post_processor, "no piece for id 999"),
        (spoil_rows, "has 20 embedding rows"),
    ],
)
def test_what_cannot_be_trimmed_is_said(spoil: object, says: str, tmp_path: Path) -> None:
    base = write_whole(tmp_path / "base")
    spoil(base)  # type: ignore[operator]
    with pytest.raises(InvalidBase, match=says):
        trim_vocabulary(base, tmp_path / "small", texts=["hello world, order by maria"])
    assert [file.name for file in tmp_path.iterdir()] == ["base"]


def test_a_place_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="exists"):
        trim_vocabulary(write_whole(tmp_path / "base"), tmp_path / "base", texts=["hello"])
    assert (tmp_path / "base" / "model.safetensors").is_file()


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    base = write_whole(tmp_path / "base")
    with room_for(10_000), pytest.raises(RunFailed, match=r"model\.safetensors could not be written"):
        trim_vocabulary(base, tmp_path / "small", texts=["hello"])
    assert [file.name for file in tmp_path.iterdir()] == ["base"]


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MillisError, match="not valid Unicode"):
        trim_vocabulary(write_whole(tmp_path / "base"), tmp_path / "small", texts=["\ud83d"])
