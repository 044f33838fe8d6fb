"""ccxt trades USDⓈ-M futures on the simulator: REST, and its websocket order stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import ccxt
import ccxt.async_support
import ccxt.pro
import pytest

from exchanges.simulator.testing import SimulatorProcess

SYMBOL = "BTC/USDT:USDT"


def point_at(client: Any, simulator: SimulatorProcess) -> None:
    """Set ccxt's documented `urls` to the simulator."""
    base = f"{simulator.futures_url}/fapi"
    client.urls["api"] |= {
        "fapiPublic": f"{base}/v1",
        "fapiPublicV2": f"{base}/v2",
        "fapiPublicV3": f"{base}/v3",
        "fapiPrivate": f"{base}/v1",
        "fapiPrivateV2": f"{base}/v2",
        "fapiPrivateV3": f"{base}/v3",
    }
    if "ws" in client.urls["api"]:
        client.urls["api"]["ws"]["future"] = f"{simulator.futures_ws_url}/ws"


def settings(**more: Any) -> dict[str, Any]:
    return {
        "apiKey": "k1",
        "secret": "s1",
        "enableRateLimit": False,
        "options": {"fetchCurrencies": False, "fetchMarkets": {"types": ["linear"]}},
    } | more


@pytest.fixture
async def client(simulator: SimulatorProcess) -> AsyncIterator[Any]:
    exchange = ccxt.async_support.binanceusdm(settings())
    point_at(exchange, simulator)
    yield exchange
    await exchange.close()


@pytest.fixture
async def watcher(simulator: SimulatorProcess) -> AsyncIterator[Any]:
    exchange = ccxt.pro.binanceusdm(settings())
    point_at(exchange, simulator)
    yield exchange
    await exchange.close()


