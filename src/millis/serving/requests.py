"""Read a task request: bytes in, texts out, every limit checked.

Border: no model and no event loop but for reading the body; the Open Inference Protocol's shape is oip.py's.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from functools import partial
from typing import Annotated, Any, Protocol, TypeVar, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

from millis.data.examples import readings_of, texts_of
from millis.data.rows import is_blank
from millis.errors import InvalidRequest
from millis.serving.settings import Limits
from millis.tasks import Task

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

DRAIN_BYTES = 64_000_000
"""An oversized body is read and dropped up to here, so that the client gets to read the refusal."""

Asked = TypeVar("Asked")

_GZIP = b"\x1f\x8b"
_HALF_PAIR = re.compile(rb"\\u[dD][89abAB]")
_PAIR_BYTES = 12


class TaskRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a client asks of a task.

    Args:
        input: a text, or a list of texts; or what else the task is asked about, which may also be asked by its parts
            in place of input: {"question": ..., "context": ...}.
        model: name of a bundle; None is the first that serves the task.
        rung: the one that is to answer; None lets the server choose by the time that is left.
        fallback: may a faster, less accurate rung than the usual one answer when time is short?
    """

    input: Any
    model: str | None = None
    rung: str | None = None
    fallback: bool = True


class SearchRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a client asks of /v1/search.

    Args:
        query: a text.
        top_k: how many passages, at most.
        filter: by field a value, a list of values, or {"min": ..., "max": ...}.
        index: its name; may be left out when one is served.
        rerank: is a reranker to score what was found? Its name, or true for the first that is served.
        candidates: how many of the found passages it scores, at most; no fewer than top_k. None is 20.
        rung: that makes the query's vector; an index holds the vectors of one rung, and those of another are only near
            them, so that another answers only where the client says that it may.
        rerank_rung: that reranks; None lets the server choose by the time that is left.
        fallback: may a faster, less accurate rung than the usual one answer when time is short? None is yes for the
            reranker, and no for the vector.
    """

    query: str
    top_k: Annotated[int, Meta(ge=1, le=100)] = 10
    filter: dict[str, Any] = {}
    index: str | None = None
    rerank: bool | str = False
    candidates: Annotated[int, Meta(ge=1, le=100)] | None = None
    rung: str | None = None
    rerank_rung: str | None = None
    fallback: bool | None = None


async def read_body(receive: Receive, *, limit: int, within_s: float) -> bytes:
    """Read a request body of at most limit bytes, in memory that does not grow beyond it.

    Raises:
        InvalidRequest: 413 when it is larger; 408 when it takes longer; 400 when the client went away.
    """
    try:
        async with asyncio.timeout(within_s):
            return await _read_whole(receive, limit=limit)
    except TimeoutError as error:
        raise InvalidRequest(
            f"the body did not arrive within {within_s:g} s: send as many bytes as Content-Length says.",
            status=408,
            slug="body-too-slow",
            headers=((b"connection", b"close"),),
        ) from error


async def _read_whole(receive: Receive, *, limit: int) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body") and len(body) <= limit:
        return body
    parts, n_bytes = [body], len(body)
    while message["type"] == "http.request" and message.get("more_body") and n_bytes <= max(limit, DRAIN_BYTES):
        message = await receive()
        part: bytes = message.get("body", b"")
        n_bytes += len(part)
        if n_bytes <= limit:
            parts.append(part)
        else:
            parts.clear()
    if message["type"] == "http.disconnect":
        raise InvalidRequest("the client went away before its body was complete.", slug="disconnected")
    if n_bytes > limit:
        raise InvalidRequest(
            f"the body is larger than the {limit:,} bytes allowed: send fewer or shorter texts.",
            status=413,
            slug="body-too-large",
        )
    return b"".join(parts)


class Reader(Protocol):
    """Reads requests of one task."""

    def __call__(self, body: bytes, *, limits: Limits) -> TaskRequest:
        """Read a request; see `read_request`."""


def request_type(task: str, kind: type[Task], *, more: Sequence[Any] = ()) -> type[TaskRequest]:
    """Make the type of a task's requests: those of all tasks, what this one lets a request choose, and more fields."""
    asks: Any = kind.asks
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [("input", asks | list[asks])]
    if asks is not str:
        parts = [(part.name, part.type | UnsetType, UNSET) for part in msgspec.structs.fields(asks)]
        fields = [("input", asks | list[asks] | UnsetType, UNSET), *parts]
    fields += [*((name, type_, usual) for name, (type_, usual) in kind.options.items()), *more]
    name = f"{task.capitalize()}Request"
    made: Any = msgspec.defstruct(name, fields, bases=(TaskRequest,), forbid_unknown_fields=True, kw_only=True)
    return cast("type[TaskRequest]", made)


def make_reader(task: str, kind: type[Task], *, more: Sequence[Any] = ()) -> Reader:
    """Make the function that reads a task's requests; they may have more fields than they have over HTTP."""
    made = request_type(task, kind, more=more)
    return partial(
        read_request, decoder=msgspec.json.Decoder(made), known=", ".join(made.__struct_fields__), asks=kind.asks
    )


