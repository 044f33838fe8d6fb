"""python-binance trades spot and futures on the simulator, and listens to both user streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from binance import AsyncClient, BinanceSocketManager
from binance.exceptions import BinanceAPIException
from binance.ws.reconnecting_websocket import ReconnectingWebsocket

from exchanges.simulator.testing import SimulatorProcess


def client_class(simulator: SimulatorProcess) -> type[AsyncClient]:
    """Return the client with its documented base addresses set to the simulator."""
    addresses = {
        "API_URL": f"{simulator.spot_url}/api",
        "FUTURES_URL": f"{simulator.futures_url}/fapi",
        "WS_API_URL": simulator.spot_ws_url,
    }
    return type("SimulatorClient", (AsyncClient,), addresses)


def manager_class(simulator: SimulatorProcess) -> type[BinanceSocketManager]:
    return type("SimulatorSockets", (BinanceSocketManager,), {"FSTREAM_URL": f"{simulator.futures_ws_url}/"})


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing a socket waits until its read times out, ten seconds by default."""
    monkeypatch.setattr(ReconnectingWebsocket, "TIMEOUT", 0.5)


@pytest.fixture
async def client(simulator: SimulatorProcess) -> AsyncIterator[Any]:
    made = await client_class(simulator).create("k1", "s1")
    yield made
    await made.close_connection()


class TestSpot:
    async def test_trades_a_session(self, client: Any, simulator: SimulatorProcess) -> None:
        info = await client.get_symbol_info("BTCUSDT")
        resting = await client.order_limit_buy(
            symbol="BTCUSDT", quantity="0.01", price="90000", newClientOrderId="th-a"
        )
        simulator.fill("th-a", quantity="0.004")
        part = await client.get_order(symbol="BTCUSDT", orderId=resting["orderId"])
        open_orders = await client.get_open_orders(symbol="BTCUSDT")
        canceled = await client.cancel_order(symbol="BTCUSDT", origClientOrderId="th-a")
        bought = await client.order_market_buy(symbol="BTCUSDT", quantity="0.01")
        trades = await client.get_my_trades(symbol="BTCUSDT")
        balance = await client.get_asset_balance("BTC")

        assert info["filters"][0]["tickSize"] == "0.01000000"
        assert (part["status"], part["executedQty"]) == ("PARTIALLY_FILLED", "0.00400000")
        assert [order["clientOrderId"] for order in open_orders] == ["th-a"]
        assert (canceled["status"], canceled["origClientOrderId"]) == ("CANCELED", "th-a")
        assert canceled["clientOrderId"] != "th-a"
        assert (bought["status"], bought["fills"][0]["price"]) == ("FILLED", "95000.00000000")
        assert [trade["qty"] for trade in trades] == ["0.00400000", "0.01000000"]
        assert balance["free"] == "100.01398600"  # 0.014 less 0.1%

    async def test_a_stop_triggers(self, client: Any, simulator: SimulatorProcess) -> None:
        stop = await client.create_order(
            symbol="BTCUSDT", side="SELL", type="STOP_LOSS", quantity="0.01", stopPrice="94000"
        )
        waiting = await client.get_order(symbol="BTCUSDT", orderId=stop["orderId"])
        simulator.set_price("BTC/USDT", 93999)
        done = await client.get_order(symbol="BTCUSDT", orderId=stop["orderId"])

        assert (waiting["status"], waiting["isWorking"]) == ("NEW", False)
        assert (done["status"], done["cummulativeQuoteQty"]) == ("FILLED", "939.99000000")

    async def test_is_refused_with_the_right_codes(self, client: Any) -> None:
        refusals = [
            ({"quantity": "20", "price": "90000"}, -2010),
            ({"quantity": "0.000001", "price": "90000"}, -1013),
            ({"quantity": "0.0000000001", "price": "90000"}, -1111),
            ({"quantity": "0.01", "price": "90000.001"}, -1013),
            ({"quantity": "0.01", "price": "90000", "newClientOrderId": "not.allowed"}, -1100),
            ({"quantity": "0.01", "price": "nan"}, -1100),
        ]
        for order, code in refusals:
            with pytest.raises(BinanceAPIException) as caught:
                await client.order_limit_buy(symbol="BTCUSDT", **order)
            assert caught.value.code == code, order
        with pytest.raises(BinanceAPIException) as caught:
            await client.order_limit_buy(symbol="NOPE", quantity="1", price="1")
        assert caught.value.code == -1121

    async def test_hears_its_user_socket(self, client: Any, simulator: SimulatorProcess) -> None:
        async with manager_class(simulator)(client).user_socket() as socket:
            await client.order_limit_buy(
                symbol="BTCUSDT", quantity="0.01", price="90000", newClientOrderId="th-a"
            )
            simulator.fill("th-a", quantity="0.004")
            await client.cancel_order(symbol="BTCUSDT", origClientOrderId="th-a")
            events = [await asyncio.wait_for(socket.recv(), 5) for _ in range(6)]

        reports = [event for event in events if event["e"] == "executionReport"]
        assert [(report["x"], report["X"], report["z"]) for report in reports] == [
            ("NEW", "NEW", "0.00000000"),
            ("TRADE", "PARTIALLY_FILLED", "0.00400000"),
            ("CANCELED", "CANCELED", "0.00400000"),
        ]
        assert [report["C"] or report["c"] for report in reports] == ["th-a"] * 3
        assert {event["e"] for event in events} == {"executionReport", "outboundAccountPosition"}


