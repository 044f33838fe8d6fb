"""What a person does with failed orders: retry now or later, remove; one of them, or many at once.

Everything here is safe to repeat and to race: what is decided is decided under the intent's lock.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from enum import StrEnum

from django.db import transaction

from orders import events, locks
from orders.bulk import bulk_insert
from orders.clock import database_now
from orders.models import EventSource, EventType, FailedOrder, FailedStatus
from orders.selectors import Visible
from orders.services.retries import (
    NOT_FOUND,
    PASSING,
    Code,
    Refusal,
    RetryResult,
    failed_order_event,
    failed_orders_retry,
    retry_refusal,
)

logger = logging.getLogger(__name__)

LATEST_SCHEDULE = timedelta(days=30)
DUE_AT_ONCE = 30
LOOK_AGAIN = timedelta(seconds=30)
BULK_MOST = 100


class Refused(Exception):
    """Nothing was done; `code` for machines, the text for people."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.error)
        self.code, self.error = refusal.code, refusal.error


class BulkAction(StrEnum):
    RETRY = "retry"
    REMOVE = "remove"


def failed_order_retry(*, failed_order_id: int, by: str, source: str = EventSource.OPERATOR) -> RetryResult:
    """Retry one failed order; see `failed_orders_retry`."""
    return failed_orders_retry(failed_order_ids=[failed_order_id], by=by, source=source)[failed_order_id]


def failed_order_remove(*, failed_order_id: int, by: str) -> None:
    """Put a failed order aside: it stays for the audit and cannot be retried. Raises Refused."""
    if not failed_orders_remove(failed_order_ids=[failed_order_id], by=by):
        raise Refused(NOT_FOUND)


def failed_orders_remove(*, failed_order_ids: Collection[int], by: str) -> set[int]:
    """Put failed orders aside; return those that exist. What was removed before stays as it is."""
    now = database_now()
    with transaction.atomic():
        found = _locked(failed_order_ids)
        fresh = [row for row in found if row.status != FailedStatus.REMOVED]
        FailedOrder.objects.filter(pk__in=[row.pk for row in fresh]).update(
            status=FailedStatus.REMOVED, next_retry_at=None, scheduled_by="", updated_at=now
        )
        _log(fresh, EventType.REMOVED, by=by, now=now, message="Failed order removed")
    return {row.pk for row in found}


def failed_order_schedule(*, failed_order_id: int, at: datetime | None, by: str) -> datetime | None:
    """Have a failed order retried at a time of the future, aware; None takes the schedule back.

    Raises Refused: the order cannot be retried, or the time has passed or is too far away.
    """
    now = database_now()
    if at is not None and not now < at <= now + LATEST_SCHEDULE:
        sentence = f"the time must be in the future and at most {LATEST_SCHEDULE.days} days away"
        raise Refused(Refusal(Code.INVALID_TIME, sentence))
    with transaction.atomic():
        failure = next(iter(_locked([failed_order_id])), None)
        if failure is None:
            raise Refused(NOT_FOUND)
        if at is not None and (refusal := retry_refusal(failure)) is not None:
            raise Refused(refusal)
        if at is None and failure.next_retry_at is None:
            return None
        failure.next_retry_at, failure.scheduled_by = at, by[:150] if at else ""
        failure.save(update_fields=["next_retry_at", "scheduled_by", "updated_at"])
        message = f"Retry scheduled for {at.isoformat()}" if at else "Scheduled retry taken back"
        _log([failure], EventType.OPERATOR, by=by, now=now, message=message)
    return at


def failed_orders_bulk(
    *, action: BulkAction, failed_order_ids: Collection[int], by: str, visible: Visible
) -> dict[int, RetryResult]:
    """Retry or remove many; return what became of each. What `visible` does not show does not exist."""
    rows = FailedOrder.objects.filter(visible.rows(), pk__in=failed_order_ids)
    own = set(rows.values_list("pk", flat=True))
    results = dict.fromkeys(failed_order_ids, RetryResult.refused(NOT_FOUND))
    if action is BulkAction.RETRY:
        return results | failed_orders_retry(
            failed_order_ids=[pk for pk in failed_order_ids if pk in own], by=by
        )
    removed = failed_orders_remove(failed_order_ids=own, by=by)
    return results | dict.fromkeys(removed, RetryResult(True))


def failed_orders_retry_due(*, limit: int = DUE_AT_ONCE) -> int:
    """Carry out the retries whose time has come; return how many were looked at.

    Any number of processes may run this: the move itself decides, under the lock. What cannot be retried
    then loses its schedule and says so in the log; what only has to wait for a moment is looked at later.
    """
    now = database_now()
    due = FailedOrder.objects.filter(next_retry_at__lte=now).exclude(status=FailedStatus.REMOVED)
    rows = list(due.order_by("next_retry_at", "pk").values_list("pk", "scheduled_by")[:limit])
    by_person: dict[str, list[int]] = {}
    for pk, person in rows:
        by_person.setdefault(person, []).append(pk)
    for person, pks in by_person.items():
        results = failed_orders_retry(failed_order_ids=pks, by=f"schedule of {person}", due_only=True)
        passing = [pk for pk, result in results.items() if result.code in PASSING]
        # Looked at again in a while: else the oldest that have to wait keep all others from their turn.
        FailedOrder.objects.filter(pk__in=passing, next_retry_at__lte=now).update(
            next_retry_at=now + LOOK_AGAIN
        )
        _unschedule({pk: result for pk, result in results.items() if _is_over(result)}, by=person)
    return len(rows)


def _is_over(result: RetryResult) -> bool:
    return result.code not in {"", Code.FAILED_AGAIN, Code.CANCELED, Code.NOT_FOUND, *PASSING}


def _unschedule(refused: dict[int, RetryResult], *, by: str) -> None:
    now = database_now()
    with transaction.atomic():
        for failure in _locked(refused):
            if failure.next_retry_at is None or failure.next_retry_at > now:
                continue  # somebody has decided anew meanwhile
            failure.next_retry_at, failure.scheduled_by = None, ""
            failure.save(update_fields=["next_retry_at", "scheduled_by", "updated_at"])
            words = f"Scheduled retry not made: {refused[failure.pk].error}"
            logger.warning("Failed order %s: %s", failure.pk, words)
            _log([failure], EventType.OPERATOR, by=by, now=now, message=words)


def _locked(failed_order_ids: Iterable[int]) -> list[FailedOrder]:
    """Read failed orders under their intents' locks."""
    pks = list(failed_order_ids)
    named = FailedOrder.objects.filter(pk__in=pks).values_list("intent_id", flat=True)
    held = list(locks.intents_for_update(pk__in=list(named)).values_list("pk", flat=True))
    rows = FailedOrder.objects.filter(pk__in=pks, intent_id__in=held)
    return list(rows.select_related("intent__book").order_by("pk"))


def _log(rows: Collection[FailedOrder], kind: EventType, *, by: str, now: datetime, message: str) -> None:
    bulk_insert(
        failed_order_event(
            row,
            kind,
            account_id=row.intent.book.account_id,
            source=EventSource.OPERATOR,
            by=by,
            now=now,
            message=message,
        )
        for row in rows
    )
    if rows:
        events.publish(events.EventsLogged())
