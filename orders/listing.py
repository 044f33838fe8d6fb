"""The rows that people are shown: plain values that can be compared, and nothing that can be saved.

Units: quantities in base asset or contracts; prices, notionals and PnL in quote asset. `tick_size` and
`lot_step` are the instrument's grid, None where it is not in our table any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

RESOLVING = "resolving"


@dataclass(frozen=True, slots=True)
class PositionRow:
    key: str
    symbol: str
    market_type: str
    strategy: str
    account: str
    quote_asset: str
    quantity: Decimal
    average_price: Decimal | None
    last_price: Decimal | None
    last_price_is_stale: bool
    unrealized_pnl: Decimal | None
    unrealized_percent: Decimal | None  # of the entry notional
    realized_pnl: Decimal
    tick_size: Decimal | None
    lot_step: Decimal | None

    @property
    def is_flat(self) -> bool:
        return self.quantity == 0


@dataclass(frozen=True, slots=True)
class OpenOrderRow:
    key: str
    symbol: str
    market_type: str
    strategy: str
    account: str
    side: str
    order_type: str
    price: Decimal | None
    stop_price: Decimal | None
    quantity: Decimal
    filled_quantity: Decimal
    status: str
    reduce_only: bool
    client_order_id: str
    submitted_at: datetime
    tick_size: Decimal | None
    lot_step: Decimal | None

    @property
    def filled_percent(self) -> int:
        """Whole percent, rounded down: only a filled order shows 100."""
        return int(self.filled_quantity / self.quantity * 100) if self.quantity else 0


@dataclass(frozen=True, slots=True)
class TradeRow:
    key: str
    symbol: str
    market_type: str
    strategy: str
    account: str
    side: str
    quantity: Decimal
    average_price: Decimal
    notional: Decimal
    realized_pnl: Decimal
    quote_asset: str
    fees: tuple[tuple[str, str], ...]  # (asset, amount)
    executed_at: datetime
    tick_size: Decimal | None
    lot_step: Decimal | None


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A failed order, or one whose outcome is still unknown (`status` is RESOLVING)."""

    key: str
    symbol: str
    market_type: str
    strategy: str
    account: str
    side: str
    order_type: str
    price: Decimal | None
    stop_price: Decimal | None
    quantity: Decimal
    status: str
    reason: str
    exchange_error: str
    error_type: str
    retry_count: int
    created_at: datetime
    tick_size: Decimal | None
    lot_step: Decimal | None

    @property
    def is_resolving(self) -> bool:
        return self.status == RESOLVING


@dataclass(frozen=True, slots=True)
class EventRow:
    """One line of the log. What it says of an order is empty where nothing is known of it any more."""

    id: int
    type: str
    source: str
    symbol: str
    side: str
    order_type: str
    quantity: Decimal | None
    filled_quantity: Decimal | None  # in total, after this event
    price: Decimal | None
    strategy: str
    account: str
    after: str  # the state that it led to
    message: str
    created_at: datetime

    @property
    def key(self) -> str:
        return f"event-{self.id}"

    @property
    def shows_fill(self) -> bool:
        return bool(self.filled_quantity) and self.filled_quantity != self.quantity


@dataclass(frozen=True, slots=True)
class StopRow:
    """A loss guard that keeps a strategy account from opening positions."""

    key: str
    kind: str
    strategy: str
    account: str
    limit: Decimal  # quote asset, or percent of a drawdown
    value: Decimal
    tripped_at: datetime
    ends_at: datetime | None  # None: until a person resumes it
