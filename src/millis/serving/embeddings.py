"""OpenAI's shape of embeddings: POST /v1/embeddings.

Border: a translation, bytes to a TaskRequest and results to bytes; who may ask, when it runs and on which rung is the
same as for every other request.
Limits: texts alone; token ids are those of another tokenizer. `user` is taken and not looked at, since it is for
whoever bills it.
Source: OpenAI's API reference, "Create embeddings"; base64 is of float32, little endian, as their client reads it.
"""

import base64
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from millis.errors import InvalidRequest
from millis.serving.requests import TaskRequest, check_request, read_json, request_type
from millis.serving.settings import Limits
from millis.tasks import tasks

EMBEDDING, EMBEDDINGS = "embedding", "/v1/embeddings"


class EmbeddingsRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a client asks of /v1/embeddings.

    Args:
        input: a text or several.
        model: name of a bundle; None is the first that serves embeddings.
        encoding_format: numbers, or bytes in base64, which are shorter and exact.
        dimensions: size to cut vectors to, one of the model's; its own when missing.
        input_type: what the texts serve as, for models with a prefix for each.
        user: not looked at.
        rung, fallback: as in every request; vectors of two rungs are near each other, not the same, so another rung
            than the usual one answers only where the client says that it may.
    """

    input: Any
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    input_type: Literal["query", "passage"] = "query"
    user: str | None = None
    rung: str | None = None
    fallback: bool = False


class Embeddings:
    """How /v1/embeddings reads and writes."""

    own_ms = 0.0

    def __init__(self) -> None:
        self._kind: Any = request_type(EMBEDDING, tasks[EMBEDDING])
        self._decoder = msgspec.json.Decoder(EmbeddingsRequest)
        self._encode = msgspec.json.Encoder().encode

    def read(
        self, body: bytes, *, headers: Iterable[tuple[bytes, bytes]], limits: Limits
    ) -> tuple[TaskRequest, None, str]:
        """Read a request; the form is the encoding of vectors.

        Raises:
            InvalidRequest: 400 for what is not JSON, 415 where it is compressed, 422 for another shape or token ids,
                413 for too many texts or characters.
        """
        asked = read_json(
            body, decoder=self._decoder, shape='{"input": TEXT or [TEXT, ...]}',
            known=", ".join(EmbeddingsRequest.__struct_fields__),
        )  # fmt: skip
        texts = asked.input if isinstance(asked.input, list) else [asked.input]
        if any(isinstance(one, int | list) and not isinstance(one, bool) for one in texts):
            raise InvalidRequest(
                "token ids came as input: ids mean nothing without their tokenizer. Send the text itself, or a list of"
                " texts.",
                status=422, slug="token-ids",
            )  # fmt: skip
        if not all(isinstance(one, str) for one in texts):
            raise InvalidRequest("input is no text and no list of texts: send one.", status=422, slug="wrong-shape")
        request: TaskRequest = self._kind(
            input=asked.input, model=asked.model, dimensions=asked.dimensions, input_type=asked.input_type,
            rung=asked.rung, fallback=asked.fallback,
        )  # fmt: skip
        check_request(request, limits=limits)
        return request, None, asked.encoding_format

    def write(self, answer: Mapping[str, Any], form: str) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Write vectors, and how many tokens were read."""
        results = [read_result(one) for one in answer["results"]]
        n_tokens = sum(one["tokens"] for one in results)
        vectors = [one["embedding"] for one in results]
        data = [
            {"object": "embedding", "index": i, "embedding": _pack(one) if form == "base64" else one}
            for i, one in enumerate(vectors)
        ]
        said = {
            "object": "list", "data": data, "model": answer["model"],
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        }  # fmt: skip
        return self._encode(said), [(b"content-type", b"application/json")]


def read_result(result: Any) -> dict[str, Any]:
    """Give a result as the task made it; one that was kept in the cache is written JSON."""
    read: dict[str, Any] = msgspec.json.decode(result) if isinstance(result, msgspec.Raw) else result
    return read


def _pack(vector: list[float]) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")
