"""The routes of a worker: tasks, models, contracts, health, metrics, pages.

Border: HTTP and JSON; answers come from executors. Requests of a task go straight to their route, since they are what a
contract speaks of; everything else takes its way through Starlette.
"""

import asyncio
import ctypes
import gc
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from uuid import uuid4

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from millis.bundles import Bundle
from millis.errors import InvalidRequest, MillisError
from millis.serving.caching import AnswerCache, Asked
from millis.serving.deadlines import read_deadline
from millis.serving.embeddings import EMBEDDING, EMBEDDINGS, Embeddings
from millis.serving.execution import Executor
from millis.serving.gate import KEY, Gate
from millis.serving.oip import VERSION as OIP_VERSION
from millis.serving.oip import OpenInference, describe_model, describe_server
from millis.serving.openapi import describe
from millis.serving.polling import Polling
from millis.serving.problems import handlers, list_headers, write_error
from millis.serving.requests import Receive, TaskRequest, make_reader, read_body, request_type
from millis.serving.scheduling import NEVER, Job, Ladder, Refused
from millis.serving.settings import Limits
from millis.tasks import tasks
from millis.telemetry.metrics import STAGES, Metrics, write_metrics

if TYPE_CHECKING:
    from millis.serving.search import Search

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_SERVERS_SHARE = 0.9
"""Of a contract's bound; the rest is for the way to the client and back."""

_ALWAYS_OPEN = ("/health/live", "/v2/health/live")

_HEALTH_NS, _HEALTH_TRIES = 300_000_000, 3
"""Within which the example is answered, behind whoever is due sooner. Under overload a forecast may be off by the
millisecond that makes it late, so a server is not healthy when that has failed so often in a row."""

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


class _Named(NamedTuple):
    """How answers speak of a rung."""

    name: str
    header: bytes
    quality: msgspec.Raw


class Served:
    """A bundle and the ladder of rungs that answers for it.

    Attributes:
        usual_ms: deadline of a request that names none: the contract's bound, less what the way to the client takes.
    """

    def __init__(self, bundle: Bundle, ladder: Ladder) -> None:
        self.bundle, self.ladder = bundle, ladder
        self.usual_ms = _SERVERS_SHARE * float(bundle.manifest.contract["bound_ms"])
        self.rungs = [
            _Named(model.rung.name, model.rung.name.encode(), _name_quality(model.rung.quality))
            for model in ladder.models
        ]


def _name_quality(quality: Mapping[str, Any]) -> msgspec.Raw:
    """Write what was measured of a rung: {"F1": 91.2}, or null."""
    named = {quality["name"]: round(quality["value"], 2)} if quality else None
    return msgspec.Raw(msgspec.json.encode(named))


def make_app(
    served: Sequence[Served], *, executor: Executor, gate: Gate, limits: Limits, metrics: Metrics, polling: Polling,
    cache: AnswerCache | None = None, search: "Search | None" = None,
) -> App:  # fmt: skip
    """Put routes in front of executors: one task route for each task that a bundle has."""
    by_task: dict[str, dict[str, Served]] = {}
    for one in served:
        by_task.setdefault(one.bundle.manifest.task, {})[one.bundle.name] = one

    def make_route(path: str, task: str, models: Mapping[str, Served], language: _Language) -> _TaskRoute:
        return _TaskRoute(
            path, task, models, language=language, executor=executor, gate=gate, limits=limits, metrics=metrics,
            polling=polling, cache=cache,
        )  # fmt: skip

    routes = {f"/v1/{task}": make_route(f"/v1/{task}", task, models, _Plain(task)) for task, models in by_task.items()}
    if EMBEDDING in by_task:
        routes[EMBEDDINGS] = make_route(EMBEDDINGS, EMBEDDING, by_task[EMBEDDING], Embeddings())
        routes |= {"/v1/search": make_route("/v1/search", EMBEDDING, by_task[EMBEDDING], search)} if search else {}
    for one in served:
        name, task = one.bundle.name, one.bundle.manifest.task
        language = OpenInference(name, request_type(task, tasks[task].options))
        route = make_route(f"/v2/models/{name}/infer", task, {name: one}, language)
        routes |= {f"{path}/infer": route for path in _oip_paths(name)}
    others = Starlette(
        routes=[
            *(Route(path, route, methods=["POST"]) for path, route in routes.items()),
            Route("/v1/models", _json(lambda: _list_models(served))),
            Route("/contract", _json(lambda: _list_contracts(served))),
            Route("/openapi.json", _json(lambda: describe(by_task, has_search=search is not None))),
            Route("/health", _answer_health(served, executor)),
            Route("/health/live", _json(lambda: {"status": "alive"})),
            *_list_oip_routes(served, executor),
            Route("/metrics", _answer_metrics),
            Route("/", _page("playground.html")),
            Route("/page/{file}", _answer_page),
        ],
        exception_handlers=handlers(),
    )
    others.router.redirect_slashes = False  # it would send clients wherever their Host header says

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in routes:
            await routes[scope["path"]](scope, receive, send)
        elif scope["type"] == "http" and scope["path"] not in _ALWAYS_OPEN:
            await _pass(gate, others, scope, receive, send)
        else:
            await others(scope, receive, send)

    return app


