"""Failed and waiting orders on the live page, in a real browser, on a real server and its real API."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.browser.demo_rows import KEY, SECRET
from tests.browser.test_positions_page import SIDEWAYS, SOON, log_in, web, write
from tests.processes import Process, Site

__all__ = ["web"]
pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]
on_sqlite = pytest.mark.parametrize("site", ["sqlite"], indirect=True)  # where the database is no matter


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(
        locale="en-GB", timezone_id="Asia/Seoul", viewport={"width": 1440, "height": 1000}
    )
    yield context
    context.close()


def fail(site: Site, *what: str) -> str:
    return write(site, "fail-clean", *what).strip()


def row(page: Page, number: str) -> Locator:
    return page.locator(f"#failed-{number}")


def dialog(page: Page) -> Locator:
    return page.locator("#failed-dialog")


def toast(page: Page) -> Locator:
    return page.locator(".toast.done, .toast.failed:not(.event)")


class TestFailedOrders:
    @on_sqlite
    def test_are_removed_after_a_question(self, site: Site, web: Process, context: BrowserContext) -> None:
        first, second = fail(site), fail(site, "ETH/USDT")
        page = log_in(context, web)

        row(page, first).get_by_role("button", name="Remove").click()
        expect(dialog(page)).to_contain_text("BTC/USDT Buy 0.5")
        page.keyboard.press("Escape")
        expect(dialog(page)).to_be_hidden()
        expect(row(page, first)).to_be_visible()
        row(page, first).get_by_role("button", name="Remove").click()
        dialog(page).get_by_role("button", name="Remove").click()

        expect(row(page, first)).to_have_count(0, timeout=SOON)
        expect(toast(page)).to_contain_text("Removed: BTC/USDT")
        expect(row(page, second)).to_be_visible()
        expect(page.locator("#failed-count")).to_have_text("1")

    def test_are_sent_again_and_rest_at_the_exchange(self, site: Site, context: BrowserContext) -> None:
        site.start_simulator("--fixed", "--price", "BTC/USDT=96000")
        site.simulator.add_account(KEY, SECRET)
        write(site, "people")
        number = fail(site)
        page = log_in(context, site.start_web())

        row(page, number).get_by_role("button", name="Retry").click()
        expect(dialog(page)).to_contain_text("price and quantity stay as they are")
        dialog(page).get_by_role("button", name="Retry").click()

        expect(page.locator(".toast.done")).to_contain_text("BTC/USDT Buy 0.5", timeout=30_000)
        expect(row(page, number)).to_have_count(0, timeout=SOON)
        expect(page.locator("#orders-rows tr")).to_have_count(1)
        expect(page.locator("#orders-rows tr")).to_contain_text("95,000.0")
        expect(page.locator("#events-rows")).to_contain_text("Sent again")

    @on_sqlite
    def test_are_scheduled_and_taken_back(self, site: Site, web: Process, context: BrowserContext) -> None:
        number = fail(site)
        page = log_in(context, web)
        tomorrow = date.today() + timedelta(days=1)  # noqa: DTZ011  the browser's day may differ by one

        row(page, number).get_by_role("button", name="Schedule").click()
        page.get_by_label("When").fill("2020-01-01T10:00")
        dialog(page).get_by_role("button", name="Schedule").click()
        expect(page.locator("#failed-dialog-problem")).to_contain_text("This time is not possible")
        page.get_by_label("When").fill(f"{tomorrow}T14:30")
        dialog(page).get_by_role("button", name="Schedule").click()

        expect(dialog(page)).to_be_hidden()
        expect(toast(page)).to_contain_text("Scheduled: BTC/USDT")
        page.reload()
        expect(row(page, number)).to_contain_text("scheduled for")
        expect(row(page, number).locator(".planned")).to_contain_text("14:30:00")

        row(page, number).get_by_role("button", name="Schedule").click()
        dialog(page).get_by_role("button", name="Take the schedule back").click()
        expect(toast(page)).to_contain_text("Schedule taken back")
        page.reload()
        expect(row(page, number)).not_to_contain_text("scheduled for")

    @on_sqlite
    def test_are_removed_together(self, site: Site, web: Process, context: BrowserContext) -> None:
        numbers = [fail(site) for _ in range(3)]
        page = log_in(context, web)
        page.get_by_label("Select all shown").check()
        expect(page.locator("#failed-selected")).to_have_text("3 selected")
        row(page, numbers[1]).get_by_role("checkbox").uncheck()
        expect(page.locator("#failed-selected")).to_have_text("2 selected")
        assert page.locator("#failed-all").evaluate("box => box.indeterminate")

        page.locator("[data-all=remove]").click()
        dialog(page).get_by_role("button", name="Remove").click()

        expect(page.locator("#failed-rows tr")).to_have_count(1, timeout=SOON)
        expect(row(page, numbers[1])).to_be_visible()
        expect(toast(page)).to_contain_text("2 of 2 done")
        expect(page.locator("#failed-selected")).to_have_text("")
        expect(page.locator("[data-all=remove]")).to_be_disabled()

    @on_sqlite
    def test_cannot_be_sent_again_when_all_retries_are_used_up(
        self, site: Site, web: Process, context: BrowserContext
    ) -> None:
        used_up, fresh = fail(site, "BTC/USDT", "5"), fail(site, "ETH/USDT", "2")
        page = log_in(context, web)

        expect(row(page, used_up).locator(".tries")).to_have_text("5/5")
        expect(row(page, fresh).locator(".tries")).to_have_text("2/5")
        button = row(page, used_up).locator("[data-act=retry]")
        expect(button).to_have_attribute("aria-disabled", "true")
        expect(button).to_have_attribute("title", "All retries are used up.")
        button.click(force=True)
        expect(dialog(page)).to_be_hidden()
        expect(toast(page)).to_contain_text("All retries are used up.")
        row(page, used_up).get_by_role("checkbox").check()
        expect(page.locator("[data-all=retry]")).to_be_disabled()
        expect(page.locator("[data-all=remove]")).to_be_enabled()
        row(page, fresh).get_by_role("checkbox").check()
        page.locator("[data-all=retry]").click()
        expect(dialog(page)).to_contain_text("1 of the selected cannot be sent again")
        expect(dialog(page).locator("li")).to_have_count(1)

    def test_move_underneath_a_selection_and_an_open_dialog(
        self, site: Site, web: Process, context: BrowserContext
    ) -> None:
        kept, gone = fail(site), fail(site)
        page = log_in(context, web)
        row(page, kept).get_by_role("checkbox").check()
        row(page, gone).get_by_role("checkbox").check()
        page.locator("[data-all=remove]").click()
        expect(dialog(page)).to_be_visible()

        write(site, "remove-failed", gone)
        newer = fail(site, "SOL/USDT")

        expect(row(page, newer)).to_be_visible(timeout=SOON)
        expect(row(page, gone)).to_have_count(0)
        expect(dialog(page)).to_be_visible()
        expect(dialog(page).get_by_role("button", name="Remove")).to_be_focused()
        expect(row(page, kept).get_by_role("checkbox")).to_be_checked()
        expect(row(page, newer).get_by_role("checkbox")).not_to_be_checked()
        expect(page.locator("#failed-selected")).to_have_text("1 selected")
        dialog(page).get_by_role("button", name="Remove").click()
        expect(toast(page)).to_be_visible()
        expect(row(page, kept)).to_have_count(0, timeout=SOON)


@on_sqlite
class TestUnknownOutcomes:
    @pytest.mark.parametrize("answers", [True, False])
    def test_are_decided_by_a_person_once_the_exchange_has_been_asked(
        self, site: Site, context: BrowserContext, answers: bool
    ) -> None:
        if answers:
            site.start_simulator("--fixed")
            site.simulator.add_account(KEY, SECRET)
        write(site, "people")
        write(site, "fill")
        page = log_in(context, site.start_web())
        unknown = page.locator("#failed-rows tr[id^=resolving]")
        expect(unknown.locator("[data-act=retry]")).to_have_attribute("aria-disabled", "true")
        expect(unknown.locator("[data-act=retry]")).to_have_attribute("title", re.compile("placed twice"))
        expect(unknown.get_by_role("checkbox")).to_have_count(0)

        unknown.get_by_role("button", name="Decide").click()
        expect(page.locator("#failed-dialog-there")).to_be_focused()
        dialog(page).get_by_role("button", name="Decide").click()
        expect(page.locator("#failed-dialog-problem")).to_have_text("Say which.")
        page.get_by_label("It was never placed").check()
        dialog(page).get_by_role("button", name="Decide").click()

        if answers:
            expect(toast(page)).to_contain_text("Decided: ETH/USDT", timeout=30_000)
            expect(unknown).to_have_count(0, timeout=SOON)
            return
        # Nobody can say yet that the exchange does not have the order.
        expect(page.locator("#failed-dialog-problem")).not_to_be_empty(timeout=30_000)
        expect(page.locator("#failed-dialog-problem")).not_to_have_text("Say which.", timeout=30_000)
        expect(unknown).to_have_count(1)


@on_sqlite
class TestFilter:
    def test_narrows_the_list_and_the_export_and_survives_a_reload(
        self, site: Site, web: Process, context: BrowserContext
    ) -> None:
        bitcoin, ether = fail(site), fail(site, "ETH/USDT", "0", "timeout")
        page = log_in(context, web)

        page.locator("#failed-filter [name=symbol]").fill("eth/usdt")
        expect(row(page, bitcoin)).to_have_count(0, timeout=SOON)
        expect(row(page, ether)).to_be_visible()
        another = fail(site)
        newer = fail(site, "ETH/USDT")
        expect(row(page, newer)).to_be_visible(timeout=SOON)
        expect(row(page, another)).to_have_count(0)
        page.locator("#failed-filter [name=error_type]").select_option(label="Timed out")
        expect(row(page, newer)).to_have_count(0, timeout=SOON)
        expect(row(page, ether)).to_be_visible()

        with page.expect_download() as download:
            page.locator("#failed-export").click()
        lines = download.value.path().read_text().splitlines()
        assert len(lines) == 2
        assert lines[1].startswith(f"{ether},")

        page.reload()
        expect(row(page, ether)).to_be_visible()
        expect(row(page, bitcoin)).to_have_count(0)
        expect(page.locator("#failed-filter [name=symbol]")).to_have_value("ETH/USDT")
        page.get_by_role("button", name="Clear").click()
        expect(page.locator("#failed-rows tr")).to_have_count(4, timeout=SOON)

    def test_goes_by_days_of_the_viewer(self, site: Site, web: Process, context: BrowserContext) -> None:
        number = fail(site)
        page = log_in(context, web)
        today = page.evaluate("new Date().toLocaleDateString('sv')")
        tomorrow = str(date.fromisoformat(today) + timedelta(days=1))

        page.get_by_label("From").fill(today)
        page.get_by_label("Until").fill(today)
        expect(page).to_have_url(re.compile("created_before="))
        expect(row(page, number)).to_be_visible()
        page.get_by_label("Until").fill("")
        page.get_by_label("From").fill(tomorrow)
        expect(row(page, number)).to_have_count(0, timeout=SOON)

    def test_says_what_makes_no_sense(self, site: Site, web: Process, context: BrowserContext) -> None:
        number = fail(site)
        page = log_in(context, web)
        problem = page.locator("#failed-problem")

        page.get_by_label("From").fill("2026-07-22")
        page.get_by_label("Until").fill("2026-07-20")
        expect(problem).to_have_text("The range of dates ends before it begins.", timeout=SOON)
        page.get_by_role("button", name="Clear").click()
        expect(problem).to_have_text("", timeout=SOON)
        expect(row(page, number)).to_be_visible(timeout=SOON)
        page.goto(f"{web.url}/positions?error_type=<script>")
        expect(problem).to_have_text("There is no such reason.")

    def test_lasts_when_the_connection_is_lost(
        self, site: Site, web: Process, context: BrowserContext
    ) -> None:
        bitcoin, ether = fail(site), fail(site, "ETH/USDT")
        page = log_in(context, web)
        page.locator("#failed-filter [name=symbol]").fill("ETH/USDT")
        expect(row(page, bitcoin)).to_have_count(0, timeout=SOON)
        row(page, ether).get_by_role("checkbox").check()

        web.kill()
        expect(page.locator("#connection")).to_have_attribute("data-state", "reconnecting", timeout=SOON)
        site.start_web(port=web.port)

        expect(page.locator("#connection")).to_have_attribute("data-state", "live", timeout=30_000)
        expect(row(page, bitcoin)).to_have_count(0)
        expect(row(page, ether).get_by_role("checkbox")).to_be_checked()


@on_sqlite
class TestByHand:
    def test_everything_can_be_done_by_keyboard(
        self, site: Site, web: Process, context: BrowserContext
    ) -> None:
        first, second = fail(site), fail(site)
        page = log_in(context, web)
        page.locator("#failed-all").focus()
        page.keyboard.press("Space")
        expect(page.locator("#failed-selected")).to_have_text("2 selected")
        page.keyboard.press("Space")
        expect(page.locator("#failed-selected")).to_have_text("")

        row(page, second).get_by_role("checkbox").focus()
        for name in ("retry", "schedule", "remove"):
            page.keyboard.press("Tab")
            focused = row(page, second).locator(f"[data-act={name}]")
            expect(focused).to_be_focused()
            assert focused.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        expect(dialog(page)).to_be_visible()
        page.keyboard.press("Escape")
        expect(row(page, second).locator("[data-act=remove]")).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")

        expect(row(page, second)).to_have_count(0, timeout=SOON)
        expect(row(page, first).locator("[data-act=remove]")).to_be_focused()

    def test_a_server_that_is_away_is_said(self, site: Site, web: Process, context: BrowserContext) -> None:
        number = fail(site)
        page = log_in(context, web)
        row(page, number).get_by_role("button", name="Remove").click()
        web.kill()

        dialog(page).get_by_role("button", name="Remove").click()

        expect(toast(page)).to_contain_text("The server does not answer.")
        expect(row(page, number)).to_be_visible()

    def test_nothing_from_outside_is_run(self, site: Site, web: Process, context: BrowserContext) -> None:
        page = log_in(context, web)
        write(site, "fail")
        nasty = page.locator("#failed-rows tr")
        expect(nasty).to_contain_text("<script>", timeout=SOON)

        nasty.get_by_role("button", name="Remove").click()
        expect(dialog(page)).to_be_visible()
        page.keyboard.press("Escape")
        page.get_by_role("tab", name="Statistics").click()
        expect(page.locator("#stats-reasons")).to_contain_text("<script>")

        assert page.locator("#failed script, #failed img, #failed-dialog script, .toast img").count() == 0
        expect(page).not_to_have_title("owned")

    def test_speaks_korean(self, site: Site, web: Process, context: BrowserContext, artifacts: Path) -> None:
        write(site, "fill")
        page = log_in(context, web)
        page.get_by_role("button", name="한국어").click()

        expect(page.get_by_role("heading", name="대기 주문")).to_be_visible()
        first = page.locator("#failed-rows tr:has(input)").first
        first.locator("[data-act=remove]").click()
        expect(dialog(page).get_by_role("button", name="제거")).to_be_visible()
        page.screenshot(path=artifacts / "failed-dialog-korean.png")
        dialog(page).get_by_role("button", name="제거").click()
        expect(toast(page)).to_contain_text("제거됨")
        page.screenshot(path=artifacts / "positions-korean.png", full_page=True)


@on_sqlite
class TestStatistics:
    def test_are_drawn_and_can_be_read_as_tables(
        self, site: Site, web: Process, context: BrowserContext
    ) -> None:
        write(site, "fill")
        page = log_in(context, web)

        page.get_by_role("tab", name="List").focus()
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("tab", name="Statistics")).to_be_focused()
        expect(page.locator("#failed-list")).to_be_hidden()
        expect(page.locator("#stats-days svg rect")).to_have_count(30, timeout=SOON)
        reasons = page.locator("#stats-reasons tbody tr")
        expect(page.locator("#stats-reasons")).to_contain_text("Too many requests")
        counts = [int(text) for text in reasons.locator("td.number").all_inner_texts()]
        assert counts == sorted(counts, reverse=True)
        expect(page.locator("#stats-strategies")).to_contain_text("%")
        expect(page.locator("#stats-symbols svg").first).to_be_visible()
        page.get_by_label("Period").select_option(label="7 days")
        expect(page.locator("#stats-days svg rect")).to_have_count(7, timeout=SOON)


class TestWaitingOrders:
    def test_move_up_by_themselves(self, site: Site, web: Process, context: BrowserContext) -> None:
        page = log_in(context, web)
        expect(page.get_by_text("Nothing waits.")).to_be_visible()
        worse = write(site, "wait", "94000").strip()
        expect(page.locator(f"#waiting-{worse} .place")).to_have_text("1", timeout=SOON)

        better = write(site, "wait", "95000").strip()
        expect(page.locator(f"#waiting-{better} .place")).to_have_text("1", timeout=SOON)
        expect(page.locator(f"#waiting-{worse} .place")).to_have_text("2")
        expect(page.locator("#waiting-count")).to_have_text("2")
        expect(page.locator("#waiting-rows .book")).to_contain_text("0/20 resting")

        write(site, "go", better)
        expect(page.locator(f"#order-{better}")).to_be_visible(timeout=SOON)
        expect(page.locator(f"#waiting-{better}")).to_have_count(0)
        expect(page.locator(f"#waiting-{worse} .place")).to_have_text("1")
        expect(page.locator("#waiting-rows .book")).to_contain_text("1/20 resting")

        write(site, "put-off", worse)
        expect(page.locator(f"#waiting-{worse}")).to_contain_text("Tries again at", timeout=SOON)
        expect(page.locator(f"#waiting-{worse}")).to_contain_text("<script>")
        assert page.locator("#waiting script, #waiting img").count() == 0

    @on_sqlite
    def test_show_their_age(self, site: Site, web: Process, context: BrowserContext) -> None:
        page = log_in(context, web)
        number = write(site, "wait").strip()
        age = page.locator(f"#waiting-{number} .age")

        expect(age).to_have_text(re.compile(r"^\d+ sec$"), timeout=SOON)


@on_sqlite
class TestWidths:
    def test_need_no_sideways_scrolling_whatever_is_open(
        self, site: Site, web: Process, browser: Browser, artifacts: Path
    ) -> None:
        write(site, "fill")
        too_wide: dict[str, list[str]] = {}
        for scheme in ("light", "dark"):
            context = browser.new_context(locale="en-GB", color_scheme=scheme)
            page = log_in(context, web)
            for width in (360, 480, 768, 1280):
                page.set_viewport_size({"width": width, "height": 900})
                page.reload()
                expect(page.locator("#failed-rows tr")).to_have_count(5)
                page.get_by_label("Select all shown").check()
                page.locator("#failed").screenshot(path=artifacts / f"failed-{width}-{scheme}.png")
                page.locator("#waiting").screenshot(path=artifacts / f"waiting-{width}-{scheme}.png")
                too_wide[f"list {width} {scheme}"] = page.evaluate(SIDEWAYS)
                page.locator("[data-all=schedule]").click()
                page.screenshot(path=artifacts / f"failed-dialog-{width}-{scheme}.png")
                page.keyboard.press("Escape")
                page.get_by_role("tab", name="Statistics").click()
                expect(page.locator("#stats-days svg")).to_be_visible()
                page.locator("#failed").screenshot(path=artifacts / f"failed-stats-{width}-{scheme}.png")
                too_wide[f"statistics {width} {scheme}"] = page.evaluate(SIDEWAYS)
            context.close()

        assert {where: what for where, what in too_wide.items() if what} == {}
