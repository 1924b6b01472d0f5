"""The routes of a worker, which change while it runs: what models are served decides which there are.

Border: who answers what; each family of routes has its own file. Requests of a task go straight to their route, since
they are what a contract speaks of: one look into a dictionary; everything else takes its way through Starlette.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from functools import cache, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.routing import Match, Route

from millis.errors import InvalidRequest
from millis.serving.about import list_about_routes
from millis.serving.answering import TaskRoute, Then
from millis.serving.caching import AnswerCache
from millis.serving.embeddings import EMBEDDING, EMBEDDINGS, Embeddings
from millis.serving.executor import Executor
from millis.serving.gate import ON, UNKNOWN, Gate
from millis.serving.generating import Talker
from millis.serving.languages import Language, Plain
from millis.serving.live import PATH as LIVE
from millis.serving.live import Live
from millis.serving.live_tasks import Typed
from millis.serving.observing import Observer
from millis.serving.oip import OpenInference
from millis.serving.oip_routes import list_oip_routes, oip_paths
from millis.serving.openai import PATHS, OpenAi
from millis.serving.openapi import describe
from millis.serving.pages import list_page_routes
from millis.serving.polling import Polling
from millis.serving.problems import handlers, list_headers, write_error
from millis.serving.reordering import RERANK, Reordering
from millis.serving.replies import Scope, Send, json_route, send_whole, time_header
from millis.serving.requests import Receive
from millis.serving.reranking import Ranked
from millis.serving.rewriting import Rewriting
from millis.serving.served import Served
from millis.serving.settings import Limits
from millis.serving.talking import Speech, TalkingRoute
from millis.tasks import tasks
from millis.tasks.instructing import USUAL_INSTRUCTIONS

if TYPE_CHECKING:
    from millis.serving.search import Search

Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_LANGUAGES: dict[str, Callable[[str], Language]] = {RERANK: Ranked}
"""Of tasks that are asked and answered in a form of their own."""

_ALWAYS_OPEN = ("/health/live", "/v2/health/live")


class App:
    """Puts routes in front of an executor: one task route for each task that a bundle has, and OpenAI's for chats.

    Args:
        more: routes that stay whatever is served.

    Usage:
        app = App(executor=..., gate=..., limits=..., observer=..., polling=..., cache=None)
        app.serve(served)  # at any time: a request that has begun ends on what it began on
    """

    def __init__(
        self, *, executor: Executor, gate: Gate, limits: Limits, observer: Observer, polling: Polling,
        cache: AnswerCache | None = None, search: "Search | None" = None, more: Sequence[Route] = (),
    ) -> None:  # fmt: skip
        self._executor, self._gate, self._limits = executor, gate, limits
        self._observer, self._polling, self._cache = observer, polling, cache
        self._search, self._more = search, tuple(more)
        self._live = Live(gate=gate, limits=limits, observer=observer)
        self._routes: dict[str, Application] = {}
        self._others = Starlette()
        self._names: frozenset[str] = frozenset()

    def serve(self, served: Sequence[Served], talkers: Sequence[Talker] = ()) -> None:
        """Serve these models, and no others, from the next request on."""
        self._names = frozenset(one.bundle.name for some in (served, talkers) for one in some)
        by_task: dict[str, dict[str, Served]] = {}
        for one in served:
            by_task.setdefault(one.bundle.manifest.task, {})[one.bundle.name] = one
        routes: dict[str, Application] = {
            f"/v1/{task}": self.make_route(f"/v1/{task}", models, _LANGUAGES.get(task, Plain)(task))
            for task, models in by_task.items()
        }
        if EMBEDDING in by_task:
            routes[EMBEDDINGS] = self.make_route(EMBEDDINGS, by_task[EMBEDDING], Embeddings())
        indexes: Mapping[str, Sequence[str]] = {}
        if EMBEDDING in by_task and self._search is not None:
            self._search.follow([one.bundle for one in by_task[EMBEDDING].values()])
            indexes = self._search.by_model()
            reordering = Reordering(
                self._search, by_task.get(RERANK, {}), executor=self._executor, gate=self._gate,
                metrics=self._observer.metrics,
            )  # fmt: skip
            routes["/v1/search"] = self.make_route("/v1/search", by_task[EMBEDDING], self._search, then=reordering)
        for one in served:
            name, task = one.bundle.name, one.bundle.manifest.task
            language = OpenInference(name, task, tasks[task])
            route = self.make_route(f"/v2/models/{name}/infer", {name: one}, language)
            routes |= {f"{path}/infer": route for path in oip_paths(name)}
        speaking = {one.bundle.manifest.task for one in talkers}
        for path in PATHS if talkers else ():
            routes[path] = self._make_talking(path, talkers, OpenAi(PATHS[path]))
        for task in USUAL_INSTRUCTIONS:
            told = [one for one in talkers if one.bundle.manifest.task == task]
            if told:
                routes[f"/v1/{task}"] = self._make_talking(f"/v1/{task}", told, Rewriting())
        described = cache(partial(describe, by_task, has_search="/v1/search" in routes, speaking=speaking))
        others = Starlette(
            routes=[
                *(Route(path, route, methods=["POST"]) for path, route in routes.items()),
                Route("/openapi.json", json_route(described)),
                *list_about_routes(served, self._executor, talkers, indexes=indexes),
                *list_oip_routes(served, self._executor),
                *list_page_routes(),
                *self._more,
            ],
            exception_handlers=handlers(),
        )
        others.router.redirect_slashes = False  # it would send clients wherever their Host header says
        self._routes, self._others = routes, others
        self._live.talkers = tuple(talkers)
        self._live.routes = {task: self.make_route(LIVE, models, Typed(task)) for task, models in by_task.items()}

    def make_route(
        self, path: str, models: Mapping[str, Served], language: Language, *, then: Then | None = None
    ) -> TaskRoute:
        """Make a route that runs one of these models."""
        return TaskRoute(
            path, models, language=language, executor=self._executor, gate=self._gate, limits=self._limits,
            observer=self._observer, polling=self._polling, cache=self._cache, then=then,
        )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request: ASGI."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._routes:
            await self._routes[scope["path"]](scope, receive, send)
        elif scope["type"] == "http" and scope["path"] not in _ALWAYS_OPEN:
            await self._pass(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._live(scope, receive, send)
        else:
            await self._others(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through the gate to a route that is no task's, and note how it ended."""

        async def send_and_note(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                status, route = message["status"], self._name(scope)
                self._gate.note(scope, status=status, on=self._find_model(scope, status=status), route=route)
                self._observer.passed(scope, status=status, route=route)
                message = {**message, "headers": [*message["headers"], time_header(scope)]}
            await send(message)

        try:
            self._gate.check(scope)
        except InvalidRequest as error:
            status, payload, media_type = write_error(error, path=scope["path"])
            headers = [(b"content-type", media_type.encode()), *list_headers(error)]
            await send_whole(send_and_note, status, payload, headers)
        else:
            await self._others(scope, receive, send_and_note)

    def _name(self, scope: Scope) -> str:
        """Name what was asked as it was written here: a path that a client made up may hold a text, or a key."""
        routes = (one for one in self._others.routes if isinstance(one, Route))
        return next((one.path for one in routes if one.matches(scope)[0] is not Match.NONE), UNKNOWN)

    def _find_model(self, scope: Scope, *, status: int) -> str:
        """Give the model that a request was about, where there is or was one of the name: a client may make it up."""
        named: str = scope.get("path_params", {}).get("model", "")
        return scope.get(ON) or (named if status < HTTPStatus.BAD_REQUEST or named in self._names else "")

    def _make_talking(self, path: str, talkers: Sequence[Talker], speech: Speech) -> TalkingRoute:
        return TalkingRoute(
            path, {one.bundle.name: one for one in talkers}, speech=speech, gate=self._gate, limits=self._limits,
            observer=self._observer,
        )  # fmt: skip
