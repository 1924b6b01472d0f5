"""`millis audit`: check the audit log."""

from pathlib import Path
from typing import Annotated

import typer

from millis.cli.output import Json, write_result

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Check the audit log of `millis serve --audit`.")


@app.callback()
def _audit() -> None:
    """Check the audit log of `millis serve --audit`."""


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="As `millis serve --audit` had it.")],
    seals: Annotated[
        Path | None, typer.Option(help="As `millis serve --audit-seals` had it; the same folder when missing.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find lines and files that were changed, removed or put in; exit code 1 when there are any.

    A line that was not finished when its writer was killed is told too, and is no reason for exit code 1.
    """
    from millis.security.verifying import verify as check

    found = check(folder, seals=seals)
    state = "NOT whole" if found.problems else "whole"
    told = [*found.problems, *found.unfinished, f"{found.lines:,} lines in {found.files} files: {state}"]
    write_result(found, lines=told, is_json=as_json)
    if found.problems:
        raise typer.Exit(1)
