"""The routes of a worker: tasks, models, contracts, health, metrics, pages.

Border: HTTP and JSON; answers come from executors. Requests of a task go straight to their route, since they are what a
contract speaks of; everything else takes its way through Starlette.
"""

import asyncio
import ctypes
import gc
import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from time import perf_counter_ns
from typing import Any
from uuid import uuid4

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from millis.bundles import Bundle
from millis.bundles.model import Answer
from millis.errors import InvalidRequest, MillisError
from millis.serving.execution import Executor
from millis.serving.openapi import describe
from millis.serving.polling import Polling
from millis.serving.problems import MEDIA_TYPE, handlers, write_problem
from millis.serving.requests import Receive, TaskRequest, read_body, read_request
from millis.serving.settings import Limits
from millis.telemetry.metrics import STAGES, Metrics, write_metrics

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_PAGE_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Served:
    """A bundle and the executor that answers for it."""

    bundle: Bundle
    executor: Executor


def make_app(
    served: Sequence[Served], *, limits: Limits, metrics: Metrics, polling: Polling
) -> App:
    """Put routes in front of executors: one task route for each task that a bundle has."""
    by_task: dict[str, dict[str, Served]] = {}
    for one in served:
        by_task.setdefault(one.bundle.manifest.task, {})[one.bundle.name] = one
    tasks = {
        f"/v1/{task}": _TaskRoute(task, models, limits=limits, metrics=metrics, polling=polling)
        for task, models in by_task.items()
    }
    others = Starlette(
        routes=[
            *(Route(path, route, methods=["POST"]) for path, route in tasks.items()),
            Route("/v1/models", _json(lambda: _list_models(served))),
            Route("/contract", _json(lambda: _list_contracts(served))),
            Route("/openapi.json", _json(lambda: describe(by_task))),
            Route("/health", _Health(served), methods=["GET"]),
            Route("/health/live", _json(lambda: {"status": "alive"})),
            Route("/metrics", _answer_metrics),
            Route("/", _page("playground.html")),
            Route("/page/{file}", _answer_page),
        ],
        exception_handlers=handlers(),
    )
    others.router.redirect_slashes = False  # it would send clients wherever their Host header says

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        is_task = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in tasks
        await (tasks[scope["path"]] if is_task else others)(scope, receive, send)

    return app


