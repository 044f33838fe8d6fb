"""Binance spot: placing, canceling and asking about orders. Source: fact sheet A4."""

from __future__ import annotations

import re
import secrets
from typing import Any, NamedTuple

from exchanges.simulator.accounts import Account
from exchanges.simulator.dialects.binance import params as read
from exchanges.simulator.dialects.binance.base import Desk, Route, Routes
from exchanges.simulator.dialects.binance.spot_errors import wire_error
from exchanges.simulator.dialects.binance.spot_format import (
    canceled_row,
    number_text,
    order_row,
    placed_row,
    trade_row,
)
from exchanges.simulator.types import Order, OrderRequest, OrderType, Refusal, Side, TimeInForce
from exchanges.simulator.wire import Call, OrderMark, Params, WireError

CLIENT_ID = re.compile(r"[a-zA-Z0-9-_]{1,36}")
CLIENT_ID_RULE = "^[a-zA-Z0-9-_]{1,36}$"
UNKNOWN_ORDER = WireError(400, -2011, "Unknown order sent.")
NO_SUCH_ORDER = WireError(400, -2013, "Order does not exist.")


class Kind(NamedTuple):
    """What one of their order types needs and how the engine treats it."""

    type: OrderType
    takes: frozenset[str]  # of timeInForce, price, stopPrice: required, any other is refused
    is_take_profit: bool = False
    post_only: bool = False


ORDER_KINDS = {
    "LIMIT": Kind(OrderType.LIMIT, frozenset({"timeInForce", "price"})),
    "LIMIT_MAKER": Kind(OrderType.LIMIT, frozenset({"price"}), post_only=True),
    "MARKET": Kind(OrderType.MARKET, frozenset()),
    "STOP_LOSS": Kind(OrderType.MARKET, frozenset({"stopPrice"})),
    "STOP_LOSS_LIMIT": Kind(OrderType.LIMIT, frozenset({"timeInForce", "price", "stopPrice"})),
    "TAKE_PROFIT": Kind(OrderType.MARKET, frozenset({"stopPrice"}), is_take_profit=True),
    "TAKE_PROFIT_LIMIT": Kind(
        OrderType.LIMIT, frozenset({"timeInForce", "price", "stopPrice"}), is_take_profit=True
    ),
}


