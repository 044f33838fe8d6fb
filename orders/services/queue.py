"""The queue's proactive rebalance: of all orders of a book the best rest on the exchange, the others wait.

Planned and claimed under the book's lock (orders.services.claims), sent outside of it, recorded one by one,
and planned again as long as that frees slots. Any number of processes may do this at once, for the same
books too: what one has claimed the others leave alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from exchanges import measures
from exchanges.adapters.types import OrderType
from orders import events, locks
from orders.bulk import bulk_save
from orders.clock import DatabaseClock, database_now, sql_clock
from orders.models import (
    Book,
    EventSource,
    Home,
    OpenOrder,
    OrderEvent,
    PendingOrder,
    PlacementOutcome,
)
from orders.planning import LANE_OF, Lane, priority_of
from orders.prepared import Query
from orders.services import submission
from orders.services.applied import Applied, FullLane
from orders.services.cancellation import CancelsSent
from orders.services.chores import chores_run
from orders.services.claims import Claim, lockable
from orders.states import OrderStatus
from orders.writes import Writes

logger = logging.getLogger(__name__)

ROUNDS = 12  # of one run; what is left then is taken up by the next report or sweep
AT_ONCE = 50  # books that are planned in one transaction
DUE_AT_ONCE = 500
FULL_FOR = timedelta(minutes=10)  # how long we believe a symbol's cap as the exchange showed it
ACCOUNT_FULL_FOR = timedelta(seconds=10)  # of an account's cap other books free slots: look again soon
REPLANS = 3


@dataclass(slots=True)
class Rebalanced:
    """What one run did. `executed`, `canceled`: orders sent and moved back."""

    applied: Applied = field(default_factory=Applied)
    executed: int = 0
    canceled: int = 0
    duration_ms: float = 0.0
    left_waiting: set[int] = field(default_factory=set)  # books of the last round with more than was taken
    held_back: set[int] = field(default_factory=set)  # books of the last round where a guard denied some
    opened: set[int] = field(default_factory=set)  # books of full accounts where one more was let try

    def count(self, claim: Claim, applied: Applied) -> None:
        """Count what became of a claim, whoever heard of it first."""
        placed = (applied.placements.get(placement.pk) for placement in claim.placements)
        self.executed += sum(one is not None and one.outcome == PlacementOutcome.PLACED for one in placed)
        moved = (applied.placements.get(order.placement_id) for order in claim.moves)
        self.canceled += sum(one is not None and one.intent.home != Home.EXCHANGE for one in moved)

    def as_json(self) -> dict[str, Any]:
        failed = [
            {
                "pending_id": failure.intent_id,
                "symbol": failure.symbol,
                "error": failure.exchange_error or failure.reason,
                "error_type": failure.error_type,
                "recoverable": False,
            }
            for failure in self.applied.failed.values()
        ]
        failed += [
            {
                "pending_id": pending.pk,
                "symbol": pending.intent.symbol,
                "error": pending.reason,
                "error_type": "limit_exceeded" if pending.waits_until is None else "rate_limit",
                "recoverable": True,
            }
            for pending in self.applied.queued.values()
            if pending.reason
        ]
        return {
            "success": True,
            "executed": self.executed,
            "canceled": self.canceled,
            "failed_orders": failed,
            "duration_ms": round(self.duration_ms, 2),
        }


@dataclass(slots=True)
class Totals:
    """What this process's runs added up to, for metrics."""

    runs: int = 0
    executed: int = 0
    canceled: int = 0
    milliseconds: float = 0.0

    def count(self, run: Rebalanced) -> None:
        self.runs += 1
        self.executed += run.executed
        self.canceled += run.canceled
        self.milliseconds += run.duration_ms
        measures.rebalance(run.duration_ms / 1000)

    @property
    def average_ms(self) -> float:
        return self.milliseconds / self.runs if self.runs else 0.0


totals = Totals()


def errands_run(applied: Applied, *, source: str, books: Iterable[int] = ()) -> Applied:
    """Do what applying reports left to be done, and fill the slots that it freed. Asks the exchange.

    `books`: to be planned again besides those that `applied` names. Returns all that came of it.
    """
    later = chores_run(applied, source=source)
    _mark_full([*applied.full_lanes, *later.full_lanes])
    freed = applied.freed_books | later.freed_books
    moved = applied.moved_books | later.moved_books  # these slots were freed for their own books
    touched = {*books, *freed, *moved, *applied.settled_books, *later.settled_books}
    if touched:
        later.merge(rebalance(book_ids=touched, freed=freed).applied)
    return later


