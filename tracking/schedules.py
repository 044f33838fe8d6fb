"""The worker's clock: what django-q2 runs, and how often.

Its scheduler looks every 30 s and counts in whole minutes, so a job that is wanted twice a minute has
two rows, half a minute apart.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils import timezone


class Job(NamedTuple):
    name: str
    function: str
    minutes: int
    offset_seconds: int = 0


DAY = 24 * 60
JOBS = (
    Job("take over deliveries", "tracking.tasks.deliveries_take_over", 1),
    Job("take over deliveries, half past", "tracking.tasks.deliveries_take_over", 1, 30),
    Job("resolve unknown orders", "tracking.tasks.orders_resolve", 1),
    Job("resolve unknown orders, half past", "tracking.tasks.orders_resolve", 1, 30),
    Job("rebalance queues", "tracking.tasks.queues_rebalance", 1, 10),
    Job("rebalance queues, half past", "tracking.tasks.queues_rebalance", 1, 40),
    Job("retry failed orders on schedule", "tracking.tasks.failed_orders_retry", 1, 20),
    Job("retry failed orders on schedule, half past", "tracking.tasks.failed_orders_retry", 1, 50),
    Job("reconcile unwatched accounts", "tracking.tasks.reconcile_unwatched", 1, 15),
    Job("reconcile unwatched accounts, half past", "tracking.tasks.reconcile_unwatched", 1, 45),
    Job("look at the loss guards", "tracking.tasks.losses_look", 1, 5),
    Job("look at the loss guards, half past", "tracking.tasks.losses_look", 1, 35),
    Job("load instruments", "tracking.tasks.instruments_load", DAY, 60),
)


def schedules_register(**kwargs: Any) -> None:
    """Make the worker's schedule rows match `JOBS`; runs after every `migrate`, safe to repeat.

    When a job runs next is left alone: a migration neither skips nor repeats a turn.
    """
    using = kwargs.get("using", DEFAULT_DB_ALIAS)
    schedule = apps.get_model("django_q", "Schedule")
    if schedule._meta.db_table not in connections[using].introspection.table_names():
        return  # this room alone was migrated; the worker's tables come later, and this with them
    schedules = schedule.objects.using(using)
    now = timezone.now()
    for job in JOBS:
        schedules.update_or_create(
            name=job.name,
            defaults={"func": job.function, "schedule_type": "I", "minutes": job.minutes, "repeats": -1},
            create_defaults={
                "func": job.function,
                "schedule_type": "I",
                "minutes": job.minutes,
                "repeats": -1,
                "next_run": now + timedelta(seconds=job.offset_seconds),
            },
        )
    schedules.filter(func__startswith="tracking.").exclude(name__in=[job.name for job in JOBS]).delete()