class TestRest:
    async def test_loads_the_markets_with_their_grid(self, client: Any) -> None:
        markets = await client.load_markets()

        assert set(markets) == {"BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT", "XRP/USDT:USDT"}
        market = markets[SYMBOL]
        assert market["precision"] == {
            "amount": 0.001,
            "price": 0.1,
            "base": 1e-08,
            "quote": 1e-08,
        }
        assert market["limits"]["cost"]["min"] == 5
        assert market["limits"]["market"]["max"] == 120

    async def test_places_queries_lists_and_cancels_a_limit_order(self, client: Any) -> None:
        placed = await client.create_order(SYMBOL, "limit", "buy", 0.01, 90000, {"clientOrderId": "th-limit"})
        queried = await client.fetch_order(placed["id"], SYMBOL)
        listed = await client.fetch_open_orders(SYMBOL)
        canceled = await client.cancel_order(placed["id"], SYMBOL)

        assert (placed["status"], placed["clientOrderId"]) == ("open", "th-limit")
        assert (queried["price"], queried["amount"], queried["filled"]) == (90000, 0.01, 0)
        assert [order["id"] for order in listed] == [placed["id"]]
        assert canceled["status"] == "canceled"
        assert await client.fetch_open_orders(SYMBOL) == []

    async def test_places_a_batch_and_gets_results_in_order(self, client: Any) -> None:
        orders = [
            {
                "symbol": SYMBOL,
                "type": "limit",
                "side": "buy",
                "amount": 0.01,
                "price": price,
                "params": {"clientOrderId": f"th-batch-{index}"},
            }
            for index, price in enumerate((90000, 90000.05, 89000))
        ]

        placed = await client.create_orders(orders)

        # ccxt rounds 90000.05 to the tick itself, so all three are good.
        assert [order["clientOrderId"] for order in placed] == ["th-batch-0", "th-batch-1", "th-batch-2"]
        assert [order["status"] for order in placed] == ["open", "open", "open"]

    async def test_sees_a_part_fill_then_a_full_one(self, client: Any, simulator: SimulatorProcess) -> None:
        placed = await client.create_order(SYMBOL, "limit", "buy", 0.01, 90000, {"clientOrderId": "th-p"})

        simulator.fill("th-p", quantity="0.004")
        part = await client.fetch_order(placed["id"], SYMBOL)
        simulator.set_price("BTC/USDT", 89999)
        full = await client.fetch_order(placed["id"], SYMBOL)
        trades = await client.fetch_my_trades(SYMBOL)

        assert (part["status"], part["filled"], part["remaining"]) == ("open", 0.004, 0.006)
        assert (full["status"], full["filled"], full["average"]) == ("closed", 0.01, 90000)
        assert [trade["amount"] for trade in trades] == [0.004, 0.006]
        assert {trade["order"] for trade in trades} == {placed["id"]}
        assert [trade["takerOrMaker"] for trade in trades] == ["maker", "maker"]
        assert trades[0]["fee"] == {"cost": 0.072, "currency": "USDT"}

    async def test_cancels_all_of_a_symbol(self, client: Any) -> None:
        for price in (90000, 89000):
            await client.create_order(SYMBOL, "limit", "buy", 0.01, price)
        await client.create_order("ETH/USDT:USDT", "limit", "buy", 0.1, 3000)

        await client.cancel_all_orders(SYMBOL)

        assert await client.fetch_open_orders(SYMBOL) == []
        assert len(await client.fetch_open_orders("ETH/USDT:USDT")) == 1

    async def test_cancels_a_batch(self, client: Any) -> None:
        placed = [await client.create_order(SYMBOL, "limit", "buy", 0.01, price) for price in (90000, 89000)]

        canceled = await client.cancel_orders([order["id"] for order in placed], SYMBOL)

        assert [order["status"] for order in canceled] == ["canceled", "canceled"]

    async def test_opens_and_closes_a_position(self, client: Any, simulator: SimulatorProcess) -> None:
        await client.set_leverage(10, SYMBOL)
        await client.create_order(SYMBOL, "market", "buy", 0.1)
        simulator.set_price("BTC/USDT", 96000)

        positions = await client.fetch_positions([SYMBOL])
        older = await client.fetch_positions([SYMBOL], {"useV2": True})
        balance = await client.fetch_balance()
        await client.create_order(SYMBOL, "market", "sell", 0.1, None, {"reduceOnly": True})

        assert [(p["side"], p["contracts"], p["entryPrice"]) for p in positions] == [("long", 0.1, 95000)]
        assert positions[0]["unrealizedPnl"] == 100
        assert older[0]["leverage"] == 10
        assert positions[0]["initialMargin"] == 960
        # 0.1 BTC at 95000 taken for 0.04%, 100 of open profit; a tenth of 9600 is margin.
        assert balance["USDT"]["total"] == 1_000_096.2
        assert balance["USDT"]["free"] == 999_136.2
        closed = await client.fetch_positions([SYMBOL])
        assert [position for position in closed if position["contracts"]] == []

    async def test_a_stop_triggers_into_a_child_that_keeps_the_client_id(
        self, client: Any, simulator: SimulatorProcess
    ) -> None:
        await client.create_order(SYMBOL, "market", "buy", 0.1)
        stop = await client.create_order(
            SYMBOL, "market", "sell", 0.1, None, {"stopLossPrice": 94000, "clientOrderId": "th-stop"}
        )
        waiting = await client.fetch_open_orders(SYMBOL, params={"trigger": True})

        simulator.set_price("BTC/USDT", 93999)

        assert [order["id"] for order in waiting] == [stop["id"]]
        assert await client.fetch_open_orders(SYMBOL, params={"trigger": True}) == []
        child = simulator.order("th-stop")
        assert child["order_id"] != int(stop["id"])
        assert (child["status"], child["average_price"], child["parent_id"]) == (
            "FILLED",
            "93999",
            stop["id"],
        )
        asked = await client.fetch_order(stop["id"], SYMBOL, {"trigger": True})
        assert asked["info"]["actualOrderId"] == str(child["order_id"])

    async def test_cancels_a_stop(self, client: Any) -> None:
        stop = await client.create_order(SYMBOL, "limit", "buy", 0.01, 97000, {"triggerPrice": 96500})

        await client.cancel_order(stop["id"], SYMBOL, {"trigger": True})

        assert await client.fetch_open_orders(SYMBOL, params={"trigger": True}) == []


