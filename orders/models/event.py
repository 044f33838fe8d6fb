from __future__ import annotations

from django.db import models

from exchanges.models import Account
from orders.models.intent import OrderIntent
from orders.models.quick import QuickModel
from orders.models.strategy import StrategyAccount


class EventType(models.TextChoices):
    QUEUED = "QUEUED", "Waiting in the queue"
    SUBMITTING = "SUBMITTING", "Submitting"
    ACCEPTED = "ACCEPTED", "Accepted"
    UNKNOWN = "UNKNOWN", "Outcome unknown"
    PARTIALLY_FILLED = "PARTIALLY_FILLED", "Partially filled"
    FILLED = "FILLED", "Filled"
    TRIGGERED = "TRIGGERED", "Triggered"
    CANCEL_REQUESTED = "CANCEL_REQUESTED", "Cancel requested"
    CANCELING = "CANCELING", "Canceling"
    CANCELED = "CANCELED", "Canceled"
    LIVE_AGAIN = "LIVE_AGAIN", "Live again"
    REJECTED = "REJECTED", "Rejected"
    EXPIRED = "EXPIRED", "Expired"
    FAILED = "FAILED", "Failed"
    RETRY = "RETRY", "Sent again by a person"
    REMOVED = "REMOVED", "Failed order removed"
    GUARD = "GUARD", "A loss guard tripped or was resumed"
    LATE_FILL = "LATE_FILL", "Fill after the end"
    IMPOSSIBLE_REPORT = "IMPOSSIBLE_REPORT", "Report that the state table forbids"
    EXTERNAL = "EXTERNAL", "Not ours"
    STREAM = "STREAM", "Stream state"
    BREAKER = "BREAKER", "An exchange cannot be reached, or can again"
    OPERATOR = "OPERATOR", "Operator action"


class EventSource(models.TextChoices):
    WEBHOOK = "WEBHOOK", "Webhook"
    ANSWER = "ANSWER", "Exchange's answer"
    STREAM = "STREAM", "Stream"
    RECONCILIATION = "RECONCILIATION", "Reconciliation"
    RESOLVER = "RESOLVER", "Resolver"
    OPERATOR = "OPERATOR", "Operator"
    QUEUE = "QUEUE", "Queue"
    GUARD = "GUARD", "Guard"
    BREAKER = "BREAKER", "Circuit breaker"


class OrderEvent(QuickModel):
    """One line in the append-only log of everything that happened to an order.

    Written in the transaction of what it tells. The live page and notifications read it.
    No database constraints on what it names: the log outlives what it speaks of.
    """

    type = models.CharField(max_length=20, choices=EventType.choices)
    source = models.CharField(max_length=16, choices=EventSource.choices)
    user_id = models.BigIntegerField(null=True, blank=True)  # who may see it
    account = models.ForeignKey(
        Account, on_delete=models.DO_NOTHING, null=True, blank=True, related_name="+", db_constraint=False
    )
    strategy_account = models.ForeignKey(
        StrategyAccount,
        on_delete=models.DO_NOTHING,
        null=True,
        blank=True,
        related_name="+",
        db_constraint=False,
    )
    intent = models.ForeignKey(
        OrderIntent,
        on_delete=models.DO_NOTHING,
        null=True,
        blank=True,
        related_name="events",
        db_constraint=False,
    )
    symbol = models.CharField(max_length=48, blank=True, default="")
    before = models.CharField(max_length=20, blank=True, default="")
    after = models.CharField(max_length=20, blank=True, default="")
    message = models.CharField(max_length=500, blank=True, default="")  # the exchange's words, masked
    data = models.JSONField(default=dict, blank=True)
    occurred_at = models.DateTimeField(null=True, blank=True)  # the exchange's time
    created_at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(fields=["user_id", "id"], name="event_of_user"),
            models.Index(fields=["created_at"], name="event_created"),
        ]

    def __str__(self) -> str:
        return f"{self.id} {self.type}"
