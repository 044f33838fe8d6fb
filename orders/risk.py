"""The guards that an order passes before it is written down. Pure: no database, no clock, no network.

`judge` goes through the orders of one webhook, each of which counts for those after it. A guard says
nothing, or a sentence that names its limit and the value. Closing a position is never denied: a negative
`qty_per`, reduce-only, or an order that does no more than reduce what is held.

Units: notionals, losses and profits in quote asset, quantities in base asset or contracts; all Decimal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from exchanges.adapters.types import OrderType, Side
from exchanges.fields import plain

ZERO = Decimal(0)
HUNDRED = Decimal(100)
DAILY_LOSS, DRAWDOWN = "DAILY_LOSS", "DRAWDOWN"

BookKey = tuple[int, str, str]  # strategy account id, market type, symbol


@dataclass(frozen=True, slots=True)
class Trip:
    """A loss guard that has tripped and is not over; see orders.models.LossTrip."""

    kind: str
    reason: str
    ends_at: datetime | None

    def holds(self, now: datetime) -> bool:
        return self.ends_at is None or now < self.ends_at


@dataclass(frozen=True, slots=True)
class Guards:
    """What is set for one strategy account: by strategy, account and itself. None: no limit."""

    strategy_account_id: int
    strategy_id: int = 0
    account_id: int = 0
    strategy: str = ""
    account: str = ""
    exchange: str = ""
    environment: str = ""
    strategy_mates: tuple[int, ...] = ()  # the strategy accounts of its strategy, itself among them …
    account_mates: tuple[int, ...] = ()  # … and of its account
    allowlist: frozenset[str] = frozenset()  # as `bare` writes symbols; empty: all
    blocklist: frozenset[str] = frozenset()
    strategy_orders_per_minute: int | None = None
    account_orders_per_minute: int | None = None
    price_deviation_percent: Decimal | None = None
    order_notional: Decimal | None = None
    position_notional: Decimal | None = None
    symbols: int | None = None
    daily_loss: Decimal | None = None
    drawdown_percent: Decimal | None = None
    capital: Decimal = ZERO
    time_zone: str = "UTC"
    trips: tuple[Trip, ...] = ()

    @property
    def venue(self) -> tuple[str, str]:
        return self.exchange, self.environment

    @property
    def needs_books(self) -> bool:
        return self.position_notional is not None or self.symbols is not None

    @property
    def needs_money(self) -> bool:
        return self.daily_loss is not None or self.drawdown_percent is not None

    def after_admission(self) -> Guards:
        """Only the guards that are looked at once more when an order leaves the queue or is tried again.

        Its rate and its price were judged when it came in: time makes no order of them a new one.
        """
        return replace(
            self,
            strategy_orders_per_minute=None,
            account_orders_per_minute=None,
            price_deviation_percent=None,
            symbols=None,
        )


@dataclass(frozen=True, slots=True)
class Order:
    """An order as the guards see it, sized and on the exchange's grid."""

    guards: Guards
    market_type: str
    symbol: str
    side: Side | None
    order_type: OrderType
    quantity: Decimal
    price: Decimal | None = None
    stop_price: Decimal | None = None
    last_price: Decimal | None = None
    multiplier: Decimal = Decimal(1)
    quote_asset: str = ""
    closes: bool = False  # a negative qty_per, or reduce-only
    closes_percent: Decimal | None = None  # of a close that is not sized yet

    @property
    def key(self) -> BookKey:
        return self.guards.strategy_account_id, self.market_type, self.symbol

    @property
    def notional(self) -> Decimal | None:
        """What it may come to, or None where nobody knows a price. A sell below the market fills there."""
        if self.order_type is OrderType.MARKET:
            price = self.last_price
        else:
            price = self.price if self.price is not None else self.stop_price
            if self.order_type is OrderType.LIMIT and self.side is Side.SELL and price and self.last_price:
                price = max(price, self.last_price)
        return None if price is None else self.quantity * price * self.multiplier


@dataclass(frozen=True, slots=True)
class Resting:
    """What is still to fill on one side of a book: orders on the exchange, on their way, or waiting."""

    quantity: Decimal = ZERO
    notional: Decimal = ZERO

    def plus(self, quantity: Decimal, notional: Decimal) -> Resting:
        return Resting(self.quantity + quantity, self.notional + notional)


