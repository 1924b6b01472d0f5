"""A causal language model becomes a bundle that computes what its source computes."""

import json
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openvino as ov
import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from fitting import run_millis
from millis.bundles import open_bundle
from millis.cli.app import app
from millis.compiling.causal import FILE, convert_causal, run_source, run_stateful
from millis.compressing.packing import pack
from millis.compressing.rounding import cut_windows
from millis.compressing.vocabulary import trim_speaker
from millis.contract import Contract
from millis.errors import InvalidBase, InvalidValue
from millis.models.speakers import load_speaker
from millis.models.speech import load_speech
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from speaking import END, TEMPLATE, make_byte_tokenizer, make_speaker, write_gguf

pytestmark = pytest.mark.slow
CONTRACT = Contract(p99="1 s", rate="2/s")
TEXTS = [f"the tide comes in {n} times a day" for n in ("two", "three", "four", "five", "six", "seven", "eight", "nine")]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
def test_converted_model_with_a_past_says_what_torch_says(tmp_path: Path, family: str) -> None:
    speaker = load_speaker(str(make_speaker(tmp_path / family, family=family)))
    ids = np.random.default_rng(0).integers(0, 258, 40)
    want = run_source(speaker.model, ids)
    made = convert_causal(speaker.model)
    for n_first in (1, 17, 40):
        got = run_stateful(made, ids, n_first=n_first)
        assert np.abs(got - want).max() < 1e-3 * np.abs(want).max()
    assert np.abs(want).max() > 0.5  # a model that says nothing would pass too


def test_packed_bundle_holds_what_was_asked_and_how_far_each_step_is(tmp_path: Path) -> None:
    folder = make_speaker(tmp_path / "tiny")
    pack(str(folder), tmp_path / "tiny.millis", contract=CONTRACT, rungs=("int8", "int4", "fp32"), context=1000, round_by=TEXTS)
    bundle = open_bundle(tmp_path / "tiny.millis")
    assert [rung.name for rung in bundle.manifest.rungs] == ["int8", "int4", "fp32"]
    assert bundle.manifest.task_settings["context"] == 256  # the model's, less than what was asked
    assert bundle.manifest.task_settings["stop_ids"] == [END]
    assert (bundle.path / "chat_template.jinja").read_text() == TEMPLATE
    int8, int4, exact = bundle.manifest.rungs
    assert exact.steps[-1].max_abs is not None
    assert exact.steps[-1].max_abs < 1e-3
    assert int8.steps[-1].max_abs < int4.steps[-1].max_abs  # type: ignore[operator]
    sizes = [bundle.count_bytes(rung) for rung in (int4, int8, exact)]
    assert sizes == sorted(sizes)
    how = next(choice for choice in int4.choices if choice.what == "four bits rounded")
    by, without = (float(word) for word in how.reason.replace(",", "").split() if "." in word)
    assert how.choice == ("by texts" if by < without else "without texts")
    assert "on 2 texts kept aside" in how.reason


def test_wrong_rungs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="int8, int4, fp32"):
        pack("nothing", tmp_path / "x.millis", contract=CONTRACT, rungs=("int3",))
    with pytest.raises(InvalidValue, match="only int4 is rounded by texts"):
        pack("nothing", tmp_path / "x.millis", contract=CONTRACT, rungs=("int8",), round_by=TEXTS)
    with pytest.raises(InvalidValue, match="only int4 is rounded by texts"):
        pack("nothing", tmp_path / "x.millis", contract=CONTRACT, rungs=("int8",), round_by=[])
    with pytest.raises(InvalidValue, match="0 of 0 texts"):
        cut_windows(make_byte_tokenizer().to_str(), [])
    with pytest.raises(InvalidValue, match="1 of 2 texts to round by have 8 tokens"):
        cut_windows(make_byte_tokenizer().to_str(), ["short", "long enough"])


