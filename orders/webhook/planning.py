"""From a payload's order specs to what each account is to do. Reads caches and prices, writes nothing.

The queue's own planning (which orders rest, which wait) is another subject and stands elsewhere.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal

from exchanges.adapters.exceptions import ErrorType, ExchangeError
from exchanges.adapters.types import InstrumentSpec, MarketType, OrderType, Side
from exchanges.instruments import instruments_refresh
from exchanges.models import AccountType, ConfigVersion
from orders import config
from orders.config import Follower, StrategyConfig
from orders.prices import last_price
from orders.sizing import SizingError, capital_to_quantity, fit, to_step
from orders.webhook.serializers import Fault, OrderSpec, PayloadFault

logger = logging.getLogger(__name__)

RAW_STEP = Decimal("0.00000001")  # what could not be sized is kept to eight decimals, for people to read
FIRST = ("CANCEL", "CANCEL_ALL_ORDER", "MARKET")
REFRESH_SECONDS = 60.0  # an unknown symbol makes us look at the exchange's list, but not more often
_refreshed: dict[config.InstrumentKey, float] = {}


class ConfigChanged(Exception):
    """A switch, an account or an instrument changed since the first query: look again, plan again."""


class AccountsOff(Exception):
    """Every account that could serve this payload is switched off. `killed`: all by their kill switches."""

    def __init__(self, *, killed: bool) -> None:
        super().__init__()
        self.killed = killed


@dataclass(slots=True)
class Pair:
    """One order at one account, sized; or why it cannot be (`problem`).

    A close (`closes_percent`) is sized under its position's lock, later.
    """

    spec: OrderSpec
    follower: Follower
    symbol: str
    side: Side | None = None
    quantity: Decimal = Decimal(0)
    price: Decimal | None = None
    stop_price: Decimal | None = None
    reduce_only: bool = False
    instrument: InstrumentSpec | None = None
    reference_price: Decimal | None = None
    last_price: Decimal | None = None  # where a guard asks for it
    problem: tuple[ErrorType, str] | None = None

    @property
    def closes_percent(self) -> Decimal | None:
        return -self.spec.qty_per if self.spec.is_close and self.spec.qty_per is not None else None


@dataclass(slots=True)
class CancelPair:
    """A CANCEL or CANCEL_ALL_ORDER at one account."""

    spec: OrderSpec
    follower: Follower
    symbol: str | None


@dataclass(slots=True)
class Plan:
    pairs: list[Pair]
    cancels: list[CancelPair]
    accounts: dict[int, str]
    total_orders: int


def make_plan(strategy: StrategyConfig, specs: Sequence[OrderSpec], *, version: int) -> Plan:
    """Return what each account is to do.

    Raises: PayloadFault with every fault (unknown symbols, no account of the right kind);
            ConfigChanged when the instruments had to be looked up anew;
            AccountsOff when all accounts that could serve it are switched off.
    """
    _check_accounts(strategy, specs)
    _know_symbols(strategy, specs, version)
    symbols = _resolve_symbols(strategy, specs, version)
    plan = Plan([], [], {}, len(specs))
    for spec in sorted(specs, key=lambda one: (one.action not in FIRST, one.index)):
        for follower in strategy.followers_for(spec.market_type):
            if follower.is_killed and spec.order_type is not None:
                plan.accounts[follower.account_id] = follower.account_name
                plan.pairs.append(_killed(_pair(spec, follower, symbols[spec.index], version)))
            if not follower.is_active:
                continue
            plan.accounts[follower.account_id] = follower.account_name
            symbol = symbols.get(spec.index)
            if spec.order_type is None:
                plan.cancels.append(CancelPair(spec, follower, symbol))
            else:
                assert symbol is not None
                plan.pairs.append(_pair(spec, follower, symbol, version))
    return plan


def _check_accounts(strategy: StrategyConfig, specs: Iterable[OrderSpec]) -> None:
    faults: list[Fault] = []
    candidates: list[Follower] = []
    for spec in specs:
        followers = strategy.followers_for(spec.market_type)
        candidates += followers
        if not followers:
            kind = AccountType.for_market(spec.market_type)
            message = (
                f"{spec.market_type} orders need a {kind} account; no {kind} account follows this strategy"
            )
            faults.append(Fault("market_type", message, spec.index))
    if faults:
        raise PayloadFault("no_account", *faults)
    if not any(follower.is_active for follower in candidates):
        raise AccountsOff(killed=all(follower.account.kill_switch for follower in candidates))


def _tables(
    strategy: StrategyConfig, market_type: str, version: int
) -> dict[config.InstrumentKey, config.InstrumentTable]:
    keys = {one.instrument_key(market_type) for one in strategy.followers_for(market_type) if one.is_active}
    return {key: config.instrument_table(key, version=version) for key in keys}


def spellings(symbol: str) -> list[str]:
    """Return how a symbol may stand in the instrument table: as given, and without TradingView's dress."""
    bare = symbol.rsplit(":", 1)[-1] if ":" in symbol and "/" not in symbol else symbol
    forms = [symbol, bare, bare.removesuffix(".P")]
    return list(dict.fromkeys(form for form in forms if form))


def _matches(tables: Iterable[config.InstrumentTable], symbol: str) -> set[str]:
    for spelling in spellings(symbol):
        found = {spec.symbol for table in tables for spec in table.find(spelling)}
        if found:
            return found
    return set()


