"""The words that every exchange adapter speaks: requests in, reports out.

Units:  quantities in base asset (contracts on a futures venue with contracts), prices in
        quote asset, both Decimal. Times are aware UTC datetimes. Symbols are `BASE/QUOTE`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum


class MarketType(StrEnum):
    SPOT = "SPOT"
    FUTURES = "FUTURES"
    DOMESTIC_STOCK = "DOMESTIC_STOCK"
    OVERSEAS_STOCK = "OVERSEAS_STOCK"
    DOMESTIC_FUTUREOPTION = "DOMESTIC_FUTUREOPTION"
    OVERSEAS_FUTUREOPTION = "OVERSEAS_FUTUREOPTION"


CRYPTO_MARKETS = frozenset({MarketType.SPOT, MarketType.FUTURES})


class Environment(StrEnum):
    """Which host an account talks to."""

    LIVE = "LIVE"
    TESTNET = "TESTNET"
    SIMULATOR = "SIMULATOR"


class Side(StrEnum):
    BUY = "BUY"
    SELL = "SELL"

    @property
    def opposite(self) -> Side:
        return Side.SELL if self is Side.BUY else Side.BUY


class OrderType(StrEnum):
    MARKET = "MARKET"
    LIMIT = "LIMIT"
    STOP_MARKET = "STOP_MARKET"
    STOP_LIMIT = "STOP_LIMIT"


STOP_TYPES = frozenset({OrderType.STOP_MARKET, OrderType.STOP_LIMIT})


class TimeInForce(StrEnum):
    GTC = "GTC"
    IOC = "IOC"
    FOK = "FOK"


class VenueOrderStatus(StrEnum):
    """What an exchange says of an order, in our words."""

    NEW = "NEW"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    CANCELED = "CANCELED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"


VENUE_CLOSED = frozenset(
    {VenueOrderStatus.FILLED, VenueOrderStatus.CANCELED, VenueOrderStatus.REJECTED, VenueOrderStatus.EXPIRED}
)


class Liquidity(StrEnum):
    MAKER = "MAKER"
    TAKER = "TAKER"


class StreamKind(StrEnum):
    """How an exchange tells us about our orders."""

    NONE = "NONE"
    ACCOUNT = "ACCOUNT"  # one stream, every symbol
    SYMBOLS = "SYMBOLS"  # one stream, symbols to be subscribed one by one


class QuantityKind(StrEnum):
    """What the quantity of an order counts."""

    BASE = "BASE"
    QUOTE_FOR_MARKET_BUY = "QUOTE_FOR_MARKET_BUY"
    WHOLE_SHARES = "WHOLE_SHARES"


class ClientIdScope(StrEnum):
    """Among which orders a client order id has to be unique."""

    OPEN_ORDERS = "OPEN_ORDERS"
    FOR_EVER = "FOR_EVER"
    IDEMPOTENT = "IDEMPOTENT"
    ABSENT = "ABSENT"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one exchange and market family can do; other rooms ask this, never the exchange's name."""

    market_types: frozenset[MarketType]
    order_types: frozenset[OrderType]
    place_batch_size: int = 1  # 1: no native batch, requests go side by side
    cancel_batch_size: int = 1
    client_id_scope: ClientIdScope = ClientIdScope.OPEN_ORDERS
    client_id_max_length: int = 36
    max_open_orders: int | None = None  # per symbol, where instruments do not say better
    max_conditional_orders: int | None = None
    conditional_orders_per_account: bool = False  # the conditional cap counts all symbols together
    stream: StreamKind = StreamKind.ACCOUNT
    leverage: bool = False
    reduce_only: bool = False
    testnet: bool = True
    quantity_kind: QuantityKind = QuantityKind.BASE
    place_answer_is_final: bool = True  # False: only an acknowledgement, the verdict comes later
    validity_window_seconds: float | None = 5.0  # how long a signed request stays valid; None: for ever
    remembers_seconds: float | None = None  # of an order that ended without a fill; None: for ever
    request_timeout_seconds: float = 10.0  # an answer that is not here by then does not come


@dataclass(frozen=True, slots=True)
class InstrumentSpec:
    """One tradable thing and its grid, as the exchange describes it."""

    market_type: MarketType
    symbol: str  # BASE/QUOTE
    venue_symbol: str  # BTCUSDT
    base_asset: str
    quote_asset: str
    tick_size: Decimal
    lot_step: Decimal
    min_quantity: Decimal
    max_quantity: Decimal | None
    min_notional: Decimal
    contract_multiplier: Decimal = Decimal(1)
    market_lot_step: Decimal | None = None  # where market orders have a grid of their own
    market_max_quantity: Decimal | None = None
    max_open_orders: int | None = None
    max_conditional_orders: int | None = None
    is_trading: bool = True


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """One order to be placed.

    `send_by_monotonic` is on this process's `time.monotonic()` clock, in seconds: the request
    must not be written to a socket after it. None: no deadline. `planned_at_monotonic`, on the same clock, is
    when it was decided on: that clock stands still while a machine sleeps, and so does the deadline.
    """

    client_order_id: str
    symbol: str
    side: Side
    order_type: OrderType
    quantity: Decimal
    price: Decimal | None = None
    stop_price: Decimal | None = None
    reduce_only: bool = False
    time_in_force: TimeInForce = TimeInForce.GTC
    send_by_monotonic: float | None = None
    planned_at_monotonic: float = field(default_factory=time.monotonic, compare=False)


