"""The report in a real browser: on a phone, and in print."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from measuring.test_report import sample
from millis.measuring.report import write_report

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PHONE, A4 = 390, 718
"""Widths in CSS pixels: a phone, and a sheet between its margins."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no browser here: apt-get install chromium")
    file = tmp_path_factory.mktemp("report") / "report.html"
    write_report(file, report=sample(label="A label of unusual length"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": PHONE, "height": 844})
        page.goto(file.as_uri())
        yield page
        browser.close()


def hidden_px(page: Page, selector: str) -> list[int]:
    """Give how far each of these elements is wider than what is seen of it."""
    found: list[int] = page.eval_on_selector_all(selector, "all => all.map(one => one.scrollWidth - one.clientWidth)")
    return found


def test_on_a_phone_sentences_are_read_without_scrolling_sideways(page: Page) -> None:
    page.set_viewport_size({"width": PHONE, "height": 844})
    assert hidden_px(page, "html") == [0]
    stacked = hidden_px(page, ".scroll:has(.stack)")
    assert len(stacked) >= 4
    assert set(stacked) == {0}
    step = page.locator(".stack tr", has_text="pruned to 50 % of the layers' time, distilled")
    assert step.locator("td").first.bounding_box()["width"] > PHONE / 2, "not a word a line"
    assert page.locator("td[data-label=Reason]", has_text="least expected time over the lengths").is_visible()


def test_in_print_nothing_is_cut_off_and_no_row_is_torn(page: Page, tmp_path: Path) -> None:
    page.emulate_media(media="print")
    page.set_viewport_size({"width": A4, "height": 1000})
    try:
        assert hidden_px(page, "html") == [0]
        assert set(hidden_px(page, ".scroll")) == {0}
        assert page.eval_on_selector("tr", "row => getComputedStyle(row).breakInside") == "avoid"
        page.pdf(path=tmp_path / "report.pdf", format="A4")
        assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    finally:
        page.emulate_media(media="screen")
