"""Who may send what: strategies, the accounts that follow them, people, and the kill switch."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from decimal import Decimal
from hashlib import sha256

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from exchanges.fields import ExactDecimalField
from exchanges.models import Account, ConfigModel, Market


class ExecutionMode(models.TextChoices):
    QUEUED = "QUEUED", "Through the queue"
    IMMEDIATE = "IMMEDIATE", "Straight to the exchange"


def token_hashes(token: str) -> list[str]:
    """Return what a token may be stored as: keyed by SECRET_KEY first, then by each fallback key.

    Keyed, so that a stolen table cannot be tried against a list of likely tokens.
    """
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return [hmac.new(f"webhook-token:{key}".encode(), token.encode(), sha256).hexdigest() for key in keys]


class Strategy(ConfigModel):
    """What a webhook names with `group_name` and proves with `token`."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="strategies")
    group_name = models.CharField(max_length=64, unique=True)
    token_hash = models.CharField(max_length=64, unique=True, editable=False)
    market_type = models.CharField(max_length=24, choices=Market.choices, default=Market.SPOT)
    execution_mode = models.CharField(
        max_length=12, choices=ExecutionMode.choices, default=ExecutionMode.QUEUED
    )
    is_active = models.BooleanField(default=True)
    kill_switch = models.BooleanField(default=False)
    dedupe_window_seconds = models.PositiveIntegerField(
        default=0, help_text="An identical payload within this time is the same signal; 0 trades it again."
    )
    max_signal_age_seconds = models.PositiveIntegerField(
        null=True, blank=True, help_text="A payload with an older `timestamp` is refused."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("group_name",)
        verbose_name_plural = "strategies"

    def __str__(self) -> str:
        return self.group_name

    def set_token(self, token: str) -> None:
        self.token_hash = token_hashes(token)[0]

    def has_token(self, token: str) -> bool:
        return _any_equal(self.token_hash, token_hashes(token))


def _any_equal(stored: str, candidates: Iterable[str]) -> bool:
    """Compare in constant time, and look at every candidate."""
    return any([hmac.compare_digest(stored, candidate) for candidate in candidates])


class StrategyAccount(ConfigModel):
    """An account following a strategy, with the capital that its orders are sized from (quote asset)."""

    strategy = models.ForeignKey(Strategy, on_delete=models.PROTECT, related_name="strategy_accounts")
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="strategy_accounts")
    allocated_capital = ExactDecimalField(validators=[MinValueValidator(Decimal(0))])
    leverage = models.PositiveSmallIntegerField(
        default=1, validators=[MinValueValidator(1), MaxValueValidator(125)]
    )
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("strategy_id", "account_id")
        constraints = [
            models.UniqueConstraint(fields=["strategy", "account"], name="account_follows_strategy_once")
        ]

    def __str__(self) -> str:
        return f"{self.strategy} · {self.account}"


class UserProfile(ConfigModel):
    """What we keep about a person beside the login."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, primary_key=True, related_name="profile"
    )
    language = models.CharField(max_length=8, default="en", choices=[("en", "English"), ("ko", "한국어")])
    time_zone = models.CharField(max_length=64, default="Asia/Seoul")
    kill_switch = models.BooleanField(default=False)

    def __str__(self) -> str:
        return str(self.user)


class KillSwitch(ConfigModel):
    """The system-wide switch: one row, pk 1. Strategies, accounts and people have their own."""

    engaged = models.BooleanField(default=False)
    reason = models.CharField(max_length=200, blank=True, default="")
    changed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "kill switch"

    def __str__(self) -> str:
        return "ON" if self.engaged else "off"
