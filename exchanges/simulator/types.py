"""The simulator's own words: what an order, a fill and an instrument are inside the engine.

Units: quantities in base asset, prices and notionals in quote asset, all Decimal; times named
`*_ms` are epoch milliseconds of the simulated server clock, `*_ns` epoch nanoseconds of this
machine's clock (for benchmarks).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

ZERO = Decimal(0)


class MarketType(StrEnum):
    SPOT = "SPOT"
    FUTURES = "FUTURES"


class Side(StrEnum):
    BUY = "BUY"
    SELL = "SELL"

    @property
    def opposite(self) -> Side:
        return Side.SELL if self is Side.BUY else Side.BUY


class OrderType(StrEnum):
    """What an order is once it works; a stop is one of these with a `stop_price`."""

    LIMIT = "LIMIT"
    MARKET = "MARKET"


class TimeInForce(StrEnum):
    GTC = "GTC"
    IOC = "IOC"
    FOK = "FOK"


class OrderStatus(StrEnum):
    NEW = "NEW"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"
    EXPIRED_IN_MATCH = "EXPIRED_IN_MATCH"  # self-trade prevention

    @property
    def is_open(self) -> bool:
        return self is OrderStatus.NEW or self is OrderStatus.PARTIALLY_FILLED


class Change(StrEnum):
    """What happened to an order; the listener of a venue is told one at a time."""

    NEW = "NEW"
    TRIGGERED = "TRIGGERED"  # a stop began to work
    TRADE = "TRADE"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"


class ExpiryReason(StrEnum):
    NONE = "NONE"
    SELF_TRADE = "SELF_TRADE"
    IOC_REMAINDER = "IOC_REMAINDER"
    MARKET_REMAINDER = "MARKET_REMAINDER"
    REDUCE_ONLY = "REDUCE_ONLY"
    FOK = "FOK"
    FUNDS = "FUNDS"


class Reason(StrEnum):
    """Why the engine refused; each dialect has a table from these to its codes and texts."""

    INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS"
    DUPLICATE_CLIENT_ORDER_ID = "DUPLICATE_CLIENT_ORDER_ID"
    WOULD_TAKE = "WOULD_TAKE"
    WOULD_TRIGGER = "WOULD_TRIGGER"
    FOK_UNFILLABLE = "FOK_UNFILLABLE"
    REDUCE_ONLY = "REDUCE_ONLY"
    POSITION_SIDE = "POSITION_SIDE"
    TOO_MANY_ORDERS = "TOO_MANY_ORDERS"
    TOO_MANY_STOPS = "TOO_MANY_STOPS"
    PRICE_PRECISION = "PRICE_PRECISION"
    PRICE_TICK = "PRICE_TICK"
    PRICE_RANGE = "PRICE_RANGE"
    PRICE_TOO_HIGH = "PRICE_TOO_HIGH"
    PRICE_TOO_LOW = "PRICE_TOO_LOW"
    QUANTITY_PRECISION = "QUANTITY_PRECISION"
    QUANTITY_STEP = "QUANTITY_STEP"
    QUANTITY_NOT_POSITIVE = "QUANTITY_NOT_POSITIVE"
    QUANTITY_TOO_SMALL = "QUANTITY_TOO_SMALL"
    QUANTITY_TOO_LARGE = "QUANTITY_TOO_LARGE"
    MARKET_QUANTITY_TOO_LARGE = "MARKET_QUANTITY_TOO_LARGE"
    NOTIONAL_TOO_SMALL = "NOTIONAL_TOO_SMALL"
    NOTIONAL_TOO_LARGE = "NOTIONAL_TOO_LARGE"
    UNKNOWN_ORDER = "UNKNOWN_ORDER"


class Refusal(Exception):
    """The engine did nothing; `reason` says why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(slots=True, frozen=True, eq=False)
class Instrument:
    """One symbol on one venue, with its grid and caps.

    `price_precision` and `quantity_precision` are counts of decimals that the wire accepts;
    they may be finer than `tick_size` and `lot_step`, as on Binance futures.
    """

    base: str
    quote: str
    tick_size: Decimal
    lot_step: Decimal
    min_quantity: Decimal
    max_quantity: Decimal
    max_market_quantity: Decimal
    min_notional: Decimal
    max_notional: Decimal
    price_precision: int
    quantity_precision: int
    max_price: Decimal
    # How far from the market a limit price may be, as factors of the market price.
    buy_band: tuple[Decimal, Decimal]
    sell_band: tuple[Decimal, Decimal]
    max_open_orders: int = 200
    max_stop_orders: int = 5
    max_leverage: int = 125

    @property
    def name(self) -> str:
        """`BASE/QUOTE`, the name all venues share."""
        return f"{self.base}/{self.quote}"


@dataclass(slots=True)
class Fill:
    """One execution of one order. `realized_pnl` is before fees and zero on spot."""

    trade_id: int
    price: Decimal
    quantity: Decimal
    fee: Decimal
    fee_asset: str
    is_maker: bool
    time_ms: int
    realized_pnl: Decimal = ZERO


@dataclass(slots=True, eq=False)
class Order:
    """One order that the engine accepted, for ever: closed orders stay for the ledger.

    `wire` holds the dialect's own words (type, time in force, ...) so that it can echo them.
    """

    order_id: int
    api_key: str
    instrument: Instrument
    side: Side
    type: OrderType
    quantity: Decimal
    price: Decimal | None
    client_order_id: str
    time_in_force: TimeInForce
    post_only: bool
    reduce_only: bool
    position_side: str
    stop_price: Decimal | None
    triggers_above: bool
    wire: dict[str, str]
    received_ns: int
    accepted_ns: int
    created_ms: int
    updated_ms: int
    ended_ns: int = 0  # 0 while it is open
    status: OrderStatus = OrderStatus.NEW
    filled: Decimal = ZERO
    filled_quote: Decimal = ZERO
    fills: list[Fill] = field(default_factory=list)
    is_triggered: bool = False
    working_ms: int = 0  # 0 while a stop waits
    book_sequence: int = 0  # time priority: when it began to rest
    lock_price: Decimal | None = None  # spot: price at which a buy has locked money
    expiry_reason: ExpiryReason = ExpiryReason.NONE
    cancel_client_id: str = ""

    @property
    def remaining(self) -> Decimal:
        return self.quantity - self.filled

    @property
    def is_waiting_stop(self) -> bool:
        return self.stop_price is not None and not self.is_triggered

    @property
    def average_price(self) -> Decimal:
        return self.filled_quote / self.filled if self.filled else ZERO


@dataclass(slots=True, kw_only=True)
class OrderRequest:
    """What an account asks for. Exactly one of `quantity` and `quote_quantity` is given."""

    api_key: str
    instrument: Instrument
    side: Side
    type: OrderType
    client_order_id: str
    quantity: Decimal | None = None
    quote_quantity: Decimal | None = None
    price: Decimal | None = None
    time_in_force: TimeInForce = TimeInForce.GTC
    post_only: bool = False
    reduce_only: bool = False
    position_side: str = "BOTH"
    stop_price: Decimal | None = None
    triggers_above: bool = False
    wire: dict[str, str] = field(default_factory=dict)
    received_ns: int = 0
