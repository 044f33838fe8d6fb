"""Which accounts have to be followed, and in which markets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from django.db.models import Count

from exchanges.models import Account
from orders.models import OpenOrder, PendingOrder, StrategyAccount

Source = tuple[str, str, str]  # exchange, environment, market type: what public data belongs to


class StreamKey(NamedTuple):
    """One user stream: an account in one market."""

    account_id: int
    market_type: str


def streams_wanted() -> set[StreamKey]:
    """Return the streams to follow: of active accounts that strategies trade on, and of unfinished orders.

    A strategy that is paused keeps them: it may hold a position, and orders wait for it. An account that was
    switched off keeps its stream until its last order has ended.
    """
    traded = StrategyAccount.objects.filter(account__is_active=True).values_list(
        "account_id", "strategy__market_type"
    )
    unfinished = OpenOrder.objects.values_list("account_id", "book__market_type").distinct()
    return {StreamKey(*pair) for pair in (*traded, *unfinished)}


def symbols_in_use(keys: Collection[StreamKey]) -> dict[StreamKey, Counter[str]]:
    """Return how many unfinished orders each of these streams has on each symbol.

    The rows are the count, whichever process wrote them. Orders that wait in the queue are in it: a symbol is
    heard before they leave.
    """
    found: dict[StreamKey, Counter[str]] = {key: Counter() for key in keys}
    accounts = {key.account_id for key in keys}
    for model in (OpenOrder, PendingOrder):
        rows = model._default_manager.filter(account_id__in=accounts)
        names = rows.values_list("account_id", "book__market_type", "book__symbol")
        for account_id, market_type, symbol, count in names.annotate(count=Count("pk")).order_by():
            key = StreamKey(account_id, market_type)
            if key in found:
                found[key][symbol] += count
    return found


def accounts_by_source(keys: Collection[StreamKey]) -> dict[Source, Account]:
    """Return one account for each (exchange, environment, market): public data is asked for once."""
    accounts = Account.objects.in_bulk({key.account_id for key in keys})
    return {
        (accounts[key.account_id].exchange, accounts[key.account_id].environment, key.market_type): accounts[
            key.account_id
        ]
        for key in sorted(keys, reverse=True)  # the oldest account wins, always the same one
        if key.account_id in accounts
    }
