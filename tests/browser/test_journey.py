"""The story of the product: a webhook becomes orders on an exchange, and a trader watches them fill."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.processes import Process, Site, post_webhook, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

TOKEN = secrets.token_urlsafe(16)
PASSWORD = secrets.token_urlsafe(12)
INSTALLATION: dict[str, Any] = {
    "users": [{"username": "trader", "password": PASSWORD, "language": "en"}],
    "accounts": [
        {
            "name": "main",
            "user": "trader",
            "exchange": "binance",
            "account_type": "CRYPTO",
            "environment": "SIMULATOR",
            "api_key": "journey-key",
            "api_secret": "journey-secret",
        }
    ],
    "strategies": [
        {
            "group_name": "journey",
            "user": "trader",
            "token": TOKEN,
            "market_type": "FUTURES",
            "execution_mode": "QUEUED",
            "accounts": [{"account": "main", "allocated_capital": "10000", "leverage": 10}],
        }
    ],
}
SOON = 10_000  # milliseconds; the promise is one second, on a machine that has nothing else to do


@pytest.fixture
def running(site: Site, tmp_path: Path) -> Process:
    """Everything that `make demo` starts; the exchange's prices move when told to."""
    site.start_simulator("--fixed", "--price", "BTC/USDT=95000")
    site.simulator.add_account("journey-key", "journey-secret")
    installation = tmp_path / "installation.json"
    installation.write_text(json.dumps(INSTALLATION))
    site.manage("provision", str(installation))
    web = site.start_web()
    site.start_worker()
    site.start_streams()
    return web


@pytest.fixture
def page(browser: Browser, running: Process) -> Iterator[Page]:
    """The trader's page, logged in and live."""
    context = browser.new_context(locale="en-GB", viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"the page failed: {error}"))
    page.goto(f"{running.url}/positions")
    page.get_by_label("User name").fill("trader")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#connection")).to_have_attribute("data-state", "live", timeout=SOON)
    yield page
    context.close()


class TestJourney:
    def test_from_the_webhook_to_realized_profit(
        self, site: Site, running: Process, page: Page, artifacts: Path, request: pytest.FixtureRequest
    ) -> None:
        simulator = site.simulator
        expect(page.locator(".stream.live")).to_have_count(1, timeout=30_000)

        # Two bids and a protective stop.
        status, answer = post_webhook(
            running,
            {
                "group_name": "journey",
                "token": TOKEN,
                "symbol": "BTC/USDT",
                "orders": [
                    {"order_type": "LIMIT", "side": "buy", "price": "94000", "quantity": "0.4"},
                    {"order_type": "LIMIT", "side": "buy", "price": "93000", "quantity": "0.2"},
                    {"order_type": "STOP_MARKET", "side": "sell", "stop_price": "90000", "quantity": "0.4"},
                ],
            },
        )
        assert (status, answer["success"], answer["summary"]["successful_orders"]) == (200, True, 3)
        orders = page.locator("#orders-rows tr")
        expect(orders).to_have_count(3, timeout=SOON)
        bid = orders.filter(has_text="94,000")
        expect(bid).to_contain_text("Open")

        # The market takes a part of the first one …
        client_order_id = answer["results"][0]["result"]["client_order_id"]
        simulator.fill(client_order_id, quantity="0.1")
        expect(bid).to_contain_text("Part filled", timeout=SOON)
        expect(bid.locator("progress")).to_have_attribute("value", "25")
        position = page.locator("#positions-rows tr")
        expect(position).to_contain_text("0.100", timeout=SOON)
        page.screenshot(path=artifacts / f"journey-part-filled-{_where(request)}.png")

        # … and then falls through it.
        simulator.set_price("BTC/USDT", 93900)
        expect(orders).to_have_count(2, timeout=SOON)
        expect(position).to_contain_text("0.400", timeout=SOON)
        expect(position).to_contain_text("94,000.0")
        expect(position.locator(".loss")).to_contain_text("−40.00", timeout=SOON)  # 0.4 × −100
        simulator.set_price("BTC/USDT", 94500)
        expect(position.locator(".gain")).to_contain_text("+200.00", timeout=SOON)  # 0.4 × 500

        # Everything is sold at the market, and what still rests is canceled.
        status, answer = post_webhook(
            running,
            {
                "group_name": "journey",
                "token": TOKEN,
                "symbol": "BTC/USDT",
                "orders": [{"order_type": "CANCEL_ALL_ORDER"}, {"order_type": "MARKET", "qty_per": -100}],
            },
        )
        assert (status, answer["success"]) == (200, True)
        expect(orders).to_have_count(0, timeout=SOON)
        expect(position).to_contain_text("Closed", timeout=SOON)
        realized = position.locator("td").last
        expect(realized).to_contain_text(re.compile(r"\+(199|200)\.\d\d"))
        expect(page.locator("#trades-rows tr")).to_have_count(2)
        expect(page.locator("#failed-rows tr")).to_have_count(0)
        page.screenshot(path=artifacts / f"journey-{_where(request)}.png", full_page=True)

        # What the page says after a reload is the same, and it is what the exchange says.
        page.reload()
        expect(position).to_contain_text("Closed")
        expect(page.locator("#trades-rows tr")).to_have_count(2)
        filled = simulator.order(client_order_id)["filled"]
        assert Decimal(filled) == Decimal("0.4")

    def test_shows_what_was_filled_while_the_stream_was_cut_and_the_page_away(
        self, site: Site, running: Process, page: Page
    ) -> None:
        expect(page.locator(".stream.live")).to_have_count(1, timeout=30_000)
        order = {"order_type": "LIMIT", "side": "buy", "price": "94000", "quantity": "0.4"}
        _, answer = post_webhook(
            running, {"group_name": "journey", "token": TOKEN, "symbol": "BTC/USDT", "orders": [order]}
        )
        expect(page.locator("#orders-rows tr")).to_have_count(1, timeout=SOON)

        running.kill()
        expect(page.locator("#connection")).to_have_attribute("data-state", "reconnecting", timeout=SOON)
        site.simulator.cut_streams()
        site.simulator.fill(answer["results"][0]["result"]["client_order_id"])
        site.start_web(port=running.port)

        expect(page.locator("#connection")).to_have_attribute("data-state", "live", timeout=30_000)
        expect(page.locator("#orders-rows tr")).to_have_count(0, timeout=30_000)
        expect(page.locator("#trades-rows tr")).to_have_count(1)
        expect(page.locator("#positions-rows tr")).to_contain_text("0.400")
        wait_until(
            lambda: page.locator(".event.filled").count() == 1, what="the fill to be told, and told once"
        )


def _where(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["site"])
