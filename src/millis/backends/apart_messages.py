"""What a generator in a process of its own (apart.py) is asked, what it tells, and how both go through a pipe.

Border: msgpack behind a length of four bytes; who writes and who reads is apart.py's and apart_engine.py's.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from millis import errors
from millis.backends.generator import GeneratorSettings, Sampling, Step
from millis.errors import InvalidRequest, MillisError

_LENGTH_BYTES = 4


class Load(msgspec.Struct, tag="load"):
    """Load, as Generator.load does; the first message."""

    name: str
    folder: str
    settings: GeneratorSettings


class Start(msgspec.Struct, tag="start"):
    """Start an answer, as Generator.start does."""

    number: int
    ids: tuple[int, ...]
    sampling: Sampling


class Cancel(msgspec.Struct, tag="cancel"):
    """Stop an answer; nothing more comes of it."""

    number: int


class Accept(msgspec.Struct, tag="accept"):
    """Try a grammar, as Generator.accept does."""

    number: int
    grammar: str


class Stepped(msgspec.Struct, tag="stepped"):
    """A step of the answer of this number."""

    number: int
    step: Step


class Answered(msgspec.Struct, tag="answered"):
    """What came of Load (number 0) or Accept; kind is the class of the error, "" for none."""

    number: int
    kind: str = ""
    message: str = ""
    slug: str = ""
    status: int = 400
    extra: dict[str, Any] = {}

    def check(self) -> None:
        """Raise the error that came."""
        if self.kind == InvalidRequest.__name__:
            error = InvalidRequest(self.message, status=self.status, slug=self.slug)
            error.extra = self.extra
            raise error
        if self.kind:
            raise getattr(errors, self.kind)(self.message)


Asked = Load | Start | Cancel | Accept
Told = Stepped | Answered


def describe(number: int, error: MillisError) -> Answered:
    """Write an error down so that `check` raises it again."""
    extra = error.extra if isinstance(error, InvalidRequest) else {}
    return Answered(
        number, kind=type(error).__name__, message=str(error), slug=error.slug, status=error.status, extra=extra
    )


def read_all(pipe: BinaryIO | Any, decoder: Any) -> Iterator[Any]:
    """Give messages until the other end closes."""
    while len(length := pipe.read(_LENGTH_BYTES)) == _LENGTH_BYTES:
        n_bytes = int.from_bytes(length, "little")
        if len(message := pipe.read(n_bytes)) < n_bytes:
            return
        yield decoder.decode(message)


def write_one(pipe: Any, message: Asked | Told) -> None:
    """Send a message."""
    body = msgspec.msgpack.encode(message)
    pipe.write(len(body).to_bytes(_LENGTH_BYTES, "little") + body)
    pipe.flush()
