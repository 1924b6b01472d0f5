"""Read what OpenAI's clients ask of /v1/chat/completions and /v1/completions: bytes in, checked wishes out.

Border: no model and no event loop. What is not supported is refused by name, never passed over; `user`, `metadata` and
`safety_identifier` are labels of the client's own and change nothing anywhere.
Limits: text only; no tools, no alternatives to the chosen piece.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from millis.errors import InvalidRequest
from millis.serving.requests import say_why
from millis.tasks.schemas import ANY_OBJECT, write_grammar

MOST_ANSWERS, MOST_STOPS, MOST_STOP_CHARACTERS, MOST_MESSAGES = 8, 4, 200, 1000
_MEMBER = re.compile(r"(?:unknown field `|required field `|at `\$\.)(\w+)")
"""How msgspec names the member that it cannot read."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_READ = {"role", "content", "name"}
_CALLS = ("tool_calls", "function_call")
_EMPTY = {"refusal", "annotations", "audio", *_CALLS}
"""What OpenAI's clients send back, with nothing in it, of an answer that was text."""

_LEAST_TOP_P = 1e-6
"""Below it the likeliest piece is certain; engines refuse 0."""

_STREAM_OPTIONS = {"include_usage", "include_obfuscation"}

_MOST_SHOWN = 20
"""Characters of a number that cannot be."""

ROLES = ("system", "developer", "user", "assistant")

AS_LEFT_OUT: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],), "tool_choice": ("none",), "parallel_tool_calls": (False, True), "functions": ([],),
    "function_call": ("none",), "modalities": (["text"],), "audio": (), "top_logprobs": (0,), "logit_bias": ({},),
    "store": (False,), "service_tier": ("auto", "default"), "reasoning_effort": ("none",), "verbosity": ("medium",),
    "prediction": (), "web_search_options": (), "moderation": (), "prompt_cache_options": (),
    "prompt_cache_retention": (), "echo": (False,), "suffix": ("",),
}  # fmt: skip
"""Members of OpenAI's that nothing here can do, and what each may say all the same, since it is so without it."""


