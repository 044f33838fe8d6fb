"""Binance USDⓈ-M futures: public data. Source: fact sheet B2."""

from __future__ import annotations

from typing import Any

from exchanges.simulator.dialects.binance import params as read
from exchanges.simulator.dialects.binance.base import Desk, Route, Routes, Security, symbol_of
from exchanges.simulator.dialects.binance.futures_format import price_text
from exchanges.simulator.dialects.binance.usage import Limits
from exchanges.simulator.types import Instrument
from exchanges.simulator.wire import Call

# Far enough for any test: perpetuals are never delivered.
DELIVERY_MS = 4_133_404_800_000
ONBOARD_MS = 1_569_398_400_000


class FuturesMarket:
    def __init__(self, desk: Desk, limits: Limits) -> None:
        self._desk = desk
        self._limits = limits
        public = Security.NONE
        self.routes: Routes = {
            ("GET", "/fapi/v1/ping"): Route(lambda call: {}, public),
            ("GET", "/fapi/v1/time"): Route(self.time, public),
            ("GET", "/fapi/v1/exchangeInfo"): Route(self.exchange_info, public),
            ("GET", "/fapi/v1/ticker/price"): Route(self.ticker_price, public),
            ("GET", "/fapi/v2/ticker/price"): Route(self.ticker_price, public),
            ("GET", "/fapi/v1/ticker/bookTicker"): Route(self.book_ticker, public, weight=2),
            ("GET", "/fapi/v1/ticker/24hr"): Route(self.ticker_day, public),
            ("GET", "/fapi/v1/premiumIndex"): Route(self.premium_index, public),
            ("GET", "/fapi/v1/depth"): Route(self.depth, public, weight=2),
        }

    def time(self, call: Call) -> dict[str, Any]:
        return {"serverTime": self._desk.now_ms()}

    def exchange_info(self, call: Call) -> dict[str, Any]:
        orders = self._limits.orders
        return {
            "timezone": "UTC",
            "serverTime": self._desk.now_ms(),
            "futuresType": "U_MARGINED",
            "rateLimits": [
                _limit("REQUEST_WEIGHT", "MINUTE", 1, self._limits.weight_per_minute),
                _limit("ORDERS", "MINUTE", 1, orders["1M"]),
                _limit("ORDERS", "SECOND", 10, orders["10S"]),
            ],
            "exchangeFilters": [],
            "assets": [{"asset": "USDT", "marginAvailable": True, "autoAssetExchange": "-10000"}],
            "symbols": [_symbol_row(instrument) for instrument in self._desk.symbols.values()],
        }

    def ticker_price(self, call: Call) -> dict[str, Any] | list[Any]:
        return self._each(
            call,
            lambda instrument: {
                "symbol": symbol_of(instrument),
                "price": self._price(instrument),
                "time": self._desk.now_ms(),
            },
        )

    def book_ticker(self, call: Call) -> dict[str, Any] | list[Any]:
        return self._each(
            call,
            lambda instrument: {
                "symbol": symbol_of(instrument),
                "bidPrice": self._price(instrument),
                "bidQty": str(instrument.max_market_quantity),
                "askPrice": self._price(instrument),
                "askQty": str(instrument.max_market_quantity),
                "time": self._desk.now_ms(),
            },
        )

    def ticker_day(self, call: Call) -> dict[str, Any] | list[Any]:
        return self._each(call, self._day_row)

    def premium_index(self, call: Call) -> dict[str, Any] | list[Any]:
        return self._each(
            call,
            lambda instrument: {
                "symbol": symbol_of(instrument),
                "markPrice": self._price(instrument),
                "indexPrice": self._price(instrument),
                "estimatedSettlePrice": self._price(instrument),
                "lastFundingRate": "0.00000000",
                "interestRate": "0.00010000",
                "nextFundingTime": self._desk.now_ms() + 28_800_000,
                "time": self._desk.now_ms(),
            },
        )

    def depth(self, call: Call) -> dict[str, Any]:
        """Return one synthetic level each way: the market trades any quantity at its price."""
        instrument = self._desk.instrument(read.required(call.params, "symbol"))
        level = [[self._price(instrument), str(instrument.max_market_quantity)]]
        now_ms = self._desk.now_ms()
        return {"lastUpdateId": now_ms, "E": now_ms, "T": now_ms, "bids": level, "asks": level}

    def _price(self, instrument: Instrument) -> str:
        return price_text(instrument, self._desk.venue.price(instrument))

    def _each(self, call: Call, row: Any) -> dict[str, Any] | list[Any]:
        """Return the row of the wanted symbol, or of every symbol."""
        symbol = call.params.get("symbol")
        if symbol:
            found: dict[str, Any] = row(self._desk.instrument(symbol))
            return found
        return [row(instrument) for instrument in self._desk.symbols.values()]

    def _day_row(self, instrument: Instrument) -> dict[str, Any]:
        price = self._price(instrument)
        now_ms = self._desk.now_ms()
        return {
            "symbol": symbol_of(instrument),
            "priceChange": "0",
            "priceChangePercent": "0.000",
            "weightedAvgPrice": price,
            "lastPrice": price,
            "lastQty": str(instrument.lot_step),
            "openPrice": price,
            "highPrice": price,
            "lowPrice": price,
            "volume": "0",
            "quoteVolume": "0",
            "openTime": now_ms - 86_400_000,
            "closeTime": now_ms,
            "firstId": 0,
            "lastId": 0,
            "count": 0,
        }


