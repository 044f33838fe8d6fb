"""Where the synthetic market's prices come from: fixed, a seeded random walk, or a file."""

from __future__ import annotations

import asyncio
import csv
import random
from collections.abc import Callable, Iterator
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import NamedTuple

from exchanges.simulator.instruments import DEFAULT_PRICES, listed
from exchanges.simulator.types import MarketType, Order

SetPrice = Callable[[str, Decimal], None]

# Spread of one step, as a factor: at four steps a second the price is about 0.8% away after a
# minute, so an order half a percent from the market fills within a minute or two.
STEP_SPREAD = 0.0005
# How strongly each step pulls back to where the walk began, so that it stays in sight.
PULL = 0.0005
# Resting orders up to this notional fill in one piece, larger ones in part, step by step.
WHOLE_NOTIONAL = Decimal(300)


class RandomWalk:
    """Moves every symbol one step at a time; the same seed gives the same walk."""

    def __init__(self, seed: int, starts: dict[str, Decimal]) -> None:
        self._random = random.Random(seed)
        self._starts = starts
        self._ticks = {
            instrument.name: max(instrument.tick_size, listed(MarketType.SPOT)[name].tick_size)
            for name, instrument in listed(MarketType.FUTURES).items()
        }

    def step(self, prices: dict[str, Decimal]) -> dict[str, Decimal]:
        """Return the next price of every symbol."""
        return {name: self._next(name, price) for name, price in prices.items()}

    def slice(self, order: Order) -> Decimal:
        """Return how much of a resting order one step takes: all of a small one, else a part."""
        assert order.price is not None
        if order.remaining * order.price <= WHOLE_NOTIONAL:
            return order.remaining
        share = Decimal(self._random.randint(25, 50)) / 100
        step = order.instrument.lot_step
        part = (order.quantity * share) // step * step
        return min(order.remaining, max(part, step))

    def _next(self, name: str, price: Decimal) -> Decimal:
        drift = PULL * float((self._starts[name] - price) / price)
        factor = Decimal(repr(1 + drift + self._random.gauss(0, STEP_SPREAD)))
        tick = self._ticks[name]
        moved = (price * factor / tick).quantize(Decimal(1), rounding=ROUND_HALF_EVEN) * tick
        return max(moved, tick)


class Trade(NamedTuple):
    at_seconds: float
    symbol: str
    price: Decimal


def read_trades(path: Path) -> Iterator[Trade]:
    """Yield the trades of a CSV file with the columns time (ms), symbol (BASE/QUOTE), price."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield Trade(int(row["time"]) / 1000, row["symbol"], Decimal(row["price"]))


async def replay(path: Path, set_price: SetPrice, *, speed: float = 1.0) -> None:
    """Set each trade's price at its time after the first, `speed` times as fast."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    first: float | None = None
    for trade in read_trades(path):
        first = trade.at_seconds if first is None else first
        wait = began + (trade.at_seconds - first) / speed - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        if trade.symbol in DEFAULT_PRICES:
            set_price(trade.symbol, trade.price)
