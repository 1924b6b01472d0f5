"""The chat page against the real server, in a real browser."""

from pathlib import Path

import httpx
import pytest
from browsing import serve_page
from playwright.sync_api import Browser, expect

from making import make_fake_bundle
from speaking import make_echo_bundle

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_an_answer_streams_in_with_its_milliseconds(tmp_path: Path, chromium: Browser) -> None:
    bundle = make_echo_bundle(tmp_path)
    with serve_page(chromium, bundle) as (page, url):
        expect(page).to_have_url(f"{url}/chat")  # nothing else is served
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


def test_a_refusal_is_said_and_the_message_comes_back(tmp_path: Path, chromium: Browser) -> None:
    bundle = make_echo_bundle(tmp_path, context=64)
    with serve_page(chromium, bundle, path="/chat", may_complain=True) as (page, _):
        page.fill("#text", "x" * 100)
        page.click("#send")
        expect(page.locator("#error")).to_contain_text("tokens")
        expect(page.locator("#text")).to_have_value("x" * 100)
        expect(page.locator("#talk li")).to_have_count(0)


def test_stop_ends_the_answer_and_the_decoding(tmp_path: Path, chromium: Browser) -> None:
    bundle = make_echo_bundle(tmp_path, context=200_000, pause_ms=1)  # ten seconds of it, which no page outlasts
    with serve_page(chromium, bundle, path="/chat", may_complain=True) as (page, url):
        page.fill("#text", "wxyz " * 2000)
        page.click("#send")
        expect(page.locator("#talk li[data-role=assistant]")).to_contain_text("wxyz")
        page.locator("#stop").dispatch_event("click")  # it moves down as the answer grows: a click would wait for it
        expect(page.locator("#talk small")).to_have_text("Stopped by you.")
        expect(page.locator("#stop")).to_be_hidden()
        for _ in range(50):
            counts = httpx.get(f"{url}/metrics").text
            if 'status="499"' in counts:
                break
            page.wait_for_timeout(100)
        assert 'route="/v1/chat/completions",status="499"' in counts


def test_the_playground_leads_to_the_chat_where_there_is_one(tmp_path: Path, chromium: Browser) -> None:
    chats, names = make_echo_bundle(tmp_path), make_fake_bundle(tmp_path, name="names")
    with serve_page(chromium, chats, names) as (page, _):
        expect(page.locator("#model-name")).to_have_text("names")
        page.click("#chat")
        expect(page.locator("#model")).to_have_value("echo")
