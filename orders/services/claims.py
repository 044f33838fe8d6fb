"""Taking orders from the queue to the exchange and back, under their books' locks; nothing is sent here.

Used by the webhook, with orders that are just being written, and by every rebalance. The caller holds the
books' locks and has a transaction open; what is claimed here stands as SUBMITTING and CANCELING rows, which
other planners leave alone, so the locks need not outlive the transaction.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import OuterRef, QuerySet, Subquery
from django.db.models.expressions import RawSQL

from exchanges.adapters.types import MarketType, OrderType, Side
from exchanges.models import Account
from orders.locks import intents_for_update
from orders.models import (
    DELIVERY_CONTENT,
    Book,
    CancelReason,
    EventSource,
    EventType,
    Home,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    PendingOrder,
    Placement,
)
from orders.planning import BookPlan, Candidate, Lane, Standing, plan_book, priority_of, sort_price_of
from orders.prepared import Given, Query
from orders.services import submission
from orders.services.book_states import BookState, book_states
from orders.services.cancellation import canceling_event
from orders.services.guards import denials, may_deny
from orders.states import OrderStatus
from orders.writes import Writes, draw_keys, next_key

JUDGED_AGAIN = timedelta(minutes=1)
FRESH = 1 << 62  # ids of orders that have none yet: behind every order that was there before, in their order


@dataclass(frozen=True, slots=True)
class Fresh:
    """An order of a webhook that is being written, as far as its rank goes."""

    number: int  # its place in the webhook
    book_id: int
    side: Side
    order_type: OrderType
    price: object
    stop_price: object

    def candidate(self, now: datetime) -> Candidate:
        return Candidate(
            FRESH + self.number,
            self.side,
            priority_of(self.order_type),
            sort_price_of(self.order_type, self.side, price=self.price, stop_price=self.stop_price),  # type: ignore[arg-type]
            now,
            Standing.WAITING,
        )


@dataclass(slots=True)
class Claim:
    """What a plan takes, from the plan to the rows. `plan`, `take`, then `write`, in this order."""

    now: datetime
    source: str
    states: dict[int, BookState] = field(default_factory=dict)
    plans: dict[int, BookPlan] = field(default_factory=dict)
    fresh: set[int] = field(default_factory=set)  # numbers of the webhook's orders that go out at once
    placements: list[Placement] = field(default_factory=list)
    moves: list[OpenOrder] = field(default_factory=list)  # to be canceled and to come back
    leverage: dict[int, int] = field(default_factory=dict)  # book id -> what the exchange is to be told
    accounts: dict[int, Account] = field(default_factory=dict)
    _intents: list[OrderIntent] = field(default_factory=list)
    _held: list[PendingOrder] = field(default_factory=list)  # a guard says not now
    _held_events: list[OrderEvent] = field(default_factory=list)
    _version: int = 0
    _resting: dict[tuple[int, Lane], int] = field(default_factory=dict)

    def plan(
        self,
        books: Iterable[Book],
        *,
        version: int,
        fresh: Sequence[Fresh] = (),
        without: Collection[int] = (),
    ) -> None:
        """Plan each book. `without`: intents that this very transaction cancels."""
        self._version = version
        self._resting.clear()
        self.states = book_states(books, version=version, now=self.now)
        for one in fresh:
            self.states[one.book_id].orders.append(one.candidate(self.now))
        for pk, state in self.states.items():
            state.orders = [_leaving(order) if order.id in without else order for order in state.orders
                            if not (order.id in without and order.waits)]  # fmt: skip
            self.plans[pk] = plan_book(state.orders, caps=state.caps, external=state.external)
            self.accounts[state.book.account_id] = state.book.account
        self._let_denied_step_aside()
        self.fresh = {pk - FRESH for plan in self.plans.values() for pk in plan.to_submit if pk >= FRESH}

    def _let_denied_step_aside(self) -> None:
        """Plan without what a guard denies by now: nothing is canceled for it, and no slot stays empty."""
        if not may_deny(self.accounts, version=self._version):
            return
        while wanted := {pk: number for number, pk in enumerate(self._wanted) if pk < FRESH}:
            intents = sorted(OrderIntent.objects.filter(pk__in=wanted), key=lambda one: wanted[one.pk])
            denied = denials(intents, now=self.now, version=self._version)
            if not denied:
                return
            self._hold(denied)
            for pk in {intent.book_id for intent in intents if intent.pk in denied}:
                state = self.states[pk]
                state.orders = [order for order in state.orders if order.id not in denied]
                self.plans[pk] = plan_book(state.orders, caps=state.caps, external=state.external)

    @property
    def _wanted(self) -> list[int]:
        """What waits and is to go out, now or into a slot that is still to be freed, in this order."""
        plans = list(self.plans.values())
        return [pk for plan in plans for pk in plan.to_submit] + [
            pk for plan in plans for pk in plan.to_follow
        ]

    @property
    def held_back(self) -> set[int]:
        """Books where a guard made orders step aside: others may stand behind them."""
        return {pending.book_id for pending in self._held}

    def resting(self, book_id: int, lane: Lane) -> int:
        """How many orders hold a slot of a lane once the plan is carried out."""
        key = book_id, lane
        if key not in self._resting:  # asked for by each order that has to wait
            self._resting[key] = self._count_resting(book_id, lane)
        return self._resting[key]

    def _count_resting(self, book_id: int, lane: Lane) -> int:
        state, plan = self.states[book_id], self.plans[book_id]
        lanes = {order.id: order.lane for order in state.orders}
        sent = sum(lanes[pk] is lane for pk in (*plan.to_submit, *plan.to_follow))
        return state.resting(lane) + sent - sum(lanes[pk] is lane for pk in plan.to_cancel)

    @property
    def waiting_ids(self) -> set[int]:
        return {pk for plan in self.plans.values() for pk in plan.to_submit if pk < FRESH}

    @property
    def moving_ids(self) -> set[int]:
        return {pk for plan in self.plans.values() for pk in plan.to_cancel}

    @property
    def ids(self) -> set[int]:
        """The intents that have to be locked before `take`."""
        return self.waiting_ids | self.moving_ids

    def take(self, locked: Iterable[OrderIntent]) -> int:
        """Look at the locked intents once more; return how many placements want a key.

        Between the plan and the lock a report may have come: what filled, or is asked to be canceled,
        is not taken.
        """
        waiting, moving = self.waiting_ids, self.moving_ids
        intents = {intent.pk: intent for intent in locked if not intent.cancel_requested}
        self._intents = [
            intent
            for pk, intent in intents.items()
            if pk in waiting and intent.home == Home.QUEUE and intent.remaining_quantity > 0
        ]
        # The best go first: where the exchange takes fewer than we think, the worst are refused.
        turn = {pk: at for plan in self.plans.values() for at, pk in enumerate(plan.to_submit)}
        self._intents.sort(key=lambda intent: turn[intent.pk])
        self._hold_back()
        if moving:
            self._move({pk: intents[pk] for pk in moving if pk in intents})
        return len(self._intents)

    def _hold_back(self) -> None:
        """Let what a guard denies by now step aside: it waits on, says why, and is judged again."""
        denied = denials(self._intents, now=self.now, version=self._version)
        if not denied:
            return
        self._intents = [intent for intent in self._intents if intent.pk not in denied]
        self._hold(denied)

    def _hold(self, denied: Mapping[int, str]) -> None:
        for pending in PendingOrder.objects.filter(pk__in=denied).select_related("intent").order_by("pk"):
            was, pending.reason = pending.reason, denied[pending.pk][:200]
            pending.waits_until = self.now + JUDGED_AGAIN
            self._held.append(pending)
            if _without_figures(was) != _without_figures(pending.reason):  # once, not with every look
                self._held_events.append(
                    queued_event(
                        pending.intent,
                        account_id=pending.account_id,
                        source=EventSource.GUARD,
                        now=self.now,
                        message=pending.reason,
                    )
                )

    def placement_keys(self) -> list[int]:
        """Return a key for each placement of `take`: drawn with the locks, where that is possible."""
        drawn = [getattr(intent, "placement_key", None) for intent in self._intents]
        return [key for key in drawn if key is not None] or draw_keys((Placement, len(drawn)))[0]

    @property
    def left_waiting(self) -> set[int]:
        """Books where more orders were seen waiting than are taken."""
        taken = {intent.pk for intent in self._intents}
        return {
            pk
            for pk, state in self.states.items()
            if any(order.waits and order.id not in taken for order in state.orders)
        }

    def _move(self, intents: dict[int, OrderIntent]) -> None:
        for order in _resting(list(intents)):
            if order.placement.exchange_filled_quantity or order.placement.child_order_id:
                continue
            order.intent = order.placement.intent = intents[order.pk]
            order.account = self.accounts[order.account_id]
            self.moves.append(order)

    def write(self, writes: Writes, keys: Sequence[int]) -> list[OrderEvent]:
        """Collect the rows of what is taken; returns the events, which the caller writes with its own."""
        log: list[OrderEvent] = [*self._held_events]
        for intent, key in zip(self._intents, keys, strict=True):
            log.append(self._place(intent, key))
        writes.delete(PendingOrder, [intent.pk for intent in self._intents])
        writes.save(self._held, fields=("waits_until", "reason"))
        writes.save(self._intents, fields=("home", "updated_at"))
        writes.insert(self.placements)
        writes.insert(submission.open_order_for(placement, now=self.now) for placement in self.placements)
        log += [self._cancel(order) for order in self.moves]
        writes.save(self.moves, fields=("status", "cancel_reason", "ask_at", "updated_at"))
        return log

    def _place(self, intent: OrderIntent, key: int) -> OrderEvent:
        state = self.states[intent.book_id]
        number = (intent.last_number or 0) + 1  # type: ignore[attr-defined]  # annotated by `lockable`
        placement = submission.placement_for(
            intent, account_id=state.book.account_id, number=number, now=self.now
        )
        placement.pk, placement.is_retry = key, intent.pk in state.retries
        intent.home, intent.updated_at = Home.EXCHANGE, self.now
        self.placements.append(placement)
        self._note_leverage(intent, state.book)
        return submission.submitting_event(placement, source=self.source, now=self.now)

    def _note_leverage(self, intent: OrderIntent, book: Book) -> None:
        wanted = intent.strategy_account.leverage
        if intent.market_type == MarketType.FUTURES and wanted > (book.leverage or 0):
            self.leverage[book.pk] = max(wanted, self.leverage.get(book.pk, 0))

    def _cancel(self, order: OpenOrder) -> OrderEvent:
        event = canceling_event(order, source=EventSource.QUEUE, now=self.now)
        order.status, order.cancel_reason = OrderStatus.CANCELING, CancelReason.MOVE_BACK
        order.ask_at = self.now + timedelta(seconds=settings.EXCHANGE_TIMEOUT_SECONDS)
        order.updated_at = self.now
        return event


def lockable(intent_ids: Collection[int], *, with_keys: bool = False) -> list[OrderIntent]:
    """Lock intents and read with them what `Claim.take` and a submission need.

    `with_keys`: draw a placement's key beside each, for `Claim.placement_keys`.
    """
    return (_lockable_with_keys if with_keys else _lockable)(intent_ids)


def _rows(ids: Given, key: RawSQL | None = None) -> QuerySet[OrderIntent]:
    last = Placement.objects.filter(intent=OuterRef("pk")).order_by("-number").values("number")[:1]
    rows = intents_for_update(pk__any=ids).select_related("strategy_account", "delivery")
    rows = rows.defer(*(f"delivery__{one}" for one in DELIVERY_CONTENT))
    if key is not None:
        rows = rows.annotate(placement_key=key)
    return rows.annotate(last_number=Subquery(last))


_lockable = Query(lambda ids: _rows(ids))
_lockable_with_keys = Query(lambda ids: _rows(ids, next_key(Placement)))


_resting = Query(
    lambda ids: (
        OpenOrder.objects.filter(pk__any=ids, status=OrderStatus.NEW)
        .select_related("placement")
        .order_by("pk")
    )
)


def queued_event(
    intent: OrderIntent, *, account_id: int, source: str, now: datetime, message: str = ""
) -> OrderEvent:
    """The line that says that an intent began to wait."""
    return OrderEvent(
        type=EventType.QUEUED,
        source=source,
        user_id=intent.user_id,
        account_id=account_id,
        strategy_account_id=intent.strategy_account_id,
        intent_id=intent.pk,
        symbol=intent.symbol,
        message=message,
        created_at=now,
    )


def _without_figures(reason: str) -> str:
    """Return a guard's sentence without its numbers: they change with the prices, the reason does not."""
    return re.sub(r"[0-9]+(\.[0-9]+)?", "", reason)


def _leaving(order: Candidate) -> Candidate:
    return order if order.standing is Standing.FIXED else replace(order, standing=Standing.LEAVING)