def rebalance(
    *, book_ids: Collection[int], source: str = EventSource.QUEUE, freed: Collection[int] = ()
) -> Rebalanced:
    """Bring the best orders of these books to the exchange. Blocks while the exchange answers.

    `freed`: books where a slot has become free just now. Books where nothing waits cost one query together.
    """
    started = time.monotonic()
    run = Rebalanced()
    books, freed = set(book_ids), set(freed)
    before = 0
    for _ in range(ROUNDS):
        # What was just planned and left waiting waits still, most likely: planning finds out.
        if freed or not books <= run.left_waiting:
            books = _with_waiting(books, freed, run)
        run.left_waiting, run.held_back = set(), set()
        applied = Applied()
        for portion in _portions(sorted(books)):
            applied.merge(_round(portion, source=source, run=run))
        if not applied.placements and not run.held_back:
            break
        done = run.executed + run.canceled
        applied.merge(chores_run(applied, source=source))
        _mark_full(applied.full_lanes)
        run.applied.merge(applied)
        if done == before and not applied.full_lanes and not run.held_back:
            break  # all refused: what would come next is refused most likely, the next trigger tries it
        before = done
        # Where one more was taken of a full account, one more may try.
        freed = applied.freed_books | (applied.settled_books & run.opened)
        books = freed | applied.moved_books | applied.settled_books | run.held_back
    run.duration_ms = (time.monotonic() - started) * 1000
    if run.applied.placements:
        totals.count(run)
        logger.info("Rebalanced %s books: %s", len(book_ids), run.as_json())
    return run


def _portions(book_ids: list[int]) -> Iterable[list[int]]:
    return (book_ids[start : start + AT_ONCE] for start in range(0, len(book_ids), AT_ONCE))


def _with_waiting(book_ids: set[int], freed: set[int], run: Rebalanced) -> set[int]:
    """Return the books where orders are ready to go, with one query.

    With a slot of a full account free, its other books may go on as well.
    """
    if not book_ids:
        return set()
    rows = _waiting_beside(book_ids, freed) if freed else _waiting_in(book_ids)
    if freed and (full := [pk for pk, is_full in rows if is_full]):
        _open_by_one(full)
        run.opened.update(full)
    return {pk for pk, _ in rows}


def _ready() -> Exists:
    return Exists(PendingOrder.objects.filter(book=OuterRef("pk"), waits_until__isnull=True))


_waiting_in: Query[tuple[int, bool]] = Query(
    lambda ids: Book.objects.filter(_ready(), pk__any=ids).values_list("pk", "is_account_full")
)


def _beside(ids: Any, freed: Any) -> QuerySet[Book]:
    full = Q(account_id__in=Book.objects.filter(pk__any=freed).values("account_id"), is_account_full=True)
    return Book.objects.filter(Q(pk__any=ids) | full, _ready())


_waiting_beside: Query[tuple[int, bool]] = Query(
    lambda ids, freed: _beside(ids, freed).values_list("pk", "is_account_full")
)
_accounts_beside: Query[tuple[int]] = Query(lambda ids, freed: _beside(ids, freed).values_list("account_id"))


def accounts_ready(*, book_ids: Collection[int], freed: Collection[int]) -> set[int]:
    """Return the accounts of these books where `rebalance` would find orders that are ready to go.

    `freed`: of the books, those where a slot has become free. One query for the books of any number of
    accounts, so that those where nothing waits need not be looked at one by one.
    """
    return {pk for (pk,) in _accounts_beside(book_ids, freed)} if book_ids else set()


def _open_by_one(book_ids: Collection[int]) -> None:
    """Let one more order into each book of an account that was full: more would be refused most likely."""
    with transaction.atomic():
        books = list(locks.books_for_update(book_ids))
        now = database_now()
        for book in books:
            known = [until for until in (book.limit_fits_until, book.stop_fits_until) if until is not None]
            book.is_account_full = any(until > now for until in known)
            if book.limit_fits is not None:
                book.limit_fits += 1
            if book.stop_fits is not None:
                book.stop_fits += 1
        bulk_save(books, fields=("is_account_full", "limit_fits", "stop_fits"))


def _round(book_ids: list[int], *, source: str, run: Rebalanced) -> Applied:
    """Claim what is planned for these books, send it, and record what became of it."""
    for _ in range(REPLANS):
        try:
            claim, clock = _claim(book_ids, source=source)
        except _Changed:
            continue
        applied = carry_out(claim, clock=clock)
        run.count(claim, applied)
        run.left_waiting |= claim.left_waiting
        run.held_back |= claim.held_back
        return applied
    logger.warning("The configuration kept changing while books %s were planned", book_ids)
    return Applied()


class _Changed(Exception):
    """The configuration changed while the plan was made: a switch may have been flipped."""


def _claim(book_ids: list[int], *, source: str) -> tuple[Claim, DatabaseClock]:
    """Plan and claim in one short transaction. Raises _Changed: nothing is claimed, plan again."""
    with transaction.atomic():
        books, clock = _lock(book_ids)
        # As it stood before the locks were waited for, perhaps. Then it is judged when the claim is written.
        version: int = books[0].config_version or 0  # type: ignore[attr-defined]  # annotated with the locks
        claim = Claim(now=clock.now(), source=source)
        claim.plan(books, version=version)
        if claim.ids or claim.held_back:
            claim.take(lockable(claim.ids, with_keys=True))
            _write(claim, version)
    return claim, clock


