"""`millis prove`: measure a bundle's contract again, here, through HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from millis.cli.output import EXIT_CODES, Json, write_result
from millis.units import read_duration_ms, read_rate_per_s


def command(
    bundle: Annotated[Path, typer.Argument(help="NAME.millis")],
    rate: Annotated[str | None, typer.Option(help="Another rate than the contract's.")] = None,
    seconds: Annotated[str | None, typer.Option(help="How long to offer load, like 60.")] = None,
    requests: Annotated[int | None, typer.Option(help="How many requests to send.", min=1)] = None,
    bodies: Annotated[Path | None, typer.Option(help="JSON bodies to send, one a line.")] = None,
    as_json: Json = False,
) -> None:
    """Measure the contract again, here, through HTTP, and write the certificate anew.

    Exit codes: 0 kept, 2 bad input, 3 broken, 4 undecided or void.
    """
    from millis.measuring.bench import read_bodies
    from millis.searching import prove

    proof = prove(
        bundle,
        rate_per_s=None if rate is None else read_rate_per_s(rate),
        seconds=None if seconds is None else read_duration_ms(seconds, name="seconds", unit="s") / 1000,
        n_requests=requests,
        bodies=None if bodies is None else read_bodies(bodies),
    )
    write_result(
        {"bundle": str(bundle), "verdict": proof.verdict, "certificate": proof.bundle.certificate},
        lines=[
            *proof.verdict.lines(), *proof.lines(),
            f"report {proof.bundle.path / 'report.html'} (in Chinese report.zh.html)",
        ],
        is_json=as_json,
    )
    raise typer.Exit(EXIT_CODES[proof.verdict.status])
