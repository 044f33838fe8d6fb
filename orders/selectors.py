"""Reads for people: what the live page shows. One query each, however many rows there are.

Units: quantities in base asset or contracts; prices, notionals and PnL in quote asset; all Decimal.
PnL is computed here, in Python: SQLite would do it in floating point.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from django.db.models import Case, OuterRef, Q, QuerySet, Subquery, Value, When
from django.db.models.functions import Now

from exchanges.models import Instrument, LastPrice
from orders.listing import EventRow, OpenOrderRow, PositionRow, StopRow, TradeRow
from orders.models import (
    LossTrip,
    OpenOrder,
    OrderEvent,
    StrategyAccount,
    StrategyPosition,
    Trade,
)

POSITIONS_SHOWN = 300
OPEN_ORDERS_SHOWN = 300
TRADES_SHOWN = 50
STOPS_SHOWN = 20
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

    def holds(self) -> Case:
        """`rows` as a column: whether the reader may see a row that is read for another reason."""
        condition = self.rows()
        return (
            Case(When(condition, then=Value(True)), default=Value(False))
            if condition
            else Case(default=Value(True))
        )

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
    told = read(
        rows.order_by("strategy_account__strategy__group_name", "account__name", "symbol", "pk"),
        limit=POSITIONS_SHOWN,
        pk="pk",
        symbol="symbol",
        market_type="market_type",
        quantity="quantity",
        average_price="average_price",
        realized_pnl="realized_pnl",
        quote_asset=instrument_of("quote_asset"),
        multiplier=instrument_of("contract_multiplier"),
        last_price=last_price_of("price"),
        seen_at=last_price_of("seen_at"),
        **whose(),
    )
    return sorted((_position_row(row, now=now) for row in told), key=lambda row: row.is_flat)


def _position_row(told: dict[str, Any], *, now: datetime) -> PositionRow:
    pk, multiplier, seen_at = told.pop("pk"), told.pop("multiplier"), told.pop("seen_at")
    quantity, entry, last = told["quantity"], told["average_price"], told["last_price"]
    told["quote_asset"] = told["quote_asset"] or _quote_of(told["symbol"])
    pnl = percent = None
    if quantity == 0:
        pnl = Decimal(0)
    elif entry is not None and last is not None:
        contracts = quantity * (Decimal(1) if multiplier is None else multiplier)
        pnl = (last - entry) * contracts
        cost = abs(entry * contracts)
        percent = pnl / cost * 100 if cost else None
    return PositionRow(
        key=f"position-{pk}",
        last_price_is_stale=seen_at is not None and seen_at < now - PRICE_FRESH_FOR,
        unrealized_pnl=pnl,
        unrealized_percent=percent,
        **told,
    )


def open_orders(visible: Visible, *, now: datetime) -> list[OpenOrderRow]:
    """The newest first."""
    told = read(
        OpenOrder.objects.filter(visible.rows()).order_by("-intent_id"),
        limit=OPEN_ORDERS_SHOWN,
        pk="intent_id",
        quantity="intent__quantity",
        filled_quantity="intent__filled_quantity",
        reduce_only="intent__reduce_only",
        status="status",
        client_order_id="placement__client_order_id",
        submitted_at="submitted_at",
        **what("intent__"),
        **whose("intent__"),
    )
    return [OpenOrderRow(key=f"order-{row.pop('pk')}", **row) for row in told]


def recent_trades(visible: Visible, *, now: datetime) -> list[TradeRow]:
    """What the last orders did, the latest fill first."""
    told = read(
        Trade.objects.filter(visible.rows()).order_by("-last_executed_at", "-pk"),
        limit=TRADES_SHOWN,
        pk="pk",
        symbol="symbol",
        market_type="market_type",
        side="side",
        quantity="quantity",
        average_price="average_price",
        notional="notional",
        realized_pnl="realized_pnl",
        quote_asset=instrument_of("quote_asset"),
        fees="fees",
        executed_at="last_executed_at",
        **whose(),
    )
    for row in told:
        row["key"] = f"trade-{row.pop('pk')}"
        row["quote_asset"] = row["quote_asset"] or _quote_of(row["symbol"])
        row["fees"] = tuple(sorted((str(asset), str(fee)) for asset, fee in row["fees"].items()))
    return [TradeRow(**row) for row in told]


def event_rows(events: QuerySet[OrderEvent], *, limit: int) -> list[EventRow]:
    """Read lines of the log with what they speak of, in one query, in the order asked for."""
    told = read(
        events,
        limit=limit,
        id="id",
        type="type",
        source="source",
        symbol="symbol",
        side="intent__side",
        order_type="intent__order_type",
        quantity="intent__quantity",
        price="intent__price",
        strategy="strategy_account__strategy__group_name",
        account="account__name",
        after="after",
        message="message",
        data="data",
        created_at="created_at",
    )
    return [_event_row(row) for row in told]


def _event_row(told: dict[str, Any]) -> EventRow:
    data = told.pop("data")
    if told["side"] is None:  # an order that was never ours has no intent: the log itself says what it is
        told |= {name: str(data.get(name) or "") for name in ("side", "order_type")}
        told |= {name: _decimal(data.get(name)) for name in ("quantity", "price")}
    told |= {name: told[name] or "" for name in ("strategy", "account")}
    return EventRow(filled_quantity=_decimal(data.get("filled_quantity")), **told)


def strategy_accounts(user_id: int | None) -> QuerySet[StrategyAccount]:
    """The strategy accounts that a person may look at; None: all of them."""
    rows = StrategyAccount.objects.select_related("strategy__user", "account")
    if user_id is not None:
        rows = rows.filter(strategy__user_id=user_id)
    return rows.order_by("strategy__group_name", "account__name", "pk")


# --- columns: for the selectors of this room ---------------------------------------------------------


def read(rows: QuerySet[Any], *, limit: int, **columns: str | Subquery) -> list[dict[str, Any]]:
    """Read just these columns, without making models of them: it is done for every look of every page."""
    names = tuple(columns)
    return [dict(zip(names, values, strict=True)) for values in rows.values_list(*columns.values())[:limit]]


def whose(order: str = "") -> dict[str, str | Subquery]:
    """Whose a row is, and its instrument's grid. `order` is the path to its symbol and market."""
    return {
        "strategy": "strategy_account__strategy__group_name",
        "account": "strategy_account__account__name",
        "tick_size": instrument_of("tick_size", order),
        "lot_step": instrument_of("lot_step", order),
    }


