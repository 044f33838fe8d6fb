"""The live page in a real browser, on a real server, while another process writes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.demo_rows import PASSWORD, USERNAME
from tests.processes import Process, Site

pytestmark = pytest.mark.browser

# What is wider than its place: the page itself, or a card that hides the rest of its table.
SIDEWAYS = """
    [document.documentElement, ...document.querySelectorAll(".card, .summary, .bar")]
        .filter((element) => element.scrollWidth > element.clientWidth)
        .map((element) => element.getAttribute("aria-labelledby") || element.className || element.tagName)
"""
on_sqlite = pytest.mark.parametrize("site", ["sqlite"], indirect=True)  # where the database is no matter
SOON = 10_000  # milliseconds; the promise is one second, on a machine that has nothing else to do


def write(site: Site, *step: str) -> str:
    return site.run(sys.executable, "-m", "tests.browser.demo_rows", *step)


@pytest.fixture
def web(site: Site) -> Process:
    write(site, "people")
    return site.start_web()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(
        locale="en-GB", timezone_id="Asia/Seoul", viewport={"width": 1440, "height": 900}
    )
    yield context
    context.close()


def log_in(context: BrowserContext, web: Process) -> Page:
    """Log in and wait until the page is live. Any error in the page's console fails the test."""
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"the page failed: {error}"))
    page.goto(f"{web.url}/positions")
    page.get_by_label("User name").fill(USERNAME)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_url(f"{web.url}/positions")
    expect(connection(page)).to_have_attribute("data-state", "live", timeout=SOON)
    return page


def connection(page: Page):  # type: ignore[no-untyped-def]
    return page.locator("#connection")


class TestLivePage:
    def test_shows_an_order_appear_fill_and_become_a_position(
        self, site: Site, web: Process, context: BrowserContext
    ) -> None:
        page = log_in(context, web)
        orders, positions = page.locator("#orders-rows"), page.locator("#positions-rows")
        expect(page.get_by_text("No open orders.")).to_be_visible()

        number = write(site, "place").strip()
        row = page.locator(f"#order-{number}")
        expect(row).to_contain_text("BTC/USDT", timeout=SOON)
        expect(page.locator("#orders-count")).to_have_text("1")
        expect(page.get_by_text("No open orders.")).to_be_hidden()

        write(site, "fill-part")
        expect(row.locator("progress")).to_have_attribute("value", "25", timeout=SOON)
        expect(row).to_contain_text("Part filled")
        expect(positions.locator("tr")).to_have_count(1)
        write(site, "price", "96000")
        expect(positions).to_contain_text("+100.00", timeout=SOON)  # 0.1 × 1000

        write(site, "fill-rest")
        expect(orders.locator("tr")).to_have_count(0, timeout=SOON)
        expect(page.locator("#trades-rows tr")).to_have_count(1)
        expect(positions).to_contain_text("+400.00")
        expect(page.locator("#events-rows li").first).to_contain_text("Filled")
        expect(page.locator(".toast.filled")).to_be_visible()

    def test_never_runs_what_an_exchange_says(
        self, site: Site, web: Process, context: BrowserContext
    ) -> None:
        page = log_in(context, web)

        write(site, "fail")

        expect(page.locator("#failed-rows tr")).to_have_count(1, timeout=SOON)
        expect(page.locator("#failed-rows")).to_contain_text("<script>")
        assert (
            page.locator("#failed-rows script, #failed-rows img, #events-rows script, .toast img").count()
            == 0
        )
        expect(page).not_to_have_title("owned")
        page.reload()
        expect(page.locator("#failed-rows")).to_contain_text("<script>")
        expect(page).not_to_have_title("owned")

    def test_loses_nothing_when_the_server_dies_and_comes_back(
        self, site: Site, web: Process, context: BrowserContext
    ) -> None:
        page = log_in(context, web)
        write(site, "events", "3")
        expect(page.locator("#events-rows li")).to_have_count(3, timeout=SOON)

        web.kill()
        expect(connection(page)).to_have_attribute("data-state", "reconnecting", timeout=SOON)
        write(site, "events", "60")  # more than a page that begins anew would show
        number = write(site, "place").strip()
        site.start_web(port=web.port)

        expect(connection(page)).to_have_attribute("data-state", "live", timeout=30_000)
        expect(page.locator(f"#order-{number}")).to_be_visible()
        lines = page.locator("#events-rows li")
        expect(lines).to_have_count(64)
        ids = [int(line.split("-")[1]) for line in lines.evaluate_all("lines => lines.map(line => line.id)")]
        assert ids == sorted(ids, reverse=True)


@on_sqlite
class TestReader:
    def test_goes_to_the_login_page_when_the_session_ends(
        self, site: Site, web: Process, context: BrowserContext
    ) -> None:
        page = log_in(context, web)
        context.clear_cookies()

        web.kill()
        site.start_web(port=web.port)

        expect(page).to_have_url(re.compile("/login/"), timeout=30_000)

    def test_speaks_korean_after_one_press(self, site: Site, web: Process, context: BrowserContext) -> None:
        page = log_in(context, web)

        page.get_by_role("button", name="한국어").click()

        expect(page.get_by_role("heading", name="미체결 주문")).to_be_visible()
        expect(connection(page)).to_have_text("실시간", timeout=SOON)
        write(site, "place")
        expect(page.locator("#orders-rows")).to_contain_text("매수", timeout=SOON)

    def test_keeps_the_theme_that_was_chosen(self, site: Site, web: Process, context: BrowserContext) -> None:
        page = log_in(context, web)
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")

        page.get_by_role("button", name="Light or dark").click()
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.reload()

        assert dark != light
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark

    def test_shows_times_in_the_viewers_zone_and_utc_beside(
        self, site: Site, web: Process, context: BrowserContext
    ) -> None:
        page = log_in(context, web)
        write(site, "place")
        time = page.locator("#orders-rows time")
        expect(time).to_be_visible(timeout=SOON)

        shown = int(time.inner_text()[-8:-6])
        utc = int(re.search(r" (\d\d):", time.get_attribute("title") or "").group(1))  # type: ignore[union-attr]

        assert shown == (utc + 9) % 24  # Seoul

    def test_can_be_worked_by_keyboard(self, site: Site, web: Process, context: BrowserContext) -> None:
        page = log_in(context, web)
        page.reload()

        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_focused()
        expect(page.get_by_role("log")).to_have_attribute("aria-live", "polite")
        orders = page.get_by_role("table", name=re.compile("Open orders"))
        expect(orders).to_have_count(0)  # nothing in it yet
        write(site, "place")
        expect(orders).to_be_visible(timeout=SOON)


@on_sqlite
class TestWidths:
    def test_need_no_sideways_scrolling(
        self, site: Site, web: Process, browser: Browser, artifacts: Path
    ) -> None:
        write(site, "fill")
        too_wide: dict[str, list[str]] = {}
        for scheme in ("light", "dark"):
            context = browser.new_context(locale="en-GB", color_scheme=scheme)
            page = log_in(context, web)
            expect(page.locator("#orders-rows tr")).to_have_count(12)
            for width in (390, 480, 768, 1024, 1280, 1440, 1920):
                page.set_viewport_size({"width": width, "height": 900})
                page.screenshot(path=artifacts / f"positions-{width}-{scheme}.png", full_page=True)
                if sideways := page.evaluate(SIDEWAYS):
                    too_wide[f"{width} {scheme}"] = sideways
            context.close()

        assert too_wide == {}
