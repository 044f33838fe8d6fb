"""Binance USDⓈ-M futures: conditional orders, which live behind an API of their own.

Source: fact sheet B3 "Conditional (algo) orders" and B5. An algo order has its own id and is
unknown to the plain order endpoints; when its price comes, a child order with a new id goes to
the engine and keeps the client id. The child's events go ahead of the TRIGGERED one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from decimal import Decimal
from itertools import count
from typing import Any

from exchanges.simulator import filters
from exchanges.simulator.dialects.binance import params as read
from exchanges.simulator.dialects.binance.base import Desk, Route, Routes, symbol_of
from exchanges.simulator.dialects.binance.futures_errors import REFUSALS, wire_error
from exchanges.simulator.dialects.binance.futures_format import STP_MODE, price_text, quantity_text
from exchanges.simulator.dialects.binance.futures_orders import (
    HISTORY_HOURS,
    NO_SUCH_ORDER,
    UNKNOWN_ORDER,
    FuturesOrders,
    client_id,
)
from exchanges.simulator.ledger import milliseconds
from exchanges.simulator.positions import FuturesWallet
from exchanges.simulator.types import (
    ZERO,
    Instrument,
    Order,
    OrderRequest,
    OrderType,
    Reason,
    Refusal,
    Side,
    TimeInForce,
)
from exchanges.simulator.wire import Call, OrderMark, Params, WireError

# Type -> has a limit price, takes profit.
KINDS = {
    "STOP": (True, False),
    "STOP_MARKET": (False, False),
    "TAKE_PROFIT": (True, True),
    "TAKE_PROFIT_MARKET": (False, True),
}
TIMES_IN_FORCE = {
    "GTC": TimeInForce.GTC,
    "GTE_GTC": TimeInForce.GTC,
    "IOC": TimeInForce.IOC,
    "FOK": TimeInForce.FOK,
}
MAX_OPEN = 200  # of an account, across all symbols


@dataclass(slots=True, eq=False)
class AlgoOrder:
    algo_id: int
    client_algo_id: str
    api_key: str
    instrument: Instrument
    side: Side
    position_side: str
    kind: str
    time_in_force: str
    quantity: Decimal | None  # None: closes the position
    price: Decimal | None
    trigger_price: Decimal
    working_type: str
    price_protect: bool
    reduce_only: bool
    received_ns: int
    accepted_ns: int
    created_ms: int
    updated_ms: int
    status: str = "NEW"
    ended_ns: int = 0  # 0 while it waits for its trigger; then its child lives
    child: Order | None = None
    triggered_ms: int = 0
    reject_reason: str = ""

    @property
    def is_open(self) -> bool:
        return self.status == "NEW"

    @property
    def triggers_above(self) -> bool:
        return (self.side is Side.BUY) != KINDS[self.kind][1]

    def is_due(self, price: Decimal) -> bool:
        return price >= self.trigger_price if self.triggers_above else price <= self.trigger_price


class AlgoOrders:
    def __init__(self, desk: Desk, orders: FuturesOrders) -> None:
        self._desk = desk
        self._orders = orders
        self._ids = count(5_000_001)
        self._all: dict[int, AlgoOrder] = {}
        self._waiting: dict[int, AlgoOrder] = {}
        self._by_child: dict[int, AlgoOrder] = {}
        desk.venue.price_listeners.append(self.on_price)
        self.routes: Routes = {
            ("POST", "/fapi/v1/algoOrder"): Route(self.place, weight=0, counts_orders=True),
            ("GET", "/fapi/v1/algoOrder"): Route(self.query),
            ("DELETE", "/fapi/v1/algoOrder"): Route(self.cancel),
            ("DELETE", "/fapi/v1/algoOpenOrders"): Route(self.cancel_all),
            ("GET", "/fapi/v1/openAlgoOrders"): Route(self.open_orders, weight_of_all=40),
            ("GET", "/fapi/v1/allAlgoOrders"): Route(self.all_orders, weight=5),
        }

    def clear(self) -> None:
        self._all.clear()
        self._waiting.clear()
        self._by_child.clear()

    # -- requests --------------------------------------------------------------------------

    def place(self, call: Call) -> dict[str, Any]:
        """Accept a conditional order; its margin is looked at only when it triggers."""
        mark = read.order_mark(call.params)
        if self._desk.faults.active and (fault := self._desk.faults.rejecting(call, mark)) is not None:
            raise WireError(fault.status, fault.code, fault.msg)
        order = self._read(call)
        mine = [one for one in self._waiting.values() if one.api_key == call.api_key]
        try:
            self._check(order)
            if any(one.client_algo_id == order.client_algo_id for one in mine):
                raise Refusal(Reason.DUPLICATE_CLIENT_ORDER_ID)
            if len(mine) >= MAX_OPEN:
                raise Refusal(Reason.TOO_MANY_STOPS)
            if order.is_due(self._desk.venue.price(order.instrument)):
                raise Refusal(Reason.WOULD_TRIGGER)
        except Refusal as refusal:
            raise wire_error(refusal) from refusal
        self._all[order.algo_id] = self._waiting[order.algo_id] = order
        self._tell(order)
        return _row(order)

    def query(self, call: Call) -> dict[str, Any]:
        return _query_row(self._find(call, NO_SUCH_ORDER))

    def cancel(self, call: Call) -> dict[str, Any]:
        order = self._find(call, UNKNOWN_ORDER)
        if not order.is_open:
            raise UNKNOWN_ORDER
        self._cancel(order)
        return {
            "algoId": order.algo_id,
            "clientAlgoId": order.client_algo_id,
            "code": "200",
            "msg": "success",
        }

    def cancel_all(self, call: Call) -> dict[str, Any]:
        instrument = self._desk.instrument(read.required(call.params, "symbol"))
        for order in list(self._waiting.values()):
            if order.api_key == call.api_key and order.instrument is instrument:
                self._cancel(order)
        return {"code": 200, "msg": "The operation of cancel all open order is done."}

    def open_orders(self, call: Call) -> list[dict[str, Any]]:
        symbol = call.params.get("symbol")
        instrument = self._desk.instrument(symbol) if symbol else None
        wanted_id = read.integer(call.params, "algoId")
        return [
            _query_row(order)
            for order in self._waiting.values()
            if order.api_key == call.api_key
            and instrument in (None, order.instrument)
            and wanted_id in (None, order.algo_id)
        ]

    def all_orders(self, call: Call) -> list[dict[str, Any]]:
        instrument = self._desk.instrument(read.required(call.params, "symbol"))
        first_id = read.integer(call.params, "algoId")
        span = read.span(call.params, first_id=first_id, longest_hours=HISTORY_HOURS)
        rows = [
            _query_row(order)
            for order in self._all.values()
            if order.api_key == call.api_key
            and order.instrument is instrument
            and order.algo_id >= (first_id or 0)
            and span.holds(order.created_ms)
        ]
        return span.cut(rows)

    # -- what the market does --------------------------------------------------------------

    def on_price(self, instrument: Instrument) -> None:
        price = self._desk.venue.price(instrument)
        for order in list(self._waiting.values()):
            if order.instrument is instrument and order.is_due(price):
                self._trigger(order)

    def on_order(self, order: Order) -> None:
        """Finish the algo order whose child has ended."""
        parent = self._by_child.get(order.order_id)
        if parent is not None and not order.status.is_open and parent.status == "TRIGGERED":
            self._set_status(parent, "FINISHED")

    def ledger_rows(self) -> list[dict[str, Any]]:
        return [_ledger_row(self._desk.venue.name, order) for order in self._all.values()]

    # -- inside ----------------------------------------------------------------------------

    def _trigger(self, order: AlgoOrder) -> None:
        del self._waiting[order.algo_id]
        order.triggered_ms = self._desk.now_ms()
        self._set_status(order, "TRIGGERING")
        quantity = order.quantity if order.quantity is not None else self._position_quantity(order)
        if quantity == 0:
            self._set_status(order, "EXPIRED")
            return
        try:
            order.child = self._desk.venue.place(self._request(order, quantity))
        except Refusal as refusal:
            order.reject_reason = REFUSALS[refusal.reason][1]
            self._set_status(order, "REJECTED")
            return
        self._by_child[order.child.order_id] = order
        self._set_status(order, "TRIGGERED")
        self.on_order(order.child)

    def _cancel(self, order: AlgoOrder) -> None:
        del self._waiting[order.algo_id]
        self._set_status(order, "CANCELED")

    def _set_status(self, order: AlgoOrder, status: str) -> None:
        order.status = status
        if status not in ("NEW", "TRIGGERING"):
            order.ended_ns = order.ended_ns or time.time_ns()
        order.updated_ms = self._desk.now_ms()
        self._tell(order)

    def _tell(self, order: AlgoOrder) -> None:
        hub, name = self._desk.hub, self._desk.venue.name
        if hub.has_listeners(name, order.api_key):
            mark = OrderMark(symbol_of(order.instrument), order.client_algo_id)
            hub.publish(name, order.api_key, _event(order, self._desk.now_ms()), mark)

    def _position_quantity(self, order: AlgoOrder) -> Decimal:
        """Return how much a close-position order closes now."""
        wallet = self._desk.venue.account(order.api_key).wallet
        assert isinstance(wallet, FuturesWallet)
        amount = wallet.position(order.instrument, order.position_side).amount
        closes = amount > 0 if order.side is Side.SELL else amount < 0
        return abs(amount) if closes else ZERO

    def _request(self, order: AlgoOrder, quantity: Decimal) -> OrderRequest:
        kind = OrderType.LIMIT if order.price is not None else OrderType.MARKET
        return OrderRequest(
            api_key=order.api_key,
            instrument=order.instrument,
            side=order.side,
            type=kind,
            client_order_id=order.client_algo_id,
            quantity=quantity,
            price=order.price,
            time_in_force=TIMES_IN_FORCE[order.time_in_force],
            reduce_only=order.reduce_only or order.quantity is None,
            position_side=order.position_side,
            wire={
                "type": kind.value,
                "timeInForce": order.time_in_force,
                "origType": order.kind,
                "parent": str(order.algo_id),
            },
            received_ns=order.received_ns,
        )

    def _read(self, call: Call) -> AlgoOrder:
        params = call.params
        instrument = self._desk.instrument(read.required(params, "symbol"))
        side = read.side(params)
        kind = read.required(params, "type")
        if read.required(params, "algoType") != "CONDITIONAL":
            raise WireError(400, -1130, "Data sent for parameter 'algoType' is not valid.")
        if kind not in KINDS:
            raise WireError(400, -1116, "Invalid orderType.")
        has_price = KINDS[kind][0]
        time_in_force = params.get("timeInForce") or "GTC"
        if time_in_force not in TIMES_IN_FORCE:
            raise WireError(400, -1115, "Invalid timeInForce.")
        quantity = _quantity(params, kind)
        position_side, reduce_only = self._orders.position_side(call.api_key, params, side)
        now_ms = self._desk.now_ms()
        return AlgoOrder(
            algo_id=next(self._ids),
            client_algo_id=client_id(params, "clientAlgoId"),
            api_key=call.api_key,
            instrument=instrument,
            side=side,
            position_side=position_side,
            kind=kind,
            time_in_force=time_in_force,
            quantity=quantity,
            price=read.required_decimal(params, "price") if has_price else None,
            trigger_price=read.required_decimal(params, "triggerPrice"),
            working_type=params.get("workingType") or "CONTRACT_PRICE",
            price_protect=read.flag(params, "priceProtect"),
            reduce_only=reduce_only,
            received_ns=call.received_ns,
            accepted_ns=time.time_ns(),
            created_ms=now_ms,
            updated_ms=now_ms,
        )

    def _check(self, order: AlgoOrder) -> None:
        """Raise `Refusal` if price or quantity are off the symbol's grid."""
        quantity = order.quantity if order.quantity is not None else order.instrument.min_quantity
        request = self._request(order, quantity)
        request.stop_price = order.trigger_price
        filters.check_request(request, quantity, self._desk.venue.price(order.instrument))

    def _find(self, call: Call, absent: WireError) -> AlgoOrder:
        algo_id = read.integer(call.params, "algoId") or read.integer(call.params, "algoid")
        name = call.params.get("clientAlgoId") or call.params.get("clientalgoid")
        if algo_id is None and not name:
            raise WireError(
                400, -1102, "Param 'algoid' or 'clientalgoid' must be sent, but both were empty/null!"
            )
        for order in reversed(self._all.values()):
            if order.api_key == call.api_key and (
                order.algo_id == algo_id if algo_id is not None else order.client_algo_id == name
            ):
                return order
        raise absent


