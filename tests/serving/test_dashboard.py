"""The dashboard against the real server, in a real browser."""

import re
from pathlib import Path

import httpx
import pytest
from browsing import serve_page
from playwright.sync_api import Browser, expect

from making import make_fake_bundle, watched
from millis.contract import Contract
from millis.security.keys import KeyFile
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from speaking import make_echo_bundle

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_the_dashboard_shows_what_is_kept_while_it_happens(tmp_path: Path, chromium: Browser) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=60.0, faster_ms=0.0, p99="40 ms")
    with serve_page(chromium, bundle, path="/dashboard") as (page, url):
        expect(page.get_by_test_id("promise")).to_have_text("promised: p99 within 40.0 ms at 50 requests/s")
        expect(page.get_by_test_id("refusals")).to_have_text("none")

        def ask(rung: str, n: int, deadline_ms: int = 5000) -> None:
            for _ in range(n):
                httpx.post(f"{url}/v1/ner", json={"input": "maria", "rung": rung}, headers={"X-Deadline-Ms": str(deadline_ms)})

        ask("fake-fast", 15)
        ask("fake", 5)
        ask("fake", 2, deadline_ms=5)
        expect(page.get_by_test_id("mix-legend")).to_contain_text("fake-fast75.0 %")
        expect(page.get_by_test_id("mix-legend")).to_contain_text("fake25.0 %")
        expect(page.get_by_test_id("within")).to_have_text("75.0 %")
        expect(page.get_by_test_id("within")).to_have_attribute("data-status", "broken")
        expect(page.get_by_test_id("refusals")).to_have_text("deadline-too-short2")
        expect(page.get_by_test_id("causes")).to_contain_text("run")
        expect(page.get_by_test_id("calibration")).to_have_text("100.0 %")
        expect(page.get_by_test_id("histogram")).to_have_attribute("aria-label", "20 answers, 5 of them over the bound")
        expect(page.locator("#edges")).to_contain_text("40")
        assert 0 < float((page.get_by_test_id("median").text_content() or "").split()[0]) < 40 < float((page.get_by_test_id("percentile").text_content() or "").split()[0])
        expect(page.get_by_test_id("slowest").locator("tr")).to_have_count(8, timeout=10_000)
        expect(page.get_by_test_id("states")).to_contain_text("serving")
        page.click("#language")
        expect(page.locator("#latency-title")).to_have_text("延迟与合约")
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_of_a_model_that_speaks_the_dashboard_shows_first_and_later_tokens_against_the_contract(tmp_path: Path, chromium: Browser) -> None:
    bundle = make_echo_bundle(tmp_path, name="echo", contract=Contract(p99="5 ms", rate=2, per_token="1 s"))
    with serve_page(chromium, bundle, path="/dashboard") as (page, url):
        expect(page.get_by_test_id("promise")).to_have_text("promised: p99 within 5.00 ms at 2 requests/s, each later token within 1,000 ms")
        asked = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
        for deadline_ms in (60_000, 60_000, 1):
            httpx.post(f"{url}/v1/chat/completions", json=asked, headers={"X-Deadline-Ms": str(deadline_ms)})
        expect(page.locator("#percentile-name")).to_have_text("p99 to the first token of 2 answers in the server, the last minute")
        expect(page.get_by_test_id("each")).to_contain_text("ms")
        expect(page.get_by_test_id("within")).to_have_attribute("data-status", re.compile("kept|broken"))
        expect(page.locator("#edges .bound")).to_have_text("5 ms")
        expect(page.get_by_test_id("refusals")).to_have_text(re.compile("deadline-too-short1|would-be-late1"))
        expect(page.locator("#rungs")).to_be_hidden()


def test_the_dashboard_asks_for_a_key_and_says_when_it_does_not_suffice(tmp_path: Path, chromium: Browser) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    metrics, admin, user = (keys.create(name="", scopes=[scope])[0] for scope in ("metrics", "admin", "ner"))
    bundle = make_fake_bundle(tmp_path)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, keys=str(keys.path))) as server, watched(server):
        assert httpx.get(f"{server.url}/dashboard").status_code == 401
        assert httpx.get(f"{server.url}/dashboard", headers={"X-API-Key": user}).status_code == 403
        for key, may_see in ((metrics, False), (admin, True)):
            context = chromium.new_context(http_credentials={"username": "any", "password": key})
            page = context.new_page()
            page.goto(f"{server.url}/dashboard")
            expect(page.get_by_test_id("promise")).to_contain_text("1,000 ms")
            expect(page.get_by_test_id("error")).to_be_hidden()
            expect(page.locator("#slow")).to_be_visible() if may_see else expect(page.locator("#slow")).to_be_hidden()
            context.close()


@pytest.mark.parametrize(
    ("limits", "says"), [({}, "may not read the metrics"), ({"quota_per_day": 12}, "rate or the quota of the key")]
)
def test_a_key_that_ends_while_the_page_is_open_is_told_for_good(tmp_path: Path, chromium: Browser, limits: dict[str, int], says: str) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    secret, key = keys.create(name="", scopes=["metrics"], **limits)
    keys.create(name="other", scopes=["metrics"])
    bundle = make_fake_bundle(tmp_path)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, keys=str(keys.path))) as server, watched(server):
        context = chromium.new_context(http_credentials={"username": "any", "password": secret}, locale="en-US")
        page = context.new_page()
        page.goto(f"{server.url}/dashboard")
        expect(page.get_by_test_id("promise")).to_contain_text("p99")
        if not limits:
            keys.revoke(key.id)
        expect(page.get_by_test_id("error")).to_contain_text(says, timeout=20_000)
        said = page.evaluate(
            "new Promise((done) => { const seen = new Set(); const error = document.getElementById('error');"
            " const look = setInterval(() => seen.add(error.textContent), 200);"
            " setTimeout(() => { clearInterval(look); done([...seen]); }, 7000); })"
        )
        assert len(said) == 1
        assert says in said[0]
        context.close()


def test_a_server_that_stopped_is_told(tmp_path: Path, chromium: Browser) -> None:
    bundle = make_fake_bundle(tmp_path)
    page = chromium.new_page(locale="en-US")
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        page.goto(f"{server.url}/dashboard")
        expect(page.get_by_test_id("promise")).to_contain_text("p99")
    expect(page.get_by_test_id("error")).to_contain_text("does not answer")
    page.close()
