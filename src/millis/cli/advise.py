"""`millis advise`: which base to fit, measured here before anything is trained."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millis.cli.output import Json, write_result
from millis.cli.reading import PassagePrefix, QueryPrefix, list_unusual, read_numbers, with_reading
from millis.contract import Contract
from millis.units import read_rate_per_s

if TYPE_CHECKING:
    from millis.data.readers import ReadSettings
    from millis.searching.foretelling import Measured

_OUT = Path("model.millis")


@with_reading
def command(
    train: Annotated[Path, typer.Option(help="Labelled text, as for fit.")],
    base: Annotated[list[str], typer.Option(help="A base as for fit; repeat it.")],
    dev: Annotated[Path | None, typer.Option(help="As for fit.")] = None,
    test: Annotated[Path | None, typer.Option(help="As for fit.")] = None,
    task: Annotated[str, typer.Option(help="What the model is for: ner, classify, qa, rerank, embedding.")] = "ner",
    p50: Annotated[str | None, typer.Option(help="Bound on the median, like '2 ms'.")] = None,
    p95: Annotated[str | None, typer.Option(help="Bound on p95.")] = None,
    p99: Annotated[str | None, typer.Option(help="Bound on p99, like '5 ms'.")] = None,
    rate: Annotated[str, typer.Option(help="Requests per second for which to predict.")] = "50/s",
    try_epochs: Annotated[
        int, typer.Option(help="Fine-tune each for so many epochs on up to 3,000 texts, and rank by dev.", min=0)
    ] = 0,
    adapt: Annotated[
        str, typer.Option(help="As for fit; what adapter, prefix and prompt leave in the graph is timed too.")
    ] = "full",
    multi_label: Annotated[bool, typer.Option("--multi-label", help="As for fit.")] = False,
    out_of_scope: Annotated[str | None, typer.Option(help="As for fit.")] = None,
    pooling: Annotated[str | None, typer.Option(help="As for fit.")] = None,
    dimensions: Annotated[str | None, typer.Option(help="As for fit.")] = None,
    query_prefix: QueryPrefix = None,
    passage_prefix: PassagePrefix = None,
    seed: Annotated[int, typer.Option(help="As for fit.")] = 7,
    *,
    reading: "ReadSettings",
    as_json: Json = False,
) -> None:
    """Time each base here on the lengths of your data, predict what would fit the bound, and rank.

    Exit codes: 0 ranked, whether or not one is predicted to fit; 2 bad input, or no base can be used; 130 interrupted
    (the same command goes on).
    """
    from millis.searching.advising import advise
    from millis.searching.settings import FitSettings

    has_bound = any(bound is not None for bound in (p50, p95, p99))
    contract = Contract(p50=p50, p95=p95, p99=p99, rate=rate) if has_bound else None
    settings = FitSettings(
        base=base[0], out=_OUT, train=train, dev=dev, test=test, task=task, seed=seed, adapt=adapt,
        multi_label=multi_label,
        out_of_scope=out_of_scope, pooling=pooling, dimensions=read_numbers("dimensions", dimensions, least=1),
        query_prefix=query_prefix, passage_prefix=passage_prefix,
        reading=reading,
    )  # fmt: skip
    rate_per_s = read_rate_per_s(rate)
    ranked = advise(settings, bases=base, contract=contract, rate_per_s=rate_per_s, try_epochs=try_epochs)
    first = ranked[0]
    bounds = {"p50": p50, "p95": p95, "p99": p99} if has_bound else {"p99": f"{first.easy_bound_ms} ms"}
    options: dict[str, Any] = {
        "task": task, "train": train, "dev": dev, "test": test, "base": first.name, **bounds, "rate": rate,
        "adapt": adapt if adapt != "full" else None, "out-of-scope": out_of_scope, "pooling": pooling,
        "dimensions": dimensions, "query-prefix": query_prefix, "passage-prefix": passage_prefix,
        "seed": seed if seed != 7 else None, **list_unusual(reading),
    }  # fmt: skip
    words = ["millis", "fit", *(["--multi-label"] if multi_label else [])]
    words += [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    next_command = shlex.join([*words, "-o", str(_OUT)])
    write_result(
        {"contract": contract.record() if contract else None, "rate_per_s": rate_per_s, "bases": ranked,
         "first": first.name, "is_fitting": first.share is not None if contract else None, "command": next_command},
        lines=_lines(ranked, contract=contract, rate_per_s=rate_per_s, command=next_command),
        is_json=as_json,
    )  # fmt: skip


def _lines(
    ranked: "list[Measured]", *, contract: Contract | None, rate_per_s: float, command: str
) -> list[str]:
    width = max(4, *(len(one.name) for one in ranked))
    is_tried = any(one.dev is not None for one in ranked)
    percentiles = sorted({50.0, 99.0, *([contract.percentile] if contract else [])})
    lines = [
        f"{'base':<{width}}  {'params':>8}  {'layers':>9}  {'pieces':>6}  {'median':>7}  {'long':>7}"
        + "".join(f"  {f'p{percentile:g}':>7}" for percentile in percentiles)
        + f"{'  ' + 'dev'.rjust(6) if is_tried else ''}  verdict"
    ]
    for one in ranked:
        if one.problem:
            lines.append(f"{one.name:<{width}}  {one.problem}")
            continue
        dev = "" if not is_tried else "  " + ("" if one.dev is None else f"{one.dev:.2f}").rjust(6)
        seen = {50.0: one.p50_ms, 99.0: one.p99_ms}
        client = "".join(f"  {seen.get(percentile, one.predicted_ms):>7.2f}" for percentile in percentiles)
        lines.append(
            f"{one.name:<{width}}  {one.n_parameters / 1e6:>6.1f} M  {f'{one.layers} x {one.width}':>9}"
            f"  {one.pieces:>6.1f}  {one.median_ms:>7.2f}  {one.long_ms:>7.2f}{client}{dev}"
            f"  {_verdict(one, contract)}".rstrip()
        )
        lines.append(f"{'':<{width}}    {one.rung}, {one.layout}: {one.reason}")
    lines.append(
        "pieces of a text; ms of one inference at the median and the p99 length; ms predicted for a client at"
        f" {rate_per_s:g}/s. What pruning leaves is predicted from the network without its layers."
    )
    if contract is not None and ranked[0].share is None:
        lines.append(f"none is predicted to fit '{contract}': the nearest is")
    return [*lines, command]


def _verdict(one: "Measured", contract: Contract | None) -> str:
    if contract is None:
        return ""
    if one.share is None:
        return "does not fit"
    return "fits whole" if one.share == 100 else f"fits pruned to {one.share} % ({one.pruned_ms:.2f} ms)"
