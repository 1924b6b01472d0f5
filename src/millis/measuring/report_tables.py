"""The tables of a report: the ladder, what was considered, layers, times by length, quality by label, steps, choices.

Border: findings in, sections out, None where there is nothing to show.
"""

import math
from collections.abc import Sequence

from millis.bundles.manifest import LayerTime
from millis.measuring.findings import Candidate, Quality, Report, RungFound
from millis.measuring.markup import Child, Markup, element
from millis.measuring.plots import (
    draw_gauge,
)
from millis.measuring.report_parts import NOTHING, Words, show_ms, show_points, write_section, write_table
from millis.units import write_bytes


def write_ladder(ladder: Sequence[RungFound], words: Words) -> Markup | None:
    """Show the rungs, the one that serves in bold."""
    rows: list[list[Child]] = [
        [
            one.name, "✓" if one.is_serving else "", show_ms(one.p99_ms), show_points(one.quality),
            show_points(one.drop), write_bytes(one.n_bytes), words["clause"].get(one.status, NOTHING),
        ]
        for one in ladder
    ]  # fmt: skip
    head = [words[key] for key in ("rung", "serves", "measured", "quality_of", "lost", "size", "contract")]
    bold = {i for i, one in enumerate(ladder) if one.is_serving}
    table = write_table(head, rows, numbers={2, 3, 4, 5}, bold=bold, name=words["ladder"])
    return write_section(words, "ladder", table) if rows else None


def write_layers(layers: Sequence[LayerTime], words: Words) -> Markup | None:
    """Show what each layer has kept, and its time beside that of the whole one."""
    longest = max((layer.whole_ms for layer in layers), default=0.0)
    rows: list[list[Child]] = [
        [
            str(i), draw_gauge(layer.ms / longest, reference=layer.whole_ms / longest), str(layer.heads),
            str(layer.channels), f"{layer.ms:.3f}", f"{layer.whole_ms:.3f}",
        ]
        for i, layer in enumerate(layers, 1)
    ]  # fmt: skip
    head = [words["layer"], "", words["heads"], words["channels"], words["ms_now"], words["ms_before"]]
    table = write_table(head, rows, numbers={2, 3, 4, 5}, name=words["layers"])
    return write_section(words, "layers", table) if rows else None


def write_candidates(candidates: Sequence[Candidate], words: Words) -> Markup | None:
    """Show what was considered, the chosen in bold."""
    rows = [
        [
            one.name, "✓" if one.is_chosen else "", show_ms(one.p99_ms), show_ms(one.predicted_p99_ms),
            _show_error(one), show_points(one.quality), one.note,
        ]
        for one in candidates
    ]  # fmt: skip
    head = [
        words[key] for key in ("candidate", "chosen", "measured", "predicted", "error", "quality_of", "note")
    ]
    chosen = {i for i, one in enumerate(candidates) if one.is_chosen}
    table = write_table(head, rows, numbers={2, 3, 4, 5}, prose={6}, bold=chosen, name=words["considered"])
    return write_section(words, "considered", table) if rows else None


def _show_error(candidate: Candidate) -> str:
    if not candidate.p99_ms or not candidate.predicted_p99_ms:
        return NOTHING
    return f"{100 * (candidate.predicted_p99_ms / candidate.p99_ms - 1):+.0f} %"


def write_times(report: Report, words: Words) -> Markup | None:
    """Show p50 and p99 of each rung by length."""
    rungs = list(dict.fromkeys(row.rung for row in report.table))
    buckets = sorted({row.bucket for row in report.table}, key=lambda bucket: bucket or math.inf)
    times = {(row.rung, row.bucket): row for row in report.table}
    rows: list[list[Child]] = []
    for bucket in buckets:
        cells: list[Child] = [str(bucket) if bucket is not None else words["any"]]
        for rung in rungs:
            row = times.get((rung, bucket))
            cells += [show_ms(row.p50_ms if row else None), show_ms(row.p99_ms if row else None)]
        rows.append(cells)
    head = [words["bucket"], *(f"{rung} {percentile}" for rung in rungs for percentile in ("p50", "p99"))]
    table = write_table(head, rows, numbers=set(range(1, len(head))), name=words["table"])
    return write_section(words, "table", table) if rows else None


def write_quality(quality: Quality | None, words: Words) -> Markup | None:
    """Show precision, recall and F1 by label."""
    if quality is None or not quality.by_label:
        return None
    rows: list[list[Child]] = []
    for label, scores in quality.by_label.items():
        f1, reference = scores.get("f1"), quality.reference_by_label.get(label, {}).get("f1")
        difference = f"{f1 - reference:+.2f}" if f1 is not None and reference is not None else NOTHING
        gauge = draw_gauge((f1 or 0) / 100, reference=None if reference is None else reference / 100)
        rows.append([
            label, gauge, show_points(scores.get("precision")), show_points(scores.get("recall")),
            show_points(f1), show_points(reference), difference,
            f"{scores['support']:,.0f}" if "support" in scores else NOTHING,
        ])  # fmt: skip
    head = [
        words["label"], "", words["precision"], words["recall"], quality.name,
        words["reference"].format(name=quality.name), words["difference"], words["support"],
    ]  # fmt: skip
    return write_section(words, "quality", write_table(head, rows, numbers=set(range(2, 8)), name=words["quality"]))


def write_steps(report: Report, words: Words) -> Markup | None:
    """Show what each step did to size, answers, quality and time."""
    rows = [
        [
            step.step, f"{step.seconds:.1f}", write_bytes(step.n_bytes),
            NOTHING if step.max_abs is None else f"{step.max_abs:.3g}",
            NOTHING if step.agreement is None else f"{100 * step.agreement:.2f} %", show_points(step.quality),
            show_ms(step.ms), step.reason,
        ]
        for step in report.steps
    ]  # fmt: skip
    keys = ("step", "seconds", "size", "max_abs", "agreement", "quality_dev", "ms_mean", "reason")
    table = write_table([words[key] for key in keys], rows, numbers=set(range(1, 7)), prose={7}, name=words["steps"])
    return write_section(words, "steps", table) if rows else None


def write_choices(report: Report, words: Words) -> Markup | None:
    """Show what was chosen for the user, and why."""
    rows = [[choice.what, element("strong", choice.choice), choice.reason] for choice in report.choices]
    head = [words[key] for key in ("what", "choice", "reason")]
    return write_section(words, "choices", write_table(head, rows, prose={2}, name=words["choices"])) if rows else None
