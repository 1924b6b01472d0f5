"""Chats are written and cut as their sources write and cut them, whatever of their own things those use."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from millis.models.speech import load_speech
from millis.tasks.chat import TEMPLATE, Chat
from speaking import END, make_byte_tokenizer, mix_texts
from speaking import TEMPLATE as TURNS

MESSAGES = (
    [{"role": "user", "content": "Is <b>5 & 6</b> 'more' than 潮水?"}],
    [{"role": "system", "content": " Be brief.\n"}, {"role": "user", "content": "a"}],
    [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "a\n"},
        {"role": "assistant", "content": " b"}, {"role": "user", "content": "c"},
    ],
)  # fmt: skip
LOOP = "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] | trim }}{% endfor %}"
TEMPLATES = {
    "a day": "{{ strftime_now('%Y') if strftime_now is defined else 'long ago' }}" + LOOP,
    "answers that are learnt": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "JSON": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}",
    "tools that are not there": "{% if tools is not none %}{{ tools | length }} tools{% endif %}"
    "{% if documents is not none %}documents{% endif %}" + LOOP,
    "the beginning": "{{ bos_token }}" + LOOP + "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "white space": "{% for m in messages %}\n  {%- if loop.first %}\n    {{ m.content }}\n  {% endif %}\n"
    "  {% if loop.last %}{% break %}{% endif %}\n{% endfor %}\n",
}  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_gives_what_transformers_gives(tmp_path: Path, name: str) -> None:
    from transformers import PreTrainedTokenizerFast

    source = PreTrainedTokenizerFast(
        tokenizer_object=make_byte_tokenizer(), bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    (tmp_path / TEMPLATE).write_text(TEMPLATES[name])
    (tmp_path / "tokenizer.json").write_text(make_byte_tokenizer().to_str())
    settings = {"context": 256, "stop_ids": [END], "begin": "<|im_start|>", "end": "<|im_end|>"}
    chat = Chat(tmp_path, settings=settings)
    for messages in MESSAGES:
        want = source.apply_chat_template(messages, chat_template=TEMPLATES[name], add_generation_prompt=True)
        assert chat.encode_messages(messages) == want["input_ids"]


_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
_DIGITS_FIRST = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
_QWEN = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
SOURCES: dict[str, tuple[str, str, Any, list[Any]]] = {
    "SmolLM2": ("llama", "GPT2Tokenizer", None, _DIGITS_FIRST),
    "Qwen2.5": ("qwen2", "Qwen2Tokenizer", normalizers.NFC(), [pre_tokenizers.Split(Regex(_QWEN), "isolated"), _BYTES]),
    "Llama 3": (
        "llama", "PreTrainedTokenizerFast", None,
        [pre_tokenizers.Split(Regex(_QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")), "isolated"), _BYTES],
    ),
}  # fmt: skip


def write_source(folder: Path, name: str) -> Tokenizer:
    """Write a folder in Hugging Face layout whose tokenizer goes by the rules of a known model's, and give that."""
    family, kind, normalizer, steps = SOURCES[name]
    source = Tokenizer(models.BPE(ignore_merges=name == "Llama 3"))
    if normalizer is not None:
        source.normalizer = normalizer
    source.pre_tokenizer, source.decoder = pre_tokenizers.Sequence(steps), decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<|file_sep|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    source.train_from_iterator(mix_texts(500, seed=3), trainer)
    if name == "Llama 3":
        around = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 0)])
        source.post_processor = around
    source.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": family, "max_position_embeddings": 512}))
    told = {"tokenizer_class": kind, "chat_template": TURNS, "bos_token": special[0], "eos_token": special[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return source


@pytest.mark.parametrize("name", SOURCES)
def test_a_thousand_texts_are_cut_as_their_source_cuts_them(tmp_path: Path, name: str) -> None:
    source = write_source(tmp_path, name)
    speech = load_speech(str(tmp_path))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "tokenizer.json").write_text(speech.tokenizer, "utf-8")
    (bundle / TEMPLATE).write_text(speech.template or "", "utf-8")
    settings = {"context": 512, "stop_ids": list(speech.stop_ids), "begin": speech.begin, "end": speech.end}
    chat = Chat(bundle, settings=settings)
    texts = mix_texts(1000)
    assert [text for text in texts if chat.encode(text) != source.encode(text).ids] == []
    for i in range(0, 400, 4):
        a, b, c, d = texts[i : i + 4]
        user, system, said = {"role": "user"}, {"role": "system", "content": b}, {"role": "assistant", "content": c}
        talk = [{**user, "content": a}, said, {**user, "content": d}]
        for messages in (talk[:1], talk, [system, *talk], talk[:2], [*talk, {"role": "assistant", "content": ""}]):
            written = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
            want = source.encode(f"{written}<|im_start|>assistant\n", add_special_tokens=False).ids
            assert chat.encode_messages(messages) == want
