"""What stands in books: every open order and the best waiting ones, read for planning.

One query on PostgreSQL, two on SQLite, however many books there are and however long their queues: of
each side and lane no more than its cap is read, along the index that has them in rank order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import reduce
from operator import or_

from django.conf import settings
from django.db import connection
from django.db.models import Q

from exchanges.adapters.types import OrderType, Side
from orders import config, prepared
from orders.models import Book, CancelReason, OpenOrder, PendingOrder
from orders.models.open_order import MOVED_BACK
from orders.planning import (
    LANE_OF,
    MARKET_PRIORITY,
    Candidate,
    Caps,
    Lane,
    Standing,
    as_seen,
    caps_for,
    priority_of,
    sort_price_of,
)
from orders.services.switches import stopped_by_account
from orders.statements import array_text
from orders.states import OrderStatus

LEFT_THERE_FOR = timedelta(seconds=10)
SLICES = tuple((side.value, priority) for side in Side for priority in LANE_OF)


@dataclass(slots=True)
class BookState:
    """A locked book as the planner needs it. `retries`: intents that a person sent into the queue."""

    book: Book
    caps: Caps
    external: dict[Lane, int]
    orders: list[Candidate] = field(default_factory=list)
    retries: set[int] = field(default_factory=set)

    def resting(self, lane: Lane) -> int:
        """How many orders hold a slot of this lane, those of others too."""
        return self.external[lane] + sum(not one.waits and one.lane is lane for one in self.orders)


def book_states(books: Iterable[Book], *, version: int, now: datetime) -> dict[int, BookState]:
    """Read the states of locked books. Orders of strategies and accounts that are switched off do not wait.

    `version`: of the configuration; whoever writes what follows checks that it is still the same.
    """
    states = {
        book.pk: BookState(book, _caps(book, version=version, now=now), _external(book)) for book in books
    }
    stopped = stopped_by_account(version=version)
    off = {
        pk
        for account_id in {state.book.account_id for state in states.values()}
        for pk in stopped.get(account_id, ())
    }
    if not states:
        return states
    for row in _read(states, off):
        state = states[row.book_id]
        if row.priority == MARKET_PRIORITY:
            continue  # takes no slot of a lane
        state.orders.append(row.candidate(now))
        if row.is_retry:
            state.retries.add(row.intent_id)
    return states


def _external(book: Book) -> dict[Lane, int]:
    return {Lane.LIMIT: book.external_limit_orders, Lane.STOP: book.external_stop_orders}


def _caps(book: Book, *, version: int, now: datetime) -> Caps:
    account = book.account
    key = account.exchange, account.environment, book.market_type
    instrument = config.instrument_table(key, version=version).by_symbol.get(book.symbol)
    caps = caps_for(
        default_limit=settings.QUEUE_LIMIT_CAP,
        limit=account.queue_limit_cap,
        stop=account.queue_stop_cap,
        total=account.queue_total_cap,
        exchange_limit=instrument.max_open_orders if instrument else None,
        exchange_stop=instrument.max_conditional_orders if instrument else None,
    )
    limit = as_seen(caps.limit, book.limit_fits, book.limit_fits_until, now)
    return Caps(limit, as_seen(caps.stop, book.stop_fits, book.stop_fits_until, now), caps.total)


# --- reading ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    book_id: int
    intent_id: int
    side: str
    order_type: str
    price: Decimal | None
    stop_price: Decimal | None
    created_at: datetime
    is_queued: bool
    status: str  # empty: waiting
    cancel_reason: str
    cancel_requested: bool
    filled: Decimal | None  # as the exchange counts
    child_order_id: str
    updated_at: datetime
    # What waits has its rank beside it; of an open order they are computed.
    waiting_priority: int | None = None
    waiting_sort_price: Decimal | None = None
    is_retry: bool = False

    @property
    def priority(self) -> int:
        return self.waiting_priority or priority_of(OrderType(self.order_type))

    def candidate(self, now: datetime) -> Candidate:
        side, sort_price = Side(self.side), self.waiting_sort_price
        if sort_price is None:
            order_type = OrderType(self.order_type)
            sort_price = sort_price_of(order_type, side, price=self.price, stop_price=self.stop_price)
        standing = self._standing(now)
        return Candidate(self.intent_id, side, self.priority, sort_price, self.created_at, standing)

    def _standing(self, now: datetime) -> Standing:
        if not self.status:
            return Standing.WAITING
        if self.status == OrderStatus.CANCELING and self._comes_back:
            return Standing.RETURNING
        if self.status == OrderStatus.CANCELING or (
            self.cancel_requested and self.status != OrderStatus.SUBMITTING
        ):
            return Standing.LEAVING
        untouched = self.status == OrderStatus.NEW and not self.filled and not self.child_order_id
        movable = untouched and self.is_queued and not self._was_left_there(now)
        return Standing.RESTING if movable else Standing.FIXED

    def _was_left_there(self, now: datetime) -> bool:
        """It was to be moved back, and lives: a cancel that is refused is not sent again at once."""
        return self.cancel_reason == CancelReason.REFUSED and self.updated_at > now - LEFT_THERE_FOR

    @property
    def _comes_back(self) -> bool:
        return self.cancel_reason in MOVED_BACK and not self.cancel_requested and self.is_queued


OPEN_COLUMNS = (
    "book_id",
    "intent_id",
    "intent__side",
    "intent__order_type",
    "intent__price",
    "intent__stop_price",
    "intent__created_at",
    "intent__is_queued",
    "status",
    "cancel_reason",
    "intent__cancel_requested",
    "placement__exchange_filled_quantity",
    "placement__child_order_id",
    "updated_at",
)
WAITING_COLUMNS = ("book_id", "intent_id", "side", "created_at", "priority", "sort_price", "is_retry")

# Written out, because the ORM has no LATERAL: each slice of each book stops after its cap. The inner LIMIT
# is a number that the planner sees: without it it reckons with a tenth of the queue, and sorts all of it.
# An open order's intent and placement are looked up one by one: joined, they are merged with the index of
# all intents that there ever were, as soon as an old order rests beside a new one.
_SQL = """
SELECT o.book_id, o.intent_id, i.side, i.order_type, i.price, i.stop_price, i.created_at, i.is_queued,
       o.status, o.cancel_reason, i.cancel_requested, p.exchange_filled_quantity, p.child_order_id,
       o.updated_at, NULL, NULL, FALSE
  FROM orders_openorder o
 CROSS JOIN LATERAL (SELECT * FROM orders_orderintent WHERE id = o.intent_id LIMIT 1) i
 CROSS JOIN LATERAL (SELECT * FROM orders_placement WHERE id = o.placement_id LIMIT 1) p
 WHERE o.book_id = ANY(%s::bigint[])
