"""HTTP/1.1 as a client of ours speaks it: requests as bytes, answers as values, problems as errors.

Border: bytes and values; no sockets and no clock.
Limits: redirects are not followed: they would take the key elsewhere.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec

from millis.asking.reply import Reply
from millis.errors import InvalidRequest, InvalidValue, MillisError, RunFailed

Asked = str | Mapping[str, Any]
"""What a model is asked about: a text, or the parts of what is more than one, as {"question": ..., "context": ...}."""

_PRINTABLE = re.compile(r"[\x21-\x7e]*")
_SENTENCE = 400
_DESCRIPTION = re.compile(r'desc\s*=\s*"[^"]*"')
_STAGE = re.compile(r"^\s*([^\s;]+)\s*;.*?\bdur\s*=\s*\"?([0-9]+(?:\.[0-9]+)?)")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a server answered to a question.

    Args:
        quality: points of the rung on the test set, by metric; None where nobody measured.
        results: one for each text, in order.
        times_ms: of the server, by stage.
        cache: "hit" or "miss" where the server keeps answers.
    """

    model: str
    rung: str
    results: list[dict[str, Any]]
    quality: dict[str, float] | None = None
    times_ms: dict[str, float] = {}
    cache: str | None = None

    @property
    def result(self) -> dict[str, Any]:
        """Give the result of the first text."""
        return self.results[0]


class _Problem(msgspec.Struct):
    """What is read of a problem; other keys are passed over."""

    detail: str
    type: str = "/problems/http-error"
    predicted_ms: float | None = None
    retry_after_ms: float | None = None
    rung: str | None = None


class Address(NamedTuple):
    """Where a server is.

    Args:
        prefix: of all its paths, without a slash at the end.
    """

    host: str
    port: int
    is_encrypted: bool
    prefix: str

    @property
    def authority(self) -> str:
        """Give the value of the Host header."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


class Question(NamedTuple):
    """A request that may be sent more than once: it changes nothing on the server."""

    head: str
    body: bytes

    def write(self, *, deadline_ms: float | None) -> bytes:
        """Give its bytes, with what is left of a deadline where there is one."""
        deadline = "" if deadline_ms is None else f"x-deadline-ms: {max(deadline_ms, 0.001):.3f}\r\n"
        return f"{self.head}{deadline}\r\n".encode("latin-1") + self.body


def read_address(url: str) -> Address:
    """Read http://HOST[:PORT][/PREFIX], or https.

    Raises:
        InvalidValue: it is no such address.
    """
    if not isinstance(url, str):
        raise _bad_address(repr(url))
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _bad_address(url) from error
    is_encrypted = parts.scheme == "https"
    is_plain = bool(_PRINTABLE.fullmatch(url)) and not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in ("http", "https") or not parts.hostname or not is_plain or port == 0:
        raise _bad_address(url)
    return Address(parts.hostname, port or (443 if is_encrypted else 80), is_encrypted, parts.path.rstrip("/"))


def read_key(key: str | None) -> str | None:
    """Take a key as it was given, or from MILLIS_KEY.

    Raises:
        InvalidValue: it holds what no header may hold.
    """
    key = os.environ.get("MILLIS_KEY") or None if key is None else key
    if key is not None and not (isinstance(key, str) and _PRINTABLE.fullmatch(key)):
        raise InvalidValue("the key has characters that no key has: give the one that `millis keys create` printed.")
    return key


def write_document(
    text: Asked | Sequence[Asked], *, model: str | None, rung: str | None, fallback: bool, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Give the body of a question; what is usual is left out."""
    said = {"input": write_list(text)}
    chosen = {"model": model, "rung": rung, "fallback": None if fallback is True else fallback}
    return {**options, **said, **{name: value for name, value in chosen.items() if value is not None}}


def write_list(texts: object) -> object:
    """Give several as a list, and one, or what is none, as it stands: the server says what is wrong with it."""
    return texts if isinstance(texts, str | Mapping) or not isinstance(texts, Iterable) else list(texts)


def write_path(task: str) -> str:
    """Give the path of a task's route.

    Raises:
        InvalidValue: as `write_name`.
    """
    return f"/v1/{write_name(task)}"


def write_name(name: str) -> str:
    """Give the name of a task or a model as a path holds it.

    Raises:
        InvalidValue: it is no text, or holds half of a surrogate pair.
    """
    try:
        return quote(name.encode(), safe="")
    except (AttributeError, UnicodeEncodeError) as error:
        raise InvalidValue(f"{name!r} is no name of a task or a model: give it as text.") from error


