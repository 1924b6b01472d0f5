"""Draw the report's plots as SVG: latency histogram, quality against latency, time by stage, lengths.

Border: numbers in, markup out; colours are classes that the page's sheet gives meaning to.
Limits: labels that would cover another one are left out (axes.py); the report's tables hold all numbers.
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from millis.measuring.axes import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Labels,
    choose_log_ticks,
    choose_ticks,
    draw_frame,
    draw_mark,
    draw_x_axis,
    draw_y_axis,
    scale_log_x,
    scale_x,
    scale_y,
    write_number,
)
from millis.measuring.markup import Markup, element


class Point(NamedTuple):
    """One candidate of the scatter.

    Args:
        measured: ms as measured, or None.
        predicted: ms as predicted, or None; a point has one of the two at least.
    """

    name: str
    measured: float | None
    predicted: float | None
    quality: float
    is_chosen: bool

    @property
    def ms(self) -> float:
        """Give what was measured, else what was predicted."""
        return self.measured if self.measured is not None else self.predicted or math.nan


def draw_latency(
    bins: Sequence[tuple[float, int]],
    *,
    bound_ms: float | None,
    percentiles: dict[str, float],
    title: str,
    axes: tuple[str, str],
) -> Markup:
    """Draw latencies on a logarithmic axis, with the contract's bound and the percentiles as lines.

    Args:
        bins: (upper edge in ms, count), ascending.
        bound_ms: the contract's bound; bins wholly beyond it are shown as late.
        percentiles: ms by name.
        title: what a screen reader says of the plot.
        axes: names of the two axes.
    """
    bars = _edges(bins)
    if not bars:
        return Markup("")
    marked = [ms for ms in (bound_ms, *percentiles.values()) if ms]
    low, high = min(bars[0][0], *marked, bars[0][1]), max(bars[-1][1], *marked, 0) * 1.12
    height, x, most = 300, scale_log_x(low, high), max(count for _, _, count in bars)
    y = scale_y(0, most, height=height)
    shapes = []
    for left, right, count in bars:
        top = min(y(count), y(0) - 1.5)  # one late request in ten thousand must still be seen
        is_late = bound_ms is not None and left >= bound_ms
        width, kind = max(x(right) - x(left) - 1, 1), "bar late" if is_late else "bar"
        shapes.append(element("rect", x=x(left), y=top, width=width, height=y(0) - top, class_=kind))
    labels = Labels()
    mark = partial(draw_mark, height=height, labels=labels)
    lines = [mark(x(bound_ms), f"{write_number(bound_ms)} ms", class_="bound")] if bound_ms else []
    lines += [
        mark(x(ms), f"{name} {write_number(ms)}", class_="percentile", level=1 + i)
        for i, (name, ms) in enumerate(percentiles.items())
        if ms > 0
    ]
    return draw_frame(
        draw_x_axis(x, choose_log_ticks(low, high), height=height, name=axes[0]),
        draw_y_axis(y, choose_ticks(0, most), name=axes[1]), *shapes, *lines,
        height=height, title=title,
    )  # fmt: skip


def _edges(bins: Sequence[tuple[float, int]]) -> list[tuple[float, float, int]]:
    """Give (lower edge, upper edge, count) of the bins that hold something."""
    edges = [edge for edge, _ in bins if edge > 0]
    if not edges:
        return []
    below = edges[0] ** 2 / edges[1] if len(edges) > 1 else edges[0] / 1.2
    counts = [count for edge, count in bins if edge > 0]
    return [row for row in zip([below, *edges], edges, counts, strict=False) if row[2] > 0]


def draw_candidates(
    points: Sequence[Point], *, bound_ms: float | None, floor: float | None, title: str, axes: tuple[str, str]
) -> Markup:
    """Draw quality against time: measured filled, predicted hollow, the chosen ringed, the best joined."""
    drawn = [point for point in points if point.ms > 0 and math.isfinite(point.quality)]
    if not drawn:
        return Markup("")
    seen = [ms for point in drawn for ms in (point.measured, point.predicted) if ms] + [
        bound_ms or drawn[0].ms
    ]
    qualities = [point.quality for point in drawn] + ([floor] if floor is not None else [])
    margin = max((max(qualities) - min(qualities)) * 0.12, 0.2)
    fastest, slowest = min(seen) / 1.25, max(seen) * 1.35
    height, x = 340, scale_log_x(fastest, slowest)
    low, high = min(qualities) - margin, max(qualities) + margin
    y = scale_y(low, high, height=height)
    labels = Labels()
    mark = partial(draw_mark, height=height, labels=labels)
    for ms, quality in [(ms, one.quality) for one in drawn for ms in (one.measured, one.predicted) if ms]:
        labels.take((x(ms) - 6, y(quality) - 6, x(ms) + 6, y(quality) + 6))
    lines = [mark(x(bound_ms), f"{write_number(bound_ms)} ms", class_="bound")] if bound_ms else []
    if bound_ms:
        labels.take((x(bound_ms) - 2, TOP, x(bound_ms) + 2, height - BOTTOM))
    if floor is not None:
        lines.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(floor), y2=y(floor), class_="floor"))
        labels.take((LEFT, y(floor) - 1, WIDTH - RIGHT, y(floor) + 1))
    front = pareto_front(drawn)
    path = " ".join(f"{x(point.ms):.1f},{y(point.quality):.1f}" for point in front)
    shapes = [element("polyline", points=path, class_="front")]
    names = []
    for point in sorted(drawn, key=lambda point: (not point.is_chosen, point not in front)):
        shapes.append(_draw_point(point, x, y))
        names.append(
            labels.place(
                point.name, x(point.ms), y(point.quality), class_="chosen" if point.is_chosen else "name"
            )
        )
    return draw_frame(
        draw_x_axis(x, choose_log_ticks(fastest, slowest), height=height, name=axes[0]),
        draw_y_axis(y, choose_ticks(low, high), name=axes[1]), *lines, *shapes, *names,
        height=height, title=title,
    )  # fmt: skip


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Give the points that no other one beats in both latency and quality, fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.ms, -point.quality)):
        if not front or point.quality > front[-1].quality:
            front.append(point)
    return front


def draw_stages(rows: Sequence[tuple[str, dict[str, float]]], *, title: str, axis: str) -> Markup:
    """Draw one stacked bar for each row: (name, milliseconds by stage)."""
    longest = max((sum(stages.values()) for _, stages in rows), default=0)
    if longest <= 0:
        return Markup("")
    height = TOP + 46 * len(rows) + BOTTOM - 10
    x = scale_x(0, longest)
    shapes = []
    for i, (name, stages) in enumerate(rows):
        top, start = TOP + 46 * i - 12, 0.0
        shapes.append(element("text", name, x=LEFT - 8, y=top + 20, class_="name end"))
        for stage, ms in stages.items():
            left, right = x(start), x(start + ms)
            width, tip = max(right - left - 0.8, 0.8), element("title", f"{stage} {write_number(ms)} ms")
            kind = f"stage {slug(stage)}"
            shapes.append(element("rect", tip, x=left, y=top, width=width, height=30, class_=kind))
            start += ms
    x_axis = draw_x_axis(x, choose_ticks(0, longest), height=height, name=axis)
    return draw_frame(x_axis, *shapes, height=height, title=title)


def draw_lengths(
    counts: Sequence[tuple[int, int]], *, buckets: Sequence[int], title: str, axes: tuple[str, str]
) -> Markup:
    """Draw how many texts have how many tokens, with a line at each bucket.

    Args:
        counts: (tokens, count of texts).
        buckets: token counts, ascending.
        title: what a screen reader says of the plot.
        axes: names of the two axes.
    """
    if not counts:
        return Markup("")
    longest = max([tokens for tokens, _ in counts] + list(buckets))
    per_bar = max(1, math.ceil(longest / 110))
    grouped: dict[int, int] = {}
    for tokens, count in counts:
        grouped[tokens // per_bar] = grouped.get(tokens // per_bar, 0) + count
    height, x = 280, scale_x(0, longest + per_bar)
    y = scale_y(0, max(grouped.values()), height=height)
    bars = [
        element("rect", x=x(bar * per_bar), y=min(y(count), y(0) - 1), height=y(0) - min(y(count), y(0) - 1),
                width=(x(per_bar) - x(0)) * 0.88, class_="bar")
        for bar, count in sorted(grouped.items())
    ]  # fmt: skip
    labels = Labels()
    mark = partial(draw_mark, height=height, labels=labels)
    lines = [mark(x(bucket + per_bar), str(bucket), class_="bucket") for bucket in buckets]
    return draw_frame(
        draw_x_axis(x, choose_ticks(0, longest), height=height, name=axes[0]),
        draw_y_axis(y, choose_ticks(0, max(grouped.values())), name=axes[1]), *bars, *lines,
        height=height, title=title,
    )  # fmt: skip


def draw_gauge(share: float, *, reference: float | None = None) -> Markup:
    """Draw a thin bar for a share of 0 to 1, with a tick where the reference stands."""
    tick = None
    if reference is not None:
        at = 100 * min(max(reference, 0), 1)
        tick = element("line", x1=at, x2=at, y1=0, y2=8, class_="bound")
    return element(
        "svg", element("rect", x=0, y=2, width=100, height=4, class_="grid"),
        element("rect", x=0, y=2, width=100 * min(max(share, 0), 1), height=4, class_="bar"), tick,
        viewBox="0 0 100 8", preserveAspectRatio="none", aria_hidden="true", class_="gauge",
    )  # fmt: skip


def _draw_point(point: Point, x: Callable[[float], float], y: Callable[[float], float]) -> Markup:
    middle = y(point.quality)
    shapes: list[Markup] = []
    if point.predicted and point.measured:
        shapes.append(
            element(
                "line", x1=x(point.predicted), x2=x(point.measured), y1=middle, y2=middle, class_="missed"
            )
        )
    if point.predicted:
        shapes.append(element("circle", cx=x(point.predicted), cy=middle, r=4.5, class_="predicted"))
    if point.measured:
        shapes.append(element("circle", cx=x(point.measured), cy=middle, r=4.5, class_="measured"))
    if point.is_chosen:
        shapes.append(element("circle", cx=x(point.ms), cy=middle, r=9, class_="ring"))
    words = f"{point.name}: {write_number(point.ms)} ms, {point.quality:.2f}"
    return element("g", element("title", words), *shapes)


def slug(text: str) -> str:
    """Give a class name for a stage: its letters and digits."""
    return re.sub(r"[^a-z0-9]", "", text.lower()) or "other"
