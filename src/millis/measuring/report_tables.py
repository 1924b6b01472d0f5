"""The tables of a report: the ladder, what was considered, layers, times by length and by token, quality by label,
tricks of the engine, steps, choices; and what the same tables say of rungs that do not serve.

Border: findings in, sections out, None where there is nothing to show.
"""

import math
from collections.abc import Sequence

from millis.bundles.manifest import Choice, LayerTime, Spread, Step, TableCheck, TrickTrial
from millis.measuring.findings import BucketTime, Candidate, Quality, RungFound, Tokens
from millis.measuring.markup import Child, Markup, element, join
from millis.measuring.plots import draw_gauge
from millis.measuring.report_parts import NOTHING, Words, show_ms, show_points, write_section, write_table
from millis.units import write_bytes


def write_ladder(ladder: Sequence[RungFound], words: Words, *, is_spoken: bool = False) -> Markup | None:
    """Show the rungs, the one that serves in bold; of models that speak it alone was proven."""
    rows: list[list[Child]] = [
        [
            one.name, "✓" if one.is_serving else "", show_ms(one.measured_ms), show_points(one.quality),
            show_points(one.drop), write_bytes(one.n_bytes), words["clause"].get(one.status, NOTHING),
        ]
        for one in ladder
    ]  # fmt: skip
    head = [words[key] for key in ("rung", "serves", "measured", "quality_of", "lost", "size", "contract")]
    bold = {i for i, one in enumerate(ladder) if one.is_serving}
    table = write_table(head, rows, numbers={2, 3, 4, 5}, bold=bold, name=words["ladder"])
    return write_section(words, "ladder_spoken" if is_spoken else "ladder", table) if rows else None


def write_tokens(tokens: Tokens | None, words: Words) -> Markup | None:
    """Show how soon pieces came, and the least time that memory allows one."""
    if tokens is None:
        return None
    names = list(tokens.first)
    times = {"first_token": tokens.first, "each_token": tokens.each}
    rows: list[list[Child]] = [
        [words[key], *(show_ms(ms.get(name)) for name in names)] for key, ms in times.items() if ms
    ]
    table = write_table([words["what"], *names], rows, numbers=set(range(1, len(names) + 1)), name=words["tokens"])
    told = [words["tokens_per_s"].format(per_s=f"{tokens.per_s:.1f}"), tokens.ceiling]
    return write_section(words, "tokens", table, *(element("p", one, class_="note") for one in told if one))


def write_tricks(tricks: Sequence[TrickTrial], words: Words) -> Markup | None:
    """Show what was tried of the engine, what that did to times, and why it was kept or not."""
    rows: list[list[Child]] = [
        [
            one.trick, words["trick_kept" if one.is_kept else "trick_dropped"], one.against,
            f"{one.n_equal} / {one.n_prompts}",
            *(show_ms(None if ms is None else ms.median) for ms in _list_times(one)), one.reason,
        ]
        for one in tricks
    ]  # fmt: skip
    what, times = ("trick", "kept_or_not", "against", "same_answers"), ("first_without", "first_with")
    head = [words[key] for key in (*what, *times, "each_without", "each_with", "reason")]
    bold = {i for i, one in enumerate(tricks) if one.is_kept}
    table = write_table(head, rows, numbers=set(range(3, 8)), prose={2, 8}, bold=bold, name=words["tricks"])
    return write_section(words, "tricks", table) if rows else None


def _list_times(one: TrickTrial) -> tuple[Spread | None, ...]:
    return one.first_ms_before, one.first_ms, one.token_ms_before, one.token_ms


def write_other_rung(rung: RungFound, words: Words) -> Markup | None:
    """Tell of a rung what the sections above tell of the one that serves."""
    told = [
        write_layers(rung.layers, words, of=rung.name), write_times(rung.table, words, of=rung.name),
        write_steps(rung.steps, words, of=rung.name), write_choices(rung.choices, words, of=rung.name),
    ]  # fmt: skip
    return join([one for one in told if one]) if any(told) else None


