"""When to send, to wait, to ask again and to give up; the same for both clients.

A generator says what to do next, and is told how it went; whoever drives it has the sockets.
Asked again is what a server refused with Retry-After (429, 503), as long as that ends before the deadline; what found
nobody listening; and what a kept connection lost before a byte of the answer came, once, since the server may have
closed it in that moment. What broke on a new connection is not: the server may have worked on it, and died of it.
Border: decisions and a clock; no sockets.
"""

from collections.abc import Callable, Generator, Sequence
from enum import Enum
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from millis.asking.reply import Reply
from millis.asking.wire import (
    Answer,
    Asked,
    Question,
    read_address,
    read_answer,
    read_error,
    read_found,
    read_key,
    read_list,
    read_object,
    read_wait_s,
    write_document,
    write_name,
    write_path,
    write_question,
)
from millis.errors import MillisError, RunFailed, TimedOut
from millis.units import check_number

MOST_MS = 3_600_000.0
_FIRST_WAIT_S = 0.05
_CHANGE_MS = 330_000.0
"""A change of models waits until every worker has loaded."""

_ADMIN = "/v1/admin/models"


class Lost(Enum):
    """How a request can go without an answer."""

    UNREACHABLE = "nobody listens there"
    UNTRUSTED = "TLS failed: its certificate is not trusted, or it speaks plain http"
    STALE = "the kept connection was closed"
    BROKEN = "the connection broke"
    LATE = "no answer came in time"
    GARBLED = "the answer is not HTTP/1.1"


class Send(NamedTuple):
    """Send this, and come back with the reply or with how it was lost.

    Args:
        within_s: how long that may take, connecting included.
        is_fresh: on a new connection.
    """

    payload: bytes
    within_s: float
    is_fresh: bool


class Wait(NamedTuple):
    """Do nothing for a while."""

    s: float


T = TypeVar("T")
Conversation = Generator[Send | Wait, Reply | Lost | None, T]


class Questions:
    """What can be asked of a server: each gives a conversation that ends with the answer.

    Args:
        url, key, timeout_ms, retries: as `Client` has them.
    Raises:
        InvalidValue: an address, a key or numbers that cannot be.
    """

    def __init__(self, url: str, *, key: str | None, timeout_ms: float, retries: int) -> None:
        check_number("timeout_ms", timeout_ms, lowest=0, highest=MOST_MS, is_open=True)
        check_number("retries", retries, lowest=0, highest=100, is_whole=True)
        self.url, self.address = url, read_address(url)
        self.key, self.timeout_ms, self._retries = read_key(key), timeout_ms, retries

    def ask(
        self, task: str, text: Asked | Sequence[Asked], *, model: str | None = None, rung: str | None = None,
        fallback: bool = True, deadline_ms: float | None = None, **options: Any,
    ) -> Conversation[Answer]:  # fmt: skip
        """See `Client.ask`."""
        check_deadline(deadline_ms)
        document = write_document(text, model=model, rung=rung, fallback=fallback, options=options)
        question = write_question(self.address, write_path(task), key=self.key, document=document)
        return self._converse(question, read=read_answer, deadline_ms=deadline_ms)

    def search(
        self, query: str, *, index: str | None = None, deadline_ms: float | None = None, **options: Any
    ) -> Conversation[Answer]:
        """See `Client.search`."""
        check_deadline(deadline_ms)
        document = {"query": query, **options} | ({} if index is None else {"index": index})
        question = write_question(self.address, write_path("search"), key=self.key, document=document)
        return self._converse(question, read=read_found, deadline_ms=deadline_ms)

    def models(self) -> Conversation[list[dict[str, Any]]]:
        """See `Client.models`."""
        return self._get("/v1/models", read=read_list)

    def contract(self) -> Conversation[list[dict[str, Any]]]:
        """See `Client.contract`."""
        return self._get("/contract", read=read_list)

    def health(self) -> Conversation[dict[str, Any]]:
        """See `Client.health`."""
        return self._get("/health", read=read_object)

    def versions(self) -> Conversation[list[dict[str, Any]]]:
        """See `Client.versions`."""
        return self._get(_ADMIN, read=read_list)

    def load_model(self, path: str, **chosen: Any) -> Conversation[list[dict[str, Any]]]:
        """See `Client.load_model`."""
        for share in ("canary_percent", "shadow_percent"):
            value = chosen.get(share)
            if value is not None:
                check_number(share, value, lowest=0, highest=100)
        document = {"path": path, **{name: value for name, value in chosen.items() if value is not None}}
        return self._change(write_question(self.address, _ADMIN, key=self.key, document=document))

    def change_model(self, name: str, what: str) -> Conversation[list[dict[str, Any]]]:
        """See `Client.unload_model`, `Client.promote_model`, `Client.roll_back_model`."""
        path = f"{_ADMIN}/{write_name(name)}"
        if what == "unload":
            return self._change(write_question(self.address, path, key=self.key, method="DELETE"))
        return self._change(write_question(self.address, f"{path}/{what}", key=self.key, method="POST"))

    def _change(self, question: Question) -> Conversation[list[dict[str, Any]]]:
        """Wait as long as loading may take, and ask once, on a new connection: a change is not asked for again."""
        reply = yield from converse(
            question, url=self.url, allowed_ms=_CHANGE_MS, retries=0, tells=False, is_fresh=True
        )
        return self._read(reply, read_list)

    def _get(self, path: str, *, read: Callable[[Reply], T]) -> Conversation[T]:
        return self._converse(write_question(self.address, path, key=self.key), read=read, deadline_ms=None)

    def _converse(
        self, question: Question, *, read: Callable[[Reply], T], deadline_ms: float | None
    ) -> Conversation[T]:
        allowed_ms = self.timeout_ms if deadline_ms is None else deadline_ms
        reply = yield from converse(
            question, url=self.url, allowed_ms=allowed_ms, retries=self._retries, tells=deadline_ms is not None
        )
        return self._read(reply, read)

    def _read(self, reply: Reply, read: Callable[[Reply], T]) -> T:
        try:
            return read(reply)
        except (ValueError, RecursionError) as error:
            raise RunFailed(
                f"{self.url} does not answer like a millis server (its answer has another shape): is one running there?"
            ) from error


