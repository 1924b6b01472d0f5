"""The routes that say what is served: models, contracts, health, metrics.

Border: HTTP and JSON; nothing of a client's is run.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from millis.serving.executor import Executor
from millis.serving.generating import Talker, check_talking, list_talking
from millis.serving.replies import Answer, json_route, write_json
from millis.serving.served import Served, check_ready
from millis.telemetry.metrics import write_metrics

NO_INDEXES: Mapping[str, Sequence[str]] = MappingProxyType({})


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
        return write_json({"status": "ready", "models": models | await check_talking(talkers)})

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
        + list_talking(talkers),
    }


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
