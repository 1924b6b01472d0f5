"""A bare Starlette echo, the floor under every server in Python: `uvicorn echo:app --app-dir benchmarks`."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def echo(request: Request) -> Response:
    """Answer with the body that came."""
    return Response(await request.body(), media_type="application/json")


app = Starlette(routes=[Route("/echo", echo, methods=["POST"])])
