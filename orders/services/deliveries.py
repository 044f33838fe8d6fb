"""Webhook deliveries: who holds one, who takes over when its process died, and its final answer."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import close_old_connections, connection, transaction
from django.db.models import F
from django.utils import timezone

from exchanges.adapters.types import OrderType
from orders import locks, prepared
from orders.bulk import bulk_save
from orders.clock import DatabaseClock, database_now
from orders.models import (
    DeliveryState,
    EventSource,
    FailedOrder,
    Home,
    OpenOrder,
    OrderIntent,
    PendingOrder,
    Placement,
    PlacementOutcome,
    WebhookDelivery,
)
from orders.names import new_owner
from orders.services import submission
from orders.services.applied import Applied, Outcome, Stopped
from orders.services.cancellation import cancels_send
from orders.services.queue import errands_run, rebalance
from orders.services.settlement import outcomes_apply
from orders.services.switches import stop_reasons
from orders.side_by_side import side_by_side
from orders.states import OrderStatus
from orders.webhook.answers import PairOutcome, WebhookAnswer, compose

logger = logging.getLogger(__name__)

MARKET_WAITS_SECONDS = 60.0
TOO_OLD = "the signal was too old when it could be sent"

# Made when the process begins, and not by its first webhooks: several at the same instant would each make
# one, and what is written down under a name that is given up is nobody's.
_owner = new_owner()


def owner() -> str:
    """Return this process's name as a lease holder; a forked child has one of its own."""
    return _owner


def _rename() -> None:
    global _owner  # noqa: PLW0603
    _owner = new_owner()


os.register_at_fork(after_in_child=_rename)


def lease_until(now: datetime) -> datetime:
    return now + timedelta(seconds=settings.DELIVERY_LEASE_SECONDS)


class LeaseKeeper:
    """Renews the leases of the deliveries that this process works on, all with one statement.

    A process that is frozen or dead renews nothing: its deliveries are taken over.
    """

    def __init__(self) -> None:
        self._held: Counter[int] = Counter()  # a delivery may be held by two threads of this process
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._wake = threading.Event()

    def hold(self, delivery_id: int) -> None:
        with self._lock:
            self._held[delivery_id] += 1
            if self._thread is None or not self._thread.is_alive() or self._pid != os.getpid():
                self._pid = os.getpid()
                self._thread = threading.Thread(target=self._renew_for_ever, name="lease-keeper", daemon=True)
                self._thread.start()

    def release(self, delivery_id: int) -> None:
        with self._lock:
            self._held[delivery_id] -= 1
            if self._held[delivery_id] <= 0:
                del self._held[delivery_id]

    def _renew_for_ever(self) -> None:
        while True:
            self._wake.wait(settings.DELIVERY_LEASE_SECONDS / 3)
            with self._lock:
                held = list(self._held)
            if not held:
                continue
            try:
                self._renew(held)
            except Exception:  # whatever it was: the next round tries again, the thread must not end
                logger.exception("Leases of %s deliveries could not be renewed", len(held))
            finally:
                close_old_connections()

    @staticmethod
    def _renew(held: list[int]) -> None:
        # Only a lease that is still ours and alive: what was lost while we slept stays lost.
        now = database_now()
        WebhookDelivery.objects.filter(
            pk__in=held, lease_owner=owner(), state=DeliveryState.WORKING, lease_expires_at__gt=now
        ).update(lease_expires_at=lease_until(now))


keeper = LeaseKeeper()


# Written out: it stands before the first byte, and the ORM takes longer to compile it than it takes to run.
_MARK = """
UPDATE orders_webhookdelivery SET started_at = :now
 WHERE lease_expires_at > :now AND started_at IS NULL AND id = %s AND lease_owner = %s"""
_AT_VERSION = " AND EXISTS (SELECT 1 FROM exchanges_configversion WHERE id = 1 AND version = %s)"


def delivery_start(delivery_id: int, *, version: int | None = None) -> bool:
    """Mark that bytes may leave from now on. False: the lease is lost, nothing may be sent.

    The mark is what tells a later owner whether the orders may exist: without it, surely not.
    With `version`, False also when the configuration is another one by now: a switch may have been
    flipped since the orders were planned, look at the switches and ask again without it.
    """
    sql, values = _at_the_clock(_MARK if version is None else _MARK + _AT_VERSION)
    values += [delivery_id, owner(), *([] if version is None else [version])]
    return prepared.changed(sql, values) == 1


_ANSWER = """
UPDATE orders_webhookdelivery
   SET state = 'ANSWERED', answered_at = :now, response_status = %s, response = %s, timings = %s,
       timed_out = %s
 WHERE id = %s AND lease_owner = %s AND state = 'WORKING'"""


def delivery_answer(
    delivery_id: int, answer: WebhookAnswer, *, timings: dict[str, float], timed_out: bool = False
) -> None:
    """Record the final answer, if the delivery is still ours and has none."""
    said, took = json.dumps(answer.body), json.dumps(timings)
    sql, values = _at_the_clock(_ANSWER)
    prepared.changed(sql, [*values, answer.status, said, took, timed_out, delivery_id, owner()])


