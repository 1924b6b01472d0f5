"""`millis ask`: one question to a bundle, or to a server."""

from typing import Annotated, Any

import typer

from millis.cli.output import Json, write_result
from millis.errors import InvalidValue


def command(
    target: Annotated[str, typer.Argument(help="NAME.millis, or the address of a server.")],
    text: Annotated[str, typer.Argument(help="What to ask about.")],
    as_json: Json = False,
) -> None:
    """Ask a bundle (in this process) or a running server, and show the answer with its milliseconds."""
    if not text:
        raise InvalidValue("the text is empty: give at least one character.")
    answer: dict[str, Any]
    if target.startswith(("http://", "https://")):
        answer, timing = ask_server(target, text)
    else:
        from millis.bundles import load

        model = load(target)
        model.warm(rounds=1)
        said = model.answer(text)
        model.close()
        answer = {"model": model.name, "rung": model.rung.name, "results": [said.result]}
        timing = (
            f"tokenize {said.tokenize_ns / 1e6:.2f}, run {said.run_ns / 1e6:.2f}, decode {said.decode_ns / 1e6:.2f} ms"
        )
    entities = answer["results"][0].get("entities", [])
    write_result(
        answer,
        lines=[
            *(f"{one['label']:<12} {one['score']:.3f}  {one['start']}-{one['end']}  {one['text']}" for one in entities),
            *([] if entities else ["no entity"]),
            f"({answer['rung']}: {timing})",
        ],
        is_json=as_json,
    )


def ask_server(url: str, text: str) -> tuple[dict[str, Any], str]:
    """Ask the first task that a server has."""
    import json
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    try:
        with urlopen(f"{url.rstrip('/')}/v1/models", timeout=10) as response:  # noqa: S310 - the user named the address
            first = json.load(response)["data"][0]
        body = json.dumps({"model": first["id"], "input": text}).encode()
        request = Request(f"{url.rstrip('/')}/v1/{first['task']}", body, {"Content-Type": "application/json"})  # noqa: S310
        with urlopen(request, timeout=30) as response:  # noqa: S310
            return json.load(response), response.headers.get("Server-Timing", "").replace(";dur=", " ") + " ms"
    except HTTPError as error:
        raise InvalidValue(f"{url} answered {error.code}: {json.load(error).get('detail', '')}") from error
    except (URLError, OSError, ValueError, KeyError, IndexError) as error:
        raise InvalidValue(f"{url} does not answer like a millis server ({error}): is one running there?") from error
