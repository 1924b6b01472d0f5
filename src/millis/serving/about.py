"""The routes that say what is served: models, contracts, health, metrics.

Border: HTTP and JSON; nothing of a client's is run.
"""

from collections.abc import Mapping, Sequence
from time import perf_counter_ns
from types import MappingProxyType
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from millis.backends.generator import Sampling
from millis.serving.executor import Executor
from millis.serving.generating import Talker
from millis.serving.replies import Answer, json_route, write_json
from millis.serving.served import Served, check_ready
from millis.telemetry.metrics import write_metrics

NO_INDEXES: Mapping[str, Sequence[str]] = MappingProxyType({})

_RECENT_NS = 2_000_000_000


def list_about_routes(
    served: Sequence[Served], executor: Executor, talkers: Sequence[Talker] = (), *,
    indexes: Mapping[str, Sequence[str]] = NO_INDEXES,
) -> list[Route]:  # fmt: skip
    """Give the routes about these models; indexes are names of those that each model's vectors search."""
    return [
        Route("/v1/models", json_route(lambda: _list_models(served, talkers, indexes))),
        Route("/contract", json_route(lambda: _list_contracts([*served, *talkers]))),
        Route("/health", _answer_health(served, executor, talkers)),
        Route("/health/live", json_route(lambda: {"status": "alive"})),
        Route("/metrics", _answer_metrics),
    ]


def _answer_health(served: Sequence[Served], executor: Executor, talkers: Sequence[Talker]) -> Answer:
    async def answer(request: Request) -> Response:
        models = await check_ready(served, executor)
        return write_json({"status": "ready", "models": models | await _check_talking(talkers)})

    return answer


def _list_models(
    served: Sequence[Served], talkers: Sequence[Talker], indexes: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
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
                "version": one.number,
                "timed_here": one.found,
                **({"indexes": indexes[one.bundle.name]} if one.bundle.name in indexes else {}),
            }
            for one in served
        ]
        + _list_talking(talkers),
    }


async def _check_talking(talkers: Sequence[Talker]) -> dict[str, dict[str, Any]]:
    """Ready is who just gave a piece: to a client, or else to this question, behind whoever was there before."""
    models: dict[str, dict[str, Any]] = {}
    for one in talkers:
        began = perf_counter_ns()
        if began - one.kept_ns < _RECENT_NS:
            models[one.bundle.name] = {"status": "ready", "by": "a request"}
            continue
        async for _ in one.answer([0], sampling=Sampling(max_tokens=1), stops=()):
            pass
        took_ms = round((perf_counter_ns() - began) / 1e6, 3)
        models[one.bundle.name] = {"status": "ready", "by": "a piece", "ms": took_ms}
    return models


def _list_talking(talkers: Sequence[Talker]) -> list[dict[str, Any]]:
    """Describe models as /v1/models does."""
    return [
        {
            "id": one.bundle.name, "object": "model", "created": 0, "owned_by": "millis",
            "task": one.bundle.manifest.task,
            "rung": one.bundle.manifest.rung, "rungs": [one.bundle.manifest.rung], "labels": [],
            "example": "What is a tide?", "context": one.chat.context, "contract": one.bundle.manifest.contract,
            "version": one.number, "timed_here": None, "engine": one.describe_engine(),
        }
        for one in talkers
    ]  # fmt: skip


def _list_contracts(served: Sequence[Served | Talker]) -> dict[str, Any]:
    listed = []
    for one in served:
        certificate = one.bundle.certificate
        row: dict[str, Any] = {"model": one.bundle.name, "contract": one.bundle.manifest.contract}
        if certificate is not None:
            row["verdict"] = certificate.verdict
            row["certificate"] = certificate
        listed.append(row)
    return {"object": "list", "data": listed}


async def _answer_metrics(request: Request) -> Response:
    text, media_type = write_metrics()
    return Response(text, media_type=media_type)
