"""Orders on the wire: what we send for them, and how we read what comes back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from exchanges.adapters import exceptions as exc
from exchanges.adapters.binance.adapter import BinanceExchange
from exchanges.adapters.binance.futures import BinanceFutures
from exchanges.adapters.binance.spot import BinanceSpot
from exchanges.adapters.hosts import Hosts
from exchanges.adapters.testing import make_request
from exchanges.adapters.types import (
    Balance,
    Credentials,
    Endpoints,
    Fill,
    Liquidity,
    MarketType,
    OrderRef,
    OrderReport,
    OrderType,
    Side,
    UnreadableOrder,
    VenueOrderStatus,
    VenuePosition,
)
from exchanges.tests.scripted import Reply, Request, ScriptedServer, payload

ORDER, BATCH, ALGO = "/fapi/v1/order", "/fapi/v1/batchOrders", "/fapi/v1/algoOrder"
SPOT_ORDER = "/api/v3/order"

Make = Callable[[type[BinanceExchange]], Any]


@pytest.fixture
def make(server: ScriptedServer, hosts: Hosts) -> Make:
    server.script["GET", "/fapi/v1/exchangeInfo"] = Reply(payload("futures_exchange_info"))
    server.script["GET", "/api/v3/exchangeInfo"] = Reply(payload("spot_exchange_info"))

    def build(adapter: type[BinanceExchange]) -> BinanceExchange:
        endpoints = Endpoints(server.url, server.ws_url)
        return adapter(Credentials("key-12345", "secret-12345"), endpoints, hosts=lambda: hosts)

    return build


def answer_for(order: dict[str, str], order_id: int = 1) -> dict[str, Any]:
    return {
        **payload("futures_order"),
        "orderId": order_id,
        "clientOrderId": order["newClientOrderId"],
        "type": order["type"],
        "origQty": order["quantity"],
        "price": order.get("price", "0"),
    }


def accept_batch(request: Request) -> Reply:
    orders = json.loads(request.params["batchOrders"])
    return Reply([answer_for(order, number) for number, order in enumerate(orders, start=1)])


def order_params(request: Request) -> dict[str, str]:
    """A request's params without what every signed request has."""
    common = {"timestamp", "recvWindow", "signature"}
    assert common <= set(request.params)
    return {name: value for name, value in request.params.items() if name not in common}


