"""Every row lock of this room, in the one order: books, intents, positions, each by id.

Keys never change, so the locks let others insert rows that refer to these (`no_key`).
On SQLite the write transaction itself is the lock and `select_for_update` says nothing.
"""

from __future__ import annotations

from collections.abc import Collection

from django.db import connection
from django.db.models import QuerySet, Subquery

from exchanges.models import ConfigVersion
from orders.models import Book, OrderIntent, StrategyPosition, WebhookDelivery
from orders.prepared import Given


def wait_at_most(seconds: float) -> None:
    """Have this transaction fail rather than wait longer for any lock (OperationalError).

    SQLite waits for its one write lock, and as long as its `timeout` says.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{int(seconds * 1000)}ms"])


def books_for_update(book_ids: Collection[int] | Given) -> QuerySet[Book]:
    """Lock books, and read the configuration's version beside them, as `config_version`.

    Whoever plans with cached settings compares it and need not go on when it is another. On PostgreSQL
    it is the version of before a lock that had to be waited for: look once more before you commit.
    """
    version = ConfigVersion.objects.filter(pk=1).values("version")
    return (
        Book.objects.select_for_update(of=("self",), no_key=True)
        .filter(pk__any=book_ids)
        .annotate(config_version=Subquery(version))
        .order_by("pk")
    )


def intents_for_update(**lookup: object) -> QuerySet[OrderIntent]:
    return OrderIntent.objects.select_for_update(of=("self",), no_key=True).filter(**lookup).order_by("pk")


def positions_for_update(**lookup: object) -> QuerySet[StrategyPosition]:
    return (
        StrategyPosition.objects.select_for_update(of=("self",), no_key=True).filter(**lookup).order_by("pk")
    )


def deliveries_for_update(**lookup: object) -> QuerySet[WebhookDelivery]:
    return (
        WebhookDelivery.objects.select_for_update(of=("self",), no_key=True).filter(**lookup).order_by("pk")
    )
