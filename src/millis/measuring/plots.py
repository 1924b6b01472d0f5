"""Draw the report's plots as SVG: latency histogram, quality against latency, time by stage, lengths.

Border: numbers in, markup out; colours are classes that the page's sheet gives meaning to. Every plot is
480 units wide, so that its text stays readable on a phone.
Limits: labels that would cover another one are left out; the report's tables hold all numbers.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from millis.measuring.markup import Markup, element

WIDTH = 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 30, 40
_CHARACTER = 7.2
"""Width of a character of a label, roughly, in units; Chinese ones count double."""


class Point(NamedTuple):
    """One candidate of the scatter.

    Args:
        measured: p99 in ms as measured, or None.
        predicted: p99 in ms as predicted, or None; a point has one of the two at least.
    """

    name: str
    measured: float | None
    predicted: float | None
    quality: float
    is_chosen: bool

    @property
    def p99_ms(self) -> float:
        """Give the measured p99, else the predicted one."""
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
    height, x, most = 300, _log_scale(low, high), max(count for _, _, count in bars)
    y = _linear_scale(0, most, height)
    shapes = []
    for left, right, count in bars:
        top = min(y(count), y(0) - 1.5)  # one late request in ten thousand must still be seen
        is_late = bound_ms is not None and left >= bound_ms
        width, kind = max(x(right) - x(left) - 1, 1), "bar late" if is_late else "bar"
        shapes.append(element("rect", x=x(left), y=top, width=width, height=y(0) - top, class_=kind))
    labels = _Labels()
    lines = [_mark(x(bound_ms), f"{_number(bound_ms)} ms", "bound", height, labels)] if bound_ms else []
    lines += [
        _mark(x(ms), f"{name} {_number(ms)}", "percentile", height, labels, level=1 + i)
        for i, (name, ms) in enumerate(percentiles.items())
        if ms > 0
    ]
    return _figure(height, title, _x_axis(x, _log_ticks(low, high), height, axes[0]),
                   _y_axis(y, _ticks(0, most), axes[1]), *shapes, *lines)  # fmt: skip


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
    """Draw quality against p99: measured filled, predicted hollow, the chosen ringed, the best joined."""
    drawn = [point for point in points if point.p99_ms > 0 and math.isfinite(point.quality)]
    if not drawn:
        return Markup("")
    seen = [ms for point in drawn for ms in (point.measured, point.predicted) if ms] + [
        bound_ms or drawn[0].p99_ms
    ]
    qualities = [point.quality for point in drawn] + ([floor] if floor is not None else [])
    margin = max((max(qualities) - min(qualities)) * 0.12, 0.2)
    height, x = 340, _log_scale(min(seen) / 1.25, max(seen) * 1.35)
    low, high = min(qualities) - margin, max(qualities) + margin
    y = _linear_scale(low, high, height)
    labels = _Labels()
    for ms, quality in [(ms, one.quality) for one in drawn for ms in (one.measured, one.predicted) if ms]:
        labels.take((x(ms) - 6, y(quality) - 6, x(ms) + 6, y(quality) + 6))
    lines = [_mark(x(bound_ms), f"{_number(bound_ms)} ms", "bound", height, labels)] if bound_ms else []
    if bound_ms:
        labels.take((x(bound_ms) - 2, _TOP, x(bound_ms) + 2, height - _BOTTOM))
    if floor is not None:
        lines.append(element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y(floor), y2=y(floor), class_="floor"))
        labels.take((_LEFT, y(floor) - 1, WIDTH - _RIGHT, y(floor) + 1))
    front = pareto_front(drawn)
    path = " ".join(f"{x(point.p99_ms):.1f},{y(point.quality):.1f}" for point in front)
    shapes = [element("polyline", points=path, class_="front")]
    names = []
    for point in sorted(drawn, key=lambda point: (not point.is_chosen, point not in front)):
        shapes.append(_draw_point(point, x, y))
        names.append(
            labels.place(
                point.name, x(point.p99_ms), y(point.quality), class_="chosen" if point.is_chosen else "name"
            )
        )
    return _figure(height, title, _x_axis(x, _log_ticks(min(seen) / 1.25, max(seen) * 1.35), height, axes[0]),
                   _y_axis(y, _ticks(low, high), axes[1]), *lines, *shapes, *names)  # fmt: skip


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Give the points that no other one beats in both latency and quality, fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.p99_ms, -point.quality)):
        if not front or point.quality > front[-1].quality:
            front.append(point)
    return front


def draw_stages(rows: Sequence[tuple[str, dict[str, float]]], *, title: str, axis: str) -> Markup:
    """Draw one stacked bar for each row: (name, milliseconds by stage)."""
    longest = max((sum(stages.values()) for _, stages in rows), default=0)
    if longest <= 0:
        return Markup("")
    height = _TOP + 46 * len(rows) + _BOTTOM - 10
    x = _linear_scale_x(0, longest)
    shapes = []
    for i, (name, stages) in enumerate(rows):
        top, start = _TOP + 46 * i - 12, 0.0
        shapes.append(element("text", name, x=_LEFT - 8, y=top + 20, class_="name end"))
        for stage, ms in stages.items():
            left, right = x(start), x(start + ms)
            width, tip = max(right - left - 0.8, 0.8), element("title", f"{stage} {_number(ms)} ms")
            kind = f"stage {slug(stage)}"
            shapes.append(element("rect", tip, x=left, y=top, width=width, height=30, class_=kind))
            start += ms
    return _figure(height, title, _x_axis(x, _ticks(0, longest), height, axis), *shapes)


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
    height, x = 280, _linear_scale_x(0, longest + per_bar)
    y = _linear_scale(0, max(grouped.values()), height)
    bars = [
        element("rect", x=x(bar * per_bar), y=min(y(count), y(0) - 1), height=y(0) - min(y(count), y(0) - 1),
                width=(x(per_bar) - x(0)) * 0.88, class_="bar")
        for bar, count in sorted(grouped.items())
    ]  # fmt: skip
    labels = _Labels()
    lines = [_mark(x(bucket + per_bar), str(bucket), "bucket", height, labels) for bucket in buckets]
    return _figure(height, title, _x_axis(x, _ticks(0, longest), height, axes[0]),
                   _y_axis(y, _ticks(0, max(grouped.values())), axes[1]), *bars, *lines)  # fmt: skip


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


class _Labels:
    """Places taken by text, so that no label covers another."""

    def __init__(self) -> None:
        self._taken: list[tuple[float, float, float, float]] = []

    def take(self, box: tuple[float, float, float, float]) -> None:
        self._taken.append(box)

    def is_free(self, box: tuple[float, float, float, float]) -> bool:
        left, top, right, bottom = box
        return not any(
            left < other[2] and other[0] < right and top < other[3] and other[1] < bottom
            for other in self._taken
        )

    def place(self, text: str, x: float, y: float, *, class_: str) -> Markup | None:
        """Write a label beside a point, on the first side that is free and inside; None when none is."""
        width = _text_width(text)
        beside = [(x + gap, y + 4) for gap in (12, 20, 28)] + [(x - gap - width, y + 4) for gap in (12, 20, 28)]
        lefts = (x - width / 2, x - 6, x + 6 - width)
        for left, baseline in (*beside, *((left, y + dy) for dy in (-14, 23) for left in lefts)):
            box = (left, baseline - 11, left + width, baseline + 3)
            if self.is_free(box) and left > _LEFT and left + width < WIDTH - 2:
                self.take(box)
                return element("text", text, x=left + width / 2, y=baseline, class_=f"{class_} middle")
        return None


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
        shapes.append(element("circle", cx=x(point.p99_ms), cy=middle, r=9, class_="ring"))
    words = f"{point.name}: {_number(point.p99_ms)} ms, {point.quality:.2f}"
    return element("g", element("title", words), *shapes)


def _mark(x: float, text: str, class_: str, height: float, labels: _Labels, *, level: int = 0) -> Markup:
    """Draw a vertical line with its name above or beside it, where there is room."""
    width, baseline = _text_width(text), _TOP - 12 + 15 * level
    top = baseline + 4 if level == 0 else baseline - 10
    name = None
    for left, anchor, at in (
        (x - width / 2, "middle", x),
        (x + 5, "start", x + 5),
        (x - 5 - width, "end", x - 5),
    ):
        box = (left, baseline - 11, left + width, baseline + 3)
        wanted = anchor == "middle" if level == 0 else anchor != "middle"
        if wanted and labels.is_free(box) and left > 2 and left + width < WIDTH - 2:
            labels.take(box)
            name = element("text", text, x=at, y=baseline, class_=f"{class_} {anchor}")
            break
    return element("g", element("line", x1=x, x2=x, y1=top, y2=height - _BOTTOM, class_=class_), name)


def _figure(height: float, title: str, *shapes: Markup | None) -> Markup:
    return element(
        "svg", element("title", title), *shapes, viewBox=f"0 0 {WIDTH} {height}", role="img", class_="plot"
    )


def _x_axis(x: Callable[[float], float], ticks: Sequence[float], height: float, name: str) -> Markup:
    base = height - _BOTTOM
    marks = [element("line", x1=x(tick), x2=x(tick), y1=base, y2=base + 4, class_="axis") for tick in ticks]
    numbers = [element("text", _number(tick), x=x(tick), y=base + 17, class_="tick middle") for tick in ticks]
    line = element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=base, y2=base, class_="axis")
    label = element("text", name, x=WIDTH - _RIGHT, y=height - 5, class_="tick end")
    return element("g", line, *marks, *numbers, label)


def _y_axis(y: Callable[[float], float], ticks: Sequence[float], name: str) -> Markup:
    grid = [
        element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y(tick), y2=y(tick), class_="grid") for tick in ticks
    ]
    numbers = [
        element("text", _number(tick), x=_LEFT - 8, y=y(tick) + 4, class_="tick end") for tick in ticks
    ]
    return element("g", *grid, *numbers, element("text", name, x=2, y=11, class_="tick"))


def _linear_scale(low: float, high: float, height: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: height - _BOTTOM - (value - low) / span * (height - _BOTTOM - _TOP)


def _linear_scale_x(low: float, high: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: _LEFT + (value - low) / span * (WIDTH - _LEFT - _RIGHT)


def _log_scale(low: float, high: float) -> Callable[[float], float]:
    span = math.log(high / low)
    return lambda value: _LEFT + math.log(value / low) / span * (WIDTH - _LEFT - _RIGHT)


def _ticks(low: float, high: float) -> list[float]:
    """Give 3 to 6 round numbers from low to high."""
    rough = (high - low) / 4 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Give 1, 2, 5 of each power of ten between low and high; only the powers when there are many."""
    factors = (1, 2, 5) if high / low < 2000 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for power in powers for factor in factors if low <= (tick := factor * 10.0**power) <= high]


def _number(value: float) -> str:
    """Write a number so that three digits count, without an exponent."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    text = f"{value:.{max(digits, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _text_width(text: str) -> float:
    return sum(2 * _CHARACTER * 0.9 if ord(character) > 0x2E80 else _CHARACTER for character in text)


def slug(text: str) -> str:
    """Give a class name for a stage: its letters and digits."""
    return re.sub(r"[^a-z0-9]", "", text.lower()) or "other"
