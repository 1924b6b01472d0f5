"""`millis inspect`: what is in a bundle, and why."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from millis.backends import UNTESTED
from millis.bundles import Bundle, LatencyRow, Rung, open_bundle
from millis.bundles.manifest import Spread
from millis.cli.output import Json, write_result
from millis.contract import Contract
from millis.tasks import tasks
from millis.units import write_bytes

_MOST_LABELS = 20
_UNTESTED = "untested: millis has been tested on cpu, and torch on cuda on one NVIDIA H200"
_BY_HAND = "run by hand on one NVIDIA H200, in no test that runs everywhere"
_UNTESTED_BACKEND = "untested: written from the engine's documentation, and never run"


def command(
    bundle: Annotated[Path, typer.Argument(help="NAME.millis")],
    as_json: Json = False,
) -> None:
    """Show a bundle: contract, verdict, rungs with their times, quality and bytes, and why each choice was made."""
    opened = open_bundle(bundle)
    manifest = opened.manifest
    document = msgspec.to_builtins(manifest, str_keys=True)
    document["certificate"] = msgspec.to_builtins(opened.certificate, str_keys=True)
    for rung, row in zip(manifest.rungs, document["rungs"], strict=True):
        row["certificate"] = msgspec.to_builtins(opened.certificate_of(rung.name), str_keys=True)
        row["n_bytes"] = opened.count_bytes(rung)
        row["is_tested_device"] = rung.device == "cpu"
        row["is_tested_backend"] = rung.backend not in UNTESTED
    write_result(document, lines=_lines(opened), is_json=as_json)


def _lines(opened: Bundle) -> list[str]:
    manifest = opened.manifest
    total = sum(entry.n_bytes for entry in manifest.files.values())
    labels = tasks[manifest.task].names(manifest.labels) if manifest.task in tasks else ()
    lines = [
        f"{opened.name}: {manifest.task}, {write_bytes(total)}, made {manifest.created} from {manifest.base}",
        f"contract  {Contract.from_record(manifest.contract)}",
        *([f"labels    {len(labels)}: {_write_some(labels)}"] if labels else []),
        *([f"settings  {_write_settings(manifest.task_settings)}"] if manifest.task in tasks else []),
        f"layout    {manifest.serving.workers} worker(s), {manifest.serving.threads} thread(s) each (0: event loop)",
    ]
    certificate = opened.certificate
    if certificate is None:
        lines.append("proof     none yet: millis prove")
    else:
        machine = certificate.machine.get("cpu", "a machine without a name")
        lines.append(f"proof     {certificate.verdict['status'].upper()} on {machine}, {certificate.created}")
        lines += [f"          {clause['name']}: {clause['detail']}" for clause in certificate.verdict["clauses"]]
        if "others_share" in certificate.measurement:
            others, steal = (100 * certificate.measurement[f"{who}_share"] for who in ("others", "steal"))
            lines.append(f"          others meanwhile: {others:.0f} % of the cores here, {steal:.0f} % other machines")
    for rung in manifest.rungs:
        lines += _rung_lines(opened, rung)
    lines += [
        f"table     {one.runtime} layer table at {one.tokens} tokens: {one.n} networks that it had not seen, off by"
        f" {100 * one.median_error:.1f} % in the middle, {100 * one.worst_error:.1f} % at worst"
        for one in manifest.table_checks
    ]
    for choice in manifest.choices:
        lines.append(f"why       {choice.what}: {choice.choice} ({choice.reason})")
    return [*lines, *(f"note      {note}" for note in manifest.notes)]


def _write_some(labels: Sequence[str]) -> str:
    return f"{', '.join(labels[:_MOST_LABELS])}{', ...' * (len(labels) > _MOST_LABELS)}"


def _write_settings(settings: Mapping[str, Any]) -> str:
    """Write a task's settings but its example, and what is not set."""
    told = {name: value for name, value in settings.items() if name != "example" and value not in ("", None, [], {})}
    return ", ".join(f"{name} {msgspec.json.encode(value).decode()}" for name, value in told.items())


def _write_agreement(opened: Bundle, agreement: float) -> str:
    if opened.manifest.task not in tasks:
        return f"the likeliest piece is the source's in {100 * agreement:.1f} % of places"
    data = tasks[opened.manifest.task].data
    if data == "matches":
        return f"mean cosine {agreement:.5f}"
    return f"agrees on {100 * agreement:.2f} % of {'tokens' if data == 'spans' else 'answers'}"


def list_tricks(rung: Rung) -> list[str]:
    """Say what was tried of the engine, one line each; nothing where nothing was tried."""
    return [
        f"{'kept' if one.is_kept else 'not kept'}  {one.trick}: {one.reason}; {one.n_equal} of {one.n_prompts} answers"
        f" the same; first piece {_write_ms(one.first_ms_before)}, with it {_write_ms(one.first_ms)}; later ones"
        f" {_write_ms(one.token_ms_before)}, with it {_write_ms(one.token_ms)} (against {one.against})"
        for one in rung.tricks
    ]


def _write_ms(spread: Spread | None) -> str:
    return "not timed" if spread is None else f"{spread.median:.1f} ms ({spread.low:.1f} to {spread.high:.1f})"


def _write_work(row: LatencyRow) -> str:
    if row.operations is None or row.n_bytes is None:
        return ""
    return f"  {row.operations / 1e9:6.3f} G operations on {write_bytes(row.n_bytes)}"


def _rung_lines(opened: Bundle, rung: Rung) -> list[str]:
    serves = " (serves)" if rung.name == opened.manifest.rung else ""
    device = rung.device
    if device != "cpu":
        device += f", {_BY_HAND if (rung.backend, device) == ('torch', 'cuda') else _UNTESTED}"
    if rung.backend in UNTESTED:
        device = f"{rung.device}, {_UNTESTED_BACKEND}"
    lines = [
        f"rung      {rung.name}{serves}: {rung.backend} {rung.precision} on {device}, {rung.threads} thread(s),"
        f" {write_bytes(opened.count_bytes(rung))}"
    ]
    if rung.quality:
        quality = rung.quality
        lines.append(
            f"          {quality['name']} {quality['value']:.2f}, {quality['drop']:+.2f} lost"
            f" of {quality['reference']:.2f} (95 %: {quality['low']:+.2f} to {quality['high']:+.2f};"
            f" {quality['n']} test examples)"
        )
    proof = opened.certificate_of(rung.name)
    if proof is not None and not serves:
        detail = "; ".join(clause["detail"] for clause in proof.verdict["clauses"])
        lines.append(f"          {proof.verdict['status'].upper()}: {detail}")
    lines += [
        f"          {row.tokens:4d} tokens  p50 {row.p50_ms:7.3f}  p99 {row.p99_ms:7.3f} ms"
        f"{'' if row.cold_ms is None else f'  after a gap {row.cold_ms:7.3f}'}"
        f"{'' if row.rows_ms is None else f'  {row.rows} together {row.rows_ms:7.3f}'}{_write_work(row)}"
        for row in rung.latency
    ]
    lines += [f"trick     {line}" for line in list_tricks(rung)]
    for step in rung.steps:
        difference = "" if step.agreement is None else f", {_write_agreement(opened, step.agreement)}"
        difference += "" if step.max_abs is None else f", logits within {step.max_abs:.3g}"
        lines.append(f"step      {step.step}: {write_bytes(step.n_bytes)}{difference}")
    lines += [f"why       {choice.what}: {choice.choice} ({choice.reason})" for choice in rung.choices]
    return lines
