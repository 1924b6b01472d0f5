"""The Open Inference Protocol, version 2: texts come as a tensor of bytes, results go as one.

A model has one input, `text`, and one output, `result`: one JSON document for each text, in the shape that /v1/{task}
gives. Over HTTP tensors are JSON or, with the binary tensor data extension, lengths and bytes behind the JSON.
Border: a translation, bytes to a TaskRequest and results to bytes; who may ask, when it runs and on which rung is the
same as for every other request.
Limits: one version of each model, "1"; no shared memory, sequences, priorities, classification or compressed bodies.
Source: the protocol as KServe and Triton document it, kserve.github.io (v2-protocol) and Triton's
docs/protocol/extension_binary_data.md; `parameters.timeout` is Triton's, in microseconds.
"""

import math
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from millis.errors import InvalidRequest
from millis.serving.deadlines import MOST_MS
from millis.serving.requests import TaskRequest, check_request, request_type, say_why
from millis.serving.settings import Limits
from millis.serving.tensors import INPUT, OUTPUT, flatten, mismatch, pack_elements, unpack_elements, wrong_tensor
from millis.tasks import Task

VERSION = "1"

_HEADER_LENGTH = b"inference-header-content-length"
_BINARY = "binary_tensor_data"
_OWN = ("timeout", "binary_data_output")
_DEEPEST = 8

Parameters = dict[str, str | int | float | bool]
Dimension = Annotated[int, Meta(ge=0)]


class InputTensor(msgspec.Struct, omit_defaults=True):
    """A tensor that came.

    Args:
        shape: as many elements as there are texts, in any arrangement.
        data: texts, flat or nested as shape says; missing when parameters.binary_data_size says that bytes follow.
    """

    name: str
    shape: Annotated[list[Dimension], Meta(min_length=1, max_length=_DEEPEST)]
    datatype: str
    parameters: Parameters = {}
    data: list[Any] | None = None


class RequestedOutput(msgspec.Struct, omit_defaults=True):
    """A tensor that is asked for; parameters.binary_data says whether as bytes."""

    name: str
    parameters: Parameters = {}


class InferRequest(msgspec.Struct, omit_defaults=True):
    """What a client sends to /v2/models/{model}/infer.

    Args:
        id: given back as it came.
        parameters: `timeout` in microseconds, `binary_data_output`, and the options of /v1 (`rung`, `fallback`).
    """

    inputs: Annotated[list[InputTensor], Meta(min_length=1, max_length=1)]
    id: str | None = None
    parameters: Parameters = {}
    outputs: Annotated[list[RequestedOutput], Meta(max_length=1)] = []


class Form(NamedTuple):
    """How the answer is to look."""

    id: str | None
    shape: list[int]
    is_binary: bool


_decoder = msgspec.json.Decoder(InferRequest)
_encode = msgspec.json.Encoder().encode


