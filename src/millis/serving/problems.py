"""Errors over HTTP as problem details (RFC 9457): a slug, a sentence, a status; never the user's text.

Under /v2 the Open Inference Protocol has a shape of its own: {"error": SENTENCE}; so have OpenAI's routes:
{"error": {"message", "type", "param", "code"}}.

Border: errors in, response bytes out.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from millis.errors import InvalidRequest, InvalidValue, MillisError

MEDIA_TYPE = "application/problem+json"

Handler = Callable[[Request, Any], Awaitable[Response]]

_OIP = "/v2"
_OPENAI = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_OPENAI_CODES = {
    "unknown-model": "model_not_found", "no-key": "invalid_api_key", "too-often": "rate_limit_exceeded",
    "quota-used": "insufficient_quota",
}  # fmt: skip
"""Where OpenAI has a code of its own for a slug of ours."""

_SLUGS = {404: "unknown-route", 405: "method-not-allowed"}


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What went wrong with a request.

    Args:
        type: the problem's name, a slug behind a relative address.
        title: the status in words.
        detail: what is wrong, what came, what is allowed, what to do.
        predicted_ms: of a refusal, when the answer was predicted.
        retry_after_ms: of a refusal, when the same request is predicted to fit; None where waiting does not help.
        rung: of a refusal, the faster one that would have fitted.
        param: the member of the body that cannot be, where it is known.
    """

    type: str
    title: str
    status: int
    detail: str
    predicted_ms: float | None = None
    retry_after_ms: float | None = None
    rung: str | None = None
    param: str | None = None


def write_problem(error: Exception) -> tuple[int, bytes]:
    """Give status and body for an error; for a bug of ours without a word of what is inside."""
    if not isinstance(error, MillisError):
        error = InvalidRequest("the server failed on this request; the fault is ours.", status=500, slug="internal")
    status = 422 if isinstance(error, InvalidValue) else error.status
    more = error.extra if isinstance(error, InvalidRequest) else {}
    return status, _encode(status, error.slug, str(error), **more)


def write_error(error: Exception, *, path: str) -> tuple[int, bytes, str]:
    """Give status, body and media type for an error in the shape that a route's clients read."""
    status, payload = write_problem(error)
    return status, *_shape(payload, path=path)


def list_headers(error: Exception) -> tuple[tuple[bytes, bytes], ...]:
    """Give the headers that an error wants on its answer."""
    return error.headers if isinstance(error, InvalidRequest) else ()


async def on_http_exception(request: Request, error: HTTPException) -> Response:
    """Answer an unknown route or a wrong method."""
    details = {
        404: f"there is no route {request.url.path[:100]!r} here: GET /openapi.json lists those there are.",
        405: f"{request.method[:20]} is not allowed here: see the Allow header.",
    }
    slug = _SLUGS.get(error.status_code, "http-error")
    detail = details.get(error.status_code, error.detail)
    payload, media_type = _shape(_encode(error.status_code, slug, detail), path=request.url.path)
    return Response(payload, status_code=error.status_code, media_type=media_type, headers=error.headers)


async def on_error(request: Request, error: Exception) -> Response:
    """Answer an error that one of our own rooms raised, or a bug of ours."""
    status, body, media_type = write_error(error, path=request.url.path)
    headers = {name.decode(): value.decode() for name, value in list_headers(error)}
    return Response(body, status_code=status, media_type=media_type, headers=headers)


def handlers() -> dict[Any, Any]:
    """Give the handlers that Starlette is to use."""
    return {HTTPException: on_http_exception, MillisError: on_error, Exception: on_error}


def _shape(problem: bytes, *, path: str) -> tuple[bytes, str]:
    """Give a problem as it is, or as the Open Inference Protocol or OpenAI has it; and its media type."""
    if path in _OPENAI:
        said = msgspec.json.decode(problem, type=Problem)
        usual = "invalid_request_error" if said.status < 500 else "server_error"
        slug = said.type.rpartition("/")[2]
        error = {
            "message": said.detail, "type": _OPENAI_TYPES.get(said.status, usual), "param": said.param,
            "code": _OPENAI_CODES.get(slug, slug.replace("-", "_")),
        }  # fmt: skip
        return msgspec.json.encode({"error": error}), "application/json"
    if path != _OIP and not path.startswith(f"{_OIP}/"):
        return problem, MEDIA_TYPE
    return msgspec.json.encode({"error": msgspec.json.decode(problem, type=Problem).detail}), "application/json"


def _encode(status: int, slug: str, detail: str, **more: Any) -> bytes:
    return msgspec.json.encode(
        Problem(type=f"/problems/{slug}", title=HTTPStatus(status).phrase, status=status, detail=detail, **more)
    )
