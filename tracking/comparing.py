"""What differs between the exchange's open orders and ours, of one account and market, at one moment.

The comparison itself is `differences.py`; here both sides are fetched for it. The network is asked outside
transactions, so both sides may move meanwhile: what changed here between the moments before and after the
list was fetched is left for the next run.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from django.db.models import Q

from exchanges import runtime
from exchanges.adapters.base import Exchange
from exchanges.adapters.exceptions import ExchangeError, InvalidSymbol
from exchanges.adapters.types import ListedOrder, OrderRef, OrderReport, UnreadableOrder
from exchanges.fields import plain
from orders.models import OpenOrder, Placement, StrategyPosition
from tracking.differences import Difference, Disagreement, OurOrder, differences
from tracking.watch import StreamKey

LIST_SECONDS = 30.0
SYMBOLS_AT_ONCE = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One of our placements as it stood at one moment; equal rows mean that nothing happened to it."""

    order: OurOrder
    ref: OrderRef
    counted: Decimal
    submitted_at: datetime
    updated_at: datetime | None = None
    not_found_count: int = 0

    def may_be(self, listed: UnreadableOrder) -> bool:
        ours = self.order
        return listed.is_about(ours.symbol, ours.client_order_id, ours.exchange_order_id, ours.child_order_id)


@dataclass(frozen=True, slots=True)
class Compared:
    """`unread`: our open placements that the list names in a row that nobody could read.

    `absent`: those that are open here, sent for sure, and not in the list at all.
    `symbols`: those that were listed, None: all; `errors`: why others could not be.
    """

    differences: list[Difference]
    rows: dict[int, Row]
    unreadable: list[UnreadableOrder]
    unread: set[int]
    absent: set[int]
    symbols: Collection[str] | None = None
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PositionDifference:
    symbol: str
    here: Decimal
    there: Decimal

    def __str__(self) -> str:
        return f"{self.symbol}: position {plain(self.here)} here, {plain(self.there)} there"


def account_compare(key: StreamKey, exchange: Exchange, symbols: Collection[str] | None) -> Compared:
    """Return what differs, without what changed here while the list was on its way, and our rows.

    `symbols`: to be asked for one by one; None: everything at once.
    """
    before = _open_here(key)
    listed, unasked = runtime.run(_lists(exchange, symbols), timeout=LIST_SECONDS)
    if symbols is not None:
        symbols = set(symbols) - unasked.keys()
    theirs = [one for one in listed if isinstance(one, OrderReport)]
    unreadable = [one for one in listed if isinstance(one, UnreadableOrder)]
    rows = _open_here(key)
    unread = {
        pk for pk, row in rows.items() if before.get(pk) == row and any(row.may_be(one) for one in unreadable)
    }
    ended = _named_by(key, theirs, rows)
    found = differences(theirs, [row.order for row in (rows | ended).values()])
    absent = {
        one.ours.placement_id
        for one in found
        if one.ours is not None and one.kind is Disagreement.NOT_OPEN_THERE
    } - unread

    def is_settled(difference: Difference) -> bool:
        ours = difference.ours
        if ours is None:
            return True
        if symbols is not None and ours.symbol not in symbols:
            return False  # not listed, or its book has come to matter since
        if difference.kind is Disagreement.NOT_OPEN_THERE and ours.placement_id not in absent:
            return False  # it is there: how it stands, only the order itself can tell
        return before.get(ours.placement_id) == rows.get(ours.placement_id)

    settled = [one for one in found if is_settled(one)]
    # What is traded no more is no fault: whole lists show what is left of it.
    errors = [f"{symbol}: {exc}" for symbol, exc in unasked.items() if not isinstance(exc, InvalidSymbol)]
    return Compared(settled, rows | ended, unreadable, unread, absent, symbols, errors)


