"""What the sender remembers between two runs: when a chat may be written to, and who has been told what."""

from __future__ import annotations

from django.db import models


class Chat(models.Model):
    """Where messages go, and when the next one may.

    `held_until` is a lease while a message is on its way, then the pace that Telegram asks for, or the
    wait after a fault: whoever moves it on from the past sends the next message, in any process.
    """

    name = models.CharField(max_length=32, unique=True)
    held_until = models.DateTimeField()
    refusals = models.PositiveSmallIntegerField(default=0, help_text="In a row, without a message between.")

    def __str__(self) -> str:
        return self.name


class AlertOutcome(models.TextChoices):
    SENT = "SENT", "Sent"
    DROPPED = "DROPPED", "Given up after a day"


class Alert(models.Model):
    """A failed order whose alert is over and done with.

    The failed order itself is the alert that waits: it says `alert_sent`, and has no row here yet.
    """

    failed_order_id = models.BigIntegerField(primary_key=True)  # no foreign key: a retry takes that row away
    outcome = models.CharField(max_length=8, choices=AlertOutcome.choices)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.failed_order_id}: {self.outcome}"


class BreakerAlert(models.Model):
    """What the chat was last told of an exchange that was away; the breakers' rows are the news."""

    base_url = models.CharField(max_length=200, primary_key=True)
    is_down = models.BooleanField()
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.base_url}: {'down' if self.is_down else 'back'}"


class StrangerAlert(models.Model):
    """An order with an id of our shape that is not ours, whose alert is over and done with.

    Its row among the unmatched reports is the alert that waits: it says `wants_alert`.
    """

    report_id = models.BigIntegerField(primary_key=True)
    outcome = models.CharField(max_length=8, choices=AlertOutcome.choices)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.report_id}: {self.outcome}"


class GuardAlert(models.Model):
    """A loss guard's trip whose alert is over and done with; the trip itself is the alert that waits."""

    trip_id = models.BigIntegerField(primary_key=True)
    outcome = models.CharField(max_length=8, choices=AlertOutcome.choices)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.trip_id}: {self.outcome}"
