"""The chat page against the real server, in a real browser."""

import contextlib
import re
from pathlib import Path

import httpx
import pytest
from browsing import open_page, serve_page
from playwright.sync_api import Browser, Locator, expect

from making import make_fake_bundle
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from speaking import make_echo_bundle

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def wait_for_length(text: Locator, n: int) -> None:
    expect(text).to_have_text(re.compile(f"^.{{{n}}}", re.DOTALL), timeout=20_000)


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
        page.click("#stop")
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


def test_on_a_phone_stop_is_in_reach_as_the_answer_grows_and_the_page_goes_along(
    tmp_path: Path, chromium: Browser
) -> None:
    bundle = make_echo_bundle(tmp_path, context=200_000, pause_ms=20)
    with serve_page(chromium, bundle, path="/chat", may_complain=True) as (page, _):
        page.set_viewport_size({"width": 360, "height": 640})
        page.fill("#text", "好wxyz " * 1000)
        page.click("#send")
        answer = page.locator("#talk li[data-role=assistant]")
        wait_for_length(answer, 500)
        expect(page.locator("#stop")).to_be_in_viewport(ratio=1)
        shown = "document.querySelector('#talk li[data-role=assistant]').getBoundingClientRect().bottom"
        below = "document.querySelector('form').offsetHeight"  # each piece makes the item anew: no observer sees it
        assert page.evaluate(f"[0.25 * innerHeight < {shown}, {shown} <= innerHeight - {below} + 1]") == [True, True]
        page.evaluate("scrollTo(0, 0)")
        wait_for_length(answer, len(answer.text_content() or "") + 100)
        assert page.evaluate("scrollY") == 0, "who reads above is left there"
        expect(page.locator("#stop")).to_be_in_viewport(ratio=1)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.click("#stop")
        expect(page.locator("#talk small")).to_have_text("Stopped by you.")


def test_two_tabs_have_each_its_own_talk(tmp_path: Path, chromium: Browser) -> None:
    bundle = make_echo_bundle(tmp_path, pause_ms=5)
    with (
        serve_page(chromium, bundle, path="/chat") as (page, url),
        open_page(chromium, f"{url}/chat", locale="zh-CN") as other,
    ):
        for tab, said in ((page, "the tide is out"), (other, "潮水来了")):
            tab.fill("#text", said)
            tab.press("#text", "Enter")
        for tab, said, foreign in ((page, "the tide is out", "潮水"), (other, "潮水来了", "tide")):
            answer = tab.locator("#talk li[data-role=assistant]")
            expect(answer).to_contain_text(said)
            expect(tab.locator("#stop")).to_be_hidden()
            assert foreign not in (answer.text_content() or "")
            expect(tab.locator("#each")).to_contain_text("ms")


def test_a_talk_goes_on_when_the_server_is_there_again(tmp_path: Path, chromium: Browser) -> None:
    bundle = make_echo_bundle(tmp_path)
    with contextlib.ExitStack() as stack:
        server = Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0))
        with server:
            port = int(server.url.rpartition(":")[2])
            page = stack.enter_context(open_page(chromium, f"{server.url}/chat", may_complain=True))
            answers = page.locator("#talk li[data-role=assistant]")
            page.fill("#text", "before")
            page.click("#send")
            expect(answers).to_contain_text("before")
        page.fill("#text", "meanwhile")
        page.click("#send")
        expect(page.locator("#error")).to_contain_text("did not answer")
        expect(page.locator("#text")).to_have_value("meanwhile")
        expect(answers).to_have_count(1)
        with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=port)):
            page.click("#send")
            expect(answers).to_have_count(2)
            expect(answers.last).to_contain_text("before")  # the talk so far goes along
            expect(page.locator("#talk li[data-role=user]").last).to_have_text("meanwhile")
            expect(page.locator("#error")).to_be_hidden()


def test_enter_that_ends_a_composition_sends_nothing(tmp_path: Path, chromium: Browser) -> None:
    bundle = make_echo_bundle(tmp_path)
    with serve_page(chromium, bundle, path="/chat") as (page, _):
        page.fill("#text", "潮水")
        for event in ({"key": "Enter", "isComposing": True}, {"key": "Enter", "keyCode": 229}):
            page.dispatch_event("#text", "keydown", {**event, "bubbles": True, "cancelable": True})
        expect(page.locator("#text")).to_have_value("潮水")
        expect(page.locator("#talk li")).to_have_count(0)
        page.press("#text", "Enter")
        expect(page.locator("#talk li[data-role=assistant]")).to_contain_text("潮水")
