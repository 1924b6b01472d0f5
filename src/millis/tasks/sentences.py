"""Where sentences end, in a text that still grows.

Border: text only; no tokens, no model.
Limits: by signs, not by grammar. A full stop behind a letter by itself ("J.", "p.m.", "So do I.") or a title is taken
for none, so an end may be missed, and is then that of the sentence before. A line of text is as good as a sentence.
"""

import re

_HAN = "\u3400-\u9fff\u3040-\u30ff\uff00-\uffef\u3000-\u303f"
_END = re.compile(
    r"[。！？।؟]+[”’」』）】》]*|[.!?…]+[\"'”’)\]]*(?=\s)"
    rf"|[!?]+(?=[{_HAN}])|(?<=[{_HAN}])\.(?=[{_HAN}])"
    r"|(?<=[^\s,:;，：；、])[ \t]*\n"
)
_NO_END = re.compile(
    r"(?:(?:^|[.!?]\s|[。！？\n])\s*\d{1,3}|\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs)|(?<![^\W_])[A-Za-z])\.$"
)
"""The number of a list's item, a title, a letter by itself."""


def end_of_sentence(text: str) -> int:
    """Give where the last whole sentence of a text ends; 0 where there is none."""
    ends = [found.end() for found in _END.finditer(text)]
    return next((end for end in reversed(ends) if not _NO_END.search(text[:end])), 0)
