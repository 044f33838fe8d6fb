"""What became of orders: fills, trades, positions."""

from __future__ import annotations

from decimal import Decimal

from django.db import models

from exchanges.adapters.types import Liquidity
from exchanges.fields import ExactDecimalField
from exchanges.models import Account, Market
from orders.models.intent import OrderIntent, Placement, SideChoice
from orders.models.strategy import StrategyAccount


class TradeExecution(models.Model):
    """One fill, stored once. The `position_*` columns are the position right after it was folded in."""

    intent = models.ForeignKey(OrderIntent, on_delete=models.PROTECT, related_name="executions")
    placement = models.ForeignKey(Placement, on_delete=models.PROTECT, related_name="executions")
    # Its index is `execution_of_day`, which begins with it.
    strategy_account = models.ForeignKey(
        StrategyAccount, on_delete=models.PROTECT, related_name="executions", db_index=False
    )
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="executions")
    market_type = models.CharField(max_length=24, choices=Market.choices)
    symbol = models.CharField(max_length=48)
    exchange_order_id = models.CharField(max_length=64)
    trade_id = models.CharField(max_length=64)
    side = models.CharField(max_length=4, choices=SideChoice.choices)
    price = ExactDecimalField()
    quantity = ExactDecimalField()
    fee = ExactDecimalField(default=Decimal(0))
    fee_asset = models.CharField(max_length=24, blank=True, default="")
    liquidity = models.CharField(
        max_length=8, blank=True, default="", choices=[(word.value, word.value.title()) for word in Liquidity]
    )
    exchange_realized_pnl = ExactDecimalField(null=True, blank=True)
    realized_pnl = ExactDecimalField(default=Decimal(0))  # ours: by this strategy account's own average
    position_quantity = ExactDecimalField(default=Decimal(0))
    position_average_price = ExactDecimalField(null=True, blank=True)
    position_realized_pnl = ExactDecimalField(default=Decimal(0))
    executed_at = models.DateTimeField()
    recorded_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "market_type", "symbol", "exchange_order_id", "trade_id"],
                name="execution_counted_once",
            )
        ]
        indexes = [
            models.Index(
                fields=["strategy_account", "market_type", "symbol", "executed_at", "trade_id"],
                name="execution_fold_order",
            ),
            models.Index(fields=["strategy_account", "executed_at"], name="execution_of_day"),
        ]

    def __str__(self) -> str:
        return f"{self.trade_id}: {self.quantity} @ {self.price}"


class Trade(models.Model):
    """What one order did in total."""

    intent = models.OneToOneField(OrderIntent, on_delete=models.PROTECT, related_name="trade")
    strategy_account = models.ForeignKey(StrategyAccount, on_delete=models.PROTECT, related_name="trades")
    market_type = models.CharField(max_length=24, choices=Market.choices)
    symbol = models.CharField(max_length=48)
    side = models.CharField(max_length=4, choices=SideChoice.choices)
    quantity = ExactDecimalField()
    notional = ExactDecimalField()
    average_price = ExactDecimalField()
    fees = models.JSONField(default=dict)  # {asset: amount as text}
    realized_pnl = ExactDecimalField(default=Decimal(0))
    first_executed_at = models.DateTimeField()
    last_executed_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["strategy_account", "-last_executed_at"], name="trade_recent")]

    def __str__(self) -> str:
        return f"{self.side} {self.quantity} {self.symbol} @ {self.average_price}"


class StrategyPosition(models.Model):
    """Signed quantity (long is positive), average entry, realised PnL before fees, in quote asset."""

    strategy_account = models.ForeignKey(StrategyAccount, on_delete=models.PROTECT, related_name="positions")
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="positions")
    market_type = models.CharField(max_length=24, choices=Market.choices)
    symbol = models.CharField(max_length=48)
    quantity = ExactDecimalField(default=Decimal(0))
    average_price = ExactDecimalField(null=True, blank=True)
    realized_pnl = ExactDecimalField(default=Decimal(0))
    last_executed_at = models.DateTimeField(null=True, blank=True)  # of the last folded execution …
    last_trade_id = models.CharField(max_length=64, blank=True, default="")  # … and its id
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["strategy_account", "market_type", "symbol"], name="position_per_symbol"
            )
        ]

    def __str__(self) -> str:
        return f"{self.symbol} {self.quantity}"
