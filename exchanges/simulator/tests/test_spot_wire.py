"""The spot dialect, byte by byte where other programs rely on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from exchanges.simulator.testing import SimulatorProcess
from exchanges.simulator.tests.clients import (
    WS_API,
    WireClient,
    ask,
    limit_order,
    next_event,
    subscription,
    wire_client,
)

ORDER = "/api/v3/order"


@pytest.fixture
async def client(simulator: SimulatorProcess) -> AsyncIterator[WireClient]:
    async with wire_client(simulator.spot_url) as made:
        yield made


class TestPlace:
    async def test_answers_in_full_for_limit_and_market_and_acknowledges_the_rest(
        self, client: WireClient
    ) -> None:
        market = await client.call(
            "POST", ORDER, symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.01"
        )
        limit = await client.call("POST", ORDER, **limit_order())
        stop = await client.call(
            "POST", ORDER, symbol="BTCUSDT", side="SELL", type="STOP_LOSS", quantity="0.01", stopPrice="94000"
        )
        result = await client.call("POST", ORDER, newOrderRespType="RESULT", **limit_order("th-2"))

        assert market.data["fills"] == [
            {
                "price": "95000.00000000",
                "qty": "0.01000000",
                "commission": "0.00001000",
                "commissionAsset": "BTC",
                "tradeId": market.data["fills"][0]["tradeId"],
            }
        ]
        assert market.data["cummulativeQuoteQty"] == "950.00000000"
        assert limit.data["fills"] == []
        assert set(stop.data) == {"symbol", "orderId", "orderListId", "clientOrderId", "transactTime"}
        assert "fills" not in result.data

    @pytest.mark.parametrize(
        ("overrides", "code", "message"),
        [
            ({"symbol": "NOPE"}, -1121, "Invalid symbol."),
            ({"type": "STOP_MARKET"}, -1116, "Invalid orderType."),
            ({"stopPrice": "94000"}, -1106, "Parameter 'stopPrice' sent when not required."),
            ({"type": "LIMIT_MAKER"}, -1106, "Parameter 'timeInForce' sent when not required."),
            ({"quoteOrderQty": "100"}, -1106, "Parameter 'quoteOrderQty' sent when not required."),
            ({"quantity": "0.000001"}, -1013, "Filter failure: LOT_SIZE"),
            ({"price": "90000.001"}, -1013, "Filter failure: PRICE_FILTER"),
            ({"price": "10000"}, -1013, "Filter failure: PERCENT_PRICE_BY_SIDE"),
            ({"quantity": "0.00001"}, -1013, "Filter failure: NOTIONAL"),
            ({"quantity": "0"}, -1013, "Invalid quantity."),
            ({"quantity": "50"}, -2010, "Account has insufficient balance for requested action."),
        ],
    )
    async def test_refuses_with_the_right_code_and_text(
        self,
        client: WireClient,
        simulator: SimulatorProcess,
        overrides: dict[str, str],
        code: int,
        message: str,
    ) -> None:
        reply = await client.call("POST", ORDER, **limit_order(**overrides))

        assert (reply.status, reply.data) == (400, {"code": code, "msg": message})
        assert simulator.orders() == []

    async def test_has_no_batch_endpoint(self, client: WireClient) -> None:
        reply = await client.call("POST", "/api/v3/batchOrders", batchOrders="[]")

        assert reply.status == 404


class TestQuery:
    async def test_checks_the_client_id_against_the_order_id(self, client: WireClient) -> None:
        placed = await client.call("POST", ORDER, **limit_order("th-1"))
        number = placed.data["orderId"]

        both = await client.call("GET", ORDER, symbol="BTCUSDT", orderId=number, origClientOrderId="th-1")
        wrong = await client.call("GET", ORDER, symbol="BTCUSDT", orderId=number, origClientOrderId="th-2")
        neither = await client.call("GET", ORDER, symbol="BTCUSDT")
        elsewhere = await client.call("GET", ORDER, symbol="ETHUSDT", orderId=number)

        assert both.data["orderId"] == number
        assert [wrong.code, neither.code, elsewhere.code] == [-2039, -1102, -2013]


class TestCancel:
    async def test_gives_the_cancel_an_id_of_its_own(self, client: WireClient) -> None:
        await client.call("POST", ORDER, **limit_order("th-1"))

        reply = await client.call(
            "DELETE", ORDER, symbol="BTCUSDT", origClientOrderId="th-1", newClientOrderId="th-cancel"
        )

        assert (reply.data["origClientOrderId"], reply.data["clientOrderId"]) == ("th-1", "th-cancel")
        assert reply.data["status"] == "CANCELED"

    async def test_heeds_its_restrictions(self, client: WireClient) -> None:
        await client.call("POST", ORDER, **limit_order("th-1"))

        reply = await client.call(
            "DELETE",
            ORDER,
            symbol="BTCUSDT",
            origClientOrderId="th-1",
            cancelRestrictions="ONLY_PARTIALLY_FILLED",
        )

        assert reply.code == -2011


class TestListenKeys:
    async def test_are_gone(self, client: WireClient) -> None:
        reply = await client.send("POST", "/api/v3/userDataStream")

        assert reply.status == 410


class TestWebSocketApi:
    async def test_subscribes_and_wraps_events(self, client: WireClient, simulator: SimulatorProcess) -> None:
        socket = await client.listen(WS_API)
        answer = await ask(socket, "userDataStream.subscribe.signature", subscription())
        await client.call("POST", ORDER, **limit_order("th-1"))
        await client.call("DELETE", ORDER, symbol="BTCUSDT", origClientOrderId="th-1")
        events = [await next_event(socket) for _ in range(4)]

        number = answer["result"]["subscriptionId"]
        assert (answer["id"], answer["status"]) == ("1", 200)
        assert answer["rateLimits"][0]["rateLimitType"] == "REQUEST_WEIGHT"
        assert {event["subscriptionId"] for event in events} == {number}
        placed, locked, canceled, freed = (event["event"] for event in events)
        assert (placed["x"], placed["c"], placed["C"], placed["t"], placed["N"]) == (
            "NEW",
            "th-1",
            "",
            -1,
            None,
        )
        assert (canceled["x"], canceled["C"]) == ("CANCELED", "th-1")
        assert canceled["c"] != "th-1"
        assert locked["B"][1] == {"a": "USDT", "f": "999100.00000000", "l": "900.00000000"}
        assert freed["B"][1] == {"a": "USDT", "f": "1000000.00000000", "l": "0.00000000"}

    async def test_carries_several_accounts_and_each_only_once(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        socket = await client.listen(WS_API)
        method = "userDataStream.subscribe.signature"
        first = await ask(socket, method, subscription())
        second = await ask(socket, method, subscription("k2", "s2"))
        again = await ask(socket, method, subscription())
        listed = await ask(socket, "session.subscriptions")
        async with wire_client(simulator.spot_url, "k2", "s2") as other:
            await other.call("POST", ORDER, **limit_order("th-2"))
        event = await next_event(socket)

        numbers = [answer["result"]["subscriptionId"] for answer in (first, second)]
        assert (again["status"], again["error"]["code"]) == (400, -2035)
        assert [row["subscriptionId"] for row in listed["result"]] == numbers
        assert event["subscriptionId"] == numbers[1]

    async def test_unsubscribes_with_a_last_word(self, client: WireClient) -> None:
        socket = await client.listen(WS_API)
        answer = await ask(socket, "userDataStream.subscribe.signature", subscription())
        number = answer["result"]["subscriptionId"]

        await socket.send_json({"id": 2, "method": "userDataStream.unsubscribe", "params": {}})
        told = [await next_event(socket) for _ in range(2)]
        await client.call("POST", ORDER, **limit_order("th-1"))
        pong = await ask(socket, "ping")

        events = [message for message in told if "event" in message]
        assert [(e["subscriptionId"], e["event"]["e"]) for e in events] == [(number, "eventStreamTerminated")]
        assert [message["status"] for message in told if "status" in message] == [200]
        assert pong["result"] == {}  # and nothing of the order before it

    @pytest.mark.parametrize(
        ("method", "params", "status", "code"),
        [
            ("userDataStream.subscribe.signature", {"apiKey": "k1"}, 400, -1102),
            ("userDataStream.subscribe.signature", subscription("nobody"), 401, -2015),
            ("userDataStream.subscribe.signature", {"signature": "00"}, 401, -2014),
            ("userDataStream.subscribe", {}, 401, -2015),
            ("userDataStream.unsubscribe", {"subscriptionId": 99}, 400, -2036),
            ("session.logon", {"apiKey": "k1"}, 400, -4056),
            ("order.destroy", {}, 400, -1000),
        ],
    )
    async def test_refuses(
        self, client: WireClient, method: str, params: dict[str, Any], status: int, code: int
    ) -> None:
        socket = await client.listen(WS_API)

        answer = await ask(socket, method, params)

        assert (answer["status"], answer["error"]["code"]) == (status, code)

    async def test_refuses_a_wrong_signature_and_an_old_request(self, client: WireClient) -> None:
        socket = await client.listen(WS_API)
        method = "userDataStream.subscribe.signature"

        wrong = await ask(socket, method, subscription(secret="wrong"))
        old = await ask(socket, method, subscription(timestamp=1_000))

        assert [wrong["error"]["code"], old["error"]["code"]] == [-1022, -1021]

    async def test_survives_what_is_not_json(self, client: WireClient) -> None:
        socket = await client.listen(WS_API)
        for text in ("{", "[]", '"x"', '{"params": 5}'):
            await socket.send_str(text)
            assert (await next_event(socket))["error"]["code"] == -1135

        assert (await ask(socket, "ping"))["status"] == 200
