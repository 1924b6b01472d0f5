"""Pages in a real browser that have nothing to complain of.

Border: used by tests only; the browser itself is the fixture `chromium`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page

from making import watched
from millis.bundles import Bundle
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor


@contextmanager
def open_page(
    chromium: Browser, url: str, *, may_complain: bool = False, locale: str = "en-US"
) -> Iterator[Page]:  # fmt: skip
    """Open a tab; an error on its console or a refused request fails the test."""
    page = chromium.new_page(locale=locale)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("response", lambda response: wrong.append(response.url) if response.status >= 400 else None)
    page.goto(url)
    yield page
    assert may_complain or wrong == []
    page.close()


@contextmanager
def serve_page(
    chromium: Browser, *bundles: Bundle, path: str = "", indexes: tuple[str, ...] = (), may_complain: bool = False,
    locale: str = "en-US",
) -> Iterator[tuple[Page, str]]:  # fmt: skip
    """Serve bundles and open a page of the server; give the page and where the server answers."""
    settings = ServeSettings(bundles=tuple(str(one.path) for one in bundles), indexes=indexes, port=0)
    with (
        Supervisor(settings) as server,
        watched(server),
        open_page(chromium, server.url + path, may_complain=may_complain, locale=locale) as page,
    ):
        yield page, server.url
