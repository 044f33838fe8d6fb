"""Retrying failed orders: back into the queue or straight to the exchange, as the same order.

A retry is the order that was asked for: same uid, next placement number, the unfilled remainder, price and
quantity untouched. It moves the intent in one transaction, under its book's and its own lock, and is sent
like everything else. Whoever comes second finds the failed order gone and places nothing.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from django.db import DatabaseError, transaction

from exchanges.adapters.types import VENUE_CLOSED, OrderType, Side
from orders import events, locks
from orders.bulk import bulk_insert
from orders.clock import DatabaseClock
from orders.models import (
    DeliveryState,
    EventSource,
    EventType,
    FailedOrder,
    FailedStatus,
    Home,
    OrderEvent,
    OrderIntent,
    Placement,
    PlacementOutcome,
)
from orders.models.failed_order import MAX_RETRIES as MAX_RETRIES  # part of this service's contract
from orders.services import queue, submission
from orders.services.applied import Applied
from orders.services.guards import denials
from orders.services.switches import stop_reasons
from orders.services.waiting import pending_for

logger = logging.getLogger(__name__)


class Code(StrEnum):
    """Why nothing was done, for machines."""

    NOT_FOUND = "not_found"
    REMOVED = "removed"
    RETRIES_USED_UP = "retries_used_up"
    CANCEL_REQUESTED = "cancel_requested"
    IN_PROGRESS = "in_progress"
    OUTCOME_UNKNOWN = "outcome_unknown"
    NOTHING_LEFT = "nothing_left"
    POSITION_CHANGED = "position_changed"
    STOPPED = "stopped"
    GUARD = "guard"
    FAILED_AGAIN = "failed_again"
    CANCELED = "canceled"
    INVALID_TIME = "invalid_time"


PASSING = frozenset({Code.IN_PROGRESS, Code.OUTCOME_UNKNOWN})  # a scheduled retry waits for the end of these


@dataclass(frozen=True, slots=True)
class Refusal:
    code: Code
    error: str


NOT_FOUND = Refusal(Code.NOT_FOUND, "There is no such failed order, or it is none any more")
REMOVED = Refusal(Code.REMOVED, "The failed order was removed")
POSITION_CHANGED = Refusal(
    Code.POSITION_CHANGED,
    "The position is smaller than what this order was to close: send a new close instead",
)
USED_UP = Refusal(Code.RETRIES_USED_UP, f"All {MAX_RETRIES} retries are used up")


@dataclass(frozen=True, slots=True)
class RetryResult:
    """What became of one retry. On success one of `order_id`, `queued` and `resolving` says where it is."""

    success: bool
    order_id: str = ""  # the exchange's
    queued: bool = False
    resolving: bool = False  # sent, and nobody knows yet whether it exists
    error: str = ""
    code: str = ""
    error_type: str = ""
    failed_order_id: int | None = None  # it failed again: its new row

    @classmethod
    def refused(cls, refusal: Refusal) -> RetryResult:
        return cls(False, error=refusal.error, code=refusal.code.value)

    def as_json(self) -> dict[str, Any]:
        """Return `success` and what there is to say beside it."""
        told: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in told.items() if value or name == "success"}


def failed_orders_retry(
    *,
    failed_order_ids: Collection[int],
    by: str,
    source: str = EventSource.OPERATOR,
    due_only: bool = False,
) -> dict[int, RetryResult]:
    """Retry failed orders; return what became of each, by its failed order's id.

    `by`: who asked, for the log. `due_only`: skip those whose scheduled time is not (or no longer) there.
    Raises: django.db.DatabaseError when the move cannot be written; nothing was sent then.
    """
    clock = DatabaseClock.ask()
    move = _Move(by=by, source=source, now=clock.read)
    with transaction.atomic():
        move.load(failed_order_ids, due_only=due_only)
        move.write()
    applied = submission.send_written(move.placements, clock=clock)
    _finish(applied, books=move.queued_books)
    refused = {pk: RetryResult.refused(refusal) for pk, refusal in move.refused.items()}
    return refused | _what_became_of({pk: failure.intent_id for pk, failure in move.moving.items()})


def _finish(applied: Applied, *, books: Collection[int]) -> None:
    """Do what the answers left to be done, and plan the books whose orders were put back into the queue."""
    try:
        queue.errands_run(applied, source=EventSource.ANSWER, books=books)
    except DatabaseError:  # the orders stand in the queue: whoever plans their book next finds them there
        logger.exception("Books %s could not be planned after a retry", sorted(books))


# --- the move -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Move:
    """One transaction: which of the failed orders may move, and their rows."""

    by: str
    source: str
    now: datetime
    accounts: dict[int, int] = field(default_factory=dict)  # by book id
    moving: dict[int, FailedOrder] = field(default_factory=dict)  # by their ids, with their locked intents
    refused: dict[int, Refusal] = field(default_factory=dict)
    last_number: dict[int, int] = field(default_factory=dict)  # by intent id
    placements: list[Placement] = field(default_factory=list)
    queued_books: set[int] = field(default_factory=set)

    def load(self, failed_order_ids: Collection[int], *, due_only: bool) -> None:
        wanted = FailedOrder.objects.filter(pk__in=failed_order_ids)
        if due_only:
            wanted = wanted.filter(next_retry_at__lte=self.now)
        named = dict(wanted.values_list("intent_id", "intent__book_id"))
        self.accounts = {book.pk: book.account_id for book in locks.books_for_update(set(named.values()))}
        held = locks.intents_for_update(pk__in=list(named)).select_related("delivery")
        intents = {intent.pk: intent for intent in held}
        # In a statement of its own: only what is read after the locks is sure to be current.
        found = {row.pk: row for row in wanted.filter(intent_id__in=list(intents)).order_by("pk")}
        for failure in found.values():
            failure.intent = intents[failure.intent_id]
        reasons = _reasons_against(found.values(), now=self.now, last_number=self.last_number)
        for pk in failed_order_ids:
            if pk not in found:
                self.refused[pk] = NOT_FOUND
            elif refusal := reasons.get(found[pk].intent_id):
                self.refused[pk] = refusal
            else:
                self.moving[pk] = found[pk]

    def write(self) -> None:
        if not self.moving:
            return
        intents = [failure.intent for failure in self.moving.values()]
        FailedOrder.objects.filter(pk__in=list(self.moving)).delete()
        self._enqueue([intent for intent in intents if intent.is_queued])
        self._place([intent for intent in intents if not intent.is_queued])
        bulk_insert(
            [
                *(self._event(failure) for failure in self.moving.values()),
                *(submission.submitting_event(p, source=self.source, now=self.now) for p in self.placements),
            ]
        )
        events.publish(events.EventsLogged())

    def _enqueue(self, intents: Sequence[OrderIntent]) -> None:
        self._home(intents, Home.QUEUE)
        bulk_insert(
            pending_for(intent, account_id=self.accounts[intent.book_id], now=self.now, is_retry=True)
            for intent in intents
        )
        self.queued_books = {intent.book_id for intent in intents}

    def _place(self, intents: Sequence[OrderIntent]) -> None:
        self._home(intents, Home.EXCHANGE)
        self.placements = [
            submission.placement_for(
                intent,
                account_id=self.accounts[intent.book_id],
                number=self.last_number.get(intent.pk, 0) + 1,
                now=self.now,
                is_retry=True,
            )
            for intent in intents
        ]
        bulk_insert(self.placements)
        bulk_insert(submission.open_order_for(placement, now=self.now) for placement in self.placements)

    def _home(self, intents: Iterable[OrderIntent], home: Home) -> None:
        moved = list(intents)
        for intent in moved:
            intent.home, intent.updated_at = home, self.now
        pks = [intent.pk for intent in moved]
        OrderIntent.objects.filter(pk__in=pks).update(home=home, updated_at=self.now)

    def _event(self, failure: FailedOrder) -> OrderEvent:
        return failed_order_event(
            failure,
            EventType.RETRY,
            account_id=self.accounts[failure.intent.book_id],
            source=self.source,
            by=self.by,
            now=self.now,
            message=f"after: {failure.reason}",
        )


def failed_order_event(
    failure: FailedOrder,
    kind: EventType,
    *,
    account_id: int,
    source: str,
    by: str,
    now: datetime,
    message: str,
) -> OrderEvent:
    """Return a line of the log about a failed order, with who did it; not saved here."""
    intent = failure.intent
    return OrderEvent(
        type=kind,
        source=source,
        user_id=intent.user_id,
        account_id=account_id,
        strategy_account_id=failure.strategy_account_id,
        intent_id=failure.intent_id,
        symbol=failure.symbol,
        message=message[:500],
        data={"by": by, "failed_order_id": failure.pk, "retry_count": intent.retry_count},
        created_at=now,
    )


# --- what speaks against it -----------------------------------------------------------------------


def _reasons_against(
    failures: Iterable[FailedOrder], *, now: datetime, last_number: dict[int, int]
) -> dict[int, Refusal]:
    """Return why failed orders may not be retried now, by intent id; fills in their last numbers.

    The caller holds the intents' locks. A handful of queries, however many they are.
    """
    rows = list(failures)
    placements: dict[int, list[Placement]] = defaultdict(list)
    for placement in Placement.objects.filter(intent__in=[row.intent_id for row in rows]).order_by("number"):
        placements[placement.intent_id].append(placement)
        last_number[placement.intent_id] = placement.number
    reasons = {}
    for row in rows:
        refusal = retry_refusal(row) or _refusal_by_state(row.intent, placements[row.intent_id])
        if refusal is not None:
            reasons[row.intent_id] = refusal
    left = [row.intent for row in rows if row.intent_id not in reasons]
    return reasons | _held_back(left, now=now)


def retry_refusal(failure: FailedOrder) -> Refusal | None:
    """Return why a failed order can never be retried, from its own row and its intent's."""
    intent = failure.intent
    if failure.status == FailedStatus.REMOVED:
        return REMOVED
    if intent.retry_count >= MAX_RETRIES:
        return USED_UP
    if intent.cancel_requested:
        return Refusal(Code.CANCEL_REQUESTED, "Its cancel was asked for: it is not placed again")
    if intent.remaining_quantity <= 0:
        sentence = "Nothing is left to place; an order that never had a size needs a new signal"
        return Refusal(Code.NOTHING_LEFT, sentence)
    return None


