"""What a bundle's report page is told, from its manifest and its certificate.

Border: gathers; measuring/report.py draws.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from millis.bundles import Bundle, Certificate, Rung
from millis.bundles.bundle import REPORTS
from millis.contract import Verdict
from millis.measuring.bandwidth import Ceiling
from millis.measuring.findings import BucketTime, Candidate, Latency, Lengths, Quality, Report, RungFound, Tokens
from millis.measuring.histograms import Histogram, LatencySummary
from millis.measuring.report import write_report
from millis.measuring.results import LoadResult, TokenTimes


def report_proof(bundle: Bundle, *, certificates: Sequence[Certificate], load: LoadResult) -> dict[str, bytes]:
    """Draw the report of a bundle with these certificates, by language; the first is that of the rung that serves."""
    manifest, rung, certificate = bundle.manifest, bundle.rung(), certificates[0]
    by_rung = {one.name: bundle.certificate_of(one.name) for one in manifest.rungs}
    by_rung |= {one.rung: one for one in certificates}
    tokens = load.tokens
    seen, encoded = (load.latency, load.histogram) if tokens is None else (tokens.first, tokens.first_histogram)
    report = Report(
        title=bundle.name,
        created=certificate.created,
        verdict=msgspec.convert(certificate.verdict, type=Verdict),
        contract=certificate.contract,
        machine={key: _plain(value) for key, value in certificate.machine.items() if key != "versions"},
        versions=certificate.versions,
        latency=Latency(
            bins=tuple(Histogram(encoded).bins(per_decade=40)),
            bound_ms=certificate.contract["bound_ms"], percentiles=_percentiles(seen),
        ),
        tokens=None if tokens is None else _tokens(tokens, ceiling=certificate.measurement.get("ceiling")),
        candidates=tuple(
            Candidate(
                name=one.name, measured_ms=one.measured_ms, predicted_ms=one.predicted_ms, quality=one.quality,
                is_chosen=one.is_chosen,
            )
            for one in manifest.tried
        ),
        stages={name: {"p50": row.p50_ms, "p99": row.p99_ms} for name, row in load.stages.items()},
        ladder=tuple(_rung(bundle, one, by_rung[one.name]) for one in manifest.rungs),
        layers=rung.layers,
        table_checks=manifest.table_checks,
        table=_table(rung),
        lengths=Lengths(counts=manifest.lengths, buckets=rung.buckets or ()),
        quality=_quality(rung.quality),
        tricks=rung.tricks,
        steps=rung.steps,
        choices=(*manifest.choices, *rung.choices),
        notes=manifest.notes,
        command=certificate.command,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        pages = {language: Path(folder) / name for language, name in REPORTS.items()}
        for language, page in pages.items():
            write_report(page, report=report, language=language)
        return {language: page.read_bytes() for language, page in pages.items()}


def _percentiles(seen: LatencySummary) -> dict[str, float]:
    return {"p50": seen.p50_ms, "p90": seen.p90_ms, "p95": seen.p95_ms, "p99": seen.p99_ms}


def _tokens(times: TokenTimes, *, ceiling: Mapping[str, Any] | None) -> Tokens:
    each = None if times.each is None else _percentiles(times.each)
    told = "" if each is None or ceiling is None else msgspec.convert(ceiling, Ceiling).tell(each["p50"])
    return Tokens(
        first=_percentiles(times.first), each=each or {}, per_s=times.per_s, bound_ms=times.bound_ms, ceiling=told
    )


def _table(rung: Rung) -> tuple[BucketTime, ...]:
    return tuple(
        BucketTime(
            rung=rung.name, bucket=row.tokens, p50_ms=row.p50_ms, p99_ms=row.p99_ms, cold_ms=row.cold_ms,
            rows=row.rows, rows_ms=row.rows_ms, operations=row.operations, n_bytes=row.n_bytes,
        )
        for row in rung.latency
    )  # fmt: skip


def _rung(bundle: Bundle, rung: Rung, certificate: Certificate | None) -> RungFound:
    is_serving = rung.name == bundle.manifest.rung
    told: dict[str, Any] = {"layers": rung.layers, "table": _table(rung), "steps": rung.steps, "choices": rung.choices}
    return RungFound(
        name=rung.name, quality=rung.quality.get("value"), drop=rung.quality.get("drop"),
        n_bytes=bundle.count_bytes(rung), is_serving=is_serving, **({} if is_serving else told),
        measured_ms=_measured_ms(certificate) if certificate else None,
        status=certificate.verdict["status"] if certificate else "",
    )  # fmt: skip


def _measured_ms(certificate: Certificate) -> float:
    """Give what a contract bounds: its percentile, of first pieces where answers come by pieces."""
    tokens = certificate.measurement.get("tokens")
    encoded = certificate.measurement["histogram"] if tokens is None else tokens["first_histogram"]
    return Histogram(encoded).percentile_ms(certificate.contract["percentile"])


def _quality(found: dict[str, Any]) -> Quality | None:
    if not found:
        return None
    return Quality(
        name=found["name"],
        value=found["value"],
        reference=found["reference"],
        drop=found["drop"],
        interval=(found["low"], found["high"]),
        by_label=found.get("by_label", {}),
        reference_by_label=found.get("reference_by_label", {}),
    )


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
