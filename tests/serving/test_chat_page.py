"""The chat page against the real server, in a real browser."""

from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from test_playground import chromium  # noqa: F401 - a fixture, used by name

from making import make_fake_bundle
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from speaking import make_echo_bundle

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def _open(chromium: Browser, url: str) -> tuple[Page, list[str]]:  # noqa: F811
    page = chromium.new_page(locale="en-US")
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(url)
    return page, wrong


def test_an_answer_streams_in_with_its_milliseconds(tmp_path: Path, chromium: Browser) -> None:  # noqa: F811
    bundle = make_echo_bundle(tmp_path)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        page, wrong = _open(chromium, server.url)
        expect(page).to_have_url(f"{server.url}/chat")  # nothing else is served
        page.fill("#text", "潮水 <b>come</b>")
        page.press("#text", "Enter")
        answers = page.locator("#talk li[data-role=assistant]")
        expect(answers).to_contain_text("潮水 <b>come</b>")
        expect(page.locator("#first")).to_contain_text("ms")
        expect(page.locator("#each")).to_contain_text("ms")
        assert int(page.locator("#count").text_content() or 0) > 10
        expect(page.locator("#stop")).to_be_hidden()
        page.fill("#text", "again")
        page.click("#send")
        expect(answers).to_have_count(2)
        expect(answers.last).to_contain_text("come")  # the talk so far goes along, and the echo says it
        page.click("#language")
        expect(page.locator("#send")).to_have_text("发送")
        page.click("#again")
        expect(answers).to_have_count(0)
        assert wrong == []
        page.close()


def test_a_refusal_is_said_and_the_message_comes_back(tmp_path: Path, chromium: Browser) -> None:  # noqa: F811
    bundle = make_echo_bundle(tmp_path, context=64)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        page, _ = _open(chromium, f"{server.url}/chat")
        page.fill("#text", "x" * 100)
        page.click("#send")
        expect(page.locator("#error")).to_contain_text("tokens")
        expect(page.locator("#text")).to_have_value("x" * 100)
        expect(page.locator("#talk li")).to_have_count(0)
        page.close()


def test_stop_ends_the_answer_and_the_decoding(tmp_path: Path, chromium: Browser) -> None:  # noqa: F811
    bundle = make_echo_bundle(tmp_path, context=200_000)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        page, _ = _open(chromium, f"{server.url}/chat")
        page.fill("#text", "wxyz " * 9000)
        page.click("#send")
        expect(page.locator("#talk li[data-role=assistant]")).to_contain_text("wxyz")
        page.locator("#stop").dispatch_event("click")  # it moves down as the answer grows: a click would wait for it
        expect(page.locator("#talk small")).to_have_text("Stopped by you.")
        expect(page.locator("#stop")).to_be_hidden()
        for _ in range(50):
            counts = httpx.get(f"{server.url}/metrics").text
            if 'status="499"' in counts:
                break
            page.wait_for_timeout(100)
        assert 'route="/v1/chat/completions",status="499"' in counts
        page.close()


def test_the_playground_leads_to_the_chat_where_there_is_one(tmp_path: Path, chromium: Browser) -> None:  # noqa: F811
    chats, names = make_echo_bundle(tmp_path), make_fake_bundle(tmp_path, name="names")
    with Supervisor(ServeSettings(bundles=(str(chats.path), str(names.path)), port=0)) as server:
        page, wrong = _open(chromium, server.url)
        expect(page.locator("#model-name")).to_have_text("names")
        page.click("#chat")
        expect(page.locator("#model")).to_have_value("echo")
        assert wrong == []
        page.close()
