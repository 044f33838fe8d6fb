"""Binance USDⓈ-M futures: placing, canceling and asking about orders. Source: fact sheet B3."""

from __future__ import annotations

import re
import secrets
from typing import Any

from exchanges.simulator.accounts import Account
from exchanges.simulator.dialects.binance import params as read
from exchanges.simulator.dialects.binance.base import Desk, Route, Routes
from exchanges.simulator.dialects.binance.futures_errors import wire_error
from exchanges.simulator.dialects.binance.futures_format import (
    canceled_row,
    order_row,
    placed_row,
    trade_row,
)
from exchanges.simulator.positions import FuturesWallet
from exchanges.simulator.types import (
    Order,
    OrderRequest,
    OrderType,
    Reason,
    Refusal,
    Side,
    TimeInForce,
)
from exchanges.simulator.wire import Call, OrderMark, Params, WireError

CLIENT_ID = re.compile(r"[\.A-Z\:/a-z0-9_-]{1,36}")
CLIENT_ID_RULE = "^[\\.A-Z\\:/a-z0-9_-]{1,36}$"
MAX_BATCH_PLACE = 5
MAX_BATCH_CANCEL = 10
HISTORY_HOURS = 7 * 24  # the longest span of a listing
CONDITIONAL_TYPES = {"STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET"}
# Their word -> how the engine treats it, and whether it must not take.
TIMES_IN_FORCE = {
    "GTC": (TimeInForce.GTC, False),
    "IOC": (TimeInForce.IOC, False),
    "FOK": (TimeInForce.FOK, False),
    "GTX": (TimeInForce.GTC, True),
}
UNKNOWN_ORDER = WireError(400, -2011, "Unknown order sent.")
NO_SUCH_ORDER = WireError(400, -2013, "Order does not exist.")


