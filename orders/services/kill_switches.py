"""The kill switches below the system's: of people, strategies and accounts; and what each lets be canceled.

A switch refuses webhooks (403; an account's: that account is left out) and holds back what is waiting or on
its way to be sent. What rests at the exchange stays there unless it is canceled here too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Q

from exchanges.models import Account
from orders import locks
from orders.clock import DatabaseClock
from orders.models import Book, EventSource, Home, OrderIntent, Strategy, UserProfile
from orders.services import queue
from orders.services.cancellation import cancels_mark, cancels_send
from orders.services.switches import KILL_SWITCH, operator_log
from orders.writes import Writes

AT_ONCE = 200  # orders that are canceled in one transaction: books are locked that long only


class Scope(StrEnum):
    """What a kill switch stops."""

    SYSTEM = "system"
    USER = "user"
    STRATEGY = "strategy"
    ACCOUNT = "account"


_OF_SCOPE = {  # how it is found from an order
    Scope.SYSTEM: "",
    Scope.USER: "strategy_account__strategy__user__in",
    Scope.STRATEGY: "strategy_account__strategy__in",
    Scope.ACCOUNT: "strategy_account__account__in",
}


def kill_switches_set(
    scope: Scope, ids: Collection[int], *, engaged: bool, by: str, reason: str
) -> list[str]:
    """Switch users, strategies or accounts on or off; return the names of those that were in the other state.

    Bites with the very next webhook, and in every transaction that claims orders from its commit on.
    """
    with transaction.atomic():
        turned = list(_turned(scope, ids, engaged=engaged))
        for one in turned:
            one.row.kill_switch = engaged
            # A row without a state of its own yet: a user who never had a profile.
            one.row.save(update_fields=None if one.row._state.adding else ["kill_switch"])
            operator_log(
                f"{KILL_SWITCH} of {scope} {one.name} {'ON' if engaged else 'off'}",
                by=by,
                reason=reason,
                user_id=one.user_id,
                account_id=one.row.pk if scope is Scope.ACCOUNT else None,
            )
    return [one.name for one in turned]


@dataclass(frozen=True, slots=True)
class _Turned:
    row: Any
    name: str
    user_id: int


def _turned(scope: Scope, ids: Collection[int], *, engaged: bool) -> Iterable[_Turned]:
    if scope is Scope.USER:
        profiles = {row.pk: row for row in UserProfile.objects.select_for_update().filter(pk__in=ids)}
        for user in User.objects.filter(pk__in=ids).order_by("pk"):
            profile = profiles.get(user.pk) or UserProfile(user=user)
            if profile.kill_switch != engaged:
                yield _Turned(profile, user.get_username(), user.pk)
        return
    model: Any = {Scope.STRATEGY: Strategy, Scope.ACCOUNT: Account}[scope]
    rows = model.objects.select_for_update().filter(pk__in=ids).exclude(kill_switch=engaged)
    for row in rows.order_by("pk"):
        yield _Turned(row, str(row), row.user_id)


def orders_cancel(scope: Scope, ids: Collection[int], *, source: str = EventSource.OPERATOR) -> int:
    """Cancel every open and every waiting order of a scope; return how many it asked to be canceled.

    What waits is done at once; what rests is canceled at the exchange, what is on its way as soon as it is
    known to live. In portions, each under its books' locks. Blocks while the exchanges answer.
    """
    name = _OF_SCOPE[scope]
    mine = OrderIntent.objects.filter(
        Q(**{name: list(ids)}) if name else Q(), home__in=(Home.QUEUE, Home.EXCHANGE), cancel_requested=False
    ).order_by("pk")
    canceled, last = 0, 0
    while portion := list(mine.filter(pk__gt=last).values_list("pk", "book_id")[:AT_ONCE]):
        last = portion[-1][0]
        clock = DatabaseClock.ask()
        marked = _mark([pk for pk, _ in portion], {book_id for _, book_id in portion}, source, clock)
        canceled += len(marked)
        applied = cancels_send(intent_ids=marked, source=EventSource.ANSWER, now=clock.now())
        queue.errands_run(applied, source=EventSource.ANSWER)
    return canceled


def _mark(intent_ids: list[int], book_ids: Collection[int], source: str, clock: DatabaseClock) -> list[int]:
    with transaction.atomic():
        books: dict[int, Book] = {book.pk: book for book in locks.books_for_update(book_ids)}
        intents = list(
            locks.intents_for_update(
                pk__in=intent_ids, home__in=(Home.QUEUE, Home.EXCHANGE), cancel_requested=False
            )
        )
        writes = Writes()
        accounts = {pk: book.account_id for pk, book in books.items()}
        cancels_mark(intents, writes, account_ids=accounts, source=source, now=clock.now())
        writes.run()
    return [intent.pk for intent in intents]
