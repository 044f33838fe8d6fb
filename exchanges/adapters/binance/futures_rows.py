"""Reading Binance futures' rows: orders of both lives, balances and positions, in our words.

An algo order and the child that it has become are one order here, under the algo order's name: see
`futures.py`, which asks for them.

Units:  quantity in base asset, price in quote asset, both Decimal; wire times are ms.
Source: Binance Open Platform "USDⓈ-M Futures", Trade and Account; "New Algo Order" (since 2025-12-09).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from exchanges.adapters.binance.words import (
    ALGO_STATUS,
    FUTURES_TYPE,
    ORDER_STATUS,
    Row,
    identifier,
    moment,
    number,
)
from exchanges.adapters.types import (
    Balance,
    ListedOrder,
    MarketType,
    OrderRef,
    OrderReport,
    Side,
    UnreadableOrder,
    VenuePosition,
)


def report_of(row: Row, symbol: str) -> OrderReport:
    return _algo_report(row, symbol) if "algoId" in row else _plain_report(row, symbol)


def _plain_report(row: Row, symbol: str) -> OrderReport:
    when = row.get("updateTime") or row.get("time")
    return OrderReport(
        market_type=MarketType.FUTURES,
        symbol=symbol,
        exchange_order_id=identifier(row["orderId"]),
        client_order_id=row["clientOrderId"],
        status=ORDER_STATUS[row["status"]],
        side=Side(row["side"]),
        order_type=FUTURES_TYPE.get(row["type"]),
        quantity=Decimal(row["origQty"]),
        price=number(row["price"]),
        stop_price=number(row.get("stopPrice") or 0),
        filled_quantity=Decimal(row["executedQty"]),
        average_price=number(row.get("avgPrice") or 0),
        reduce_only=bool(row.get("reduceOnly", False)),
        updated_at=moment(when) if when else None,
        raw=dict(row),
    )


def _algo_report(row: Row, symbol: str) -> OrderReport:
    child_id = identifier(row["actualOrderId"]) if row.get("actualOrderId") else ""
    status, is_triggered = ALGO_STATUS[row["algoStatus"]]
    when = row.get("updateTime") or row.get("createTime")
    return OrderReport(
        market_type=MarketType.FUTURES,
        symbol=symbol,
        exchange_order_id=identifier(row["algoId"]),
        client_order_id=row["clientAlgoId"],
        status=status,
        side=Side(row["side"]),
        order_type=FUTURES_TYPE.get(row["orderType"]),
        quantity=number(row["quantity"]),  # 0 where it closes the whole position
        price=number(row.get("price") or 0),
        stop_price=number(row.get("triggerPrice") or 0),
        # The child's fills stand with the child: what this row says of them is nothing.
        filled_quantity=None if child_id or is_triggered else Decimal(0),
        conditional=True,
        triggered=is_triggered or bool(child_id),
        child_order_id=child_id,
        reduce_only=bool(row.get("reduceOnly", False)),
        reason=str(row.get("failReason") or ""),
        updated_at=moment(when) if when else None,
        raw=dict(row),
    )


def canceled_algo_report(body: Row, ref: OrderRef) -> OrderReport:
    """A cancelled algo order: it waited until the end, so nothing of it was filled."""
    return OrderReport(
        market_type=MarketType.FUTURES,
        symbol=ref.symbol,
        exchange_order_id=identifier(body["algoId"]),
        client_order_id=body["clientAlgoId"],
        status=ORDER_STATUS["CANCELED"],
        filled_quantity=Decimal(0),
        conditional=True,
        raw=dict(body),
    )


def merged(parent: OrderReport, child: OrderReport) -> OrderReport:
    """The child's fate under the name of the algo order that it came from."""
    return replace(
        child,
        exchange_order_id=parent.exchange_order_id,
        client_order_id=parent.client_order_id,
        order_type=parent.order_type,
        stop_price=parent.stop_price,
        conditional=True,
        triggered=True,
        child_order_id=child.exchange_order_id,
    )


def as_parent(child: OrderReport, ref: OrderRef) -> OrderReport:
    return replace(
        child,
        exchange_order_id=ref.exchange_order_id or child.exchange_order_id,
        client_order_id=ref.client_order_id or child.client_order_id,
        conditional=True,
        triggered=True,
        child_order_id=child.exchange_order_id,
    )


def lists_merged(plain: Sequence[ListedOrder], algo: Sequence[ListedOrder]) -> list[ListedOrder]:
    """One list of both kinds, in which a triggered order stands once, as its child is."""
    children = {one.exchange_order_id: one for one in plain if isinstance(one, OrderReport)}
    orders = []
    for parent in algo:
        if isinstance(parent, UnreadableOrder):
            continue
        child = children.pop(parent.child_order_id, None) if parent.child_order_id else None
        orders.append(merged(parent, child) if child is not None else parent)
    unreadable = [one for one in (*plain, *algo) if isinstance(one, UnreadableOrder)]
    return [*children.values(), *orders, *unreadable]


def balance(row: Row) -> Balance:
    total, free = Decimal(row["balance"]), Decimal(row["availableBalance"])
    return Balance(row["asset"], free, max(Decimal(0), total - free))


def position(row: Row, symbol: str) -> VenuePosition:
    leverage = row.get("leverage")  # left out since v3
    return VenuePosition(
        symbol=symbol,
        quantity=Decimal(row["positionAmt"]),
        entry_price=Decimal(row["entryPrice"]),
        unrealized_pnl=Decimal(row["unRealizedProfit"]),
        leverage=int(leverage) if leverage else None,
    )
