"""When the pieces of a streamed answer came: server-sent events as OpenAI's API or our tasks have them.

Border: bytes and clocks in, times out; it knows no sockets.
Limits: a piece is an event with text in it, which is a token with every server known to us that does not hold text
back; where the stream tells its usage, that is the number of tokens. An answer of one event has no time per token; one
that ends without a text has its end for a first piece.
"""

import itertools
from typing import Any

import msgspec

MEDIA_TYPE = b"text/event-stream"
_DATA, _DONE = b"data:", b"[DONE]"


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    @property
    def has_text(self) -> bool:
        return bool(self.content or self.reasoning or self.reasoning_content)


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None

    @property
    def has_text(self) -> bool:
        return bool(self.text) or (self.delta is not None and self.delta.has_text)


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Event(_Choice):
    """OpenAI's event has choices; one of /v1/translate is what such a choice is."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class Spoken(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A streamed answer.

    Args:
        first_ns: from when the request was due to its first piece.
        later_ns: from the first piece to the last.
        n_tokens: as the stream's usage says, else the number of events with text.
        gaps_ns: between one event with text and the next.
    """

    first_ns: int
    later_ns: int
    n_tokens: int
    gaps_ns: list[int]


class Listener:
    """Hears one answer.

    Attributes:
        is_broken: an event was an error, or could not be read.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._decode = msgspec.json.Decoder(_Event).decode
        self._times: list[int] = []
        self._ended_ns: int | None = None
        self._n_told = 0
        self._is_whole = False
        self.is_broken = False

    def hear(self, data: bytes, *, now_ns: int) -> None:
        """Take what came now of the answer's body."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            told = line.removeprefix(_DATA).strip()
            self._is_whole |= told == _DONE
            if not line.startswith(_DATA) or told == _DONE:
                continue
            try:
                event = self._decode(told)
            except (msgspec.DecodeError, UnicodeDecodeError):
                self.is_broken = True
                continue
            self.is_broken |= event.error is not None
            choices = event.choices or (event,)
            if any(one.has_text for one in choices):
                self._times.append(now_ns)
            if self._ended_ns is None and any(one.finish_reason for one in choices):
                self._ended_ns, self._is_whole = now_ns, True
            if event.usage is not None:
                self._n_told = event.usage.completion_tokens

    def end(self, *, due_ns: int) -> Spoken | None:
        """Sum up; None when nothing was said, not even why it ended, or when it broke off before its end."""
        times = self._times or ([] if self._ended_ns is None else [self._ended_ns])
        if not times or not self._is_whole:
            return None
        return Spoken(
            first_ns=times[0] - due_ns, later_ns=times[-1] - times[0], n_tokens=max(self._n_told, len(times)),
            gaps_ns=[later - earlier for earlier, later in itertools.pairwise(times)],
        )  # fmt: skip