def _limit(kind: str, interval: str, number: int, limit: int) -> dict[str, Any]:
    return {"rateLimitType": kind, "interval": interval, "intervalNum": number, "limit": limit}


def _symbol_row(instrument: Instrument) -> dict[str, Any]:
    symbol = symbol_of(instrument)
    step = str(instrument.lot_step)
    return {
        "symbol": symbol,
        "pair": symbol,
        "contractType": "PERPETUAL",
        "deliveryDate": DELIVERY_MS,
        "onboardDate": ONBOARD_MS,
        "status": "TRADING",
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": instrument.base,
        "quoteAsset": instrument.quote,
        "marginAsset": instrument.quote,
        "pricePrecision": instrument.price_precision,
        "quantityPrecision": instrument.quantity_precision,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": [],
        "triggerProtect": "0.0500",
        "liquidationFee": "0.012500",
        "marketTakeBound": "0.05",
        "maxMoveOrderLimit": 10000,
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": str(instrument.tick_size),
                "maxPrice": str(instrument.max_price),
                "tickSize": str(instrument.tick_size),
            },
            {
                "filterType": "LOT_SIZE",
                "minQty": str(instrument.min_quantity),
                "maxQty": str(instrument.max_quantity),
                "stepSize": step,
            },
            {
                "filterType": "MARKET_LOT_SIZE",
                "minQty": str(instrument.min_quantity),
                "maxQty": str(instrument.max_market_quantity),
                "stepSize": step,
            },
            {"filterType": "MAX_NUM_ORDERS", "limit": instrument.max_open_orders},
            {"filterType": "MIN_NOTIONAL", "notional": str(instrument.min_notional)},
            {
                "filterType": "PERCENT_PRICE",
                "multiplierUp": str(instrument.buy_band[1]),
                "multiplierDown": str(instrument.sell_band[0]),
                "multiplierDecimal": "4",
            },
            {"filterType": "POSITION_RISK_CONTROL", "positionControlSide": "NONE"},
        ],
        "orderTypes": [
            "LIMIT",
            "MARKET",
            "STOP",
            "STOP_MARKET",
            "TAKE_PROFIT",
            "TAKE_PROFIT_MARKET",
        ],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
        "permissionSets": ["GRID", "COPY"],
    }
