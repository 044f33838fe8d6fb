"""Who may send what: strategies, the accounts that follow them, people, and the kill switch."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from decimal import Decimal
from hashlib import sha256
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
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


def symbols_valid(value: Any) -> None:
    """Raise ValidationError where a list of symbols is anything else."""
    if not isinstance(value, list):
        raise ValidationError('must be a list of symbols, such as ["BTC/USDT", "ETH/USDT"]')
    for word in value:
        if not isinstance(word, str) or not word.strip() or len(word) > 48 or ":" in word:
            raise ValidationError(f"{word!r} is no symbol; write them as BTC/USDT")


def above_zero(value: Decimal) -> None:
    if value <= 0:
        raise ValidationError("must be above 0; leave it empty for no limit")


def limit_field(help_text: str, *validators: Any, **options: Any) -> ExactDecimalField:
    """A guard's limit; none where it is empty."""
    return ExactDecimalField(
        null=True, blank=True, validators=[above_zero, *validators], help_text=help_text, **options
    )


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
    # The guards; see orders.risk.
    symbol_allowlist = models.JSONField(
        default=list,
        blank=True,
        validators=[symbols_valid],
        help_text='Only these may be opened, such as ["BTC/USDT"]; empty: all.',
    )
    symbol_blocklist = models.JSONField(
        default=list, blank=True, validators=[symbols_valid], help_text="These may not be opened."
    )
    max_orders_per_minute = models.PositiveIntegerField(
        default=300,
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Of all its accounts together, counted once per account; empty: no limit.",
    )
    max_price_deviation_percent = limit_field(
        "How far the price of a LIMIT or STOP may lie from the last price, in percent; empty: any."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("group_name",)
        verbose_name_plural = "strategies"

    def __str__(self) -> str:
        return self.group_name

    def clean(self) -> None:
        """Hold the lists against `symbols_valid` where the field does not: what it takes for empty."""
        faults = {}
        if self.max_signal_age_seconds == 0:
            faults["max_signal_age_seconds"] = "0 would refuse every signal; leave it empty for no limit"
        for name in ("symbol_allowlist", "symbol_blocklist"):
            value = getattr(self, name)
            if value in (None, ""):
                setattr(self, name, [])
            elif not isinstance(value, list):
                faults[name] = 'must be a list of symbols, such as ["BTC/USDT", "ETH/USDT"]'
        if faults:
            raise ValidationError(faults)

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
    # The guards; see orders.risk. Their state is in orders.models.guard: rows here are cached everywhere.
    max_order_notional = limit_field("Of one order, in quote asset; empty: none.")
    max_position_notional = limit_field(
        "Of one symbol, in quote asset, once the order and all open ones have filled; empty: none."
    )
    max_symbols = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="How many symbols may have a position, or orders that open one; empty: any.",
    )
    daily_loss_limit = limit_field(
        "Realized loss of one day (the user's time zone), in quote asset, after which nothing is opened "
        "until the next day; empty: none."
    )
    max_drawdown_percent = limit_field(
        "Fall of the equity from its peak, in percent, after which nothing is opened until a person "
        "resumes it; empty: none.",
        MaxValueValidator(Decimal(100)),
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
