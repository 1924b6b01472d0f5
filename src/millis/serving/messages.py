"""What the parent of a server and its workers say to one another: JSON, a line each, over two pipes.

Border: shapes and lines; what they mean is directing.py's (the parent) and following.py's (a worker).
"""

import os
import select
from typing import Any, Literal

import msgspec

from millis.serving.placement import Placement, Share, Version

_WAIT_S = 1.0


class Loaded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A worker has loaded and warmed this revision, and listens when it is told to; `notes` are lines for people."""

    revision: int
    notes: tuple[str, ...] = ()


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A worker listens and answers."""


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A worker could not start; slug is that of the error."""

    slug: str
    reason: str


class Asked(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A worker was asked for a change (or, with "list", for what there is).

    Args:
        number: given back with the answer.
        version: what to load; its number is the parent's to give.
    """

    number: int
    what: Literal["list", "load", "unload", "promote", "rollback"]
    name: str = ""
    version: Version | None = None
    canary_percent: Share | None = None
    shadow_percent: Share | None = None


class Prepared(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A worker has loaded and warmed what a revision needs, or says why it cannot."""

    revision: int
    reason: str = ""
    notes: tuple[str, ...] = ()


class Followed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A worker serves a revision."""

    revision: int


class Seen(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a worker saw of a version since it is judged: answers that count, and those that missed the bound."""

    version: int
    is_trial: bool
    n: int
    n_missed: int


Said = Loaded | Ready | Failed | Asked | Prepared | Followed | Seen


class Listen(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Take requests as soon as all is loaded; who is not told so stands by."""


class Prepare(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Load what this needs; go on as before."""

    placement: Placement


class Follow(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Serve this from now; let go what it does not need."""

    placement: Placement


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A model as an operator sees it.

    Args:
        state: "serving", or where there is more than one version "on trial" or "taken over, not proven yet".
        n_answered, n_missed: of the version that is judged.
        detail: what the last look said.
        history: what happened to it, the newest last.
    """

    name: str
    state: str
    serving: Version
    trial: Version | None
    canary_percent: float
    shadow_percent: float
    former: Version | None
    n_answered: int
    n_missed: int
    detail: str
    history: tuple[str, ...]


class Answered(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """How a change that was asked for ended: what is now, or why not."""

    number: int
    revision: int = 0
    models: tuple[State, ...] = ()
    status: int = 200
    slug: str = ""
    reason: str = ""


Told = Listen | Prepare | Follow | Answered


def write_line(pipe: int, message: Said | Told) -> bool:
    """Write a message; say whether the other end takes it: a full pipe that does not block takes nothing."""
    line = msgspec.json.encode(message) + b"\n"
    is_begun = False
    while line:
        try:
            line = line[os.write(pipe, line) :]
            is_begun = True
        except BrokenPipeError:
            return False
        except BlockingIOError:
            if not is_begun:
                return False
            select.select([], [pipe], [], _WAIT_S)  # half a line would spoil the next
    return True


class Lines:
    """Cuts what comes through a pipe into messages."""

    def __init__(self, kind: Any) -> None:
        self._decoder = msgspec.json.Decoder(kind)
        self._rest = b""

    def feed(self, data: bytes) -> list[object]:
        """Give the messages that are whole now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [self._decoder.decode(line) for line in lines]
