"""What waits in the queue, as people are shown it: the heads of the lines, however long they are.

Four queries, whatever there is: the books, their best orders (a few index ranges in one statement), those
that are put off, and the details of what is shown. Nothing here reads more of a line than it shows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db.models import F, IntegerField, OuterRef, QuerySet, Subquery

from exchanges.adapters.types import STOP_TYPES, OrderType, Side
from exchanges.models import Instrument
from orders.listing import MANY_WAITING, BookRow, WaitingRow
from orders.models import Book, OpenOrder, PendingOrder
from orders.planning import LANE_OF, Candidate, Caps, Lane, Standing, caps_for, in_turn
from orders.selectors import Visible, read, what, whose

BOOKS_SHOWN = 60
WAITING_SHOWN = 300  # altogether, and …
SHOWN_PER_LANE = 50  # … at most as many per book and lane
FEWEST_PER_LANE = 5


@dataclass(frozen=True, slots=True)
class _Place:
    intent_id: int
    lane: Lane
    place: int | None  # None: put off


class _CountUpTo(Subquery):
    """How many rows a sliced query has: counting stops where the slice ends."""

    template = "(SELECT count(*) FROM (%(subquery)s) AS counted)"
    output_field = IntegerField()


def waiting_orders(visible: Visible, *, now: datetime) -> list[BookRow | WaitingRow]:
    """Each book's heading with the head of its line below it: lane by lane, the next one first.

    A place counts everybody's orders of the book; the rows are those that the reader may see.
    """
    books = _books(visible)
    if not books:
        return []
    each = max(FEWEST_PER_LANE, min(SHOWN_PER_LANE, WAITING_SHOWN // len(books)))
    lines = _lines([book["pk"] for book in books], each=each)
    rows = _rows(visible, lines)
    return [row for book in books for row in _of_book(book, rows.get(book["pk"], []), now=now)]


def waiting_count(rows: Iterable[BookRow | WaitingRow]) -> str:
    """How many orders wait in the books that are shown, "+" where more do than are counted."""
    counts = [row.waiting for row in rows if isinstance(row, BookRow)]
    total = sum(min(count, MANY_WAITING) for count in counts)
    return f"{total}+" if any(count > MANY_WAITING for count in counts) else str(total)


def _books(visible: Visible) -> list[dict[str, Any]]:
    mine = PendingOrder.objects.filter(visible.rows(), book=OuterRef("pk")).order_by()
    # Not EXISTS: that is planned as a join, which reads the whole queue.
    books = Book.objects.annotate(somebody=Subquery(mine.values("pk")[:1])).filter(somebody__isnull=False)
    resting = OpenOrder.objects.filter(book=OuterRef("pk")).order_by()
    return read(
        books.annotate(
            waiting=_CountUpTo(mine.values("pk")[: MANY_WAITING + 1]),
            limits=_CountUpTo(resting.filter(intent__order_type=OrderType.LIMIT).values("pk")),
            stops=_CountUpTo(resting.filter(intent__order_type__in=STOP_TYPES).values("pk")),
        ).order_by("symbol", "account__name", "pk"),
        limit=BOOKS_SHOWN,
        pk="pk",
        symbol="symbol",
        market_type="market_type",
        account="account__name",
        waiting="waiting",
        limits="limits",
        stops="stops",
        limit_cap="account__queue_limit_cap",
        stop_cap="account__queue_stop_cap",
        total_cap="account__queue_total_cap",
        external_limits="external_limit_orders",
        external_stops="external_stop_orders",
        limit_fits="limit_fits",
        limit_fits_until="limit_fits_until",
        stop_fits="stop_fits",
        stop_fits_until="stop_fits_until",
        exchange_limit=_instrument_of_book("max_open_orders"),
        exchange_stop=_instrument_of_book("max_conditional_orders"),
    )


def _instrument_of_book(field: str) -> Subquery:
    same = Instrument.objects.filter(
        exchange=OuterRef("account__exchange"),
        environment=OuterRef("account__environment"),
        market_type=OuterRef("market_type"),
        symbol=OuterRef("symbol"),
    )
    return Subquery(same.order_by().values(field)[:1])


# --- the lines ----------------------------------------------------------------------------------------


def _lines(book_ids: Sequence[int], *, each: int) -> list[_Place]:
    """The first `each` of every book's lanes, then as many of those that are put off."""
    books: dict[tuple[int, Lane], list[Candidate]] = defaultdict(list)
    heads = _together(
        _ready(book_id, side, priority)[:each]
        for book_id in book_ids
        for side in Side
        for priority in LANE_OF
    )
    columns = ("book_id", "intent_id", "side", "priority", "sort_price", "created_at")
    for book_id, intent_id, side, priority, sort_price, created_at in heads.values_list(*columns):
        order = Candidate(intent_id, Side(side), priority, sort_price, created_at, Standing.WAITING)
        books[book_id, order.lane].append(order)
    places = [
        _Place(order.id, lane, place)
        for (_, lane), orders in books.items()
        for place, order in enumerate(in_turn(orders)[:each], start=1)
    ]
    return places + _put_off(book_ids, each=each)


