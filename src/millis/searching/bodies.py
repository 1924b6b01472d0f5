"""Request bodies to measure with: the user's own texts, or texts made up to the same lengths.

Border: a bundle keeps how long its texts were, never the texts; so a stranger can prove it without the data.
"""

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from millis.bundles import Bundle
from millis.bundles.bundle import TOKENIZER
from millis.data.examples import Asked, Example, Question, Ranking, options_of
from millis.errors import InvalidValue
from millis.tasks import tasks
from millis.tasks.tokenization import SpeakingTokenizer, Tokenizer

PROMPT_TOKENS, ANSWER_TOKENS = 64, 32
"""Of bodies made up for what generates."""

_QUESTION_TOKENS, _DOCUMENTS = 12, 20
_N_PROMPTS = 1_000
_SEED = 7


def bodies_of_texts(texts: Sequence[Asked]) -> tuple[bytes, ...]:
    """Make a body of each text, in an order that is always the same."""
    return _shuffle([{"input": text} for text in texts], seed=_SEED)


def bodies_of_examples(examples: Sequence[Example], *, seed: int) -> tuple[bytes, ...]:
    """Make a body that asks each example, in an order fixed by the seed."""
    return _shuffle([{"input": one.text, **options_of(one)} for one in examples], seed=seed)


def _shuffle(documents: list[dict[str, Any]], *, seed: int) -> tuple[bytes, ...]:
    random.Random(seed).shuffle(documents)  # noqa: S311 - an order, not a secret
    return tuple(msgspec.json.encode(document) for document in documents)


def bodies_of_lengths(bundle: Bundle, *, n: int = 1_000) -> tuple[bytes, ...]:
    """Make up texts whose token counts are distributed like those of the bundle's data."""
    tokenizer = Tokenizer(bundle.path / TOKENIZER)
    words = tokenizer.whole_words(300)
    chance = random.Random(_SEED)  # noqa: S311 - lengths, not secrets
    if not bundle.manifest.lengths:
        raise InvalidValue(f"{bundle.name} does not say how long its texts were: give bodies to send (--bodies FILE).")
    tokens, counts = zip(*bundle.manifest.lengths, strict=True)
    asks = tasks[bundle.manifest.task].asks
    n_prefix = len(tokenizer.encode(str(bundle.manifest.task_settings.get("query_prefix", ""))).ids)

    def draw(n_words: int) -> str:
        return " ".join(chance.choices(words, k=max(n_words, 1)))

    def make_up(n_tokens: int) -> Asked:
        if asks is str:
            return draw(n_tokens - tokenizer.n_special(1) - n_prefix)
        n_words = n_tokens - tokenizer.n_special(2)
        n_asked = min(_QUESTION_TOKENS, n_words // 2)
        if asks is Question:
            return Question(draw(n_asked), draw(n_words - n_asked))
        return Ranking(draw(n_asked), tuple(draw(n_words - n_asked) for _ in range(_DOCUMENTS)))

    return bodies_of_texts([make_up(n_tokens) for n_tokens in chance.choices(tokens, weights=counts, k=n)])


def bodies_of_prompts(bundle: Bundle) -> tuple[bytes, ...]:
    """Make up prompts of token ids, all of one length and no two with the same beginning, asked for streamed answers.

    Answers are as long as PROMPT_TOKENS and ANSWER_TOKENS say unless the model ends one before; both shrink where the
    context is shorter.
    """
    settings = bundle.manifest.task_settings
    chance = random.Random(_SEED)  # noqa: S311 - prompts, not secrets
    known = set(range(SpeakingTokenizer(bundle.path / TOKENIZER).n_pieces)) - set(settings["stop_ids"])
    pieces = sorted(known)
    n_prompt = min(PROMPT_TOKENS, int(settings["context"]) // 2)
    return tuple(
        msgspec.json.encode(
            {
                "model": bundle.name, "prompt": chance.choices(pieces, k=n_prompt), "max_tokens": ANSWER_TOKENS,
                "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
            }
        )
        for _ in range(_N_PROMPTS)
    )  # fmt: skip
