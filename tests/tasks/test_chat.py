"""Chat templates are written as transformers writes them, whatever of its own things they use."""

from pathlib import Path

import pytest

from millis.tasks.chat import TEMPLATE, Chat
from speaking import END, make_byte_tokenizer

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