UNION ALL
SELECT w.book_id, w.intent_id, w.side, '', NULL, NULL, w.created_at, TRUE, '', '', FALSE, NULL, '',
       w.created_at, w.priority, w.sort_price, w.is_retry
  FROM unnest(%s::bigint[], %s::text[], %s::smallint[], %s::int[]) AS s(book_id, side, priority, most)
 CROSS JOIN LATERAL (
       SELECT r.* FROM (
              SELECT q.book_id, q.intent_id, q.side, q.created_at, q.priority, q.sort_price, q.is_retry
                FROM orders_pendingorder q
               WHERE q.book_id = s.book_id AND q.side = s.side AND q.priority = s.priority
                 AND q.waits_until IS NULL AND q.strategy_account_id <> ALL(%s::bigint[])
               ORDER BY q.sort_price DESC, q.created_at, q.intent_id
               LIMIT :most) r
        LIMIT s.most) w
"""


def _slices(states: Mapping[int, BookState]) -> Iterator[tuple[int, str, int, int]]:
    for pk, state in states.items():
        for side, priority in SLICES:
            yield pk, side, priority, state.caps.of(LANE_OF[priority])


def _read(states: Mapping[int, BookState], off: Collection[int]) -> list[_Row]:
    if connection.vendor != "postgresql":
        return _read_simply(states, off)
    columns = [list(column) for column in zip(*_slices(states), strict=True)]
    sql = _SQL.replace(":most", str(max(columns[3])))
    values = [array_text(column) for column in (states, *columns, off)]
    return [_Row(*row) for row in prepared.rows(sql, values)]


def _read_simply(states: Mapping[int, BookState], off: Collection[int]) -> list[_Row]:
    open_orders = OpenOrder.objects.filter(book_id__in=states).values_list(*OPEN_COLUMNS)
    rows = [_Row(*row) for row in open_orders]
    best = [Q(pk__in=_best(one, off)) for one in _slices(states)]
    waiting = PendingOrder.objects.filter(reduce(or_, best)).values_list(*WAITING_COLUMNS)
    return rows + [_waiting(*row) for row in waiting]


def _waiting(
    book_id: int,
    intent_id: int,
    side: str,
    created_at: datetime,
    priority: int,
    sort_price: Decimal,
    is_retry: bool,
) -> _Row:
    what = book_id, intent_id, side, "", None, None, created_at
    return _Row(*what, True, "", "", False, None, "", created_at, priority, sort_price, is_retry)


def _best(one: tuple[int, str, int, int], off: Collection[int]) -> Sequence[int]:
    book_id, side, priority, most = one
    waiting = PendingOrder.objects.filter(
        book_id=book_id, side=side, priority=priority, waits_until__isnull=True
    ).exclude(strategy_account_id__in=off)
    return waiting.order_by("-sort_price", "created_at", "pk").values_list("pk", flat=True)[:most]  # type: ignore[return-value]
