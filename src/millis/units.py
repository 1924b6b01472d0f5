"""Read and write quantities that carry a unit: durations, rates, sizes.

Border: text in, floats out; the unit stands in each function's name.
"""

import math
import re

from millis.errors import InvalidValue

_DURATION = re.compile(r"^\s*([0-9]*\.?[0-9]+)\s*(us|µs|ms|s|sec|m|min|h|d)\s*$")
_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "sec": 1e3, "m": 6e4, "min": 6e4, "h": 3.6e6, "d": 8.64e7}
_SIZE = re.compile(r"^\s*([0-9]*\.?[0-9]+)\s*(B|kB|KB|MB|GB|KiB|MiB|GiB)?\s*$")
_BYTES = {"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_RATE = re.compile(r"^\s*([0-9]*\.?[0-9]+)\s*(?:/\s*s|per\s*s|rps)?\s*$")


def read_duration_ms(value: str | float, *, name: str = "duration", unit: str | None = None) -> float:
    """Read a duration such as "5 ms", "1.5s" or "30m" as milliseconds.

    Args:
        value: text with a unit, or a number.
        name: what to call it in an error.
        unit: the unit of a number without one; without it such a number is an error.
    Raises:
        InvalidValue: no unit, an unknown unit, or not a positive finite number.
    """
    text = f"{value} {unit}" if unit and re.fullmatch(r"\s*[0-9.]+\s*", str(value)) else str(value)
    match = _DURATION.match(text)
    milliseconds = float(match[1]) * _MILLISECONDS[match[2]] if match else math.nan
    if not (math.isfinite(milliseconds) and milliseconds > 0):
        raise InvalidValue(
            f"{name} cannot be {value!r}: give a positive number with a unit (us, ms, s, m, h, d), like '5 ms'."
        )
    return milliseconds


def check_number(
    name: str, value: float, *, lowest: float, highest: float = math.inf, is_whole: bool = False, is_open: bool = False
) -> None:
    """Refuse what is no number within its bounds.

    Args:
        name: what to call it in an error.
        is_open: `lowest` itself is refused, too.
    Raises:
        InvalidValue: it is none.
    """
    is_number = isinstance(value, int if is_whole else int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and lowest <= value <= highest and not (is_open and value == lowest):
        return
    kind = "a whole number" if is_whole else "a number"
    bounds = f"{'above' if is_open else 'from'} {lowest:.12g}" + (f" to {highest:.12g}" if highest < math.inf else "")
    raise InvalidValue(f"{name} cannot be {value!r}: give {kind} {bounds}.")


def read_rate_per_s(value: str | float) -> float:
    """Read a rate such as "100", "100/s" or "100 rps" as requests per second.

    Raises:
        InvalidValue: not a positive finite number.
    """
    match = _RATE.match(str(value))
    rate = float(match[1]) if match else math.nan
    if not (math.isfinite(rate) and rate > 0):
        raise InvalidValue(f"rate cannot be {value!r}: give requests per second, like '100/s'.")
    return rate


def read_quota_per_day(value: str) -> int:
    """Read a quota such as "10000/day" or "10000" as requests a day.

    Raises:
        InvalidValue: not a whole number above 0.
    """
    digits = value.strip().removesuffix("/day").replace(",", "").strip()
    if not (digits.isascii() and digits.isdecimal() and 0 < int(digits) < 10**12):
        raise InvalidValue(f"quota cannot be {value!r}: give requests a day, like '10000/day'.")
    return int(digits)


def read_bytes(value: str | int, *, name: str = "size") -> int:
    """Read a size such as "64MB", "1.5 GiB" or "1000" (bytes) as bytes.

    Raises:
        InvalidValue: not a number of bytes, or of a unit that is not known.
    """
    match = _SIZE.match(str(value))
    if match is None:
        raise InvalidValue(f"{name} cannot be {value!r}: give bytes, or a number with kB, MB, GB, KiB, MiB or GiB.")
    return int(float(match[1]) * _BYTES[match[2] or "B"])


def write_ms(milliseconds: float) -> str:
    """Write milliseconds so that three digits count."""
    if milliseconds >= 60_000:
        return f"{milliseconds / 60_000:.1f} min"
    if milliseconds >= 10_000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.3g} ms" if milliseconds < 1000 else f"{milliseconds:.0f} ms"


def write_bytes(n_bytes: int) -> str:
    """Write a size in decimal megabytes or kilobytes."""
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 100_000 else f"{n_bytes / 1e3:.1f} kB"
