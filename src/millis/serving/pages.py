"""The pages for a browser: files of the folder page, with headers that let them load nothing from elsewhere.

Border: files; what pages ask of the server goes over the same routes as any client's.
"""

from importlib import resources
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from millis.errors import InvalidRequest
from millis.serving.replies import Answer

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


def list_page_routes() -> list[Route]:
    """Give the routes of the pages."""
    return [
        Route("/", _page("playground.html")),
        Route("/chat", _page("chat.html")),
        Route("/dashboard", _page("dashboard.html")),
        Route("/page/{file}", _answer_page),
    ]


async def _answer_page(request: Request) -> Response:
    return await _page(request.path_params["file"])(request)


def _page(file: str) -> Answer:
    async def answer(request: Request) -> Response:
        suffix = Path(file).suffix
        pages = {one.name: one for one in (resources.files("millis.serving") / "page").iterdir()}
        found = pages.get(file)
        if suffix not in _PAGE_TYPES or found is None:
            raise InvalidRequest("there is no such page: start at /.", status=404, slug="unknown-route")
        return Response(found.read_bytes(), headers=_PAGE_HEADERS, media_type=_PAGE_TYPES[suffix])

    return answer