def _quantity(params: Params, kind: str) -> Decimal | None:
    """Return the quantity, or None for an order that closes the position."""
    if not read.flag(params, "closePosition"):
        return read.required_decimal(params, "quantity")
    if not kind.endswith("_MARKET"):
        raise WireError(400, -4136, f"Target strategy invalid for orderType {kind},closePosition true")
    for name in ("quantity", "reduceOnly"):
        if params.get(name):
            raise WireError(400, -1106, f"Parameter '{name.lower()}' sent when not required.")
    return None


def _row(order: AlgoOrder) -> dict[str, Any]:
    instrument = order.instrument
    return {
        "algoId": order.algo_id,
        "clientAlgoId": order.client_algo_id,
        "algoType": "CONDITIONAL",
        "orderType": order.kind,
        "symbol": symbol_of(instrument),
        "side": order.side.value,
        "positionSide": order.position_side,
        "timeInForce": order.time_in_force,
        "quantity": quantity_text(instrument, order.quantity or ZERO),
        "algoStatus": order.status,
        "triggerPrice": price_text(instrument, order.trigger_price),
        "price": price_text(instrument, order.price),
        "icebergQuantity": None,
        "selfTradePreventionMode": STP_MODE,
        "workingType": order.working_type,
        "priceMatch": "NONE",
        "closePosition": order.quantity is None,
        "priceProtect": order.price_protect,
        "reduceOnly": order.reduce_only,
        "activatePrice": "",
        "callbackRate": "",
        "createTime": order.created_ms,
        "updateTime": order.updated_ms,
        "triggerTime": order.triggered_ms,
        "goodTillDate": 0,
    }


