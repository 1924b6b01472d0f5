"""Whether a base was trained with words before each text that say what it serves as: "query: ", "passage: ".

Border: reads names and configuration; whether there are prefixes is the user's to say.
Source: the prompts of config_sentence_transformers.json, which sentence-transformers reads; else names of E5
(Wang et al. 2022, arXiv:2212.03533), whose folders say nothing of them.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

PROMPTS = "config_sentence_transformers.json"
_E5 = re.compile(r"(^|[^a-z0-9])e5([^a-z0-9]|$)")
_PASSAGE = ("passage", "document")


class Prefixes(NamedTuple):
    """What stands before a query, and before a passage."""

    query: str
    passage: str


def find_prefixes(folder: Path, *, name: str) -> Prefixes | None:
    """Give the prefixes that a base seems to have been trained with; None where nothing speaks for any.

    Args:
        folder: that `find_base` gave.
        name: as the user gave it.
    """
    prompts = _read(folder / PROMPTS).get("prompts")
    if isinstance(prompts, dict):
        passage = next((str(prompts[key]) for key in _PASSAGE if prompts.get(key)), "")
        found = Prefixes(str(prompts.get("query") or ""), passage)
        if any(found):
            return found
    names = (name, folder.name, str(_read(folder / "config.json").get("_name_or_path", "")))
    return Prefixes("query: ", "passage: ") if any(_E5.search(one.lower()) for one in names) else None


def _read(file: Path) -> dict[str, object]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