def write_table_checks(checks: Sequence[TableCheck], words: Words) -> Markup | None:
    """Show by how much the layer table was off for networks that it had not seen."""
    rows: list[list[Child]] = [
        [
            one.runtime, str(one.tokens), str(one.n), show_ms(one.measured_ms), f"{100 * one.median_error:.1f} %",
            f"{100 * one.worst_error:.1f} %",
        ]
        for one in checks
    ]  # fmt: skip
    head = [words[key] for key in ("runtime", "bucket", "networks", "ms_middle", "error_median", "error_worst")]
    table = write_table(head, rows, numbers=set(range(1, 6)), name=words["table_checks"])
    return write_section(words, "table_checks", table) if rows else None


def write_layers(layers: Sequence[LayerTime], words: Words, *, of: str = "") -> Markup | None:
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
    return write_section(words, "layers", table, of=of) if rows else None


def write_candidates(candidates: Sequence[Candidate], words: Words) -> Markup | None:
    """Show what was considered, the chosen in bold."""
    rows = [
        [
            one.name, "✓" if one.is_chosen else "", show_ms(one.measured_ms), show_ms(one.predicted_ms),
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
    if not candidate.measured_ms or not candidate.predicted_ms:
        return NOTHING
    return f"{100 * (candidate.predicted_ms / candidate.measured_ms - 1):+.0f} %"


def write_times(times: Sequence[BucketTime], words: Words, *, of: str = "") -> Markup | None:
    """Show what an inference takes, warm and cold, computes and reads, by length."""
    together = max((row.rows for row in times), default=1)
    rows: list[list[Child]] = [
        [
            str(row.bucket) if row.bucket is not None else words["any"], show_ms(row.p50_ms), show_ms(row.p99_ms),
            show_ms(row.cold_ms), *([show_ms(row.rows_ms)] if together > 1 else []),
            NOTHING if row.operations is None else f"{row.operations / 1e9:.3f}",
            NOTHING if row.n_bytes is None else write_bytes(row.n_bytes), row.rung,
        ]
        for row in sorted(times, key=lambda row: row.bucket or math.inf)
    ]  # fmt: skip
    last = [words[key] for key in ("operations", "bytes_read", "rung")]
    cold = [words["cold"], *([words["together"].format(together)] if together > 1 else [])]
    head = [words["bucket"], "p50", "p99", *cold, *last]
    table = write_table(head, rows, numbers=set(range(1, len(head) - 1)), name=words["table"])
    return write_section(words, "table", table, of=of) if rows else None


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


def write_steps(steps: Sequence[Step], words: Words, *, of: str = "") -> Markup | None:
    """Show what each step did to size, answers, quality and time."""
    rows = [
        [
            step.step, f"{step.seconds:.1f}", write_bytes(step.n_bytes),
            NOTHING if step.max_abs is None else f"{step.max_abs:.3g}",
            NOTHING if step.agreement is None else f"{100 * step.agreement:.2f} %", show_points(step.quality),
            show_ms(step.ms), step.reason,
        ]
        for step in steps
    ]  # fmt: skip
    keys = ("step", "seconds", "size", "max_abs", "agreement", "quality_dev", "ms_mean", "reason")
    table = write_table([words[key] for key in keys], rows, numbers=set(range(1, 7)), prose={0, 7}, name=words["steps"])
    return write_section(words, "steps", table, of=of) if rows else None


def write_choices(choices: Sequence[Choice], words: Words, *, of: str = "") -> Markup | None:
    """Show what was chosen for the user, and why."""
    rows = [[choice.what, element("strong", choice.choice), choice.reason] for choice in choices]
    head = [words[key] for key in ("what", "choice", "reason")]
    table = write_table(head, rows, prose={2}, name=words["choices"])
    return write_section(words, "choices", table, of=of) if rows else None
