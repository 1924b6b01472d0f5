"""`millis ask`: one question to a bundle, or to a server."""

from typing import Annotated, Any

import msgspec
import typer

from millis.cli.output import Json, write_result
from millis.errors import InvalidRequest, InvalidValue, RunFailed


class _Model(msgspec.Struct):
    id: str
    task: str


class _Models(msgspec.Struct):
    """What is read of /v1/models; other keys are passed over."""

    data: list[_Model]


class _Entity(msgspec.Struct):
    label: str
    score: float
    start: int
    end: int
    text: str


class _Score(msgspec.Struct):
    label: str
    score: float


class _Result(msgspec.Struct):
    entities: list[_Entity] | None = None
    label: str | None = None
    labels: list[str] | None = None
    scores: list[_Score] = []


class _Answer(msgspec.Struct):
    """What is read of an answer."""

    rung: str
    results: Annotated[list[_Result], msgspec.Meta(min_length=1)]


class _Problem(msgspec.Struct):
    detail: str


def command(
    target: Annotated[str, typer.Argument(help="NAME.millis, or the address of a server.")],
    text: Annotated[str, typer.Argument(help="What to ask about.")],
    key: Annotated[
        str | None, typer.Option(envvar="MILLIS_KEY", help="For a server with keys; better in MILLIS_KEY than here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask a bundle (in this process) or a running server, and show the answer with its milliseconds."""
    if not text:
        raise InvalidValue("the text is empty: give at least one character.")
    answer: dict[str, Any]
    if target.startswith(("http://", "https://")):
        answer, timing = ask_server(target, text, key=key)
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
    result = msgspec.convert(answer["results"][0], type=_Result)
    write_result(answer, lines=[*_lines(result), f"({answer['rung']}: {timing})"], is_json=as_json)


def _lines(result: _Result) -> list[str]:
    if result.entities is not None:
        found = [f"{one.label:<12} {one.score:.3f}  {one.start}-{one.end}  {one.text}" for one in result.entities]
        return found or ["no entity"]
    chosen = result.labels if result.labels is not None else [result.label] if result.label is not None else []
    width = max((len(one.label) for one in result.scores), default=0)
    scores = [f"  {one.label:<{width}}  {one.score:.3f}" for one in result.scores]
    return [", ".join(chosen) or "no label fits", *scores]


def ask_server(url: str, text: str, *, key: str | None = None) -> tuple[dict[str, Any], str]:
    """Ask the first task that a server has.

    Returns:
        its answer, and the milliseconds by stage, in words.
    Raises:
        RunFailed: nobody answers there, or not as a millis server does.
        InvalidRequest: the server refused the text; the sentence is the server's.
    """
    import json
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.parse import quote
    from urllib.request import Request, urlopen

    base = url.rstrip("/")
    headers = {"Content-Type": "application/json"} | ({} if key is None else {"X-API-Key": key})
    try:
        listed = Request(f"{base}/v1/models", headers=headers)  # noqa: S310 - the user named the address
        with urlopen(listed, timeout=10) as response:  # noqa: S310
            first = msgspec.convert(json.load(response), type=_Models).data[0]
        body = json.dumps({"model": first.id, "input": text}).encode()
        request = Request(f"{base}/v1/{quote(first.task)}", body, headers)  # noqa: S310
        with urlopen(request, timeout=30) as response:  # noqa: S310
            answer = json.load(response)
            msgspec.convert(answer, type=_Answer)
            return answer, response.headers.get("Server-Timing", "").replace(";dur=", " ") + " ms"
    except HTTPError as error:
        raise InvalidRequest(f"{url} refused with {error.code}: {_detail(error.read())}") from error
    except (HTTPException, OSError, ValueError, IndexError, RecursionError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())[:200] or type(error).__name__
        raise RunFailed(f"{url} does not answer like a millis server ({reason}): is one running there?") from error


def _detail(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Problem).detail
    except msgspec.DecodeError:
        return "it gives no reason, so it is no millis server; correct the address."