async def _pass(gate: Gate, others: App, scope: Scope, receive: Receive, send: Send) -> None:
    """Let a request through the gate to a route that is no task's, and note how it ended."""

    async def send_and_note(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            gate.note(scope, status=message["status"])
        await send(message)

    try:
        gate.check(scope)
    except InvalidRequest as error:
        status, payload, media_type = write_error(error, path=scope["path"])
        await _send(send_and_note, status, payload, [(b"content-type", media_type.encode()), *list_headers(error)])
    else:
        await others(scope, receive, send_and_note)


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


class _Language(Protocol):
    """How a route's clients write what they ask, and read the answer."""

    def read(
        self, body: bytes, *, headers: Iterable[tuple[bytes, bytes]], limits: Limits
    ) -> tuple[TaskRequest, float | None, Any]:
        """Read what is asked, for how many ms it is of use if the body says so, and what `write` has to know."""

    def write(self, answer: Mapping[str, Any], form: Any) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Write an answer: body and headers. What it does beside writing it notes in form's `times_ns`, by stage."""

    @property
    def own_ms(self) -> float:
        """How long `write` takes for what it does beside writing."""


class _Plain:
    """How /v1/{task} reads and writes."""

    own_ms = 0.0

    def __init__(self, task: str) -> None:
        self._read = make_reader(task, tasks[task].options)
        self._encode = msgspec.json.Encoder().encode

    def read(
        self, body: bytes, *, headers: Iterable[tuple[bytes, bytes]], limits: Limits
    ) -> tuple[TaskRequest, float | None, None]:
        """See _Language."""
        return self._read(body, limits=limits), None, None

    def write(self, answer: Mapping[str, Any], form: None) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """See _Language."""
        return self._encode(answer), [(b"content-type", b"application/json")]


class _TaskRoute:
    """A route that runs a model: read, answer, write; account for each stage."""

    def __init__(
        self, route: str, task: str, models: Mapping[str, Served], *, language: _Language, executor: Executor,
        gate: Gate, limits: Limits, metrics: Metrics, polling: Polling, cache: AnswerCache | None,
    ) -> None:  # fmt: skip
        self._task, self._route, self._language = task, route, language
        self._models = models
        self._only = next(iter(models.values())) if len(models) == 1 else None
        self._executor, self._gate = executor, gate
        self._limits = limits
        self._metrics = metrics
        self._polling = polling
        self._cache = cache

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter_ns()
        request_id = _request_id(scope)
        try:
            self._gate.check(scope)
            body = await read_body(receive, limit=self._limits.body_bytes, within_s=self._limits.body_s)
            request, within_ms, form = self._language.read(body, headers=scope["headers"], limits=self._limits)
            allowed_ms = read_deadline(scope["headers"], within_ms=within_ms)
            served = self._choose(request)
            self._gate.allow(scope, self._task, f"model:{served.bundle.name}")
            own_ms = self._language.own_ms
            job = _make_job(served, request, allowed_ms=allowed_ms, came_ns=scope["millis.came_ns"], own_ms=own_ms)
            scope["millis.gone"].append(partial(self._executor.drop, job))
            parsed = perf_counter_ns()
            is_hit = None if self._cache is None else await self._answer_or_find(self._cache, scope, served, job)
            if is_hit is None:
                await self._executor.answer(job)
        except Exception as error:
            await self._write_problem(scope, send, error, request_id)
            if isinstance(error, Refused) and error.slug == "deadline-passed":  # it was admitted
                _after_sending(self._metrics.promise, model=job.ladder.name, is_kept=False)
            if not isinstance(error, MillisError):
                raise  # a bug of ours: the server writes it into its log
        else:
            times = (scope["millis.read_ns"], began, parsed)
            await self._write(send, served, job, form, times, request_id, is_hit=is_hit)
            self._polling.go_on()
            _after_sending(self._metrics.count, route=self._route, status=200)
            _after_sending(self._gate.note, scope, status=200, on=served.bundle.name)

    def _choose(self, request: TaskRequest) -> Served:
        if request.model is None and self._only is not None:
            return self._only
        found = self._models.get(request.model or "")
        if found is None:
            wrong = "no model is named" if request.model is None else "that model is not served here"
            raise _no_such_model(self._models, wrong)
        return found

    async def _answer_or_find(self, cache: AnswerCache, scope: Scope, served: Served, job: Job) -> bool:
        """Answer a job from what is kept, or run it and keep the answer; say whether it was kept."""
        tenant = scope[KEY].id if KEY in scope else ""
        asked = Asked(tenant, served.bundle.manifest.seal, job.options, job.texts)
        best = job.places[0]
        found = cache.find(asked, rung=served.rungs[best].name)
        if found is not None:
            job.rung, job.results = best, found
        else:
            await self._executor.answer(job)
            assert job.rung is not None
            cache.keep(asked, job.results, rung=served.rungs[job.rung].name)
        _after_sending(
            self._metrics.look_up, model=served.bundle.name, is_hit=found is not None, n_bytes=cache.n_bytes
        )
        return found is not None

    async def _write_problem(self, scope: Scope, send: Send, error: Exception, request_id: bytes) -> None:
        status, payload, media_type = write_error(error, path=self._route)
        headers = [(b"content-type", media_type.encode()), (b"x-request-id", request_id), *list_headers(error)]
        await _send(send, status, payload, headers)
        _after_sending(self._metrics.count, route=self._route, status=status)
        _after_sending(self._gate.note, scope, status=status)
        if isinstance(error, Refused):
            self._polling.go_on()
            _after_sending(self._metrics.refuse, route=self._route, reason=error.slug)

    async def _write(
        self, send: Send, served: Served, job: Job, form: Any, times: tuple[int, int, int], request_id: bytes, *,
        is_hit: bool | None,
    ) -> None:  # fmt: skip
        assert job.rung is not None
        read_ns, began, parsed = times
        writing = perf_counter_ns()
        rung = served.rungs[job.rung]
        payload, headers = self._language.write(
            {"model": served.bundle.name, "rung": rung.name, "quality": rung.quality, "results": job.results}, form
        )
        wrote = perf_counter_ns()
        queue_ns = began - read_ns + max(writing - parsed - job.tokenize_ns - job.worked_ns, 0)
        stages_ns = (parsed - began, queue_ns, job.tokenize_ns, job.run_ns, job.decode_ns, wrote - writing)
        own_ns: Mapping[str, int] = getattr(form, "times_ns", {})
        spent_ns = sum(own_ns.values())
        shown_ns = {**dict(zip(STAGES, stages_ns, strict=True)), **own_ns, "write": stages_ns[-1] - spent_ns}
        timing = ", ".join(f"{stage};dur={ns / 1e6:.3f}" for stage, ns in shown_ns.items())
        headers += [
            (b"server-timing", timing.encode()), (b"x-millis-rung", rung.header), (b"x-request-id", request_id),
        ]  # fmt: skip
        if is_hit is not None:
            headers.append((b"x-millis-cache", b"hit" if is_hit else b"miss"))
        await _send(send, 200, payload, headers)
        _after_sending(self._account, served, job, rung.name, stages_ns, read_ns, spent_ns, is_hit=bool(is_hit))

    def _account(
        self, served: Served, job: Job, rung: str, stages_ns: tuple[int, ...], read_ns: int, spent_ns: int, *,
        is_hit: bool,
    ) -> None:  # fmt: skip
        _, queue_ns, _, run_ns, _, _ = stages_ns
        ended_ns = read_ns + sum(stages_ns) - spent_ns  # what the model's forecast speaks of
        self._metrics.record(
            model=served.bundle.name, rung=rung, total_ns=sum(stages_ns), stages_ns=stages_ns,
            n_tokens=job.n_tokens,
        )  # fmt: skip
        if is_hit:  # nothing ran: the forecast has nothing to learn from it
            return
        overhead_ns = (sum(stages_ns) - spent_ns - queue_ns - run_ns) / len(job.texts)
        served.ladder.forecast.observe_overhead(overhead_ns)
        if job.deadline_ns < NEVER:  # the others run behind all that come, which nobody can predict
            served.ladder.forecast.observe_end(ended_ns - job.predicted_ns)
            self._metrics.promise(model=served.bundle.name, is_kept=ended_ns <= job.deadline_ns)


def _no_such_model(known: Iterable[str], wrong: str) -> InvalidRequest:
    return InvalidRequest(f"{wrong}: choose one of {', '.join(sorted(known))}.", status=404, slug="unknown-model")


def _make_job(
    served: Served, request: TaskRequest, *, allowed_ms: float | None, came_ns: int, own_ms: float
) -> Job:
    texts = request.input if isinstance(request.input, list) else [request.input]
    within_ms = served.usual_ms if allowed_ms is None else max(allowed_ms - own_ms, 0.0)
    places = served.ladder.rungs(rung=request.rung, may_fall_back=request.fallback)
    return Job(
        served.ladder, texts, came_ns=came_ns, deadline_ns=came_ns + int(1e6 * within_ms),
        is_own_deadline=allowed_ms is not None, places=places,
        options={name: getattr(request, name) for name in served.ladder.task.options},
    )  # fmt: skip


def _oip_paths(name: str) -> tuple[str, str]:
    """Give where a model stands in the Open Inference Protocol: without its version and with it."""
    return f"/v2/models/{name}", f"/v2/models/{name}/versions/{OIP_VERSION}"


def _list_oip_routes(served: Sequence[Served], executor: Executor) -> list[Route]:
    """Give the routes of the Open Inference Protocol that run no client's text."""
    by_name = {one.bundle.name: one for one in served}

    def find(request: Request) -> Served:
        found = by_name.get(request.path_params["model"])
        if found is None:
            raise _no_such_model(by_name, "that model is not served here")
        return found

    async def answer_ready(request: Request) -> Response:
        await _run_examples(served, executor)
        return _write_json({"ready": True})

    async def answer_model(request: Request) -> Response:
        one = find(request)
        return _write_json(describe_model(one.bundle.name, task=one.bundle.manifest.task))

    async def answer_model_ready(request: Request) -> Response:
        one = find(request)
        await _run_examples([one], executor)
        return _write_json({"name": one.bundle.name, "ready": True})

    async def answer_infer(request: Request) -> Response:
        find(request)
        raise AssertionError("a model that is served has a route of its own")

    routes = [
        Route("/v2", _json(describe_server)),
        Route("/v2/health/live", _json(lambda: {"live": True})),
        Route("/v2/health/ready", answer_ready),
    ]
    for path in _oip_paths("{model}"):
        routes += [
            Route(path, answer_model),
            Route(f"{path}/ready", answer_model_ready),
            Route(f"{path}/infer", answer_infer, methods=["POST"]),
        ]
    return routes


async def _run_examples(served: Sequence[Served], executor: Executor) -> dict[str, dict[str, Any]]:
    """Ready means that every model just answered its own example, through the queue of the others; give their ms."""
    models = {}
    for one in served:
        began = perf_counter_ns()
        await _run_example(one, executor)
        models[one.bundle.name] = {"status": "ready", "ms": round((perf_counter_ns() - began) / 1e6, 3)}
    return models


async def _run_example(one: Served, executor: Executor) -> None:
    for tries_left in reversed(range(_HEALTH_TRIES)):
        came_ns = perf_counter_ns()
        job = Job(
            one.ladder, [one.ladder.task.example], came_ns=came_ns, deadline_ns=came_ns + _HEALTH_NS,
            is_own_deadline=True, places=range(1),
        )  # fmt: skip
        try:
            await executor.answer(job)
        except Refused:
            if not tries_left:
                raise
        else:
            return


def _answer_health(served: Sequence[Served], executor: Executor) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return _write_json({"status": "ready", "models": await _run_examples(served, executor)})

    return answer


def _list_models(served: Sequence[Served]) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [
            {
                "id": one.bundle.name,
                "object": "model",
                "owned_by": "millis",
                "task": one.bundle.manifest.task,
                "rung": one.ladder.models[0].rung.name,
                "rungs": [model.rung.name for model in one.ladder.models],
                "labels": one.ladder.task.names(one.bundle.manifest.labels),
                "example": one.ladder.task.example,
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
        return _write_json(make())

    return answer


def _write_json(document: Any) -> Response:
    return Response(msgspec.json.encode(document), media_type="application/json")


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


def _after_sending(do: Callable[..., None], *values: Any, **named: Any) -> None:
    """Do something in the loop's next turn: uvloop writes to sockets only when a turn ends."""
    asyncio.get_running_loop().call_soon(partial(do, *values, **named))


async def _send(send: Send, status: int, payload: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers.append((b"content-length", str(len(payload)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": payload})