def _know_symbols(strategy: StrategyConfig, specs: Sequence[OrderSpec], version: int) -> None:
    """Look at the exchange's own list again where a symbol is unknown.

    Raises ConfigChanged when something changed while we looked: instruments, or a switch.
    """
    looked = False
    for market_type in {spec.market_type for spec in specs}:
        tables = _tables(strategy, market_type, version)
        wanted = {spec.symbol for spec in specs if spec.market_type == market_type and spec.symbol}
        if all(_matches(tables.values(), symbol) for symbol in wanted):
            continue
        for follower in strategy.followers_for(market_type):
            looked = _refresh(follower, market_type) or looked
    if looked and ConfigVersion.current() != version:
        raise ConfigChanged


def _refresh(follower: Follower, market_type: MarketType) -> bool:
    key = follower.instrument_key(market_type)
    if not follower.is_active or time.monotonic() - _refreshed.get(key, -REFRESH_SECONDS) < REFRESH_SECONDS:
        return False
    _refreshed[key] = time.monotonic()
    try:
        instruments_refresh(account=follower.account, market_type=market_type)
    except (ExchangeError, TimeoutError) as exc:
        _refreshed.pop(key, None)
        logger.warning("Instruments of %s could not be refreshed: %s", key, exc)
        return False
    return True


def _resolve_symbols(strategy: StrategyConfig, specs: Sequence[OrderSpec], version: int) -> dict[int, str]:
    faults: list[Fault] = []
    symbols: dict[int, str] = {}
    for spec in specs:
        if spec.symbol is None:
            continue
        found = _matches(_tables(strategy, spec.market_type, version).values(), spec.symbol)
        if len(found) == 1:
            symbols[spec.index] = next(iter(found))
        elif found:
            names = ", ".join(sorted(found))
            faults.append(Fault("symbol", f"{spec.symbol} fits several instruments: {names}", spec.index))
        else:
            where = f"no {spec.market_type} instrument of this strategy's exchanges"
            faults.append(Fault("symbol", f"{spec.symbol} is {where}", spec.index))
    if faults:
        raise PayloadFault("unknown_symbol", *faults)
    return symbols


def _pair(spec: OrderSpec, follower: Follower, symbol: str, version: int) -> Pair:
    pair = Pair(spec, follower, symbol, side=spec.side, price=spec.price, stop_price=spec.stop_price)
    table = config.instrument_table(follower.instrument_key(spec.market_type), version=version)
    pair.instrument = table.by_symbol.get(symbol)
    if pair.instrument is None or not pair.instrument.is_trading:
        what = "is not traded" if pair.instrument is None else "is halted"
        pair.problem = (
            ErrorType.INVALID_SYMBOL,
            f"{symbol} {what} at {follower.account.exchange} {spec.market_type}",
        )
        pair.side = pair.side or Side.SELL  # a close whose position nobody looked for
        return pair
    pair.reference_price = spec.price or spec.stop_price
    if pair.reference_price is None:
        # Only an order that is sized by the price waits for it; the others' value is judged if it is at hand.
        sized_by_it = spec.qty_per is not None and not spec.is_close
        pair.reference_price = last_price(follower.account, spec.market_type, symbol, may_ask=sized_by_it)
    if not spec.is_close:
        pair.last_price = _price_for_guards(pair)
    if spec.order_type is OrderType.MARKET:
        pair.price = None  # for MARKET the payload's price is a sizing hint only
    if not spec.is_close:
        _size(pair)
    return pair


def _price_for_guards(pair: Pair) -> Decimal | None:
    """Return the last price where a guard wants it; the exchange is asked where it cannot do without."""
    guards, spec = pair.follower.guards, pair.spec
    far = guards.price_deviation_percent is not None and spec.order_type is not OrderType.MARKET
    value = guards.order_notional is not None or guards.position_notional is not None
    if not (far or value):
        return None
    must = far or spec.order_type is OrderType.MARKET  # what a sender says of the price does not count here
    return last_price(pair.follower.account, spec.market_type, pair.symbol, may_ask=must)


def _killed(pair: Pair) -> Pair:
    """What a kill switch stops is a failed order like what any other guard stops: nothing is left out."""
    pair.problem = ErrorType.RISK_LIMIT, f"the kill switch of account {pair.follower.account_name} is on"
    pair.side = pair.side or Side.SELL  # a close whose position nobody looked for
    return pair


def _size(pair: Pair) -> None:
    spec, instrument = pair.spec, pair.instrument
    assert instrument is not None
    assert spec.order_type is not None
    quantity = spec.quantity
    if quantity is None:
        assert spec.qty_per is not None
        if spec.market_type not in (MarketType.SPOT, MarketType.FUTURES):
            quantity = spec.qty_per  # stocks: a number of shares
        elif pair.reference_price is None:
            pair.problem = (
                ErrorType.NETWORK_ERROR,  # the exchange has not told it; nothing is wrong with the order
                f"no last price of {pair.symbol} is known to size the order by",
            )
            return
        else:
            quantity = capital_to_quantity(
                capital=pair.follower.allocated_capital,
                percent=spec.qty_per,
                price=pair.reference_price,
                leverage=pair.follower.leverage,
                instrument=instrument,
            )
    fit_pair(pair, quantity)


def fit_pair(pair: Pair, quantity: Decimal) -> None:
    """Round a pair to the exchange's grid, or note why it does not fit."""
    assert pair.instrument is not None
    assert pair.spec.order_type is not None
    try:
        sized = fit(
            quantity,
            order_type=pair.spec.order_type,
            price=pair.price,
            stop_price=pair.stop_price,
            reference_price=pair.reference_price,
            reduce_only=pair.reduce_only,
            instrument=pair.instrument,
        )
    except SizingError as exc:
        pair.problem = ErrorType.INVALID_QUANTITY, str(exc)
        pair.quantity = to_step(quantity, RAW_STEP, rounding=ROUND_DOWN)
        return
    pair.quantity, pair.price, pair.stop_price = sized.quantity, sized.price, sized.stop_price
