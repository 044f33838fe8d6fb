"""The rows that people are shown: plain values that can be compared, and nothing that can be saved.

Units: quantities in base asset or contracts; prices, notionals and PnL in quote asset. `tick_size` and
`lot_step` are the instrument's grid, None where it is not in our table any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from orders.models import MAX_RETRIES

RESOLVING = "resolving"
MANY_WAITING = 1000  # a book's waiting orders are counted up to here


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
    """A failed order, or one whose outcome is still unknown (`status` is RESOLVING).

    `id`: the failed order's, for one that is resolving its intent's. `last_price`: the market's, beside the
    price that was asked for: a retry is still the order that was asked for.
    """

    key: str
    id: int
    uid: str  # the order's own, for life
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
    next_retry_at: datetime | None
    created_at: datetime
    last_price: Decimal | None
    last_price_is_stale: bool
    tick_size: Decimal | None
    lot_step: Decimal | None
    needs_decision: bool = False  # unknown for so long that a person may decide what became of it

    @property
    def is_resolving(self) -> bool:
        return self.status == RESOLVING

    @property
    def max_retries(self) -> int:
        return MAX_RETRIES

    @property
    def is_used_up(self) -> bool:
        return self.retry_count >= MAX_RETRIES

    @property
    def can_retry(self) -> bool:
        return not self.is_resolving and not self.is_used_up


@dataclass(frozen=True, slots=True)
class BookRow:
    """The heading of a book's waiting orders: how many of its slots are taken, and how many wait."""

    key: str
    symbol: str
    market_type: str
    account: str
    limit_resting: int  # those of others included
    limit_cap: int
    stop_resting: int
    stop_cap: int
    waiting: int  # of those that the reader may see; at most MANY_WAITING + 1
    shown: int

    is_book = True

    @property
    def hidden(self) -> int:
        return max(0, self.waiting - self.shown)

    @property
    def waiting_text(self) -> str:
        return _at_most(self.waiting, MANY_WAITING)

    @property
    def hidden_text(self) -> str:
        return _at_most(self.hidden, MANY_WAITING - self.shown)


def _at_most(count: int, most: int) -> str:
    return f"{most}+" if count > most else str(count)


@dataclass(frozen=True, slots=True)
class WaitingRow:
    """An order in the queue. `place`: 1 is the next of its book and lane; None while it is put off."""

    key: str
    symbol: str
    market_type: str
    strategy: str
    account: str
    lane: str
    place: int | None
    side: str
    order_type: str
    price: Decimal | None
    stop_price: Decimal | None
    quantity: Decimal  # what is left of it
    reduce_only: bool
    reason: str
    waits_until: datetime | None
    retry_count: int
    is_retry: bool
    created_at: datetime
    tick_size: Decimal | None
    lot_step: Decimal | None

    is_book = False


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
