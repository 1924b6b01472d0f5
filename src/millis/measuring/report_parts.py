"""What a report is put together from: sections, tables that scroll, lists of facts, numbers as shown.

Border: words and values in, markup out; knows no report.
"""

from collections.abc import Mapping, Sequence, Set
from functools import partial
from typing import Any

from millis.measuring.markup import Child, Markup, element, join

NOTHING = "–"

Words = Mapping[str, Any]
"""A language's part of page/words.json."""


def write_figure(name: str, value: str, *, small: str | None) -> Markup:
    """Write a number under its name, and something small behind it."""
    return element(
        "div", element("dt", name), element("dd", value, element("small", small) if small else None)
    )


def write_facts(facts: Mapping[str, Any]) -> Markup:
    """List names and values."""
    plain = {
        key: " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        for key, value in facts.items()
    }
    pairs = [join([element("dt", key), element("dd", value)]) for key, value in plain.items()]
    return element("dl", *pairs, class_="facts")


def write_section(words: Words, key: str, *content: Markup | None, of: str = "") -> Markup | None:
    """Put a heading, and a note where there is one, above content; None when there is no content.

    Args:
        of: the rung that it is about, where that is not the one that serves; notes were said of that one.
    """
    if not any(content):
        return None
    note = None if of else words.get(f"{key}_note")
    heading = element("h2", f"{of}: {words[key]}" if of else words[key])
    return element("section", heading, element("p", note, class_="note") if note else None, *content)


def write_table(
    head: Sequence[str], rows: Sequence[Sequence[Child]], *, name: str,
    numbers: Set[int] = frozenset(), prose: Set[int] = frozenset(), bold: Set[int] = frozenset(),
) -> Markup:  # fmt: skip
    """Write a table that scrolls by itself when it is too wide; one with prose is stacked, row by row, on a phone."""

    def cell(tag: str, i: int, child: Child) -> Markup:
        kind = "number" if i in numbers else "prose" if i in prose else None
        label = head[i] if prose and tag == "td" and i > 0 else None
        return element(tag, child, class_=kind, scope="col" if tag == "th" else None, data_label=label)

    titles = element("tr", *(cell("th", i, title) for i, title in enumerate(head)))
    body = [
        element("tr", *map(partial(cell, "td"), range(len(row)), row), class_="chosen" if i in bold else None)
        for i, row in enumerate(rows)
    ]
    table = element("table", element("thead", titles), element("tbody", *body), class_="stack" if prose else None)
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=name)


def show_ms(ms: float | None) -> str:
    """Write milliseconds, with a dash where there are none."""
    return NOTHING if ms is None else f"{ms:.2f}" if ms < 100 else f"{ms:.0f}"


def show_points(points: float | None) -> str:
    """Write points, with a dash where there are none."""
    return NOTHING if points is None else f"{points:.2f}"
