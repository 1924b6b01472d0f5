"""A real server on loopback, on the fake backend, and a real browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from making import make_fake_bundle, watched
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """One worker, requests on the event loop."""
    folder: Path = tmp_path_factory.mktemp("served")
    with Supervisor(ServeSettings(bundles=(str(make_fake_bundle(folder).path),), port=0)) as running, watched(running):
        yield running


@pytest.fixture(scope="module")
def chromium() -> "Iterator[Browser]":
    """A browser without a window."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no browser here: apt-get install chromium")
    from playwright.sync_api import sync_playwright  # half a second that most tests here need not wait for

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()
