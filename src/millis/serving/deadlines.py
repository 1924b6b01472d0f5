"""How long a client will wait, as its headers say.

Border: headers in, milliseconds out.
Source: grpc-timeout as in the gRPC protocol over HTTP/2: up to eight digits and a unit.
"""

import math
from collections.abc import Iterable

from millis.errors import InvalidRequest

MOST_MS = 3_600_000.0

_UNITS_MS = {"H": 3_600_000.0, "M": 60_000.0, "S": 1000.0, "m": 1.0, "u": 1e-3, "n": 1e-6}
NAMES = (b"x-deadline-ms", b"grpc-timeout")


def read_deadline(
    headers: Iterable[tuple[bytes, bytes]], *, within_ms: float | None = None, left_ms: float | None = None
) -> float | None:
    """Give how many ms a client allows, from X-Deadline-Ms or grpc-timeout; None where it does not say.

    Args:
        within_ms: what the body says, where it says something.
        left_ms: for how long the call itself lasts, where its protocol has that; the sooner of the two counts.
    Raises:
        InvalidRequest: not a number of milliseconds above 0 and up to an hour, or said twice.
    """
    said = [(name, value) for name, value in headers if name in NAMES]
    if len(said) + (within_ms is not None) > 1:
        raise _refuse("is said more than once", "say it once")
    if said:
        within_ms = _read(*said[0])
    return min((ms for ms in (within_ms, left_ms) if ms is not None), default=None)


def _read(name: bytes, value: bytes) -> float:
    try:
        ms = _read_ms(value) if name == NAMES[0] else _read_grpc(value.decode("ascii"))
    except (ValueError, KeyError, IndexError) as error:
        advice = "give milliseconds, or digits and H, M, S, m, u or n"
        raise _refuse(f"in {name.decode()} cannot be read", advice) from error
    if not (math.isfinite(ms) and 0 < ms <= MOST_MS):
        raise _refuse(f"cannot be {ms:.10g} ms", f"give more than 0 and up to {MOST_MS:.0f}")
    return ms


def _read_ms(value: bytes) -> float:
    if b"_" in value:  # a number in Python's source alone
        raise ValueError(value)
    return float(value)


def _read_grpc(value: str) -> float:
    digits, unit = value[:-1], value[-1]
    if not 1 <= len(digits) <= 8 or not digits.isdecimal():
        raise ValueError(value)
    return int(digits) * _UNITS_MS[unit]


def _refuse(wrong: str, advice: str) -> InvalidRequest:
    return InvalidRequest(f"the deadline {wrong}: {advice}, in X-Deadline-Ms or grpc-timeout.", slug="bad-deadline")
