"""What waits in the queue, as people are shown it: the heads of the lines, however long they are.

Two queries, whatever there is: the books, and the heads of their lines (short ranges of an index, in one
statement). Nothing here reads much more of a line than it shows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import IntegerField, OuterRef, QuerySet, Subquery
from django.db.models.expressions import RawSQL

from exchanges.adapters.types import STOP_TYPES, OrderType, Side
from exchanges.models import Instrument
from orders.listing import MANY_WAITING, BookRow, WaitingRow
from orders.models import Book, OpenOrder, PendingOrder
from orders.planning import LANE_OF, Candidate, Caps, Lane, Standing, as_seen, caps_for, in_turn
from orders.selectors import Visible, read, what, whose

BOOKS_SHOWN = 60
WAITING_SHOWN = 300  # altogether, and …
SHOWN_PER_LANE = 50  # … at most as many per book and lane
FEWEST_PER_LANE = 5


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
    lines = _lines(visible, [book["pk"] for book in books], each=each)
    return [row for book in books for row in _of_book(book, lines.get(book["pk"], []), now=now)]


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

_READY = """SELECT intent_id FROM orders_pendingorder
     WHERE book_id = {book} AND side = {side} AND priority = {priority} AND waits_until IS NULL
     ORDER BY sort_price DESC, created_at, intent_id LIMIT %s"""
_PUT_OFF = """SELECT intent_id FROM orders_pendingorder
     WHERE book_id = {book} AND waits_until IS NOT NULL ORDER BY waits_until, intent_id LIMIT %s"""
# Written out, because the ORM has no LATERAL: each slice of each book stops after its limit.
_POSTGRESQL = f"""
    SELECT head.intent_id
      FROM unnest(%s::bigint[], %s::text[], %s::smallint[]) AS slice(book_id, side, priority)
     CROSS JOIN LATERAL (
           {_READY.format(book="slice.book_id", side="slice.side", priority="slice.priority")}) head
     UNION ALL
    SELECT put_off.intent_id FROM unnest(%s::bigint[]) AS book(id)
     CROSS JOIN LATERAL ({_PUT_OFF.format(book="book.id")}) put_off"""


def _heads(book_ids: Sequence[int], *, each: int) -> QuerySet[PendingOrder]:
    """The first `each` of every side and lane of these books, and as many of those that are put off."""
    slices = [(book, side.value, priority) for book in book_ids for side in Side for priority in LANE_OF]
    given: list[Any]
    if connection.vendor == "postgresql":
        columns = [list(column) for column in zip(*slices, strict=True)]
        sql, given = _POSTGRESQL, [*columns, each, list(book_ids), each]
    else:
        ready = _READY.format(book="%s", side="%s", priority="%s")
        parts = [f"SELECT * FROM ({ready})"] * len(slices)
        parts += [f"SELECT * FROM ({_PUT_OFF.format(book='%s')})"] * len(book_ids)
        given = [value for one in slices for value in (*one, each)]
        given += [value for book in book_ids for value in (book, each)]
        sql = " UNION ALL ".join(parts)
    return PendingOrder.objects.filter(pk__in=RawSQL(sql, given))  # noqa: S611


def _lines(visible: Visible, book_ids: Sequence[int], *, each: int) -> dict[int, list[WaitingRow]]:
    """Return what the reader may see of these books' heads, each book's in the order in which they wait."""
    heads = _heads(book_ids, each=each).annotate(is_visible=visible.holds())
    told = read(
        heads,
        limit=(2 * len(LANE_OF) + 1) * each * len(book_ids),
        book="book_id",
        priority="priority",
        sort_price="sort_price",
        is_visible="is_visible",
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
    places = _places(told, each=each)
    lines: dict[int, list[WaitingRow]] = defaultdict(list)
    for row in told:
        is_shown = row["waits_until"] or row["pk"] in places
        if row.pop("is_visible") and is_shown:
            lines[row.pop("book")].append(_waiting_row(row, places.get(row["pk"])))
    for line in lines.values():
        line.sort(key=_in_line)
    return lines


def _places(told: Iterable[Mapping[str, Any]], *, each: int) -> dict[int, int]:
    """Each order's place in its book and lane, of the first `each`."""
    books: dict[tuple[int, Lane], list[Candidate]] = defaultdict(list)
    for row in told:
        order = Candidate(
            row["pk"],
            Side(row["side"]),
            row["priority"],
            row["sort_price"],
            row["created_at"],
            Standing.WAITING,
        )
        if row["waits_until"] is None:
            books[row["book"], order.lane].append(order)
    return {
        order.id: place
        for orders in books.values()
        for place, order in enumerate(in_turn(orders)[:each], start=1)
    }


def _waiting_row(told: dict[str, Any], place: int | None) -> WaitingRow:
    pk, total, filled = told.pop("pk"), told.pop("total"), told.pop("filled")
    del told["sort_price"]
    return WaitingRow(
        key=f"waiting-{pk}",
        lane=LANE_OF[told.pop("priority")].value,
        place=place,
        quantity=max(total - filled, Decimal(0)),
        **told,
    )


# --- the rows -----------------------------------------------------------------------------------------


def _of_book(book: Mapping[str, Any], rows: list[WaitingRow], *, now: datetime) -> list[BookRow | WaitingRow]:
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
    return [heading, *rows]


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
    limit = as_seen(caps.limit, book["limit_fits"], book["limit_fits_until"], now)
    return Caps(limit, as_seen(caps.stop, book["stop_fits"], book["stop_fits_until"], now), caps.total)