def _query_row(order: AlgoOrder) -> dict[str, Any]:
    child = order.child
    return _row(order) | {
        "actualOrderId": str(child.order_id) if child is not None else "",
        "actualPrice": f"{child.average_price if child is not None else ZERO:.5f}",
    }


def _event(order: AlgoOrder, now_ms: int) -> dict[str, Any]:
    instrument, child = order.instrument, order.child
    return {
        "e": "ALGO_UPDATE",
        "T": order.updated_ms,
        "E": now_ms,
        "o": {
            "caid": order.client_algo_id,
            "aid": order.algo_id,
            "at": "CONDITIONAL",
            "o": order.kind,
            "s": symbol_of(instrument),
            "S": order.side.value,
            "ps": order.position_side,
            "f": order.time_in_force,
            "q": quantity_text(instrument, order.quantity or ZERO),
            "X": order.status,
            "ai": str(child.order_id) if child is not None else "",
            "ap": f"{child.average_price if child is not None else ZERO:.5f}",
            "aq": quantity_text(instrument, child.filled if child is not None else ZERO),
            "act": child.type.value if child is not None else "0",
            "tp": price_text(instrument, order.trigger_price),
            "p": price_text(instrument, order.price),
            "V": STP_MODE,
            "wt": order.working_type,
            "pm": "NONE",
            "cp": order.quantity is None,
            "pP": order.price_protect,
            "R": order.reduce_only,
            "tt": order.triggered_ms,
            "gtd": 0,
            "rm": order.reject_reason,
        },
    }


def _ledger_row(exchange: str, order: AlgoOrder) -> dict[str, Any]:
    return {
        "exchange": exchange,
        "api_key": order.api_key,
        "symbol": order.instrument.name,
        "order_id": order.algo_id,
        "client_order_id": order.client_algo_id,
        "is_conditional": True,
        "parent_id": "",
        "child_order_id": order.child.order_id if order.child is not None else None,
        "side": order.side.value,
        "position_side": order.position_side,
        "type": order.kind,
        "time_in_force": order.time_in_force,
        "reduce_only": order.reduce_only,
        "status": order.status,
        "price": None if order.price is None else str(order.price),
        "stop_price": str(order.trigger_price),
        "quantity": None if order.quantity is None else str(order.quantity),
        "accepted_at": milliseconds(order.accepted_ns),
        "accepted_ns": order.accepted_ns,
        "ended_ns": order.ended_ns,
        "received_ns": order.received_ns,
        "created_ms": order.created_ms,
        "updated_ms": order.updated_ms,
    }
