"""The description of the interface, /openapi.json, made from the request types that the routes really use.

Border: names and shapes, no values.
"""

from collections.abc import Collection, Mapping
from importlib.metadata import version
from typing import Any

import msgspec

from millis.serving.admin import MODELS, SLOWEST, LoadRequest
from millis.serving.chat_requests import ChatWish, TextWish
from millis.serving.deadlines import MOST_MS
from millis.serving.embeddings import EMBEDDING, EMBEDDINGS, EmbeddingsRequest
from millis.serving.oip import VERSION as OIP_VERSION
from millis.serving.oip import InferRequest
from millis.serving.openai import PATHS
from millis.serving.openapi_answers import FOUND, VECTORS, Shape, shape_results
from millis.serving.openapi_refusals import describe_refusals
from millis.serving.openapi_speaking import REQUESTS, describe_requests, write_completion, write_rewritten
from millis.serving.problems import Problem
from millis.serving.requests import SearchRequest, request_type
from millis.serving.rewriting import RewriteRequest
from millis.serving.tensors import INPUT
from millis.tasks import tasks
from millis.tasks.instructing import CHAT


def _respond(description: str, shape: Shape, *, media_type: str = "application/json") -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": shape}}}


def _require(name: str) -> dict[str, Any]:
    """Describe the body of a request by the name of its type."""
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


_DEADLINES = [
    {
        "name": "X-Deadline-Ms", "in": "header", "required": False,
        "description": (
            "ms from its coming within which an answer is of use; the contract's bound when missing. grpc-timeout, as"
            " gRPC writes it (5m is 5 ms), does the same: one of the two"
        ),
        "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": MOST_MS},
    },
]  # fmt: skip

_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1}
_INPUT = {"description": "a text or several", "anyOf": [_TEXT, _TEXTS]}

_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "basic": {"type": "http", "scheme": "basic", "description": "the key as password, any name"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}

_READS = {
    "/v1/models": "The models that are served.",
    "/contract": "What each model promises, and the proof of it.",
    "/health": "Ready: each model answered within its bound just now.",
    "/health/live": "Alive: the process answers; nothing is run.",
    "/openapi.json": "This description.",
    "/v2": "Open Inference Protocol: the server.",
    "/v2/health/live": "Open Inference Protocol: alive.",
    "/v2/health/ready": "Open Inference Protocol: each model answered within its bound just now.",
}

_ANY: Shape = {"type": "object"}


def describe(
    by_task: Mapping[str, Mapping[str, Any]], *, has_search: bool = False, speaking: Collection[str] = ()
) -> dict[str, Any]:
    """Describe the routes of a server with these models by task.

    Args:
        has_search: an index is served.
        speaking: tasks of the models that speak.
    """
    requests = {task: request_type(task, tasks[task]) for task in by_task}
    further: list[Any] = ([EmbeddingsRequest] if EMBEDDING in by_task else []) + ([SearchRequest] if has_search else [])
    further += REQUESTS if speaking else ()
    kinds = [*requests.values(), InferRequest, LoadRequest, Problem, *further]
    _, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    for task, request in requests.items():
        _describe_input(components, request.__name__, asks=tasks[task].asks)
    if EMBEDDING in by_task:
        components["EmbeddingsRequest"]["properties"]["input"] = _INPUT
    components["InputTensor"]["properties"] |= {"name": {"enum": [INPUT]}, "datatype": {"enum": ["BYTES"]}}
    paths = _describe_reads() | _describe_admin()
    for task, models in by_task.items():
        paths[f"/v1/{task}"] = {"post": _describe_post(
            f"Answer one text or a list of them ({task}).", shape_results(task, sorted(models)),
            request=requests[task].__name__, said="One result per text, in order.",
        )}  # fmt: skip
        for model in models:
            paths |= _describe_oip(model)
    if EMBEDDING in by_task:
        paths[EMBEDDINGS] = {"post": _describe_post(
            "Vectors of one text or a list of them, in OpenAI's shape.", VECTORS,
            request="EmbeddingsRequest", said="One vector per text, in order.",
        )}  # fmt: skip
    if has_search:
        paths["/v1/search"] = {"post": _describe_post(
            "The passages of an index that a query means.", FOUND, request="SearchRequest",
            said="Passages, the best first.",
        )}  # fmt: skip
    paths |= _describe_speaking(speaking, components)
    for path, operations in paths.items():
        for method, operation in operations.items():
            operation["responses"] |= describe_refusals(path, method)
    return {
        "openapi": "3.1.0",
        "info": {"title": "millis", "version": version("millis")},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _KEYS},
        "security": [{}, *({name: []} for name in _KEYS)],
    }