@dataclass(frozen=True, slots=True)
class Money:
    """What a strategy account earned. None: not asked for."""

    day_result: Decimal | None = None  # realized since its midnight, less fees in the quote asset
    profit: Decimal | None = None  # realized and unrealized, since it began
    peak: Decimal = ZERO  # the best profit so far


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss guard's limit that is reached."""

    kind: str
    day: str
    limit: Decimal
    value: Decimal
    reason: str
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the guards judge by, read at once; `positions` is None where nobody looked."""

    now: datetime
    strategy_orders: Mapping[int, int] = field(default_factory=dict)  # of the last minute
    account_orders: Mapping[int, int] = field(default_factory=dict)
    positions: Mapping[BookKey, Decimal] | None = None  # signed
    marks: Mapping[BookKey, Decimal] = field(default_factory=dict)  # prices that positions are valued by
    resting: Mapping[tuple[BookKey, Side], Resting] = field(default_factory=dict)
    opened: Mapping[int, AbstractSet[tuple[str, str]]] = field(default_factory=dict)  # market type, symbol
    money: Mapping[int, Money] = field(default_factory=dict)

    def position(self, key: BookKey) -> Decimal:
        return (self.positions or {}).get(key, ZERO)

    def rests(self, order: Order) -> Resting:
        found = self.resting.get((order.key, order.side)) if order.side else None
        return found or Resting()


@dataclass(frozen=True, slots=True)
class Denial:
    guard: str
    sentence: str


# --- each guard alone -----------------------------------------------------------------------------


def bare(symbol: str) -> str:
    """Return how symbols are compared: `BTC/USDT`, `btcusdt` and `BTCUSDT` are the same."""
    return symbol.replace("/", "").strip().upper()


def allowlist(order: Order, facts: Facts) -> str | None:
    allowed = order.guards.allowlist
    if not allowed or bare(order.symbol) in allowed:
        return None
    return f"symbol {order.symbol} is not on the strategy's allowlist of {len(allowed)}"


def blocklist(order: Order, facts: Facts) -> str | None:
    if bare(order.symbol) not in order.guards.blocklist:
        return None
    return f"symbol {order.symbol} is on the strategy's blocklist"


def order_notional(order: Order, facts: Facts) -> str | None:
    limit = order.guards.order_notional
    if limit is None:
        return None
    if order.notional is None:
        return (
            f"no last price of {order.symbol} is known to hold against the limit of {_plain(limit)} per order"
        )
    if order.notional <= limit:
        return None
    asset = order.quote_asset
    return f"order value {_plain(order.notional)} {asset} is above the limit of {_plain(limit)} {asset}"


def position_notional(order: Order, facts: Facts) -> str | None:
    """Judge what the position would be worth if this and all open orders of its side filled."""
    limit = order.guards.position_notional
    if limit is None or order.side is None:
        return None
    if order.notional is None:
        return f"no last price of {order.symbol} is known to hold against the limit of {_plain(limit)}"
    held = facts.position(order.key) * _sign(order.side)
    mark = facts.marks.get(order.key) or order.notional / (order.quantity * order.multiplier)
    value = held * mark * order.multiplier + facts.rests(order).notional + order.notional
    if value <= limit:
        return None
    asset = order.quote_asset
    return f"position value {_plain(value)} {asset} would be above the limit of {_plain(limit)} {asset}"


def price_deviation(order: Order, facts: Facts) -> str | None:
    limit = order.guards.price_deviation_percent
    if limit is None or order.order_type is OrderType.MARKET:
        return None
    last = order.last_price
    if not last:
        return f"no last price of {order.symbol} is known to hold against the limit of {_plain(limit)} %"
    for name, price in (("price", order.price), ("stop price", order.stop_price)):
        if price is None:
            continue
        percent = abs(price - last) * HUNDRED / last
        if percent > limit:
            far = f"{_plain(percent)} % from the last price {_plain(last)}"
            return f"{name} {_plain(price)} is {far}; the limit is {_plain(limit)} %"
    return None


def symbols(order: Order, facts: Facts) -> str | None:
    limit = order.guards.symbols
    opened = facts.opened.get(order.guards.strategy_account_id, frozenset())
    if limit is None or (order.market_type, order.symbol) in opened or len(opened) < limit:
        return None
    return f"{order.symbol} would be symbol {len(opened) + 1} with a position; the limit is {limit}"


def strategy_rate(order: Order, facts: Facts) -> str | None:
    guards = order.guards
    count, limit = facts.strategy_orders.get(guards.strategy_id, 0), guards.strategy_orders_per_minute
    if limit is None or count < limit:
        return None
    return f"order {count + 1} of strategy {guards.strategy} within a minute; the limit is {limit}"


def account_rate(order: Order, facts: Facts) -> str | None:
    guards = order.guards
    count, limit = facts.account_orders.get(guards.account_id, 0), guards.account_orders_per_minute
    if limit is None or count < limit:
        return None
    return f"order {count + 1} of account {guards.account} within a minute; the limit is {limit}"


def loss(order: Order, facts: Facts) -> str | None:
    """The daily loss and the drawdown: what has tripped already, then what is reached right now."""
    guards = order.guards
    for trip in guards.trips:
        if trip.holds(facts.now):
            return trip.reason
    money = facts.money.get(guards.strategy_account_id)
    return next((found.reason for found in losses(guards, money, facts.now)), None)


GUARDS: tuple[tuple[str, Callable[[Order, Facts], str | None]], ...] = (
    ("loss", loss),
    ("symbol_allowlist", allowlist),
    ("symbol_blocklist", blocklist),
    ("max_order_notional", order_notional),
    ("max_position_notional", position_notional),
    ("max_price_deviation_percent", price_deviation),
    ("max_symbols", symbols),
    ("max_orders_per_minute of the strategy", strategy_rate),
    ("max_orders_per_minute of the account", account_rate),
)


def losses(guards: Guards, money: Money | None, now: datetime) -> list[Loss]:
    """Return the loss limits that are reached."""
    found: list[Loss] = []
    if money is None:
        return found
    limit = guards.daily_loss
    if limit is not None and money.day_result is not None and -money.day_result >= limit:
        day, ends_at, words = _day(guards.time_zone, now)
        reason = (
            f"realized loss of today {_plain(-money.day_result)} is at the limit of {_plain(limit)}; "
            f"nothing is opened until {words}"
        )
        found.append(Loss(DAILY_LOSS, day, limit, -money.day_result, reason, ends_at))
    limit = guards.drawdown_percent
    if limit is not None and money.profit is not None:
        percent = drawdown(capital=guards.capital, profit=money.profit, peak=money.peak)
        if percent >= limit:
            reason = (
                f"drawdown of {_plain(percent)} % is at the limit of {_plain(limit)} %; "
                "nothing is opened until a person resumes it"
            )
            found.append(Loss(DRAWDOWN, "", limit, percent, reason, None))
    return found


def drawdown(*, capital: Decimal, profit: Decimal, peak: Decimal) -> Decimal:
    """Return how far the equity (capital and profit) has fallen from its best, in percent of that."""
    fall = peak - profit
    if fall <= 0:
        return ZERO
    best = capital + peak
    return HUNDRED if best <= 0 else fall * HUNDRED / best


def day_begins(time_zone: str, now: datetime) -> datetime:
    """Return the last midnight of a zone."""
    local = now.astimezone(_zone(time_zone))
    return datetime.combine(local.date(), time.min, tzinfo=local.tzinfo).astimezone(UTC)


def _day(time_zone: str, now: datetime) -> tuple[str, datetime, str]:
    local = now.astimezone(_zone(time_zone))
    ends_at = datetime.combine(local.date() + timedelta(days=1), time.min, tzinfo=local.tzinfo)
    return local.date().isoformat(), ends_at.astimezone(UTC), f"{ends_at:%m-%d %H:%M %Z}"


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")


# --- the orders of one webhook --------------------------------------------------------------------


def check(order: Order, facts: Facts) -> Denial | None:
    """Return the first guard that says no; a closing order meets none."""
    if order.closes or only_reduces(order, facts):
        return None
    for name, guard in GUARDS:
        if (sentence := guard(order, facts)) is not None:
            return Denial(name, sentence)
    return None


def only_reduces(order: Order, facts: Facts) -> bool:
    """Tell whether all orders of this side and this one together take no more than is held."""
    if order.side is None:
        return False
    held = -facts.position(order.key) * _sign(order.side)
    return held > 0 and held >= facts.rests(order).quantity + order.quantity


def judge(orders: Sequence[Order], facts: Facts) -> list[Denial | None]:
    """Check orders one after the other; what passes counts for those after it."""
    denials: list[Denial | None] = []
    for order in orders:
        denial = check(order, facts)
        denials.append(denial)
        if denial is None:
            facts = after(order, facts)
    return denials


def after(order: Order, facts: Facts) -> Facts:
    """Return the facts with an order that passed."""
    guards, key = order.guards, order.key
    counted = replace(
        facts,
        strategy_orders=_plus_one(facts.strategy_orders, guards.strategy_id),
        account_orders=_plus_one(facts.account_orders, guards.account_id),
    )
    if order.closes_percent is not None:
        # Not sized yet, but going: what opens after it starts from what it leaves.
        left = facts.position(key) * max(HUNDRED - order.closes_percent, ZERO) / HUNDRED
        return replace(counted, positions={**(facts.positions or {}), key: left})
    if order.side is None:
        return counted
    resting = facts.rests(order).plus(order.quantity, order.notional or ZERO)
    counted = replace(counted, resting={**facts.resting, (key, order.side): resting})
    if order.closes:
        return counted
    account = guards.strategy_account_id
    seen = frozenset({*facts.opened.get(account, ()), (order.market_type, order.symbol)})
    return replace(counted, opened={**facts.opened, account: seen})


def _plus_one(counts: Mapping[int, int], key: int) -> dict[int, int]:
    return {**counts, key: counts.get(key, 0) + 1}


def _sign(side: Side) -> int:
    return 1 if side is Side.BUY else -1


def _plain(value: Decimal) -> str:
    """Write a number for people: two decimals where it is large, more where it is small."""
    step = Decimal("0.01") if abs(value) >= 1 else Decimal("0.00000001")
    return plain(value.quantize(step, rounding=ROUND_HALF_UP))
