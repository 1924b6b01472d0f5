"""How results and errors leave: text for people, one JSON document with --json.

Border: standard output holds the result and nothing else.
"""

import json
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import typer

from millis.errors import MillisError

EXIT_CODES = {"kept": 0, "broken": 3, "undecided": 4, "void": 4}

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


def write_result(document: Any, *, lines: Iterable[str], is_json: bool) -> None:
    """Write a result: lines for people, or the document as JSON."""
    if is_json:
        sys.stdout.buffer.write(msgspec.json.encode(msgspec.to_builtins(document, str_keys=True)) + b"\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def write_error(error: MillisError, *, is_json: bool) -> None:
    """Write an error in a sentence on standard error, and as JSON on standard output when that was asked for."""
    sys.stderr.write(f"millis: {error}\n")
    if is_json:
        document = {"error": {"slug": error.slug, "detail": str(error), "exit_code": error.exit_code}}
        text = json.dumps(document)  # escapes what a path may hold and UTF-8 may not
        sys.stdout.write(f"{text}\n")
