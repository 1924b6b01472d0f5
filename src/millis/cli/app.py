"""The command line: which commands there are, and how an error ends.

Border: no work of its own.
"""

import os
import signal
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from millis.cli.output import write_error
from millis.errors import Interrupted, InvalidValue, MillisError, is_out_of_memory, out_of_memory

_UsageError: Any = typer.BadParameter.__base__  # typer carries a click of its own and exports only this child
_COMMANDS = (
    "advise", "ask", "audit", "bench", "data", "demo", "evaluate", "fit", "index", "inspect", "keys", "models", "pack",
    "prove", "serve",
)  # fmt: skip


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
        if hasattr(module, "app"):
            group = typer.main.get_command(module.app)
            group.name = cmd_name  # what lists of commands show
            return group
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command(cmd_name)(module.command)
        return typer.main.get_command(single)


app = typer.Typer(
    cls=_LazyGroup,
    name="millis",
    help="A latency contract for language models: fit, prove, serve within your milliseconds.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        sys.stdout.write(f"millis {version('millis')}\n")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A latency contract for language models: fit, prove, serve within your milliseconds."""


def main() -> None:
    """Run the command line; every error is one sentence and an exit code."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # torch's threads spin for so long, then sleep: cores may be shared
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has the second one ignored
            signal.signal(number, signal.default_int_handler)  # as Ctrl-C: what is open is closed
    try:
        sys.exit(_run(sys.argv[1:] or ["--help"]))
    except MillisError as error:
        _end(error)
    except Exception as error:  # each library has its own for this
        if not is_out_of_memory(error):
            raise
        _end(out_of_memory("in this command"))


def _end(error: MillisError) -> NoReturn:
    write_error(error, is_json="--json" in sys.argv)
    sys.exit(error.exit_code)


def _run(arguments: list[str]) -> int:
    """Run a command to its exit code.

    Raises:
        InvalidValue: the arguments are not the command's.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP.
    """
    try:
        code = app(arguments, standalone_mode=False)
    except _UsageError as error:
        names, place = list[str](), error.ctx
        while place is not None and place.parent is not None:
            names, place = [str(place.info_name), *names], place.parent
        command = " ".join(["millis", *names])
        wrong = error.format_message().rstrip(".")
        raise InvalidValue(f"{wrong}: `{command} --help` shows what can be given.") from error
    if code == Interrupted.exit_code:
        raise Interrupted("interrupted: what was finished is kept; the same command goes on or begins again.")
    return code or 0