class TestFuturesPlaceOrders:
    async def test_sends_one_order_as_one(self, server: ScriptedServer, make: Make) -> None:
        server.script["POST", ORDER] = Reply(payload("futures_order"))
        order = make_request("th01JD0001", price=Decimal("90000.10"), quantity=Decimal("0.0100"))

        (report,) = await make(BinanceFutures).place_orders([order])

        assert order_params(server.requests[0]) == {
            "symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "quantity": "0.01", "price": "90000.1",
            "timeInForce": "GTC", "newClientOrderId": "th01JD0001", "newOrderRespType": "RESULT",
        }  # fmt: skip
        assert report == OrderReport(
            market_type=MarketType.FUTURES,
            symbol="BTC/USDT",
            exchange_order_id="22542179",
            client_order_id="th01JD0001",
            status=VenueOrderStatus.NEW,
            side=Side.BUY,
            order_type=OrderType.LIMIT,
            quantity=Decimal("0.010"),
            price=Decimal("90000.10"),
            filled_quantity=Decimal(0),
            updated_at=datetime(2023, 11, 14, 22, 13, 20, 123000, UTC),
        )

    async def test_sends_thirty_orders_in_six_requests(self, server: ScriptedServer, make: Make) -> None:
        server.script["POST", BATCH] = accept_batch
        orders = [make_request(f"b{i}", price=Decimal(90000 - i)) for i in range(30)]
        reports = await make(BinanceFutures).place_orders(orders)
        assert server.paths() == [f"POST {BATCH}"] * 6
        assert [report.client_order_id for report in reports] == [f"b{i}" for i in range(30)]
        assert [report.price for report in reports] == [Decimal(90000 - i) for i in range(30)]

    async def test_sends_a_market_order_without_a_price_and_reduce_only_as_a_word(
        self, server: ScriptedServer, make: Make
    ) -> None:
        server.script["POST", ORDER] = Reply(
            payload("futures_order") | {"clientOrderId": "m1", "type": "MARKET", "status": "FILLED",
                                        "executedQty": "0.010", "avgPrice": "95000.50", "price": "0"}
        )  # fmt: skip
        order = make_request("m1", order_type=OrderType.MARKET, price=None, reduce_only=True, side=Side.SELL)
        (report,) = await make(BinanceFutures).place_orders([order])
        sent = order_params(server.requests[0])
        assert sent["reduceOnly"] == "true"
        assert "price" not in sent
        assert "timeInForce" not in sent
        assert (report.status, report.average_price) == (VenueOrderStatus.FILLED, Decimal("95000.50"))

    async def test_keeps_four_good_and_one_bad_apart(self, server: ScriptedServer, make: Make) -> None:
        def refuse_third(request: Request) -> Reply:
            rows = accept_batch(request).body
            rows[2] = {"code": -2019, "msg": "Margin is insufficient."}
            return Reply(rows)

        server.script["POST", BATCH] = refuse_third
        results = await make(BinanceFutures).place_orders([make_request(f"b{i}") for i in range(5)])
        assert [type(one) for one in results] == [
            OrderReport, OrderReport, exc.InsufficientFunds, OrderReport, OrderReport,
        ]  # fmt: skip

    async def test_keeps_chunks_apart(self, server: ScriptedServer, make: Make) -> None:
        def second_chunk_is_lost(request: Request) -> Reply:
            is_second = '"b5"' in request.params["batchOrders"]
            return Reply(then="drop") if is_second else accept_batch(request)

        server.script["POST", BATCH] = second_chunk_is_lost
        results = await make(BinanceFutures).place_orders([make_request(f"b{i}") for i in range(10)])
        assert [type(one) for one in results] == [OrderReport] * 5 + [exc.OutcomeUnknown] * 5

    async def test_sends_conditional_orders_through_the_algo_api(
        self, server: ScriptedServer, make: Make
    ) -> None:
        server.script["POST", ALGO] = Reply(payload("futures_algo_order"))
        stop = make_request(
            "th01JD0002", order_type=OrderType.STOP_LIMIT, side=Side.SELL, price=Decimal(89000),
            stop_price=Decimal("89500"), reduce_only=True,
        )  # fmt: skip
        (report,) = await make(BinanceFutures).place_orders([stop])
        assert order_params(server.requests[0]) == {
            "algoType": "CONDITIONAL", "symbol": "BTCUSDT", "side": "SELL", "type": "STOP",
            "quantity": "0.01", "price": "89000", "timeInForce": "GTC", "triggerPrice": "89500",
            "reduceOnly": "true", "clientAlgoId": "th01JD0002", "newOrderRespType": "RESULT",
        }  # fmt: skip
        assert report.exchange_order_id == "2146760"
        assert report.conditional
        assert not report.triggered
        assert report.order_type is OrderType.STOP_LIMIT
        assert (report.stop_price, report.filled_quantity) == (Decimal(89500), Decimal(0))

    async def test_answers_in_the_order_of_the_requests_whatever_their_kind(
        self, server: ScriptedServer, make: Make
    ) -> None:
        server.script["POST", BATCH] = accept_batch
        server.script["POST", ALGO] = lambda request: Reply(
            payload("futures_algo_order") | {"clientAlgoId": request.params["clientAlgoId"]}
        )
        stop = {"order_type": OrderType.STOP_MARKET, "price": None, "stop_price": Decimal(96000)}
        orders = [
            make_request("a"),
            make_request("s1", **stop),
            make_request("b"),
            make_request("s2", **stop),
        ]
        reports = await make(BinanceFutures).place_orders(orders)
        assert [report.client_order_id for report in reports] == ["a", "s1", "b", "s2"]

    async def test_denies_what_cannot_be_sent_and_sends_the_rest(
        self, server: ScriptedServer, make: Make
    ) -> None:
        server.script["POST", ORDER] = Reply(payload("futures_order"))
        results = await make(BinanceFutures).place_orders(
            [
                make_request("nan", quantity=Decimal("NaN")),
                make_request("th01JD0001"),
                make_request("minus", price=Decimal(-1)),
                make_request("none", price=None),
                make_request("nostop", order_type=OrderType.STOP_MARKET),
            ]
        )
        assert [type(one) for one in results] == [
            exc.InvalidOrderQuantity, OrderReport, exc.InvalidOrderQuantity, exc.UnsupportedOrder,
            exc.UnsupportedOrder,
        ]  # fmt: skip
        assert len(server.requests) == 1

    async def test_says_unknown_when_the_number_of_answers_is_wrong(
        self, server: ScriptedServer, make: Make
    ) -> None:
        server.script["POST", BATCH] = lambda request: Reply(accept_batch(request).body[:-1])
        results = await make(BinanceFutures).place_orders([make_request(f"b{i}") for i in range(5)])
        assert [type(one) for one in results] == [exc.OutcomeUnknown] * 5

    async def test_says_unknown_when_an_answer_is_about_another_order(
        self, server: ScriptedServer, make: Make
    ) -> None:
        server.script["POST", ORDER] = Reply(payload("futures_order"))
        (result,) = await make(BinanceFutures).place_orders([make_request("mine")])
        assert type(result) is exc.OutcomeUnknown

    @pytest.mark.parametrize("broken", [{"status": "SOMETHING_NEW"}, {"origQty": "much"}, {"side": None}])
    async def test_says_unknown_when_an_answer_cannot_be_read(
        self, server: ScriptedServer, make: Make, broken: dict[str, Any]
    ) -> None:
        server.script["POST", ORDER] = Reply(payload("futures_order") | broken)
        (result,) = await make(BinanceFutures).place_orders([make_request("th01JD0001")])
        assert type(result) is exc.OutcomeUnknown

    async def test_holds_back_a_chunk_whose_deadline_has_passed(
        self, server: ScriptedServer, make: Make
    ) -> None:
        late = [make_request(f"b{i}", send_by_monotonic=time.monotonic() - 1) for i in range(7)]
        results = await make(BinanceFutures).place_orders(late)
        assert [type(one) for one in results] == [exc.NotSent] * 7
        assert server.requests == []