class FuturesOrders:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.routes: Routes = {
            ("POST", "/fapi/v1/order"): Route(self.place, weight=0, counts_orders=True),
            ("POST", "/fapi/v1/order/test"): Route(self.test),
            ("POST", "/fapi/v1/batchOrders"): Route(self.place_batch, weight=5, counts_orders=True),
            ("GET", "/fapi/v1/order"): Route(self.query),
            ("DELETE", "/fapi/v1/order"): Route(self.cancel),
            ("DELETE", "/fapi/v1/batchOrders"): Route(self.cancel_batch),
            ("DELETE", "/fapi/v1/allOpenOrders"): Route(self.cancel_all),
            ("GET", "/fapi/v1/openOrder"): Route(self.open_order),
            ("GET", "/fapi/v1/openOrders"): Route(self.open_orders, weight_of_all=40),
            ("GET", "/fapi/v1/allOrders"): Route(self.all_orders, weight=5),
            ("GET", "/fapi/v1/userTrades"): Route(self.user_trades, weight=5),
        }

    def place(self, call: Call) -> dict[str, Any]:
        return self._place(call, call.params)

    def test(self, call: Call) -> dict[str, Any]:
        request, _ = self._request(call, call.params)
        try:
            self._desk.venue.check(request)
        except Refusal as refusal:
            raise wire_error(refusal) from refusal
        return {}

    def place_batch(self, call: Call) -> list[dict[str, Any]]:
        """Place up to five orders; one that is refused stands as `{code, msg}` in its place."""
        orders = read.json_list(call.params, "batchOrders")
        if not orders:
            raise read.missing("batchOrders")
        if len(orders) > MAX_BATCH_PLACE:
            raise WireError(400, -4082, "Invalid number of batch place orders")
        rows: list[dict[str, Any]] = []
        for item in orders:
            try:
                if not isinstance(item, dict):
                    raise WireError(400, -1130, "Data sent for parameter 'batchOrders' is not valid.")
                rows.append(self._place(call, {name: read.as_text(value) for name, value in item.items()}))
            except WireError as error:
                rows.append({"code": error.code, "msg": error.message})
        return rows

    def query(self, call: Call) -> dict[str, Any]:
        return order_row(self._find(call, NO_SUCH_ORDER))

    def open_order(self, call: Call) -> dict[str, Any]:
        order = self._find(call, NO_SUCH_ORDER)
        if not order.status.is_open:
            raise NO_SUCH_ORDER
        return order_row(order)

    def cancel(self, call: Call) -> dict[str, Any]:
        order = self._find(call, UNKNOWN_ORDER)
        self._cancel(order)
        return canceled_row(order)

    def cancel_batch(self, call: Call) -> list[dict[str, Any]]:
        instrument = self._desk.instrument(read.required(call.params, "symbol"))
        ids = read.json_list(call.params, "orderIdList", "orderidlist")
        client_ids = read.json_list(call.params, "origClientOrderIdList", "origclientorderidlist")
        wanted = ids if ids is not None else client_ids
        if not wanted:
            raise read.missing("orderIdList")
        if len(wanted) > MAX_BATCH_CANCEL:
            raise WireError(400, -4083, "Invalid number of batch cancel orders")
        account = self._account(call)
        rows: list[dict[str, Any]] = []
        for item in wanted:
            order = (
                account.find(order_id=int(str(item)))
                if ids is not None
                else account.find(client_order_id=str(item))
            )
            try:
                if order is None or order.instrument is not instrument:
                    raise UNKNOWN_ORDER
                self._cancel(order)
                rows.append(canceled_row(order))
            except WireError as error:
                rows.append({"code": error.code, "msg": error.message})
        return rows

    def cancel_all(self, call: Call) -> dict[str, Any]:
        instrument = self._desk.instrument(read.required(call.params, "symbol"))
        for order in self._account(call).open_orders(instrument):
            self._cancel(order)
        return {"code": 200, "msg": "The operation of cancel all open order is done."}

    def open_orders(self, call: Call) -> list[dict[str, Any]]:
        symbol = call.params.get("symbol")
        instrument = self._desk.instrument(symbol) if symbol else None
        return [order_row(order) for order in self._account(call).open_orders(instrument)]

    def all_orders(self, call: Call) -> list[dict[str, Any]]:
        instrument = self._desk.instrument(read.required(call.params, "symbol"))
        first_id = read.integer(call.params, "orderId")
        span = read.span(call.params, first_id=first_id, longest_hours=HISTORY_HOURS)
        rows = [
            order_row(order)
            for order in self._account(call).history.get(instrument, [])
            if order.order_id >= (first_id or 0) and span.holds(order.created_ms)
        ]
        return span.cut(rows)

    def user_trades(self, call: Call) -> list[dict[str, Any]]:
        instrument = self._desk.instrument(read.required(call.params, "symbol"))
        order_id = read.integer(call.params, "orderId")
        first_id = read.integer(call.params, "fromId")
        span = read.span(call.params, first_id=first_id, longest_hours=HISTORY_HOURS)
        rows = [
            trade_row(order, fill)
            for order, fill in self._account(call).fills.get(instrument, [])
            if (order_id is None or order.order_id == order_id)
            and fill.trade_id >= (first_id or 0)
            and span.holds(fill.time_ms)
        ]
        return span.cut(rows)

    def orders_in(self, call: Call) -> list[OrderMark]:
        """Return the orders that a request names, for faults; junk names none."""
        try:
            batch = read.json_list(call.params, "batchOrders")
            names = read.json_list(call.params, "origClientOrderIdList", "origclientorderidlist")
        except WireError:
            return []
        if names is not None:
            return [OrderMark(call.params.get("symbol", ""), str(name)) for name in names]
        if batch is not None:
            return [
                read.order_mark({k: read.as_text(v) for k, v in item.items()})
                for item in batch
                if isinstance(item, dict)
            ]
        return [read.order_mark(call.params)]

    # -- inside ----------------------------------------------------------------------------

    def _place(self, call: Call, params: Params) -> dict[str, Any]:
        if self._desk.faults.active:
            fault = self._desk.faults.rejecting(call, read.order_mark(params))
            if fault is not None:
                raise WireError(fault.status, fault.code, fault.msg)
        request, response_type = self._request(call, params)
        try:
            order = self._desk.venue.place(request)
        except Refusal as refusal:
            raise wire_error(refusal) from refusal
        return placed_row(order, response_type)

    def _request(self, call: Call, params: Params) -> tuple[OrderRequest, str]:
        """Translate parameters; return the request and the wanted response type."""
        instrument = self._desk.instrument(read.required(params, "symbol"))
        side = read.side(params)
        kind = read.required(params, "type")
        if kind in CONDITIONAL_TYPES:
            raise WireError(
                400,
                -4120,
                "Order type not supported for this endpoint. "
                "Please use the Algo Order API endpoints instead.",
            )
        if kind not in ("LIMIT", "MARKET"):
            raise WireError(400, -1116, "Invalid orderType.")
        quantity = read.required_decimal(params, "quantity")
        price = None
        time_in_force = "GTC"
        if kind == "LIMIT":
            time_in_force = read.required(params, "timeInForce")
            price = read.required_decimal(params, "price")
        elif params.get("price"):
            raise WireError(400, -1106, "Parameter 'price' sent when not required.")
        if time_in_force not in TIMES_IN_FORCE:
            raise WireError(400, -1115, "Invalid timeInForce.")
        policy, post_only = TIMES_IN_FORCE[time_in_force]
        position_side, reduce_only = self.position_side(call.api_key, params, side)
        request = OrderRequest(
            api_key=call.api_key,
            instrument=instrument,
            side=side,
            type=OrderType(kind),
            client_order_id=client_id(params, "newClientOrderId"),
            quantity=quantity,
            price=price,
            time_in_force=policy,
            post_only=post_only,
            reduce_only=reduce_only,
            position_side=position_side,
            wire={"type": kind, "timeInForce": time_in_force},
            received_ns=call.received_ns,
        )
        response_type = params.get("newOrderRespType", "ACK")
        if response_type not in ("ACK", "RESULT"):
            raise WireError(400, -1122, "Invalid newOrderRespType.")
        return request, response_type

    def position_side(self, api_key: str, params: Params, side: Side) -> tuple[str, bool]:
        """Return position side and reduce-only; in hedge mode, closing is reduce-only by nature."""
        wallet = self._desk.venue.account(api_key).wallet
        assert isinstance(wallet, FuturesWallet)
        position_side = params.get("positionSide") or "BOTH"
        reduce_only = read.flag(params, "reduceOnly")
        if wallet.is_hedge_mode != (position_side in ("LONG", "SHORT")):
            raise wire_error(Refusal(Reason.POSITION_SIDE))
        if not wallet.is_hedge_mode:
            return "BOTH", reduce_only
        if "reduceOnly" in params:
            raise WireError(400, -1106, "Parameter 'reduceonly' sent when not required.")
        return position_side, (position_side == "LONG") == (side is Side.SELL)

    def _account(self, call: Call) -> Account:
        return self._desk.venue.account(call.api_key)

    def _find(self, call: Call, absent: WireError) -> Order:
        """Find by `orderId`, or else by `origClientOrderId`."""
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
        return order

    def _cancel(self, order: Order) -> None:
        try:
            self._desk.venue.cancel(order)
        except Refusal as refusal:
            raise wire_error(refusal) from refusal


def client_id(params: Params, name: str) -> str:
    """Return the client id, or one made up as the exchange does; raises -4015 or -1100."""
    value = params.get(name)
    if not value:
        return secrets.token_hex(11)
    if len(value) > 36:
        raise WireError(400, -4015, "Client order id length should be less than 36 chars")
    if CLIENT_ID.fullmatch(value) is None:
        raise WireError(
            400,
            -1100,
            f"Illegal characters found in parameter '{name}'; legal range is '{CLIENT_ID_RULE}'.",
        )
    return value
