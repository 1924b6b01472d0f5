"""The options that say how labelled files are to be read: the same for every command that reads some.

Border: words for --help, and lists of numbers; what the values mean, and their check, is data/readers.py's matter.
"""

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millis.errors import InvalidValue

if TYPE_CHECKING:
    from millis.data.readers import ReadSettings

_OPTIONS: dict[str, tuple[Any, str | None, str]] = {
    "layout": (str, "auto", "auto; conll or spans for ner; table or jsonl for classify; squad or jsonl for qa."),
    "scheme": (str, "auto", "auto, iob1, bio, bioes, bilou or bmes."),
    "ends": (str, "exclusive", "Span ends: exclusive or inclusive."),
    "overlaps": (str, "error", "Overlapping spans: error, or longest to keep the longest."),
    "blanks": (str, "error", "Rows with an empty token, or a blank question: error, or skip."),
    "strays": (str, "error", "Questions whose answer does not stand in the text: error, or skip."),
    "text_column": (str | None, None, "Column or key of the text, by name or number."),
    "label_column": (str | None, None, "Column or key of the label, by name or number."),
    "separator": (str | None, None, "Between the labels of a text that may have several."),
}
"""The fields of data.readers.ReadSettings: type, what is usual, what --help says."""

QueryPrefix = Annotated[
    str | None, typer.Option(help="embedding: text before each query, as the base was trained with, like 'query: '.")
]
PassagePrefix = Annotated[str | None, typer.Option(help="embedding: text before each passage, like 'passage: '.")]


def with_reading(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options in the place of its argument `reading`, which gets them as ReadSettings."""
    options = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=usual, annotation=Annotated[kind, typer.Option(help=words)])
        for name, (kind, usual, words) in _OPTIONS.items()
    ]
    parameters = list(signature(command).parameters.values())
    place = next(i for i, one in enumerate(parameters) if one.name == "reading")
    parameters[place : place + 1] = options

    @wraps(command)
    def run(**given: Any) -> None:
        from millis.data.readers import ReadSettings

        reading = ReadSettings(**{name: given.pop(name) for name in _OPTIONS})
        command(reading=reading, **given)

    # typer reads options from the signature, and their types from the annotations
    run.__signature__ = signature(command).replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def list_unusual(reading: "ReadSettings") -> dict[str, str]:
    """Give the options that ask for `reading`, beside what is usual, by their names without the hyphens in front."""
    given = {name: getattr(reading, name) for name in _OPTIONS}
    return {name.replace("_", "-"): value for name, value in given.items() if value != _OPTIONS[name][1]}


def read_numbers(name: str, given: str | None, *, least: int) -> tuple[int, ...]:
    """Read whole numbers with commas between them; none where nothing is given.

    Raises:
        InvalidValue: something else, or a number below the least.
    """
    parts = [part.strip() for part in given.split(",")] if given else []
    if not all(part.isdecimal() and int(part) >= least for part in parts):
        raise InvalidValue(f"{name} cannot be {given!r}: give whole numbers from {least} on, with commas between.")
    return tuple(map(int, parts))