class TestFuturesCancelOrders:
    async def test_cancels_in_tens_by_our_ids_symbol_by_symbol(
        self, server: ScriptedServer, make: Make
    ) -> None:
        def gone(request: Request) -> Reply:
            names = json.loads(request.params["origClientOrderIdList"])
            rows = [payload("futures_order") | {"clientOrderId": n, "status": "CANCELED"} for n in names]
            return Reply(rows)

        server.script["DELETE", BATCH] = gone
        server.script["DELETE", ORDER] = Reply({"code": -2011, "msg": "Unknown order sent."}, status=400)
        refs = [OrderRef("BTC/USDT", f"b{i}") for i in range(12)] + [OrderRef("ETH/USDT", "e0")]
        results = await make(BinanceFutures).cancel_orders(refs)
        assert sorted(server.paths()) == [f"DELETE {BATCH}"] * 2 + [f"DELETE {ORDER}"]
        assert [one.client_order_id for one in results[:12]] == [f"b{i}" for i in range(12)]
        assert type(results[12]) is exc.OrderNotFound
        first = next(one for one in server.requests if one.path == BATCH)
        assert first.params["origClientOrderIdList"].startswith('["b0","b1",')

    async def test_cancels_a_waiting_conditional_order_through_the_algo_api(
        self, server: ScriptedServer, make: Make
    ) -> None:
        server.script["DELETE", ALGO] = Reply(
            {"algoId": 2146760, "clientAlgoId": "th01JD0002", "code": "200", "msg": "success"}
        )
        ref = OrderRef("BTC/USDT", "th01JD0002", "2146760", conditional=True)
        (report,) = await make(BinanceFutures).cancel_orders([ref])
        assert order_params(server.requests[0]) == {"clientAlgoId": "th01JD0002"}
        assert report.status is VenueOrderStatus.CANCELED
        assert (report.exchange_order_id, report.conditional) == ("2146760", True)

    async def test_cancels_the_child_of_one_that_has_triggered_meanwhile(
        self, server: ScriptedServer, make: Make
    ) -> None:
        unknown = Reply({"code": -2011, "msg": "Unknown order sent."}, status=400)
        server.script["DELETE", ALGO] = unknown
        triggered = {"algoStatus": "TRIGGERED", "actualOrderId": "991"}
        server.script["GET", ALGO] = Reply(payload("futures_algo_order") | triggered)
        child = {"orderId": 991, "clientOrderId": "th01JD0002", "status": "CANCELED", "executedQty": "0.004"}
        server.script["DELETE", ORDER] = Reply(payload("futures_order") | child)
        (report,) = await make(BinanceFutures).cancel_orders(
            [OrderRef("BTC/USDT", "th01JD0002", conditional=True)]
        )
        assert order_params(server.requests[-1]) == {"symbol": "BTCUSDT", "orderId": "991"}
        assert (report.exchange_order_id, report.child_order_id) == ("2146760", "991")
        assert (report.status, report.filled_quantity) == (VenueOrderStatus.CANCELED, Decimal("0.004"))

    async def test_says_not_found_of_a_conditional_order_that_has_just_ended(
        self, server: ScriptedServer, make: Make
    ) -> None:
        server.script["DELETE", ALGO] = Reply({"code": -2011, "msg": "Unknown order sent."}, status=400)
        server.script["GET", ALGO] = Reply(payload("futures_algo_order") | {"algoStatus": "CANCELED"})
        (result,) = await make(BinanceFutures).cancel_orders(
            [OrderRef("BTC/USDT", "th01JD0002", conditional=True)]
        )
        assert type(result) is exc.OrderNotFound

    async def test_leaves_late_where_it_was_asked_for_and_not_where_it_has_a_deadline(
        self, server: ScriptedServer, make: Make
    ) -> None:
        def gone(request: Request) -> Reply:
            names = json.loads(request.params["origClientOrderIdList"])
            rows = [payload("futures_order") | {"clientOrderId": n, "status": "CANCELED"} for n in names]
            return Reply(rows)

        server.script["DELETE", BATCH] = gone
        late = time.monotonic() - 1
        refs = [
            OrderRef("BTC/USDT", "late0", send_by_monotonic=late),
            OrderRef("BTC/USDT", "asked0"),
            OrderRef("BTC/USDT", "late1", send_by_monotonic=late),
            OrderRef("BTC/USDT", "asked1"),
            OrderRef("BTC/USDT", "late2", conditional=True, send_by_monotonic=late),
            OrderRef("BTC/USDT", "late3", "1", conditional=True, child_order_id="2", send_by_monotonic=late),
        ]

        results = await make(BinanceFutures).cancel_orders(refs)

        assert [type(one) for one in results] == [
            exc.NotSent, OrderReport, exc.NotSent, OrderReport, exc.NotSent, exc.NotSent,
        ]  # fmt: skip
        (request,) = server.requests
        assert request.params["origClientOrderIdList"] == '["asked0","asked1"]'


