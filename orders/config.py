"""What rarely changes, kept in memory: strategies with their accounts, and instrument tables.

Everything here carries the configuration version it was read at (exchanges.models.ConfigVersion).
The webhook's first query reads the current version; a cache of another version is not used.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeVar, cast

from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils import timezone

from exchanges.adapters.types import InstrumentSpec, MarketType
from exchanges.models import Account, AccountType, Instrument
from orders.models import LossTrip, Strategy, StrategyAccount
from orders.risk import Guards, Trip, bare

T = TypeVar("T")

InstrumentKey = tuple[str, str, str]  # exchange, environment, market type


@dataclass(frozen=True, slots=True)
class Follower:
    """A strategy account as the webhook needs it."""

    strategy_account_id: int
    account: Account  # with its encrypted credentials; shared, never written
    allocated_capital: Decimal
    leverage: int
    is_active: bool  # its own switch and the account's; kill switches count as off
    is_killed: bool  # switched on, but for its kill switch
    guards: Guards

    @property
    def account_id(self) -> int:
        return self.account.pk

    @property
    def account_name(self) -> str:
        return self.account.name

    def instrument_key(self, market_type: str) -> InstrumentKey:
        return self.account.exchange, self.account.environment, market_type


@dataclass(frozen=True, slots=True)
class StrategyConfig:
    id: int
    user_id: int
    group_name: str
    market_type: str
    execution_mode: str
    dedupe_window_seconds: int
    max_signal_age_seconds: int | None
    followers: tuple[Follower, ...]

    def followers_for(self, market_type: str) -> tuple[Follower, ...]:
        """The accounts whose kind serves this market, switched off ones too."""
        kind = AccountType.for_market(market_type)
        return tuple(one for one in self.followers if one.account.account_type == kind)


@dataclass(frozen=True, slots=True)
class InstrumentTable:
    """The instruments of one exchange, environment and market type."""

    by_symbol: dict[str, InstrumentSpec] = field(default_factory=dict)
    by_venue_symbol: dict[str, tuple[InstrumentSpec, ...]] = field(default_factory=dict)

    def find(self, word: str) -> tuple[InstrumentSpec, ...]:
        """Return what a symbol may mean here: `BTC/USDT`, or the exchange's own `BTCUSDT`."""
        exact = self.by_symbol.get(word)
        return (exact,) if exact else self.by_venue_symbol.get(word, ())


class VersionedCache:
    """A small cache whose entries are good for one configuration version only."""

    def __init__(self, size: int = 2048) -> None:
        self._entries: OrderedDict[Hashable, tuple[int, Any]] = OrderedDict()
        self._lock = threading.Lock()
        self._size = size

    def get(self, key: Hashable, version: int, load: Callable[[], T]) -> T:
        with self._lock:
            found = self._entries.get(key)
        if found is not None and found[0] == version:
            return cast("T", found[1])
        value = load()  # outside the lock: two threads may load the same, no thread waits for a query
        with self._lock:
            self._entries[key] = (version, value)
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)
        return value

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()


cache = VersionedCache()


def strategy_config(strategy_id: int, *, version: int) -> StrategyConfig:
    return cache.get(("strategy", strategy_id), version, lambda: _load_strategy(strategy_id))


def instrument_table(key: InstrumentKey, *, version: int) -> InstrumentTable:
    return cache.get(("instruments", *key), version, lambda: _load_instruments(key))


def guards_of_all(*, version: int) -> Mapping[int, Guards]:
    """The guards of every strategy account, for orders that are not a webhook's just now."""
    return cache.get(("guards",), version, _load_guards)


def _load_strategy(strategy_id: int) -> StrategyConfig:
    strategy = Strategy.objects.get(pk=strategy_id)
    rows = list(_with_guards(StrategyAccount.objects.filter(strategy_id=strategy_id)).order_by("pk"))
    trips = _open_trips(row.pk for row in rows)
    mates = tuple(row.pk for row in rows)
    of_account = _strategy_accounts_of({row.account_id for row in rows})
    return StrategyConfig(
        id=strategy.pk,
        user_id=strategy.user_id,
        group_name=strategy.group_name,
        market_type=strategy.market_type,
        execution_mode=strategy.execution_mode,
        dedupe_window_seconds=strategy.dedupe_window_seconds,
        max_signal_age_seconds=strategy.max_signal_age_seconds,
        followers=tuple(_follower(row, trips[row.pk], mates, of_account[row.account_id]) for row in rows),
    )


def _strategy_accounts_of(account_ids: Collection[int]) -> dict[int, tuple[int, ...]]:
    found: defaultdict[int, list[int]] = defaultdict(list)
    rows = StrategyAccount.objects.filter(account_id__in=account_ids).order_by("pk")
    for pk, account_id in rows.values_list("pk", "account_id"):
        found[account_id].append(pk)
    return {account_id: tuple(pks) for account_id, pks in found.items()}


