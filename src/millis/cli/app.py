"""The command line: which commands there are, and how an error ends.

Border: no work of its own.
"""

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from millis.cli.output import write_error
from millis.errors import MillisError

_COMMANDS = ("ask", "bench", "demo", "evaluate", "fit", "inspect", "prove", "serve")


class _LazyGroup(TyperGroup):
    """Import a command's file when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Give the names of all commands."""
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command, or None when there is none of this name."""
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"millis.cli.{cmd_name}")
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command(cmd_name)(module.command)
        return typer.main.get_command(single)


app = typer.Typer(
    cls=_LazyGroup,
    name="millis",
    help="A latency contract for language models: fit, prove, serve within your milliseconds.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    """A latency contract for language models: fit, prove, serve within your milliseconds."""


def main() -> None:
    """Run the command line; an error of ours is one sentence and an exit code."""
    is_json = "--json" in sys.argv
    try:
        app(standalone_mode=True)
    except MillisError as error:
        write_error(error, is_json=is_json)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
