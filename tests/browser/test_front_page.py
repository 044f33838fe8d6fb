"""The admin's front page in a real browser: its figures move by themselves, and it is readable everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.browser.test_positions_page import SOON, on_sqlite, write
from tests.processes import Process, Site

pytestmark = pytest.mark.browser
NAME, WORD = "operator", "an-operators-word-1234"
SIDEWAYS = """
    [document.documentElement, ...document.querySelectorAll(".front, .front-card, .front-panel")]
        .filter((element) => element.scrollWidth > element.clientWidth + 1)
        .map((element) => element.className || element.tagName)
"""


@pytest.fixture
def web(site: Site) -> Process:
    write(site, "people")
    site.environment["DJANGO_SUPERUSER_PASSWORD"] = WORD
    site.manage("createsuperuser", "--noinput", "--username", NAME, "--email", "")
    return site.start_web()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(
        locale="en-GB", timezone_id="Asia/Seoul", viewport={"width": 1440, "height": 1000}
    )
    yield context
    context.close()


def log_in(context: BrowserContext, web: Process) -> Page:
    """Log in as staff. Any error in the page's console fails the test."""
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"the page failed: {error}"))
    refused = "Content Security Policy"
    page.on("console", lambda line: pytest.fail(line.text) if refused in line.text else None)
    page.goto(f"{web.url}/admin/login/?next=/admin/")
    page.locator("[name=username]").fill(NAME)
    page.locator("[name=password]").fill(WORD)
    page.locator("button[type=submit]").click()
    expect(page.locator("#front")).to_be_visible()
    return page


def figure(page: Page, name: str) -> Locator:
    return page.locator(f'[data-figure="{name}"]')


class TestFrontPage:
    def test_moves_without_being_loaded_again(
        self, site: Site, web: Process, context: BrowserContext
    ) -> None:
        page = log_in(context, web)
        expect(figure(page, "failed")).to_have_text("0")
        expect(page.locator("#front-errors")).to_contain_text("No failed orders")
        page.evaluate("window.same = true")

        write(site, "fail")
        write(site, "place")

        expect(figure(page, "failed")).to_have_text("1", timeout=SOON)
        expect(figure(page, "open")).to_have_text("1", timeout=SOON)
        # What an exchange says is text, whatever it looks like.
        expect(page.locator("#front-errors")).to_contain_text("<script>")
        assert page.locator("#front-errors script, #front-errors img").count() == 0
        assert page.evaluate("window.same") is True

    @on_sqlite
    def test_says_since_when_it_was_not_refreshed(
        self, site: Site, web: Process, context: BrowserContext
    ) -> None:
        page = log_in(context, web)
        expect(page.locator("#front-errors")).to_contain_text("No failed orders")  # its script is at work
        web.kill()
        expect(page.locator("#front-state")).to_contain_text("Not refreshed since", timeout=SOON)

        site.start_web(port=web.port)

        expect(page.locator("#front-state")).to_have_text("", timeout=3 * SOON)

    @on_sqlite
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_fits_a_desk_and_a_phone_in_both_themes(
        self, site: Site, web: Process, browser: Browser, artifacts: Path, scheme: str
    ) -> None:
        write(site, "fill")
        for name, width in (("desk", 1440), ("phone", 375)):
            context = browser.new_context(
                locale="en-GB",
                viewport={"width": width, "height": 900},
                color_scheme=scheme,  # type: ignore[arg-type]
            )
            page = log_in(context, web)
            expect(figure(page, "open")).not_to_have_text("")
            expect(page.locator("#front-latency tbody tr").first).to_be_visible()
            page.screenshot(path=artifacts / f"front-{name}-{scheme}.png", full_page=True)
            assert page.evaluate(SIDEWAYS) == []
            context.close()

    @on_sqlite
    def test_speaks_korean(self, site: Site, web: Process, browser: Browser) -> None:
        context = browser.new_context(locale="ko-KR")
        page = log_in(context, web)
        expect(page.locator("#front")).to_contain_text("웹훅에서 거래소까지")
        expect(page.locator("#front")).to_contain_text("실패한 주문도 끊긴 스트림도 없습니다.")
        context.close()