def _describe_reads() -> dict[str, Any]:
    """Describe what is only looked at."""
    paths = {route: _describe_get(summary, _respond("OK", _ANY)) for route, summary in _READS.items()}
    counts = _respond("OK", {"type": "string"}, media_type="text/plain")
    return paths | {"/metrics": _describe_get("Counts and latencies in Prometheus' format.", counts)}


def _describe_get(summary: str, answer: dict[str, Any]) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": {"200": answer}}}


def _describe_speaking(speaking: Collection[str], components: dict[str, Any]) -> dict[str, Any]:
    if not speaking:
        return {}
    describe_requests(components)
    paths: dict[str, Any] = {
        path: _describe_post(
            "An answer in OpenAI's shape, whole or by server-sent events.", write_completion(is_chat=kind == "chat"),
            request=(ChatWish if kind == "chat" else TextWish).__name__, said="An answer.",
        )
        for path, kind in PATHS.items()
    }  # fmt: skip
    for task in sorted(set(speaking) - {CHAT}):
        paths[f"/v1/{task}"] = _describe_post(
            f"What becomes of a text or a list of them ({task}), whole or by server-sent events.", write_rewritten(),
            request=RewriteRequest.__name__, said="One text per text, in order.",
        )  # fmt: skip
    for path in paths.values():
        path["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return {path: {"post": described} for path, described in paths.items()}


def _describe_input(components: dict[str, Any], name: str, *, asks: Any) -> None:
    """Say in a request's schema what it asks about: texts that are not empty, or what is made of several."""
    schema = components[name]
    if asks is str:
        schema["properties"]["input"] = _INPUT
        return
    one = {"$ref": f"#/components/schemas/{asks.__name__}"}
    schema["properties"]["input"] = {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}
    parts = {part.name: _TEXT if part.type is str else _TEXTS for part in msgspec.structs.fields(asks)}
    for properties in (schema["properties"], components[asks.__name__]["properties"]):
        properties |= parts
    schema["oneOf"] = [
        {"required": ["input"], "not": {"anyOf": [{"required": [part]} for part in parts]}},
        {"required": list(parts), "not": {"required": ["input"]}},
    ]


def _describe_oip(model: str) -> dict[str, Any]:
    """Describe a model's routes in the Open Inference Protocol."""
    paths: dict[str, Any] = {}
    for path in (f"/v2/models/{model}", f"/v2/models/{model}/versions/{OIP_VERSION}"):
        for route, summary in ((path, "the model"), (f"{path}/ready", "the model answered within its bound just now")):
            paths[route] = _describe_get(f"Open Inference Protocol: {summary}.", _respond("OK", _ANY))
        paths[f"{path}/infer"] = {
            "post": {
                "summary": "Open Inference Protocol: a tensor of texts to a tensor of results, each a JSON document.",
                "parameters": _DEADLINES,
                "requestBody": _require("InferRequest"),
                "responses": {
                    "200": {
                        "description": "One result per text, in order; bytes where bytes were asked for.",
                        "content": {
                            "application/json": {"schema": _ANY},
                            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                        },
                    },
                },
            }
        }
    return paths


def _describe_admin() -> dict[str, Any]:
    """Describe what a key of the scope admin may do."""
    done = _respond("All models, as every worker serves them now.", {**_ANY, "required": ["revision", "data"]})
    one = {
        "name": "model", "in": "path", "required": True,
        "schema": {"type": "string", "pattern": "^[^/\\\\\\x00-\\x1f\\x7f]{1,200}$"},
    }  # fmt: skip

    def describe_change(summary: str) -> dict[str, Any]:
        return {"summary": summary, "parameters": [one], "responses": {"200": done}}

    return {
        MODELS: {
            **_describe_get("The models, their versions, and what became of them.", done),
            "post": {
                "summary": "Load a model, or a new version of one; answered when every worker has it.",
                "requestBody": _require("LoadRequest"),
                "responses": {"201": done},
            },
        },
        f"{MODELS}/{{model}}": {"delete": describe_change("Unload a model with all its versions.")},
        f"{MODELS}/{{model}}/promote": {"post": describe_change("Let the version on trial take over.")},
        f"{MODELS}/{{model}}/rollback": {"post": describe_change("Go back to the version before.")},
        SLOWEST: _describe_get(
            "The slowest answers of the last ten minutes, and what held them up.", _respond("OK", _ANY)
        ),
    }


def _describe_post(summary: str, answer: dict[str, Any], *, request: str, said: str) -> dict[str, Any]:
    return {
        "summary": summary,
        "parameters": _DEADLINES,
        "requestBody": _require(request),
        "responses": {
            "200": {
                "description": said,
                "headers": {
                    "Server-Timing": {"schema": {"type": "string"}, "description": "ms by stage"},
                    "X-Millis-Rung": {"schema": {"type": "string"}},
                    "X-Request-Id": {"schema": {"type": "string"}},
                },
                "content": {"application/json": {"schema": answer}},
            },
        },
    }
