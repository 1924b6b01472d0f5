"""`millis models`: what a running server serves, changed beside live traffic."""

from typing import Annotated, Any

import typer

from millis.asking.client import Client
from millis.cli.output import Json, write_result

_Url = Annotated[str, typer.Option(help="The server, like http://127.0.0.1:8000.")]
_Key = Annotated[str | None, typer.Option(help="A key of the scope admin; MILLIS_KEY of the environment when missing.")]
_Name = Annotated[str, typer.Argument(help="What requests call the model.")]
_HERE = "http://127.0.0.1:8000"

app = typer.Typer(
    no_args_is_help=True, add_completion=False,
    help="List, load, unload, promote and roll back models of a running server.",
)


@app.command("list")
def list_versions(url: _Url = _HERE, key: _Key = None, as_json: Json = False) -> None:
    """Show the models, what is on trial, and what became of them."""
    with Client(url, key=key) as client:
        _say(client.versions(), is_json=as_json)


@app.command()
def load(
    path: Annotated[str, typer.Argument(help="A bundle below a folder that the server's --models-from names.")],
    name: Annotated[str | None, typer.Option(help="What requests call it; its own name when missing.")] = None,
    canary: Annotated[
        float | None, typer.Option(help="Per cent of the requests that a new version of a served model answers.")
    ] = None,
    shadow: Annotated[
        float | None, typer.Option(help="Per cent of the requests on which it is compared behind the client's back.")
    ] = None,
    url: _Url = _HERE,
    key: _Key = None,
    as_json: Json = False,
) -> None:
    """Load a model, or a new version of one, and wait until every worker has it."""
    with Client(url, key=key) as client:
        _say(client.load_model(path, name=name, canary_percent=canary, shadow_percent=shadow), is_json=as_json)


@app.command()
def unload(name: _Name, url: _Url = _HERE, key: _Key = None, as_json: Json = False) -> None:
    """Take a model out with all its versions."""
    with Client(url, key=key) as client:
        _say(client.unload_model(name), is_json=as_json)


@app.command()
def promote(name: _Name, url: _Url = _HERE, key: _Key = None, as_json: Json = False) -> None:
    """Let the version on trial take over."""
    with Client(url, key=key) as client:
        _say(client.promote_model(name), is_json=as_json)


@app.command()
def rollback(name: _Name, url: _Url = _HERE, key: _Key = None, as_json: Json = False) -> None:
    """Go back to the version before."""
    with Client(url, key=key) as client:
        _say(client.roll_back_model(name), is_json=as_json)


def _say(models: list[dict[str, Any]], *, is_json: bool) -> None:
    lines = []
    for one in models:
        versions = [f"version {one['serving']['number']} serves"]
        if one.get("trial"):
            shares = f"{one['canary_percent']:g} % of the requests, {one['shadow_percent']:g} % compared"
            versions.append(f"version {one['trial']['number']} is on trial ({shares})")
        if one.get("former"):
            versions.append(f"version {one['former']['number']} is kept to go back to")
        lines.append(f"{one['name']}: {one['state']}; {'; '.join(versions)}")
        lines += [f"  {event}" for event in one["history"][-5:]]
    write_result({"data": models}, lines=lines, is_json=is_json)