def _refusal_by_state(intent: OrderIntent, placements: Iterable[Placement]) -> Refusal | None:
    """Return why an order may not be placed again before somebody has finished with it."""
    if intent.home != Home.FAILED:
        return NOT_FOUND
    if intent.delivery.state == DeliveryState.WORKING:
        return Refusal(Code.IN_PROGRESS, "Its webhook is still being worked: try again in a moment")
    if any(_may_be_alive(placement) for placement in placements):
        sentence = "It is not settled yet what became of an earlier try: retry when that is known"
        return Refusal(Code.OUTCOME_UNKNOWN, sentence)
    return None


def _may_be_alive(placement: Placement) -> bool:
    """An attempt that may exist, rests although we took it for dead, or has fills that we do not have."""
    if placement.outcome == PlacementOutcome.UNRESOLVED or placement.has_gap:
        return True
    return placement.outcome == PlacementOutcome.PLACED and placement.exchange_status not in VENUE_CLOSED


def _held_back(intents: Sequence[OrderIntent], *, now: datetime) -> dict[int, Refusal]:
    """Return what must not be sent now, whatever it is: by the switches, the guards and its position."""
    denied = {pk: Refusal(Code.GUARD, words) for pk, words in denials(intents, now=now).items()}
    stops = stop_reasons({intent.strategy_account_id for intent in intents})
    reasons = {
        intent.pk: Refusal(Code.STOPPED, f"Not sent: {stops[intent.strategy_account_id]}")
        for intent in intents
        if intent.strategy_account_id in stops
    }
    return _closes_too_much([i for i in intents if i.closes_position]) | denied | reasons


