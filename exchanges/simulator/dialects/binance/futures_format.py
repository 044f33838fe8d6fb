"""Binance USDⓈ-M futures: how orders, fills and positions look on the wire.

Source: fact sheet B3 and B5. Numbers are strings with the symbol's own decimals.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from exchanges.simulator.dialects.binance.base import symbol_of
from exchanges.simulator.positions import FuturesWallet, Position
from exchanges.simulator.types import ZERO, ExpiryReason, Fill, Instrument, Order

Row = dict[str, Any]
STP_MODE = "EXPIRE_MAKER"
EXPIRY_CODES = {
    ExpiryReason.NONE: "0",
    ExpiryReason.SELF_TRADE: "1",
    ExpiryReason.IOC_REMAINDER: "2",
    ExpiryReason.FOK: "2",
    ExpiryReason.REDUCE_ONLY: "4",
    ExpiryReason.FUNDS: "4",
    ExpiryReason.MARKET_REMAINDER: "9",
}


def price_text(instrument: Instrument, price: Decimal | None) -> str:
    return f"{price or ZERO:.{instrument.price_precision}f}"


def quantity_text(instrument: Instrument, quantity: Decimal) -> str:
    return f"{quantity:.{instrument.quantity_precision}f}"


def money_text(amount: Decimal) -> str:
    return f"{amount:.8f}"


def order_row(order: Order) -> Row:
    """Return an order as queries and open-order lists show it."""
    instrument = order.instrument
    wire = order.wire
    return {
        "orderId": order.order_id,
        "symbol": symbol_of(instrument),
        "status": order.status.value,
        "clientOrderId": order.client_order_id,
        "price": price_text(instrument, order.price),
        "avgPrice": f"{order.average_price:.5f}",
        "origQty": quantity_text(instrument, order.quantity),
        "executedQty": quantity_text(instrument, order.filled),
        "cumQuote": money_text(order.filled_quote),
        "timeInForce": wire["timeInForce"],
        "type": wire["type"],
        "reduceOnly": order.reduce_only,
        "closePosition": False,
        "side": order.side.value,
        "positionSide": order.position_side,
        "stopPrice": price_text(instrument, ZERO),
        "workingType": "CONTRACT_PRICE",
        "priceProtect": False,
        "origType": wire.get("origType", wire["type"]),
        "priceMatch": "NONE",
        "selfTradePreventionMode": STP_MODE,
        "goodTillDate": 0,
        "time": order.created_ms,
        "updateTime": order.updated_ms,
    }


def placed_row(order: Order, response_type: str) -> Row:
    """Return the answer to a placement: ACK knows nothing of fills, RESULT does."""
    row = order_row(order)
    del row["time"]
    row["cumQty"] = row["executedQty"]
    if response_type == "ACK":
        nothing = quantity_text(order.instrument, ZERO)
        row |= {
            "status": "NEW",
            "avgPrice": "0.00000",
            "executedQty": nothing,
            "cumQty": nothing,
            "cumQuote": money_text(ZERO),
        }
    return row


def canceled_row(order: Order) -> Row:
    row = order_row(order)
    del row["time"], row["avgPrice"]
    row["cumQty"] = row["executedQty"]
    return row


def trade_row(order: Order, fill: Fill) -> Row:
    instrument = order.instrument
    return {
        "symbol": symbol_of(instrument),
        "id": fill.trade_id,
        "orderId": order.order_id,
        "side": order.side.value,
        "price": price_text(instrument, fill.price),
        "qty": quantity_text(instrument, fill.quantity),
        "realizedPnl": money_text(fill.realized_pnl),
        "quoteQty": money_text(fill.price * fill.quantity),
        "commission": money_text(fill.fee),
        "commissionAsset": fill.fee_asset,
        "time": fill.time_ms,
        "positionSide": order.position_side,
        "buyer": order.side.value == "BUY",
        "maker": fill.is_maker,
    }


def order_event(order: Order, execution: str, fill: Fill | None, now_ms: int) -> Row:
    """Return ORDER_TRADE_UPDATE; `execution` is its `x`."""
    instrument = order.instrument
    wire = order.wire
    details: Row = {
        "s": symbol_of(instrument),
        "c": order.client_order_id,
        "S": order.side.value,
        "o": wire["type"],
        "f": wire["timeInForce"],
        "q": quantity_text(instrument, order.quantity),
        "p": price_text(instrument, order.price),
        "ap": f"{order.average_price:.5f}",
        "sp": price_text(instrument, ZERO),
        "x": execution,
        "X": order.status.value,
        "i": order.order_id,
        "l": quantity_text(instrument, fill.quantity if fill is not None else ZERO),
        "z": quantity_text(instrument, order.filled),
        "L": price_text(instrument, fill.price if fill is not None else ZERO),
        "T": fill.time_ms if fill is not None else order.updated_ms,
        "t": fill.trade_id if fill is not None else 0,
        "b": "0",
        "a": "0",
        "m": fill.is_maker if fill is not None else False,
        "R": order.reduce_only,
        "wt": "CONTRACT_PRICE",
        "ot": wire.get("origType", wire["type"]),
        "ps": order.position_side,
        "cp": False,
        "rp": money_text(fill.realized_pnl) if fill is not None else "0",
        "pP": False,
        "si": 0,
        "ss": 0,
        "V": STP_MODE,
        "pm": "NONE",
        "gtd": 0,
        "er": EXPIRY_CODES[order.expiry_reason],
    }
    if fill is not None:
        details["n"] = money_text(fill.fee)
        details["N"] = fill.fee_asset
    return {"e": "ORDER_TRADE_UPDATE", "E": now_ms, "T": details["T"], "o": details}


def trade_lite_event(order: Order, fill: Fill, now_ms: int) -> Row:
    instrument = order.instrument
    return {
        "e": "TRADE_LITE",
        "E": now_ms,
        "T": fill.time_ms,
        "s": symbol_of(instrument),
        "q": quantity_text(instrument, order.quantity),
        "p": price_text(instrument, order.price),
        "m": fill.is_maker,
        "c": order.client_order_id,
        "S": order.side.value,
        "L": price_text(instrument, fill.price),
        "l": quantity_text(instrument, fill.quantity),
        "t": fill.trade_id,
        "i": order.order_id,
    }


def account_event(
    order: Order, wallet: FuturesWallet, position: Position, price: Decimal, now_ms: int
) -> Row:
    """Return ACCOUNT_UPDATE after a fill of `order`."""
    balance = money_text(wallet.balance)
    return {
        "e": "ACCOUNT_UPDATE",
        "E": now_ms,
        "T": order.updated_ms,
        "a": {
            "m": "ORDER",
            "B": [{"a": wallet.asset, "wb": balance, "cw": balance, "bc": "0"}],
            "P": [
                {
                    "s": symbol_of(order.instrument),
                    "pa": quantity_text(order.instrument, position.amount),
                    "ep": entry_text(position),
                    "bep": entry_text(position),
                    "cr": money_text(position.realized_pnl),
                    "up": money_text(position.unrealized_pnl(price)),
                    "mt": wallet.margin_types.get(order.instrument, "CROSSED").lower().removesuffix("ed"),
                    "iw": "0",
                    "ps": order.position_side,
                }
            ],
        },
    }


def entry_text(position: Position) -> str:
    return f"{position.entry_price:.8f}" if position.amount else "0.0"
