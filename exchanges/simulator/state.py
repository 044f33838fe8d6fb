"""The simulator as a whole: clock, prices, venues, dialects, faults and streams."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from exchanges.simulator.clock import Clock
from exchanges.simulator.dialects.binance.base import Desk
from exchanges.simulator.dialects.binance.futures import LIMITS as FUTURES_LIMITS
from exchanges.simulator.dialects.binance.futures import BinanceFutures
from exchanges.simulator.dialects.binance.spot import LIMITS as SPOT_LIMITS
from exchanges.simulator.dialects.binance.spot import BinanceSpot
from exchanges.simulator.engine import Venue
from exchanges.simulator.faults import Faults
from exchanges.simulator.instruments import DEFAULT_PRICES
from exchanges.simulator.prices import RandomWalk, replay
from exchanges.simulator.streams import Hub, Sockets
from exchanges.simulator.types import MarketType

# Maker and taker rates.
DEFAULT_FEES = {
    "binance-spot": (Decimal("0.001"), Decimal("0.001")),
    "binance-futures": (Decimal("0.0002"), Decimal("0.0004")),
}
DEFAULT_ACCOUNTS = {"k1": "s1", "k2": "s2"}


@dataclass(slots=True)
class Options:
    """How a simulator starts; a reset returns to these."""

    seed: int = 1
    walks: bool = True
    tick_ms: int = 250
    latency_ms: float = 0.0
    prices: dict[str, Decimal] = field(default_factory=dict)
    accounts: dict[str, str] = field(default_factory=dict)
    fees: dict[str, tuple[Decimal, Decimal]] = field(default_factory=dict)
    enforce_limits: bool = False
    limit_scale: int = 1
    replay: Path | None = None
    replay_speed: float = 1.0


class Simulator:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.clock = Clock()
        self.faults = Faults()
        self.hub = Hub(self.faults)
        self.sockets = Sockets(self.faults, self.one_way_seconds)
        self.secrets = DEFAULT_ACCOUNTS | options.accounts
        self.latency_ms = options.latency_ms
        self.requests: Counter[str] = Counter()
        self.held = 0  # requests that a fault keeps from being looked at
        self.prices = DEFAULT_PRICES | options.prices
        self.walk = RandomWalk(options.seed, dict(self.prices))
        self.venues: dict[str, Venue] = {}
        self.futures = BinanceFutures(
            self._desk("binance-futures", MarketType.FUTURES),
            self.sockets,
            FUTURES_LIMITS.scaled(options.limit_scale, enforce=options.enforce_limits),
        )
        spot = BinanceSpot(
            self._desk("binance-spot", MarketType.SPOT),
            self.sockets,
            SPOT_LIMITS.scaled(options.limit_scale, enforce=options.enforce_limits),
        )
        self.dialects: dict[str, BinanceFutures | BinanceSpot] = {
            self.futures.name: self.futures,
            spot.name: spot,
        }
        self._mover: asyncio.Task[None] | None = None

    def one_way_seconds(self) -> float:
        """Return half the simulated round trip."""
        return self.latency_ms / 2000

    def set_price(self, name: str, price: Decimal) -> None:
        self.prices[name] = price
        for venue in self.venues.values():
            venue.set_price(name, price)

    def step(self) -> None:
        """Take one step of the random walk; only here large resting orders fill in parts."""
        for venue in self.venues.values():
            venue.slicer = self.walk.slice
        try:
            for name, price in self.walk.step(self.prices).items():
                self.set_price(name, price)
        finally:
            for venue in self.venues.values():
                venue.slicer = None

    def start(self) -> None:
        """Let prices move on their own, if they are to."""
        if self.options.replay is not None:
            coroutine = replay(self.options.replay, self.set_price, speed=self.options.replay_speed)
            self._mover = asyncio.get_running_loop().create_task(coroutine)
        elif self.options.walks:
            self._mover = asyncio.get_running_loop().create_task(self._walk())

    def stop(self) -> None:
        if self._mover is not None:
            self._mover.cancel()

    def reset(self, *, seed: int | None = None, prices: dict[str, Decimal] | None = None) -> None:
        """Forget orders, accounts, faults and counters; streams are cut; known keys stay."""
        self.hub.cut()
        self.faults.clear()
        self.requests.clear()
        self.clock.offset_ms = 0
        self.latency_ms = self.options.latency_ms
        self.prices = DEFAULT_PRICES | self.options.prices | (prices or {})
        self.walk = RandomWalk(self.options.seed if seed is None else seed, dict(self.prices))
        for venue in self.venues.values():
            venue.reset(self.prices)
        for dialect in self.dialects.values():
            dialect.reset()

    def _desk(self, name: str, market_type: MarketType) -> Desk:
        fees = self.options.fees.get(name, DEFAULT_FEES[name])
        venue = Venue(name, market_type, clock=self.clock, prices=self.prices, fees=fees)
        self.venues[name] = venue
        return Desk(venue, self.secrets, self.faults, self.hub)

    async def _walk(self) -> None:
        while True:
            await asyncio.sleep(self.options.tick_ms / 1000)
            self.step()
