"""ccxt trades spot on the simulator: REST, and its websocket order stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import ccxt
import ccxt.async_support
import ccxt.pro
import pytest

from exchanges.simulator.testing import SimulatorProcess

SYMBOL = "BTC/USDT"


def point_at(client: Any, simulator: SimulatorProcess) -> None:
    """Set ccxt's documented `urls` to the simulator."""
    client.urls["api"] |= {
        "public": f"{simulator.spot_url}/api/v3",
        "private": f"{simulator.spot_url}/api/v3",
        "v1": f"{simulator.spot_url}/api/v1",
    }
    if "ws" in client.urls["api"]:
        client.urls["api"]["ws"]["ws-api"]["spot"] = simulator.spot_ws_url


def settings() -> dict[str, Any]:
    return {
        "apiKey": "k1",
        "secret": "s1",
        "enableRateLimit": False,
        "options": {"fetchCurrencies": False, "fetchMargins": False, "fetchMarkets": {"types": ["spot"]}},
    }


@pytest.fixture
async def client(simulator: SimulatorProcess) -> AsyncIterator[Any]:
    exchange = ccxt.async_support.binance(settings())
    point_at(exchange, simulator)
    yield exchange
    await exchange.close()


@pytest.fixture
async def watcher(simulator: SimulatorProcess) -> AsyncIterator[Any]:
    exchange = ccxt.pro.binance(settings())
    point_at(exchange, simulator)
    yield exchange
    await exchange.close()


class TestRest:
    async def test_loads_the_markets_with_their_grid(self, client: Any) -> None:
        markets = await client.load_markets()

        assert set(markets) == {"BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT"}
        assert markets[SYMBOL]["precision"]["amount"] == 0.00001
        assert markets[SYMBOL]["precision"]["price"] == 0.01
        assert markets[SYMBOL]["limits"]["cost"]["min"] == 5

    async def test_places_queries_lists_and_cancels_a_limit_order(self, client: Any) -> None:
        placed = await client.create_order(SYMBOL, "limit", "buy", 0.01, 90000, {"clientOrderId": "th-limit"})
        queried = await client.fetch_order(placed["id"], SYMBOL)
        listed = await client.fetch_open_orders(SYMBOL)
        balance = await client.fetch_balance()
        canceled = await client.cancel_order(placed["id"], SYMBOL)

        assert (placed["status"], placed["clientOrderId"]) == ("open", "th-limit")
        assert (queried["price"], queried["amount"], queried["filled"]) == (90000, 0.01, 0)
        assert [order["id"] for order in listed] == [placed["id"]]
        assert balance["USDT"] == {"free": 999_100, "used": 900, "total": 1_000_000}
        assert canceled["status"] == "canceled"
        assert (await client.fetch_balance())["USDT"]["used"] == 0

    async def test_buys_at_the_market_and_pays_the_fee_in_base(self, client: Any) -> None:
        bought = await client.create_order(SYMBOL, "market", "buy", 0.01)
        balance = await client.fetch_balance()

        assert (bought["status"], bought["filled"], bought["average"]) == ("closed", 0.01, 95000)
        assert bought["fee"] == {"currency": "BTC", "cost": 0.00001}
        assert balance["USDT"]["free"] == 999_050
        assert balance["BTC"]["free"] == 100.00999

    async def test_buys_for_an_amount_of_quote(self, client: Any) -> None:
        bought = await client.create_market_buy_order_with_cost(SYMBOL, 1000)

        assert bought["filled"] == 0.01052  # 1000 / 95000, rounded down to the lot step
        assert bought["cost"] == 999.4

    async def test_sees_a_part_fill_then_a_full_one(self, client: Any, simulator: SimulatorProcess) -> None:
        placed = await client.create_order(SYMBOL, "limit", "buy", 0.01, 90000, {"clientOrderId": "th-p"})

        simulator.fill("th-p", quantity="0.004")
        part = await client.fetch_order(placed["id"], SYMBOL)
        simulator.set_price("BTC/USDT", 89999)
        full = await client.fetch_order(placed["id"], SYMBOL)
        trades = await client.fetch_my_trades(SYMBOL)

        assert (part["status"], part["filled"], part["remaining"]) == ("open", 0.004, 0.006)
        assert (full["status"], full["filled"], full["cost"]) == ("closed", 0.01, 900)
        assert [trade["amount"] for trade in trades] == [0.004, 0.006]
        assert [trade["takerOrMaker"] for trade in trades] == ["maker", "maker"]

    async def test_cancels_all_of_a_symbol(self, client: Any) -> None:
        for price in (90000, 89000):
            await client.create_order(SYMBOL, "limit", "buy", 0.01, price)

        canceled = await client.cancel_all_orders(SYMBOL)

        assert [order["status"] for order in canceled] == ["canceled", "canceled"]
        assert await client.fetch_open_orders(SYMBOL) == []
        with pytest.raises(ccxt.ExchangeError, match="-2011"):
            await client.cancel_all_orders(SYMBOL)

    async def test_a_stop_triggers_and_rests_at_its_limit(
        self, client: Any, simulator: SimulatorProcess
    ) -> None:
        stop = await client.create_order(
            SYMBOL, "limit", "sell", 0.01, 94500, {"stopLossPrice": 94000, "clientOrderId": "th-stop"}
        )
        waiting = await client.fetch_order(stop["id"], SYMBOL)

        simulator.set_price("BTC/USDT", 93999)
        resting = await client.fetch_order(stop["id"], SYMBOL)
        simulator.set_price("BTC/USDT", 94500)
        filled = await client.fetch_order(stop["id"], SYMBOL)

        assert (waiting["status"], waiting["info"]["isWorking"]) == ("open", False)
        assert (resting["status"], resting["info"]["isWorking"]) == ("open", True)
        assert (filled["status"], filled["average"]) == ("closed", 94500)