async def _lists(
    exchange: Exchange, symbols: Collection[str] | None
) -> tuple[list[ListedOrder], dict[str, ExchangeError]]:
    """Return what is listed, and for which symbols nobody could tell. Raises ExchangeError if for none."""
    if symbols is None:
        return await exchange.fetch_open_orders(), {}
    gate = asyncio.Semaphore(SYMBOLS_AT_ONCE)
    unasked: dict[str, ExchangeError] = {}

    async def one(symbol: str) -> list[ListedOrder]:
        async with gate:
            try:
                return await exchange.fetch_open_orders(symbol)
            except ExchangeError as exc:
                unasked[symbol] = exc
                return []

    lists = await asyncio.gather(*map(one, symbols))
    refused = [error for error in unasked.values() if not isinstance(error, InvalidSymbol)]
    if refused and len(refused) == len(symbols):
        raise refused[0]
    return [report for listed in lists for report in listed], unasked


def _open_here(key: StreamKey) -> dict[int, Row]:
    orders = OpenOrder.objects.filter(
        account_id=key.account_id, book__market_type=key.market_type
    ).select_related("placement__intent")
    return {order.placement_id: row_of(order.placement, status=order.status, order=order) for order in orders}


def _named_by(key: StreamKey, theirs: Sequence[OrderReport], rows: dict[int, Row]) -> dict[int, Row]:
    """Return our placements that their list names although they are not open here."""
    open_here = {row.order.client_order_id for row in rows.values()}
    strange = [report for report in theirs if report.client_order_id not in open_here]
    if not strange:
        return {}
    clients = {report.client_order_id for report in strange} - {""}
    names = {report.exchange_order_id for report in strange} - {""}
    ended = (
        Placement.objects.filter(account_id=key.account_id, intent__market_type=key.market_type)
        .filter(
            Q(client_order_id__in=clients)
            | (Q(exchange_order_id__in=names) & ~Q(exchange_order_id=""))
            | (Q(child_order_id__in=names) & ~Q(child_order_id=""))
        )
        .exclude(pk__in=rows)
        .select_related("intent")
    )
    return {placement.pk: row_of(placement, status=placement.exchange_status) for placement in ended}


def row_of(placement: Placement, *, status: str, order: OpenOrder | None = None) -> Row:
    return Row(
        order=OurOrder(
            placement_id=placement.pk,
            symbol=placement.intent.symbol,
            client_order_id=placement.client_order_id,
            exchange_order_id=placement.exchange_order_id,
            child_order_id=placement.child_order_id,
            status=status,
            booked=placement.filled_quantity,
            is_open=order is not None,
            is_conditional=placement.intent.is_stop,
        ),
        ref=placement.to_ref(),
        counted=placement.exchange_filled_quantity,
        submitted_at=placement.created_at,
        updated_at=None if order is None else order.updated_at,
        not_found_count=0 if order is None else order.not_found_count,
    )


def positions_compare(key: StreamKey, exchange: Exchange) -> list[PositionDifference]:
    """Compare the sum of our strategies' positions with the account's, where a market has positions."""
    if not exchange.capabilities.leverage:
        return []  # a spot balance is no position: deposits and other coins are in it
    theirs: dict[str, Decimal] = defaultdict(Decimal)
    for position in runtime.run(exchange.fetch_positions(), timeout=LIST_SECONDS):
        theirs[position.symbol] += position.quantity
    ours: dict[str, Decimal] = defaultdict(Decimal)
    mine = StrategyPosition.objects.filter(account_id=key.account_id, market_type=key.market_type)
    for symbol, quantity in mine.values_list("symbol", "quantity"):
        ours[symbol] += quantity
    return [
        PositionDifference(symbol, ours[symbol], theirs[symbol])
        for symbol in sorted({*ours, *theirs})
        if ours[symbol] != theirs[symbol]
    ]


def ended_rows(key: StreamKey, placement_ids: Collection[int]) -> list[Row]:
    if not placement_ids:
        return []
    placements = Placement.objects.filter(pk__in=placement_ids, account_id=key.account_id)
    return [
        row_of(placement, status=placement.exchange_status)
        for placement in placements.select_related("intent", "account")
    ]
