"""Orders of others on an account: placed by hand or by another program. They take up slots of the queue."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from django.db import transaction
from django.db.models import Q

from orders import locks
from orders.models import Book


@dataclass(frozen=True, slots=True)
class External:
    """How many orders of others rest in a book."""

    limit: int = 0
    stop: int = 0


NONE = External()


def externals_count(
    *,
    account_id: int,
    market_type: str,
    by_symbol: Mapping[str, External],
    only: Collection[str] | None = None,
) -> set[int]:
    """Note how many orders of others the exchange lists per symbol; return the books where slots got free.

    `only`: the symbols that were listed, where not all were.

    One query where nothing has changed. A symbol in which we have not traded yet gets its book now: the
    first webhook for it finds the slots taken.
    """
    ours = Book.objects.filter(account_id=account_id, market_type=market_type)
    if only is not None:
        ours = ours.filter(symbol__in=only)
    counted = Q(symbol__in=by_symbol) | Q(external_limit_orders__gt=0) | Q(external_stop_orders__gt=0)
    books = list(ours.filter(counted))
    if missing := sorted(by_symbol.keys() - {book.symbol for book in books}):
        new = [Book(account_id=account_id, market_type=market_type, symbol=symbol) for symbol in missing]
        Book.objects.bulk_create(new, ignore_conflicts=True)
        books += ours.filter(symbol__in=missing)
    changed = {
        book.pk: by_symbol.get(book.symbol, NONE)
        for book in books
        if _of(book) != by_symbol.get(book.symbol, NONE)
    }
    if not changed:
        return set()
    freed: set[int] = set()
    with transaction.atomic():
        for book in locks.books_for_update(changed.keys()):
            now, before = changed[book.pk], _of(book)
            if now.limit < before.limit or now.stop < before.stop:
                freed.add(book.pk)
            book.external_limit_orders, book.external_stop_orders = now.limit, now.stop
            book.save(update_fields=["external_limit_orders", "external_stop_orders"])
    return freed


def _of(book: Book) -> External:
    return External(book.external_limit_orders, book.external_stop_orders)
