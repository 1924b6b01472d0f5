"""The part of /openapi.json about answers: what each task gives for a text, and the shapes that are not a task's own.

Border: names and shapes, no values; how the parts stand together is openapi.py's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Shape = dict[str, Any]
"""A JSON Schema."""


def shape_object(properties: Mapping[str, Shape], *, required: Sequence[str] | None = None) -> Shape:
    """Give the shape of an object; all that is named is required where nothing else is said."""
    return {"type": "object", "required": list(properties if required is None else required), "properties": properties}


def shape_list(items: Shape) -> Shape:
    """Give the shape of a list."""
    return {"type": "array", "items": items}


_TEXT: Shape = {"type": "string"}
_COUNT: Shape = {"type": "integer", "minimum": 0}
_SHARE: Shape = {"type": "number", "minimum": 0, "maximum": 1}

_ANSWER = {
    "answer": {"type": ["string", "null"], "description": "null where the text has none"},
    "start": {"type": ["integer", "null"], "description": "first character in the context, in Unicode code points"},
    "end": {"type": ["integer", "null"], "description": "one past the last character"},
    "score": _SHARE,
}
_RANKED = shape_object(
    {
        "index": {**_COUNT, "description": "place of the document in the request"},
        "relevance_score": _SHARE,
        "document": {"type": "object", "properties": {"text": _TEXT}},
    },
    required=("index", "relevance_score"),
)
_RANKED_IN_TIME = shape_object({
    "ranking": shape_list(_RANKED),
    "scored": {"type": "integer", "description": "how many of the first documents there was time for"},
})  # fmt: skip
_CLASS: Shape = {
    "type": "object",
    "properties": {
        "label": {"type": ["string", "null"], "description": "the best; null where no label fits"},
        "labels": {"type": "array", "items": _TEXT, "description": "of a model with several a text"},
        "score": _SHARE,
        "scores": shape_list(shape_object({"label": _TEXT, "score": _SHARE})),
        "out_of_scope": _SHARE,
        "text": {"type": "string", "description": "the template, filled in"},
    },
}
_ENTITY = shape_object({
    "label": _TEXT,
    "text": _TEXT,
    "start": {"type": "integer", "description": "first character, in Unicode code points"},
    "end": {"type": "integer", "description": "one past the last character"},
    "score": _SHARE,
})  # fmt: skip
_VECTOR = shape_list({"type": "number", "minimum": -1, "maximum": 1})
_FINDING: dict[str, Shape] = {
    "id": _TEXT,
    "text": _TEXT,
    "fields": {"type": "object"},
    "score": {"type": "number", "description": "sum of 1 / (60 + rank) over the two rankings"},
    "cosine": {"type": ["number", "null"], "description": "null where words alone found it"},
    "ranks": {
        "type": "object",
        "properties": {name: {"type": "integer", "minimum": 1} for name in ("vectors", "words")},
    },
}
_RELEVANCE: Shape = {
    "type": ["number", "null"],
    "description": "a reranker's, where one was asked; null where there was no time for it",
}
_RERANKED = shape_object({
    "model": _TEXT,
    "rung": {"type": ["string", "null"]},
    "scored": {"type": "integer", "description": "how many of the candidates there was time for"},
})  # fmt: skip

_RESULTS: dict[str, Shape] = {
    "rerank": {"anyOf": [_RANKED, _RANKED_IN_TIME]},
    "qa": shape_object({**_ANSWER, "answers": shape_list(shape_object(_ANSWER))}),
    "classify": _CLASS,
    "ner": shape_object({"entities": shape_list(_ENTITY)}),
    "embedding": shape_object({"embedding": _VECTOR, "tokens": _COUNT}),
}
"""What a text's result looks like, by task."""

VECTORS = shape_object(
    {
        "object": {"enum": ["list"]},
        "data": shape_list(
            shape_object({
                "object": {"enum": ["embedding"]},
                "index": _COUNT,
                "embedding": {"anyOf": [_VECTOR, {"type": "string", "contentEncoding": "base64"}]},
            })
        ),
        "model": _TEXT,
        "usage": {"type": "object", "required": ["prompt_tokens", "total_tokens"]},
    },
    required=("object", "data", "model", "usage"),
)  # fmt: skip
"""OpenAI's answer with embeddings."""

FOUND = shape_object(
    {
        "index": _TEXT,
        "results": shape_list(
            shape_object({**_FINDING, "relevance_score": _RELEVANCE}, required=tuple(_FINDING))
        ),
        "reranked": _RERANKED,
    },
    required=("model", "rung", "quality", "index", "results"),
)  # fmt: skip
"""What a search found."""

OIP_ERROR = shape_object({"error": _TEXT})
OPENAI_ERROR = shape_object({
    "error": shape_object(
        dict.fromkeys(("message", "type", "code"), _TEXT), required=("message", "type", "param", "code")
    )
})  # fmt: skip


def shape_results(task: str, models: Sequence[str]) -> Shape:
    """Give the shape of a task's answer by one of these models."""
    return shape_object({
        "model": {"type": "string", "enum": models},
        "rung": _TEXT,
        "quality": {"type": ["object", "null"], "description": "points of the rung on the test set, by metric"},
        "results": shape_list(_RESULTS.get(task, {"type": "object"})),
    })  # fmt: skip
