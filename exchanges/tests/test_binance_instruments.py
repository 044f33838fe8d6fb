from __future__ import annotations

import logging
from decimal import Decimal

import pytest

from exchanges.adapters.binance.instruments import (
    futures_instruments,
    published_limits,
    spot_instruments,
)
from exchanges.adapters.types import InstrumentSpec, MarketType
from exchanges.tests.scripted import payload


class TestFuturesInstruments:
    def test_read_the_grid_from_the_filters_and_not_from_the_precisions(self) -> None:
        perpetual = futures_instruments(payload("futures_exchange_info"))[0]
        assert perpetual == InstrumentSpec(
            market_type=MarketType.FUTURES,
            symbol="BTC/USDT",
            venue_symbol="BTCUSDT",
            base_asset="BTC",
            quote_asset="USDT",
            tick_size=Decimal("0.10"),
            lot_step=Decimal("0.001"),
            min_quantity=Decimal("0.001"),
            max_quantity=Decimal(1000),
            min_notional=Decimal(100),
            market_lot_step=Decimal("0.001"),
            market_max_quantity=Decimal(120),
            max_open_orders=200,
            max_conditional_orders=200,
        )

    def test_name_a_delivery_contract_by_its_day(self) -> None:
        delivery = futures_instruments(payload("futures_exchange_info"))[1]
        assert (delivery.symbol, delivery.venue_symbol) == ("BTC/USDT-260327", "BTCUSDT_260327")
        assert delivery.is_trading is False
        assert delivery.market_max_quantity is None

    def test_leave_out_one_that_cannot_be_read_and_say_so(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            specs = futures_instruments(payload("futures_exchange_info"))
        assert "BROKEN/USDT" not in {spec.symbol for spec in specs}
        assert "BROKENUSDT" in caplog.text


class TestSpotInstruments:
    def test_read_caps_and_both_kinds_of_notional(self) -> None:
        new, old = spot_instruments(payload("spot_exchange_info"))
        assert (new.symbol, new.tick_size, new.lot_step) == ("ETH/BTC", Decimal("0.00001"), Decimal("0.0001"))
        assert (new.max_open_orders, new.max_conditional_orders) == (200, 5)
        assert (new.min_notional, old.min_notional) == (Decimal("0.0001"), Decimal(10))
        assert (new.market_lot_step, new.market_max_quantity) == (None, Decimal("2812.91166666"))

    def test_take_the_number_of_digits_where_a_rule_is_off(self) -> None:
        old = spot_instruments(payload("spot_exchange_info"))[1]
        assert old.tick_size == Decimal("0.00000001")
        assert old.is_trading is False

    def test_leave_out_what_cannot_be_traded_on_spot(self) -> None:
        symbols = {spec.symbol for spec in spot_instruments(payload("spot_exchange_info"))}
        assert symbols == {"ETH/BTC", "OLD/USDT"}


class TestPublishedLimits:
    def test_read_weight_and_order_windows_and_leave_the_rest(self, caplog: pytest.LogCaptureFixture) -> None:
        rows = [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 4800},
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 50},
            {"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": 1, "limit": 160000},
            {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 61000},
            {"rateLimitType": "ORDERS", "interval": "FORTNIGHT", "intervalNum": 1, "limit": 1},
            {"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1, "limit": 0},
        ]
        with caplog.at_level(logging.WARNING):
            assert published_limits({"rateLimits": rows}) == (4800, {10: 50, 86400: 160000})
        assert "FORTNIGHT" in caplog.text

    def test_are_none_where_nothing_is_published(self) -> None:
        assert published_limits({}) == (None, {})
