"""The routes of the Open Inference Protocol: where they are, and those of them that run no client's text.

Border: routes; what the protocol looks like is oip.py's.
"""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from millis.serving.executor import Executor
from millis.serving.oip import VERSION, describe_model, describe_server
from millis.serving.replies import json_route, write_json
from millis.serving.served import Served, check_ready, no_such_model


def oip_paths(name: str) -> tuple[str, str]:
    """Give where a model stands in the Open Inference Protocol: without its version and with it."""
    return f"/v2/models/{name}", f"/v2/models/{name}/versions/{VERSION}"


def list_oip_routes(served: Sequence[Served], executor: Executor) -> list[Route]:
    """Give the routes of the Open Inference Protocol that run no client's text."""
    by_name = {one.bundle.name: one for one in served}

    def find(request: Request) -> Served:
        found = by_name.get(request.path_params["model"])
        if found is None:
            raise no_such_model(by_name)
        return found

    async def answer_ready(request: Request) -> Response:
        await check_ready(served, executor)
        return write_json({"ready": True})

    async def answer_model(request: Request) -> Response:
        one = find(request)
        return write_json(describe_model(one.bundle.name, task=one.bundle.manifest.task))

    async def answer_model_ready(request: Request) -> Response:
        one = find(request)
        await check_ready([one], executor)
        return write_json({"name": one.bundle.name, "ready": True})

    async def answer_infer(request: Request) -> Response:
        find(request)
        raise AssertionError("a model that is served has a route of its own")

    routes = [
        Route("/v2", json_route(describe_server)),
        Route("/v2/health/live", json_route(lambda: {"live": True})),
        Route("/v2/health/ready", answer_ready),
    ]
    for path in oip_paths("{model}"):
        routes += [
            Route(path, answer_model),
            Route(f"{path}/ready", answer_model_ready),
            Route(f"{path}/infer", answer_infer, methods=["POST"]),
        ]
    return routes