def _at_the_clock(sql: str) -> tuple[str, list[Any]]:
    """Return a statement with the database's clock in place of `:now`, and the values that this takes."""
    if connection.vendor == "postgresql":
        return sql.replace(":now", "statement_timestamp()"), []
    now = connection.ops.adapt_datetimefield_value(timezone.now())
    return sql.replace(":now", "%s"), [now] * sql.count(":now")


def take_over_expired(*, now: datetime | None = None) -> int:
    """Take over every delivery whose lease ended unanswered; return how many got their answer.

    Strategies side by side, each one's deliveries in their order: an exchange that does not answer holds up
    no other strategy's.
    """
    at = now or database_now()
    expired = WebhookDelivery.objects.filter(state=DeliveryState.WORKING, lease_expires_at__lt=at)
    by_strategy: dict[int | None, list[int]] = defaultdict(list)
    for pk, strategy_id in expired.order_by("pk").values_list("pk", "strategy_id")[:100]:
        by_strategy[strategy_id].append(pk)
    return sum(side_by_side(_take_over_surely, by_strategy.values()))


def _take_over_surely(delivery_ids: Iterable[int]) -> int:
    answered = 0
    for pk in delivery_ids:
        try:
            answered += take_over(pk) is not None
        except Exception:  # guards the other deliveries
            logger.exception("Delivery %s could not be taken over", pk)
    return answered


def take_over(delivery_id: int) -> WebhookAnswer | None:
    """Carry on with a delivery whose process died: send what was never started, settle what was.

    Returns the final answer once every order's fate is known, else None: the lease then ends again
    and whoever notices looks once more.
    """
    clock = DatabaseClock.ask()
    now = clock.read
    with transaction.atomic():
        delivery = locks.deliveries_for_update(
            pk=delivery_id, state=DeliveryState.WORKING, lease_expires_at__lt=now
        ).first()
        if delivery is None:
            return None
        delivery.lease_owner, delivery.lease_expires_at = owner(), lease_until(now)
        delivery.save(update_fields=["lease_owner", "lease_expires_at"])
        placements = _unstarted(delivery, now=now) if delivery.started_at is None else []
        stops = stop_reasons({placement.intent.strategy_account_id for placement in placements})
        age = (now - delivery.received_at).total_seconds()
        limit = delivery.strategy.max_signal_age_seconds if delivery.strategy else None
    logger.warning(
        "Delivery %s taken over; started: %s", delivery.webhook_id, delivery.started_at is not None
    )
    keeper.hold(delivery.pk)
    try:
        if delivery.started_at is None:
            if delivery_start(delivery.pk):
                too_old = {p.pk: TOO_OLD for p in placements if age > _longest_wait(p, limit)}
                stopped = {
                    p.pk: stops[sa] for p in placements if (sa := p.intent.strategy_account_id) in stops
                }
                _carry_out(delivery, placements, too_old | stopped, clock)
        else:
            # Whether they were sent nobody knows; twice does no harm.
            after_dispatch(_send_cancels(delivery, now=now))
            anew = _never_placed_intents(delivery)
            if anew:
                after_dispatch(submission.place_anew(intent_ids=anew, source=EventSource.RESOLVER))
        waiting = OrderIntent.objects.filter(delivery=delivery, home=Home.QUEUE)
        if books := set(waiting.values_list("book_id", flat=True)):
            rebalance(book_ids=books)
        return _answer_if_settled(delivery)
    finally:
        keeper.release(delivery.pk)


def _unstarted(delivery: WebhookDelivery, *, now: datetime) -> list[Placement]:
    """Give placements that never left a new deadline. No byte carried their ids, so the ids stand.

    Only those of the acceptance itself, of the same moment as their intents: what another process took from
    the queue since is that one's, and may be on the exchange, or filled and its id free for a second order.
    """
    list(locks.intents_for_update(delivery=delivery).values_list("pk", flat=True))
    rows = Placement.objects.filter(
        intent__delivery=delivery,
        number=1,
        created_at=F("intent__created_at"),
        outcome=PlacementOutcome.UNRESOLVED,
        open_order__status=OrderStatus.SUBMITTING,
    ).select_related("intent", "open_order", "account")
    placements = list(rows.order_by("pk"))
    send_by, ask_at = submission.deadlines(now)
    for placement in placements:
        placement.send_by = send_by
        placement.open_order.ask_at = ask_at
    bulk_save(placements, fields=("send_by",))
    bulk_save([placement.open_order for placement in placements], fields=("ask_at",))
    return placements