class _Wish(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: str | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    response_format: dict[str, Any] | None = None


class ChatWish(_Wish, kw_only=True, forbid_unknown_fields=True):
    """What /v1/chat/completions may be sent."""

    messages: list[Any]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    store: bool | None = None
    service_tier: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    prediction: Any = None
    web_search_options: Any = None
    moderation: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: str | None = None


class TextWish(_Wish, kw_only=True, forbid_unknown_fields=True):
    """What /v1/completions may be sent."""

    prompt: Any
    logprobs: int | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a client asks for, checked.

    Args:
        prompt: messages with role and content, a text, or token ids.
        max_tokens: None for as many as the context has room for.
        seed: None lets the server draw one.
        grammar: of the JSON texts that were asked for; None for any text.
    """

    kind: Literal["chat", "text"]
    model: str | None
    prompt: list[dict[str, str]] | str | list[int]
    is_stream: bool
    has_usage: bool
    n: int
    stops: tuple[str, ...]
    seed: int | None
    temperature: float
    top_p: float
    max_tokens: int | None
    frequency_penalty: float
    presence_penalty: float
    has_logprobs: bool
    grammar: str | None


def read_wish(body: bytes, *, kind: Literal["chat", "text"], characters: int) -> Wish:
    """Read a request.

    Args:
        characters: how many the messages may have together.
    Raises:
        InvalidRequest: 400 names the member that cannot be; 413 for too much text.
    """
    try:
        said: _Wish = msgspec.json.decode(body, type=ChatWish if kind == "chat" else TextWish)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        named = _MEMBER.search(str(error))
        raise _refuse(
            f"the body cannot be read ({say_why(error, body)}): send JSON as OpenAI's API has it.",
            param=named.group(1) if named else None,
        ) from error
    _refuse_unsupported(said)
    if isinstance(said, ChatWish):
        prompt: Any = _read_messages(said.messages)
        asked = _agree(said.max_tokens, said.max_completion_tokens)
        has_logprobs, default = bool(said.logprobs), None
        n_characters = sum(len(one["content"]) for one in prompt)
    else:
        assert isinstance(said, TextWish)
        _refuse_unsupported_text(said)
        prompt = _read_prompt(said.prompt)
        asked, has_logprobs, default = said.max_tokens, said.logprobs is not None, 16  # OpenAI's
        n_characters = len(prompt)
    if n_characters > characters:
        raise _refuse(
            f"{n_characters:,} characters came in one request; {characters:,} are allowed: cut the text.",
            param="messages" if kind == "chat" else "prompt", status=413, slug="too-many-characters",
        )  # fmt: skip
    options = said.stream_options or {}
    if set(options) - _STREAM_OPTIONS or not all(isinstance(one, bool) for one in options.values()):
        raise _refuse(
            "stream_options can have include_usage, true or false, and nothing else: leave the others out.",
            param="stream_options",
        )
    if options.get("include_obfuscation"):
        raise _unsupported("stream_options with include_obfuscation")
    if options and not said.stream:
        raise _refuse("stream_options came without stream: send both, or neither.", param="stream_options")
    return Wish(
        kind=kind, model=said.model, prompt=prompt, is_stream=bool(said.stream),
        has_usage=bool(options.get("include_usage")), n=int(_within("n", said.n, low=1, high=MOST_ANSWERS, usual=1)),
        stops=_read_stops(said.stop), seed=_read_seed(said.seed),
        temperature=_within("temperature", said.temperature, low=0, high=2, usual=1),
        top_p=max(_within("top_p", said.top_p, low=0, high=1, usual=1), _LEAST_TOP_P),
        max_tokens=default if asked is None else int(_within("max_tokens", asked, low=1, high=10**9, usual=1)),
        frequency_penalty=_within("frequency_penalty", said.frequency_penalty, low=-2, high=2, usual=0),
        presence_penalty=_within("presence_penalty", said.presence_penalty, low=-2, high=2, usual=0),
        has_logprobs=has_logprobs, grammar=_read_format(said.response_format),
    )  # fmt: skip


def list_sayable(values: tuple[Any, ...]) -> list[Any]:
    """List those of AS_LEFT_OUT's values that say something: not empty, not zero."""
    return [one for one in values if one or one is False]


def _refuse_unsupported(said: _Wish) -> None:
    for name, taken in AS_LEFT_OUT.items():
        value = getattr(said, name, None)
        if value is not None and value not in taken:
            words = ", ".join(msgspec.json.encode(one).decode() for one in list_sayable(taken))
            raise _unsupported(f"{name} other than {words}" if words else name)


def _refuse_unsupported_text(said: TextWish) -> None:
    if said.best_of is not None and said.best_of != (said.n or 1):
        raise _unsupported("best_of other than n")
    if said.logprobs:
        raise _unsupported("logprobs above 0 (alternatives to the chosen piece)")


def _read_format(asked: dict[str, Any] | None) -> str | None:
    """Give the grammar of a response_format."""
    if asked is None or asked == {"type": "text"}:
        return None
    if asked == {"type": "json_object"}:
        return write_grammar(ANY_OBJECT)
    form = asked.get("json_schema")
    if asked.get("type") != "json_schema" or set(asked) != {"type", "json_schema"} or not isinstance(form, dict):
        raise _refuse(
            'response_format cannot be this: send {"type": "text"}, {"type": "json_object"} or {"type": "json_schema",'
            ' "json_schema": {"name": NAME, "schema": SCHEMA}}.',
            param="response_format",
        )
    name = form.get("name")
    if (
        set(form) - {"name", "schema", "strict", "description"} or "schema" not in form
        or not (isinstance(name, str) and _NAME.fullmatch(name))
        or not isinstance(form.get("strict"), bool | None) or not isinstance(form.get("description"), str | None)
    ):  # fmt: skip
        raise _refuse(
            "response_format.json_schema must have name, of 1 to 64 letters, digits, _ or -, and schema; strict (true"
            " or false) and description may be there too: leave out the rest.",
            param="response_format",
        )
    return write_grammar(form["schema"])


def _read_messages(messages: list[Any]) -> list[dict[str, str]]:
    if not 1 <= len(messages) <= MOST_MESSAGES:
        raise _refuse(f"{len(messages):,} messages came: send 1 to {MOST_MESSAGES:,}.", param="messages")
    return [_read_message(one, at=f"messages[{i}]") for i, one in enumerate(messages)]


def _read_message(message: Any, *, at: str) -> dict[str, str]:
    if isinstance(message, dict) and message.get("role") not in ROLES:
        raise _refuse(f"{at} has a role that is not known: use one of {', '.join(ROLES)}.", param="messages")
    if isinstance(message, dict) and (calls := [key for key in _CALLS if message.get(key)]):
        raise _refuse(
            f"{at} has {calls[0]}, and calls of tools are not supported here: leave that message out.",
            param="messages",
            slug="unsupported",
        )
    if not isinstance(message, dict) or {key for key, one in message.items() if one or key not in _EMPTY} - _READ:
        raise _refuse(
            f"{at} must have role and content, and besides them at most name: leave out the rest.", param="messages"
        )
    role: str = message["role"]
    content = message.get("content")
    if isinstance(content, list):
        if not all(
            isinstance(part, dict) and set(part) == {"type", "text"} and part["type"] == "text"
            and isinstance(part["text"], str) for part in content
        ):  # fmt: skip
            raise _refuse(f"{at} has a part that is not text: send parts of type text only.", param="messages")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str) or not (content or role == "assistant"):
        raise _refuse(f"{at} has no content: send a text of at least one character.", param="messages")
    return {"role": "system" if role == "developer" else role, "content": content}


