"""Binance spot: how orders, fills and balances look on the wire. Source: fact sheet A4, A7.

Numbers are strings with eight decimals.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from exchanges.simulator.accounts import SpotWallet
from exchanges.simulator.dialects.binance.base import symbol_of
from exchanges.simulator.types import ZERO, Change, ExpiryReason, Fill, Order, OrderStatus, OrderType

Row = dict[str, Any]
STP_MODE = "EXPIRE_MAKER"


def number_text(number: Decimal | None) -> str:
    return f"{number or ZERO:.8f}"


def order_row(order: Order) -> Row:
    """Return an order as queries and open-order lists show it."""
    row: Row = {
        "symbol": symbol_of(order.instrument),
        "orderId": order.order_id,
        "orderListId": -1,
        "clientOrderId": order.client_order_id,
        "price": number_text(order.price),
        "origQty": number_text(order.quantity),
        "executedQty": number_text(order.filled),
        "cummulativeQuoteQty": number_text(order.filled_quote),
        "status": order.status.value,
        "timeInForce": order.wire["timeInForce"],
        "type": order.wire["type"],
        "side": order.side.value,
        "stopPrice": number_text(order.stop_price),
        "icebergQty": number_text(ZERO),
        "time": order.created_ms,
        "updateTime": order.updated_ms,
        "isWorking": not order.is_waiting_stop,
        "workingTime": order.working_ms or -1,
        "origQuoteOrderQty": order.wire.get("quoteOrderQty", number_text(ZERO)),
        "selfTradePreventionMode": STP_MODE,
    }
    if order.expiry_reason is not ExpiryReason.NONE:
        row["expiryReason"] = order.expiry_reason.value
    return row


def placed_row(order: Order, response_type: str) -> Row:
    """Return the answer to a placement: ACK, RESULT or FULL (with its fills)."""
    head: Row = {
        "symbol": symbol_of(order.instrument),
        "orderId": order.order_id,
        "orderListId": -1,
        "clientOrderId": order.client_order_id,
        "transactTime": order.updated_ms,
    }
    if response_type == "ACK":
        return head
    row = head | {
        "price": number_text(order.price),
        "origQty": number_text(order.quantity),
        "executedQty": number_text(order.filled),
        "origQuoteOrderQty": order.wire.get("quoteOrderQty", number_text(ZERO)),
        "cummulativeQuoteQty": number_text(order.filled_quote),
        "status": order.status.value,
        "timeInForce": order.wire["timeInForce"],
        "type": order.wire["type"],
        "side": order.side.value,
        "workingTime": order.working_ms or -1,
        "selfTradePreventionMode": STP_MODE,
    }
    if order.stop_price is not None:
        row["stopPrice"] = number_text(order.stop_price)
    if order.expiry_reason is not ExpiryReason.NONE:
        row["expiryReason"] = order.expiry_reason.value
    if response_type == "FULL":
        row["fills"] = [
            {
                "price": number_text(fill.price),
                "qty": number_text(fill.quantity),
                "commission": number_text(fill.fee),
                "commissionAsset": fill.fee_asset,
                "tradeId": fill.trade_id,
            }
            for fill in order.fills
        ]
    return row


def canceled_row(order: Order) -> Row:
    """Return the answer to a cancel: `clientOrderId` is the cancel's own id."""
    row: Row = {
        "symbol": symbol_of(order.instrument),
        "origClientOrderId": order.client_order_id,
        "orderId": order.order_id,
        "orderListId": -1,
        "clientOrderId": order.cancel_client_id,
        "transactTime": order.updated_ms,
        "price": number_text(order.price),
        "origQty": number_text(order.quantity),
        "executedQty": number_text(order.filled),
        "origQuoteOrderQty": order.wire.get("quoteOrderQty", number_text(ZERO)),
        "cummulativeQuoteQty": number_text(order.filled_quote),
        "status": order.status.value,
        "timeInForce": order.wire["timeInForce"],
        "type": order.wire["type"],
        "side": order.side.value,
        "selfTradePreventionMode": STP_MODE,
    }
    if order.stop_price is not None:
        row["stopPrice"] = number_text(order.stop_price)
    return row


