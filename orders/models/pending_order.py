from __future__ import annotations

from django.db import models

from exchanges.models import Account
from orders.models.book import Book
from orders.models.intent import OrderIntent, SideChoice
from orders.models.quick import QuickModel
from orders.models.strategy import StrategyAccount


class PendingOrder(QuickModel):
    """An intent waiting in the queue, not on the exchange. The row goes when the intent moves on.

    What waits is the intent's quantity less what was booked, computed when it is claimed: no quantity here.
    `priority` and `sort_price` are computed once (orders.planning) and are for ordering only.
    """

    intent = models.OneToOneField(
        OrderIntent, on_delete=models.PROTECT, primary_key=True, related_name="pending_order"
    )
    # Copied from the intent for ranking and listing; the intent holds the constraints.
    account = models.ForeignKey(
        Account, on_delete=models.DO_NOTHING, related_name="pending_orders", db_constraint=False
    )
    strategy_account = models.ForeignKey(
        StrategyAccount, on_delete=models.DO_NOTHING, related_name="pending_orders", db_constraint=False
    )
    book = models.ForeignKey(
        Book, on_delete=models.DO_NOTHING, related_name="pending_orders", db_constraint=False
    )
    side = models.CharField(max_length=4, choices=SideChoice.choices)
    priority = models.PositiveSmallIntegerField()  # 3: LIMIT lane, 5: STOP lane
    sort_price = models.DecimalField(max_digits=38, decimal_places=18)  # the higher, the earlier
    created_at = models.DateTimeField()  # the intent's: who has waited longest goes first
    queued_at = models.DateTimeField()
    # A try that the exchange put off: not before then. Null: ready.
    waits_until = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=200, blank=True, default="")  # why it came back, masked
    is_retry = models.BooleanField(default=False)  # a person sent it here from the failed orders

    class Meta:
        indexes = [
            models.Index(
                "book",
                "side",
                "priority",
                models.F("sort_price").desc(),
                "created_at",
                "intent",
                name="pending_by_rank",
                condition=models.Q(waits_until__isnull=True),
            ),
            models.Index(
                fields=["waits_until"],
                name="pending_due",
                condition=models.Q(waits_until__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.intent_id} waiting"
