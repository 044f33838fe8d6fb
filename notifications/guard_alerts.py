"""Alerts of loss guards that tripped: which still wait, in words, and done with."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone

from notifications import formatting
from notifications.models import AlertOutcome, GuardAlert
from orders.models import LossTrip


def waiting() -> QuerySet[LossTrip]:
    told = GuardAlert.objects.filter(trip_id=OuterRef("pk"))
    rows: QuerySet[LossTrip] = LossTrip.objects.filter(~Exists(told), alert_sent=True)
    return rows


def first_waiting() -> LossTrip | None:
    names = ("strategy_account__strategy__user__profile", "strategy_account__account")
    return waiting().select_related(*names).order_by("pk").first()


def message_of(trip: LossTrip) -> str:
    owner = trip.strategy_account
    profile = getattr(owner.strategy.user, "profile", None)
    return formatting.guard_tripped(
        formatting.Trip(
            kind=trip.kind,
            strategy=owner.strategy.group_name,
            account=owner.account.name,
            limit=trip.limit,
            value=trip.value,
            tripped_at=trip.tripped_at,
            ends_at=trip.ends_at,
        ),
        language=profile.language if profile else settings.LANGUAGE_CODE,
        time_zone=profile.time_zone if profile else settings.TIME_ZONE,
    )


def done(trip_ids: list[int], outcome: AlertOutcome) -> None:
    now = timezone.now()
    rows = [GuardAlert(trip_id=pk, outcome=outcome, at=now) for pk in trip_ids]
    GuardAlert.objects.bulk_create(rows, ignore_conflicts=True)


def drop_older_than(age: timedelta) -> list[int]:
    """Give up the alerts that are too old to help; return of which trips."""
    overdue = waiting().filter(tripped_at__lt=timezone.now() - age)
    ids = list(overdue.order_by("pk").values_list("pk", flat=True))
    done(ids, AlertOutcome.DROPPED)
    return ids