def check_deadline(deadline_ms: float | None) -> None:
    """Refuse what cannot be a deadline.

    Raises:
        InvalidValue: it is not above 0 and up to an hour.
    """
    if deadline_ms is not None:
        check_number("deadline_ms", deadline_ms, lowest=0, highest=MOST_MS, is_open=True)


def converse(
    question: Question, *, url: str, allowed_ms: float, retries: int, tells: bool, is_fresh: bool = False,
    now_s: Callable[[], float] = monotonic,
) -> Conversation[Reply]:  # fmt: skip
    """Bring a question to its answer.

    Args:
        allowed_ms: for everything.
        tells: tell the server what is left of it, as a deadline.
        is_fresh: on a new connection; one that is kept may be lost without a word, and is then replaced.
    Returns:
        a reply of status 200 or 201.
    Raises:
        InvalidRequest: the server refused, with its status and slug.
        RunFailed: nobody answers there, or not as a millis server does.
        TimedOut: no answer in time.
    """
    ends_s = now_s() + allowed_ms / 1000
    n_again = 0
    while True:
        left_s = ends_s - now_s()
        if left_s <= 0:
            raise _late(url, allowed_ms)
        payload = question.write(deadline_ms=1000 * left_s if tells else None)
        came = yield Send(payload, left_s, is_fresh)
        if came is Lost.STALE and not is_fresh:
            is_fresh = True
            continue
        if isinstance(came, Reply) and came.status in (200, 201):
            return came
        error, wait_s = _judge(came, url=url, n_again=n_again, allowed_ms=allowed_ms)
        if wait_s is None or n_again >= retries or wait_s >= ends_s - now_s():
            raise error
        n_again += 1
        yield Wait(wait_s)


def _judge(came: Reply | Lost | None, *, url: str, n_again: int, allowed_ms: float) -> tuple[MillisError, float | None]:
    """Make an error of what came, and say after how many seconds to ask again, if at all."""
    if isinstance(came, Reply):
        refused = read_error(came.body, status=came.status, url=url)
        return refused, read_wait_s(came, refused) if came.status in (429, 503) else None
    if came is Lost.LATE:
        return _late(url, allowed_ms), None
    reason = came.value if came is not None else Lost.BROKEN.value
    error = RunFailed(f"{url} does not answer like a millis server ({reason}): is one running there?")
    return error, _FIRST_WAIT_S * 2**n_again if came is Lost.UNREACHABLE else None


def _late(url: str, allowed_ms: float) -> TimedOut:
    return TimedOut(f"{url} gave no answer within {allowed_ms:g} ms: allow more, or ask when it has less to do.")
