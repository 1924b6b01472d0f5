"""The playground against the real server, in a real browser."""

import pytest
from playwright.sync_api import Browser, expect
from test_playground import chromium  # noqa: F401 - a fixture, used by name

from millis.serving.supervisor import Supervisor

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_sentence_is_marked_and_its_milliseconds_are_shown(
    server: Supervisor,
    chromium: Browser,  # noqa: F811
) -> None:
    page = chromium.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("response", lambda response: wrong.append(response.url) if response.status >= 400 else None)
    page.goto(server.url)
    text = "😀 maria garcia wrote from 上海 about eu northwind order hello world"
    page.fill("#text", text)
    expect(page.locator("#answer")).to_contain_text("northwind")
    assert page.locator("#answer").text_content() == text
    expect(page.locator("#stages")).to_contain_text("run")
    expect(page.locator("#round-trip")).to_contain_text("ms")
    assert wrong == []
    page.close()
