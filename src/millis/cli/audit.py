"""`millis audit`: check the audit log."""

from pathlib import Path
from typing import Annotated

import typer

from millis.cli.output import Json, write_result

app = typer.Typer(no_args_is_help=True, help="Check the audit log of `millis serve --audit`.")


@app.callback()
def _audit() -> None:
    """Check the audit log of `millis serve --audit`."""


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="As `millis serve --audit` had it.")],
    as_json: Json = False,
) -> None:
    """Find lines that were changed, removed or put in; exit code 1 when there are any."""
    from millis.security.audit import verify as check

    found = check(folder)
    state = "NOT whole" if found.problems else "whole"
    told = [*found.problems, f"{found.lines:,} lines in {found.files} files: {state}"]
    write_result(found, lines=told, is_json=as_json)
    if found.problems:
        raise typer.Exit(1)
