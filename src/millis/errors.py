"""Every error that a user or a client can cause.

    MillisError                 slug, HTTP status, exit code
    ├── InvalidValue            a setting or an argument that cannot be
    ├── InvalidData             rows of a file that cannot be read: all of them, with file and line
    ├── InvalidBase             a base model that cannot be used
    ├── InvalidBundle           a bundle that is missing, altered, truncated or of another format
    ├── InvalidRequest          a request body that cannot be answered (HTTP)
    ├── MissingExtra            a library that comes with an extra; the message has the pip command
    ├── ContractBroken          measured, and not kept; carries the nearest feasible points
    ├── MeasurementVoid         measured, but the measuring itself failed
    ├── RunFailed               a step that started and could not end: full disk, dead worker
    │   ├── TimedOut            a server that was asked gave no answer in time
    │   └── AllRefused          a server under load refused every request
    └── Interrupted             stopped by the user; what was finished is kept

A message has four parts: what is wrong, what came, what would be accepted, what to do next.
It never holds a user's text. Border: plain Python.
"""

import errno
import re
from collections.abc import Sequence
from typing import Any


class MillisError(Exception):
    """Anything that a user or a client can cause."""

    slug = "error"
    status = 500
    exit_code = 1


class InvalidValue(MillisError):
    """A setting or an argument that cannot be."""

    slug = "invalid-value"
    status = 400
    exit_code = 2


class InvalidData(MillisError):
    """Rows of a file that cannot be read."""

    slug = "invalid-data"
    status = 400
    exit_code = 2


class InvalidBase(MillisError):
    """A base model that cannot be used."""

    slug = "invalid-base"
    status = 400
    exit_code = 2


class InvalidBundle(MillisError):
    """A bundle that is missing, altered, truncated or of another format."""

    slug = "invalid-bundle"
    status = 500
    exit_code = 2


class InvalidRequest(MillisError):
    """A request that cannot be answered as it stands.

    Args:
        status: the HTTP status, when it is not 400.
        slug: the problem's name, when it is not `invalid-request`.
        headers: further ones of the answer.
        param: the member of the body that cannot be, where it is one.
    Attributes:
        extra: further members of the problem.
    """

    slug = "invalid-request"
    status = 400
    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        slug: str = "invalid-request",
        headers: Sequence[tuple[bytes, bytes]] = (),
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.slug = slug
        self.headers = tuple(headers)
        self.extra: dict[str, Any] = {} if param is None else {"param": param}


class MissingExtra(MillisError):
    """A library that comes with an extra of this package."""

    slug = "missing-extra"
    status = 500
    exit_code = 2


class ContractBroken(MillisError):
    """Measured, and not kept."""

    slug = "contract-broken"
    status = 500
    exit_code = 3


class MeasurementVoid(MillisError):
    """Measured, but the measuring itself failed, so the numbers say nothing."""

    slug = "measurement-void"
    status = 500
    exit_code = 4


class RunFailed(MillisError):
    """A step that started and could not end."""

    slug = "run-failed"
    status = 500
    exit_code = 1


class TimedOut(RunFailed):
    """A server that was asked gave no answer in time."""

    slug = "timed-out"
    status = 504


class AllRefused(RunFailed):
    """A server under load that refused every request: there are no latencies, and a contract is broken."""

    slug = "all-refused"


class Interrupted(MillisError):
    """Stopped by the user; what was finished is kept."""

    slug = "interrupted"
    status = 500
    exit_code = 130


_NO_MEMORY = re.compile(
    "bad_alloc|bad allocation|allocate memory|can't alloc|failed to map segment|out of memory|can't start new thread"
    "|could not create a primitive$|plugin.cpp:[0-9]+:\nResource temporarily unavailable"
    r"|Available frontends:(?!(?=.*\bir\b).*\bonnx\b)"
)
"""Words of C++, torch, the loader, a GPU, Python, oneDNN, OpenVINO; its last two: no room for a thread, or a reader."""


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether memory ran out; libraries say so in words and classes of their own, and ours come from theirs."""
    if isinstance(error, MillisError):
        return error.__cause__ is not None and is_out_of_memory(error.__cause__)
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, Exception) and _NO_MEMORY.search(str(error)) is not None


def reason_of(error: OSError) -> str:
    """Say an error in the system's words, or in those of the library that raised it without any."""
    words = error.strerror or str(error) or type(error).__name__
    return words[:1].lower() + words[1:]


def out_of_memory(doing: str) -> RunFailed:
    """Make the error that says so."""
    return RunFailed(
        f"memory ran out {doing}; what was finished is whole. Close other programs, or take less (a smaller base,"
        " fewer workers); the same command goes on or begins again."
    )
