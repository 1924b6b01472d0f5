"""The playground against the real server, in a real browser."""

from pathlib import Path

import httpx
import pytest
from browsing import open_page, serve_page
from playwright.sync_api import Browser, Route, expect

from making import make_fake_bundle
from millis.retrieving import build_index
from millis.retrieving.passages import Passage
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from speaking import make_echo_bundle

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_sentence_is_marked_and_its_milliseconds_are_shown(server: Supervisor, chromium: Browser) -> None:
    with open_page(chromium, server.url) as page:
        text = "😀 maria garcia wrote from 上海 about eu northwind order hello world"
        page.fill("#text", text)
        expect(page.locator("#answer")).to_contain_text("northwind")
        assert page.locator("#answer").text_content() == text
        expect(page.locator("#stages")).to_contain_text("run")
        expect(page.locator("#round-trip")).to_contain_text("ms")


def test_a_text_is_labelled_and_its_scores_are_ranked(tmp_path: Path, chromium: Browser) -> None:
    bundle = make_fake_bundle(tmp_path, task="classify")
    names = make_fake_bundle(tmp_path, name="names")
    with serve_page(chromium, bundle, names) as (page, _):
        page.fill("#text", "😀 maria garcia wrote from 上海 about eu northwind order hello world")
        rows = page.locator("#scores tbody tr")
        expect(rows).to_have_count(3)
        best = rows.first.locator(".tag").text_content()
        expect(page.locator("#answer")).to_have_text(best or "?")
        expect(page.locator("#summary")).to_contain_text("1 label in")
        expect(page.locator("#command")).to_contain_text("/v1/classify")
        expect(page.locator("#entities")).to_be_hidden()
        page.select_option("#model", "names")
        expect(page.locator("#entities")).to_be_visible()
        expect(page.locator("#scores")).to_be_hidden()
        expect(page.locator("#ask")).to_contain_text("Find entities")
        page.click("#language")
        expect(page.locator("#ask")).to_contain_text("识别实体")


def test_a_question_is_answered_in_its_text(tmp_path: Path, chromium: Browser) -> None:
    bundle = make_fake_bundle(tmp_path, task="qa")
    with serve_page(chromium, bundle) as (page, _):
        expect(page.locator("#question")).to_have_value("who wrote")
        text = "😀 maria garcia wrote from 上海 about eu northwind order hello world"
        page.fill("#text", text)
        page.fill("#question", "who wrote from lisbon")
        rows = page.locator("#entities tbody tr")
        expect(page.locator("#answer")).to_contain_text("northwind")
        expect(rows).to_have_count(3)
        assert page.locator("#answer").text_content() == text
        expect(page.locator("#command")).to_contain_text('"question":"who wrote from lisbon"')
        best = rows.first.locator("td").first.text_content()
        marked = page.locator("#answer .entity")
        if marked.count():
            expect(marked).to_have_text(best or "?")
        page.click("#language")
        expect(page.locator("#ask")).to_contain_text("寻找答案")
        page.fill("#question", "")
        expect(page.locator("#entities")).to_be_hidden()


def test_documents_are_ranked(tmp_path: Path, chromium: Browser) -> None:
    bundle = make_fake_bundle(tmp_path, task="rerank")
    with serve_page(chromium, bundle) as (page, _):
        expect(page.locator("#question")).to_have_value("who wrote")
        page.fill("#text", "maria garcia wrote\n\nhello world\neu rejects german call")
        rows = page.locator("#entities tbody tr")
        expect(rows).to_have_count(3)
        expect(page.locator("#answer")).to_have_text(rows.first.locator("td").first.text_content() or "?")
        expect(page.locator("#summary")).to_contain_text("3 documents in")
        expect(page.locator("#command")).to_contain_text('"documents":["maria garcia wrote"')