def _load_guards() -> dict[int, Guards]:
    return guards_read(None)


def guards_read(strategy_account_ids: Collection[int] | None) -> dict[int, Guards]:
    """Read guards as they stand now, past the cache; None: of every strategy account."""
    known = StrategyAccount.objects.all()
    rows = list(
        _with_guards(known if strategy_account_ids is None else known.filter(pk__in=strategy_account_ids))
    )
    trips = _open_trips(row.pk for row in rows)
    return {row.pk: guards_for(row, trips[row.pk]) for row in rows}


def _with_guards(rows: QuerySet[StrategyAccount]) -> QuerySet[StrategyAccount]:
    return rows.select_related("account", "strategy__user__profile")


def _open_trips(strategy_account_ids: Iterable[int]) -> defaultdict[int, list[LossTrip]]:
    """Return what has tripped and was not resumed; days that are over end by their own `ends_at`."""
    found: defaultdict[int, list[LossTrip]] = defaultdict(list)
    begun = timezone.now() - timedelta(days=3)
    rows = LossTrip.objects.filter(
        strategy_account_id__in=list(strategy_account_ids), resumed_at__isnull=True
    ).filter(Q(ends_at__isnull=True) | Q(ends_at__gt=begun))
    for trip in rows.order_by("pk"):
        found[trip.strategy_account_id].append(trip)
    return found


def guards_for(row: StrategyAccount, trips: Iterable[LossTrip] = ()) -> Guards:
    """Return what is set for a strategy account, read with its strategy, user, profile and account."""
    strategy, account = row.strategy, row.account
    profile = getattr(strategy.user, "profile", None)
    return Guards(
        strategy_account_id=row.pk,
        strategy_id=strategy.pk,
        account_id=account.pk,
        strategy=strategy.group_name,
        account=account.name,
        exchange=account.exchange,
        environment=account.environment,
        allowlist=frozenset(bare(symbol) for symbol in strategy.symbol_allowlist),
        blocklist=frozenset(bare(symbol) for symbol in strategy.symbol_blocklist),
        strategy_orders_per_minute=strategy.max_orders_per_minute,
        account_orders_per_minute=account.max_orders_per_minute,
        price_deviation_percent=strategy.max_price_deviation_percent,
        order_notional=row.max_order_notional,
        position_notional=row.max_position_notional,
        symbols=row.max_symbols,
        daily_loss=row.daily_loss_limit,
        drawdown_percent=row.max_drawdown_percent,
        capital=row.allocated_capital,
        time_zone=profile.time_zone if profile else settings.TIME_ZONE,
        trips=tuple(Trip(trip.kind, trip.reason, trip.ends_at) for trip in trips),
    )


def _follower(
    row: StrategyAccount,
    trips: Iterable[LossTrip],
    strategy_mates: tuple[int, ...],
    account_mates: tuple[int, ...],
) -> Follower:
    return Follower(
        strategy_account_id=row.pk,
        account=row.account,
        allocated_capital=row.allocated_capital,
        leverage=row.leverage,
        is_active=row.is_active and row.account.is_active and not row.account.kill_switch,
        is_killed=row.is_active and row.account.is_active and row.account.kill_switch,
        guards=replace(guards_for(row, trips), strategy_mates=strategy_mates, account_mates=account_mates),
    )


def _load_instruments(key: InstrumentKey) -> InstrumentTable:
    exchange, environment, market_type = key
    rows = Instrument.objects.filter(exchange=exchange, environment=environment, market_type=market_type)
    table = InstrumentTable()
    for row in rows:
        spec = instrument_spec(row)
        table.by_symbol[spec.symbol] = spec
        table.by_venue_symbol[spec.venue_symbol] = (*table.by_venue_symbol.get(spec.venue_symbol, ()), spec)
    return table


def instrument_spec(row: Instrument) -> InstrumentSpec:
    return InstrumentSpec(
        market_type=MarketType(row.market_type),
        symbol=row.symbol,
        venue_symbol=row.venue_symbol,
        base_asset=row.base_asset,
        quote_asset=row.quote_asset,
        tick_size=row.tick_size,
        lot_step=row.lot_step,
        min_quantity=row.min_quantity,
        max_quantity=row.max_quantity,
        min_notional=row.min_notional,
        contract_multiplier=row.contract_multiplier,
        market_lot_step=row.market_lot_step,
        market_max_quantity=row.market_max_quantity,
        max_open_orders=row.max_open_orders,
        max_conditional_orders=row.max_conditional_orders,
        is_trading=row.is_trading,
    )
