"""Reads for people: what the live page shows. One query each, however many rows there are.

Units: quantities in base asset or contracts; prices, notionals and PnL in quote asset; all Decimal.
PnL is computed here, in Python: SQLite would do it in floating point.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from django.db.models import F, OuterRef, Q, QuerySet, Subquery

from exchanges.models import Instrument, LastPrice
from orders.listing import RESOLVING, EventRow, FailedRow, OpenOrderRow, PositionRow, TradeRow
from orders.models import (
    FailedOrder,
    FailedStatus,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    StrategyAccount,
    StrategyPosition,
    Trade,
)
from orders.states import OrderStatus

POSITIONS_SHOWN = 300
OPEN_ORDERS_SHOWN = 300
TRADES_SHOWN = 50
FAILED_SHOWN = 50
FLAT_SHOWN_FOR = timedelta(hours=24)  # a closed position stays in sight with what it earned
PRICE_FRESH_FOR = timedelta(seconds=62)  # prices are refreshed every 31 s at the latest: two misses are stale
RESOLVING_AFTER = timedelta(seconds=5)  # a submission normally answers long before


@dataclass(frozen=True, slots=True)
class Visible:
    """Whose rows a reader sees: one person's own, or with `user_id` None everybody's (staff)."""

    user_id: int | None
    strategy_account_id: int | None = None

    def rows(self) -> Q:
        """The condition for every table that has a `strategy_account`."""
        condition = Q()
        if self.user_id is not None:
            condition &= Q(strategy_account__strategy__user_id=self.user_id)
        if self.strategy_account_id is not None:
            condition &= Q(strategy_account_id=self.strategy_account_id)
        return condition

    def events(self) -> QuerySet[OrderEvent]:
        """The part of the event log that may be shown, in no particular order."""
        events = OrderEvent.objects.all()
        if self.user_id is not None:
            events = events.filter(user_id=self.user_id)
        if self.strategy_account_id is not None:
            # A stream's events name the account only.
            followed = StrategyAccount.objects.filter(pk=self.strategy_account_id).values("account_id")
            events = events.filter(
                Q(strategy_account_id=self.strategy_account_id)
                | Q(strategy_account_id=None, account_id__in=followed)
            )
        return events


def positions(visible: Visible, *, now: datetime) -> list[PositionRow]:
    """Open positions first, then those closed within the last day, each by strategy and symbol."""
    rows = StrategyPosition.objects.filter(visible.rows()).filter(
        ~Q(quantity=Decimal(0)) | Q(last_executed_at__gte=now - FLAT_SHOWN_FOR)
    )
    shown = _listed(rows).annotate(
        multiplier=_instrument("contract_multiplier"),
        quote=_instrument("quote_asset"),
        last_price=_last_price("price"),
        price_seen_at=_last_price("seen_at"),
    )
    shown = shown.order_by("strategy_name", "account_name", "symbol", "pk")[:POSITIONS_SHOWN]
    return sorted((_position_row(row, now=now) for row in shown), key=lambda row: row.is_flat)


def _position_row(row: Any, *, now: datetime) -> PositionRow:
    entry, last = row.average_price, row.last_price
    multiplier = Decimal(1) if row.multiplier is None else row.multiplier
    pnl = percent = None
    if row.quantity == 0:
        pnl = Decimal(0)
    elif entry is not None and last is not None:
        pnl = (last - entry) * row.quantity * multiplier
        cost = abs(entry * row.quantity * multiplier)
        percent = pnl / cost * 100 if cost else None
    return PositionRow(
        key=f"position-{row.pk}",
        symbol=row.symbol,
        market_type=row.market_type,
        quote_asset=row.quote or _quote_of(row.symbol),
        quantity=row.quantity,
        average_price=entry,
        last_price=last,
        last_price_is_stale=row.price_seen_at is not None and row.price_seen_at < now - PRICE_FRESH_FOR,
        unrealized_pnl=pnl,
        unrealized_percent=percent,
        realized_pnl=row.realized_pnl,
        **_whose(row),
    )


def open_orders(visible: Visible, *, now: datetime) -> list[OpenOrderRow]:
    """The newest first."""
    rows = OpenOrder.objects.filter(visible.rows()).select_related("intent", "placement")
    return [
        OpenOrderRow(
            key=f"order-{row.intent_id}",
            quantity=row.intent.quantity,
            filled_quantity=row.intent.filled_quantity,
            status=row.status,
            reduce_only=row.intent.reduce_only,
            client_order_id=row.placement.client_order_id,
            submitted_at=row.submitted_at,
            **_what(row.intent),
            **_whose(row),
        )
        for row in _listed(rows, "intent__").order_by("-intent_id")[:OPEN_ORDERS_SHOWN]
    ]


def recent_trades(visible: Visible, *, now: datetime) -> list[TradeRow]:
    """What the last orders did, the latest fill first."""
    rows = _listed(Trade.objects.filter(visible.rows())).annotate(quote=_instrument("quote_asset"))
    return [
        TradeRow(
            key=f"trade-{row.pk}",
            symbol=row.symbol,
            market_type=row.market_type,
            side=row.side,
            quantity=row.quantity,
            average_price=row.average_price,
            notional=row.notional,
            realized_pnl=row.realized_pnl,
            quote_asset=row.quote or _quote_of(row.symbol),
            fees=tuple(sorted((str(asset), str(fee)) for asset, fee in row.fees.items())),
            executed_at=row.last_executed_at,
            **_whose(row),
        )
        for row in rows.order_by("-last_executed_at", "-pk")[:TRADES_SHOWN]
    ]


def failed_orders(visible: Visible, *, now: datetime) -> list[FailedRow]:
    """Orders whose outcome is unknown for longer than it should be, then the latest failed ones."""
    return [*_resolving_orders(visible, now=now), *_failed_orders(visible)]


def _resolving_orders(visible: Visible, *, now: datetime) -> list[FailedRow]:
    rows = OpenOrder.objects.filter(visible.rows()).filter(
        status=OrderStatus.SUBMITTING, submitted_at__lt=now - RESOLVING_AFTER
    )
    rows = rows.select_related("intent", "placement")
    return [
        FailedRow(
            key=f"resolving-{row.intent_id}",
            quantity=row.intent.remaining_quantity,
            status=RESOLVING,
            reason="",
            exchange_error=row.placement.exchange_words,
            error_type="",
            retry_count=row.intent.retry_count,
            created_at=row.submitted_at,
            **_what(row.intent),
            **_whose(row),
        )
        for row in _listed(rows, "intent__").order_by("-intent_id")[:FAILED_SHOWN]
    ]


def _failed_orders(visible: Visible) -> list[FailedRow]:
    rows = FailedOrder.objects.filter(visible.rows()).exclude(status=FailedStatus.REMOVED)
    return [
        FailedRow(
            key=f"failed-{row.pk}",
            quantity=row.quantity,
            status=row.status,
            reason=row.reason,
            exchange_error=row.exchange_error,
            error_type=row.error_type,
            retry_count=row.retry_count,
            created_at=row.created_at,
            **_what(row),
            **_whose(row),
        )
        for row in _listed(rows).order_by("-pk")[:FAILED_SHOWN]
    ]


def event_rows(events: QuerySet[OrderEvent]) -> list[EventRow]:
    """Read lines of the log with what they speak of, in one query, in the order asked for."""
    rows = events.select_related("intent").annotate(
        strategy_name=F("strategy_account__strategy__group_name"), account_name=F("account__name")
    )
    return [_event_row(event) for event in rows]


def _event_row(event: Any) -> EventRow:
    # An order that was never ours has no intent: then the log itself says what it is.
    told = event.data if event.intent is None else _what(event.intent) | {"quantity": event.intent.quantity}
    return EventRow(
        id=event.pk,
        type=event.type,
        source=event.source,
        symbol=event.symbol,
        side=str(told.get("side") or ""),
        order_type=str(told.get("order_type") or ""),
        quantity=_decimal(told.get("quantity")),
        filled_quantity=_decimal(event.data.get("filled_quantity")),
        price=_decimal(told.get("price")),
        strategy=event.strategy_name or "",
        account=event.account_name or "",
        after=event.after,
        message=event.message,
        created_at=event.created_at,
    )


def strategy_accounts(user_id: int | None) -> QuerySet[StrategyAccount]:
    """The strategy accounts that a person may look at; None: all of them."""
    rows = StrategyAccount.objects.select_related("strategy__user", "account")
    if user_id is not None:
        rows = rows.filter(strategy__user_id=user_id)
    return rows.order_by("strategy__group_name", "account__name", "pk")


def _listed(rows: Any, order: str = "") -> Any:
    """Add whose a row is and its instrument's grid. `order` is the path to its symbol and market."""
    return rows.annotate(
        strategy_name=F("strategy_account__strategy__group_name"),
        account_name=F("strategy_account__account__name"),
        tick_size=_instrument("tick_size", order),
        lot_step=_instrument("lot_step", order),
    )