class OpenInference:
    """How /v2/models/{model}/infer reads and writes.

    Args:
        task: its name.
        kind: the class of its task.
    """

    own_ms = 0.0

    def __init__(self, model: str, task: str, kind: type[Task]) -> None:
        self._model, self._kind, self._asks = model, request_type(task, kind), kind.asks

    def read(
        self, body: bytes, *, headers: Iterable[tuple[bytes, bytes]], limits: Limits
    ) -> tuple[TaskRequest, float | None, Form]:
        """Read a request: what is asked, for how many ms it is of use if the body says so, how to answer.

        Raises:
            InvalidRequest: 400 for what is not JSON or lengths that do not add up, 415 where it is compressed, 422 for
                JSON of another shape, 413 for too much of it.
        """
        head, rest = _split(body, headers)
        try:
            asked = _decoder.decode(head)
        except msgspec.ValidationError as error:
            raise wrong_tensor(str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest(
                f"the body does not begin with JSON ({say_why(error, head)}): send"
                ' {"inputs": [...]} of the Open Inference Protocol.',
                slug="not-json",
            ) from error
        return self.take(asked, rest, limits=limits)

    def take(self, asked: InferRequest, rest: bytes, *, limits: Limits) -> tuple[TaskRequest, float | None, Form]:
        """Take up a request that was read: what `read` gives, of its parts.

        Args:
            rest: elements, each behind its length, where the input's parameters.binary_data_size says that they follow.
        Raises:
            InvalidRequest: as in `read`, but for JSON.
        """
        tensor = asked.inputs[0]
        if tensor.name != INPUT or tensor.datatype != "BYTES":
            raise wrong_tensor(f"the input is not the tensor {INPUT} of datatype BYTES")
        texts: list[Any] = _read_texts(tensor, rest, most=limits.texts)
        if self._asks is not str:
            texts = [_read_document(text, self._asks) for text in texts]
        options = {name: value for name, value in asked.parameters.items() if name not in _OWN}
        if not {"input", "model"}.isdisjoint(options):
            raise self._wrong_parameter()
        try:
            request = msgspec.convert({**options, "input": texts, "model": self._model}, type=self._kind)
        except msgspec.ValidationError as error:
            raise self._wrong_parameter() from error
        check_request(request, limits=limits)
        form = Form(asked.id, tensor.shape, _is_binary(asked))
        return request, _read_timeout(asked.parameters.get("timeout")), form

    def write(self, answer: Mapping[str, Any], form: Form) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Write an answer of /v1's shape as a tensor of results: body and headers."""
        results = write_results(answer)
        output: dict[str, Any] = {"name": OUTPUT, "datatype": "BYTES", "shape": form.shape}
        said: dict[str, Any] = {"model_name": answer["model"], "model_version": VERSION}
        if form.id is not None:
            said["id"] = form.id
        said |= {"parameters": list_parameters(answer), "outputs": [output]}
        if not form.is_binary:
            output["data"] = [one.decode() for one in results]
            return _encode(said), [(b"content-type", b"application/json")]
        rest = pack_elements(results)
        output["parameters"] = {"binary_data_size": len(rest)}
        head = _encode(said)
        return head + rest, [
            (b"content-type", b"application/octet-stream"), (_HEADER_LENGTH, b"%d" % len(head)),
        ]  # fmt: skip

    def _wrong_parameter(self) -> InvalidRequest:
        options = (name for name in self._kind.__struct_fields__ if name not in ("input", "model"))
        return wrong_tensor(f"a parameter is not one of {', '.join((*_OWN, *options))}, or not of its type")


def write_results(answer: Mapping[str, Any]) -> list[bytes]:
    """Write the results of an answer of /v1's shape as JSON, a document for each text."""
    return [_encode(one) for one in answer["results"]]


def list_parameters(answer: Mapping[str, Any]) -> Parameters:
    """Give what an answer says beside its tensor: the rung that answered, and what was measured of it."""
    return {"rung": answer["rung"], **(msgspec.json.decode(_encode(answer["quality"])) or {})}


def describe_server() -> dict[str, Any]:
    """Give what GET /v2 answers."""
    return {"name": "millis", "version": version("millis"), "extensions": [_BINARY, "parameters"]}


def describe_model(name: str, *, task: str) -> dict[str, Any]:
    """Give what GET /v2/models/{model} answers."""
    return {
        "name": name,
        "versions": [VERSION],
        "platform": f"millis_{task}",
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": OUTPUT, "datatype": "BYTES", "shape": [-1]}],
    }


def _split(body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """Part the JSON from the bytes behind it."""
    length: bytes | None = None
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() != b"identity":
            raise InvalidRequest(
                "the body is compressed, which is not taken here: send it plain, without Content-Encoding.",
                status=415, slug="compressed",
            )  # fmt: skip
        if name == _HEADER_LENGTH:
            if length is not None:
                raise mismatch("Inference-Header-Content-Length came twice")
            length = value.strip()
    if length is None:
        return body, b""
    if not length.isdigit() or len(length) > 12 or int(length) > len(body):
        raise mismatch(f"Inference-Header-Content-Length is no number of bytes up to {len(body)}")
    return body[: int(length)], body[int(length) :]


def _read_texts(tensor: InputTensor, rest: bytes, *, most: int) -> list[str]:
    size = tensor.parameters.get("binary_data_size")
    if (size is None) == (tensor.data is None):
        raise wrong_tensor("of data and parameters.binary_data_size an input has exactly one")
    if size is None:
        if rest:
            raise mismatch("bytes follow the JSON that belong to no tensor")
        texts = flatten(tensor.data or [], depth=len(tensor.shape))
    else:
        if type(size) is not int or size != len(rest):
            raise mismatch(f"parameters.binary_data_size is not the {len(rest)} bytes that follow the JSON")
        texts = unpack_elements(rest, most=most)
    n = math.prod(tensor.shape)
    if n != len(texts) and len(texts) <= most:
        raise wrong_tensor(f"{len(texts)} elements came for a shape of {n}")
    return texts


def _read_document(element: str, asks: Any) -> Any:
    """Read an element of a task that is asked about more than one text: a JSON document."""
    try:
        return msgspec.json.decode(element, type=asks)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        parts = ", ".join(asks.__struct_fields__)
        raise wrong_tensor(f"an element is no JSON document with {parts}") from error


def _is_binary(asked: InferRequest) -> bool:
    usual = asked.parameters.get("binary_data_output", False)
    chosen: Any = usual
    for output in asked.outputs:
        if output.name != OUTPUT or output.parameters.keys() - {"binary_data"}:
            raise wrong_tensor(f"the only output is {OUTPUT}, its only parameter binary_data")
        chosen = output.parameters.get("binary_data", usual)
    if not isinstance(chosen, bool) or not isinstance(usual, bool):
        raise wrong_tensor("binary_data and binary_data_output are true or false")
    return chosen


def _read_timeout(timeout: object) -> float | None:
    """Read microseconds as ms; 0 is none, as in Triton."""
    if timeout is None or (timeout == 0 and type(timeout) is int):
        return None
    if type(timeout) is not int or not 0 < timeout <= 1000 * MOST_MS:
        raise InvalidRequest(
            f"parameters.timeout is no whole number of microseconds up to {1000 * MOST_MS:.0f}: give one, or leave it"
            " out.",
            slug="bad-deadline",
        )
    return timeout / 1000
