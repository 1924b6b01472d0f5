"""`millis bench`: offer open-loop load to anybody's server."""

from pathlib import Path
from typing import Annotated

import typer

from millis.cli.output import Json, write_result
from millis.errors import InvalidValue, MeasurementVoid
from millis.units import read_duration_ms, read_rate_per_s


def command(
    url: Annotated[str, typer.Argument(help="Where to POST, like http://127.0.0.1:8000/v1/ner or /v1/completions.")],
    bodies: Annotated[Path, typer.Option(help="JSON bodies, one a line, in an order fixed by the seed.")],
    rate: Annotated[str, typer.Option(help="Requests per second, arriving at random (Poisson).")] = "50/s",
    seconds: Annotated[str, typer.Option(help="How long, like 30.")] = "10",
    bound: Annotated[str | None, typer.Option(help="Count the requests that miss it, like '15 ms'.")] = None,
    token_bound: Annotated[
        str | None, typer.Option(help="Count the streams whose mean per later token misses it, like '30 ms'.")
    ] = None,
    connections: Annotated[int, typer.Option(help="Opened at the start; more are opened when all are busy.")] = 16,
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 7,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the last answers.")] = 10.0,
    header: Annotated[list[str] | None, typer.Option(help="A header, 'Name: value'; may be given again.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a server from outside: open loop, each latency counted from the scheduled arrival.

    Bodies that ask for a stream ("stream": true) are answered by events: the first token and the time of each later
    one are told apart, and --bound is then on the first.

    Exit codes: 0 measured, 1 nobody answers, 2 bad input, 4 void (the generator itself was late).
    """
    from millis.measuring.bench import offer_load, read_bodies

    headers = [
        (name.strip(), value.strip()) for name, found, value in (one.partition(":") for one in header or []) if found
    ]
    if len(headers) != len(header or []):
        raise InvalidValue("a header needs a colon: give it as 'Name: value'.")
    result = offer_load(
        url,
        bodies=read_bodies(bodies),
        rate_per_s=read_rate_per_s(rate),
        seconds=read_duration_ms(seconds, name="seconds", unit="s") / 1000,
        bound_ms=None if bound is None else read_duration_ms(bound, name="bound", unit="ms"),
        token_bound_ms=(
            None if token_bound is None else read_duration_ms(token_bound, name="token bound", unit="ms")
        ),
        seed=seed,
        connections=connections,
        headers=headers,
        timeout_s=timeout,
        name="bench",
    )
    write_result(result, lines=result.lines(), is_json=as_json)
    if result.void:
        raise typer.Exit(MeasurementVoid.exit_code)
