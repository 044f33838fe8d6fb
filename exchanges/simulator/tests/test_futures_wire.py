"""The USDⓈ-M futures dialect, byte by byte where other programs rely on it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from exchanges.simulator.testing import SimulatorProcess
from exchanges.simulator.tests.clients import WireClient, limit_order, next_event, sign, wire_client

ORDER = "/fapi/v1/order"
BATCH = "/fapi/v1/batchOrders"
ALGO = "/fapi/v1/algoOrder"


@pytest.fixture
async def client(simulator: SimulatorProcess) -> AsyncIterator[WireClient]:
    async with wire_client(simulator.futures_url) as made:
        yield made


def stop_order(client_algo_id: str = "th-s", **overrides: str) -> dict[str, str]:
    return {
        "symbol": "BTCUSDT",
        "side": "SELL",
        "type": "STOP_MARKET",
        "algoType": "CONDITIONAL",
        "quantity": "0.01",
        "triggerPrice": "94000",
        "clientAlgoId": client_algo_id,
    } | overrides


class TestSecurity:
    async def test_takes_parameters_in_query_body_or_both(self, client: WireClient) -> None:
        in_query = await client.call("POST", ORDER, **limit_order("th-q"))
        in_body = await client.call_by_form("POST", ORDER, **limit_order("th-b"))
        query = "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=GTC&newClientOrderId=th-qb"
        body = f"quantity=0.01&price=90000&timestamp={time.time_ns() // 1_000_000}"
        both = await client.send(
            "POST", f"{ORDER}?{query}", body=f"{body}&signature={sign('s1', query + body)}"
        )

        assert [in_query.status, in_body.status, both.status] == [200, 200, 200]

    async def test_refuses_bad_credentials(self, client: WireClient) -> None:
        text = f"timestamp={time.time_ns() // 1_000_000}"
        unsigned = await client.send("GET", f"/fapi/v3/balance?{text}")
        wrong = await client.send("GET", f"/fapi/v3/balance?{text}&signature={'0' * 64}")
        client.api_key = "nobody"
        unknown = await client.call("GET", "/fapi/v3/balance")
        client.api_key = ""
        missing = await client.call("GET", "/fapi/v3/balance")

        assert (unsigned.status, unsigned.code) == (400, -1102)
        assert (wrong.status, wrong.data) == (
            400,
            {"code": -1022, "msg": "Signature for this request is not valid."},
        )
        assert (unknown.status, unknown.code) == (401, -2015)
        assert (missing.status, missing.code) == (401, -2014)

    async def test_refuses_a_time_outside_the_window(self, client: WireClient) -> None:
        now = time.time_ns() // 1_000_000
        old = await client.call("GET", "/fapi/v3/balance", timestamp=now - 6000)
        wide = await client.call("GET", "/fapi/v3/balance", timestamp=now - 6000, recvWindow=10000)
        ahead = await client.call("GET", "/fapi/v3/balance", timestamp=now + 2000)

        assert [old.code, wide.status, ahead.code] == [-1021, 200, -1021]

    async def test_knows_no_other_path(self, client: WireClient) -> None:
        reply = await client.call("GET", "/fapi/v1/nothing")

        assert (reply.status, reply.code) == (404, -5000)


class TestPlace:
    async def test_acknowledges_without_fills_by_default(self, client: WireClient) -> None:
        order = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.01"}
        ack = await client.call("POST", ORDER, **order)
        result = await client.call("POST", ORDER, newOrderRespType="RESULT", **order)

        assert (ack.data["status"], ack.data["executedQty"]) == ("NEW", "0.000")
        assert (result.data["status"], result.data["executedQty"]) == ("FILLED", "0.010")
        assert result.data["avgPrice"] == "95000.00000"

    async def test_shows_what_was_used_of_the_limits(self, client: WireClient) -> None:
        before = await client.call("GET", "/fapi/v3/balance")
        reply = await client.call("POST", ORDER, **limit_order())

        used = "X-MBX-USED-WEIGHT-1M"
        assert reply.headers[used] == before.headers[used]  # placing costs no weight
        assert int(reply.headers["X-MBX-ORDER-COUNT-10S"]) >= 1
        assert int(reply.headers["X-MBX-ORDER-COUNT-1M"]) >= 1

    @pytest.mark.parametrize(
        ("overrides", "code"),
        [
            ({"symbol": "NOPE"}, -1121),
            ({"symbol": ""}, -1102),
            ({"side": "UP"}, -1117),
            ({"type": "ICEBERG"}, -1116),
            ({"type": "STOP"}, -4120),
            ({"timeInForce": "NOW"}, -1115),
            ({"price": ""}, -1102),
            ({"price": "1e400"}, -1100),
            ({"price": "NaN"}, -1100),
            ({"quantity": "-1"}, -4003),
            ({"quantity": "0.0005"}, -1111),
            ({"newClientOrderId": "no spaces"}, -1100),
            ({"reduceOnly": "maybe"}, -1130),
            ({"timeInForce": "FOK"}, -5021),
            ({"timeInForce": "GTX", "price": "95000"}, -5022),
        ],
    )
    async def test_refuses_with_the_right_code(
        self, client: WireClient, simulator: SimulatorProcess, overrides: dict[str, str], code: int
    ) -> None:
        reply = await client.call("POST", ORDER, **limit_order(**overrides))

        assert (reply.status, reply.code) == (400, code)
        assert simulator.orders() == []

    async def test_test_orders_place_nothing(self, client: WireClient, simulator: SimulatorProcess) -> None:
        good = await client.call("POST", "/fapi/v1/order/test", **limit_order())
        bad = await client.call("POST", "/fapi/v1/order/test", **limit_order(quantity="900"))

        assert (good.data, bad.code) == ({}, -2019)
        assert simulator.orders() == []

    async def test_refuses_the_201st_order_of_a_symbol(self, client: WireClient) -> None:
        for start in range(0, 200, 5):
            batch = json.dumps([limit_order(f"th-{start + index}") for index in range(5)])
            reply = await client.call("POST", BATCH, batchOrders=batch)
            assert all("orderId" in row for row in reply.data)

        reply = await client.call("POST", ORDER, **limit_order("th-over"))

        assert reply.code == -2025


class TestBatch:
    async def test_answers_each_order_in_its_place(self, client: WireClient) -> None:
        batch = [limit_order("th-0"), limit_order("th-1", price="90000.01"), limit_order("th-0")]

        reply = await client.call("POST", BATCH, batchOrders=json.dumps(batch))

        assert reply.status == 200
        assert [row.get("clientOrderId") or row["code"] for row in reply.data] == ["th-0", -4014, -4116]

    async def test_takes_five_orders_and_ten_cancels(self, client: WireClient) -> None:
        six = json.dumps([limit_order(f"th-{index}") for index in range(6)])
        placed = await client.call("POST", BATCH, batchOrders=six)
        eleven = json.dumps([f"th-{index}" for index in range(11)])
        canceled = await client.call("DELETE", BATCH, symbol="BTCUSDT", origClientOrderIdList=eleven)

        assert [placed.code, canceled.code] == [-4082, -4083]

    async def test_cancels_by_either_id_and_names_the_unknown(self, client: WireClient) -> None:
        first = await client.call("POST", ORDER, **limit_order("th-a"))
        await client.call("POST", ORDER, **limit_order("th-b"))

        by_client_id = await client.call(
            "DELETE", BATCH, symbol="BTCUSDT", origClientOrderIdList='["th-b","th-none"]'
        )
        by_id = await client.call(
            "DELETE", BATCH, symbol="BTCUSDT", orderIdList=json.dumps([first.data["orderId"]])
        )

        assert by_client_id.data[0]["status"] == "CANCELED"
        assert by_client_id.data[1] == {"code": -2011, "msg": "Unknown order sent."}
        assert by_id.data[0]["clientOrderId"] == "th-a"


class TestHistory:
    async def test_goes_forward_from_where_it_is_told_to_begin_else_shows_the_latest(
        self, client: WireClient
    ) -> None:
        placed = [(await client.call("POST", ORDER, **limit_order(f"th-{i}"))).data for i in range(4)]

        async def names(**params: object) -> list[str]:
            reply = await client.call("GET", "/fapi/v1/allOrders", symbol="BTCUSDT", limit=2, **params)
            return [row["clientOrderId"] for row in reply.data]

        assert await names() == ["th-2", "th-3"]
        assert await names(startTime=placed[0]["updateTime"]) == ["th-0", "th-1"]
        assert await names(orderId=placed[1]["orderId"]) == ["th-1", "th-2"]

    async def test_brings_the_fills_of_one_order(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        placed = [(await client.call("POST", ORDER, **limit_order(f"th-{i}"))).data for i in range(2)]
        simulator.set_price("BTC/USDT", 90000)

        trades = await client.call(
            "GET", "/fapi/v1/userTrades", symbol="BTCUSDT", orderId=placed[1]["orderId"]
        )

        assert [trade["orderId"] for trade in trades.data] == [placed[1]["orderId"]]

    async def test_spans_a_week_at_most(self, client: WireClient) -> None:
        week = 7 * 24 * 3_600_000

        good = await client.call("GET", "/fapi/v1/allOrders", symbol="BTCUSDT", startTime=1, endTime=1 + week)
        bad = await client.call("GET", "/fapi/v1/allOrders", symbol="BTCUSDT", startTime=1, endTime=2 + week)

        assert (good.status, bad.code) == (200, -1127)


class TestHedgeMode:
    async def test_keeps_two_positions_of_one_symbol(self, client: WireClient) -> None:
        await client.call("POST", "/fapi/v1/positionSide/dual", dualSidePosition="true")
        mode = await client.call("GET", "/fapi/v1/positionSide/dual")
        again = await client.call("POST", "/fapi/v1/positionSide/dual", dualSidePosition="true")
        order = {"symbol": "BTCUSDT", "type": "MARKET", "quantity": "0.01"}
        one_way = await client.call("POST", ORDER, side="BUY", **order)
        await client.call("POST", ORDER, side="BUY", positionSide="LONG", **order)
        await client.call("POST", ORDER, side="SELL", positionSide="SHORT", **order)
        over = await client.call("POST", ORDER, side="BUY", positionSide="SHORT", reduceOnly="true", **order)
        risks = await client.call("GET", "/fapi/v3/positionRisk")

        assert mode.data == {"dualSidePosition": True}
        assert [again.code, one_way.code, over.code] == [-4059, -4061, -1106]
        assert [(row["positionSide"], row["positionAmt"]) for row in risks.data] == [
            ("LONG", "0.010"),
            ("SHORT", "-0.010"),
        ]


class TestAlgoOrders:
    async def test_are_strangers_to_the_plain_order_endpoints(self, client: WireClient) -> None:
        placed = await client.call("POST", ALGO, **stop_order())

        queried = await client.call("GET", ORDER, symbol="BTCUSDT", orderId=placed.data["algoId"])
        canceled = await client.call("DELETE", ORDER, symbol="BTCUSDT", origClientOrderId="th-s")
        listed = await client.call("GET", "/fapi/v1/openOrders", symbol="BTCUSDT")
        await client.call("DELETE", "/fapi/v1/allOpenOrders", symbol="BTCUSDT")
        still = await client.call("GET", "/fapi/v1/openAlgoOrders")

        assert placed.data["algoStatus"] == "NEW"
        assert [queried.code, canceled.code, listed.data] == [-2013, -2011, []]
        assert [order["clientAlgoId"] for order in still.data] == ["th-s"]

    async def test_cancel_one_and_all(self, client: WireClient) -> None:
        placed = await client.call("POST", ALGO, **stop_order("th-1"))
        await client.call("POST", ALGO, **stop_order("th-2"))

        one = await client.call("DELETE", ALGO, clientAlgoId="th-1")
        again = await client.call("DELETE", ALGO, algoId=placed.data["algoId"])
        await client.call("DELETE", "/fapi/v1/algoOpenOrders", symbol="BTCUSDT")
        history = await client.call("GET", "/fapi/v1/allAlgoOrders", symbol="BTCUSDT")

        assert one.data == {
            "algoId": placed.data["algoId"],
            "clientAlgoId": "th-1",
            "code": "200",
            "msg": "success",
        }
        assert again.code == -2011
        assert [order["algoStatus"] for order in history.data] == ["CANCELED", "CANCELED"]

    @pytest.mark.parametrize(
        ("overrides", "code"),
        [
            ({"triggerPrice": "96000"}, -2021),
            ({"triggerPrice": "94000.05"}, -4014),
            ({"triggerPrice": ""}, -1102),
            ({"type": "TRAILING_STOP_MARKET"}, -1116),
            ({"type": "STOP"}, -1102),
            ({"quantity": "0.0001"}, -1111),
            ({"closePosition": "true"}, -1106),
            ({"type": "STOP", "price": "93000", "closePosition": "true"}, -4136),
            ({"clientAlgoId": "th-taken"}, -4116),
        ],
    )
    async def test_are_refused_with_the_right_code(
        self, client: WireClient, overrides: dict[str, str], code: int
    ) -> None:
        await client.call("POST", ALGO, **stop_order("th-taken"))

        reply = await client.call("POST", ALGO, **stop_order(**overrides))

        assert (reply.status, reply.code) == (400, code)

    async def test_are_at_most_200_over_all_symbols(self, client: WireClient) -> None:
        for index in range(200):
            symbol, trigger = ("BTCUSDT", "94000") if index % 2 else ("ETHUSDT", "3400")
            reply = await client.call(
                "POST", ALGO, **stop_order(f"th-{index}", symbol=symbol, triggerPrice=trigger)
            )
            assert reply.status == 200

        reply = await client.call("POST", ALGO, **stop_order("th-over"))

        assert reply.code == -4045

    async def test_look_at_the_margin_only_when_they_trigger(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        simulator.set_balances("k1", {"binance-futures": {"USDT": "1"}})
        placed = await client.call("POST", ALGO, **stop_order(quantity="10"))

        simulator.set_price("BTC/USDT", 93999)

        asked = await client.call("GET", ALGO, algoId=placed.data["algoId"])
        assert placed.status == 200
        assert (asked.data["algoStatus"], asked.data["actualOrderId"]) == ("REJECTED", "")
        assert simulator.orders() == []

    async def test_count_their_child_as_no_second_order(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        await client.call("POST", ALGO, **stop_order())

        simulator.set_price("BTC/USDT", 93999)

        ledger = simulator.ledger()
        assert ledger["accepted"] == {"th-s": 1}
        assert len(ledger["orders"]) == len(ledger["conditional_orders"]) == 1

    async def test_tell_the_childs_fill_before_they_finish(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        key = (await client.send("POST", "/fapi/v1/listenKey")).data["listenKey"]
        socket = await client.listen(f"/private/ws/{key}")
        await client.call("POST", ALGO, **stop_order())

        simulator.set_price("BTC/USDT", 93999)

        events = [await next_event(socket) for _ in range(8)]
        told = [(event["e"], event.get("o", {}).get("X")) for event in events]
        assert told == [
            ("ALGO_UPDATE", "NEW"),
            ("ALGO_UPDATE", "TRIGGERING"),
            ("ORDER_TRADE_UPDATE", "NEW"),
            ("TRADE_LITE", None),
            ("ACCOUNT_UPDATE", None),
            ("ORDER_TRADE_UPDATE", "FILLED"),
            ("ALGO_UPDATE", "TRIGGERED"),
            ("ALGO_UPDATE", "FINISHED"),
        ]
        child = events[2]["o"]
        assert (child["c"], events[6]["o"]["ai"]) == ("th-s", str(child["i"]))
        assert events[0]["o"]["ai"] == ""


class TestListenKeys:
    async def test_stay_the_same_until_they_end(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        first = await client.send("POST", "/fapi/v1/listenKey")
        same = await client.send("POST", "/fapi/v1/listenKey")
        extended = await client.send("PUT", "/fapi/v1/listenKey")
        await client.send("DELETE", "/fapi/v1/listenKey")
        gone = await client.send("PUT", "/fapi/v1/listenKey")
        new = await client.send("POST", "/fapi/v1/listenKey")

        assert first.data == same.data == extended.data
        assert gone.code == -1125
        assert new.data["listenKey"] != first.data["listenKey"]

    async def test_that_expire_say_so_and_fall_silent(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        key = (await client.send("POST", "/fapi/v1/listenKey")).data["listenKey"]
        socket = await client.listen(f"/private/ws/{key}")

        assert simulator.expire_listen_key("k1")
        event = await next_event(socket)
        await client.call("POST", ORDER, **limit_order())
        await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 7})

        assert (event["e"], event["listenKey"]) == ("listenKeyExpired", key)
        assert await next_event(socket) == {"result": None, "id": 7}  # nothing of the order came before
        assert (await client.send("PUT", "/fapi/v1/listenKey")).code == -1125

    async def test_that_are_unknown_open_no_stream(self, client: WireClient) -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await client.listen("/private/ws/unknown")

        assert caught.value.status == 400


class TestStreamPaths:
    @pytest.mark.parametrize(
        ("path", "is_wrapped"),
        [
            ("/private/ws/{key}", False),
            ("/private/ws?listenKey={key}", False),
            ("/private/ws?listenKey={key}&events=ORDER_TRADE_UPDATE/ACCOUNT_UPDATE", False),
            ("/private/stream?listenKey={key}", True),
            ("/private/stream?streams={key}", True),
            ("/ws/{key}", False),
            ("/ws?listenKey={key}", False),
            ("/stream?streams={key}", True),
        ],
    )
    async def test_all_bring_the_account_s_orders(
        self, client: WireClient, path: str, is_wrapped: bool
    ) -> None:
        key = (await client.send("POST", "/fapi/v1/listenKey")).data["listenKey"]
        socket = await client.listen(path.format(key=key))

        await client.call("POST", ORDER, **limit_order("th-x"))

        event = await next_event(socket)
        if is_wrapped:
            assert event["stream"] == key
            event = event["data"]
        assert (event["e"], event["o"]["c"]) == ("ORDER_TRADE_UPDATE", "th-x")

    async def test_bring_only_the_events_that_were_named(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        key = (await client.send("POST", "/fapi/v1/listenKey")).data["listenKey"]
        socket = await client.listen(f"/private/ws?listenKey={key}&events=ACCOUNT_UPDATE")

        await client.call("POST", ORDER, **limit_order("th-x"))
        simulator.fill("th-x")

        assert (await next_event(socket))["e"] == "ACCOUNT_UPDATE"
        with pytest.raises(asyncio.TimeoutError):
            await next_event(socket, seconds=0.2)

    async def test_do_not_bring_other_accounts_orders(
        self, client: WireClient, simulator: SimulatorProcess
    ) -> None:
        key = (await client.send("POST", "/fapi/v1/listenKey")).data["listenKey"]
        socket = await client.listen(f"/private/ws/{key}")

        async with wire_client(simulator.futures_url, "k2", "s2") as other:
            await other.call("POST", ORDER, **limit_order("th-other"))
        await client.call("POST", ORDER, **limit_order("th-mine"))

        assert (await next_event(socket))["o"]["c"] == "th-mine"