class TestFuturesFetchOrder:
    async def test_follows_a_triggered_conditional_order_to_its_child(
        self, server: ScriptedServer, make: Make
    ) -> None:
        finished = {"algoStatus": "FINISHED", "actualOrderId": "991"}
        server.script["GET", ALGO] = Reply(payload("futures_algo_order") | finished)
        child = {"orderId": 991, "status": "EXPIRED", "executedQty": "0.004", "avgPrice": "89400"}
        server.script["GET", ORDER] = Reply(payload("futures_order") | child)
        report = await make(BinanceFutures).fetch_order(OrderRef("BTC/USDT", "th01JD0002", conditional=True))
        assert order_params(server.requests[-1]) == {"symbol": "BTCUSDT", "orderId": "991"}
        assert (report.exchange_order_id, report.child_order_id) == ("2146760", "991")
        assert report.client_order_id == "th01JD0002"
        assert report.order_type is OrderType.STOP_LIMIT
        assert (report.status, report.filled_quantity) == (VenueOrderStatus.EXPIRED, Decimal("0.004"))
        assert report.triggered

    async def test_looks_for_a_child_that_is_not_named_yet_by_our_id(
        self, server: ScriptedServer, make: Make
    ) -> None:
        server.script["GET", ALGO] = Reply(payload("futures_algo_order") | {"algoStatus": "TRIGGERING"})
        server.script["GET", ORDER] = Reply({"code": -2013, "msg": "Order does not exist."}, status=400)
        report = await make(BinanceFutures).fetch_order(OrderRef("BTC/USDT", "th01JD0002", conditional=True))
        assert order_params(server.requests[-1])["origClientOrderId"] == "th01JD0002"
        assert (report.status, report.triggered) == (VenueOrderStatus.NEW, True)
        assert report.filled_quantity is None

    async def test_says_so_when_there_is_none(self, server: ScriptedServer, make: Make) -> None:
        server.script["GET", ORDER] = Reply({"code": -2013, "msg": "Order does not exist."}, status=400)
        with pytest.raises(exc.OrderNotFound):
            await make(BinanceFutures).fetch_order(OrderRef("BTC/USDT", "nobody"))


class TestFuturesFetchOpenOrders:
    async def test_merges_both_lists_and_names_a_triggered_order_once(
        self, server: ScriptedServer, make: Make
    ) -> None:
        plain, algo = payload("futures_order"), payload("futures_algo_order")
        child = plain | {"orderId": 991, "clientOrderId": algo["clientAlgoId"]}
        server.script["GET", "/fapi/v1/openOrders"] = Reply([plain, child])
        triggered = algo | {"algoStatus": "TRIGGERED", "actualOrderId": "991"}
        waiting = algo | {"algoId": 5, "clientAlgoId": "waits"}
        server.script["GET", "/fapi/v1/openAlgoOrders"] = Reply([triggered, waiting])
        reports = await make(BinanceFutures).fetch_open_orders()
        found = {report.client_order_id: report for report in reports}
        assert set(found) == {"th01JD0001", "th01JD0002", "waits"}
        assert len(reports) == 3
        assert found["th01JD0002"].child_order_id == "991"
        assert found["waits"].conditional
        assert not found["th01JD0001"].conditional

    async def test_reads_the_instruments_for_a_symbol_it_does_not_know(
        self, server: ScriptedServer, make: Make
    ) -> None:
        delivery = payload("futures_order") | {"symbol": "BTCUSDT_260327"}
        server.script["GET", "/fapi/v1/openOrders"] = Reply([delivery])
        server.script["GET", "/fapi/v1/openAlgoOrders"] = Reply([])
        exchange = make(BinanceFutures)
        assert (await exchange.fetch_open_orders())[0].symbol == "BTC/USDT-260327"
        await exchange.fetch_open_orders()
        assert server.paths().count("GET /fapi/v1/exchangeInfo") == 1
        assert exchange.venue_symbol("BTC/USDT-260327") == "BTCUSDT_260327"


