"""Binance's exchangeInfo as InstrumentSpecs.

Units:  steps and minima in base asset, prices and notionals in quote asset.
Source: binance/binance-spot-api-docs filters.md; USDⓈ-M "Exchange Information", read 2026-11.
        Futures: `pricePrecision` and `quantityPrecision` are no grid, only the filters are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from exchanges.adapters.types import InstrumentSpec, MarketType

logger = logging.getLogger(__name__)

FUTURES_CONDITIONAL_CAP = 200  # of the whole account, all symbols together (change log, 2025-12-09)
_PERPETUAL = frozenset({"PERPETUAL", "TRADIFI_PERPETUAL"})
_INTERVAL_SECONDS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86400}

Row = Mapping[str, Any]


def spot_instruments(body: Row) -> list[InstrumentSpec]:
    return _each(body, _spot)


def futures_instruments(body: Row) -> list[InstrumentSpec]:
    return _each(body, _futures)


class PublishedLimits(NamedTuple):
    """What exchangeInfo says of our limits; None or no entry where it says nothing."""

    weight_per_minute: int | None
    orders: dict[int, int]  # per account, by the window's seconds


def published_limits(body: Row) -> PublishedLimits:
    """Read `rateLimits`. A limit of a kind or an interval that we do not know is left out."""
    weight, orders = None, {}
    for row in body.get("rateLimits", ()):
        try:
            seconds = _INTERVAL_SECONDS[row["interval"]] * int(row["intervalNum"])
            kind, limit = row["rateLimitType"], int(row["limit"])
        except (KeyError, ValueError, TypeError) as exc:
            logger.warning("Cannot read rate limit %s: %r", row, exc)
            continue
        if limit <= 0:
            logger.warning("A rate limit that allows nothing: %s", row)
        elif kind == "REQUEST_WEIGHT" and seconds == _INTERVAL_SECONDS["MINUTE"]:
            weight = limit
        elif kind == "ORDERS":
            orders[seconds] = limit
    return PublishedLimits(weight, orders)


def _each(body: Row, read: Callable[[Row], InstrumentSpec | None]) -> list[InstrumentSpec]:
    specs = []
    for row in body["symbols"]:
        try:
            spec = read(row)
        except (KeyError, ValueError, TypeError, ArithmeticError) as exc:
            # One odd listing must not take all the others away.
            logger.warning("Cannot read instrument %s: %r", row.get("symbol"), exc)
            continue
        if spec is not None:
            specs.append(spec)
    return specs


def _spot(row: Row) -> InstrumentSpec | None:
    if not row.get("isSpotTradingAllowed", True):
        return None
    filters = _filters(row)
    notional = filters.get("NOTIONAL") or filters.get("MIN_NOTIONAL") or {}
    return InstrumentSpec(
        market_type=MarketType.SPOT,
        symbol=f"{row['baseAsset']}/{row['quoteAsset']}",
        min_notional=Decimal(notional.get("minNotional", 0)),
        max_open_orders=_count(filters, "MAX_NUM_ORDERS", "maxNumOrders"),
        max_conditional_orders=_count(filters, "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders"),
        **_grid(row, filters, price_digits="quoteAssetPrecision", quantity_digits="baseAssetPrecision"),
    )


def _futures(row: Row) -> InstrumentSpec:
    filters = _filters(row)
    symbol = f"{row['baseAsset']}/{row['quoteAsset']}"
    if row["contractType"] not in _PERPETUAL and "_" in row["symbol"]:
        # A delivery contract: BTCUSDT_260327 is BTC/USDT-260327.
        symbol = f"{symbol}-{row['symbol'].rpartition('_')[2]}"
    return InstrumentSpec(
        market_type=MarketType.FUTURES,
        symbol=symbol,
        min_notional=Decimal(filters.get("MIN_NOTIONAL", {}).get("notional", 0)),
        max_open_orders=_count(filters, "MAX_NUM_ORDERS", "limit"),
        max_conditional_orders=FUTURES_CONDITIONAL_CAP,
        **_grid(row, filters, price_digits="pricePrecision", quantity_digits="quantityPrecision"),
    )


def _grid(row: Row, filters: Mapping[str, Row], *, price_digits: str, quantity_digits: str) -> dict[str, Any]:
    lot, market_lot = filters["LOT_SIZE"], filters.get("MARKET_LOT_SIZE", {})
    return {
        "venue_symbol": row["symbol"],
        "base_asset": row["baseAsset"],
        "quote_asset": row["quoteAsset"],
        "tick_size": Decimal(filters["PRICE_FILTER"]["tickSize"]) or _step(row[price_digits]),
        "lot_step": Decimal(lot["stepSize"]) or _step(row[quantity_digits]),
        "min_quantity": Decimal(lot["minQty"]),
        "max_quantity": Decimal(lot["maxQty"]) or None,
        "market_lot_step": Decimal(market_lot.get("stepSize", 0)) or None,  # 0: no rule of its own
        "market_max_quantity": Decimal(market_lot.get("maxQty", 0)) or None,
        "is_trading": row["status"] == "TRADING",
    }


def _filters(row: Row) -> dict[str, Row]:
    return {one["filterType"]: one for one in row["filters"]}


def _count(filters: Mapping[str, Row], name: str, field: str) -> int | None:
    found = filters.get(name)
    return int(found[field]) if found is not None else None


def _step(digits: object) -> Decimal:
    """The grid of a price or quantity whose own rule is switched off (0): its number of digits."""
    return Decimal(1).scaleb(-int(str(digits)))
