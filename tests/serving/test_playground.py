"""The playground in a real browser, over real HTTP on loopback.

The pages are the served files; answers come from a small server of our own, which finds names from a list.
Tests that take `base_url` alone hold for any server that speaks the protocol: override the fixture.
"""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import millis.serving

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PAGE = Path(millis.serving.__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
NAMES = {
    "Maria Garcia": "PERSON",
    "Northwind": "COMPANY",
    "Lisbon": "CITY",
    "王小明": "PERSON",
    "北京": "CITY",
}
CONTRACT = {"percentile": 99, "bound_ms": 15, "rate_per_s": 100}
CLAUSES = [{"name": "p99 latency", "status": "kept", "detail": "3 of 10000 requests missed 15 ms; p99 seen 6.1 ms"}]


class CannedServer:
    """Finds known names; holds a text with `slow` in it until told; refuses one with `refuse` in it."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.slow_arrived = threading.Event()
        self.slow_answered = threading.Event()
        self.inputs: list[str] = []
        model = {"object": "model", "task": "ner", "rung": "int8", "labels": ["CITY", "COMPANY", "PERSON"],
                 "example": "Maria Garcia of Northwind wrote from Lisbon.", "contract": CONTRACT}  # fmt: skip
        models = [{"id": name, **model} for name in ("people", "places")]
        verdict = {"status": "kept", "clauses": CLAUSES}
        contracts = [{"model": "people", "contract": CONTRACT, "verdict": verdict},
                     {"model": "places", "contract": CONTRACT}]  # fmt: skip
        self.app = Starlette(routes=[
            Route("/", lambda request: page("playground.html")),
            Route("/page/{file}", lambda request: page(request.path_params["file"])),
            Route("/v1/models", lambda request: JSONResponse({"object": "list", "data": models})),
            Route("/contract", lambda request: JSONResponse({"data": contracts})),
            Route("/v1/ner", self.answer, methods=["POST"]),
        ])  # fmt: skip

    async def answer(self, request: Request) -> Response:
        asked: dict[str, Any] = await request.json()
        text = asked["input"]
        self.inputs.append(text)
        if "refuse" in text:
            detail = "the request would take 40 ms, and its deadline is 5 ms: send a shorter text."
            problem = {
                "type": "/problems/too-late",
                "title": "Service Unavailable",
                "status": 503,
                "detail": detail,
            }
            return JSONResponse(problem, 503, {"retry-after": "2"}, media_type="application/problem+json")
        if "slow" in text:
            self.slow_arrived.set()
            await run_in_threadpool(self.released.wait, 20)
        entities = sorted(
            ({"label": label, "text": name, "start": at, "end": at + len(name), "score": 0.987}
             for name, label in NAMES.items() if (at := text.find(name)) >= 0),
            key=lambda entity: entity["start"],
        )  # fmt: skip
        timing = "parse;dur=0.05, queue;dur=0.01, tokenize;dur=0.1, run;dur=2.1, decode;dur=0.05, write;dur=0.02"
        answer = {"model": asked["model"], "rung": "int8", "results": [{"entities": entities}]}
        if "slow" in text:
            self.slow_answered.set()
        return JSONResponse(answer, headers={"server-timing": timing})


def page(file: str) -> Response:
    headers = {"content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'"}
    return Response((PAGE / file).read_bytes(), headers=headers, media_type=TYPES[Path(file).suffix])


@pytest.fixture
def canned() -> Iterator[tuple[CannedServer, str]]:
    """A canned server that listens, and its address."""
    server = CannedServer()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        web = uvicorn.Server(uvicorn.Config(server.app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=web.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield server, f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.released.set()
            web.should_exit = True
            thread.join(timeout=10)


@pytest.fixture
def base_url(canned: tuple[CannedServer, str]) -> str:
    """Where the page is served."""
    return canned[1]


@pytest.fixture
def tab(chromium: Browser) -> Iterator[Page]:
    """An English tab; a message on its console, such as a breach of the page's policy, fails the test."""
    context = chromium.new_context(locale="en-US", viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    yield opened
    context.close()
    assert [line for line in complaints if "503" not in line and "ERR_CONNECTION" not in line] == []


def visit(tab: Page, url: str) -> None:
    """Open the page and wait until it has answered its own example."""
    tab.goto(url)
    expect(tab.locator("#answer")).not_to_be_empty()


def ask(tab: Page, text: str) -> None:
    """Type a text and wait until its answer stands on the page."""
    tab.locator("#text").fill(text)
    expect(tab.locator("#answer")).to_have_text(text)


def marks(tab: Page) -> list[dict[str, Any]]:
    """Read the marks as the page shows them, with their places in code points."""
    return tab.locator("#answer").evaluate(
        """answer => [...answer.querySelectorAll("mark")].map(mark => {
            const before = document.createRange();
            before.setStart(answer, 0);
            before.setEndBefore(mark);
            const start = [...before.toString()].length;
            const label = getComputedStyle(mark, "::after").content.match(/[^"\u2060 ]+(?="$)/)[0];
            return {label, text: mark.textContent, start, end: start + [...mark.textContent].length};
        })"""
    )


@pytest.mark.parametrize(
    "text",
    [
        "Maria Garcia of Northwind wrote from Lisbon.",
        "😀👩‍👩‍👧 Maria Garcia 🎉 flew 🇵🇹 to Lisbon.",
        "昨天王小明从北京🚄写信给 Maria Garcia。",
        "  Lisbon \n\n  <b>Northwind</b> & Maria Garcia",
    ],
)
def test_entities_are_marked_where_the_server_says(tab: Page, base_url: str, text: str) -> None:
    visit(tab, base_url)
    model = httpx.get(f"{base_url}/v1/models").json()["data"][0]["id"]
    answer = httpx.post(f"{base_url}/v1/ner", json={"model": model, "input": text}).json()
    ask(tab, text)
    expected = answer["results"][0]["entities"]
    assert marks(tab) == [{key: entity[key] for key in ("label", "text", "start", "end")} for entity in expected]
    cells = tab.locator("#entities tbody td:first-child")
    expect(cells).to_have_text([entity["text"] for entity in expected])


def test_example_of_the_model_is_answered_at_once(tab: Page, base_url: str) -> None:
    visit(tab, base_url)
    example = httpx.get(f"{base_url}/v1/models").json()["data"][0]["example"]
    expect(tab.locator("#text")).to_have_value(example)
    expect(tab.locator("#answer")).to_have_text(example)
    expect(tab.locator("#error")).to_be_hidden()


def test_milliseconds_are_shown_by_stage_beside_the_round_trip(tab: Page, canned: tuple[CannedServer, str]) -> None:
    visit(tab, canned[1])
    ask(tab, "Lisbon")
    shown = tab.locator("#stages .legend > div").all_inner_texts()
    assert [line.split("\n")[:2] for line in shown] == [
        ["parse", "0.05 ms"], ["queue", "0.01 ms"], ["tokenize", "0.10 ms"], ["run", "2.10 ms"],
        ["decode", "0.05 ms"], ["write", "0.02 ms"],
    ]  # fmt: skip
    widths = tab.locator("#stages .bar i").evaluate_all(
        "parts => parts.map(part => part.getBoundingClientRect().width)"
    )
    assert widths[3] / sum(widths) == pytest.approx(2.1 / 2.33, abs=0.02)
    assert float(tab.locator("#round-trip").inner_text().removesuffix(" ms")) > 0
    expect(tab.locator("#server")).to_have_text("2.33 ms")


def test_contract_stands_with_its_verdict_and_its_bound(tab: Page, canned: tuple[CannedServer, str]) -> None:
    visit(tab, canned[1])
    ask(tab, "Lisbon")
    expect(tab.locator("#verdict")).to_contain_text("contract kept")
    expect(tab.locator("#verdict")).to_contain_text("p99 within 15 ms at 100 requests/s")
    expect(tab.locator("#ruler .bound")).to_have_text("contract 15 ms")
    tab.locator("#model").select_option("places")
    expect(tab.locator("#verdict")).to_contain_text("not yet proven")


def test_score_shows_on_focus_and_leaves_on_escape(tab: Page, canned: tuple[CannedServer, str]) -> None:
    visit(tab, canned[1])
    ask(tab, "He lives in Lisbon")
    tab.locator("#ask").focus()
    tab.keyboard.press("Tab")
    expect(tab.locator("#tip")).to_have_text("CITY, score 98.7 %")
    tab.keyboard.press("Escape")
    expect(tab.locator("#tip")).to_be_hidden()


def test_refusal_is_shown_as_a_sentence_and_the_next_answer_clears_it(
    tab: Page, canned: tuple[CannedServer, str]
) -> None:
    visit(tab, canned[1])
    tab.locator("#text").fill("please refuse this")
    expect(tab.locator("#error")).to_have_text(
        "The server refused (503): the request would take 40 ms, and its deadline is 5 ms:"
        " send a shorter text. Try again in 2 s."
    )
    expect(tab.locator("mark")).to_have_count(0)
    ask(tab, "Lisbon")
    expect(tab.locator("#error")).to_be_hidden()


def test_server_that_is_gone_is_a_sentence(tab: Page, base_url: str) -> None:
    visit(tab, base_url)
    tab.route("**/v1/ner", lambda route: route.abort("connectionrefused"))
    tab.locator("#ask").click()
    expect(tab.locator("#error")).to_contain_text("The server did not answer")


def test_late_answer_to_an_older_text_is_dropped(tab: Page, canned: tuple[CannedServer, str]) -> None:
    server, url = canned
    visit(tab, url)
    tab.locator("#text").fill("slow Maria Garcia")
    assert server.slow_arrived.wait(10)
    tab.locator("#answer").evaluate(
        """answer => { window.shown = [];
            new MutationObserver(() => shown.push(answer.textContent)).observe(answer, {childList: true}); }"""
    )
    ask(tab, "quick Lisbon")
    server.released.set()
    assert server.slow_answered.wait(10)
    for text in ("quick Northwind", "quick Lisbon and Northwind"):
        ask(tab, text)
    assert [text for text in tab.evaluate("shown") if "slow" in text] == []
    assert [mark["text"] for mark in marks(tab)] == ["Lisbon", "Northwind"]


def test_fast_typing_is_one_question_and_the_keyboard_asks_at_once(tab: Page, canned: tuple[CannedServer, str]) -> None:
    server, url = canned
    visit(tab, url)
    tab.clock.install(time=0)
    tab.clock.pause_at(1000)
    server.inputs.clear()
    tab.locator("#text").fill("")
    tab.locator("#text").press_sequentially("Lisbon")
    tab.clock.run_for(121)
    expect(tab.locator("#answer")).to_have_text("Lisbon")
    tab.locator("#text").press("Control+Enter")
    expect(tab.locator("#answer")).to_have_attribute("aria-busy", "false")
    assert server.inputs == ["Lisbon", "Lisbon"]


def test_language_switches_by_hand_and_is_kept_in_the_browser_only(tab: Page, base_url: str) -> None:
    visit(tab, base_url)
    expect(tab.locator("#ask")).to_contain_text("Find entities")
    tab.locator("#language").click()
    expect(tab.locator("#ask")).to_contain_text("识别实体")
    expect(tab.locator("html")).to_have_attribute("lang", "zh-Hans")
    tab.reload()
    expect(tab.locator("#ask")).to_contain_text("识别实体")
    assert tab.context.cookies() == []


def test_chinese_browser_is_met_in_chinese(chromium: Browser, base_url: str) -> None:
    with chromium.new_context(locale="zh-CN") as context:
        tab = context.new_page()
        visit(tab, base_url)
        expect(tab.locator("#time-title")).to_have_text("时间去向")
        expect(tab.locator("#language")).to_have_text("English")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_has_no_sideways_scroll(chromium: Browser, base_url: str, scheme: str) -> None:
    with chromium.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme, locale="en-US") as context:
        tab = context.new_page()
        visit(tab, base_url)
        ask(tab, "Maria Garcia of Northwind " + "Lisbon" * 30 + " https://example.org/" + "a" * 200)
        widths = tab.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert widths[0] <= widths[1] == 390


def test_both_languages_have_the_same_words(tab: Page, base_url: str) -> None:
    visit(tab, base_url)
    keys = tab.evaluate(
        """async () => {
            const { WORDS } = await import("/page/words.js");
            const isGroup = value => typeof value === "object" && !Array.isArray(value);
            const names = words => Object.entries(words).flatMap(([key, value]) =>
                isGroup(value) ? names(value).map(name => `${key}.${name}`) : [key]);
            const used = [...document.querySelectorAll("[data-words]")].map(element => element.dataset.words);
            const tasks = Object.values(WORDS.en.tasks).map(words => Object.keys(words));
                return {en: names(WORDS.en), zh: names(WORDS.zh), used, tasks, ofTask: Object.keys(WORDS.en.tasks.ner)};
        }"""
    )
    assert keys["en"] == keys["zh"]
    assert set(keys["used"]) <= {*keys["en"], *keys["ofTask"]}
    for of_task in keys["tasks"]:
        assert set(keys["ofTask"]) <= set(of_task), "every task has words for what is said of each"
        assert set(of_task) <= {*keys["ofTask"], *keys["en"]}, "and else changes general ones only"
