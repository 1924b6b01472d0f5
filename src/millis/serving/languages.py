"""How a route's clients write what they ask and read the answer: what every such language does, and our own.

Border: bytes and headers in, a request out; an answer in, bytes and headers out. The other languages are with what they
are spoken for: embeddings, the Open Inference Protocol, reranking, /v1/live.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import msgspec

from millis.serving.requests import TaskRequest, make_reader
from millis.serving.settings import Limits
from millis.tasks import tasks


class Language(Protocol):
    """How a route's clients write what they ask, and read the answer."""

    def read(
        self, body: bytes, *, headers: Iterable[tuple[bytes, bytes]], limits: Limits
    ) -> tuple[TaskRequest, float | None, Any]:
        """Read what is asked, for how many ms it is of use if the body says so, and what `write` has to know."""

    def write(self, answer: Mapping[str, Any], form: Any) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Write an answer: body and headers."""

    @property
    def own_ms(self) -> float:
        """How long of a deadline is to be kept free for what comes behind the model."""


class Plain:
    """How /v1/{task} reads and writes."""

    own_ms = 0.0

    def __init__(self, task: str) -> None:
        self._read = make_reader(task, tasks[task])
        self._encode = msgspec.json.Encoder().encode

    def read(
        self, body: bytes, *, headers: Iterable[tuple[bytes, bytes]], limits: Limits
    ) -> tuple[TaskRequest, float | None, None]:
        """See Language."""
        return self._read(body, limits=limits), None, None

    def write(self, answer: Mapping[str, Any], form: None) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """See Language."""
        return self._encode(answer), [(b"content-type", b"application/json")]