class TestFutures:
    async def test_trades_a_session(self, client: Any, simulator: SimulatorProcess) -> None:
        await client.futures_change_leverage(symbol="BTCUSDT", leverage=10)
        resting = await client.futures_create_order(
            symbol="BTCUSDT",
            side="BUY",
            type="LIMIT",
            timeInForce="GTC",
            quantity="0.01",
            price="90000",
            newClientOrderId="th-a",
        )
        simulator.fill("th-a", quantity="0.004")
        part = await client.futures_get_order(symbol="BTCUSDT", orderId=resting["orderId"])
        open_orders = await client.futures_get_open_orders(symbol="BTCUSDT")
        await client.futures_cancel_order(symbol="BTCUSDT", origClientOrderId="th-a")
        bought = await client.futures_create_order(
            symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.006", newOrderRespType="RESULT"
        )
        trades = await client.futures_account_trades(symbol="BTCUSDT")
        positions = await client.futures_position_information(symbol="BTCUSDT")
        balance = await client.futures_account_balance()
        await client.futures_cancel_all_open_orders(symbol="BTCUSDT")

        assert (part["status"], part["executedQty"]) == ("PARTIALLY_FILLED", "0.004")
        assert [order["clientOrderId"] for order in open_orders] == ["th-a"]
        assert (bought["status"], bought["avgPrice"]) == ("FILLED", "95000.00000")
        assert [trade["qty"] for trade in trades] == ["0.004", "0.006"]
        assert (positions[0]["positionAmt"], positions[0]["entryPrice"]) == ("0.010", "93000.00000000")
        assert balance[0]["balance"] == "999999.70000000"  # 0.072 and 0.228 of fees
        assert await client.futures_get_open_orders(symbol="BTCUSDT") == []

    async def test_places_a_batch(self, client: Any) -> None:
        orders = [
            {
                "symbol": "BTCUSDT",
                "side": "BUY",
                "type": "LIMIT",
                "timeInForce": "GTC",
                "quantity": "0.01",
                "price": price,
                "newClientOrderId": f"th-{index}",
            }
            for index, price in enumerate(("90000", "90000.05", "89000"))
        ]

        placed = await client.futures_place_batch_order(batchOrders=orders)

        assert [row.get("clientOrderId") for row in placed] == ["th-0", None, "th-2"]
        assert placed[1] == {"code": -4014, "msg": "Price not increased by tick size."}

    async def test_a_stop_triggers(self, client: Any, simulator: SimulatorProcess) -> None:
        await client.futures_create_order(symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.01")
        stop = await client.futures_create_order(
            symbol="BTCUSDT", side="SELL", type="STOP_MARKET", stopPrice="94000", closePosition="true"
        )
        listed = await client.futures_get_open_algo_orders(symbol="BTCUSDT")
        simulator.set_price("BTC/USDT", 93999)
        done = await client.futures_get_algo_order(algoId=stop["algoId"])

        assert [order["algoId"] for order in listed] == [stop["algoId"]]
        assert (done["algoStatus"], done["actualPrice"]) == ("FINISHED", "93999.00000")
        assert await client.futures_get_open_algo_orders(symbol="BTCUSDT") == []
        assert await client.futures_position_information(symbol="BTCUSDT") == []

    async def test_is_refused_with_the_right_codes(self, client: Any) -> None:
        refusals = [
            ({"quantity": "900", "price": "94000"}, -2019),
            ({"quantity": "0", "price": "90000"}, -4003),
            ({"quantity": "0.0001", "price": "90000"}, -1111),
            ({"quantity": "2000", "price": "1"}, -4005),
            ({"quantity": "0.001", "price": "1000"}, -4164),
            ({"quantity": "0.01", "price": "90000.05"}, -4014),
            ({"quantity": "0.01", "price": "120000"}, -4016),
            ({"quantity": "0.01", "price": "90000", "newClientOrderId": "x" * 37}, -4015),
            ({"quantity": "0.01", "price": "90000", "positionSide": "LONG"}, -4061),
            ({"quantity": "0.01", "price": "94000", "reduceOnly": "true"}, -2022),
        ]
        for order, code in refusals:
            with pytest.raises(BinanceAPIException) as caught:
                await client.futures_create_order(
                    symbol="BTCUSDT", side="BUY", type="LIMIT", timeInForce="GTC", **order
                )
            assert caught.value.code == code, order
        with pytest.raises(BinanceAPIException) as caught:
            await client._request_futures_api(
                "post",
                "order",
                True,
                data={
                    "symbol": "BTCUSDT",
                    "side": "SELL",
                    "type": "STOP_MARKET",
                    "quantity": "0.01",
                    "stopPrice": "94000",
                },
            )
        assert caught.value.code == -4120

    async def test_hears_its_user_socket(self, client: Any, simulator: SimulatorProcess) -> None:
        async with manager_class(simulator)(client).futures_user_socket() as socket:
            await client.futures_create_order(
                symbol="BTCUSDT",
                side="BUY",
                type="LIMIT",
                timeInForce="GTC",
                quantity="0.01",
                price="90000",
                newClientOrderId="th-a",
            )
            simulator.fill("th-a", quantity="0.004")
            await client.futures_cancel_order(symbol="BTCUSDT", origClientOrderId="th-a")
            events = [await asyncio.wait_for(socket.recv(), 5) for _ in range(5)]

        assert [event["e"] for event in events] == [
            "ORDER_TRADE_UPDATE",
            "TRADE_LITE",
            "ACCOUNT_UPDATE",
            "ORDER_TRADE_UPDATE",
            "ORDER_TRADE_UPDATE",
        ]
        states = [event["o"] for event in events if event["e"] == "ORDER_TRADE_UPDATE"]
        assert [(state["c"], state["x"], state["X"], state["z"]) for state in states] == [
            ("th-a", "NEW", "NEW", "0.000"),
            ("th-a", "TRADE", "PARTIALLY_FILLED", "0.004"),
            ("th-a", "CANCELED", "CANCELED", "0.004"),
        ]
        assert json.dumps(states).count('"n"') == 1  # a fee only where there is a fill