def test_unusable_bases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidBase, match="neither a folder"):
        load_speaker(str(tmp_path / "nothing"))
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InvalidBase, match="'bert'"):
        load_speaker(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(InvalidBase, match="not JSON"):
        load_speaker(str(folder))


def test_of_several_templates_the_one_that_is_meant_for_chats_is_taken(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    folder = make_speaker(tmp_path / "tiny", template=None)
    assert load_speech(str(folder)).template is None
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.chat_template = {"default": TEMPLATE, "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained(folder)
    assert load_speech(str(folder)).template == TEMPLATE


def _make_gguf(file: Path, *, architecture: str) -> bytes:
    """Write a GGUF file that is whole, and holds one tensor."""
    import gguf

    writer = gguf.GGUFWriter(file, architecture)
    writer.add_context_length(64)
    writer.add_token_list(["a", "b"])
    writer.add_tensor("token_embd.weight", np.zeros((2, 16), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file.read_bytes()


def test_a_gguf_that_is_cut_or_lies_or_is_of_no_known_family_is_refused(tmp_path: Path) -> None:
    file, out = tmp_path / "base.gguf", tmp_path / "x.millis"
    whole = _make_gguf(file, architecture="llama")
    most = (1 << 62).to_bytes(8, "little")
    cut = {f"cut at {n}": whole[:n] for n in (0, 3, 8, 24, 100, len(whole) // 2, len(whole) - 1)}
    lies = {
        "another version": whole[:4] + b"\x63" + whole[5:], "tensors without end": whole[:8] + most + whole[16:],
        "keys without end": whole[:16] + most + whole[24:], "a key without end": whole[:24] + most + whole[32:],
    }  # fmt: skip
    cases = {**cut, **lies, "family": _make_gguf(tmp_path / "other.gguf", architecture="mamba")}
    for name, content in cases.items():
        file.write_bytes(content)
        done = CliRunner().invoke(app, ["pack", str(file), "-o", str(out)])
        words = "'mamba'" if name == "family" else "cannot be read as GGUF"
        assert isinstance(done.exception, InvalidBase), (name, done.exception)
        assert words in str(done.exception), name
        assert not out.exists()


def _write_changed(folder: Path, file: Path, **changes: object) -> Path:
    """Write a GGUF file whose writer does one thing otherwise."""
    import gguf

    with pytest.MonkeyPatch.context() as patch:
        for name, change in changes.items():
            patch.setattr(gguf.GGUFWriter, name, partialmethod(change, getattr(gguf.GGUFWriter, name)))
        return write_gguf(folder, file)


def test_a_gguf_cuts_texts_by_the_rule_that_it_names(tmp_path: Path) -> None:
    whole = make_speaker(tmp_path / "whole")

    def write(rule: str) -> str:
        def join_spaces(writer: Any, add: Any, tokens: list[str]) -> None:
            add(writer, [token.replace("\u00fe", "\u0120\u0120") for token in tokens])  # for a byte that is in no text

        changes: dict[str, Any] = {
            "add_tokenizer_pre": lambda writer, add, _: add(writer, rule), "add_token_list": join_spaces,
            "add_token_merges": lambda writer, add, merges: add(writer, [*merges, "\u0120 \u0120"]),
        }  # fmt: skip
        return str(_write_changed(whole, tmp_path / f"{rule}.gguf", **changes))

    def cut(rule: str) -> list[str]:
        tokens: list[str] = Tokenizer.from_str(load_speech(write(rule)).tokenizer).encode("x =  12").tokens
        return [token.replace("\u0120", " ") for token in tokens]

    assert cut("gpt-2") == cut("default") == ["x", " ", "=", " ", " ", "1", "2"]
    assert cut("smollm") == cut("starcoder") == ["x", " ", "=", "  ", "1", "2"]
    bundle = pack(write("smollm"), tmp_path / "x.millis", contract=CONTRACT, rungs=("fp32",))
    assert (bundle.path / "tokenizer.json").read_text("utf-8") == load_speech(write("smollm")).tokenizer
    done = CliRunner().invoke(app, ["pack", write("deepseek-llm"), "-o", str(tmp_path / "y.millis")])
    assert isinstance(done.exception, InvalidBase)
    assert "by the rule 'deepseek-llm', which is not known here" in str(done.exception)
    assert not (tmp_path / "y.millis").exists()


def test_a_base_with_missing_weights_or_another_models_tokenizer_is_refused(tmp_path: Path) -> None:
    whole = make_speaker(tmp_path / "whole")

    def leave_out(writer: Any, add: Any, name: str, weights: Any) -> None:
        if name != "blk.1.ffn_up.weight":
            add(writer, name, weights)

    def leave_head_out(writer: Any, add: Any, name: str, weights: Any) -> None:
        if name != "output.weight":
            add(writer, name, weights)

    def harm(writer: Any, add: Any, name: str, weights: Any) -> None:
        add(writer, name, np.full_like(weights, np.nan) if name == "blk.0.attn_q.weight" else weights)

    changes: dict[str, tuple[dict[str, Any], str]] = {
        "a weight": ({"add_tensor": leave_out}, "model.layers.1.mlp.up_proj.weight is missing"),
        "a layer": ({"add_block_count": lambda writer, add, n: add(writer, n + 1)}, "model.layers.2.input_layernorm.weight is missing, or of another shape than its config says, and 8 more"),
        "tokens": (
            {"add_token_list": lambda writer, add, tokens: add(writer, [*tokens, *map(str, range(100, 150))]),
             "add_token_types": lambda writer, add, types: add(writer, [*types, *[1] * 50])},
            "go up to id 307, and 258 rows",
        ),
        "no numbers": ({"add_tensor": harm}, "what is no number"),
    }  # fmt: skip
    for name, (change, says) in changes.items():
        file = _write_changed(whole, tmp_path / "base.gguf", **change)
        done = CliRunner().invoke(app, ["pack", str(file), "-o", str(tmp_path / "x.millis")])
        assert isinstance(done.exception, InvalidBase), (name, done.exception)
        assert says in str(done.exception), (name, done.exception)
        assert not (tmp_path / "x.millis").exists()
    tied = _write_changed(whole, tmp_path / "tied.gguf", add_tensor=leave_head_out)
    assert load_speaker(str(tied)).model.config.tie_word_embeddings, "a head that is the table is not missing"
    weights = load_file(whole / "model.safetensors")
    del weights["model.layers.0.self_attn.v_proj.weight"]
    save_file(weights, whole / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidBase, match=r"not whole: model\.layers\.0\.self_attn\.v_proj\.weight"):
        load_speaker(str(whole))


def test_packing_says_what_it_does_and_libraries_say_nothing(tmp_path: Path) -> None:
    base = write_gguf(make_speaker(tmp_path / "tiny"), tmp_path / "tiny.gguf")
    done = run_millis("pack", base, "-o", tmp_path / "tiny.millis")
    steps = ["reading tiny.gguf", "converting tiny.gguf", "rounding weights to int8", "rounding weights to int4"]
    assert done.stderr.splitlines() == steps
    assert done.stdout.startswith(f"wrote {tmp_path / 'tiny.millis'}: int8, int4, int8 serves\n")


def test_trimmed_vocabulary_cuts_and_says_what_the_source_does(tmp_path: Path) -> None:
    folder, corpus = _make_merging(tmp_path / "tiny"), ["the tide and the harbour", "潮水 tide"]
    source, old = load_speaker(str(folder)), Tokenizer.from_file(str(folder / "tokenizer.json"))
    (tmp_path / "corpus.txt").write_text("\n".join(corpus), "utf-8")
    asked = ["pack", str(folder), "-o", str(tmp_path / "small.millis"), "--rungs", "fp32"]
    done = CliRunner().invoke(app, [*asked, "--trim-vocabulary", "--corpus", str(tmp_path / "corpus.txt")])
    assert done.exit_code == 0, done.output
    bundle = open_bundle(tmp_path / "small.millis")
    new = Tokenizer.from_file(str(bundle.path / "tokenizer.json"))
    names = new.get_vocab()
    assert {"tide", "Ġtide"} & names.keys()
    assert not {"boat", "Ġboats"} & names.keys()  # pieces of the source that the corpus has not
    for text in (*corpus, "<|im_start|>user\nthe tide<|im_end|>\n"):
        assert new.encode(text).tokens == old.encode(text).tokens
    assert new.decode(new.encode("boats, 船 and ÿ").ids) == "boats, 船 and ÿ"  # spelt by smaller pieces
    stops = [new.id_to_token(i) for i in bundle.manifest.task_settings["stop_ids"]]
    assert stops == [old.id_to_token(i) for i in source.speech.stop_ids]
    assert "<|im_end|>" in stops

    text = corpus[0] + corpus[1]
    kept = [old.token_to_id(new.id_to_token(i)) for i in range(new.get_vocab_size())]
    want = run_source(source.model, np.array(old.encode(text).ids))[:, kept]
    made = ov.Core().read_model(bundle.path / "rungs" / "fp32" / FILE)
    got = run_stateful(made, np.array(new.encode(text).ids), n_first=5)
    assert got.shape == want.shape
    assert np.abs(got - want).max() < 1e-3 * np.abs(want).max()
    shown = CliRunner().invoke(app, ["inspect", str(bundle.path)])
    assert f"vocabulary: {len(kept)} of {old.get_vocab_size()} pieces" in shown.output


def test_a_tokenizer_that_names_an_id_without_a_piece_is_not_trimmed(tmp_path: Path) -> None:
    speaker = load_speaker(str(make_speaker(tmp_path)))
    parts = json.loads(speaker.speech.tokenizer)
    end = "<|im_end|>"
    frame = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": end, "type_id": 0}}]
    parts["post_processor"] = {
        "type": "TemplateProcessing", "single": frame, "pair": frame,
        "special_tokens": {end: {"id": end, "ids": [999_999], "tokens": [end]}},
    }  # fmt: skip
    with pytest.raises(InvalidBase, match="no piece for id 999999"):
        trim_speaker(replace(speaker, speech=replace(speaker.speech, tokenizer=json.dumps(parts))), texts=["the tide comes in"])


def test_trimming_wants_the_flag_and_the_corpus(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text("\n")
    given = [(["--trim-vocabulary"], "--trim-vocabulary came alone"), (["--corpus", "blank.txt"], "--corpus came alone")]
    both = ["--trim-vocabulary", "--corpus", str(tmp_path / "blank.txt")]
    for more, said in (*given, (both, "blank.txt:1: the file has no examples")):
        done = CliRunner().invoke(app, ["pack", "nothing", "-o", str(tmp_path / "x.millis"), *more])
        assert done.exit_code != 0
        assert said in f"{done.output}{done.exception}"


def test_a_system_message_in_the_bundle_is_what_a_client_would_send(tmp_path: Path) -> None:
    base, said = make_speaker(tmp_path / "tiny"), "Answer in a word, and say nothing else."
    (tmp_path / "system.txt").write_text(said)
    asked = ["pack", str(base), "-o", str(tmp_path / "terse.millis"), "--rungs", "fp32", "--system"]
    done = CliRunner().invoke(app, [*asked, str(tmp_path / "system.txt")])
    assert done.exit_code == 0, done.output
    assert "prompts begin with the same" in done.output
    messages = [{"role": "user", "content": "tide?"}]
    with Supervisor(ServeSettings(bundles=(str(tmp_path / "terse.millis"),), port=0)) as server:
        bare, sent, other = (
            httpx.post(
                f"{server.url}/v1/chat/completions", json={"messages": one, "max_tokens": 8, "temperature": 0}, timeout=20
            ).json()
            for one in (messages, [{"role": "system", "content": said}, *messages], [{"role": "system", "content": "Sing."}, *messages])
        )
    assert bare["choices"] == sent["choices"]
    assert bare["usage"] == sent["usage"]
    assert other["usage"]["prompt_tokens"] == bare["usage"]["prompt_tokens"] - len(said) + len("Sing.")
    for given, says in ((" ", "system message is empty"), ("missing.txt", "missing.txt cannot be read"), ("long " * 60, "cut it")):
        refused = CliRunner().invoke(app, [*asked, given])
        assert says in f"{refused.output}{refused.exception}"
    bare_base = make_speaker(tmp_path / "bare", template=None)
    with pytest.raises(InvalidValue, match="cannot be given a system message"):
        pack(str(bare_base), tmp_path / "no.millis", contract=CONTRACT, rungs=("fp32",), system=said)


def _make_merging(folder: Path) -> Path:
    """Write a tiny model whose tokenizer has merged pieces of a few words."""
    make_speaker(folder)
    made = make_byte_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=["<|im_start|>", "<|im_end|>"],
    )  # fmt: skip
    made.train_from_iterator(["the tide and the boats in the harbour, boat by boat and tide by tide"] * 9, trainer)
    made.save(str(folder / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(made.get_vocab_size())
    model.config.eos_token_id = model.generation_config.eos_token_id = made.token_to_id("<|im_end|>")
    model.config.bos_token_id = model.generation_config.bos_token_id = made.token_to_id("<|im_start|>")
    model.save_pretrained(folder)
    return folder