class SpotOrders:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.routes: Routes = {
            ("POST", "/api/v3/order"): Route(self.place, weight=0, counts_orders=True),
            ("POST", "/api/v3/order/test"): Route(self.test),
            ("GET", "/api/v3/order"): Route(self.query, weight=4),
            ("DELETE", "/api/v3/order"): Route(self.cancel),
            ("DELETE", "/api/v3/openOrders"): Route(self.cancel_all),
            ("GET", "/api/v3/openOrders"): Route(self.open_orders, weight=6, weight_of_all=80),
            ("GET", "/api/v3/allOrders"): Route(self.all_orders, weight=20),
            ("GET", "/api/v3/myTrades"): Route(self.my_trades, weight=20),
        }

    def place(self, call: Call) -> dict[str, Any]:
        if self._desk.faults.active:
            fault = self._desk.faults.rejecting(call, read.order_mark(call.params))
            if fault is not None:
                raise WireError(fault.status, fault.code, fault.msg)
        request, response_type = self._request(call)
        try:
            order = self._desk.venue.place(request)
        except Refusal as refusal:
            raise wire_error(refusal) from refusal
        return placed_row(order, response_type)

    def test(self, call: Call) -> dict[str, Any]:
        request, _ = self._request(call)
        try:
            self._desk.venue.check(request)
        except Refusal as refusal:
            raise wire_error(refusal) from refusal
        return {}

    def query(self, call: Call) -> dict[str, Any]:
        return order_row(self._find(call, NO_SUCH_ORDER))

    def cancel(self, call: Call) -> dict[str, Any]:
        order = self._find(call, UNKNOWN_ORDER)
        restriction = call.params.get("cancelRestrictions")
        if restriction and restriction != f"ONLY_{order.status.value}":
            raise WireError(400, -2011, "Order was not canceled due to cancel restrictions.")
        self._cancel(order, _client_id(call.params, "newClientOrderId"))
        return canceled_row(order)

    def cancel_all(self, call: Call) -> list[dict[str, Any]]:
        instrument = self._desk.instrument(read.required(call.params, "symbol"))
        orders = self._account(call).open_orders(instrument)
        if not orders:
            raise UNKNOWN_ORDER
        for order in orders:
            self._cancel(order, secrets.token_hex(11))
        return [canceled_row(order) for order in orders]

    def open_orders(self, call: Call) -> list[dict[str, Any]]:
        symbol = call.params.get("symbol")
        instrument = self._desk.instrument(symbol) if symbol else None
        return [order_row(order) for order in self._account(call).open_orders(instrument)]

    def all_orders(self, call: Call) -> list[dict[str, Any]]:
        instrument = self._desk.instrument(read.required(call.params, "symbol"))
        first_id = read.integer(call.params, "orderId")
        span = read.span(call.params, first_id=first_id, longest_hours=24)
        rows = [
            order_row(order)
            for order in self._account(call).history.get(instrument, [])
            if order.order_id >= (first_id or 0) and span.holds(order.created_ms)
        ]
        return span.cut(rows)

    def my_trades(self, call: Call) -> list[dict[str, Any]]:
        instrument = self._desk.instrument(read.required(call.params, "symbol"))
        order_id = read.integer(call.params, "orderId")
        first_id = read.integer(call.params, "fromId")
        span = read.span(call.params, first_id=first_id, longest_hours=24)
        rows = [
            trade_row(order, fill)
            for order, fill in self._account(call).fills.get(instrument, [])
            if (order_id is None or order.order_id == order_id)
            and fill.trade_id >= (first_id or 0)
            and span.holds(fill.time_ms)
        ]
        return span.cut(rows)

    def orders_in(self, call: Call) -> list[OrderMark]:
        return [read.order_mark(call.params)]

    # -- inside ----------------------------------------------------------------------------

    def _request(self, call: Call) -> tuple[OrderRequest, str]:
        """Translate parameters; return the request and the wanted response type."""
        params = call.params
        instrument = self._desk.instrument(read.required(params, "symbol"))
        side = read.side(params)
        name = read.required(params, "type")
        kind = ORDER_KINDS.get(name)
        if kind is None:
            raise WireError(400, -1116, "Invalid orderType.")
        for parameter in ("timeInForce", "price", "stopPrice"):
            if parameter in kind.takes:
                read.required(params, parameter)
            elif params.get(parameter):
                raise WireError(400, -1106, f"Parameter '{parameter}' sent when not required.")
        time_in_force = params.get("timeInForce") or "GTC"
        if time_in_force not in ("GTC", "IOC", "FOK"):
            raise WireError(400, -1115, "Invalid timeInForce.")
        quantity, quote_quantity = _quantities(params, name)
        wire = {"type": name, "timeInForce": time_in_force}
        if quote_quantity is not None:
            wire["quoteOrderQty"] = number_text(quote_quantity)
        request = OrderRequest(
            api_key=call.api_key,
            instrument=instrument,
            side=side,
            type=kind.type,
            client_order_id=_client_id(params, "newClientOrderId"),
            quantity=quantity,
            quote_quantity=quote_quantity,
            price=read.decimal(params, "price"),
            time_in_force=TimeInForce(time_in_force),
            post_only=kind.post_only,
            stop_price=read.decimal(params, "stopPrice"),
            triggers_above=(side is Side.BUY) != kind.is_take_profit,
            wire=wire,
            received_ns=call.received_ns,
        )
        response_type = params.get("newOrderRespType") or ("FULL" if name in ("MARKET", "LIMIT") else "ACK")
        if response_type not in ("ACK", "RESULT", "FULL"):
            raise WireError(400, -1122, "Invalid newOrderRespType.")
        return request, response_type

    def _account(self, call: Call) -> Account:
        return self._desk.venue.account(call.api_key)

    def _find(self, call: Call, absent: WireError) -> Order:
        """Find by `orderId`, or else by `origClientOrderId`; of both, the second must agree."""
        instrument = self._desk.instrument(read.required(call.params, "symbol"))
        order_id = read.integer(call.params, "orderId")
        client_order_id = call.params.get("origClientOrderId", "")
        if order_id is None and not client_order_id:
            raise WireError(
                400, -1102, "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!"
            )
        order = self._account(call).find(order_id=order_id, client_order_id=client_order_id)
        if order is None or order.instrument is not instrument:
            raise absent
        if client_order_id and order.client_order_id != client_order_id:
            raise WireError(400, -2039, "Client order ID is not correct for this order ID.")
        return order

    def _cancel(self, order: Order, cancel_client_id: str) -> None:
        try:
            self._desk.venue.cancel(order, cancel_client_id=cancel_client_id)
        except Refusal as refusal:
            raise wire_error(refusal) from refusal


def _quantities(params: Params, kind: str) -> tuple[Any, Any]:
    """Return quantity and quote quantity, of which a market order gives either."""
    quantity = read.decimal(params, "quantity")
    quote_quantity = read.decimal(params, "quoteOrderQty")
    if quote_quantity is not None and kind != "MARKET":
        raise WireError(400, -1106, "Parameter 'quoteOrderQty' sent when not required.")
    if quantity is not None and quote_quantity is not None:
        raise WireError(400, -1128, "Combination of optional parameters invalid.")
    if quantity is None and quote_quantity is None:
        raise read.missing("quantity")
    return quantity, quote_quantity


def _client_id(params: Params, name: str) -> str:
    value = params.get(name)
    if not value:
        return secrets.token_hex(11)
    if CLIENT_ID.fullmatch(value) is None:
        raise WireError(
            400,
            -1100,
            f"Illegal characters found in parameter '{name}'; legal range is '{CLIENT_ID_RULE}'.",
        )
    return value