@dataclass(frozen=True, slots=True)
class OrderRef:
    """Names one order at the exchange, by our id, theirs, or both.

    `conditional`: it is (or was placed as) a stop order, which some exchanges keep behind another API.
    `child_order_id`: the order that a triggered conditional order became, where that has an id of its own.
    `only_waiting`: a cancel means the conditional order while it waits, never the one that it has become.
    `placed_at`: no earlier than that it was sent, where that is known; it is no part of the name.
    `send_by_monotonic` and `planned_at_monotonic` are for its cancel what they are for an OrderRequest.
    """

    symbol: str
    client_order_id: str | None = None
    exchange_order_id: str | None = None
    conditional: bool = False
    child_order_id: str | None = None
    placed_at: datetime | None = field(default=None, compare=False)
    only_waiting: bool = field(default=False, compare=False)
    send_by_monotonic: float | None = field(default=None, compare=False)
    planned_at_monotonic: float = field(default_factory=time.monotonic, compare=False)


@dataclass(frozen=True, slots=True)
class Fill:
    """One fill. `trade_id` with account, market type and symbol is our guard against counting twice.

    `realized_pnl` is the exchange's own figure where it gives one, quote asset, before fees.
    """

    trade_id: str
    price: Decimal
    quantity: Decimal
    executed_at: datetime
    fee: Decimal = Decimal(0)
    fee_asset: str = ""
    liquidity: Liquidity | None = None
    realized_pnl: Decimal | None = None
    exchange_order_id: str = ""


@dataclass(frozen=True, slots=True)
class OrderReport:
    """What an exchange says about one order, whoever brings it: an answer, a stream, a query.

    `filled_quantity` is cumulative as the exchange counts it, None where the message does not say
    (an acknowledgement). `fills` are the fills that came with this very message; there may have been
    others. `child_order_id` is set once a conditional order has triggered: the order that it has become,
    which on some exchanges is still the same. Until then a stop's reports are `conditional`. `triggered` is
    None where a message does not say.
    `is_acknowledgement`: accepted for processing, the verdict comes later.
    """

    market_type: MarketType
    symbol: str
    exchange_order_id: str
    client_order_id: str
    status: VenueOrderStatus
    side: Side | None = None
    order_type: OrderType | None = None
    quantity: Decimal | None = None
    price: Decimal | None = None
    stop_price: Decimal | None = None
    filled_quantity: Decimal | None = None
    average_price: Decimal | None = None
    fills: tuple[Fill, ...] = ()
    conditional: bool = False
    triggered: bool | None = False
    child_order_id: str = ""
    reduce_only: bool = False
    reason: str = ""  # the exchange's words for a rejection or an expiry, masked
    updated_at: datetime | None = None  # the exchange's time of this state
    is_acknowledgement: bool = False
    raw: dict[str, object] = field(default_factory=dict, compare=False, repr=False)


class StreamState(StrEnum):
    CONNECTING = "CONNECTING"
    CONNECTED = "CONNECTED"
    DISCONNECTED = "DISCONNECTED"


@dataclass(frozen=True, slots=True)
class StreamStateChange:
    """The user stream came up or went down. After CONNECTED everything may have been missed."""

    state: StreamState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class UnreadableMessage:
    """A stream message that nobody could read: kept raw (masked), loud, nothing guessed."""

    text: str
    error: str


StreamEvent = OrderReport | StreamStateChange | UnreadableMessage


@dataclass(frozen=True, slots=True)
class UnreadableOrder:
    """A row of an exchange's list that nobody could read: kept raw (masked), nothing guessed of its state.

    `names`: every order id in it, theirs first, then the client's; never empty. `symbol`: "" where it is
    not among the instruments.
    """

    names: tuple[str, ...]
    text: str
    error: str
    symbol: str = ""

    def is_about(self, symbol: str, *names: str) -> bool:
        """Tell whether it may be about the order that bears one of these ids; "" names nothing."""
        return self.symbol in ("", symbol) and any(name in self.names for name in names if name)


ListedOrder = OrderReport | UnreadableOrder


@dataclass(frozen=True, slots=True)
class Balance:
    asset: str
    free: Decimal
    locked: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class VenuePosition:
    """The account's net position at the exchange. `quantity` is signed: long is positive."""

    symbol: str
    quantity: Decimal
    entry_price: Decimal
    unrealized_pnl: Decimal = Decimal(0)
    leverage: int | None = None


@dataclass(frozen=True, slots=True)
class Credentials:
    """One account's keys, in clear, in memory only. `repr` never shows them."""

    api_key: str = field(repr=False)
    api_secret: str = field(repr=False)
    passphrase: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where one exchange and market family lives: base URLs without a trailing slash."""

    rest: str
    ws: str
