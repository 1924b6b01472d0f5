"""The calls of the Open Inference Protocol's gRPC service: messages in, messages out, by the same way as over HTTP.

Each call is a path, as it is on the wire; ModelInfer is a route like any other that runs a model, in a language of its
own, so that gate, limits, deadlines, queue, rungs, metrics and audit are those of every route.
Border: messages and what they mean; connections are grpc.py's.
Limits: as in oip.py; no ModelStreamInfer, no repository, statistics or shared memory.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from millis.errors import InvalidRequest, MillisError
from millis.serving.answering import TaskRoute
from millis.serving.executor import Executor
from millis.serving.gate import Gate
from millis.serving.languages import Language
from millis.serving.observing import Observer
from millis.serving.oip import (
    VERSION,
    Form,
    InferRequest,
    OpenInference,
    describe_model,
    describe_server,
    list_parameters,
    write_results,
)  # fmt: skip
from millis.serving.problems import list_headers, write_error
from millis.serving.protobuf import messages, read_message
from millis.serving.replies import Scope, Send, send_whole
from millis.serving.requests import Receive, TaskRequest, read_body
from millis.serving.served import Served, check_ready, no_such_model
from millis.serving.settings import Limits
from millis.serving.tensors import OUTPUT, pack_elements, read_text, wrong_tensor
from millis.tasks import tasks

_SERVICE = "/inference.GRPCInferenceService/"
_LIVE, INFER = f"{_SERVICE}ServerLive", f"{_SERVICE}ModelInfer"

_PARAMETERS = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
"""By a parameter's type, the field that holds it."""


class MakeRoute(Protocol):
    """Makes a route that runs models; see App.make_route."""

    def __call__(self, path: str, models: Mapping[str, Served], language: Language) -> TaskRoute:
        """Make it."""