def _whose(row: Any) -> dict[str, Any]:
    return {
        "strategy": row.strategy_name,
        "account": row.account_name,
        "tick_size": row.tick_size,
        "lot_step": row.lot_step,
    }


def _what(order: OrderIntent | FailedOrder) -> dict[str, Any]:
    return {
        "symbol": order.symbol,
        "market_type": order.market_type,
        "side": order.side,
        "order_type": order.order_type,
        "price": order.price,
        "stop_price": order.stop_price,
    }


def _instrument(field: str, order: str = "") -> Subquery:
    return Subquery(Instrument.objects.filter(**_same_market(order)).order_by().values(field)[:1])


def _last_price(field: str) -> Subquery:
    return Subquery(LastPrice.objects.filter(**_same_market()).values(field)[:1])


def _same_market(order: str = "") -> dict[str, Any]:
    return {
        "exchange": OuterRef("strategy_account__account__exchange"),
        "environment": OuterRef("strategy_account__account__environment"),
        "market_type": OuterRef(f"{order}market_type"),
        "symbol": OuterRef(f"{order}symbol"),
    }


def _decimal(text: object) -> Decimal | None:
    try:
        return Decimal(str(text))
    except InvalidOperation:
        return None


def _quote_of(symbol: str) -> str:
    return symbol.rpartition("/")[2] if "/" in symbol else ""
