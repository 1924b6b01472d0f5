"""The part of /openapi.json about models that speak: OpenAI's chats and completions, translations and summaries.

Border: names and shapes, no values; how the parts stand together is openapi.py's.
"""

from collections.abc import Mapping
from typing import Any

from millis.serving.chat_requests import (
    AS_LEFT_OUT,
    MOST_ANSWERS,
    MOST_MESSAGES,
    MOST_STOP_CHARACTERS,
    MOST_STOPS,
    ROLES,
    ChatWish,
    TextWish,
    list_sayable,
)
from millis.serving.rewriting import RewriteRequest

REQUESTS = (ChatWish, TextWish, RewriteRequest)

_INTEGER, _TEXT = {"type": "integer", "minimum": 0}, {"type": "string"}
_ENDING = {"enum": ["stop", "length", "deadline"], "description": "deadline: it ended where a sentence did"}
_USAGE = {
    "type": "object",
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
    "properties": dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), _INTEGER),
}
_PART = {
    "type": "object", "required": ["type", "text"], "additionalProperties": False,
    "properties": {"type": {"enum": ["text"]}, "text": _TEXT},
}  # fmt: skip
_SAID = {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": _PART, "minItems": 1}]}
_NULL, _NONE = {"type": "null"}, {"type": ["array", "null"], "maxItems": 0}
_EMPTY = {"refusal": _NULL, "audio": _NULL, "function_call": _NULL, "annotations": _NONE, "tool_calls": _NONE}
_MESSAGE = {
    "type": "object", "required": ["role", "content"], "additionalProperties": False,
    "properties": {"role": {"enum": list(ROLES)}, "content": _SAID, "name": {}, **_EMPTY},
}  # fmt: skip
_STOP = {"type": "string", "minLength": 1, "maxLength": MOST_STOP_CHARACTERS}
_BOUNDS: Mapping[str, Mapping[str, Any]] = {
    "n": {"type": "integer", "minimum": 1, "maximum": MOST_ANSWERS},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
    "max_tokens": {"type": "integer", "minimum": 1, "maximum": 1e9},
    "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "stop": {"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": MOST_STOPS}]},
}
_FORMS = (
    {
        "type": "object", "required": ["type"], "additionalProperties": False,
        "properties": {"type": {"enum": ["text", "json_object"]}},
    },
    {
        "type": "object", "required": ["type", "json_schema"], "additionalProperties": False,
        "properties": {
            "type": {"enum": ["json_schema"]},
            "json_schema": {
                "type": "object", "required": ["name", "schema"], "additionalProperties": False,
                "properties": {
                    "name": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}, "schema": {},
                    "strict": {"type": ["boolean", "null"]}, "description": {"type": ["string", "null"]},
                },
            },
        },
    },
)  # fmt: skip


def describe_requests(components: dict[str, Any]) -> None:
    """Say in the requests' schemas what their types cannot: bounds, messages, texts that are not empty."""
    for kind in (ChatWish, TextWish):
        properties = components[kind.__name__]["properties"]
        for name, values in AS_LEFT_OUT.items():
            said = properties.pop(name, None)
            if said is not None and (sayable := list_sayable(values)):
                properties[name] = {"enum": [*sayable, None], "default": None}
        for name, bounds in _BOUNDS.items():
            properties[name] = {"anyOf": [bounds, {"type": "null"}], "default": None}
    chat = components[ChatWish.__name__]["properties"]
    chat["messages"] = {"type": "array", "items": _MESSAGE, "minItems": 1, "maxItems": MOST_MESSAGES}
    chat["max_completion_tokens"] = chat["max_tokens"]
    text = components[TextWish.__name__]["properties"]
    chat["response_format"] = text["response_format"] = {"anyOf": [*_FORMS, {"type": "null"}], "default": None}
    text["prompt"] = {
        "anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": _INTEGER, "minItems": 1}],
        "description": "a text, or ids of this model's tokenizer",
    }
    one = {"type": "string", "minLength": 1}
    components[RewriteRequest.__name__]["properties"]["input"] = {
        "anyOf": [one, {"type": "array", "items": one, "minItems": 1}], "description": "a text or several",
    }  # fmt: skip


def write_completion(*, is_chat: bool) -> dict[str, Any]:
    """Give the schema of an answer in OpenAI's shape."""
    message = {
        "type": "object", "required": ["role", "content"], "properties": {"role": _TEXT, "content": _TEXT}
    }  # fmt: skip
    said = {"message": message} if is_chat else {"text": _TEXT}
    choice = {
        "type": "object", "required": ["index", *said, "logprobs", "finish_reason"],
        "properties": {"index": _INTEGER, **said, "finish_reason": _ENDING},
    }  # fmt: skip
    return {
        "type": "object", "required": ["id", "object", "created", "model", "choices", "usage"],
        "properties": {
            "object": {"enum": ["chat.completion" if is_chat else "text_completion"]},
            "choices": {"type": "array", "items": choice}, "usage": _USAGE,
        },
    }  # fmt: skip


def write_rewritten() -> dict[str, Any]:
    """Give the schema of texts that were translated or summarised."""
    result = {
        "type": "object", "required": ["text", "finish_reason"],
        "properties": {
            "text": _TEXT, "finish_reason": _ENDING,
            "whole": {"type": "boolean", "description": "it ends with a sentence; after a deadline"},
        },
    }  # fmt: skip
    return {
        "type": "object", "required": ["model", "rung", "results", "usage"],
        "properties": {
            "model": _TEXT, "rung": _TEXT, "results": {"type": "array", "items": result}, "usage": _USAGE,
        },
    }  # fmt: skip