def _closes_too_much(closes: Sequence[OrderIntent]) -> dict[int, Refusal]:
    """A close was sized from the position of its time: it must not open the opposite one now.

    Closes on their way count, and those of this call one after the other.
    """
    if not closes:
        return {}
    strategy_accounts = {intent.strategy_account_id for intent in closes}
    symbols = {intent.symbol for intent in closes}
    left: dict[tuple[int, str, str], Decimal] = {}  # signed: what is not being closed already
    held = locks.positions_for_update(strategy_account_id__in=strategy_accounts, symbol__in=symbols)
    for position in held:
        left[position.strategy_account_id, position.market_type, position.symbol] = position.quantity
    on_their_way = OrderIntent.objects.filter(
        strategy_account_id__in=strategy_accounts,
        symbol__in=symbols,
        home__in=(Home.QUEUE, Home.EXCHANGE),
        closes_position=True,
    )
    for intent in on_their_way:
        # A MARKET order is not caught by a cancel: while nobody knows what became of it, it may have sold.
        if not intent.cancel_requested or intent.order_type == OrderType.MARKET:
            _take(left, intent)
    return {intent.pk: POSITION_CHANGED for intent in closes if _take(left, intent) < 0}


def _take(left: dict[tuple[int, str, str], Decimal], intent: OrderIntent) -> Decimal:
    """Take a close's remainder from its position; return what is left of that, below zero: too much."""
    key = intent.strategy_account_id, intent.market_type, intent.symbol
    position = left.get(key, Decimal(0))
    closable = position if intent.side == Side.SELL else -position
    rest = closable - intent.remaining_quantity
    if rest >= 0:
        left[key] = rest if intent.side == Side.SELL else -rest
    return rest


# --- what became of it ----------------------------------------------------------------------------


def _what_became_of(intent_ids: Mapping[int, int]) -> dict[int, RetryResult]:
    """Read where the intents live now. `intent_ids`: by their former failed orders' ids."""
    pks = set(intent_ids.values())
    intents = OrderIntent.objects.filter(pk__in=pks).select_related("failed_order").in_bulk()
    last: dict[int, Placement] = {
        placement.intent_id: placement
        for placement in Placement.objects.filter(intent__in=pks).order_by("number")
    }
    return {failed_order_id: _result(intents[pk], last.get(pk)) for failed_order_id, pk in intent_ids.items()}


def _result(intent: OrderIntent, placement: Placement | None) -> RetryResult:
    failure: FailedOrder | None = getattr(intent, "failed_order", None)
    if failure is not None:
        return RetryResult(
            False,
            error=failure.exchange_error or failure.reason,
            code=Code.FAILED_AGAIN.value,
            error_type=failure.error_type,
            failed_order_id=failure.pk,
        )
    if intent.home == Home.QUEUE:
        return RetryResult(True, queued=True)
    if placement is not None and placement.outcome == PlacementOutcome.PLACED:
        return RetryResult(True, order_id=placement.exchange_order_id)
    if intent.home == Home.EXCHANGE:
        return RetryResult(True, resolving=True)
    return RetryResult(False, error="It was canceled before it was placed", code=Code.CANCELED.value)
