"""Write the report: one self-contained HTML page with plots, in English or Chinese.

Border: findings in, a file out; measures and judges nothing. The page has no script and asks no network; text
is escaped by markup.py; absent parts are left out. Words are in page/words.json, looks in page/report.css.
Limits: sentences of verdicts, reasons and notes are shown as they came, in English.
"""

import json
import math
from collections.abc import Mapping, Sequence, Set
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from millis.bundles.manifest import Choice, LayerTime, Step, TableCheck
from millis.errors import InvalidValue, RunFailed
from millis.measuring.findings import BucketTime, Candidate, Quality, Report, RungFound
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
from millis.units import write_bytes

__all__ = ["Report", "write_report"]

LANGUAGES = ("en", "zh")
_NOTHING = "–"

Words = Mapping[str, Any]


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
    words = json.loads((page / "words.json").read_text(encoding="utf-8"))[language]
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
        _ladder(report.ladder, words),
        _candidates_table(report.candidates, words),
        element("div", _stages(report, words), _lengths(report, words), class_="plots"),
        _layers(report.layers, words),
        _table_checks(report.table_checks, words),
        _table(report.table, words),
        _quality(report.quality, words),
        _steps(report.steps, words),
        _choices(report.choices, words),
        *(_other_rung(one, words) for one in report.ladder),
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
    promise = _promise(report.contract, words)
    return element(
        "div", element("strong", words.get(status, status)), element("p", promise) if promise else None,
        element("ul", *clauses) if clauses else None, class_=f"verdict {status}",
    )  # fmt: skip


def _promise(contract: Mapping[str, Any], words: Words) -> str:
    shown = {
        key: f"{value:g}" if isinstance(value, int | float) else str(value) for key, value in contract.items()
    }
    parts = []
    if {"percentile", "bound_ms", "rate_per_s"} <= shown.keys():
        parts.append(words["promise"].format(**shown))
    parts += [
        words[key].format(**shown)
        for key in ("max_drop", "floor", "memory_mb", "device")
        if contract.get(key) is not None
    ]
    return str(words["between"].join(parts))


def _glance(report: Report, words: Words) -> Markup | None:
    shown: list[Markup] = []
    for name, ms in (report.latency.percentiles if report.latency else {}).items():
        shown.append(element("div", element("dt", name), element("dd", f"{_ms(ms)} ms")))
    quality = report.quality
    if quality is not None:
        of = (
            None
            if quality.reference is None
            else words["of_reference"].format(reference=f"{quality.reference:.2f}")
        )
        shown.append(_figure(quality.name, f"{quality.value:.2f}", of))
        if quality.drop is not None:
            low, high = quality.interval or (None, None)
            interval = (
                words["interval"].format(low=_points(low), high=_points(high)) if quality.interval else None
            )
            shown.append(_figure(words["drop"].format(name=quality.name), _points(quality.drop), interval))
    return element("dl", *shown, class_="glance", aria_label=words["glance"]) if shown else None


def _figure(name: str, value: str, small: str | None) -> Markup:
    return element(
        "div", element("dt", name), element("dd", value, element("small", small) if small else None)
    )


def _latency(report: Report, words: Words) -> Markup | None:
    if report.latency is None:
        return None
    plot = draw_latency(
        report.latency.bins, bound_ms=report.latency.bound_ms, percentiles=report.latency.percentiles,
        title=words["latency"], axes=(words["axis_ms"], words["axis_requests"]),
    )  # fmt: skip
    return _section(words, "latency", plot)


def _candidates_plot(report: Report, words: Words) -> Markup | None:
    points = [
        Point(one.name, one.p99_ms, one.predicted_p99_ms, one.quality, one.is_chosen)
        for one in report.candidates
        if one.quality is not None and (one.p99_ms or one.predicted_p99_ms)
    ]
    axes = (words["axis_p99"], report.quality.name if report.quality else words["quality_of"])
    bound_ms, floor = report.contract.get("bound_ms"), _quality_floor(report)
    plot = draw_candidates(points, bound_ms=bound_ms, floor=floor, title=words["candidates"], axes=axes)
    return _section(words, "candidates", plot)


def _quality_floor(report: Report) -> float | None:
    """Give the lowest quality that the contract allows, in points."""
    floors = [report.contract["floor"]] if report.contract.get("floor") is not None else []
    reference = report.quality.reference if report.quality else None
    if report.contract.get("max_drop") is not None and reference is not None:
        floors.append(reference - report.contract["max_drop"])
    return max(floors, default=None)


