"""The database's clock: the one that every process shares."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import connection
from django.db.models import DateTimeField, Func, Value
from django.db.models.functions import Now
from django.utils import timezone


def database_now() -> datetime:
    """Return the database's time, aware UTC. SQLite has no clock of its own: it is this machine's."""
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        row = cursor.fetchone()
    now: datetime = row[0]
    return now


def sql_now() -> Now | datetime:
    """Return what stands for the database's time inside a statement, without a round trip to ask for it."""
    return Now() if connection.vendor == "postgresql" else timezone.now()


def sql_clock() -> Func | Value:
    """Return the clock as a column of a query that is made anyway: `DatabaseClock` without a round trip.

    Note the monotonic time before the query, as the clock's `at`: it may have to wait for locks.
    """
    if connection.vendor == "postgresql":
        return Func(function="clock_timestamp", output_field=DateTimeField())
    return Value(timezone.now(), output_field=DateTimeField())


@dataclass(frozen=True, slots=True)
class DatabaseClock:
    """The database's time, read once and carried on by this machine's monotonic clock.

    Good for the seconds that a webhook takes; it costs no round trip.
    """

    read: datetime
    at: float = field(default_factory=time.monotonic)

    @classmethod
    def ask(cls) -> DatabaseClock:
        return cls(database_now())

    def now(self) -> datetime:
        return self.read + timedelta(seconds=time.monotonic() - self.at)

    def monotonic(self, moment: datetime) -> float:
        """Return a moment of the database's time on this process's monotonic clock, in seconds."""
        return self.at + (moment - self.read).total_seconds()