def what(order: str = "") -> dict[str, str]:
    names = ("symbol", "market_type", "side", "order_type", "price", "stop_price")
    return {name: order + name for name in names}


def instrument_of(field: str, order: str = "") -> Subquery:
    return Subquery(Instrument.objects.filter(**_same_market(order)).order_by().values(field)[:1])


def last_price_of(field: str, order: str = "") -> Subquery:
    return Subquery(LastPrice.objects.filter(**_same_market(order)).values(field)[:1])


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


def held_trips() -> QuerySet[LossTrip]:
    """The trip that keeps a strategy account (the outer query's) from opening positions now."""
    holding = Q(ends_at__isnull=True) | Q(ends_at__gt=Now())
    return LossTrip.objects.filter(
        holding, strategy_account=OuterRef("pk"), resumed_at__isnull=True
    ).order_by("-pk")


def stops(visible: Visible, *, now: datetime) -> list[StopRow]:
    """The loss guards that hold, the newest first."""
    holding = Q(ends_at__isnull=True) | Q(ends_at__gt=now)
    rows = LossTrip.objects.filter(visible.rows(), holding, resumed_at__isnull=True).order_by("-pk")
    told = read(
        rows,
        limit=STOPS_SHOWN,
        pk="pk",
        kind="kind",
        limit_value="limit",
        value="value",
        tripped_at="tripped_at",
        ends_at="ends_at",
        strategy="strategy_account__strategy__group_name",
        account="strategy_account__account__name",
    )
    return [StopRow(key=f"stop-{row.pop('pk')}", limit=row.pop("limit_value"), **row) for row in told]