class TestRefusals:
    """ccxt finds its finer exception classes by Binance's own host names, so the codes tell."""

    async def test_an_unaffordable_order(self, client: Any) -> None:
        with pytest.raises(ccxt.ExchangeError, match="-2019"):
            await client.create_order(SYMBOL, "limit", "buy", 900, 94000)

    async def test_a_second_open_order_with_the_same_client_id(self, client: Any) -> None:
        await client.create_order(SYMBOL, "limit", "buy", 0.01, 90000, {"clientOrderId": "th-same"})

        with pytest.raises(ccxt.ExchangeError, match="-4116"):
            await client.create_order(SYMBOL, "limit", "buy", 0.01, 90000, {"clientOrderId": "th-same"})

    async def test_an_order_below_the_minimum_notional(self, client: Any) -> None:
        with pytest.raises(ccxt.ExchangeError, match="-4164"):
            await client.create_order("XRP/USDT:USDT", "limit", "buy", 1, 2.1)

    async def test_a_post_only_order_that_would_take(self, client: Any) -> None:
        with pytest.raises(ccxt.ExchangeError, match="-5022"):
            await client.create_order(SYMBOL, "limit", "buy", 0.01, 95000, {"postOnly": True})

    async def test_a_reduce_only_order_without_position(self, client: Any) -> None:
        with pytest.raises(ccxt.ExchangeError, match="-2022"):
            await client.create_order(SYMBOL, "limit", "sell", 0.01, 96000, {"reduceOnly": True})

    async def test_a_stop_that_would_trigger_at_once(self, client: Any) -> None:
        with pytest.raises(ccxt.ExchangeError, match="-2021"):
            await client.create_order(SYMBOL, "market", "sell", 0.01, None, {"stopLossPrice": 96000})

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

    async def test_a_clock_that_is_off(self, client: Any, simulator: SimulatorProcess) -> None:
        await client.load_markets()  # measures the difference of the clocks
        simulator.set_clock_offset(60_000)

        with pytest.raises(ccxt.InvalidNonce, match="-1021"):
            await client.fetch_balance()


class TestOrderStream:
    async def test_tells_of_placing_part_fill_fill_and_cancel(
        self, watcher: Any, client: Any, simulator: SimulatorProcess
    ) -> None:
        seen = await _watch(watcher, simulator)

        async def next_state() -> tuple[str, str, float]:
            order = await asyncio.wait_for(seen.get(), 5)
            return order["clientOrderId"], order["status"], order["filled"]

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
        assert await next_state() == ("th-b", "canceled", 0)

    async def test_tells_of_a_stop_and_of_its_child(
        self, watcher: Any, client: Any, simulator: SimulatorProcess
    ) -> None:
        await client.create_order(SYMBOL, "market", "buy", 0.1)
        seen = await _watch(watcher, simulator)

        stop = await client.create_order(
            SYMBOL, "market", "sell", 0.1, None, {"stopLossPrice": 94000, "clientOrderId": "th-stop"}
        )
        simulator.set_price("BTC/USDT", 93999)

        child = str(simulator.order("th-stop")["order_id"])
        ids = []
        while child not in ids or "FINISHED" not in ids:
            order = await asyncio.wait_for(seen.get(), 5)
            ids += [order["id"], order["info"]["X"]]
        assert stop["id"] in ids


async def _watch(watcher: Any, simulator: SimulatorProcess) -> asyncio.Queue[Any]:
    """Start watching; return, once the simulator has the stream, where the orders arrive."""
    seen: asyncio.Queue[Any] = asyncio.Queue()

    async def watch() -> None:
        while True:
            for order in await watcher.watch_orders():
                seen.put_nowait(order | {"info": dict(order["info"])})

    task = asyncio.create_task(watch())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    for _ in range(500):
        if simulator.state()["streams"]:
            return seen
        await asyncio.sleep(0.01)
    raise AssertionError("the stream did not connect")