def _lock(book_ids: list[int]) -> tuple[list[Book], DatabaseClock]:
    """Lock books, and read the clock beside them."""
    before = time.monotonic()
    books: list[Any] = _locked(book_ids)  # with what is annotated
    # SQLite has no clock of its own, and the one in the text is of when it was compiled.
    read_at = books[0].read_at if connection.vendor == "postgresql" else database_now()
    return books, DatabaseClock(read_at, before)


_locked = Query(
    lambda ids: locks.books_for_update(ids).annotate(read_at=sql_clock()).select_related("account")
)


def _write(claim: Claim, version: int) -> None:
    writes = Writes()
    log: list[OrderEvent] = claim.write(writes, claim.placement_keys())
    writes.insert(log)
    if not writes.run(AT_VERSION, version):
        raise _Changed
    if log:
        events.publish(events.EventsLogged())


# A switch that was flipped after the plan takes back what was claimed with it.
AT_VERSION = "COALESCE((SELECT version FROM exchanges_configversion WHERE id = 1), 0) = %s"


def carry_out(claim: Claim, *, clock: DatabaseClock) -> Applied:
    """Send what was claimed: cancels and submissions side by side."""
    sent = CancelsSent(claim.moves, clock=clock)
    applied = Applied()
    if claim.placements:
        planned_at = clock.monotonic(claim.now)
        work = submission.Dispatch(claim.placements, claim.accounts, planned_at, clock, claim.leverage)
        applied.merge(submission.dispatch(work))
    elif sent.is_waiting and not connection.in_atomic_block:
        connection.close()  # others need it while the exchange answers
    applied.merge(sent.record(source=EventSource.ANSWER))
    # Also where a stream was faster and recorded that they ended: this is who gives their slots away.
    applied.moved_books |= {order.book_id for order in claim.moves}
    return applied


# --- full lanes ---------------------------------------------------------------------------------------


def _mark_full(lanes: Collection[FullLane]) -> None:
    """Remember what fits where the exchange said that nothing more does: what rests there now.

    A lane that is full at ten is not tried with twenty again each time that one slot frees.
    """
    for full in sorted(set(lanes), key=lambda one: (one.book_id, one.priority)):
        lane = LANE_OF[full.priority]
        with transaction.atomic():
            book = locks.books_for_update([full.book_id]).get()
            rows = OpenOrder.objects.filter(book=book).exclude(status=OrderStatus.SUBMITTING)
            kinds = rows.values_list("intent__order_type", flat=True)
            ours = sum(priority_of(OrderType(kind)) == full.priority for kind in kinds)
            until = database_now() + (ACCOUNT_FULL_FOR if full.account_wide else FULL_FOR)
            if lane is Lane.LIMIT:
                book.limit_fits, book.limit_fits_until = ours + book.external_limit_orders, until
            else:
                book.stop_fits, book.stop_fits_until = ours + book.external_stop_orders, until
            book.is_account_full = full.account_wide
            book.save(
                update_fields=[
                    "limit_fits",
                    "limit_fits_until",
                    "stop_fits",
                    "stop_fits_until",
                    "is_account_full",
                ]
            )
        logger.warning("The %s lane of book %s is full at the exchange", lane, book)


# --- when it runs by itself ---------------------------------------------------------------------------


def due_run(*, limit: int = DUE_AT_ONCE) -> int:
    """Send orders whose back-off has ended, account by account; return how many books were planned again."""
    due = due_books(limit=limit)
    for books in due.values():
        _rebalance_surely(books)
    return sum(len(books) for books in due.values())


def due_books(*, limit: int = DUE_AT_ONCE) -> dict[int, set[int]]:
    """End the waits that are over; return by account the books that are to be planned again now.

    One indexed query where nothing is due.
    """
    due = PendingOrder.objects.filter(waits_until__lte=database_now())
    if not due.exists():
        return {}
    with transaction.atomic():
        # Rows that another process wakes or claims right now are skipped: no order of locks to keep.
        rows = due.select_for_update(skip_locked=True, of=("self",)).order_by("waits_until")[:limit]
        found = list(rows.values_list("pk", "account_id", "book_id"))
        PendingOrder.objects.filter(pk__in=[pk for pk, _, _ in found]).update(waits_until=None)
    books: dict[int, set[int]] = {}
    for _, account_id, book_id in found:
        books.setdefault(account_id, set()).add(book_id)
    return books


def sweep() -> int:
    """Plan every book again where orders are ready to go: the safety net behind all the other ways."""
    books = list(Book.objects.filter(_ready()).order_by("pk").values_list("pk", flat=True))
    for portion in _portions(books):
        _rebalance_surely(portion)
    return len(books)


def _rebalance_surely(book_ids: Collection[int]) -> None:
    """Rebalance books together; where that fails one by one: what cannot be planned stops no other."""
    try:
        rebalance(book_ids=book_ids)
    except (OperationalError, InterfaceError):
        raise  # the database is away: for all of them
    except Exception:
        logger.exception("Books %s could not be planned", sorted(book_ids))
        if len(book_ids) > 1:
            for pk in sorted(book_ids):
                _rebalance_surely([pk])
