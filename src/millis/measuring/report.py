"""Write the report: one self-contained HTML page with plots, in English or Chinese.

Border: findings in, a file out; measures and judges nothing. The page has no script and asks no network; text
is escaped by markup.py; absent parts are left out. Words are in page/words.json, looks in page/report.css.
Limits: sentences of verdicts, reasons and notes are shown as they came, in English.
"""

import json
import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from millis.errors import InvalidValue, RunFailed
from millis.measuring.findings import Report
from millis.measuring.markup import Child, Markup, element, join
from millis.measuring.plots import (
    Point,
    draw_candidates,
    draw_gauge,
    draw_latency,
    draw_lengths,
    draw_stages,
    slug,
)
from millis.measuring.report_parts import (
    NOTHING,
    Words,
    show_ms,
    show_points,
    write_facts,
    write_figure,
    write_section,
    write_table,
)
from millis.measuring.report_tables import (
    write_candidates,
    write_choices,
    write_ladder,
    write_layers,
    write_other_rung,
    write_quality,
    write_steps,
    write_table_checks,
    write_times,
    write_tokens,
    write_tricks,
)

__all__ = ["Report", "write_report"]

LANGUAGES = ("en", "zh")


def write_report(path: Path, *, report: Report | Mapping[str, Any], language: str = "en") -> None:
    """Write a report as one HTML file.

    Args:
        path: the file; one that is there is replaced.
        report: what was found, as `Report` or as a mapping of the same keys.
        language: "en" or "zh".

    Raises:
        InvalidValue: an unknown language, or a mapping that is no report.
        RunFailed: the file cannot be written.
    """
    if language not in LANGUAGES:
        raise InvalidValue(f"language cannot be {language!r}: choose one of {', '.join(LANGUAGES)}.")
    try:
        found = report if isinstance(report, Report) else msgspec.convert(report, Report)
    except msgspec.ValidationError as error:
        raise InvalidValue(
            f"this is no report: {error}. Give the keys of millis.measuring.report.Report."
        ) from error
    page = resources.files("millis.measuring") / "page"
    percentile = f"p{found.contract.get('percentile', 99):g}"
    text = (page / "words.json").read_text(encoding="utf-8")
    words = json.loads(text.replace("{p}", percentile))[language]
    style = Markup((page / "report.css").read_text(encoding="utf-8"))
    try:
        path.write_text(_page(found, words, style=style, language=language), encoding="utf-8")
    except OSError as error:
        raise RunFailed(
            f"the report cannot be written to {path}: {error.strerror}. Give another place."
        ) from error


def _page(report: Report, words: Words, *, style: Markup, language: str) -> str:
    sections = [
        _verdict(report, words),
        _glance(report, words),
        element("div", _latency(report, words), _candidates_plot(report, words), class_="plots"),
        write_tokens(report.tokens, words),
        write_ladder(report.ladder, words, is_spoken=report.tokens is not None),
        write_candidates(report.candidates, words),
        element("div", _stages(report, words), _lengths(report, words), class_="plots"),
        write_layers(report.layers, words),
        write_table_checks(report.table_checks, words),
        write_times(report.table, words),
        write_quality(report.quality, words),
        write_tricks(report.tricks, words),
        write_steps(report.steps, words),
        write_choices(report.choices, words),
        *(write_other_rung(one, words) for one in report.ladder),
        _notes(report, words),
        _origin(report, words),
    ]
    head = element(
        "head", element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{report.title}: {words['report']}"), element("style", style),
    )  # fmt: skip
    wordmark = element("p", "millis ", element("span", words["report"]), class_="wordmark")
    header = element("header", wordmark, element("p", report.created, class_="note"))
    body = element("body", header, element("main", element("h1", report.title), *sections))
    return (
        "<!doctype html>\n" + element("html", head, body, lang="zh-Hans" if language == "zh" else "en") + "\n"
    )


def _verdict(report: Report, words: Words) -> Markup:
    verdict, status = report.verdict, report.verdict.status if report.verdict else "none"
    clauses = [
        element(
            "li", element("b", words["clause"].get(clause.status, clause.status)),
            element("div", clause.name, ": ", element("span", clause.detail)), class_=clause.status,
        )
        for clause in (verdict.clauses if verdict else ())
    ]  # fmt: skip
    promise = _promise(report, words)
    return element(
        "div", element("strong", words.get(status, status)), element("p", promise) if promise else None,
        element("ul", *clauses) if clauses else None, class_=f"verdict {status}",
    )  # fmt: skip


def _promise(report: Report, words: Words) -> str:
    contract = report.contract
    shown = {
        key: f"{value:g}" if isinstance(value, int | float) else str(value) for key, value in contract.items()
    }
    parts = []
    if {"percentile", "bound_ms", "rate_per_s"} <= shown.keys():
        parts.append(words["promise" if report.tokens is None else "promise_first"].format(**shown))
    parts += [
        words[key].format(**shown)
        for key in ("per_token_ms", "max_drop", "floor", "memory_mb", "device")
        if contract.get(key) is not None
    ]
    return str(words["between"].join(parts))


