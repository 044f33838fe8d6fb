"""Binance spot: public data and the account. Source: fact sheet A3 and A4."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from exchanges.simulator.accounts import SpotWallet
from exchanges.simulator.dialects.binance import params as read
from exchanges.simulator.dialects.binance.base import Desk, Route, Routes, Security, symbol_of
from exchanges.simulator.dialects.binance.spot_format import STP_MODE, balance_rows, number_text
from exchanges.simulator.dialects.binance.spot_orders import ORDER_KINDS
from exchanges.simulator.dialects.binance.usage import Limits
from exchanges.simulator.types import Instrument
from exchanges.simulator.wire import Call

Payload = dict[str, Any] | list[Any]


class SpotMarket:
    def __init__(self, desk: Desk, limits: Limits) -> None:
        self._desk = desk
        self._limits = limits
        public = Security.NONE
        self.routes: Routes = {
            ("GET", "/api/v3/ping"): Route(lambda call: {}, public),
            ("GET", "/api/v3/time"): Route(self.time, public),
            ("GET", "/api/v3/exchangeInfo"): Route(self.exchange_info, public, weight=20),
            ("GET", "/api/v3/ticker/price"): Route(self.ticker_price, public, weight=2),
            ("GET", "/api/v3/ticker/bookTicker"): Route(self.book_ticker, public, weight=2),
            ("GET", "/api/v3/ticker/24hr"): Route(self.ticker_day, public, weight=2),
            ("GET", "/api/v3/avgPrice"): Route(self.average_price, public, weight=2),
            ("GET", "/api/v3/depth"): Route(self.depth, public, weight=5),
            ("GET", "/api/v3/account"): Route(self.account, weight=20),
            ("GET", "/api/v3/account/commission"): Route(self.commission, weight=20),
        }

    def time(self, call: Call) -> dict[str, Any]:
        return {"serverTime": self._desk.now_ms()}

    def exchange_info(self, call: Call) -> dict[str, Any]:
        symbols = read.json_list(call.params, "symbols")
        if symbols is None:
            symbol = call.params.get("symbol")
            symbols = [symbol] if symbol else list(self._desk.symbols)
        return {
            "timezone": "UTC",
            "serverTime": self._desk.now_ms(),
            "rateLimits": rate_limits(self._limits),
            "exchangeFilters": [],
            "symbols": [_symbol_row(self._desk.instrument(str(symbol))) for symbol in symbols],
        }

    def ticker_price(self, call: Call) -> Payload:
        return self._each(
            call, lambda one: {"symbol": symbol_of(one), "price": number_text(self._desk.venue.price(one))}
        )

    def book_ticker(self, call: Call) -> Payload:
        return self._each(call, self._book_row)

    def ticker_day(self, call: Call) -> Payload:
        return self._each(call, self._day_row)

    def average_price(self, call: Call) -> dict[str, Any]:
        instrument = self._desk.instrument(read.required(call.params, "symbol"))
        price = number_text(self._desk.venue.price(instrument))
        return {"mins": 5, "price": price, "closeTime": self._desk.now_ms()}

    def depth(self, call: Call) -> dict[str, Any]:
        """Return one synthetic level each way: the market trades any quantity at its price."""
        instrument = self._desk.instrument(read.required(call.params, "symbol"))
        level = [
            [number_text(self._desk.venue.price(instrument)), number_text(instrument.max_market_quantity)]
        ]
        return {"lastUpdateId": self._desk.now_ms(), "bids": level, "asks": level}

    def account(self, call: Call) -> dict[str, Any]:
        venue = self._desk.venue
        wallet = venue.account(call.api_key).wallet
        assert isinstance(wallet, SpotWallet)
        return {
            "makerCommission": int(venue.maker_fee * 10000),
            "takerCommission": int(venue.taker_fee * 10000),
            "buyerCommission": 0,
            "sellerCommission": 0,
            "commissionRates": self._rates(),
            "canTrade": True,
            "canWithdraw": True,
            "canDeposit": True,
            "brokered": False,
            "requireSelfTradePrevention": False,
            "preventSor": False,
            "updateTime": self._desk.now_ms(),
            "accountType": "SPOT",
            "balances": balance_rows(wallet, omit_zero=read.flag(call.params, "omitZeroBalances")),
            "permissions": ["SPOT"],
            "uid": zlib.crc32(call.api_key.encode()),
        }

    def commission(self, call: Call) -> dict[str, Any]:
        instrument = self._desk.instrument(read.required(call.params, "symbol"))
        nothing = dict.fromkeys(("maker", "taker", "buyer", "seller"), "0.00000000")
        return {
            "symbol": symbol_of(instrument),
            "standardCommission": self._rates(),
            "specialCommission": nothing,
            "taxCommission": nothing,
            "discount": {
                "enabledForAccount": False,
                "enabledForSymbol": False,
                "discountAsset": "BNB",
                "discount": "0.00000000",
            },
        }

    def _rates(self) -> dict[str, str]:
        venue = self._desk.venue
        return {
            "maker": number_text(venue.maker_fee),
            "taker": number_text(venue.taker_fee),
            "buyer": "0.00000000",
            "seller": "0.00000000",
        }

    def _each(self, call: Call, row: Callable[[Instrument], dict[str, Any]]) -> Payload:
        """Return the row of `symbol`, or the rows of `symbols`, or of every symbol."""
        if symbol := call.params.get("symbol"):
            return row(self._desk.instrument(symbol))
        symbols = read.json_list(call.params, "symbols") or list(self._desk.symbols)
        return [row(self._desk.instrument(str(name))) for name in symbols]

    def _book_row(self, instrument: Instrument) -> dict[str, Any]:
        price = number_text(self._desk.venue.price(instrument))
        size = number_text(instrument.max_market_quantity)
        return {
            "symbol": symbol_of(instrument),
            "bidPrice": price,
            "bidQty": size,
            "askPrice": price,
            "askQty": size,
        }

    def _day_row(self, instrument: Instrument) -> dict[str, Any]:
        price = number_text(self._desk.venue.price(instrument))
        now_ms = self._desk.now_ms()
        return self._book_row(instrument) | {
            "priceChange": "0.00000000",
            "priceChangePercent": "0.000",
            "weightedAvgPrice": price,
            "prevClosePrice": price,
            "lastPrice": price,
            "lastQty": number_text(instrument.lot_step),
            "openPrice": price,
            "highPrice": price,
            "lowPrice": price,
            "volume": "0.00000000",
            "quoteVolume": "0.00000000",
            "openTime": now_ms - 86_400_000,
            "closeTime": now_ms,
            "firstId": -1,
            "lastId": -1,
            "count": 0,
        }


def rate_limits(limits: Limits) -> list[dict[str, Any]]:
    return [
        {
            "rateLimitType": "REQUEST_WEIGHT",
            "interval": "MINUTE",
            "intervalNum": 1,
            "limit": limits.weight_per_minute,
        },
        {
            "rateLimitType": "ORDERS",
            "interval": "SECOND",
            "intervalNum": 10,
            "limit": limits.orders["10S"],
        },
        {"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": 1, "limit": limits.orders["1D"]},
        {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 300000},
    ]


def _symbol_row(instrument: Instrument) -> dict[str, Any]:
    return {
        "symbol": symbol_of(instrument),
        "status": "TRADING",
        "baseAsset": instrument.base,
        "baseAssetPrecision": 8,
        "quoteAsset": instrument.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": list(ORDER_KINDS),
        "icebergAllowed": False,
        "ocoAllowed": False,
        "otoAllowed": False,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": False,
        "cancelReplaceAllowed": False,
        "amendAllowed": False,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": _filters(instrument),
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": STP_MODE,
        "allowedSelfTradePreventionModes": [STP_MODE],
    }


def _filters(instrument: Instrument) -> list[dict[str, Any]]:
    return [
        {
            "filterType": "PRICE_FILTER",
            "minPrice": number_text(instrument.tick_size),
            "maxPrice": number_text(instrument.max_price),
            "tickSize": number_text(instrument.tick_size),
        },
        {
            "filterType": "LOT_SIZE",
            "minQty": number_text(instrument.min_quantity),
            "maxQty": number_text(instrument.max_quantity),
            "stepSize": number_text(instrument.lot_step),
        },
        {
            "filterType": "MARKET_LOT_SIZE",
            "minQty": "0.00000000",
            "maxQty": number_text(instrument.max_market_quantity),
            "stepSize": "0.00000000",
        },
        {
            "filterType": "PERCENT_PRICE_BY_SIDE",
            "bidMultiplierUp": str(instrument.buy_band[1]),
            "bidMultiplierDown": str(instrument.buy_band[0]),
            "askMultiplierUp": str(instrument.sell_band[1]),
            "askMultiplierDown": str(instrument.sell_band[0]),
            "avgPriceMins": 5,
        },
        {
            "filterType": "NOTIONAL",
            "minNotional": number_text(instrument.min_notional),
            "applyMinToMarket": True,
            "maxNotional": number_text(instrument.max_notional),
            "applyMaxToMarket": False,
            "avgPriceMins": 5,
        },
        {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": instrument.max_open_orders},
        {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": instrument.max_stop_orders},
    ]