def write_question(
    address: Address, path: str, *, key: str | None, document: Mapping[str, Any] | None = None,
    method: str | None = None,
) -> Question:  # fmt: skip
    """Write a request: GET, or POST where there is a document, or another method.

    Raises:
        InvalidValue: the document cannot be JSON.
    """
    body = b"" if document is None else write_json(document)
    lines = [
        f"{method or ('GET' if document is None else 'POST')} {address.prefix}{path} HTTP/1.1",
        f"host: {address.authority}",
        "accept: application/json",
        *([] if key is None else [f"x-api-key: {key}"]),
        *([] if document is None else ["content-type: application/json"]),
        *([] if document is None and method is None else [f"content-length: {len(body)}"]),
        "",
    ]
    return Question("\r\n".join(lines), body)


def write_json(document: Mapping[str, Any]) -> bytes:
    """Write a document as JSON.

    Raises:
        InvalidValue: it cannot be.
    """
    try:  # msgspec would send bytes as base64, and what is not a number as null
        return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:  # a lone surrogate, an object of no JSON type
        raise InvalidValue(
            "a text or an option cannot be written as JSON: give strings that are valid Unicode, numbers, lists."
        ) from error


def read_answer(reply: Reply) -> Answer:
    """Read an answer to a question.

    Raises:
        ValueError: it is not of that shape.
    """
    answer = read_found(reply)
    if not answer.results:
        raise ValueError("no result is in its answer")
    return answer


def read_found(reply: Reply) -> Answer:
    """Read what a search found, which may be nothing.

    Raises:
        ValueError: it is not of that shape.
    """
    answer = msgspec.json.decode(reply.body, type=Answer)
    times_ms = read_times(reply.headers.get("server-timing", ""))
    return msgspec.structs.replace(answer, times_ms=times_ms, cache=reply.headers.get("x-millis-cache"))


def read_object(reply: Reply) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: it is none.
    """
    return msgspec.json.decode(reply.body, type=dict[str, Any])


def read_list(reply: Reply) -> list[dict[str, Any]]:
    """Read the `data` of a list.

    Raises:
        ValueError: there is none.
    """
    return msgspec.convert(read_object(reply).get("data"), type=list[dict[str, Any]])


def read_times(header: str) -> dict[str, float]:
    """Read Server-Timing: ms by stage; what cannot be read is left out."""
    entries = (_STAGE.match(entry) for entry in _DESCRIPTION.sub("", header).split(","))
    return {match[1]: float(match[2]) for match in entries if match is not None}


def read_error(body: bytes, *, status: int, url: str) -> MillisError:
    """Make an error of a problem: InvalidRequest with the server's sentence, slug, status and further members."""
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except (ValueError, RecursionError):  # msgspec's errors and bytes that are not UTF-8 are such
        return RunFailed(
            f"{url} answers {status} and gives no reason, so it is no millis server; correct the address."
        )
    detail = " ".join(problem.detail.split())[:_SENTENCE]
    slug = problem.type.rpartition("/")[2][:40]
    error = InvalidRequest(f"{url} refused with {status}: {detail}", status=status, slug=slug)
    said = {"predicted_ms": problem.predicted_ms, "retry_after_ms": problem.retry_after_ms, "rung": problem.rung}
    error.extra = {name: value for name, value in said.items() if value is not None}
    return error


def read_wait_s(reply: Reply, error: MillisError) -> float | None:
    """Give the seconds that a refusal asks to wait; None where it does not say.

    Retry-After has whole seconds; a problem that rounds up to the same says it finer.
    """
    try:
        whole_s = int(reply.headers["retry-after"])
    except (KeyError, ValueError):
        return None
    fine_ms = error.extra.get("retry_after_ms") if isinstance(error, InvalidRequest) else None
    if fine_ms is not None and fine_ms > 0 and math.ceil(fine_ms / 1000) == whole_s:
        return float(fine_ms) / 1000
    return max(float(whole_s), 0.0)


def _bad_address(url: str) -> InvalidValue:
    shown = url.rpartition("@")[2][:80]  # what stands before it may be a password
    return InvalidValue(f"{shown!r} is no address of a server: give http://HOST:PORT, and the key by itself.")