def _carry_out(
    delivery: WebhookDelivery, placements: list[Placement], stops: dict[int, str], clock: DatabaseClock
) -> None:
    now = clock.now()
    applied = _send_cancels(delivery, now=now)
    # What a later cancel or a switch caught while it waited is never sent.
    held = [p for p in placements if p.intent.cancel_requested or p.pk in stops]
    withdrawn = [Outcome(p.pk, Stopped(stops.get(p.pk, "canceled before it was sent"))) for p in held]
    applied.merge(outcomes_apply(withdrawn, source=EventSource.WEBHOOK, now=now))
    going = [placement for placement in placements if placement not in held]
    if going:
        accounts = {placement.account_id: placement.account for placement in going}
        leverage = submission.leverage_needed(going)
        work = submission.Dispatch(going, accounts, clock.at, clock, leverage)
        applied.merge(submission.dispatch(work))
    after_dispatch(applied)


def _longest_wait(placement: Placement, limit: int | None) -> float:
    """How old a signal may be that was never sent. A MARKET order's moment passes soon."""
    if placement.intent.is_queued:
        return math.inf  # it is made to wait
    most = float(limit) if limit else math.inf
    return min(most, MARKET_WAITS_SECONDS) if placement.intent.order_type == OrderType.MARKET else most


def _send_cancels(delivery: WebhookDelivery, *, now: datetime) -> Applied:
    canceled = [pk for result in delivery.plan.get("cancels", ()) for pk in result.get("intent_ids", ())]
    return cancels_send(intent_ids=canceled, source=EventSource.ANSWER, now=now)


def after_dispatch(applied: Applied, *, books: Iterable[int] = ()) -> Applied:
    """Cancel what came alive after its cancel was asked for, and fill the slots that are free now.

    Fills that the answers left out come by the streams; nobody waits for them here.
    """
    return errands_run(replace(applied, gaps=[]), source=EventSource.ANSWER, books=books)


def _never_placed_intents(delivery: WebhookDelivery) -> list[int]:
    rows = OpenOrder.objects.filter(
        intent__delivery=delivery, placement__outcome=PlacementOutcome.NEVER_PLACED
    )
    return list(rows.values_list("pk", flat=True))


def _answer_if_settled(delivery: WebhookDelivery) -> WebhookAnswer | None:
    """Compose the answer from the rows, once no order of the delivery is in doubt any more."""
    pairs = pairs_of(delivery)
    if any(pair.intent.home == Home.EXCHANGE and _in_doubt(pair.placement) for pair in pairs):
        return None
    answer = compose_for(delivery, pairs, cancels=cancel_results(delivery.plan), timings={})
    delivery_answer(delivery.pk, answer, timings={})
    return answer


def _in_doubt(placement: Placement | None) -> bool:
    return placement is None or placement.outcome != PlacementOutcome.PLACED


def pairs_of(delivery: WebhookDelivery) -> list[PairOutcome]:
    """Read what became of a delivery's pairs, with four queries."""
    intents = list(OrderIntent.objects.filter(delivery=delivery).select_related("book"))
    latest: dict[int, Placement] = {}
    for placement in Placement.objects.filter(intent__in=intents).order_by("number"):
        latest[placement.intent_id] = placement
    failed = {row.intent_id: row for row in FailedOrder.objects.filter(intent__in=intents)}
    pending = {row.pk: row for row in PendingOrder.objects.filter(intent__in=intents)}
    return [
        PairOutcome(
            intent,
            intent.book.account_id,
            latest.get(intent.pk),
            failed.get(intent.pk),
            pending.get(intent.pk),
        )
        for intent in intents
    ]


def compose_for(
    delivery: WebhookDelivery,
    pairs: list[PairOutcome],
    *,
    cancels: list[dict[str, Any]],
    timings: dict[str, float],
) -> WebhookAnswer:
    plan = delivery.plan
    return compose(
        strategy=plan["strategy"],
        webhook_id=delivery.webhook_id,
        is_batch=plan["is_batch"],
        total_orders=plan["total_orders"],
        accounts={int(pk): name for pk, name in plan["accounts"].items()},
        pairs=pairs,
        cancels=cancels,
        timings=timings,
    )


def cancel_results(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Say how many of the orders that each cancel hit have ended by now, with one query."""
    cancels = plan.get("cancels", [])
    hit = [pk for cancel in cancels for pk in cancel["intent_ids"]]
    alive = set()
    if hit:
        rows = OrderIntent.objects.filter(pk__in=hit, home__in=(Home.EXCHANGE, Home.QUEUE))
        alive = set(rows.values_list("pk", flat=True))
    return [_cancel_result(cancel, alive) for cancel in cancels]


def _cancel_result(cancel: dict[str, Any], alive: set[int]) -> dict[str, Any]:
    total = len(cancel["intent_ids"])
    open_still = sum(1 for pk in cancel["intent_ids"] if pk in alive)
    if not total:
        message = "nothing to cancel"
    elif open_still:
        message = f"{total - open_still} canceled, {open_still} still being canceled"
    else:
        message = f"{total} canceled"
    return {
        "order_index": cancel["order_index"],
        "success": True,
        "queued": False,
        "executed": total > 0,
        "result": {
            "message": message,
            "canceled": total - open_still,
            "canceling": open_still,
            "client_order_ids": cancel["client_order_ids"],
            "account_id": cancel["account_id"],
            "account_name": cancel["account_name"],
        },
    }
