"""The worker's clock for this room. Apart from `tasks`: a web process need not load Telegram's library."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, connections


def schedule_register(**kwargs: Any) -> None:
    """Have the worker look every minute; runs after every `migrate`, safe to repeat."""
    using = kwargs.get("using", DEFAULT_DB_ALIAS)
    schedule = apps.get_model("django_q", "Schedule")
    if schedule._meta.db_table in connections[using].introspection.table_names():
        schedule.objects.using(using).update_or_create(
            name="send waiting alerts",
            defaults={
                "func": "notifications.tasks.alerts_deliver",
                "schedule_type": "I",
                "minutes": 1,
                "repeats": -1,
            },
        )
