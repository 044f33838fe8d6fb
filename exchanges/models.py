"""Accounts at exchanges, the instruments that trade there, and their last prices."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from exchanges.adapters.breaker import BreakerState
from exchanges.adapters.types import CRYPTO_MARKETS, Credentials, MarketType
from exchanges.adapters.types import Environment as EnvironmentWord
from exchanges.fields import ExactDecimalField, decrypt, encrypt

# Nobody has tried for so long: the machine is gone, or nothing is traded there any more.
BREAKER_FORGOTTEN_AFTER = timedelta(minutes=10)


class ConfigVersion(models.Model):
    """One row that counts changes of configuration.

    What processes cache (strategies, accounts, instruments, switches) is good as long as this number
    stands. It is bumped in the transaction that changes such a row, so a paused strategy or a rotated
    token bites on the very next webhook in every process, with or without Redis.
    """

    version = models.BigIntegerField(default=0)

    @classmethod
    def bump(cls) -> None:
        if not cls.objects.filter(pk=1).update(version=F("version") + 1):
            cls.objects.get_or_create(pk=1, defaults={"version": 1})

    @classmethod
    def current(cls) -> int:
        return cls.objects.filter(pk=1).values_list("version", flat=True).first() or 0


class ConfigQuerySet(models.QuerySet[Any]):
    """Every way to write many rows at once bumps the version as a single save does."""

    def update(self, **kwargs: Any) -> int:
        count = super().update(**kwargs)
        ConfigVersion.bump()
        return count

    def bulk_create(self, *args: Any, **kwargs: Any) -> list[Any]:
        made = super().bulk_create(*args, **kwargs)
        ConfigVersion.bump()
        return made

    def delete(self) -> tuple[int, dict[str, int]]:
        gone = super().delete()
        ConfigVersion.bump()
        return gone


class ConfigModel(models.Model):
    """A row that processes cache; see ConfigVersion."""

    objects = ConfigQuerySet.as_manager()

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        super().save(*args, **kwargs)
        ConfigVersion.bump()

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        gone = super().delete(*args, **kwargs)
        ConfigVersion.bump()
        return gone


class Environment(models.TextChoices):
    LIVE = EnvironmentWord.LIVE.value, "Live"
    TESTNET = EnvironmentWord.TESTNET.value, "Testnet"
    SIMULATOR = EnvironmentWord.SIMULATOR.value, "Simulator"


class Market(models.TextChoices):
    SPOT = MarketType.SPOT.value, "Spot"
    FUTURES = MarketType.FUTURES.value, "Futures"
    DOMESTIC_STOCK = MarketType.DOMESTIC_STOCK.value, "Domestic stock"
    OVERSEAS_STOCK = MarketType.OVERSEAS_STOCK.value, "Overseas stock"
    DOMESTIC_FUTUREOPTION = MarketType.DOMESTIC_FUTUREOPTION.value, "Domestic futures and options"
    OVERSEAS_FUTUREOPTION = MarketType.OVERSEAS_FUTUREOPTION.value, "Overseas futures and options"


class ExchangeName(models.TextChoices):
    BINANCE = "binance", "Binance"


class AccountType(models.TextChoices):
    CRYPTO = "CRYPTO", "Crypto"
    STOCK = "STOCK", "Stock"

    @classmethod
    def for_market(cls, market_type: str) -> AccountType:
        return cls.CRYPTO if market_type in CRYPTO_MARKETS else cls.STOCK


class Account(ConfigModel):
    """One set of credentials at one exchange, owned by a user."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="accounts")
    name = models.CharField(max_length=64)
    exchange = models.CharField(max_length=16, choices=ExchangeName.choices)
    account_type = models.CharField(max_length=8, choices=AccountType.choices, default=AccountType.CRYPTO)
    environment = models.CharField(max_length=12, choices=Environment.choices, default=Environment.SIMULATOR)
    encrypted_api_key = models.TextField(editable=False)
    encrypted_api_secret = models.TextField(editable=False)
    encrypted_passphrase = models.TextField(editable=False, blank=True, default="")
    is_active = models.BooleanField(default=True)
    kill_switch = models.BooleanField(
        default=False, help_text="Nothing is sent for this account while it is on."
    )
    # Per symbol. Empty: the installation's own. They can only lower it; see orders.planning.caps_for.
    queue_limit_cap = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Most LIMIT orders resting per symbol; empty: QUEUE_LIMIT_CAP.",
    )
    queue_stop_cap = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Most STOP orders resting per symbol; empty: a quarter of the LIMIT cap, rounded up.",
    )
    queue_total_cap = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Most orders of both kinds resting per symbol; empty: the sum of the two.",
    )
    max_orders_per_minute = models.PositiveIntegerField(
        default=300,
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Of all strategies together; empty: no limit.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("user_id", "name")
        constraints = [models.UniqueConstraint(fields=["user", "name"], name="account_name_per_user")]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Refuse a queue cap that says nothing, or that seems to raise what it can only lower."""
        faults: dict[str, str] = {}
        limit, stop = self.queue_limit_cap, self.queue_stop_cap
        most = settings.QUEUE_LIMIT_CAP
        limits = most if limit is None else min(limit, most)
        stops = -(-limits // 4)
        for name, value, highest, what in (
            ("queue_limit_cap", limit, most, "QUEUE_LIMIT_CAP"),
            ("queue_stop_cap", stop, stops, "a quarter of the LIMIT cap"),
            ("queue_total_cap", self.queue_total_cap, limits + min(stops, stop or stops), "the sum of both"),
        ):
            if value is not None and value < 1:
                faults[name] = f"must be at least 1; it is {value}. Leave it empty for the usual cap"
            elif value is not None and value > highest:
                faults[name] = f"can only lower the cap: at most {highest} ({what}); it is {value}"
        if faults:
            raise ValidationError(faults)

    @property
    def credentials(self) -> Credentials:
        return Credentials(
            api_key=decrypt(self.encrypted_api_key),
            api_secret=decrypt(self.encrypted_api_secret),
            passphrase=decrypt(self.encrypted_passphrase),
        )

    @credentials.setter
    def credentials(self, value: Credentials) -> None:
        self.encrypted_api_key = encrypt(value.api_key)
        self.encrypted_api_secret = encrypt(value.api_secret)
        self.encrypted_passphrase = encrypt(value.passphrase)


class Instrument(ConfigModel):
    """One tradable thing at one exchange, with its grid. Units: see exchanges.adapters.types."""

    exchange = models.CharField(max_length=16, choices=ExchangeName.choices)
    environment = models.CharField(max_length=12, choices=Environment.choices)
    market_type = models.CharField(max_length=24, choices=Market.choices)
    symbol = models.CharField(max_length=48)
    venue_symbol = models.CharField(max_length=48)
    base_asset = models.CharField(max_length=24)
    quote_asset = models.CharField(max_length=24)
    tick_size = ExactDecimalField()
    lot_step = ExactDecimalField()
    min_quantity = ExactDecimalField()
    max_quantity = ExactDecimalField(null=True, blank=True)
    min_notional = ExactDecimalField(default=Decimal(0))
    contract_multiplier = ExactDecimalField(default=Decimal(1))
    market_lot_step = ExactDecimalField(null=True, blank=True)
    market_max_quantity = ExactDecimalField(null=True, blank=True)
    max_open_orders = models.PositiveIntegerField(null=True, blank=True)
    max_conditional_orders = models.PositiveIntegerField(null=True, blank=True)
    is_trading = models.BooleanField(default=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("exchange", "market_type", "symbol")
        constraints = [
            models.UniqueConstraint(
                fields=["exchange", "environment", "market_type", "symbol"], name="instrument_symbol"
            )
        ]

    def __str__(self) -> str:
        return f"{self.symbol} ({self.exchange} {self.market_type})"


class LastPrice(models.Model):
    """The last traded price that any process saw; the streams process keeps it fresh."""

    exchange = models.CharField(max_length=16)
    environment = models.CharField(max_length=12)
    market_type = models.CharField(max_length=24)
    symbol = models.CharField(max_length=48)
    price = ExactDecimalField()
    seen_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["exchange", "environment", "market_type", "symbol"], name="last_price_symbol"
            )
        ]

    def __str__(self) -> str:
        return f"{self.symbol} {self.price}"


class Ban(models.Model):
    """An exchange's "send nothing until then" to our address. See exchanges.bans.

    One row per base URL; it stays when the ban is over, and the next ban takes it.
    """

    base_url = models.CharField(max_length=200, unique=True)
    until = models.DateTimeField()
    reason = models.TextField(blank=True)

    class Meta:
        ordering = ("-until",)

    def __str__(self) -> str:
        return f"{self.base_url} until {self.until:%Y-%m-%d %H:%M:%S} UTC"


class BreakerQuerySet(models.QuerySet["Breaker"]):
    def known(self) -> BreakerQuerySet:
        """Leave out those that stand open and were not tried for ten minutes: nothing is known there."""
        forgotten = Q(retry_at__lt=timezone.now() - BREAKER_FORGOTTEN_AFTER)
        return self.exclude(forgotten & ~Q(state=BreakerState.CLOSED))


class Breaker(models.Model):
    """A circuit breaker as it last changed: one per base URL and machine. See exchanges.breakers.

    There is no row as long as it has never been open.
    """

    base_url = models.CharField(max_length=200)
    node = models.CharField(max_length=64)
    exchange = models.CharField(max_length=16)
    state = models.CharField(
        max_length=10, choices=[(one.value, one.value) for one in BreakerState], default=BreakerState.CLOSED
    )
    failures = models.PositiveIntegerField(default=0)
    opened_at = models.DateTimeField(null=True, blank=True)
    retry_at = models.DateTimeField(null=True, blank=True)
    changed_at = models.DateTimeField()
    reason = models.TextField(blank=True, default="")

    objects = BreakerQuerySet.as_manager()

    class Meta:
        ordering = ("base_url", "node")
        constraints = [
            models.UniqueConstraint(fields=["base_url", "node"], name="one_breaker_per_host_and_machine")
        ]

    def __str__(self) -> str:
        return f"{self.base_url} {self.state}"