STRANGE_ROWS = [
    {"symbol": "ODDUSDT", "orderId": 5, "clientOrderId": "web_1"},  # not among our instruments
    {"status": "HALTED", "orderId": 6, "clientOrderId": "web_2"},
    {"origQty": None, "orderId": 7, "clientOrderId": "web_3"},
]


class TestFetchLists:
    """Open and recent orders of both markets: a row that cannot be read hides no other."""

    @pytest.mark.parametrize("strange", STRANGE_ROWS)
    @pytest.mark.parametrize(
        ("adapter", "path", "row"),
        [(BinanceSpot, "/api/v3", "spot_order_full"), (BinanceFutures, "/fapi/v1", "futures_order")],
    )
    async def test_reads_row_by_row(
        self,
        server: ScriptedServer,
        make: Make,
        adapter: type[BinanceExchange],
        path: str,
        row: str,
        strange: dict[str, Any],
    ) -> None:
        good = payload(row)
        rows = Reply([good | strange, good])
        for lists in ("openOrders", "allOrders"):
            server.script["GET", f"{path}/{lists}"] = rows
        for lists in ("openAlgoOrders", "allAlgoOrders"):
            server.script["GET", f"{path}/{lists}"] = Reply([])
        exchange = make(adapter)
        opened = await exchange.fetch_open_orders()
        recent = await exchange.fetch_recent_orders("BTC/USDT", since_ms=0)
        for listed in (opened, recent):
            read, unreadable = sorted(listed, key=lambda one: isinstance(one, UnreadableOrder))
            assert read.client_order_id == good["clientOrderId"]
            assert unreadable.names == (str(strange["orderId"]), strange["clientOrderId"])
            assert (unreadable.symbol == "") is ("symbol" in strange)
            assert json.loads(unreadable.text) == good | strange

    async def test_names_an_algo_order_by_all_its_ids(self, server: ScriptedServer, make: Make) -> None:
        algo = payload("futures_algo_order") | {"algoStatus": "RESTING", "algoId": 5, "actualOrderId": "991"}
        server.script["GET", "/fapi/v1/openOrders"] = Reply([])
        server.script["GET", "/fapi/v1/openAlgoOrders"] = Reply([algo])
        (unreadable,) = await make(BinanceFutures).fetch_open_orders()
        assert unreadable.names == ("5", "991", algo["clientAlgoId"])
        assert unreadable.is_about("BTC/USDT", "", "991")
        assert not unreadable.is_about("ETH/USDT", "991")
        assert not unreadable.is_about("BTC/USDT", "", "992")

    @pytest.mark.parametrize("body", [[{"symbol": "BTCUSDT", "status": "NEW"}], ["BTCUSDT"], {"rows": []}])
    async def test_knows_nothing_where_a_row_names_no_order(
        self, server: ScriptedServer, make: Make, body: Any
    ) -> None:
        server.script["GET", "/api/v3/openOrders"] = Reply(body)
        with pytest.raises(exc.OutcomeUnknown):
            await make(BinanceSpot).fetch_open_orders()


def make_trade(trade_id: int, order_id: int) -> dict[str, Any]:
    return {
        "buyer": True, "commission": "0.03800000", "commissionAsset": "USDT", "id": trade_id, "maker": True,
        "orderId": order_id, "price": "95000.00", "qty": "0.001", "quoteQty": "95", "realizedPnl": "0.5",
        "side": "BUY", "positionSide": "BOTH", "symbol": "BTCUSDT", "time": 1700000000000 + trade_id,
    }  # fmt: skip


