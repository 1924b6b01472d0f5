"""The part of /openapi.json about refusals: which a route may give, and in whose shape.

What is refused before a route is known (a head that is too large, one connection too many) is a problem on every
route; behind that the Open Inference Protocol and OpenAI's routes have shapes of their own.
Border: names and shapes, no values; how the parts stand together is openapi.py's.
"""

from collections.abc import Iterator
from typing import Any

from millis.serving.admin import MODELS, SLOWEST
from millis.serving.embeddings import EMBEDDINGS
from millis.serving.openai import PATHS
from millis.serving.openapi_answers import OIP_ERROR, OPENAI_ERROR, Shape
from millis.serving.problems import MEDIA_TYPE

_OPEN = ("/health/live", "/v2/health/live")
_BEFORE_ROUTES = ("400", "408", "431", "503")
_LATER = ("429", "503")

_CONTENTS: dict[str, Shape] = {
    "problem": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    "oip": {"application/json": {"schema": OIP_ERROR}},
    "openai": {"application/json": {"schema": OPENAI_ERROR}},
}
_RETRY = {
    "Retry-After": {
        "schema": {"type": "integer", "minimum": 0}, "description": "s; missing where waiting does not help",
    },
    "X-Millis-Fits": {"schema": {"type": "string"}, "description": "the rung that would have fitted"},
}  # fmt: skip


def describe_refusals(path: str, method: str) -> dict[str, Any]:
    """Give the responses that refuse a request for a route, by status."""
    own = "oip" if path.startswith("/v2") else "openai" if path in (*PATHS, EMBEDDINGS) else "problem"
    return {status: _describe(status, own) for status in sorted({*_BEFORE_ROUTES, *_list_statuses(path, method)})}


def _list_statuses(path: str, method: str) -> Iterator[str]:
    """List what a route itself may refuse with."""
    if path not in _OPEN:
        yield from ("401", "429")
    if path.startswith(MODELS) or path == SLOWEST:
        yield from ("403", "404", "409", "413", "422", "504")
    elif method == "post":
        yield from ("403", "404", "413", "415", "422", "504")
    if path == "/v1/search":
        yield "409"
    if path == "/metrics":
        yield "403"
    if path.startswith("/v2/models/"):
        yield "404"
    if path.endswith(("/health", "/ready")):
        yield "504"


def _describe(status: str, own: str) -> dict[str, Any]:
    content = _CONTENTS[own] | (_CONTENTS["problem"] if status in _BEFORE_ROUTES else {})
    described = {"description": "What is wrong, in a sentence.", "content": content}
    return described | ({"headers": _RETRY} if status in _LATER else {})
