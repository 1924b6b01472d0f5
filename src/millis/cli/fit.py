"""`millis fit`: labelled text to a proven bundle."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millis.cli.output import Json, write_result
from millis.cli.reading import PassagePrefix, QueryPrefix, read_numbers, with_reading
from millis.contract import Contract
from millis.errors import InvalidValue
from millis.tasks.instructing import SPEAKING
from millis.units import read_duration_ms

if TYPE_CHECKING:
    from millis.bundles import Bundle
    from millis.data.readers import ReadSettings

_SPEAKING_ONLY = frozenset({"instruction", "per_token"})
_SPEAKING_TOO = _SPEAKING_ONLY | {
    "train", "base", "out", "dev", "test", "task", "p99", "rate", "rungs", "adapt", "epochs", "seed", "track", "as_json"
}  # fmt: skip
"""Flags of models that speak; the others mean nothing for them."""

_MAX_DROP = 1.0  # points, where nobody says what quality has to be kept


@with_reading
def command(
    context: typer.Context,
    train: Annotated[
        Path,
        typer.Option(
            help="CoNLL or spans (ner), a table or JSON lines (classify), SQuAD or JSON lines (qa), pairs (rerank,"
            " embedding, translate, summarise), dialogues (chat)."
        ),
    ],
    base: Annotated[
        str,
        typer.Option(help="Folder in Hugging Face layout, package:NAME, or a hub id; of what speaks a folder or .gguf"),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the bundle shall stand, NAME.millis.")],
    dev: Annotated[Path | None, typer.Option(help="To choose by; carved from train when missing.")] = None,
    test: Annotated[Path | None, typer.Option(help="To judge by; carved from train when missing.")] = None,
    task: Annotated[
        str,
        typer.Option(help="ner, classify, qa, rerank, embedding; or chat, translate, summarise (a model that speaks)."),
    ] = "ner",
    instruction: Annotated[
        str | None, typer.Option(help="translate, summarise: what is asked of each text, with {text} in it.")
    ] = None,
    p50: Annotated[str | None, typer.Option(help="Bound on the median, like '2 ms'.")] = None,
    p95: Annotated[str | None, typer.Option(help="Bound on p95.")] = None,
    p99: Annotated[str | None, typer.Option(help="Bound on p99, like '5 ms'.")] = None,
    per_token: Annotated[
        str | None, typer.Option(help="chat, translate, summarise: bound on the mean time per later token.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="Requests per second at which the bound must hold; 50/s, or 2/s of what speaks.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Points of the score (F1, accuracy) that may be lost; 1 without --floor.")
    ] = None,
    floor: Annotated[float | None, typer.Option(help="Points of the score that must be reached.")] = None,
    device: Annotated[
        str, typer.Option(help="Where it is to serve: cpu, or what a backend knows (cuda, gpu, npu).")
    ] = "cpu",
    train_on: Annotated[
        str, typer.Option(help="Where it is fine-tuned: cpu, cuda, or auto: cuda where torch sees a GPU.")
    ] = "auto",
    memory_mb: Annotated[float | None, typer.Option(help="Bound on memory of all workers, MB.")] = None,
    within: Annotated[str | None, typer.Option(help="Stop trying after so long, like 30m.")] = None,
    rungs: Annotated[
        int | None,
        typer.Option(help="Of the ladder: 3, or 1 of what speaks; 1 ends when the contract is kept."),
    ] = None,
    tune: Annotated[int, typer.Option(help="Trainings to try with other settings; the best on dev is taken.")] = 0,
    trim_vocabulary: Annotated[
        bool, typer.Option("--trim-vocabulary", help="Keep the pieces that train uses, and single characters.")
    ] = False,
    corpus: Annotated[
        Path | None, typer.Option(help="Texts, one a line, whose pieces are kept too; implies --trim-vocabulary.")
    ] = None,
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="classify: a text has any number of labels.")
    ] = False,
    out_of_scope: Annotated[str | None, typer.Option(help="classify: the label that means none of the others.")] = None,
    balance: Annotated[bool, typer.Option("--balance", help="In training each label weighs the same.")] = False,
    track: Annotated[
        str | None, typer.Option(help="wandb: write the numbers of training for Weights & Biases too (offline).")
    ] = None,
    augment: Annotated[
        str | None, typer.Option(help="Learn altered copies of train too, like typos,case,width,script.")
    ] = None,
    prove_for: Annotated[str, typer.Option(help="How long each proof lasts, at least.")] = "20 s",
    unlabelled: Annotated[
        Path | None, typer.Option(help="Texts, one a line, to learn by the labels the model is sure of (classify).")
    ] = None,
    domain_text: Annotated[
        Path | None, typer.Option(help="Texts, one a line, on which the base first goes on guessing masked words.")
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="A larger model of the same labels, a bundle or the folder of its training, to learn from."),
    ] = None,
    adapt: Annotated[
        str, typer.Option(help="What is trained: full, or the less of lora, adalora, ia3, adapter, prefix, prompt.")
    ] = "full",
    pooling: Annotated[str | None, typer.Option(help="embedding: mean or cls; the base's own when missing.")] = None,
    dimensions: Annotated[
        str | None, typer.Option(help="embedding: sizes that vectors can be cut to, like 256,128.")
    ] = None,
    query_prefix: QueryPrefix = None,
    passage_prefix: PassagePrefix = None,
    layers: Annotated[
        str | None, typer.Option(help="Layers of the base that pruned rungs may keep, like 0,2,5; chosen when missing.")
    ] = None,
    activation: Annotated[
        str, typer.Option(help="In pruned rungs: own, relu, or auto (relu where a layer is faster for it).")
    ] = "own",
    sparse: Annotated[
        float | None, typer.Option(help="Time the network with this share of zeros too, like 0.8; tell what they save.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over train, at most; 0 takes the base as it is (embedding).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides the order, the dropout and what is carved.")] = 7,
    *,
    reading: "ReadSettings",
    as_json: Json = False,
) -> None:
    """Fine-tune, compress, compile and measure until the contract holds, then prove it.

    Exit codes: 0 kept, 2 bad input, 3 nothing kept it (the best stands at --out), 4 undecided, 130 interrupted (the
    same command goes on).
    """
    from millis.searching.fitting import run_fit
    from millis.searching.settings import FitSettings

    if task in SPEAKING:
        _refuse_all_but(_SPEAKING_TOO | ({"max_drop"} if (rungs or 1) > 1 else set()), context)
        _tell(context.params)
        return
    _refuse_all_but(set(context.params) - _SPEAKING_ONLY, context)
    if max_drop is None and floor is None:
        max_drop = _MAX_DROP
    contract = Contract(
        p50=p50, p95=p95, p99=p99, rate=rate or "50/s", max_drop=max_drop, floor=floor, device=device,
        memory_mb=memory_mb,
    )  # fmt: skip
    settings = FitSettings(
        base=base, out=out, train=train, dev=dev, test=test, task=task, epochs=epochs, seed=seed,
        rungs=3 if rungs is None else rungs, tune=tune, adapt=adapt, unlabelled=unlabelled, domain_text=domain_text,
        teacher=teacher, trim_vocabulary=trim_vocabulary, corpus=corpus, track=track,
        augment=tuple(augment.split(",")) if augment else (),
        prove_for_ms=read_duration_ms(prove_for, name="prove-for", unit="s"),
        multi_label=multi_label, out_of_scope=out_of_scope, balance=balance, pooling=pooling,
        dimensions=read_numbers("dimensions", dimensions, least=1), query_prefix=query_prefix,
        passage_prefix=passage_prefix,
        layers=read_numbers("layers", layers, least=0) if layers is not None else None, activation=activation,
        sparse=sparse, train_on=train_on,
        reading=reading,
        within_ms=None if within is None else read_duration_ms(within, name="within", unit="s"),
    )  # fmt: skip
    _write_fitted(run_fit(contract, settings), is_json=as_json)


def _refuse_all_but(known: Collection[str], context: typer.Context) -> None:
    """Refuse flags that mean nothing for the task, where somebody gave them."""
    source = {name: context.get_parameter_source(name) for name in context.params}
    given = [name for name, found in source.items() if found is not None and found.name == "COMMANDLINE"]
    wrong = [f"--{name.replace('_', '-')}" for name in given if name not in known]
    if wrong:
        raise InvalidValue(f"{', '.join(wrong)} came, which means nothing for {context.params['task']}: leave it out.")


def _write_fitted(bundle: "Bundle", *, is_json: bool) -> None:
    report = bundle.path / "report.html"
    write_result(
        {"bundle": str(bundle.path), "contract": bundle.manifest.contract, "certificate": bundle.certificate,
         "quality": bundle.rung().quality, "report": str(report)},
        lines=[
            f"bundle {bundle.path}", f"report {report} (in Chinese report.zh.html)",
            f"next: millis serve {bundle.path}",
        ],
        is_json=is_json,
    )  # fmt: skip


def _tell(given: Mapping[str, Any]) -> None:
    from millis.searching.telling import TellSettings, tell
    from millis.training.settings import TrainSettings

    epochs = 3 if given["epochs"] is None else given["epochs"]
    training = TrainSettings(epochs=epochs, seed=given["seed"], adapt=given["adapt"], tracker=given["track"])
    files: dict[str, Any] = {name: given[name] and Path(given[name]) for name in ("out", "train", "dev", "test")}
    rungs = 1 if given["rungs"] is None else given["rungs"]
    bundle, quality = tell(
        Contract(
            p99=given["p99"] or "500 ms", rate=given["rate"] or "2/s", per_token=given["per_token"],
            max_drop=None if rungs == 1 else _MAX_DROP if given["max_drop"] is None else given["max_drop"],
        ),
        TellSettings(
            base=given["base"], task=given["task"], instruction=given["instruction"], training=training, rungs=rungs,
            **files,
        ),
    )  # fmt: skip
    write_result(
        {"bundle": str(bundle.path), "contract": bundle.manifest.contract, "quality": quality},
        lines=[
            f"bundle {bundle.path}: {quality['name']} {quality['value']:.2f} on test, the base {quality['base']:.2f}",
            *([f"{quality['rung']} serves; the whole model {quality['whole']:.2f}"] if rungs > 1 else []),
            f"next: millis prove {bundle.path}, then millis serve {bundle.path}",
        ],
        is_json=given["as_json"],
    )
