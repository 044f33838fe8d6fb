"""Builds venues and orders for engine tests."""

from __future__ import annotations

from decimal import Decimal
from itertools import count
from typing import Any

from exchanges.simulator.clock import Clock
from exchanges.simulator.engine import Venue
from exchanges.simulator.instruments import DEFAULT_PRICES
from exchanges.simulator.types import Change, Fill, MarketType, Order, OrderRequest, OrderType, Side

BTC = "BTC/USDT"
_serial = count(1)


class Recorder:
    """Remembers what a venue told, as (client order id, change, filled quantity)."""

    def __init__(self, venue: Venue) -> None:
        self.news: list[tuple[str, Change, Decimal]] = []
        venue.listener = self._tell

    def _tell(self, order: Order, change: Change, fill: Fill | None) -> None:
        self.news.append((order.client_order_id, change, fill.quantity if fill is not None else Decimal(0)))


def make_venue(market_type: MarketType = MarketType.SPOT, **fees: str) -> Venue:
    """Return a venue without fees unless `maker` and `taker` are given."""
    rates = (Decimal(fees.get("maker", "0")), Decimal(fees.get("taker", "0")))
    return Venue("test", market_type, clock=Clock(), prices=dict(DEFAULT_PRICES), fees=rates)


def make_request(venue: Venue, **overrides: Any) -> OrderRequest:
    fields: dict[str, Any] = {
        "api_key": "k1",
        "side": Side.BUY,
        "type": OrderType.LIMIT,
        "quantity": Decimal(1),
        "price": Decimal(94000),
    } | overrides
    fields.setdefault("client_order_id", f"o{next(_serial)}")
    instrument = venue.instruments[fields.pop("symbol", BTC)]
    for name in ("quantity", "price", "stop_price", "quote_quantity"):
        if fields.get(name) is not None:
            fields[name] = Decimal(str(fields[name]))
    if fields["type"] is OrderType.MARKET:
        fields["price"] = None
    return OrderRequest(instrument=instrument, **fields)


def place(venue: Venue, **overrides: Any) -> Order:
    return venue.place(make_request(venue, **overrides))
