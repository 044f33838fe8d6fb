"""The rows behind a settlement: how they are read, changed and written, in one place."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self

from exchanges.adapters.types import OrderReport
from exchanges.fields import plain
from orders import events, locks
from orders.models import (
    DELIVERY_CONTENT,
    EventType,
    FailedOrder,
    Home,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    PendingOrder,
    Placement,
    PlacementOutcome,
)
from orders.models.open_order import MOVED_BACK
from orders.prepared import Query
from orders.services import failures, ledger
from orders.services.applied import Applied, Outcome
from orders.states import CLOSED, RESTING, OrderStatus
from orders.writes import Writes

ASK_SOON = timedelta(seconds=1)


def _untouched(placement_ids: Collection[int]) -> set[int]:
    """Return which placements stand as they were made: no report, no refusal, no cancel since."""
    if not placement_ids:
        return set()
    return {pk for (pk,) in _as_made(placement_ids)}


_lock_intents_of = Query(lambda ids: locks.intents_for_update(placements__pk__any=ids).values_list("pk"))
_as_made = Query(
    lambda ids: Placement.objects.filter(
        pk__any=ids,
        outcome=PlacementOutcome.UNRESOLVED,
        exchange_status="",
        exchange_order_id="",
        open_order__status=OrderStatus.SUBMITTING,
        intent__cancel_requested=False,
    ).values_list("pk")
)
_whole = Query(
    lambda ids: (
        Placement.objects.filter(pk__any=ids)
        .select_related("intent__delivery", "open_order", "intent__failed_order")
        .defer(*(f"intent__delivery__{one}" for one in DELIVERY_CONTENT))
    )
)


@dataclass(slots=True)
class Rows:
    """One transaction's rows: read under their intents' locks, changed in memory, written once.

    What is done with them is decided in orders.services.settlement.
    """

    source: str
    now: datetime
    placements: dict[int, Placement]
    open_orders: dict[int, OpenOrder]  # by placement id
    failed: dict[int, FailedOrder]  # by intent id
    booked: ledger.Booked
    parts: list[Applied] = field(default_factory=list)  # what is left to do, by group of outcomes
    applied: Applied = field(default_factory=Applied)  # the part that is being worked at
    touched_placements: dict[int, Placement] = field(default_factory=dict)
    touched_orders: dict[int, OpenOrder] = field(default_factory=dict)
    adopted: dict[int, OpenOrder] = field(default_factory=dict)  # by placement id, not saved yet
    ended: dict[int, OpenOrder] = field(default_factory=dict)
    touched_intents: dict[int, OrderIntent] = field(default_factory=dict)
    fills: list[ledger.NewFill] = field(default_factory=list)
    new_failed: list[FailedOrder] = field(default_factory=list)
    shrunk_failed: dict[int, FailedOrder] = field(default_factory=dict)
    healed_failed: dict[int, FailedOrder] = field(default_factory=dict)
    asked_at: datetime | None = None  # when the exchange was asked for what it answers here
    new_pending: dict[int, PendingOrder] = field(default_factory=dict)  # by intent id
    ended_pending: set[int] = field(default_factory=set)  # intent ids
    log: list[OrderEvent] = field(default_factory=list)
    facts: list[events.Fact] = field(default_factory=list)

    @classmethod
    def load(
        cls, outcomes: Sequence[Outcome], *, source: str, now: datetime, in_memory: Mapping[int, Placement]
    ) -> Self:
        placement_ids = {outcome.placement_id for outcome in outcomes}
        _lock_intents_of(placement_ids)
        # In statements of their own: only what is read after the lock is sure to be current.
        # Not of a second placement: a late fill of the first may have changed its intent meanwhile.
        remembered = {pk for pk in placement_ids & in_memory.keys() if in_memory[pk].number == 1}
        placements = {pk: in_memory[pk] for pk in _untouched(remembered)}
        open_orders = {pk: placement.open_order for pk, placement in placements.items()}
        failed: dict[int, FailedOrder] = {}
        if rest := placement_ids - placements.keys():
            intents: dict[int, OrderIntent] = {}
            for row in _whole(rest):
                placements[row.pk] = row
                row.intent = intents.setdefault(row.intent_id, row.intent)  # two placements, one intent
                if (order := getattr(row, "open_order", None)) is not None:
                    open_orders[row.pk] = order
                if (failure := getattr(row.intent, "failed_order", None)) is not None:
                    failed[row.intent_id] = failure
        with_fills = {one.placement_id for one in outcomes if getattr(one.result, "fills", ())}
        booked = ledger.booked_trades(row for row in placements.values() if row.pk in with_fills)
        return cls(source, now, placements, open_orders, failed, booked)

    def begin_part(self) -> None:
        self.applied = Applied()
        self.parts.append(self.applied)

    # --- changes of state -------------------------------------------------------------------------

    def _move(
        self, placement: Placement, order: OpenOrder, after: OrderStatus, kind: EventType, report: OrderReport
    ) -> None:
        before = order.status
        if before in (OrderStatus.SUBMITTING, OrderStatus.CANCELING):
            self.applied.settled_books.add(order.book_id)
        # Since when it lives after all that was to be moved back: see `_was_moved_back`.
        if before not in RESTING or order.cancel_reason not in MOVED_BACK:
            order.updated_at = self.now
        order.status, order.ask_at, order.not_found_count = after, None, 0
        self._touch(placement, order)
        self._event(placement, kind, before=before, after=after, report=report)

    def _touch(self, placement: Placement, order: OpenOrder) -> None:
        if placement.pk not in self.adopted:  # that one is written as a whole
            self.touched_orders[placement.pk] = order

    def _end(
        self,
        placement: Placement,
        order: OpenOrder,
        kind: EventType,
        home: Home,
        *,
        after: OrderStatus,
        report: OrderReport | None = None,
        frees: bool = True,
    ) -> None:
        assert after in CLOSED
        del self.open_orders[placement.pk]
        self.touched_orders.pop(placement.pk, None)
        if self.adopted.pop(placement.pk, None) is None:
            self.ended[placement.pk] = order
        moved = home == Home.QUEUE and order.cancel_reason in MOVED_BACK
        if frees:
            (self.applied.moved_books if moved else self.applied.freed_books).add(order.book_id)
        self._home(placement.intent, home)
        self._event(placement, kind, before=order.status, after=after, report=report)

    def _home(self, intent: OrderIntent, home: Home) -> None:
        intent.home = home
        self.touched_intents[intent.pk] = intent

    def _leave_queue(self, intent: OrderIntent) -> None:
        if intent.home == Home.QUEUE and self.new_pending.pop(intent.pk, None) is None:
            self.ended_pending.add(intent.pk)
        self.applied.queued.pop(intent.pk, None)

    def _fail(self, intent: OrderIntent, failure: FailedOrder) -> None:
        self.failed[intent.pk] = failure
        self.applied.failed[intent.pk] = failure
        self.new_failed.append(failure)

    def _shrink_failed(self, intent: OrderIntent) -> None:
        failure = self.failed.get(intent.pk)
        if failure is None:
            return
        if intent.remaining_quantity > 0:
            failures.shrink(failure, intent)
            if failure.pk is not None:  # else it is written with the new ones
                self.shrunk_failed[intent.pk] = failure
        else:
            self._heal_failed(intent)
            self._home(intent, Home.DONE)

    def _heal_failed(self, intent: OrderIntent) -> None:
        """It did its job after all, or lives: nobody has to look at it."""
        failure = self.failed.pop(intent.pk, None)
        if failure is None:
            return
        self.applied.failed.pop(intent.pk, None)
        self.shrunk_failed.pop(intent.pk, None)
        if failure.pk is None:  # it failed in this very transaction
            self.new_failed.remove(failure)
        else:
            self.healed_failed[intent.pk] = failure

    def _event(
        self,
        placement: Placement,
        kind: EventType,
        *,
        before: str = "",
        after: str = "",
        message: str = "",
        code: str = "",
        report: OrderReport | None = None,
    ) -> None:
        intent = placement.intent
        data: dict[str, Any] = {
            "client_order_id": placement.client_order_id,
            "filled_quantity": plain(intent.filled_quantity),
        }
        if code:
            data["code"] = code
        if report is not None:
            data |= {"exchange_order_id": report.exchange_order_id, "exchange_status": report.status.value}
        self.log.append(
            OrderEvent(
                type=kind,
                source=self.source,
                user_id=intent.user_id,
                account_id=placement.account_id,
                strategy_account_id=intent.strategy_account_id,
                intent_id=intent.pk,
                symbol=intent.symbol,
                before=before,
                after=after,
                message=(message or placement.exchange_words)[:500],
                data=data,
                occurred_at=report.updated_at if report else None,
                created_at=self.now,
            )
        )

    # --- writing ----------------------------------------------------------------------------------

    def write(self) -> None:
        """Write everything that changed, at once."""
        writes = Writes()
        self._delete(writes)
        ledger.fills_book(self.fills, writes, now=self.now)
        writes.save(self.touched_placements.values(), fields=PLACEMENT_FIELDS)
        for intent in self.touched_intents.values():
            intent.updated_at = self.now
        writes.save(self.touched_intents.values(), fields=INTENT_FIELDS)
        fields = "status", "ask_at", "not_found_count", "updated_at"
        writes.save(self.touched_orders.values(), fields=fields)
        writes.insert(self.adopted.values())
        writes.insert(self.new_pending.values())
        writes.save(self.shrunk_failed.values(), fields=("quantity", "order_params", "updated_at"))
        writes.insert(self.new_failed)
        writes.insert(self.log)
        writes.run()
        self._have_surplus_looked_at()
        for failure in self.new_failed:
            self.facts.append(events.OrderFailed(failure.pk, failure.webhook_id))
        if self.log:
            self.facts.append(events.EventsLogged())
        events.publish(*self.facts)

    def _have_surplus_looked_at(self) -> None:
        """Should this process die before it takes the surplus back, the resolver comes upon it."""
        if to_shrink := [intent_id for part in self.parts for intent_id in part.to_shrink]:
            rows = OpenOrder.objects.filter(pk__in=to_shrink, status__in=RESTING)
            rows.update(ask_at=self.now + ASK_SOON)

    def _delete(self, writes: Writes) -> None:
        ended = {order.pk for order in self.ended.values()}
        writes.delete(OpenOrder, ended)
        writes.delete(FailedOrder, [failure.pk for failure in self.healed_failed.values()])
        writes.delete(PendingOrder, self.ended_pending)
        adopted = {order.pk for order in self.adopted.values()}
        failed = {failure.intent_id for failure in self.new_failed}
        waits_again = self.ended_pending & self.new_pending.keys()
        if ended & adopted or failed & self.healed_failed.keys() or waits_again:
            writes.run()  # what comes in their place bears their unique keys


INTENT_FIELDS = ("home", "filled_quantity", "retry_count", "updated_at")
PLACEMENT_FIELDS = (
    "outcome",
    "exchange_order_id",
    "child_order_id",
    "filled_quantity",
    "exchange_filled_quantity",
    "exchange_status",
    "exchange_words",
)
