"""What every plot is drawn on: a frame, scales, axes with round numbers, and labels that leave each other room.

Border: numbers in, markup out; knows no plot. A frame is 480 units wide, so that its text stays readable on a phone.
Limits: a label that would cover another one is left out.
"""

import math
from collections.abc import Callable, Sequence

from millis.measuring.markup import Markup, element

WIDTH = 480
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 30, 40
_CHARACTER = 7.2
"""Width of a character of a label, roughly, in units; Chinese ones count double."""


class Labels:
    """Places taken by text, so that no label covers another."""

    def __init__(self) -> None:
        self._taken: list[tuple[float, float, float, float]] = []

    def take(self, box: tuple[float, float, float, float]) -> None:
        """Keep a place free: left, top, right, bottom."""
        self._taken.append(box)

    def is_free(self, box: tuple[float, float, float, float]) -> bool:
        """Say whether nothing stands there yet."""
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
            if self.is_free(box) and left > LEFT and left + width < WIDTH - 2:
                self.take(box)
                return element("text", text, x=left + width / 2, y=baseline, class_=f"{class_} middle")
        return None


def draw_mark(
    x: float, text: str, *, class_: str, height: float, labels: Labels, level: int = 0
) -> Markup:
    """Draw a vertical line with its name where there is room.

    Args:
        height: of the picture.
        level: 0 for a name above the line, else beside it, so many lines down.
    """
    width, baseline = _text_width(text), TOP - 12 + 15 * level
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
    return element("g", element("line", x1=x, x2=x, y1=top, y2=height - BOTTOM, class_=class_), name)


def draw_frame(*shapes: Markup | None, height: float, title: str) -> Markup:
    """Put shapes into one picture, which a screen reader calls by its title."""
    return element(
        "svg", element("title", title), *shapes, viewBox=f"0 0 {WIDTH} {height}", role="img", class_="plot"
    )


def draw_x_axis(x: Callable[[float], float], ticks: Sequence[float], *, height: float, name: str) -> Markup:
    """Draw the axis at the foot, with its ticks, their numbers and its name."""
    base = height - BOTTOM
    marks = [element("line", x1=x(tick), x2=x(tick), y1=base, y2=base + 4, class_="axis") for tick in ticks]
    numbers = [element("text", write_number(tick), x=x(tick), y=base + 17, class_="tick middle") for tick in ticks]
    line = element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=base, y2=base, class_="axis")
    label = element("text", name, x=WIDTH - RIGHT, y=height - 5, class_="tick end")
    return element("g", line, *marks, *numbers, label)


def draw_y_axis(y: Callable[[float], float], ticks: Sequence[float], *, name: str) -> Markup:
    """Draw a line across at each tick, their numbers, and the axis' name."""
    grid = [
        element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(tick), y2=y(tick), class_="grid") for tick in ticks
    ]
    numbers = [
        element("text", write_number(tick), x=LEFT - 8, y=y(tick) + 4, class_="tick end") for tick in ticks
    ]
    return element("g", *grid, *numbers, element("text", name, x=2, y=11, class_="tick"))


def scale_y(low: float, high: float, *, height: float) -> Callable[[float], float]:
    """Give the way from a value to its place between foot and head."""
    span = (high - low) or 1.0
    return lambda value: height - BOTTOM - (value - low) / span * (height - BOTTOM - TOP)


def scale_x(low: float, high: float) -> Callable[[float], float]:
    """Give the way from a value to its place between left and right."""
    span = (high - low) or 1.0
    return lambda value: LEFT + (value - low) / span * (WIDTH - LEFT - RIGHT)


def scale_log_x(low: float, high: float) -> Callable[[float], float]:
    """Give the same way by the logarithm; low is above 0."""
    span = math.log(high / low)
    return lambda value: LEFT + math.log(value / low) / span * (WIDTH - LEFT - RIGHT)


def choose_ticks(low: float, high: float) -> list[float]:
    """Give 3 to 6 round numbers from low to high."""
    rough = (high - low) / 4 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def choose_log_ticks(low: float, high: float) -> list[float]:
    """Give 1, 2, 5 of each power of ten between low and high; only the powers when there are many."""
    factors = (1, 2, 5) if high / low < 2000 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for power in powers for factor in factors if low <= (tick := factor * 10.0**power) <= high]


def write_number(value: float) -> str:
    """Write a number so that three digits count, without an exponent."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    text = f"{value:.{max(digits, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _text_width(text: str) -> float:
    return sum(2 * _CHARACTER * 0.9 if ord(character) > 0x2E80 else _CHARACTER for character in text)
