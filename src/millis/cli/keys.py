"""`millis keys`: make, list and revoke API keys."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millis.cli.output import Json, write_result
from millis.errors import InvalidValue

if TYPE_CHECKING:
    from millis.security.keys import Key

File = Annotated[Path, typer.Option("--file", help="The file of keys; give it to `millis serve --keys`.")]
_DEFAULT = Path("millis-keys.json")

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Make, list and revoke API keys.")


@app.command()
def create(
    scope: Annotated[
        list[str],
        typer.Option(
            help="A task (ner), model:NAME, metrics, admin, an action of it (admin:read, :load, :unload, :promote,"
            " :rollback), or * for all; repeat it."
        ),
    ],
    name: Annotated[str, typer.Option(help="For people.")] = "",
    expires: Annotated[str | None, typer.Option(help='Like "90d" or "12h"; for good when missing.')] = None,
    rate: Annotated[
        str | None, typer.Option(help='Requests a second, like "100/s"; without limit when missing.')
    ] = None,
    quota: Annotated[
        str | None, typer.Option(help='Requests a day (UTC), like "10000/day"; without limit when missing.')
    ] = None,
    file: File = _DEFAULT,
    as_json: Json = False,
) -> None:
    """Make a key and show it, this once; the file keeps its hash."""
    from millis.security.keys import KeyFile, write_time
    from millis.units import read_duration_ms, read_quota_per_day, read_rate_per_s

    _check_scopes(scope)
    secret, key = KeyFile(file).create(
        name=name, scopes=scope, expires_s=read_duration_ms(expires, name="expires") / 1000 if expires else None,
        rate_per_s=read_rate_per_s(rate) if rate else None,
        quota_per_day=read_quota_per_day(quota) if quota else None,
    )  # fmt: skip
    write_result(
        {"key": secret, "id": key.id, "name": name, "scopes": scope, "expires": key.expires, "file": str(file)},
        lines=[
            secret,
            f"  key {key.id} for {', '.join(scope)}, expires {write_time(key.expires)}. It is shown only now.",
            f"  millis serve BUNDLE --keys {file}; curl -H 'Authorization: Bearer KEY' ...",
        ],
        is_json=as_json,
    )


def _check_scopes(scopes: Sequence[str]) -> None:
    """Refuse a scope that nothing asks for: its key would open nothing, and nobody would know why."""
    from millis.security.keys import ACTIONS, ADMIN, ANY, METRICS
    from millis.tasks import tasks
    from millis.tasks.instructing import SPEAKING

    known = [*tasks, *SPEAKING, METRICS, ADMIN, *ACTIONS, ANY]
    for scope in scopes:
        if scope not in known and not scope.startswith("model:"):
            raise InvalidValue(f"there is no scope {scope!r}: give one of {', '.join(known)}, or model:NAME.")


def _write_limits(key: "Key") -> str:
    rate = "any rate" if key.rate_per_s is None else f"{key.rate_per_s:g}/s"
    return f"{rate}, {'no quota' if key.quota_per_day is None else f'{key.quota_per_day:,}/day'}"


@app.command("list")
def list_keys(file: File = _DEFAULT, as_json: Json = False) -> None:
    """Show what is kept of each key."""
    from millis.security.keys import KeyFile, write_time

    keys = KeyFile(file).read()
    write_result(
        [
            {"id": one.id, "name": one.name, "scopes": one.scopes, "rate_per_s": one.rate_per_s,
             "quota_per_day": one.quota_per_day, "created": one.created,
             "expires": one.expires, "state": one.state()}
            for one in keys
        ],
        lines=[
            f"{one.id}  {one.state():8} {', '.join(one.scopes)}  expires {write_time(one.expires)}"
            f"  {_write_limits(one)}  {one.name}".rstrip()
            for one in keys
        ] or [f"no key in {file}: `millis keys create --scope ner` makes one"],
        is_json=as_json,
    )  # fmt: skip


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `millis keys list` shows it.")],
    file: File = _DEFAULT,
    as_json: Json = False,
) -> None:
    """Make a key worthless, in running servers too."""
    from millis.security.keys import KeyFile

    key = KeyFile(file).revoke(key_id)
    write_result({"id": key.id, "state": key.state()}, lines=[f"{key.id} is revoked"], is_json=as_json)