class TestFuturesFetchExecutions:
    async def test_returns_every_fill_oldest_first(self, server: ScriptedServer, make: Make) -> None:
        server.script["GET", "/fapi/v1/userTrades"] = Reply([make_trade(3, 7), make_trade(2, 7)])
        fills = await make(BinanceFutures).fetch_executions(OrderRef("BTC/USDT", exchange_order_id="7"))
        assert [fill.trade_id for fill in fills] == ["2", "3"]
        assert fills[0] == Fill(
            trade_id="2",
            price=Decimal(95000),
            quantity=Decimal("0.001"),
            executed_at=datetime(2023, 11, 14, 22, 13, 20, 2000, UTC),
            fee=Decimal("0.038"),
            fee_asset="USDT",
            liquidity=Liquidity.MAKER,
            realized_pnl=Decimal("0.5"),
            exchange_order_id="7",
        )

    async def test_turns_the_pages_of_an_order_with_many_fills(
        self, server: ScriptedServer, make: Make
    ) -> None:
        def page(request: Request) -> Reply:
            if "orderId" in request.params:
                return Reply([make_trade(i, 7) for i in range(1000)])
            first = int(request.params["fromId"])
            return Reply([make_trade(first, 7), make_trade(first + 1, 8)])

        server.script["GET", "/fapi/v1/userTrades"] = page
        fills = await make(BinanceFutures).fetch_executions(OrderRef("BTC/USDT", exchange_order_id="7"))
        assert len(fills) == 1001  # and the other order's fill is not among them

    @pytest.mark.parametrize(("days", "weeks"), [(6.9, 0), (7.1, 2), (20, 3), (400, 13)])
    async def test_asks_week_by_week_for_an_order_of_long_ago(
        self, server: ScriptedServer, make: Make, days: float, weeks: int
    ) -> None:
        """Without times userTrades tells of the last seven days only."""
        now = datetime.now(UTC)
        placed_at = now - timedelta(days=days)
        filled_ms = int((max(placed_at, now - timedelta(days=88))).timestamp() * 1000) + 1

        def week(request: Request) -> Reply:
            since = int(request.params.get("startTime", int(now.timestamp() * 1000) - 7 * 86_400_000))
            until = int(request.params.get("endTime", since + 7 * 86_400_000))
            if until - since > 7 * 86_400_000:
                return Reply({"code": -4165, "msg": "Invalid time interval"}, status=400)
            return Reply([make_trade(3, 7) | {"time": filled_ms}] if since <= filled_ms <= until else [])

        server.script["GET", "/fapi/v1/userTrades"] = week
        ref = OrderRef("BTC/USDT", exchange_order_id="7", placed_at=placed_at)
        (fill,) = await make(BinanceFutures).fetch_executions(ref)
        assert fill.trade_id == "3"
        asked = [one.params for one in server.sent_to("/fapi/v1/userTrades")]
        assert len([one for one in asked if "startTime" in one]) == weeks
        assert len(asked) == max(weeks, 1)
        assert {one["orderId"] for one in asked} == {"7"}

    async def test_has_none_for_a_conditional_order_that_waits(
        self, server: ScriptedServer, make: Make
    ) -> None:
        server.script["GET", ALGO] = Reply(payload("futures_algo_order"))
        ref = OrderRef("BTC/USDT", "th01JD0002", "2146760", conditional=True)
        assert await make(BinanceFutures).fetch_executions(ref) == []

    async def test_asks_for_the_childs_fills(self, server: ScriptedServer, make: Make) -> None:
        server.script["GET", "/fapi/v1/userTrades"] = Reply([make_trade(3, 991)])
        ref = OrderRef("BTC/USDT", "th01JD0002", "2146760", conditional=True, child_order_id="991")
        (fill,) = await make(BinanceFutures).fetch_executions(ref)
        assert fill.exchange_order_id == "991"


class TestLoadInstruments:
    async def test_corrects_the_limits_by_what_the_exchange_publishes(
        self, server: ScriptedServer, make: Make, hosts: Hosts
    ) -> None:
        exchange = make(BinanceFutures)
        weight = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 1234}
        info = payload("futures_exchange_info") | {"rateLimits": [weight]}
        server.script["GET", "/fapi/v1/exchangeInfo"] = Reply(info)

        await exchange.load_instruments()

        rules = hosts.host(server.url, "binance", BinanceFutures.rules).limits.rules
        assert rules == replace(BinanceFutures.rules, weight_per_minute=1234)


