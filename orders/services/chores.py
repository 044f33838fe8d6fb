"""What applying reports leaves to be done at the exchange, whoever applied them."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import timedelta

from django.conf import settings
from django.db import transaction

from exchanges.adapters.exceptions import ExchangeError
from orders import events, locks
from orders.clock import DatabaseClock, database_now
from orders.models import CancelReason, EventSource, Home, OpenOrder, Placement
from orders.services.applied import Applied
from orders.services.cancellation import CancelsSent, canceling_event, cancels_send
from orders.services.gaps import fill_gaps
from orders.services.submission import place_anew
from orders.states import RESTING, OrderStatus
from orders.writes import Writes

logger = logging.getLogger(__name__)

ROUNDS = 3  # what a chore brings to light is done as well; the resolver does what is left after that


def chores_run(applied: Applied, *, source: str) -> Applied:
    """Fetch missing fills, place again what never arrived, cancel what lives after its cancel or is too much.

    Returns what these brought to light. What fails here is asked again by the resolver and by reconciliation.
    """
    total, todo = Applied(), applied
    for _ in range(ROUNDS):
        if not (todo.gaps or todo.to_place_anew or todo.to_cancel or todo.to_shrink or todo.strays):
            break
        later = Applied()
        try:
            if todo.gaps:
                later.merge(fill_gaps(placement_ids=todo.gaps, source=source, now=database_now()))
            if todo.to_place_anew:
                later.merge(place_anew(intent_ids=todo.to_place_anew, source=source))
            if todo.to_cancel:
                later.merge(cancels_send(intent_ids=set(todo.to_cancel), source=source, now=database_now()))
            if todo.to_shrink:
                later.merge(shrink(todo.to_shrink))
            if todo.strays:
                later.merge(strays_cancel(todo.strays))
        except (ExchangeError, TimeoutError) as exc:
            logger.warning("Fills, placements or cancels have to wait: %s", exc)
        later.gaps = [pk for pk in later.gaps if pk not in todo.gaps]  # once is enough: it is not there yet
        total.merge(later)
        todo = later
    return total


def strays_cancel(placement_ids: Collection[int]) -> Applied:
    """Cancel orders that live although their intents have done with them: each would be bought twice.

    They were proven absent, twice, and are there all the same. They have no row of their own any more: what
    the exchange answers is applied like any late report.
    """
    rows = Placement.objects.filter(pk__in=placement_ids).select_related("intent", "account")
    orders = [OpenOrder(intent=row.intent, placement=row, account=row.account) for row in rows]
    for order in orders:
        logger.error("%s lives beside its successor: canceling it", order.placement.client_order_id)
    return CancelsSent(orders, clock=DatabaseClock.ask()).record(source=EventSource.ANSWER)


def shrink(intent_ids: Collection[int]) -> Applied:
    """Take back placements that ask for more than is left of their intents; the rest is queued again.

    An earlier placement has filled after its end was told: what rests now would buy that part twice.
    """
    clock = DatabaseClock.ask()
    now = clock.read
    with transaction.atomic():
        held = locks.intents_for_update(pk__in=list(intent_ids), home=Home.EXCHANGE)
        pks = list(held.values_list("pk", flat=True))
        rows = OpenOrder.objects.filter(pk__in=pks, status__in=RESTING)
        orders = [
            order
            for order in rows.select_related("intent", "placement", "account").order_by("pk")
            if order.placement.remaining_quantity > order.intent.remaining_quantity
        ]
        writes = Writes()
        writes.insert(canceling_event(order, source=EventSource.QUEUE, now=now) for order in orders)
        for order in orders:
            logger.warning("%s asks for more than is left: taking it back", order.placement.client_order_id)
            order.placement.intent = order.intent
            order.status, order.cancel_reason = OrderStatus.CANCELING, CancelReason.MOVE_BACK
            order.ask_at, order.updated_at = now + timedelta(seconds=settings.EXCHANGE_TIMEOUT_SECONDS), now
        writes.save(orders, fields=("status", "cancel_reason", "ask_at", "updated_at"))
        writes.run()
        if orders:
            events.publish(events.EventsLogged())
    return CancelsSent(orders, clock=clock).record(source=EventSource.ANSWER)  # whoever wanted it: an answer
