"""The options that say how labelled files are to be read: the same for every command that reads some.

Border: words for --help, and lists of numbers; what the values mean, and their check, is data/readers.py's matter.
"""

from typing import Annotated

import typer

from millis.errors import InvalidValue

Layout = Annotated[
    str, typer.Option(help="auto; conll or spans for ner; table or jsonl for classify; squad or jsonl for qa.")
]
Scheme = Annotated[str, typer.Option(help="auto, iob1, bio, bioes, bilou or bmes.")]
Ends = Annotated[str, typer.Option(help="Span ends: exclusive or inclusive.")]
Overlaps = Annotated[str, typer.Option(help="Overlapping spans: error, or longest to keep the longest.")]
Blanks = Annotated[str, typer.Option(help="Rows with an empty token, or a blank question: error, or skip.")]
Strays = Annotated[str, typer.Option(help="Questions whose answer does not stand in the text: error, or skip.")]
TextColumn = Annotated[str | None, typer.Option(help="Column or key of the text, by name or number.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column or key of the label, by name or number.")]
Separator = Annotated[str | None, typer.Option(help="Between the labels of a text that may have several.")]
QueryPrefix = Annotated[
    str | None, typer.Option(help="embedding: text before each query, as the base was trained with, like 'query: '.")
]
PassagePrefix = Annotated[str | None, typer.Option(help="embedding: text before each passage, like 'passage: '.")]


def read_numbers(name: str, given: str | None, *, least: int) -> tuple[int, ...]:
    """Read whole numbers with commas between them; none where nothing is given.

    Raises:
        InvalidValue: something else, or a number below the least.
    """
    parts = [part.strip() for part in given.split(",")] if given else []
    if not all(part.isdecimal() and int(part) >= least for part in parts):
        raise InvalidValue(f"{name} cannot be {given!r}: give whole numbers from {least} on, with commas between.")
    return tuple(map(int, parts))
