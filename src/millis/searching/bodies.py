"""Request bodies to measure with: the user's own texts, or texts made up to the same lengths.

Border: a bundle keeps how long its texts were, never the texts; so a stranger can prove it without the data.
"""

import random
from collections.abc import Sequence

import msgspec

from millis.bundles import Bundle
from millis.bundles.bundle import TOKENIZER
from millis.errors import InvalidValue
from millis.tasks.tokenization import Tokenizer


def bodies_of_texts(texts: Sequence[str], *, seed: int = 7) -> tuple[bytes, ...]:
    """Make a body of each text, in an order fixed by the seed."""
    shuffled = list(texts)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - an order, not a secret
    return tuple(msgspec.json.encode({"input": text}) for text in shuffled)


def bodies_of_lengths(bundle: Bundle, *, n: int = 1_000, seed: int = 7) -> tuple[bytes, ...]:
    """Make up texts whose token counts are distributed like those of the bundle's data."""
    tokenizer = Tokenizer(bundle.path / TOKENIZER)
    words = tokenizer.whole_words(300)
    chance = random.Random(seed)  # noqa: S311 - lengths, not secrets
    if not bundle.manifest.lengths:
        raise InvalidValue(f"{bundle.name} does not say how long its texts were: give bodies to send (--bodies FILE).")
    tokens, counts = zip(*bundle.manifest.lengths, strict=True)
    n_special = len(tokenizer.prefix) + len(tokenizer.suffix)
    drawn = chance.choices(tokens, weights=counts, k=n)
    return bodies_of_texts([" ".join(chance.choices(words, k=max(length - n_special, 1))) for length in drawn])