class TestFuturesAccount:
    async def test_refuses_hedge_mode_with_a_sentence_that_helps(
        self, server: ScriptedServer, make: Make
    ) -> None:
        server.script["GET", "/fapi/v1/positionSide/dual"] = Reply({"dualSidePosition": True})
        with pytest.raises(exc.RefusedForGood, match="switch it to one-way mode"):
            await make(BinanceFutures).check_account()

    async def test_accepts_one_way_mode(self, server: ScriptedServer, make: Make) -> None:
        server.script["GET", "/fapi/v1/positionSide/dual"] = Reply({"dualSidePosition": False})
        await make(BinanceFutures).check_account()

    async def test_says_when_the_key_is_no_good(self, server: ScriptedServer, make: Make) -> None:
        body = {"code": -2015, "msg": "Invalid API-key, IP, or permissions for action."}
        server.script["GET", "/fapi/v1/positionSide/dual"] = Reply(body, status=401)
        with pytest.raises(exc.AuthenticationFailed):
            await make(BinanceFutures).check_account()

    async def test_sets_leverage_once(self, server: ScriptedServer, make: Make) -> None:
        server.script["POST", "/fapi/v1/leverage"] = Reply({"symbol": "BTCUSDT", "leverage": 10})
        exchange = make(BinanceFutures)
        for leverage in (10, 10, 20, 20):
            await exchange.set_leverage("BTC/USDT", leverage)
        assert [one.params["leverage"] for one in server.requests] == ["10", "20"]

    async def test_reads_balances_and_positions(self, server: ScriptedServer, make: Make) -> None:
        server.script["GET", "/fapi/v3/balance"] = Reply(
            [{"asset": "USDT", "balance": "122607.35", "availableBalance": "23.72"}]
        )
        row = {"symbol": "BTCUSDT", "positionAmt": "-0.5", "entryPrice": "95000", "unRealizedProfit": "-1.5"}
        server.script["GET", "/fapi/v3/positionRisk"] = Reply([row, row | {"positionAmt": "0.000"}])
        exchange = make(BinanceFutures)
        assert await exchange.fetch_balances() == [Balance("USDT", Decimal("23.72"), Decimal("122583.63"))]
        assert await exchange.fetch_positions() == [
            VenuePosition("BTC/USDT", Decimal("-0.5"), Decimal(95000), Decimal("-1.5"))
        ]


class TestFetchTickers:
    async def test_leaves_out_what_the_exchange_does_not_know(
        self, server: ScriptedServer, make: Make
    ) -> None:
        rows = [{"symbol": "BTCUSDT", "price": "95000.10"}, {"symbol": "XUSDT", "price": "1"}]
        server.script["GET", "/fapi/v1/ticker/price"] = Reply(rows)
        prices = await make(BinanceFutures).fetch_tickers(["BTC/USDT", "NOPE/USDT"])
        assert prices == {"BTC/USDT": Decimal("95000.10")}

    async def test_asks_for_one_alone(self, server: ScriptedServer, make: Make) -> None:
        body = {"code": -1121, "msg": "Invalid symbol."}
        server.script["GET", "/api/v3/ticker/price"] = [
            Reply({"symbol": "ETHBTC", "price": "0.05"}), Reply(body, status=400),
        ]  # fmt: skip
        exchange = make(BinanceSpot)
        assert await exchange.fetch_tickers(["ETH/BTC"]) == {"ETH/BTC": Decimal("0.05")}
        assert await exchange.fetch_tickers(["NOPE/BTC"]) == {}
        assert server.requests[0].params == {"symbol": "ETHBTC"}


