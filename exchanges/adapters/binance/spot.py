"""Binance Spot: signed REST for orders, the WebSocket API for the user stream.

Units:  quantity in base asset, price in quote asset, both Decimal; wire times are ms.
Source: binance/binance-spot-api-docs rest-api.md "Trading endpoints", web-socket-api.md "User Data
        Stream requests", read 2026-11. Weights of rest-api.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from exchanges.adapters.binance.adapter import (
    PAGE,
    REMEMBERS_SECONDS,
    BinanceExchange,
    Params,
    Result,
    order_name,
    order_numbers,
)
from exchanges.adapters.binance.auth import encode_query
from exchanges.adapters.binance.instruments import spot_instruments
from exchanges.adapters.binance.stream import SpotStream
from exchanges.adapters.binance.words import (
    ORDER_STATUS,
    SPOT_CONDITIONAL,
    SPOT_TYPE,
    Row,
    identifier,
    moment,
    number,
)
from exchanges.adapters.departure import Call
from exchanges.adapters.exceptions import AuthenticationFailed, UnsupportedOrder
from exchanges.adapters.http import BULK_SECONDS
from exchanges.adapters.limits import OrderWindow, RateRules
from exchanges.adapters.types import (
    Balance,
    Capabilities,
    Fill,
    InstrumentSpec,
    Liquidity,
    ListedOrder,
    MarketType,
    OrderRef,
    OrderReport,
    OrderRequest,
    OrderType,
    Side,
    VenuePosition,
)

_ORDER = "/api/v3/order"
# Ours -> theirs.
_WIRE_TYPE = {
    OrderType.MARKET: "MARKET",
    OrderType.LIMIT: "LIMIT",
    OrderType.STOP_MARKET: "STOP_LOSS",
    OrderType.STOP_LIMIT: "STOP_LOSS_LIMIT",
}


class BinanceSpot(BinanceExchange):
    """Spot has no batches: orders go side by side, each in a request of its own."""

    market_type = MarketType.SPOT
    capabilities = Capabilities(
        market_types=frozenset({MarketType.SPOT}),
        order_types=frozenset(_WIRE_TYPE),
        max_open_orders=200,
        remembers_seconds=REMEMBERS_SECONDS,
        max_conditional_orders=5,
    )
    rules = RateRules(
        weight_per_minute=6000,
        weight_header="X-MBX-USED-WEIGHT-1M",
        order_windows=(OrderWindow(100, 10, "X-MBX-ORDER-COUNT-10S"),),
    )
    list_weights = 80, 6
    clock_path = "/api/v3/time"
    ticker_path = "/api/v3/ticker/price"
    # Without permission sets, which are most of the megabytes and say nothing to us.
    exchange_info = Call(
        "GET", "/api/v3/exchangeInfo", "showPermissionSets=false", weight=20, seconds=BULK_SECONDS
    )

    def _instruments(self, body: Row) -> list[InstrumentSpec]:
        return spot_instruments(body)

    async def _place(self, requests: list[OrderRequest]) -> list[Result]:
        (request,) = requests
        params: Params = [
            ("symbol", self.venue_symbol(request.symbol)),
            ("side", request.side.value),
            ("type", _WIRE_TYPE[request.order_type]),
            *order_numbers(request, stop_field="stopPrice"),
            ("newClientOrderId", request.client_order_id),
            ("newOrderRespType", "FULL"),  # with the fills; stop orders would only be acknowledged
        ]
        body = await self._rest.send(
            Call(
                "POST",
                _ORDER,
                encode_query(params),
                signed=True,
                weight=1,
                orders=(1,),
                urgent=True,
                changes=True,
                send_by=request.send_by_monotonic,
                planned_at=request.planned_at_monotonic,
            )
        )
        with self._reading(body):
            return [self._report(body, request.symbol)]

    async def _cancel(self, refs: list[OrderRef]) -> list[Result]:
        (ref,) = refs
        params = [("symbol", self.venue_symbol(ref.symbol)), _name(ref)]
        body = await self._rest.send(
            Call(
                "DELETE",
                _ORDER,
                encode_query(params),
                signed=True,
                weight=1,
                urgent=True,
                changes=True,
                always=True,
                send_by=ref.send_by_monotonic,
                planned_at=ref.planned_at_monotonic,
            )
        )
        with self._reading(body):
            return [self._report(body, ref.symbol)]

    async def fetch_order(self, ref: OrderRef) -> OrderReport:
        params = [("symbol", self.venue_symbol(ref.symbol)), _name(ref)]
        body = await self._get(_ORDER, params, weight=4)
        with self._reading(body):
            return self._report(body, ref.symbol)

    async def fetch_open_orders(self, symbol: str | None = None) -> list[ListedOrder]:
        params = [("symbol", self.venue_symbol(symbol))] if symbol else []
        return await self._listed(await self._get("/api/v3/openOrders", params, weight=6 if symbol else 80))

    async def fetch_recent_orders(self, symbol: str, *, since_ms: int) -> list[ListedOrder]:
        params = [("symbol", self.venue_symbol(symbol)), ("limit", str(PAGE))]
        body = await self._get("/api/v3/allOrders", [*params, ("startTime", str(since_ms))], weight=20)
        rows = list(body)
        while len(body) == PAGE:
            with self._reading(body):
                next_id = max(row["orderId"] for row in body) + 1
            body = await self._get("/api/v3/allOrders", [*params, ("orderId", str(next_id))], weight=20)
            rows += body
        return await self._listed(rows)

    async def fetch_executions(self, ref: OrderRef) -> list[Fill]:
        order_id = ref.exchange_order_id or (await self.fetch_order(ref)).exchange_order_id
        return await self._fills(
            "/api/v3/myTrades", self.venue_symbol(ref.symbol), order_id, weight=5, maker_field="isMaker"
        )

    async def fetch_balances(self) -> list[Balance]:
        body = await self._get("/api/v3/account", [("omitZeroBalances", "true")], weight=20)
        with self._reading(body):
            return [Balance(r["asset"], Decimal(r["free"]), Decimal(r["locked"])) for r in body["balances"]]

    async def fetch_positions(self) -> list[VenuePosition]:
        return []  # what one holds on spot are balances

    async def set_leverage(self, symbol: str, leverage: int) -> None:
        if leverage != 1:
            raise UnsupportedOrder("there is no leverage on Binance Spot", venue=self.venue)

    async def check_account(self) -> None:
        body = await self._get("/api/v3/account", [("omitZeroBalances", "true")], weight=20)
        with self._reading(body):
            may_trade = bool(body["canTrade"])
        if not may_trade:
            raise AuthenticationFailed(
                "This Binance account may not trade on Spot: allow spot trading for the API key.",
                venue=self.venue,
            )

    def _report(self, row: Row, symbol: str) -> OrderReport:
        filled, cost = Decimal(row["executedQty"]), Decimal(row["cummulativeQuoteQty"])
        when = row.get("transactTime") or row.get("updateTime") or row.get("time")
        is_conditional = row["type"] in SPOT_CONDITIONAL
        is_triggered = is_conditional and (filled > 0 or row.get("workingTime", -1) > 0)
        is_told = not is_conditional or is_triggered or "workingTime" in row  # a cancel's answer has none
        return OrderReport(
            market_type=self.market_type,
            symbol=symbol,
            exchange_order_id=identifier(row["orderId"]),
            # A cancel's answer carries the cancel's own id in clientOrderId.
            client_order_id=row.get("origClientOrderId") or row["clientOrderId"],
            status=ORDER_STATUS[row["status"]],
            side=Side(row["side"]),
            order_type=SPOT_TYPE.get(row["type"]),
            quantity=Decimal(row["origQty"]),
            price=number(row["price"]),
            stop_price=number(row.get("stopPrice", 0)),
            filled_quantity=filled,
            average_price=cost / filled if filled and cost > 0 else None,  # cost < 0: not known any more
            fills=_fills_of(row),
            conditional=is_conditional,
            triggered=is_triggered if is_told else None,
            child_order_id=identifier(row["orderId"]) if is_triggered else "",
            reason=str(row.get("expiryReason") or ""),
            updated_at=moment(when) if when else None,
            raw=dict(row),
        )

    def _account_stream(self) -> SpotStream:
        return SpotStream(
            url=self._endpoints.ws,
            hosts=self._hosts,
            rest=self._rest,
            signer=self._signer,
            mask=self._mask,
            our_symbol=self.our_symbol,
        )


def _fills_of(row: Row) -> tuple[Fill, ...]:
    """The fills that came with a FULL answer: it is the taker's side that fills at once."""
    fills: Sequence[Row] = row.get("fills") or ()
    return tuple(
        Fill(
            trade_id=identifier(fill["tradeId"]),
            price=Decimal(fill["price"]),
            quantity=Decimal(fill["qty"]),
            executed_at=moment(row["transactTime"]),
            fee=Decimal(fill["commission"]),
            fee_asset=fill["commissionAsset"],
            liquidity=Liquidity.TAKER,
            exchange_order_id=identifier(row["orderId"]),
        )
        for fill in fills
    )


def _name(ref: OrderRef) -> tuple[str, str]:
    return order_name(ref, id_field="orderId", client_field="origClientOrderId")
