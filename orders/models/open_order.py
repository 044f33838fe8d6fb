from __future__ import annotations

from django.db import models

from exchanges.models import Account
from orders.models.book import Book
from orders.models.intent import OrderIntent, Placement
from orders.models.quick import QuickModel
from orders.models.strategy import StrategyAccount
from orders.states import OrderStatus


class CancelReason(models.TextChoices):
    REQUESTED = "REQUESTED", "Asked for"
    MOVE_BACK = "MOVE_BACK", "To be moved back to the queue"
    REFUSED = "REFUSED", "The exchange refused to let it be moved back"


MOVED_BACK = frozenset({CancelReason.MOVE_BACK, CancelReason.REFUSED})


class OpenOrder(QuickModel):
    """An intent on the exchange, or on its way there or back. The row goes when the order ends."""

    intent = models.OneToOneField(
        OrderIntent, on_delete=models.PROTECT, primary_key=True, related_name="open_order"
    )
    placement = models.OneToOneField(Placement, on_delete=models.PROTECT, related_name="open_order")
    # Copied from the intent for listing and indexing; the intent holds the constraints.
    account = models.ForeignKey(
        Account, on_delete=models.DO_NOTHING, related_name="open_orders", db_constraint=False
    )
    strategy_account = models.ForeignKey(
        StrategyAccount, on_delete=models.DO_NOTHING, related_name="open_orders", db_constraint=False
    )
    book = models.ForeignKey(
        Book, on_delete=models.DO_NOTHING, related_name="open_orders", db_constraint=False
    )
    status = models.CharField(max_length=20, choices=OrderStatus.choices, default=OrderStatus.SUBMITTING)
    cancel_reason = models.CharField(max_length=12, choices=CancelReason.choices, blank=True, default="")
    # When the resolver may ask about a SUBMITTING or CANCELING order; null while it simply rests.
    ask_at = models.DateTimeField(null=True, blank=True)
    not_found_count = models.PositiveSmallIntegerField(default=0)
    submitted_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(
                fields=["ask_at"], name="open_order_to_ask", condition=models.Q(ask_at__isnull=False)
            )
        ]

    def __str__(self) -> str:
        return f"{self.intent_id} {self.status}"