class TestSpotPlaceOrders:
    async def test_brings_the_fills_along(self, server: ScriptedServer, make: Make) -> None:
        server.script["POST", SPOT_ORDER] = Reply(payload("spot_order_full"))
        order = make_request(
            "th01JD0003", symbol="ETH/BTC", order_type=OrderType.MARKET, side=Side.SELL, price=None,
            quantity=Decimal(10),
        )  # fmt: skip
        (report,) = await make(BinanceSpot).place_orders([order])
        assert order_params(server.requests[0]) == {
            "symbol": "ETHBTC", "side": "SELL", "type": "MARKET", "quantity": "10",
            "newClientOrderId": "th01JD0003", "newOrderRespType": "FULL",
        }  # fmt: skip
        assert report.status is VenueOrderStatus.FILLED
        assert (report.filled_quantity, report.average_price) == (Decimal(10), Decimal("0.0505"))
        assert [(fill.trade_id, fill.price, fill.fee, fill.fee_asset) for fill in report.fills] == [
            ("56", Decimal("0.051"), Decimal("0.000255"), "BTC"),
            ("57", Decimal("0.05"), Decimal("0.001"), "BNB"),
        ]
        assert {fill.liquidity for fill in report.fills} == {Liquidity.TAKER}

    async def test_sends_many_side_by_side(self, server: ScriptedServer, make: Make) -> None:
        def accept(request: Request) -> Reply:
            name = request.params["newClientOrderId"]
            if name == "b3":
                body = {"code": -2010, "msg": "Account has insufficient balance for requested action."}
                return Reply(body, status=400)
            return Reply(payload("spot_order_full") | {"clientOrderId": name})

        server.script["POST", SPOT_ORDER] = accept
        results = await make(BinanceSpot).place_orders([make_request(f"b{i}") for i in range(6)])
        assert type(results[3]) is exc.InsufficientFunds
        names = [one.client_order_id for one in results if isinstance(one, OrderReport)]
        assert names == ["b0", "b1", "b2", "b4", "b5"]
        assert len(server.connections) > 1

    @pytest.mark.parametrize(
        ("order_type", "wire", "extra"),
        [
            (OrderType.STOP_MARKET, "STOP_LOSS", {"stopPrice": "96000"}),
            (
                OrderType.STOP_LIMIT,
                "STOP_LOSS_LIMIT",
                {"stopPrice": "96000", "price": "90000", "timeInForce": "GTC"},
            ),
        ],
    )
    async def test_sends_stop_orders(
        self, server: ScriptedServer, make: Make, order_type: OrderType, wire: str, extra: dict[str, str]
    ) -> None:
        answer = payload("spot_order_full") | {
            "type": wire, "status": "NEW", "executedQty": "0", "cummulativeQuoteQty": "0", "fills": [],
            "workingTime": -1, "stopPrice": "96000.00",
        }  # fmt: skip
        server.script["POST", SPOT_ORDER] = Reply(answer)
        order = make_request("s1", order_type=order_type, stop_price=Decimal(96000))
        (report,) = await make(BinanceSpot).place_orders([order])
        assert order_params(server.requests[0]) == {
            "symbol": "BTCUSDT", "side": "BUY", "type": wire, "quantity": "0.01", "newClientOrderId": "s1",
            "newOrderRespType": "FULL",
        } | extra  # fmt: skip
        assert (report.order_type, report.conditional, report.triggered) == (order_type, True, False)
        assert report.stop_price == Decimal(96000)

    async def test_denies_reduce_only(self, server: ScriptedServer, make: Make) -> None:
        (result,) = await make(BinanceSpot).place_orders([make_request("r1", reduce_only=True)])
        assert type(result) is exc.UnsupportedOrder
        assert server.requests == []


class TestSpotCancelOrders:
    async def test_names_the_order_and_not_the_cancel(self, server: ScriptedServer, make: Make) -> None:
        server.script["DELETE", SPOT_ORDER] = Reply(payload("spot_cancel"))
        (report,) = await make(BinanceSpot).cancel_orders([OrderRef("ETH/BTC", "th01JD0004")])
        assert order_params(server.requests[0]) == {"symbol": "ETHBTC", "origClientOrderId": "th01JD0004"}
        assert report.client_order_id == "th01JD0004"
        assert (report.status, report.filled_quantity) == (VenueOrderStatus.CANCELED, Decimal("0.25"))

    async def test_says_not_found_when_it_has_ended(self, server: ScriptedServer, make: Make) -> None:
        server.script["DELETE", SPOT_ORDER] = Reply({"code": -2011, "msg": "Unknown order sent."}, status=400)
        (result,) = await make(BinanceSpot).cancel_orders([OrderRef("ETH/BTC", "th01JD0004", "4")])
        assert type(result) is exc.OrderNotFound

    async def test_leaves_late_where_it_was_asked_for_and_not_where_it_has_a_deadline(
        self, server: ScriptedServer, make: Make
    ) -> None:
        server.script["DELETE", SPOT_ORDER] = Reply(payload("spot_cancel"))
        late = OrderRef("ETH/BTC", "th01JD0003", send_by_monotonic=time.monotonic() - 1)
        asked = OrderRef("ETH/BTC", "th01JD0004")
        results = await make(BinanceSpot).cancel_orders([late, asked])
        assert [type(one) for one in results] == [exc.NotSent, OrderReport]
        assert len(server.requests) == 1


class TestSpotAccount:
    async def test_reads_balances(self, server: ScriptedServer, make: Make) -> None:
        body = {"canTrade": True, "balances": [{"asset": "BTC", "free": "4.5", "locked": "0.5"}]}
        server.script["GET", "/api/v3/account"] = Reply(body)
        exchange = make(BinanceSpot)
        assert await exchange.fetch_balances() == [Balance("BTC", Decimal("4.5"), Decimal("0.5"))]
        await exchange.check_account()

    async def test_is_refused_when_it_may_not_trade(self, server: ScriptedServer, make: Make) -> None:
        server.script["GET", "/api/v3/account"] = Reply({"canTrade": False, "balances": []})
        with pytest.raises(exc.AuthenticationFailed, match="may not trade"):
            await make(BinanceSpot).check_account()

    async def test_has_no_leverage(self, make: Make) -> None:
        exchange = make(BinanceSpot)
        await exchange.set_leverage("ETH/BTC", 1)
        with pytest.raises(exc.UnsupportedOrder):
            await exchange.set_leverage("ETH/BTC", 2)
