"""For the same order we send what ccxt sends, and read from the same answer what ccxt reads.

Equal in meaning: ccxt puts the params of a POST into the body and we into the query, the order of
params differs, and so do time, receive window and therefore the signature. That each signature is
right for its own text is checked with the other's arithmetic.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import ccxt.async_support as ccxt
import pytest

from exchanges.adapters.binance.adapter import BinanceExchange
from exchanges.adapters.binance.auth import Signer
from exchanges.adapters.binance.futures import BinanceFutures
from exchanges.adapters.binance.spot import BinanceSpot
from exchanges.adapters.hosts import Hosts
from exchanges.adapters.testing import make_request
from exchanges.adapters.types import (
    Credentials,
    Endpoints,
    OrderRef,
    OrderReport,
    OrderRequest,
    OrderType,
    Side,
    TimeInForce,
    VenueOrderStatus,
)
from exchanges.tests.scripted import Reply, Request, ScriptedServer, payload

KEY, SECRET = (
    "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utI",
    "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN",
)
SIGNER = Signer(Credentials(KEY, SECRET), recv_window_ms=5000)
ORDER_TYPES = ["LIMIT", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT", "STOP", "STOP_MARKET"]
# What each client chooses for itself.
OWN = {"timestamp", "recvWindow", "signature"}
STATUS = {
    VenueOrderStatus.NEW: "open",
    VenueOrderStatus.PARTIALLY_FILLED: "open",
    VenueOrderStatus.FILLED: "closed",
    VenueOrderStatus.CANCELED: "canceled",
    VenueOrderStatus.REJECTED: "rejected",
    VenueOrderStatus.EXPIRED: "expired",
}


@dataclass
class Sent:
    method: str
    path: str
    text: str  # query or body, as signed and sent
    api_key: str

    @property
    def meaning(self) -> dict[str, Any]:
        # ccxt writes the names of lists in lower case, the documentation does not.
        params: dict[str, Any] = {k.lower(): v for k, v in parse_qsl(self.text) if k not in OWN}
        for name in ("batchorders", "origclientorderidlist"):
            if name in params:
                params[name] = json.loads(params[name])
        return params

    @property
    def is_signed_well(self) -> bool:
        text, _, signature = self.text.rpartition("&signature=")
        return SIGNER.signature(text) == signature


class Recording(ccxt.binance):  # type: ignore[misc]  # ccxt has no types
    """ccxt with its last step, the HTTP request, replaced by a notebook."""

    def __init__(self, market: str, answer: Any) -> None:
        options = {"defaultType": market, "crossMarginPairsData": [], "isolatedMarginPairsData": []}
        super().__init__({"apiKey": KEY, "secret": SECRET, "options": options})
        self.answer = answer
        self.sent: list[Sent] = []

    async def fetch(self, url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
        parts = urlsplit(url)
        self.sent.append(Sent(method, parts.path, body or parts.query, headers["X-MBX-APIKEY"]))
        return self.answer


def with_types(info: Any) -> Any:
    for row in info["symbols"]:
        row["orderTypes"] = ORDER_TYPES
    info["symbols"] = [row for row in info["symbols"] if row["filters"]]
    return info


@pytest.fixture
async def futures_ccxt() -> AsyncIterator[Recording]:
    client = Recording("swap", payload("futures_order"))
    client.set_markets(client.parse_markets(with_types(payload("futures_exchange_info"))["symbols"]))
    yield client
    await client.close()


@pytest.fixture
async def spot_ccxt() -> AsyncIterator[Recording]:
    client = Recording("spot", payload("spot_order_full"))
    client.set_markets(client.parse_markets(with_types(payload("spot_exchange_info"))["symbols"]))
    yield client
    await client.close()


class Ours:
    """Our adapter before a server that answers everything and keeps what it was sent."""

    def __init__(self, adapter: type[BinanceExchange], server: ScriptedServer, hosts: Hosts) -> None:
        self._server = server
        endpoints = Endpoints(server.url, server.ws_url)
        self.exchange = adapter(Credentials(KEY, SECRET), endpoints, hosts=lambda: hosts)
        anything = Reply({"code": -1, "msg": "not the point"}, status=400)
        for path in ("/fapi/v1/order", "/fapi/v1/batchOrders", "/fapi/v1/algoOrder", "/api/v3/order"):
            for method in ("POST", "DELETE", "GET"):
                server.script[method, path] = anything

    @property
    def sent(self) -> list[Sent]:
        return [self._as_sent(request) for request in self._server.requests]

    def _as_sent(self, request: Request) -> Sent:
        return Sent(request.method, request.path, request.query, request.headers["X-MBX-APIKEY"])


def assert_same(ours: list[Sent], theirs: list[Sent]) -> None:
    assert len(ours) == len(theirs) == 1
    assert (ours[0].method, ours[0].path) == (theirs[0].method, theirs[0].path)
    assert ours[0].meaning == theirs[0].meaning
    assert ours[0].api_key == theirs[0].api_key == KEY
    assert ours[0].is_signed_well
    assert theirs[0].is_signed_well


def ccxt_arguments(request: OrderRequest, symbol: str) -> tuple[Any, ...]:
    is_market = request.order_type in (OrderType.MARKET, OrderType.STOP_MARKET)
    params: dict[str, Any] = {"clientOrderId": request.client_order_id}
    if request.stop_price is not None:
        params["triggerPrice"] = str(request.stop_price)
    if request.reduce_only:
        params["reduceOnly"] = "true"
    if not is_market:
        params["timeInForce"] = request.time_in_force.value
    price = None if is_market else str(request.price)
    kind = "market" if is_market else "limit"
    return symbol, kind, request.side.value.lower(), str(request.quantity), price, params


ORDERS: dict[str, dict[str, Any]] = {
    "limit": {},
    "limit sell, immediate or cancel": {"side": Side.SELL, "time_in_force": TimeInForce.IOC},
    "market": {"order_type": OrderType.MARKET, "price": None},
    "stop market": {"order_type": OrderType.STOP_MARKET, "price": None, "stop_price": Decimal("96000.1")},
    "stop limit": {"order_type": OrderType.STOP_LIMIT, "stop_price": Decimal("96000.1")},
}
FUTURES_ORDERS = ORDERS | {
    "reduce only": {"order_type": OrderType.MARKET, "price": None, "reduce_only": True, "side": Side.SELL}
}


class TestRequest:
    @pytest.mark.parametrize("name", FUTURES_ORDERS)
    async def test_for_a_futures_order_is_the_one_that_ccxt_sends(
        self, server: ScriptedServer, hosts: Hosts, futures_ccxt: Recording, name: str
    ) -> None:
        order = make_request("th01JD0001", **FUTURES_ORDERS[name])
        ours = Ours(BinanceFutures, server, hosts)
        await ours.exchange.place_orders([order])
        await futures_ccxt.create_order(*ccxt_arguments(order, "BTC/USDT:USDT"))
        assert_same(ours.sent, futures_ccxt.sent)

    @pytest.mark.parametrize("name", ORDERS)
    async def test_for_a_spot_order_is_the_one_that_ccxt_sends(
        self, server: ScriptedServer, hosts: Hosts, spot_ccxt: Recording, name: str
    ) -> None:
        numbers = {"symbol": "ETH/BTC", "quantity": Decimal("1.5"), "price": Decimal("0.05123")}
        order = make_request("th01JD0001", **numbers | ORDERS[name])
        if order.stop_price is not None:
            order = make_request("th01JD0001", **numbers | ORDERS[name] | {"stop_price": Decimal("0.0525")})
        ours = Ours(BinanceSpot, server, hosts)
        await ours.exchange.place_orders([order])
        await spot_ccxt.create_order(*ccxt_arguments(order, "ETH/BTC"))
        assert_same(ours.sent, spot_ccxt.sent)

    async def test_for_a_batch_is_the_one_that_ccxt_sends(
        self, server: ScriptedServer, hosts: Hosts, futures_ccxt: Recording
    ) -> None:
        orders = [make_request(f"th0{i}", price=Decimal("90000.1") + i) for i in range(5)]
        ours = Ours(BinanceFutures, server, hosts)
        await ours.exchange.place_orders(orders)
        futures_ccxt.answer = []
        names = ("symbol", "type", "side", "amount", "price", "params")
        rows = [dict(zip(names, ccxt_arguments(one, "BTC/USDT:USDT"), strict=True)) for one in orders]
        await futures_ccxt.create_orders(rows)
        assert_same(ours.sent, futures_ccxt.sent)

    async def test_for_a_batch_of_cancels_is_the_one_that_ccxt_sends(
        self, server: ScriptedServer, hosts: Hosts, futures_ccxt: Recording
    ) -> None:
        ours = Ours(BinanceFutures, server, hosts)
        await ours.exchange.cancel_orders([OrderRef("BTC/USDT", f"th0{i}") for i in range(3)])
        futures_ccxt.answer = []
        names = [f"th0{i}" for i in range(3)]
        await futures_ccxt.cancel_orders([], "BTC/USDT:USDT", {"clientOrderIds": names})
        assert_same(ours.sent, futures_ccxt.sent)

    async def test_for_a_cancel_on_spot_is_the_one_that_ccxt_sends(
        self, server: ScriptedServer, hosts: Hosts, spot_ccxt: Recording
    ) -> None:
        ours = Ours(BinanceSpot, server, hosts)
        await ours.exchange.cancel_orders([OrderRef("ETH/BTC", exchange_order_id="28")])
        await spot_ccxt.cancel_order("28", "ETH/BTC")
        assert_same(ours.sent, spot_ccxt.sent)


def assert_same_order(ours: OrderReport, theirs: dict[str, Any]) -> None:
    assert (ours.exchange_order_id, ours.client_order_id) == (theirs["id"], theirs["clientOrderId"])
    assert STATUS[ours.status] == theirs["status"]
    assert ours.side is not None
    assert ours.side.value.lower() == theirs["side"]
    assert float(ours.quantity or 0) == theirs["amount"]
    assert float(ours.filled_quantity or 0) == theirs["filled"]
    assert float(ours.stop_price or 0) == (theirs["triggerPrice"] or 0)
    if ours.price is not None:  # ccxt shows a market order's average here
        assert float(ours.price) == theirs["price"]
    if ours.average_price is not None:
        assert float(ours.average_price) == theirs["average"]


class TestReport:
    @pytest.mark.parametrize(
        "change",
        [
            {},
            {
                "status": "PARTIALLY_FILLED",
                "executedQty": "0.004",
                "avgPrice": "90000.05",
                "cumQuote": "360.0002",
            },
            {
                "status": "FILLED",
                "type": "MARKET",
                "price": "0",
                "executedQty": "0.010",
                "avgPrice": "95000.5",
                "cumQuote": "950.005",
            },
            {"status": "CANCELED", "side": "SELL"},
            {"status": "EXPIRED", "executedQty": "0.001", "avgPrice": "90000", "cumQuote": "90"},
        ],
    )
    async def test_of_a_futures_order_is_what_ccxt_reads(
        self, hosts: Hosts, futures_ccxt: Recording, change: dict[str, Any]
    ) -> None:
        row = payload("futures_order") | change
        exchange = BinanceFutures(Credentials(KEY, SECRET), Endpoints("", ""), hosts=lambda: hosts)
        assert_same_order(exchange._report(row, "BTC/USDT"), futures_ccxt.parse_order(row))

    async def test_of_a_conditional_order_is_what_ccxt_reads(
        self, hosts: Hosts, futures_ccxt: Recording
    ) -> None:
        row = payload("futures_algo_order")
        exchange = BinanceFutures(Credentials(KEY, SECRET), Endpoints("", ""), hosts=lambda: hosts)
        assert_same_order(exchange._report(row, "BTC/USDT"), futures_ccxt.parse_order(row))

    async def test_of_a_spot_order_is_what_ccxt_reads(self, hosts: Hosts, spot_ccxt: Recording) -> None:
        row = payload("spot_order_full")
        exchange = BinanceSpot(Credentials(KEY, SECRET), Endpoints("", ""), hosts=lambda: hosts)
        report, theirs = exchange._report(row, "ETH/BTC"), spot_ccxt.parse_order(row)
        assert_same_order(report, theirs)
        assert [(f.trade_id, float(f.quantity), float(f.fee), f.fee_asset) for f in report.fills] == [
            (t["id"], t["amount"], t["fee"]["cost"], t["fee"]["currency"]) for t in theirs["trades"]
        ]