class TestRefusals:
    async def test_an_unaffordable_order(self, client: Any) -> None:
        with pytest.raises(ccxt.InsufficientFunds, match="insufficient balance"):
            await client.create_order(SYMBOL, "limit", "buy", 20, 90000)

    async def test_a_second_open_order_with_the_same_client_id(self, client: Any) -> None:
        await client.create_order(SYMBOL, "limit", "buy", 0.01, 90000, {"clientOrderId": "th-same"})

        with pytest.raises(ccxt.ExchangeError, match="Duplicate order sent."):
            await client.create_order(SYMBOL, "limit", "buy", 0.01, 90000, {"clientOrderId": "th-same"})

    async def test_an_order_below_the_minimum_notional(self, client: Any) -> None:
        with pytest.raises(ccxt.ExchangeError, match="Filter failure: NOTIONAL"):
            await client.create_order(SYMBOL, "limit", "buy", 0.00001, 90000)

    async def test_a_post_only_order_that_would_take(self, client: Any) -> None:
        with pytest.raises(ccxt.InvalidOrder, match="Order would immediately match and take."):
            await client.create_order(SYMBOL, "limit", "buy", 0.01, 95000, {"postOnly": True})

    async def test_a_stop_that_would_trigger_at_once(self, client: Any) -> None:
        with pytest.raises(ccxt.InvalidOrder, match="Order would trigger immediately."):
            await client.create_order(SYMBOL, "limit", "sell", 0.01, 94000, {"stopLossPrice": 96000})

    async def test_a_sixth_stop(self, client: Any) -> None:
        for _ in range(5):
            await client.create_order(SYMBOL, "limit", "sell", 0.01, 90000, {"stopLossPrice": 91000})

        with pytest.raises(ccxt.ExchangeError, match="MAX_NUM_ALGO_ORDERS"):
            await client.create_order(SYMBOL, "limit", "sell", 0.01, 90000, {"stopLossPrice": 91000})

    async def test_an_order_that_does_not_exist(self, client: Any) -> None:
        with pytest.raises(ccxt.OrderNotFound, match="-2013"):
            await client.fetch_order("1", SYMBOL)
        with pytest.raises(ccxt.OrderNotFound, match="-2011"):
            await client.cancel_order("1", SYMBOL)

    async def test_an_unknown_key(self, client: Any) -> None:
        client.apiKey = "nobody"

        with pytest.raises(ccxt.AuthenticationError, match="-2015"):
            await client.fetch_balance()

    async def test_a_wrong_secret(self, client: Any) -> None:
        client.secret = "wrong"

        with pytest.raises(ccxt.AuthenticationError, match="-1022"):
            await client.fetch_balance()


class TestOrderStream:
    async def test_tells_of_placing_part_fill_fill_and_cancel(
        self, watcher: Any, client: Any, simulator: SimulatorProcess
    ) -> None:
        seen: asyncio.Queue[Any] = asyncio.Queue()

        async def watch() -> None:
            while True:
                for order in await watcher.watch_orders():
                    seen.put_nowait(dict(order))

        async def next_state() -> tuple[str, str, float]:
            order = await asyncio.wait_for(seen.get(), 5)
            return order["clientOrderId"], order["status"], order["filled"]

        task = asyncio.create_task(watch())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        while not simulator.state()["streams"]:
            assert not task.done(), task
            await asyncio.sleep(0.01)

        # One at a time: ccxt keeps only an order's latest state for whoever comes late.
        await client.create_order(SYMBOL, "limit", "buy", 0.01, 90000, {"clientOrderId": "th-a"})
        assert await next_state() == ("th-a", "open", 0)
        simulator.fill("th-a", quantity="0.004")
        assert await next_state() == ("th-a", "open", 0.004)
        simulator.fill("th-a")
        assert await next_state() == ("th-a", "closed", 0.01)
        other = await client.create_order(SYMBOL, "limit", "buy", 0.02, 89000, {"clientOrderId": "th-b"})
        assert await next_state() == ("th-b", "open", 0)
        await client.cancel_order(other["id"], SYMBOL)
        assert await next_state() == ("th-b", "canceled", 0)  # by `C`, not the cancel's own id in `c`