def _glance(report: Report, words: Words) -> Markup | None:
    shown: list[Markup] = []
    for name, ms in (report.latency.percentiles if report.latency else {}).items():
        shown.append(element("div", element("dt", name), element("dd", f"{show_ms(ms)} ms")))
    quality = report.quality
    if quality is not None:
        of = (
            None
            if quality.reference is None
            else words["of_reference"].format(reference=f"{quality.reference:.2f}")
        )
        shown.append(write_figure(quality.name, f"{quality.value:.2f}", small=of))
        if quality.drop is not None:
            low, high = quality.interval or (None, None)
            interval = (
                words["interval"].format(low=show_points(low), high=show_points(high)) if quality.interval else None
            )
            name = words["drop"].format(name=quality.name)
            shown.append(write_figure(name, show_points(quality.drop), small=interval))
    return element("dl", *shown, class_="glance", aria_label=words["glance"]) if shown else None


def _latency(report: Report, words: Words) -> Markup | None:
    if report.latency is None:
        return None
    key = "latency" if report.tokens is None else "latency_first"
    plot = draw_latency(
        report.latency.bins, bound_ms=report.latency.bound_ms, percentiles=report.latency.percentiles,
        title=words[key], axes=(words["axis_ms"], words["axis_requests"]),
    )  # fmt: skip
    return write_section(words, key, plot)


def _candidates_plot(report: Report, words: Words) -> Markup | None:
    points = [
        Point(one.name, one.measured_ms, one.predicted_ms, one.quality, one.is_chosen)
        for one in report.candidates
        if one.quality is not None and (one.measured_ms or one.predicted_ms)
    ]
    axes = (words["axis_percentile"], report.quality.name if report.quality else words["quality_of"])
    bound_ms, floor = report.contract.get("bound_ms"), _quality_floor(report)
    plot = draw_candidates(points, bound_ms=bound_ms, floor=floor, title=words["candidates"], axes=axes)
    return write_section(words, "candidates", plot)


def _quality_floor(report: Report) -> float | None:
    """Give the lowest quality that the contract allows, in points."""
    floors = [report.contract["floor"]] if report.contract.get("floor") is not None else []
    reference = report.quality.reference if report.quality else None
    if report.contract.get("max_drop") is not None and reference is not None:
        floors.append(reference - report.contract["max_drop"])
    return max(floors, default=None)


def _stages(report: Report, words: Words) -> Markup | None:
    names = words["stage_names"]
    percentiles = list(dict.fromkeys(name for times in report.stages.values() for name in times))
    bars = [
        (percentile, {stage: times.get(percentile, 0.0) for stage, times in report.stages.items()})
        for percentile in percentiles
    ]
    plot = draw_stages(bars, title=words["stages"], axis=words["axis_ms_plain"])
    rows: list[list[Child]] = [
        [
            join([element("span", class_=f"key {slug(stage)}"), names.get(stage, stage)]),
            *(f"{times[percentile]:.3f}" if percentile in times else NOTHING for percentile in percentiles),
        ]
        for stage, times in report.stages.items()
    ]  # fmt: skip
    numbers = set(range(1, len(percentiles) + 1))
    table = write_table([words["stage"], *percentiles], rows, numbers=numbers, name=words["stages"])
    return write_section(words, "stages", plot, table) if plot else None


def _lengths(report: Report, words: Words) -> Markup | None:
    if report.lengths is None or not report.lengths.counts:
        return None
    counts, buckets = report.lengths.counts, report.lengths.buckets
    plot = draw_lengths(
        counts, buckets=buckets, title=words["lengths"], axes=(words["axis_tokens"], words["axis_texts"])
    )
    total = sum(count for _, count in counts)
    edges: list[tuple[str, float, float]] = [
        (str(bucket), below, bucket) for below, bucket in zip((0, *buckets), buckets, strict=False)
    ]
    edges += [(words["beyond"].format(bucket=buckets[-1]), buckets[-1], math.inf)] if buckets else []
    shares = [
        (name, sum(count for tokens, count in counts if below < tokens <= bucket) / total)
        for name, below, bucket in edges
    ]
    rows = [
        [name, draw_gauge(share), f"{100 * share:.1f} %"] for name, share in shares if share or name.isdigit()
    ]
    table = write_table([words["bucket"], "", words["share"]], rows, numbers={2}, name=words["lengths"])
    return write_section(words, "lengths", plot, table if rows else None)


def _notes(report: Report, words: Words) -> Markup | None:
    notes = element("ul", *(element("li", note) for note in report.notes), class_="notes")
    return write_section(words, "notes", notes) if report.notes else None


def _origin(report: Report, words: Words) -> Markup:
    command = element("pre", element("code", report.command))
    machine = write_section(words, "machine", write_facts(report.machine)) if report.machine else None
    versions = write_section(words, "versions", write_facts(report.versions)) if report.versions else None
    return join([
        element("div", machine, versions, class_="plots"),
        write_section(words, "command", command) if report.command else None,
    ])  # fmt: skip
