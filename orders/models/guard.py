"""The loss guards' state: what was the best, what tripped, who resumed it."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.db import models

from exchanges.fields import ExactDecimalField
from exchanges.models import ConfigModel
from orders.models.strategy import StrategyAccount


class LossKind(models.TextChoices):
    DAILY_LOSS = "DAILY_LOSS", "Daily loss"
    DRAWDOWN = "DRAWDOWN", "Drawdown"


class ProfitPeak(models.Model):
    """The most that a strategy account has earned, realized and unrealized, since it began or was resumed.

    Profit and not equity: who takes capital away has lost nothing. In quote asset, never below zero until a
    resumption starts it anew from where the account stands then.
    """

    strategy_account = models.OneToOneField(
        StrategyAccount, on_delete=models.CASCADE, primary_key=True, related_name="profit_peak"
    )
    profit = ExactDecimalField()
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.strategy_account_id} {self.profit}"


class LossTrip(ConfigModel):
    """A loss guard that stopped a strategy account from opening positions.

    A daily loss ends with the day (`ends_at`); a drawdown lasts until a person resumes it. Being a
    ConfigModel, a trip and its end are known to every process with its very next webhook, at no query.
    """

    strategy_account = models.ForeignKey(StrategyAccount, on_delete=models.CASCADE, related_name="loss_trips")
    kind = models.CharField(max_length=12, choices=LossKind.choices)
    day = models.CharField(max_length=10, blank=True, default="")  # of a daily loss, in the user's zone
    limit = ExactDecimalField()  # quote asset, or percent
    value = ExactDecimalField()
    reason = models.CharField(max_length=200)
    tripped_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True, blank=True)
    resumed_at = models.DateTimeField(null=True, blank=True)
    resumed_by = models.CharField(max_length=150, blank=True, default="")
    resumed_by_user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    resume_reason = models.CharField(max_length=200, blank=True, default="")
    alert_sent = models.BooleanField(default=False)

    class Meta:
        ordering = ("-pk",)
        constraints = [
            # Two processes that notice it at the same instant: one trip, one alert.
            models.UniqueConstraint(
                fields=["strategy_account", "kind", "day"],
                name="tripped_once",
                condition=models.Q(resumed_at__isnull=True),
            )
        ]

    def __str__(self) -> str:
        return self.reason

    def holds(self, now: datetime) -> bool:
        return self.resumed_at is None and (self.ends_at is None or now < self.ends_at)