class Calls:
    """Answers the calls: ASGI, with the message as body.

    Usage:
        calls = Calls(app.make_route, executor=..., gate=..., limits=..., observer=...)
        calls.serve(served)  # at any time
    """

    def __init__(
        self, make_route: MakeRoute, *, executor: Executor, gate: Gate, limits: Limits, observer: Observer
    ) -> None:
        self._make_route = make_route
        self._executor, self._gate, self._limits, self._observer = executor, gate, limits, observer
        self._served: dict[str, Served] = {}
        self._infer: TaskRoute | None = None
        self._answers: dict[str, Callable[[bytes], Awaitable[Any]]] = {
            _LIVE: self._tell_live,
            f"{_SERVICE}ServerReady": self._tell_ready,
            f"{_SERVICE}ModelReady": self._tell_model_ready,
            f"{_SERVICE}ServerMetadata": self._describe_server,
            f"{_SERVICE}ModelMetadata": self._describe_model,
            INFER: self._infer_nothing,
        }
        self.paths = frozenset(self._answers)

    def serve(self, served: Sequence[Served]) -> None:
        """Serve these models, and no others, from the next call on."""
        self._served = {one.bundle.name: one for one in served}
        self._infer = self._make_route(INFER, self._served, Inferring(self._served)) if served else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call of one of `paths`."""
        path = scope["path"]
        if path == INFER and self._infer is not None:
            await self._infer(scope, receive, send)
            return
        payload: bytes
        headers: list[tuple[bytes, bytes]] = []
        bug = None
        try:
            if path != _LIVE:
                self._gate.check(scope)
            body = await read_body(receive, limit=self._limits.body_bytes, within_s=self._limits.body_s)
            answer = await self._answers[path](body)
            status, payload = 200, answer.SerializeToString()
        except Exception as error:
            status, payload, _ = write_error(error, path=path)
            headers += list_headers(error)
            bug = None if isinstance(error, MillisError) else error
        await send_whole(send, status, payload, headers)
        if path != _LIVE:
            self._gate.note(scope, status=status)
            self._observer.passed(scope, status=status, route=path)
        if bug is not None:
            raise bug

    async def _tell_live(self, body: bytes) -> Any:
        return messages["ServerLiveResponse"](live=True)

    async def _tell_ready(self, body: bytes) -> Any:
        return messages["ServerReadyResponse"](ready=await self._is_ready(self._served.values()))

    async def _tell_model_ready(self, body: bytes) -> Any:
        asked = read_message("ModelReadyRequest", body)
        found = self._served.get(asked.name) if asked.version in ("", VERSION) else None
        return messages["ModelReadyResponse"](ready=found is not None and await self._is_ready([found]))

    async def _describe_server(self, body: bytes) -> Any:
        return messages["ServerMetadataResponse"](**describe_server())

    async def _describe_model(self, body: bytes) -> Any:
        asked = read_message("ModelMetadataRequest", body)
        found = self._served.get(asked.name)
        if found is None:
            raise no_such_model(self._served)
        _check_version(asked.version)
        return messages["ModelMetadataResponse"](**describe_model(asked.name, task=found.bundle.manifest.task))

    async def _infer_nothing(self, body: bytes) -> Any:
        raise no_such_model(())

    async def _is_ready(self, served: Iterable[Served]) -> bool:
        """Say whether models are ready; the protocol has no room for why not."""
        try:
            await check_ready(tuple(served), self._executor)
        except InvalidRequest:
            return False
        return True


class Inferring:
    """How ModelInfer reads and writes, for whichever model its message names."""

    own_ms = 0.0

    def __init__(self, models: Mapping[str, Served]) -> None:
        self._by_model = {
            name: OpenInference(name, one.bundle.manifest.task, tasks[one.bundle.manifest.task])
            for name, one in models.items()
        }

    def read(
        self, body: bytes, *, headers: Iterable[tuple[bytes, bytes]], limits: Limits
    ) -> tuple[TaskRequest, float | None, Form]:
        """See Language."""
        message = read_message("ModelInferRequest", body)
        found = self._by_model.get(message.model_name)
        if found is None:
            raise no_such_model(self._by_model)
        _check_version(message.model_version)
        asked, rest = _read_tensors(message, most=limits.texts)
        return found.take(asked, rest, limits=limits)

    def write(self, answer: Mapping[str, Any], form: Form) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """See Language."""
        said = messages["ModelInferResponse"](
            model_name=answer["model"], model_version=VERSION, id=form.id,
            parameters=[
                {"key": name, "value": {_PARAMETERS[type(value)]: value}}
                for name, value in list_parameters(answer).items()
            ],
        )  # fmt: skip
        output = said.outputs.add(name=OUTPUT, datatype="BYTES", shape=form.shape)
        results = write_results(answer)
        if form.is_binary:
            said.raw_output_contents.append(pack_elements(results))
        else:
            output.contents.bytes_contents.extend(results)
        return said.SerializeToString(), []


def _read_tensors(message: Any, *, most: int) -> tuple[InferRequest, bytes]:
    """Take a request out of its message, and the packed elements beside it; an answer is packed where these are.

    Args:
        most: texts allowed; one more is enough to refuse.
    """
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise wrong_tensor(f"{len(raw)} raw_input_contents came for {len(message.inputs)} inputs")
    inputs = []
    for tensor in message.inputs:
        if bool(raw) == tensor.HasField("contents"):
            raise wrong_tensor("of contents and raw_input_contents an input has exactly one")
        one = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        parameters = _read_parameters(tensor.parameters)
        if "binary_data_size" in parameters:
            raise wrong_tensor("binary_data_size came, which is for HTTP")
        if raw:
            parameters["binary_data_size"] = len(raw[0])
        else:
            one["data"] = [read_text(element) for element in tensor.contents.bytes_contents[: most + 1]]
        inputs.append({**one, "parameters": parameters})
    outputs = [{"name": one.name, "parameters": _read_parameters(one.parameters)} for one in message.outputs]
    asked = {
        "inputs": inputs, "id": message.id, "outputs": outputs,
        "parameters": {"binary_data_output": bool(raw), **_read_parameters(message.parameters)},
    }  # fmt: skip
    try:
        return msgspec.convert(asked, type=InferRequest), raw[0] if raw else b""
    except msgspec.ValidationError as error:
        raise wrong_tensor(str(error)) from error


def _read_parameters(entries: Iterable[Any]) -> dict[str, Any]:
    return {one.key: _read_parameter(one.value) for one in entries}


def _read_parameter(value: Any) -> Any:
    name = value.WhichOneof("choice")
    return None if name is None else getattr(value, name)


def _check_version(version: str) -> None:
    if version not in ("", VERSION):
        raise InvalidRequest(
            f"that version is not served here: there is one of each model, {VERSION}; name it or leave it out.",
            status=404, slug="unknown-version",
        )  # fmt: skip