def _ladder(ladder: Sequence[RungFound], words: Words) -> Markup | None:
    rows: list[list[Child]] = [
        [
            one.name, "✓" if one.is_serving else "", _ms(one.p99_ms), _points(one.quality), _points(one.drop),
            write_bytes(one.n_bytes), words["clause"].get(one.status, _NOTHING),
        ]
        for one in ladder
    ]  # fmt: skip
    head = [words[key] for key in ("rung", "serves", "measured", "quality_of", "lost", "size", "contract")]
    bold = {i for i, one in enumerate(ladder) if one.is_serving}
    table = _rows(head, rows, numbers={2, 3, 4, 5}, bold=bold, name=words["ladder"])
    return _section(words, "ladder", table) if rows else None


def _other_rung(rung: RungFound, words: Words) -> Markup | None:
    """Tell of a rung what the sections above tell of the one that serves."""
    told = [
        _layers(rung.layers, words, of=rung.name), _table(rung.table, words, of=rung.name),
        _steps(rung.steps, words, of=rung.name), _choices(rung.choices, words, of=rung.name),
    ]  # fmt: skip
    return join([one for one in told if one]) if any(told) else None


def _table_checks(checks: Sequence[TableCheck], words: Words) -> Markup | None:
    rows: list[list[Child]] = [
        [
            one.runtime, str(one.tokens), str(one.n), _ms(one.measured_ms), f"{100 * one.median_error:.1f} %",
            f"{100 * one.worst_error:.1f} %",
        ]
        for one in checks
    ]  # fmt: skip
    head = [words[key] for key in ("runtime", "bucket", "networks", "ms_middle", "error_median", "error_worst")]
    table = _rows(head, rows, numbers=set(range(1, 6)), name=words["table_checks"])
    return _section(words, "table_checks", table) if rows else None


def _layers(layers: Sequence[LayerTime], words: Words, *, of: str = "") -> Markup | None:
    longest = max((layer.whole_ms for layer in layers), default=0.0)
    rows: list[list[Child]] = [
        [
            str(i), draw_gauge(layer.ms / longest, reference=layer.whole_ms / longest), str(layer.heads),
            str(layer.channels), f"{layer.ms:.3f}", f"{layer.whole_ms:.3f}",
        ]
        for i, layer in enumerate(layers, 1)
    ]  # fmt: skip
    head = [words["layer"], "", words["heads"], words["channels"], words["ms_now"], words["ms_before"]]
    table = _rows(head, rows, numbers={2, 3, 4, 5}, name=words["layers"])
    return _section(words, "layers", table, of=of) if rows else None


def _candidates_table(candidates: Sequence[Candidate], words: Words) -> Markup | None:
    rows = [
        [
            one.name, "✓" if one.is_chosen else "", _ms(one.p99_ms), _ms(one.predicted_p99_ms),
            _off(one), _points(one.quality), one.note,
        ]
        for one in candidates
    ]  # fmt: skip
    head = [
        words[key] for key in ("candidate", "chosen", "measured", "predicted", "error", "quality_of", "note")
    ]
    chosen = {i for i, one in enumerate(candidates) if one.is_chosen}
    table = _rows(head, rows, numbers={2, 3, 4, 5}, prose={6}, bold=chosen, name=words["considered"])
    return _section(words, "considered", table) if rows else None


def _off(candidate: Candidate) -> str:
    if not candidate.p99_ms or not candidate.predicted_p99_ms:
        return _NOTHING
    return f"{100 * (candidate.predicted_p99_ms / candidate.p99_ms - 1):+.0f} %"


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
            *(f"{times[percentile]:.3f}" if percentile in times else _NOTHING for percentile in percentiles),
        ]
        for stage, times in report.stages.items()
    ]  # fmt: skip
    numbers = set(range(1, len(percentiles) + 1))
    table = _rows([words["stage"], *percentiles], rows, numbers=numbers, name=words["stages"])
    return _section(words, "stages", plot, table) if plot else None


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
    table = _rows([words["bucket"], "", words["share"]], rows, numbers={2}, name=words["lengths"])
    return _section(words, "lengths", plot, table if rows else None)


def _table(times: Sequence[BucketTime], words: Words, *, of: str = "") -> Markup | None:
    rows: list[list[Child]] = [
        [
            str(row.bucket) if row.bucket is not None else words["any"], _ms(row.p50_ms), _ms(row.p99_ms),
            _ms(row.cold_ms), _NOTHING if row.operations is None else f"{row.operations / 1e9:.3f}",
            _NOTHING if row.n_bytes is None else write_bytes(row.n_bytes), row.rung,
        ]
        for row in sorted(times, key=lambda row: row.bucket or math.inf)
    ]  # fmt: skip
    head = [words["bucket"], "p50", "p99", *(words[key] for key in ("cold", "operations", "bytes_read", "rung"))]
    table = _rows(head, rows, numbers=set(range(1, 6)), name=words["table"])
    return _section(words, "table", table, of=of) if rows else None


