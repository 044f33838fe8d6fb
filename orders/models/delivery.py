from __future__ import annotations

from django.db import models

from orders.models.quick import QuickModel
from orders.models.strategy import Strategy

# What a delivery holds besides its state: kilobytes, to be parsed for each order that is read with it.
DELIVERY_CONTENT = ("payload", "response", "plan", "timings")


class DeliveryState(models.TextChoices):
    WORKING = "WORKING", "Being worked"  # held by a lease
    ANSWERED = "ANSWERED", "Answered"


class WebhookDelivery(QuickModel):
    """One webhook as it came in, who works on it, and what it was answered.

    Committed together with all its intents, before anything is sent. `started_at` is written by the
    lease's holder right before the first byte may leave: a delivery without it has surely sent nothing.
    """

    strategy = models.ForeignKey(
        Strategy, on_delete=models.PROTECT, related_name="deliveries", null=True, blank=True
    )
    webhook_id = models.CharField(max_length=128)
    received_at = models.DateTimeField(db_index=True)
    source_address = models.GenericIPAddressField(null=True, blank=True)
    payload = models.TextField(blank=True, default="", help_text="As it came in, token redacted.")
    payload_hash = models.CharField(max_length=64, blank=True, default="")
    state = models.CharField(max_length=12, choices=DeliveryState.choices, default=DeliveryState.WORKING)
    lease_owner = models.CharField(max_length=64, blank=True, default="")
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    answered_at = models.DateTimeField(null=True, blank=True)
    response_status = models.PositiveSmallIntegerField(null=True, blank=True)
    response = models.JSONField(null=True, blank=True)
    # What an answer needs and no other row tells: which accounts, what the cancels of this payload hit.
    plan = models.JSONField(default=dict, blank=True)
    timings = models.JSONField(default=dict, blank=True)
    timed_out = models.BooleanField(default=False, help_text="The sender got a 408 while the work went on.")

    class Meta:
        verbose_name_plural = "webhook deliveries"
        constraints = [
            models.UniqueConstraint(fields=["strategy", "webhook_id"], name="webhook_id_per_strategy")
        ]
        indexes = [
            models.Index(fields=["strategy", "payload_hash", "received_at"], name="delivery_by_payload"),
            models.Index(
                fields=["lease_expires_at"],
                name="delivery_being_worked",
                condition=models.Q(state=DeliveryState.WORKING),
            ),
        ]

    def __str__(self) -> str:
        return self.webhook_id