def read_request(
    body: bytes, *, limits: Limits, decoder: msgspec.json.Decoder[TaskRequest], known: str, asks: type
) -> TaskRequest:
    """Read a request and check what it asks for.

    Args:
        known: the keys that it may have.
        asks: what the task is asked about.

    Raises:
        InvalidRequest: 400 for what is not JSON, 415 where it is compressed, 422 for JSON of another shape, 413 for
            too much of it.
    """
    request = read_json(body, decoder=decoder, shape=_show_shape(asks), known=known)
    if asks is not str:
        _join_parts(request, asks=asks)
    check_request(request, limits=limits)
    return request


def read_json(body: bytes, *, decoder: msgspec.json.Decoder[Asked], shape: str, known: str) -> Asked:
    """Read a body of a known type.

    Args:
        shape: what to send, for messages.
        known: the keys that it may have.
    Raises:
        InvalidRequest: 400 for what is not JSON, 415 where it is compressed, 422 for JSON of another shape.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        # The library names an unknown key, which may be a text of the client's.
        reason = "a key that is not known came" if "unknown field" in str(error) else str(error)
        raise InvalidRequest(
            f"{reason}: send {shape}; the keys known are {known}.",
            status=422,
            slug="wrong-shape",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if body.startswith(_GZIP):
            raise InvalidRequest(
                "the body is compressed, which is not taken here: send plain JSON, without Content-Encoding.",
                status=415,
                slug="compressed",
            ) from error
        raise InvalidRequest(
            f"the body is not JSON ({say_why(error, body)}): send {shape}.", slug="not-json"
        ) from error


def say_why(error: Exception, body: bytes) -> str:
    """Say why a body could not be read as JSON."""
    if not isinstance(error, msgspec.DecodeError):
        return "not UTF-8, or nested too deeply"
    said = str(error)
    if said.endswith("truncated") and _HALF_PAIR.search(body[1 - _PAIR_BYTES :]):  # so near the end no pair has room
        return "half of a surrogate pair"
    return said


def _join_parts(request: Any, *, asks: Any) -> None:
    """Make input of its parts, where a request gives these."""
    given = {part: value for part in asks.__struct_fields__ if (value := getattr(request, part)) is not UNSET}
    missing = [part for part in asks.__struct_fields__ if part not in given]
    if request.input is not UNSET and not given:
        return
    if missing or request.input is not UNSET:
        what = f"no {' and no '.join(missing)} came"
        if request.input is not UNSET:
            what = "input came, and beside it what belongs in it"
        raise InvalidRequest(f"{what}: send {_show_shape(asks)}.", status=422, slug="wrong-shape")
    request.input = asks(**given)


def _show_shape(asks: Any) -> str:
    """Write what a request looks like."""
    if asks is str:
        return '{"input": TEXT or [TEXT, ...]}'
    shapes = {part.name: "TEXT" if part.type is str else "[TEXT, ...]" for part in msgspec.structs.fields(asks)}
    one = "{" + ", ".join(f'"{name}": {shape}' for name, shape in shapes.items()) + "}"
    return f'{one}, or several as {{"input": [{one}, ...]}}'


def check_request(request: TaskRequest, *, limits: Limits) -> None:
    """Check how much is asked.

    Raises:
        InvalidRequest: 413 for too many texts or characters, 422 where there is no text.
    """
    asked = request.input if isinstance(request.input, list) else [request.input]
    is_plain = not asked or isinstance(asked[0], str)
    n_read = len(asked) if is_plain else sum(len(readings_of(one)) for one in asked)
    if n_read > limits.texts:
        raise InvalidRequest(
            f"{n_read:,} texts came in one request; at most {limits.texts} are allowed: send several requests.",
            status=413,
            slug="too-many-texts",
        )
    texts = [text for one in asked for text in texts_of(one)]
    n_characters = sum(map(len, texts))
    if n_characters > limits.characters:
        raise InvalidRequest(
            f"{n_characters:,} characters came in one request; {limits.characters:,} are allowed: cut the text.",
            status=413,
            slug="too-many-characters",
        )
    if not n_read or "" in texts or (not is_plain and any(map(is_blank, texts))):
        which = "no text came" if asked in ([], [""]) else _name_empty(asked)
        raise InvalidRequest(f"{which}: send some text.", status=422, slug="empty-text")


def _name_empty(asked: Sequence[Any]) -> str:
    """Say which text, or list of texts, is empty or blank, by the name that the client gave it."""
    if "" in asked:
        return f"text {asked.index('')} of the list is empty"
    for place, one in enumerate(asked):
        where = f" in input[{place}]" if len(asked) > 1 else ""
        for part, value in msgspec.structs.asdict(one).items():
            if not value:
                return f"{part} is empty{where}"
            named = {part: value} if isinstance(value, str) else {f"{part}[{i}]": text for i, text in enumerate(value)}
            for name, text in named.items():
                if is_blank(text):
                    return f"{name} is blank{where}"
    raise AssertionError("no text is empty")