def _quality(quality: Quality | None, words: Words) -> Markup | None:
    if quality is None or not quality.by_label:
        return None
    rows: list[list[Child]] = []
    for label, scores in quality.by_label.items():
        f1, reference = scores.get("f1"), quality.reference_by_label.get(label, {}).get("f1")
        difference = f"{f1 - reference:+.2f}" if f1 is not None and reference is not None else _NOTHING
        gauge = draw_gauge((f1 or 0) / 100, reference=None if reference is None else reference / 100)
        rows.append([
            label, gauge, _points(scores.get("precision")), _points(scores.get("recall")),
            _points(f1), _points(reference), difference,
            f"{scores['support']:,.0f}" if "support" in scores else _NOTHING,
        ])  # fmt: skip
    head = [
        words["label"], "", words["precision"], words["recall"], quality.name,
        words["reference"].format(name=quality.name), words["difference"], words["support"],
    ]  # fmt: skip
    return _section(words, "quality", _rows(head, rows, numbers=set(range(2, 8)), name=words["quality"]))


def _steps(steps: Sequence[Step], words: Words, *, of: str = "") -> Markup | None:
    rows = [
        [
            step.step, f"{step.seconds:.1f}", write_bytes(step.n_bytes),
            _NOTHING if step.max_abs is None else f"{step.max_abs:.3g}",
            _NOTHING if step.agreement is None else f"{100 * step.agreement:.2f} %", _points(step.quality),
            _ms(step.ms), step.reason,
        ]
        for step in steps
    ]  # fmt: skip
    keys = ("step", "seconds", "size", "max_abs", "agreement", "quality_dev", "ms_mean", "reason")
    table = _rows([words[key] for key in keys], rows, numbers=set(range(1, 7)), prose={0, 7}, name=words["steps"])
    return _section(words, "steps", table, of=of) if rows else None


def _choices(choices: Sequence[Choice], words: Words, *, of: str = "") -> Markup | None:
    rows = [[choice.what, element("strong", choice.choice), choice.reason] for choice in choices]
    head = [words[key] for key in ("what", "choice", "reason")]
    table = _rows(head, rows, prose={2}, name=words["choices"])
    return _section(words, "choices", table, of=of) if rows else None


def _notes(report: Report, words: Words) -> Markup | None:
    notes = element("ul", *(element("li", note) for note in report.notes), class_="notes")
    return _section(words, "notes", notes) if report.notes else None


def _origin(report: Report, words: Words) -> Markup:
    command = element("pre", element("code", report.command))
    machine = _section(words, "machine", _facts(report.machine)) if report.machine else None
    versions = _section(words, "versions", _facts(report.versions)) if report.versions else None
    return join([
        element("div", machine, versions, class_="plots"),
        _section(words, "command", command) if report.command else None,
    ])  # fmt: skip


def _facts(facts: Mapping[str, Any]) -> Markup:
    plain = {
        key: " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        for key, value in facts.items()
    }
    pairs = [join([element("dt", key), element("dd", value)]) for key, value in plain.items()]
    return element("dl", *pairs, class_="facts")


def _section(words: Words, key: str, *content: Markup | None, of: str = "") -> Markup | None:
    """Put a heading, and a note where there is one, above content; None when there is no content.

    Args:
        of: the rung that it is about, where that is not the one that serves; notes were said of that one.
    """
    if not any(content):
        return None
    note = None if of else words.get(f"{key}_note")
    heading = element("h2", f"{of}: {words[key]}" if of else words[key])
    return element("section", heading, element("p", note, class_="note") if note else None, *content)


def _rows(
    head: Sequence[str], rows: Sequence[Sequence[Child]], *, name: str,
    numbers: Set[int] = frozenset(), prose: Set[int] = frozenset(), bold: Set[int] = frozenset(),
) -> Markup:  # fmt: skip
    """Write a table that scrolls by itself when it is too wide; one with prose is stacked, row by row, on a phone."""

    def cell(tag: str, i: int, child: Child) -> Markup:
        kind = "number" if i in numbers else "prose" if i in prose else None
        label = head[i] if prose and tag == "td" and i > 0 else None
        return element(tag, child, class_=kind, scope="col" if tag == "th" else None, data_label=label)

    titles = element("tr", *(cell("th", i, title) for i, title in enumerate(head)))
    body = [
        element("tr", *map(partial(cell, "td"), range(len(row)), row), class_="chosen" if i in bold else None)
        for i, row in enumerate(rows)
    ]
    table = element("table", element("thead", titles), element("tbody", *body), class_="stack" if prose else None)
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=name)


def _ms(ms: float | None) -> str:
    return _NOTHING if ms is None else f"{ms:.2f}" if ms < 100 else f"{ms:.0f}"


def _points(points: float | None) -> str:
    return _NOTHING if points is None else f"{points:.2f}"
