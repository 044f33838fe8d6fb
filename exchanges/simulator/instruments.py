"""The symbols that the simulator lists, with filters close to the real ones.

Source: Binance `exchangeInfo` of spot and USDⓈ-M futures as the fact sheet describes it; the
minimum notional is the usual 5 USDT everywhere.
"""

from __future__ import annotations

from decimal import Decimal

from exchanges.simulator.types import Instrument, MarketType

# Where each random walk starts, in quote asset.
DEFAULT_PRICES: dict[str, Decimal] = {
    "BTC/USDT": Decimal("95000"),
    "ETH/USDT": Decimal("3500"),
    "SOL/USDT": Decimal("180"),
    "XRP/USDT": Decimal("2.2"),
}

# What an account owns on its first use, on each venue.
SPOT_BALANCES: dict[str, Decimal] = {
    "USDT": Decimal("1000000"),
    "BTC": Decimal("100"),
    "ETH": Decimal("1000"),
    "SOL": Decimal("10000"),
    "XRP": Decimal("1000000"),
    "BNB": Decimal("1000"),
}
FUTURES_BALANCE = Decimal("1000000")

# base: (tick, step, max quantity, max market quantity)
_SPOT_GRID = {
    "BTC": ("0.01", "0.00001", "9000", "100"),
    "ETH": ("0.01", "0.0001", "9000", "2000"),
    "SOL": ("0.01", "0.001", "90000", "20000"),
    "XRP": ("0.0001", "0.1", "9222449", "3000000"),
}
# base: (tick, step, max quantity, max market quantity, price decimals, quantity decimals)
_FUTURES_GRID = {
    "BTC": ("0.10", "0.001", "1000", "120", 2, 3),
    "ETH": ("0.01", "0.001", "10000", "2000", 2, 3),
    "SOL": ("0.0100", "0.01", "1000000", "5000", 4, 2),
    "XRP": ("0.0001", "0.1", "10000000", "2000000", 4, 1),
}


def listed(market_type: MarketType) -> dict[str, Instrument]:
    """Return the instruments of a market type by their `BASE/QUOTE` name."""
    rows = _spot() if market_type is MarketType.SPOT else _futures()
    return {row.name: row for row in rows}


def _spot() -> list[Instrument]:
    return [
        Instrument(
            base=base,
            quote="USDT",
            tick_size=Decimal(tick),
            lot_step=Decimal(step),
            min_quantity=Decimal(step),
            max_quantity=Decimal(largest),
            max_market_quantity=Decimal(largest_market),
            min_notional=Decimal(5),
            max_notional=Decimal(9_000_000),
            price_precision=8,
            quantity_precision=8,
            max_price=Decimal(1_000_000),
            buy_band=(Decimal("0.2"), Decimal(5)),
            sell_band=(Decimal("0.2"), Decimal(5)),
        )
        for base, (tick, step, largest, largest_market) in _SPOT_GRID.items()
    ]


def _futures() -> list[Instrument]:
    return [
        Instrument(
            base=base,
            quote="USDT",
            tick_size=Decimal(tick),
            lot_step=Decimal(step),
            min_quantity=Decimal(step),
            max_quantity=Decimal(largest),
            max_market_quantity=Decimal(largest_market),
            min_notional=Decimal(5),
            max_notional=Decimal(10) ** 12,
            price_precision=price_decimals,
            quantity_precision=quantity_decimals,
            max_price=Decimal(4_529_764),
            buy_band=(Decimal(0), Decimal("1.05")),
            sell_band=(Decimal("0.95"), Decimal(10**9)),
            max_stop_orders=200,
        )
        for base, (
            tick,
            step,
            largest,
            largest_market,
            price_decimals,
            quantity_decimals,
        ) in _FUTURES_GRID.items()
    ]