def trade_row(order: Order, fill: Fill) -> Row:
    return {
        "symbol": symbol_of(order.instrument),
        "id": fill.trade_id,
        "orderId": order.order_id,
        "orderListId": -1,
        "price": number_text(fill.price),
        "qty": number_text(fill.quantity),
        "quoteQty": number_text(fill.price * fill.quantity),
        "commission": number_text(fill.fee),
        "commissionAsset": fill.fee_asset,
        "time": fill.time_ms,
        "isBuyer": order.side.value == "BUY",
        "isMaker": fill.is_maker,
        "isBestMatch": True,
    }


def execution_report(order: Order, change: Change, fill: Fill | None, now_ms: int, report_id: int) -> Row:
    """Return executionReport.

    On a cancel `c` is the id of the cancel request and `C` the order's own; else `C` is "".
    """
    is_cancel = change is Change.CANCELED
    at_ms = fill.time_ms if fill is not None else order.updated_ms
    row: Row = {
        "e": "executionReport",
        "E": now_ms,
        "s": symbol_of(order.instrument),
        "c": order.cancel_client_id if is_cancel else order.client_order_id,
        "S": order.side.value,
        "o": order.wire["type"],
        "f": order.wire["timeInForce"],
        "q": number_text(order.quantity),
        "p": number_text(order.price),
        "P": number_text(order.stop_price),
        "F": number_text(ZERO),
        "g": -1,
        "C": order.client_order_id if is_cancel else "",
        "x": _execution(order, change),
        "X": order.status.value,
        "r": "NONE",
        "i": order.order_id,
        "l": number_text(fill.quantity if fill is not None else ZERO),
        "z": number_text(order.filled),
        "L": number_text(fill.price if fill is not None else ZERO),
        "n": number_text(fill.fee) if fill is not None else "0",
        "N": fill.fee_asset if fill is not None else None,
        "T": at_ms,
        "t": fill.trade_id if fill is not None else -1,
        "I": report_id,
        "w": _is_on_book(order),
        "m": fill.is_maker if fill is not None else False,
        "M": fill is not None,
        "O": order.created_ms,
        "Z": number_text(order.filled_quote),
        "Y": number_text(fill.price * fill.quantity) if fill is not None else number_text(ZERO),
        "Q": order.wire.get("quoteOrderQty", number_text(ZERO)),
        "V": STP_MODE,
    }
    if order.working_ms:
        row["W"] = order.working_ms
    if order.expiry_reason is not ExpiryReason.NONE:
        row["eR"] = order.expiry_reason.value
    return row


def position_event(order: Order, wallet: SpotWallet, now_ms: int) -> Row:
    """Return outboundAccountPosition: the two assets that the order may have moved."""
    instrument = order.instrument
    return {
        "e": "outboundAccountPosition",
        "E": now_ms,
        "u": order.updated_ms,
        "B": [
            {
                "a": asset,
                "f": number_text(wallet.balance(asset).free),
                "l": number_text(wallet.balance(asset).locked),
            }
            for asset in (instrument.base, instrument.quote)
        ],
    }


def balance_rows(wallet: SpotWallet, *, omit_zero: bool) -> list[Row]:
    return [
        {"asset": asset, "free": number_text(balance.free), "locked": number_text(balance.locked)}
        for asset, balance in wallet.balances.items()
        if balance.free or balance.locked or not omit_zero
    ]


def _execution(order: Order, change: Change) -> str:
    if order.status is OrderStatus.EXPIRED_IN_MATCH:
        return "TRADE_PREVENTION"
    return "NEW" if change is Change.TRIGGERED else change.value


def _is_on_book(order: Order) -> bool:
    return order.status.is_open and not order.is_waiting_stop and order.type is OrderType.LIMIT
