from __future__ import annotations

from django.db import models

from exchanges.models import Account, Market


class Book(models.Model):
    """All orders of one (account, market type, symbol): the unit of queueing and locking.

    The row is the lock; it is made with insert-or-ignore before the first lock and never deleted.
    """

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="books")
    market_type = models.CharField(max_length=24, choices=Market.choices)
    symbol = models.CharField(max_length=48)
    # What the exchange was last told; asked for once and remembered, so that orders need not wait for it.
    leverage = models.PositiveSmallIntegerField(null=True, blank=True)
    # What rested when the exchange said "too many open orders": no more go into that lane until then.
    limit_fits = models.PositiveSmallIntegerField(null=True, blank=True)
    limit_fits_until = models.DateTimeField(null=True, blank=True)
    stop_fits = models.PositiveSmallIntegerField(null=True, blank=True)
    stop_fits_until = models.DateTimeField(null=True, blank=True)
    is_account_full = models.BooleanField(default=False)  # it said so of all symbols of the account
    # Orders that are not ours, as the last reconciliation counted them: they take up slots.
    external_limit_orders = models.PositiveSmallIntegerField(default=0)
    external_stop_orders = models.PositiveSmallIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account", "market_type", "symbol"], name="book_per_symbol")
        ]

    def __str__(self) -> str:
        return f"{self.symbol} {self.market_type} #{self.account_id}"