def _read_prompt(prompt: Any) -> str | list[int]:
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]
    is_ids = isinstance(prompt, list) and all(type(one) is int and 0 <= one < 1 << 31 for one in prompt)
    if not prompt or not (isinstance(prompt, str) or is_ids):
        raise _refuse(
            "prompt must be one text, or one list of token ids, with something in it: ask once for each.",
            param="prompt",
        )
    checked: str | list[int] = prompt
    return checked


def _read_stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MOST_STOPS:
        raise _refuse(f"stop has {len(stops):,} strings: give up to {MOST_STOPS}.", param="stop")
    for one in stops:
        if not 1 <= len(one) <= MOST_STOP_CHARACTERS:
            raise _refuse(
                f"stop has a string of {len(one):,} characters: give 1 to {MOST_STOP_CHARACTERS}.", param="stop"
            )
    return stops


def _read_seed(seed: int | None) -> int | None:
    if seed is not None and not -(1 << 63) <= seed < 1 << 63:
        raise _refuse("seed must fit into 64 bits: give a smaller number.", param="seed")
    return None if seed is None else seed % (1 << 32)


def _agree(one: int | None, other: int | None) -> int | None:
    if one is not None and other is not None and one != other:
        raise _refuse("max_tokens and max_completion_tokens differ: send one of them.", param="max_tokens")
    return other if one is None else one


def _within(name: str, value: float | None, *, low: float, high: float, usual: float) -> float:
    if value is None:
        return usual
    if not low <= value <= high:
        raise _refuse(f"{name} cannot be {_show(value)}: give {_show(low)} to {_show(high)}.", param=name)
    return value


def _show(value: float) -> str:
    text = f"{value:,}" if isinstance(value, int) else f"{value:g}"  # an int may have 4,300 digits
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _unsupported(what: str) -> InvalidRequest:
    message = f"{what} came, which is not supported here: leave it out."
    return _refuse(message, param=what.partition(" ")[0], slug="unsupported")


def _refuse(
    message: str, *, param: str | None = None, status: int = 400, slug: str = "invalid-request"
) -> InvalidRequest:
    return InvalidRequest(message, status=status, slug=slug, param=param)
