"""`millis pack`: compile a language model that speaks into a bundle."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millis.cli.inspect import list_tricks
from millis.cli.output import Json, write_result
from millis.errors import InvalidValue

if TYPE_CHECKING:
    from millis.bundles import Bundle


def command(
    base: Annotated[str, typer.Argument(help="Folder in Hugging Face layout, or a .gguf file.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="NAME.millis")],
    rungs: Annotated[
        str,
        typer.Option(
            help="What to make, the first serves: int8, int4, fp32 (Llama, Qwen2, Gemma 3; on OpenVINO), or llamacpp (a"
            " .gguf file as it came), or vllm (a folder as it came, on an NVIDIA GPU; untested)."
        ),
    ] = "int8,int4",
    p99: Annotated[str, typer.Option("--p99", help="Bound on the time to the first token.")] = "500 ms",
    per_token: Annotated[
        str | None, typer.Option(help="Bound on an answer's mean time per later token, like '30 ms'.")
    ] = None,
    rate: Annotated[str, typer.Option(help="Requests, as 2/s.")] = "2/s",
    context: Annotated[int, typer.Option(help="Most tokens of prompt and answer together.")] = 2048,
    threads: Annotated[int, typer.Option(help="Threads of the engine.")] = 2,
    task: Annotated[str, typer.Option(help="chat, translate or summarise.")] = "chat",
    instruction: Annotated[
        str | None, typer.Option(help="What is asked of each text (translate, summarise), with {text} in it.")
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(help="What stands before messages without a system message: a text, or a file's name."),
    ] = None,
    trim_vocabulary: Annotated[
        bool, typer.Option("--trim-vocabulary", help="Take out the pieces that --corpus does not use.")
    ] = False,
    corpus: Annotated[
        Path | None, typer.Option(help="Texts as they will come and go, one on each line; with --trim-vocabulary.")
    ] = None,
    round_by: Annotated[
        Path | None, typer.Option(help="Texts, one on each line, by which int4 is rounded, if that loses less.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Prompts as they will come, one on each line, on which each trick of the engine is tried."),
    ] = None,
    answers_may_change: Annotated[
        bool, typer.Option("--answers-may-change", help="Keep a faster trick that changes answers; with --prompts.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compile a language model into a bundle that `millis serve` answers with; nothing is trained."""
    from millis.compressing.packing import pack
    from millis.contract import Contract
    from millis.data.plain import read_plain, read_text

    if trim_vocabulary != (corpus is not None):
        raise InvalidValue(
            f"{'--trim-vocabulary' if trim_vocabulary else '--corpus'} came alone: give --trim-vocabulary together with"
            " --corpus FILE, or neither."
        )
    if answers_may_change and prompts is None:
        raise InvalidValue("--answers-may-change came alone: give --prompts FILE too, or leave it out.")
    bundle = pack(
        base, out, contract=Contract(p99=p99, rate=rate, per_token=per_token),
        rungs=[one.strip() for one in rungs.split(",")], context=context, threads=threads, task=task,
        instruction=instruction, system=None if system is None else read_text(system),
        corpus=None if corpus is None else read_plain(corpus),
        round_by=None if round_by is None else read_plain(round_by),
        prompts=None if prompts is None else read_plain(prompts), may_change=answers_may_change,
    )  # fmt: skip
    names = [rung.name for rung in bundle.manifest.rungs]
    wrote = f"wrote {out}: {', '.join(names)}, {bundle.manifest.rung} serves"
    write_result(
        {"bundle": str(out), "rungs": names, "tricks": bundle.rung().tricks},
        lines=[wrote, *_list_lines(bundle)], is_json=as_json,
    )  # fmt: skip


def _list_lines(bundle: "Bundle") -> list[str]:
    """Say what each rung is and how near it is to the source, what was chosen, and which tricks are on."""
    from millis.units import write_bytes

    lines = []
    for rung in bundle.manifest.rungs:
        last = rung.steps[-1]
        if last.agreement is None:
            lines.append(f"  {rung.name}  {write_bytes(last.n_bytes)} of {rung.precision}, {last.step}")
            continue
        lines.append(
            f"  {rung.name}  {write_bytes(last.n_bytes)}; logits differ by up to {last.max_abs:.3g}, the likeliest"
            f" piece is the source's in {100 * last.agreement:.1f} % of places"
        )
    told = [one for one in bundle.manifest.choices if one.what in ("vocabulary", "system message", "tokenizer")]
    lines += [f"  {one.what}: {one.choice} ({one.reason})" for one in told]
    return lines + [f"  {line}" for line in list_tricks(bundle.rung())]
