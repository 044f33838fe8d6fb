"""Alerts of failed orders, loss guards, breakers and strange orders: which wait, telling them, giving up."""

from __future__ import annotations

import logging
import time
from datetime import timedelta

from django.conf import settings
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone

from notifications import breaker_alerts, chats, formatting, guard_alerts, stranger_alerts, telegram
from notifications.models import Alert, AlertOutcome
from orders.models import DeliveryState, FailedOrder, FailedStatus, UserProfile

logger = logging.getLogger(__name__)

GIVE_UP_AFTER = timedelta(days=1)
# A webhook's failures are told together, once it is answered; not later than this, if its process died.
ANSWERED_WITHIN = timedelta(seconds=30)
RUN_SECONDS = 20.0  # a worker has other things to do; what is left then waits for the next minute
LOOK_AGAIN_SECONDS = 1.0
BUNDLE_SIZE = 500


def alerts_deliver() -> None:
    """Send the alerts that wait, one message per person for everything they do not know yet.

    Safe to repeat and to run in several processes at once. A process that dies between Telegram's
    answer and the note of it tells its message twice, never not at all.
    """
    if not chats.is_configured():
        return
    _drop_overdue()
    give_up_at = time.monotonic() + RUN_SECONDS
    while _anything_waits():
        pause = _tell_next()
        if time.monotonic() + pause > give_up_at:
            return
        time.sleep(pause)


def _anything_waits() -> bool:
    return bool(breaker_alerts.waiting()) or any(
        rows.exists() for rows in (guard_alerts.waiting(), stranger_alerts.waiting(), _waiting())
    )


def _waiting() -> QuerySet[FailedOrder]:
    told = Alert.objects.filter(failed_order_id=OuterRef("pk"))
    return FailedOrder.objects.filter(~Exists(told), alert_sent=True).exclude(status=FailedStatus.REMOVED)


def _tell_next() -> float:
    """Send one message if one can be sent; return how many seconds to wait before the next."""
    if held := chats.turn_take():
        return held
    for outage in breaker_alerts.waiting()[:1]:
        pause = _send(breaker_alerts.message_of(outage), about=f"{outage.exchange}'s breaker")
        if not pause:
            breaker_alerts.done(outage)
            chats.turn_end(hold_seconds=chats.PACE_SECONDS)
        return pause
    if (trip := guard_alerts.first_waiting()) is not None:  # rare, and the more urgent news
        pause = _send(guard_alerts.message_of(trip), about="a loss guard")
        if not pause:
            guard_alerts.done([trip.pk], AlertOutcome.SENT)
            chats.turn_end(hold_seconds=chats.PACE_SECONDS)
        return pause
    if strangers := stranger_alerts.strangers_waiting():
        pause = _send(stranger_alerts.message_of(strangers), about=f"{len(strangers)} strange orders")
        if not pause:
            stranger_alerts.done([stranger.id for stranger in strangers], AlertOutcome.SENT)
            chats.turn_end(hold_seconds=chats.PACE_SECONDS)
        return pause
    now = timezone.now()
    ready = _waiting().filter(
        Q(intent__delivery__state=DeliveryState.ANSWERED) | Q(created_at__lt=now - ANSWERED_WITHIN)
    )
    user_id = ready.order_by("pk").values_list("intent__user_id", flat=True).first()
    if user_id is None:
        chats.turn_end(hold_seconds=0)
        return LOOK_AGAIN_SECONDS
    failures = _failures(ready.filter(intent__user_id=user_id))
    profile = UserProfile.objects.filter(pk=user_id).first()
    text = formatting.orders_failed(
        failures,
        language=profile.language if profile else settings.LANGUAGE_CODE,
        time_zone=profile.time_zone if profile else settings.TIME_ZONE,
    )
    if pause := _send(text, about=f"{len(failures)} failed orders"):
        return pause
    _done([failure.id for failure in failures], AlertOutcome.SENT)
    chats.turn_end(hold_seconds=chats.PACE_SECONDS)
    return 0.0


def _send(text: str, *, about: str) -> float:
    """Send a message; return 0, or how many seconds nobody writes to the chat now."""
    try:
        telegram.send(text)
    except telegram.NotDelivered as error:
        pause = chats.turn_end_refused(retry_after_seconds=error.retry_after)
        logger.warning("Alert of %s waits %.0f s: %s", about, pause, error)
        return pause
    return 0.0


def _failures(rows: QuerySet[FailedOrder]) -> list[formatting.Failure]:
    fields = (
        "id", "webhook_id", "symbol", "side", "order_type", "quantity", "price", "stop_price",
        "reason", "error_type", "exchange_error", "status", "created_at",
        "retry_count",
    )  # fmt: skip
    names = {
        "strategy": F("strategy_account__strategy__group_name"),
        "account": F("strategy_account__account__name"),
    }
    return [formatting.Failure(**row) for row in rows.order_by("pk").values(*fields, **names)[:BUNDLE_SIZE]]


def _drop_overdue() -> None:
    if trips := guard_alerts.drop_older_than(GIVE_UP_AFTER):
        logger.error("Dropped the alerts of %d loss guards, a day old: %s", len(trips), trips[:100])
    if reports := stranger_alerts.drop_older_than(GIVE_UP_AFTER):
        logger.error("Dropped the alerts of %d strange orders, a day old: %s", len(reports), reports[:100])
    overdue = _waiting().filter(created_at__lt=timezone.now() - GIVE_UP_AFTER)
    if ids := list(overdue.order_by("pk").values_list("pk", flat=True)):
        _done(ids, AlertOutcome.DROPPED)
        logger.error("Dropped the alerts of %d failed orders, a day old: %s", len(ids), ids[:100])


def _done(ids: list[int], outcome: AlertOutcome) -> None:
    now = timezone.now()
    rows = [Alert(failed_order_id=pk, outcome=outcome, at=now) for pk in ids]
    Alert.objects.bulk_create(rows, ignore_conflicts=True)
