"""Cancelling: `cancel_requested` holds an intent wherever it is, then the exchange is told.

From the commit that sets the flag such an intent is never queued, claimed or placed again. What rests
is canceled now; what is SUBMITTING is canceled as soon as it is known to live.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection, transaction

from exchanges import access, runtime
from exchanges.adapters.base import Exchange
from exchanges.adapters.exceptions import (
    ExchangeError,
    OrderNotFound,
    OutcomeUnknown,
    RefusedForNow,
    RequestRefused,
)
from exchanges.adapters.types import OrderRef, OrderReport
from orders import events, locks
from orders.clock import DatabaseClock
from orders.models import CancelReason, EventType, Home, OpenOrder, OrderEvent, OrderIntent, PendingOrder
from orders.services.applied import Applied, Outcome
from orders.services.settlement import outcomes_apply
from orders.states import RESTING, OrderStatus
from orders.writes import Writes

logger = logging.getLogger(__name__)

KEEP_CONNECTION_SECONDS = 0.25
CANCELABLE = frozenset({*RESTING, OrderStatus.CANCELING})
Results = list[OrderReport | ExchangeError]


def cancels_mark(
    intents: Collection[OrderIntent],
    writes: Writes,
    *,
    account_ids: Mapping[int, int],
    source: str,
    now: datetime,
) -> None:
    """Set `cancel_requested`. The caller holds the books' locks and the intents' locks, and runs `writes`.

    `account_ids`: each book's account, for the log.
    """
    fresh = [intent for intent in intents if not intent.cancel_requested]
    waiting = [intent for intent in fresh if intent.home == Home.QUEUE]
    for intent in fresh:
        intent.cancel_requested, intent.updated_at = True, now
    for intent in waiting:
        intent.home = Home.DONE  # nothing of it is on an exchange
    if fresh:
        writes.save(fresh, fields=("cancel_requested", "home", "updated_at"))
        writes.delete(PendingOrder, [intent.pk for intent in waiting])
        asked = EventType.CANCEL_REQUESTED
        log = [_event(intent, asked, account_ids[intent.book_id], source, now) for intent in fresh]
        log += [
            _event(intent, EventType.CANCELED, account_ids[intent.book_id], source, now) for intent in waiting
        ]
        writes.insert(log)
        events.publish(events.EventsLogged())


def _event(intent: OrderIntent, kind: EventType, account_id: int, source: str, now: datetime) -> OrderEvent:
    return OrderEvent(
        type=kind,
        source=source,
        user_id=intent.user_id,
        account_id=account_id,
        strategy_account_id=intent.strategy_account_id,
        intent_id=intent.pk,
        symbol=intent.symbol,
        created_at=now,
    )


def cancels_send(*, intent_ids: Iterable[int], source: str, now: datetime) -> Applied:
    """Tell the exchange to cancel every resting order of these intents whose cancel was asked for.

    Safe to repeat: an order that is gone by then is fetched and its end is applied.
    """
    clock = DatabaseClock(now)
    sent = CancelsSent(_claim(list(intent_ids), source=source, now=now), clock=clock)
    if sent.is_waiting and not connection.in_atomic_block:
        connection.close()  # others need it while the exchange answers
    return sent.record(source=source)


class CancelsSent:
    """Cancels of orders that stand as CANCELING: on their way from the moment this is made.

    What was asked for is canceled however late. What only gives way to a better order is left alone once the
    resolver may have found it alive: by then it may be wanted again.
    """

    def __init__(self, orders: Iterable[OpenOrder], *, clock: DatabaseClock) -> None:
        self._clock = clock
        groups: dict[tuple[int, str], list[OpenOrder]] = defaultdict(list)
        for order in orders:
            groups[order.account_id, order.intent.market_type].append(order)
        ways_out = [(group, _way_out(group, clock)) for group in groups.values()]
        self._started = [(group, runtime.spawn(_send(*way_out))) for group, way_out in ways_out]

    @property
    def is_waiting(self) -> bool:
        return bool(self._started)

    def record(self, *, source: str) -> Applied:
        """Wait for the answers and record them."""
        applied = Applied()
        for group, future in self._started:
            _give_connection_back(future)
            try:
                results: Results = future.result()
            except ExchangeError as exc:
                results = [exc for _ in group]
            except Exception:
                # A fault of our own: the orders stay CANCELING, and the resolver looks after their deadline.
                logger.exception("Canceling %s orders broke", len(group))
                continue
            applied.merge(_record(group, results, source=source, now=self._clock.now()))
        return applied


def _give_connection_back(future: Future[Results]) -> None:
    """A slow exchange holds this thread, not the connection that everybody else needs."""
    done, _ = wait([future], timeout=KEEP_CONNECTION_SECONDS)
    if not done and not connection.in_atomic_block:
        connection.close()


def _way_out(group: Sequence[OpenOrder], clock: DatabaseClock) -> tuple[OpenOrder, list[OrderRef]]:
    return group[0], [_ref(order, clock) for order in group]


def _ref(order: OpenOrder, clock: DatabaseClock) -> OrderRef:
    ref = order.placement.to_ref()
    if order.cancel_reason != CancelReason.MOVE_BACK or order.ask_at is None:
        return ref
    return replace(
        ref,
        # Canceled for a better one alone, and not because it is too large: not at any price, then.
        only_waiting=order.placement.remaining_quantity <= order.intent.remaining_quantity,
        planned_at_monotonic=clock.monotonic(order.updated_at),
        send_by_monotonic=clock.monotonic(order.ask_at),
    )


def _claim(intent_ids: list[int], *, source: str, now: datetime) -> list[OpenOrder]:
    """Move resting orders to CANCELING, and give each a time after which the resolver looks."""
    if not intent_ids:
        return []
    deadline = now + timedelta(seconds=settings.EXCHANGE_TIMEOUT_SECONDS)
    with transaction.atomic():
        held = locks.intents_for_update(pk__in=intent_ids, cancel_requested=True, home=Home.EXCHANGE)
        pks = list(held.values_list("pk", flat=True))
        rows = OpenOrder.objects.filter(pk__in=pks, status__in=CANCELABLE).select_related(
            "intent", "placement", "account"
        )
        orders = list(rows.order_by("pk"))
        resting = [order for order in orders if order.status != OrderStatus.CANCELING]
        writes = Writes()
        writes.insert(canceling_event(order, source=source, now=now) for order in resting)
        events.publish(events.EventsLogged())
        for order in orders:
            order.placement.intent = order.intent
            order.status, order.cancel_reason = OrderStatus.CANCELING, CancelReason.REQUESTED
            order.ask_at, order.updated_at = deadline, now
        writes.save(orders, fields=("status", "cancel_reason", "ask_at", "updated_at"))
        writes.run()
    return orders


def canceling_event(order: OpenOrder, *, source: str, now: datetime) -> OrderEvent:
    return OrderEvent(
        type=EventType.CANCELING,
        source=source,
        user_id=order.intent.user_id,
        account_id=order.account_id,
        strategy_account_id=order.strategy_account_id,
        intent_id=order.intent_id,
        symbol=order.intent.symbol,
        before=order.status,
        after=OrderStatus.CANCELING,
        data={"client_order_id": order.placement.client_order_id},
        created_at=now,
    )


async def _send(first: OpenOrder, refs: Sequence[OrderRef]) -> Results:
    exchange = access.exchange_for(first.account, first.intent.market_type)
    results = await exchange.cancel_orders(refs)
    return [
        await _ended(exchange, ref) if isinstance(result, OrderNotFound) else result
        for ref, result in zip(refs, results, strict=True)
    ]


async def _ended(exchange: Exchange, ref: OrderRef) -> OrderReport | ExchangeError:
    """A cancel that meets no such order was overtaken by the order's end: ask what it was."""
    try:
        return await exchange.fetch_order(ref)
    except ExchangeError as exc:
        return OutcomeUnknown(
            f"gone before the cancel, and not found: {exc.message}", venue_code=exc.venue_code
        )


def _record(group: Sequence[OpenOrder], results: Results, *, source: str, now: datetime) -> Applied:
    outcomes: list[Outcome] = []
    pending: set[int] = set()
    refusals: set[int] = set()
    for order, result in zip(group, results, strict=True):
        if isinstance(result, OrderReport):
            outcomes.append(Outcome(order.placement_id, result))
        else:
            logger.warning("Cancel of %s: %s", order.placement.client_order_id, result.message)
            pending.add(order.placement_id)
            if isinstance(result, RequestRefused) and not isinstance(result, RefusedForNow):
                refusals.add(order.placement_id)
    if pending:
        # Still CANCELING: the resolver finds it live and cancels again, or finds its end. By placement: a
        # stray's intent has another order by now.
        soon = now + timedelta(seconds=1)
        still = OpenOrder.objects.filter(status=OrderStatus.CANCELING)
        still.filter(placement_id__in=pending).update(ask_at=soon)
        if refusals:  # these keep their slots for a while: others have to give way
            moved = still.filter(placement_id__in=refusals, cancel_reason=CancelReason.MOVE_BACK)
            moved.update(cancel_reason=CancelReason.REFUSED)
    return outcomes_apply(outcomes, source=source, now=now)