def _put_off(book_ids: Sequence[int], *, each: int) -> list[_Place]:
    rows = _together(
        PendingOrder.objects.filter(book=book_id, waits_until__isnull=False).order_by("waits_until", "pk")[
            :each
        ]
        for book_id in book_ids
    )
    return [
        _Place(intent_id, LANE_OF[priority], None)
        for intent_id, priority in rows.values_list("intent_id", "priority")
    ]


def _ready(book_id: int, side: Side, priority: int) -> QuerySet[PendingOrder]:
    """One side of one lane in the order of its index."""
    rows = PendingOrder.objects.filter(
        book=book_id, side=side.value, priority=priority, waits_until__isnull=True
    )
    return rows.order_by(F("sort_price").desc(), "created_at", "intent_id")


def _together(parts: Iterable[QuerySet[PendingOrder]]) -> QuerySet[PendingOrder]:
    """One statement for all: each part reads its own short range of an index."""
    # SQLite wants the limits a level below the union.
    one_by_one = [PendingOrder.objects.filter(pk__in=part.values("pk")) for part in parts]
    return one_by_one[0].union(*one_by_one[1:], all=True)


# --- the rows -----------------------------------------------------------------------------------------


def _rows(visible: Visible, places: Collection[_Place]) -> Mapping[int, list[WaitingRow]]:
    """Return what the reader may see of these, by book, in the order in which they wait."""
    by_intent = {place.intent_id: place for place in places}
    told = read(
        PendingOrder.objects.filter(visible.rows(), pk__in=by_intent),
        limit=len(by_intent),
        book="book_id",
        pk="intent_id",
        total="intent__quantity",
        filled="intent__filled_quantity",
        reduce_only="intent__reduce_only",
        reason="reason",
        waits_until="waits_until",
        retry_count="intent__retry_count",
        is_retry="is_retry",
        created_at="created_at",
        **what("intent__"),
        **whose("intent__"),
    )
    rows: dict[int, list[WaitingRow]] = defaultdict(list)
    for row in told:
        at = by_intent[row["pk"]]
        row["key"] = f"waiting-{row.pop('pk')}"
        row["quantity"] = max(row.pop("total") - row.pop("filled"), Decimal(0))
        rows[row.pop("book")].append(WaitingRow(lane=at.lane.value, place=at.place, **row))
    return rows


def _of_book(
    book: Mapping[str, Any], rows: list[WaitingRow], *, now: datetime
) -> list[BookRow | WaitingRow]:
    caps = _caps(book, now=now)
    heading = BookRow(
        key=f"waiting-book-{book['pk']}",
        symbol=book["symbol"],
        market_type=book["market_type"],
        account=book["account"],
        limit_resting=book["limits"] + book["external_limits"],
        limit_cap=caps.limit,
        stop_resting=book["stops"] + book["external_stops"],
        stop_cap=caps.stop,
        waiting=book["waiting"],
        shown=len(rows),
    )
    return [heading, *sorted(rows, key=_in_line)]


def _in_line(row: WaitingRow) -> tuple[bool, bool, int, float, str]:
    put_off = row.waits_until.timestamp() if row.waits_until else 0.0
    return row.place is None, row.lane == Lane.STOP, row.place or 0, put_off, row.key


def _caps(book: Mapping[str, Any], *, now: datetime) -> Caps:
    caps = caps_for(
        default_limit=settings.QUEUE_LIMIT_CAP,
        limit=book["limit_cap"],
        stop=book["stop_cap"],
        total=book["total_cap"],
        exchange_limit=book["exchange_limit"],
        exchange_stop=book["exchange_stop"],
    )
    # What the exchange last said that it takes, as long as that is believed.
    limit, stop = (
        min(cap, book[f"{lane}_fits"]) if (until := book[f"{lane}_fits_until"]) and until > now else cap
        for lane, cap in (("limit", caps.limit), ("stop", caps.stop))
    )
    return Caps(limit, stop, caps.total)
