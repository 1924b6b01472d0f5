"""A tiny causal language model with random weights in Hugging Face layout, and bundles that speak.

Border: used by tests only.
"""

import random
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from millis.bundles import Bundle, Manifest, Rung, save_bundle
from millis.contract import Contract

TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'system' and not loop.first %}"
    "{{ raise_exception('system comes first') }}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
START, END = 256, 257


def make_byte_tokenizer() -> Tokenizer:
    """Make a tokenizer whose pieces are bytes, and two special ones."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={one: i for i, one in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    return tokenizer


_PARTS = (
    "The tide", "潮水", "来了", "，", "。", "def f(x):\n    return x ** 2", "\tif (a != b) { c[i]++; }", " ", "  ", "    ", "\t", "\t\t", "\n", "\n\n", "\r\n", "\r", "\x0b", "3.14", "2026年",
    "x =  12", "0xFF", "1_000", "I'll", "THEY'RE", "don't", "¿Qué?", "naïve", "nai\u0308ve", "a\u0323\u0301", "\u0301", "🙂", "👩\u200d👧", "👍🏽", "🇨🇭", "1\ufe0f\u20e3", "ﬁ", "Ａｂ１２", "ｱｶﾞ｡", "ſ", "Å", "\u212b",
    "½²", "٣٤", "१२", "Ⅷ", "𠮷", "龘", "\u00a0", "\u3000", "\u2003", "\u2028", "\u200b", "\ufeff", "\x00", "\ufffd", "…", "“”", "（）", "<|x|>", "</s>", "<|im_start|>", "<|im_end|>", "<|im_end|", "< |im_end|>", "<|IM_END|>",
    "%s", "\\n", "한국어", "\u1112\u1161\u11ab", "मानक", "שָׁלוֹם", "\u200fمَرْحَبًا", "__init__", "https://a.b/c?d=e&f", "```py\r\n\t1+1\r\n```", '{"k":  [1,  2]}',
)  # fmt: skip


def mix_texts(n: int, *, seed: int = 17) -> list[str]:
    """Mix Chinese, English, code and signs into texts, each another."""
    draw = random.Random(seed)
    return [f"{i}" + "".join(draw.choices(_PARTS, k=draw.randint(1, 12))) for i in range(n)]


def make_speaker(folder: Path, *, family: str = "llama", template: str | None = TEMPLATE, n_layers: int = 2) -> Path:
    """Write a tiny model with random weights."""
    import torch
    from transformers import (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    kinds = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "gemma3_text": (Gemma3TextConfig, Gemma3ForCausalLM),
    }
    config, model = kinds[family]
    torch.manual_seed(7)
    more = {"sliding_window": 64, "head_dim": 16, "query_pre_attn_scalar": 16} if family == "gemma3_text" else {}
    made = model(
        config(
            vocab_size=258, hidden_size=64, intermediate_size=128, num_hidden_layers=n_layers, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256, eos_token_id=END, bos_token_id=START,
            initializer_range=0.3, **more,
        )
    )  # fmt: skip
    made.save_pretrained(folder)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=make_byte_tokenizer(), bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    if template is not None:
        fast.chat_template = template
    fast.save_pretrained(folder)
    return folder


def write_gguf(source: Path, file: Path) -> Path:
    """Write a llama of make_speaker as a GGUF file in float32, with its tokenizer and template.

    There has to be a merge: "ab" takes the place of a byte that is in no text.
    """
    import gguf
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source)
    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    tokenizer = make_byte_tokenizer()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokenizer.id_to_token(i).replace("\u00ff", "ab") for i in range(END + 1)])
    writer.add_token_types([gguf.TokenType.NORMAL] * START + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(START)
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in model.state_dict().items():
        weights = tensor.numpy()
        for of, n_heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if of in name:  # llama.cpp turns neighbouring pairs, transformers the two halves
                weights = weights.reshape(n_heads, 2, -1, config.hidden_size).swapaxes(1, 2).reshape(weights.shape)
        writer.add_tensor(_name_in_gguf(name), weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _name_in_gguf(name: str) -> str:
    known = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk", "self_attn.o_proj": "attn_output",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.": "attn_", "mlp.": "ffn_", "_proj": "",
    }  # fmt: skip
    for theirs, ours in known.items():
        name = name.replace(theirs, ours)
    return name


def make_echo_bundle(
    folder: Path, *, context: int = 256, name: str = "echo", contract: Contract | None = None, task: str = "chat",
    pause_ms: float = 0.0, **more: str,
) -> Bundle:
    """Write a bundle on the fake generator, which says its prompt again; more are task settings."""
    rung = Rung(name="fake", backend="fake", precision="none", folder="rungs/fake")
    manifest = Manifest(
        format=1, name=name, task=task, labels=(), rungs=(rung,), rung="fake",
        task_settings={"context": context, "stop_ids": [END], "begin": "<|im_start|>", "end": "<|im_end|>", **more},
        contract=(contract or Contract(p99="1 s")).record(),
    )  # fmt: skip
    parts: dict[str, Path | bytes] = {
        "tokenizer.json": make_byte_tokenizer().to_str().encode(), "rungs/fake/none": b"-",
        "rungs/fake/pause_ms": str(pause_ms).encode(),
        "chat_template.jinja": TEMPLATE.encode(),
    }  # fmt: skip
    return save_bundle(folder / f"{name}.millis", manifest=manifest, parts=parts)
