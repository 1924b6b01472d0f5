"""The words of a text, as search by words counts them.

Runs of letters and digits are words, without case and width; where a script puts no spaces between words (Chinese,
Japanese, Thai and their like) each pair of neighbours is one, so that no segmenter is needed and none can be wrong.
Border: text in, words out.
Limits: no stemming; "order" and "orders" are two words, which vectors make up for.
"""

import re
import unicodedata

_DENSE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Japanese, Chinese
)
_RUN = re.compile(f"[{_DENSE}]+|[^\\W_{_DENSE}]+")
_IS_DENSE = re.compile(f"[{_DENSE}]")


def words_of(text: str) -> list[str]:
    """List the words of a text, in order."""
    words: list[str] = []
    for match in _RUN.finditer(unicodedata.normalize("NFKC", text).casefold()):
        run = match.group()
        if len(run) > 1 and _IS_DENSE.match(run):
            words += [run[i : i + 2] for i in range(len(run) - 1)]
        else:
            words.append(run)
    return words