def settle_memory() -> None:
    """Take everything loaded so far out of the collector's sight and make it run rarely, for a quiet tail.

    What loading left free in the heap goes back to the system first: 8 MB after eight lengths of MiniLM-L6.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # glibc's own
    if trim is not None:
        trim(0)


class _TaskRoute:
    """POST /v1/{task}: read, answer, write; account for each stage."""

    def __init__(
        self, task: str, models: Mapping[str, Served], *, limits: Limits, metrics: Metrics, polling: Polling
    ) -> None:
        self._route = f"/v1/{task}"
        self._models = models
        self._only = next(iter(models.values())) if len(models) == 1 else None
        self._limits = limits
        self._metrics = metrics
        self._polling = polling
        self._encode = msgspec.json.Encoder().encode

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter_ns()
        request_id = _request_id(scope)
        try:
            body = await read_body(receive, limit=self._limits.body_bytes, within_s=self._limits.body_s)
            request = read_request(body, limits=self._limits)
            served = self._choose(request)
            texts = request.input if isinstance(request.input, list) else [request.input]
            parsed = perf_counter_ns()
            answers, waited_ns = await served.executor.answer(texts)
        except Exception as error:
            status, payload = write_problem(error)
            headers = [(b"content-type", MEDIA_TYPE.encode()), (b"x-request-id", request_id)]
            await _send(send, status, payload, [*headers, *([(b"connection", b"close")] if status == 408 else [])])
            _after_sending(self._metrics.count, route=self._route, status=status)
            if not isinstance(error, MillisError):
                raise  # a bug of ours: the server writes it into its log
        else:
            await self._write(send, served, answers, (began, parsed, waited_ns), request_id)
            self._polling.go_on()
            _after_sending(self._metrics.count, route=self._route, status=200)

    def _choose(self, request: TaskRequest) -> Served:
        if request.model is None and self._only is not None:
            return self._only
        found = self._models.get(request.model or "")
        if found is None:
            known = ", ".join(sorted(self._models))
            wrong = "no model is named" if request.model is None else "that model is not served here"
            raise InvalidRequest(f"{wrong}: choose one of {known}.", status=404, slug="unknown-model")
        return found

    async def _write(
        self, send: Send, served: Served, answers: Sequence[Answer], times: tuple[int, int, int], request_id: bytes
    ) -> None:
        began, parsed, waited_ns = times
        rung = served.executor.model.rung.name
        writing = perf_counter_ns()
        payload = self._encode(
            {"model": served.bundle.name, "rung": rung, "results": [answer.result for answer in answers]}
        )
        wrote = perf_counter_ns()
        stages_ns = (
            parsed - began,
            waited_ns,
            sum(answer.tokenize_ns for answer in answers),
            sum(answer.run_ns for answer in answers),
            sum(answer.decode_ns for answer in answers),
            wrote - writing,
        )
        timing = ", ".join(f"{stage};dur={ns / 1e6:.3f}" for stage, ns in zip(STAGES, stages_ns, strict=True))
        await _send(send, 200, payload, [
            (b"content-type", b"application/json"), (b"server-timing", timing.encode()),
            (b"x-millis-rung", rung.encode()), (b"x-request-id", request_id),
        ])  # fmt: skip
        _after_sending(
            self._metrics.record,
            model=served.bundle.name,
            rung=rung,
            total_ns=perf_counter_ns() - began,
            stages_ns=stages_ns,
            n_tokens=sum(answer.n_tokens for answer in answers),
        )


class _Health:
    """GET /health: ready means that every model just answered its own example, through the queue of the others."""

    def __init__(self, served: Sequence[Served]) -> None:
        self._served = served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        models = {}
        for one in self._served:
            began = perf_counter_ns()
            await one.executor.answer([one.executor.model.task.example])
            models[one.bundle.name] = {"status": "ready", "ms": round((perf_counter_ns() - began) / 1e6, 3)}
        payload = msgspec.json.encode({"status": "ready", "models": models})
        await _send(send, 200, payload, [(b"content-type", b"application/json")])


def _list_models(served: Sequence[Served]) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [
            {
                "id": one.bundle.name,
                "object": "model",
                "owned_by": "millis",
                "task": one.bundle.manifest.task,
                "rung": one.executor.model.rung.name,
                "rungs": [rung.name for rung in one.bundle.manifest.rungs],
                "labels": sorted({label.partition("-")[2] or label for label in one.bundle.manifest.labels} - {"O"}),
                "example": one.executor.model.task.example,
                "contract": one.bundle.manifest.contract,
            }
            for one in served
        ],
    }


def _list_contracts(served: Sequence[Served]) -> dict[str, Any]:
    listed = []
    for one in served:
        certificate = one.bundle.certificate
        row: dict[str, Any] = {"model": one.bundle.name, "contract": one.bundle.manifest.contract}
        if certificate is not None:
            row["verdict"] = certificate.verdict
            row["certificate"] = certificate
        listed.append(row)
    return {"object": "list", "data": listed}


def _json(make: Callable[[], Any]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return Response(msgspec.json.encode(make()), media_type="application/json")

    return answer


async def _answer_metrics(request: Request) -> Response:
    text, media_type = write_metrics()
    return Response(text, media_type=media_type)


async def _answer_page(request: Request) -> Response:
    return await _page(request.path_params["file"])(request)


def _page(file: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        suffix = Path(file).suffix
        pages = {one.name: one for one in (resources.files("millis.serving") / "page").iterdir()}
        found = pages.get(file)
        if suffix not in _PAGE_TYPES or found is None:
            raise InvalidRequest("there is no such page: start at /.", status=404, slug="unknown-route")
        return Response(found.read_bytes(), headers=_PAGE_HEADERS, media_type=_PAGE_TYPES[suffix])

    return answer


def _request_id(scope: Scope) -> bytes:
    """Take the client's own id where it is short and printable, else make one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and 0 < len(value) <= 128 and value.isascii() and value.decode().isprintable():
            return bytes(value)
    return uuid4().hex.encode()


def _after_sending(do: Callable[..., None], **arguments: Any) -> None:
    """Do something in the loop's next turn: uvloop writes to sockets only when a turn ends."""
    asyncio.get_running_loop().call_soon(partial(do, **arguments))


async def _send(send: Send, status: int, payload: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers.append((b"content-length", str(len(payload)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": payload})
