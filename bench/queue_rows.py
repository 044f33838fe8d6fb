"""Filling a database with orders that wait and orders that rest, by copying rows of real ones.

    fill(waiting_pk, resting_pk, waiting=100_000, books=1)

The first book is the one that the copied orders are in; the others have names that no exchange knows, and
as many resting orders as the cap. Waiting orders are written in another order than their rank.
"""

from __future__ import annotations

from django.db import connection, models

from orders.models import Book, OpenOrder, OrderIntent, PendingOrder, Placement, WebhookDelivery

PER_DELIVERY = 30
CAP = 20
BEST_WAITING = 40_000  # and down from there; what rests is above it
WORST_RESTING = 57_000
TABLES = (Book, WebhookDelivery, OrderIntent, Placement, OpenOrder, PendingOrder)
EARLIER = "pattern.created_at - interval '1 hour'"
STRIDE = 7919  # a prime: steps through all prices in an order that looks like none


def fill(waiting_pk: int, resting_pk: int, *, waiting: int, books: int) -> None:
    """Bring every book to `waiting` waiting orders. `waiting_pk`, `resting_pk`: intents to copy."""
    pattern = OrderIntent.objects.get(pk=waiting_pk)
    _copy(
        Book,
        pattern.book_id,
        f"SELECT n FROM generate_series(1, {books - 1}) n",
        symbol="'B' || s.n || '/USDT'",
    )
    most = max(waiting, CAP) * books
    _copy(
        WebhookDelivery,
        pattern.delivery_id,
        f"SELECT n FROM generate_series(0, {most // PER_DELIVERY}) n",
        webhook_id="'fill-' || s.n",
    )
    # One of the first book waits already: the pattern.
    _intents(waiting_pk, waiting, books, prefix="W", price=f"{BEST_WAITING} - s.place * 0.1", skip=1)
    _copy(
        PendingOrder,
        waiting_pk,
        "SELECT id, price, book_id FROM orders_orderintent WHERE uid LIKE 'W%%'",
        intent_id="s.id",
        sort_price="s.price",
        created_at=EARLIER,
        book_id="s.book_id",
    )
    if books > 1:
        _rest(resting_pk, books)
    with connection.cursor() as cursor:
        for model in TABLES:
            cursor.execute(f"VACUUM ANALYZE {model._meta.db_table}")


def _rest(resting_pk: int, books: int) -> None:
    _intents(resting_pk, CAP, books, prefix="R", price=f"{WORST_RESTING} + s.place", skip=CAP)
    pattern = Placement.objects.get(intent_id=resting_pk)
    _copy(
        Placement,
        pattern.pk,
        "SELECT id, uid FROM orders_orderintent WHERE uid LIKE 'R%%'",
        intent_id="s.id",
        client_order_id="'th' || s.uid || '0001'",
        exchange_order_id="'x' || s.id",
    )
    _copy(
        OpenOrder,
        resting_pk,
        "SELECT i.id, p.id AS placement, i.book_id FROM orders_orderintent i"
        " JOIN orders_placement p ON p.intent_id = i.id WHERE i.uid LIKE 'R%%'",
        intent_id="s.id",
        placement_id="s.placement",
        book_id="s.book_id",
    )


def _intents(pattern_pk: int, each: int, books: int, *, prefix: str, price: str, skip: int) -> None:
    """Copy an intent, `each` times per book. `skip`: so many of the first book are there already."""
    source = f"""
        SELECT n, n %% {each} * {STRIDE}::bigint %% {each} AS place, b.id AS book, b.symbol, d.id AS delivery
          FROM generate_series({skip}, {each * books - 1}) n
          JOIN orders_webhookdelivery d ON d.webhook_id = 'fill-' || (n / {PER_DELIVERY})
          JOIN orders_orderintent t ON t.id = {pattern_pk}
          JOIN orders_book own ON own.id = t.book_id
          JOIN orders_book b ON b.account_id = own.account_id AND b.symbol
             = CASE WHEN n < {each} THEN own.symbol ELSE 'B' || (n / {each}) || '/USDT' END
    """
    first = PER_DELIVERY if prefix == "R" else 0  # beside the waiting ones of the same delivery
    _copy(
        OrderIntent,
        pattern_pk,
        source,
        uid=f"'{prefix}' || lpad(s.n::text, 25, '0')",
        delivery_id="s.delivery",
        order_index=f"{first} + s.n %% {PER_DELIVERY}",
        book_id="s.book",
        symbol="s.symbol",
        price=price,
        created_at=EARLIER,
    )


def _copy(model: type[models.Model], pattern_pk: int, source: str, **changes: str) -> None:
    """Insert a copy of one row for each row of `source`, which is `s`, with other values in some columns."""
    key = str(model._meta.pk.column)
    names = [str(field.column) for field in model._meta.local_concrete_fields]
    columns = [name for name in names if name != key or key in changes]
    values = [changes.get(column, f"pattern.{column}") for column in columns]
    table = model._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)}"
            f" FROM {table} pattern CROSS JOIN ({source}) s WHERE pattern.{key} = %s",
            [pattern_pk],
        )
