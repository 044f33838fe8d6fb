"""Alerts of orders with ids of our shape that this installation never made: another one has the same keys,
or a backup was restored. Whose account it is makes no difference to who is told: whoever runs this.
"""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db.models import Exists, F, OuterRef, QuerySet
from django.utils import timezone

from notifications import formatting
from notifications.models import AlertOutcome, StrangerAlert
from tracking.models import UnmatchedReport

TOLD_AT_ONCE = 500


def waiting() -> QuerySet[UnmatchedReport]:
    told = StrangerAlert.objects.filter(report_id=OuterRef("pk"))
    return UnmatchedReport.objects.filter(~Exists(told), wants_alert=True)


def strangers_waiting() -> list[formatting.Stranger]:
    """Return all that one message tells, the oldest first."""
    rows = waiting().annotate(account_name=F("account__name")).order_by("pk")[:TOLD_AT_ONCE]
    return [
        formatting.Stranger(row.pk, row.account_name, row.symbol, row.client_order_id, row.received_at)
        for row in rows
    ]


def message_of(strangers: list[formatting.Stranger]) -> str:
    return formatting.strangers_found(
        strangers, language=settings.LANGUAGE_CODE, time_zone=settings.TIME_ZONE
    )


def done(report_ids: list[int], outcome: AlertOutcome) -> None:
    now = timezone.now()
    rows = [StrangerAlert(report_id=pk, outcome=outcome, at=now) for pk in report_ids]
    StrangerAlert.objects.bulk_create(rows, ignore_conflicts=True)


def drop_older_than(age: timedelta) -> list[int]:
    """Give up the alerts that are too old to help; return of which reports."""
    overdue = waiting().filter(received_at__lt=timezone.now() - age)
    ids = list(overdue.order_by("pk").values_list("pk", flat=True))
    done(ids, AlertOutcome.DROPPED)
    return ids