@pytest.mark.parametrize(("locale", "relevance"), [("en-US", "Relevance"), ("zh-CN", "相关度")])
def test_what_is_found_is_reranked_where_a_reranker_is_served(
    locale: str, relevance: str, tmp_path: Path, chromium: Browser
) -> None:
    emb = make_fake_bundle(tmp_path, name="emb", task="embedding", buckets=(16, 32))
    rank = make_fake_bundle(tmp_path, name="rank", task="rerank", buckets=(16, 32))
    passages = [Passage(id=f"p{i}", text=text) for i, text in enumerate(["refund takes five days", "退款需要五天", "order leaves lisbon"])]
    build_index(tmp_path / "faq.index", passages=passages, model=emb.path)
    with serve_page(chromium, emb, rank, indexes=(str(tmp_path / "faq.index"),), locale=locale) as (page, url):
        wanted = httpx.post(f"{url}/v1/search", json={"query": "退款 refund", "rerank": True}).json()["results"]
        expect(page.locator("#rerank")).to_be_hidden()
        page.select_option("#model", "faq")
        page.fill("#text", "退款 refund")
        expect(page.locator("#entities tbody tr")).to_have_count(3)
        page.check("#reranks")
        expect(page.locator("#entities thead")).to_contain_text(relevance)
        expect(page.locator("#answer")).to_have_text(wanted[0]["text"])
        expect(page.locator("#entities tbody tr").first).to_contain_text(f"{100 * wanted[0]['relevance_score']:.1f}")
        expect(page.locator("#command")).to_contain_text('"rerank":true')
        expect(page.locator("#stages")).to_contain_text("rerank" if locale == "en-US" else "重排")
        page.uncheck("#reranks")
        expect(page.locator("#entities thead")).not_to_contain_text(relevance)


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_lines_are_compared_with_the_first(locale: str, tmp_path: Path, chromium: Browser) -> None:
    bundle = make_fake_bundle(tmp_path, name="emb", task="embedding")
    with serve_page(chromium, bundle, locale=locale) as (page, _):
        lines = ["maria garcia wrote", "退款需要五天", "maria garcia wrote", "hello world"]
        page.fill("#text", "\n".join(lines))
        rows = page.locator("#scores tbody tr")
        expect(rows).to_have_count(3)
        expect(rows.first.locator(".tag")).to_have_text(lines[2])
        expect(rows.first).to_contain_text("100")
        expect(page.locator("#answer")).to_have_text(lines[2])
        page.fill("#text", "退款需要五天")
        expect(page.locator("#summary")).to_contain_text("请再写一行" if locale == "zh-CN" else "Write a second line")


def test_an_index_is_searched_as_one_types_and_a_filter_narrows_it(tmp_path: Path, chromium: Browser) -> None:
    bundle = make_fake_bundle(tmp_path, name="emb", task="embedding")
    passages = [
        Passage(id="r1", text="refund takes five days", fields={"topic": "refund"}),
        Passage(id="o1", text="order leaves lisbon", fields={"topic": "order"}),
    ]
    build_index(tmp_path / "faq.index", passages=passages, model=bundle.path)
    with serve_page(chromium, bundle, indexes=(str(tmp_path / "faq.index"),)) as (page, _):
        page.select_option("#model", "faq")
        page.fill("#text", "order lisbon")
        rows = page.locator("#entities tbody tr")
        expect(rows).to_have_count(2)
        expect(page.locator("#stages")).to_contain_text("the nearest vectors")
        page.fill("#question", '{"topic": "refund"')
        expect(page.locator("#error")).to_contain_text("The filter is no JSON")
        page.fill("#question", '{"topic": "refund"}')
        expect(rows).to_have_count(1)
        expect(page.locator("#answer")).to_have_text("refund takes five days")
        expect(page.locator("#command")).to_contain_text("/v1/search")


def test_a_text_is_translated_as_one_types(tmp_path: Path, chromium: Browser) -> None:
    bundle = make_echo_bundle(tmp_path, name="zh", task="translate", instruction="Into Chinese: {text}")
    with serve_page(chromium, bundle) as (page, _):
        page.fill("#text", "good morning")
        expect(page.locator("#answer")).to_have_text("user\nInto Chinese: good morning")
        expect(page.locator("#summary")).to_contain_text("written in")
        expect(page.locator("#found")).to_be_hidden()


def test_what_one_begins_to_type_while_the_page_loads_is_not_put_behind_an_example(tmp_path: Path, chromium: Browser) -> None:
    bundle = make_fake_bundle(tmp_path, name="emb", task="embedding")
    settings = ServeSettings(bundles=(str(bundle.path),), port=0)
    with Supervisor(settings) as server, open_page(chromium, "about:blank") as page:
        held: list[Route] = []
        page.route("**/v1/models", lambda route: held.append(route))  # playwright asks it for its parameters
        page.goto(server.url)
        page.focus("#text")
        expect(page.locator("#text")).to_be_focused()
        held.pop().continue_()
        expect(page.locator("#model option")).to_have_count(1)
        page.keyboard.insert_text("maria garcia\nhello world")
        expect(page.locator("#text")).to_have_value("maria garcia\nhello world")
        expect(page.locator("#scores tbody tr")).to_have_count(1)
