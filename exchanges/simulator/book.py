"""The order book of one symbol: resting orders in price-time priority, and waiting stops.

Beside the accounts' orders stands a synthetic market that trades any quantity at one price.
`liquid = False` takes it away, and only the accounts' orders trade with one another.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from exchanges.simulator.types import Instrument, Order, Side


class Step(NamedTuple):
    """One piece of what an order would trade now; `maker` is None for the synthetic market."""

    maker: Order | None
    price: Decimal
    quantity: Decimal


class _Entry(NamedTuple):
    rank: Decimal  # the price for asks, its negative for bids: the best sorts first
    sequence: int
    order: Order


class Book:
    def __init__(self, instrument: Instrument, price: Decimal) -> None:
        self.instrument = instrument
        self.price = price
        self.liquid = True
        self.stops: dict[int, Order] = {}
        self._sides: dict[Side, list[_Entry]] = {Side.BUY: [], Side.SELL: []}

    def add(self, order: Order) -> None:
        insort(self._sides[order.side], self._entry(order))

    def remove(self, order: Order) -> None:
        """Take out a resting order or a waiting stop; one that is not here is ignored."""
        if self.stops.pop(order.order_id, None) is not None or order.price is None:
            return
        side = self._sides[order.side]
        entry = self._entry(order)
        index = bisect_left(side, entry)
        if index < len(side) and side[index].order is order:
            del side[index]

    def resting(self, side: Side) -> Iterator[Order]:
        """Yield resting orders, best price first, then the oldest."""
        for entry in self._sides[side]:
            yield entry.order

    def best(self, side: Side) -> Order | None:
        entries = self._sides[side]
        return entries[0].order if entries else None

    def next_step(self, order: Order) -> Step | None:
        """Return the best piece that `order` could trade now, or None; own orders included."""
        maker = self.best(order.side.opposite)
        if maker is not None and maker.price is not None:
            is_best = not self.liquid or _within(order.side, maker.price, self.price)
            if is_best and _within(order.side, maker.price, order.price):
                return Step(maker, maker.price, maker.remaining)
        if self.liquid and _within(order.side, self.price, order.price):
            return Step(None, self.price, order.remaining)
        return None

    def plan(self, *, api_key: str, side: Side, limit: Decimal | None, quantity: Decimal) -> list[Step]:
        """Return what an order of this size would trade right now, in order.

        Own orders on the other side are left out: self-trade prevention would expire them.
        """
        steps: list[Step] = []
        left = quantity
        for maker in self.resting(side.opposite):
            price = maker.price
            assert price is not None  # only limit orders rest
            if left <= 0 or not _within(side, price, limit):
                break
            if self.liquid and not _within(side, price, self.price):
                break  # the synthetic market is better
            if maker.api_key == api_key:
                continue
            taken = min(left, maker.remaining)
            steps.append(Step(maker, price, taken))
            left -= taken
        if left > 0 and self.liquid and _within(side, self.price, limit):
            steps.append(Step(None, self.price, left))
        return steps

    def would_take(self, side: Side, limit: Decimal) -> bool:
        best = self.best(side.opposite)
        if best is not None and best.price is not None and _within(side, best.price, limit):
            return True
        return self.liquid and _within(side, self.price, limit)

    def crossed(self, side: Side) -> Order | None:
        """Return the first resting order that the synthetic market's price has reached."""
        best = self.best(side)
        if best is None or not self.liquid:
            return None
        assert best.price is not None
        return best if _within(side, self.price, best.price) else None

    def due_stops(self) -> list[Order]:
        return [stop for stop in self.stops.values() if self.is_due(stop)]

    def is_due(self, stop: Order) -> bool:
        assert stop.stop_price is not None
        if stop.triggers_above:
            return self.price >= stop.stop_price
        return self.price <= stop.stop_price

    def _entry(self, order: Order) -> _Entry:
        assert order.price is not None
        rank = order.price if order.side is Side.SELL else -order.price
        return _Entry(rank, order.book_sequence, order)


def _within(side: Side, price: Decimal, limit: Decimal | None) -> bool:
    """Tell whether a `side` order limited to `limit` may trade at `price`."""
    if limit is None:
        return True
    return price <= limit if side is Side.BUY else price >= limit
