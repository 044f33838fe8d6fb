"""What was asked for, and each attempt to have it resting on an exchange."""

from __future__ import annotations

from decimal import Decimal

from django.conf import settings
from django.db import models

from exchanges.adapters.types import STOP_TYPES, OrderRef, OrderRequest, OrderType, Side
from exchanges.fields import ExactDecimalField
from exchanges.models import Account, Market
from orders.models.book import Book
from orders.models.delivery import WebhookDelivery
from orders.models.quick import QuickModel
from orders.models.strategy import StrategyAccount


class Home(models.TextChoices):
    """Where an intent lives: exactly one place for its whole life."""

    QUEUE = "QUEUE", "Waiting in the queue"
    EXCHANGE = "EXCHANGE", "On the exchange, or on its way"
    FAILED = "FAILED", "Failed"
    DONE = "DONE", "Done"


class SideChoice(models.TextChoices):
    BUY = Side.BUY.value, "Buy"
    SELL = Side.SELL.value, "Sell"


class OrderTypeChoice(models.TextChoices):
    MARKET = OrderType.MARKET.value, "Market"
    LIMIT = OrderType.LIMIT.value, "Limit"
    STOP_MARKET = OrderType.STOP_MARKET.value, "Stop market"
    STOP_LIMIT = OrderType.STOP_LIMIT.value, "Stop limit"


class OrderIntent(QuickModel):
    """One order for one strategy account, for life. It is the row that every writer locks first."""

    uid = models.CharField(max_length=26, unique=True)  # ULID
    delivery = models.ForeignKey(WebhookDelivery, on_delete=models.PROTECT, related_name="intents")
    order_index = models.PositiveSmallIntegerField()
    # The strategy's owner, copied: whoever may see the order. The strategy holds the constraint.
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.DO_NOTHING, related_name="+", db_constraint=False
    )
    # Its index is `intent_recent`, which begins with it.
    strategy_account = models.ForeignKey(
        StrategyAccount, on_delete=models.PROTECT, related_name="intents", db_index=False
    )
    book = models.ForeignKey(Book, on_delete=models.PROTECT, related_name="intents")
    market_type = models.CharField(max_length=24, choices=Market.choices)
    symbol = models.CharField(max_length=48)
    side = models.CharField(max_length=4, choices=SideChoice.choices)
    order_type = models.CharField(max_length=12, choices=OrderTypeChoice.choices)
    price = ExactDecimalField(null=True, blank=True)
    stop_price = ExactDecimalField(null=True, blank=True)
    quantity = ExactDecimalField()
    reduce_only = models.BooleanField(default=False)
    closes_position = models.BooleanField(default=False)  # asked for with a negative qty_per
    is_queued = models.BooleanField(default=False)  # LIMIT and STOP of a QUEUED strategy: passes the queue
    filled_quantity = ExactDecimalField(default=Decimal(0))  # as booked by us
    home = models.CharField(max_length=8, choices=Home.choices)
    cancel_requested = models.BooleanField(default=False)
    retry_count = models.PositiveSmallIntegerField(default=0)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["delivery", "order_index", "strategy_account"], name="one_intent_per_pair"
            )
        ]
        indexes = [
            models.Index(
                fields=["strategy_account", "symbol"],
                name="intent_alive",
                condition=models.Q(home__in=["QUEUE", "EXCHANGE"]),
            ),
            models.Index(fields=["strategy_account", "created_at"], name="intent_recent"),
        ]

    def __str__(self) -> str:
        return self.uid

    @property
    def remaining_quantity(self) -> Decimal:
        remaining: Decimal = self.quantity - self.filled_quantity
        return max(remaining, Decimal(0))

    @property
    def is_stop(self) -> bool:
        return self.order_type in STOP_TYPES


class PlacementOutcome(models.TextChoices):
    UNRESOLVED = "UNRESOLVED", "May or may not exist"
    PLACED = "PLACED", "Known to the exchange"
    NEVER_PLACED = "NEVER_PLACED", "Surely never placed"


class Placement(QuickModel):
    """One attempt to have an intent resting on the exchange.

    Committed before the first byte leaves, its client order id is never used twice, and it is never
    deleted: late reports are matched against it.
    """

    intent = models.ForeignKey(OrderIntent, on_delete=models.PROTECT, related_name="placements")
    # Copied from the intent's book: reports are matched without a join. The book holds the constraint.
    account = models.ForeignKey(Account, on_delete=models.DO_NOTHING, related_name="+", db_constraint=False)
    number = models.PositiveSmallIntegerField(default=1)
    client_order_id = models.CharField(max_length=36, unique=True)
    quantity = ExactDecimalField()
    send_by = models.DateTimeField()  # database clock
    is_retry = models.BooleanField(default=False)  # a person asked for this try
    outcome = models.CharField(
        max_length=12, choices=PlacementOutcome.choices, default=PlacementOutcome.UNRESOLVED
    )
    exchange_order_id = models.CharField(max_length=64, blank=True, default="")
    child_order_id = models.CharField(max_length=64, blank=True, default="")  # a stop's order, once triggered
    filled_quantity = ExactDecimalField(default=Decimal(0))  # as booked by us
    exchange_filled_quantity = ExactDecimalField(default=Decimal(0))  # as the exchange counts it
    exchange_status = models.CharField(
        max_length=20, blank=True, default=""
    )  # its last word, ours in spelling
    exchange_words = models.CharField(max_length=500, blank=True, default="")  # masked
    created_at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(
                fields=["account", "exchange_order_id"],
                name="placement_by_exchange_id",
                condition=~models.Q(exchange_order_id=""),
            ),
            models.Index(
                fields=["account", "child_order_id"],
                name="placement_by_child_id",
                condition=~models.Q(child_order_id=""),
            ),
            models.Index(
                fields=["id"],
                name="placement_with_gap",
                condition=~models.Q(exchange_filled_quantity=models.F("filled_quantity")),
            ),
        ]

    def __str__(self) -> str:
        return self.client_order_id

    @property
    def remaining_quantity(self) -> Decimal:
        """What of this attempt is not filled, as booked by us."""
        remaining: Decimal = self.quantity - self.filled_quantity
        return max(remaining, Decimal(0))

    @property
    def has_gap(self) -> bool:
        """The exchange counts more as filled than we have booked."""
        return bool(self.exchange_filled_quantity > self.filled_quantity)

    def to_request(self, *, planned_at_monotonic: float, send_by_monotonic: float | None) -> OrderRequest:
        intent = self.intent
        return OrderRequest(
            client_order_id=self.client_order_id,
            symbol=intent.symbol,
            side=Side(intent.side),
            order_type=OrderType(intent.order_type),
            quantity=self.quantity,
            price=intent.price,
            stop_price=intent.stop_price,
            reduce_only=intent.reduce_only,
            send_by_monotonic=send_by_monotonic,
            planned_at_monotonic=planned_at_monotonic,
        )

    @property
    def has_triggered(self) -> bool:
        """A stop that has become an order in the book; `child_order_id` is that one's."""
        return bool(self.intent.is_stop and self.child_order_id)

    def to_ref(self) -> OrderRef:
        return OrderRef(
            symbol=self.intent.symbol,
            client_order_id=self.client_order_id,
            exchange_order_id=self.exchange_order_id or None,
            conditional=self.intent.is_stop,
            child_order_id=self.child_order_id or None,
            placed_at=self.created_at,
        )


def client_order_id(uid: str, number: int) -> str:
    """Return the id of an intent's placement: 32 letters and digits."""
    return f"th{uid}{number:04d}"
