from __future__ import annotations

from django.db import models

from exchanges.adapters.exceptions import ErrorType
from exchanges.fields import ExactDecimalField
from exchanges.models import Market
from orders.models.intent import OrderIntent, OrderTypeChoice, SideChoice
from orders.models.strategy import StrategyAccount

MAX_RETRIES = 5  # the exchange's answers to a person's retries, of one order


class FailedStatus(models.TextChoices):
    PENDING_RETRY = "pending_retry", "Waits for a person"
    REMOVED = "removed", "Removed"
    REJECTED = "rejected", "Rejected by the exchange"
    EXPIRED = "expired", "Expired on the exchange"
    CANCELED = "canceled", "Canceled on the exchange"


class FailedOrder(models.Model):
    """An intent that ended without doing its job and wants a person's eye."""

    intent = models.OneToOneField(OrderIntent, on_delete=models.PROTECT, related_name="failed_order")
    strategy_account = models.ForeignKey(
        StrategyAccount, on_delete=models.PROTECT, related_name="failed_orders"
    )
    symbol = models.CharField(max_length=48)
    market_type = models.CharField(max_length=24, choices=Market.choices)
    side = models.CharField(max_length=4, choices=SideChoice.choices)
    order_type = models.CharField(max_length=12, choices=OrderTypeChoice.choices)
    quantity = ExactDecimalField(help_text="The unfilled remainder.")
    price = ExactDecimalField(null=True, blank=True)
    stop_price = ExactDecimalField(null=True, blank=True)
    reason = models.CharField(max_length=100)
    error_type = models.CharField(
        max_length=24,
        choices=[(kind.value, kind.value) for kind in ErrorType],
        default=ErrorType.UNKNOWN.value,
    )
    exchange_error = models.CharField(max_length=500, blank=True, default="", help_text="Masked.")
    order_params = models.JSONField(default=dict, help_text="Everything that a retry needs.")
    status = models.CharField(max_length=16, choices=FailedStatus.choices, default=FailedStatus.PENDING_RETRY)
    retry_count = models.PositiveSmallIntegerField(default=0)
    next_retry_at = models.DateTimeField(null=True, blank=True)
    scheduled_by = models.CharField(max_length=150, blank=True, default="")  # a login, for the log
    uid = models.CharField(max_length=26)
    webhook_id = models.CharField(max_length=128, blank=True, default="")
    alert_sent = models.BooleanField(default=False)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        indexes = [
            models.Index(fields=["strategy_account", "symbol"], name="failed_by_symbol"),
            models.Index(fields=["status", "created_at"], name="failed_by_status"),
            models.Index(fields=["retry_count"], name="failed_by_retries"),
            models.Index(
                fields=["next_retry_at"],
                name="failed_to_retry",
                condition=models.Q(next_retry_at__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.symbol} {self.side} {self.quantity}: {self.reason}"
