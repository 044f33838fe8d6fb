from __future__ import annotations

from dataclasses import replace
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from exchanges.adapters.testing import BTC_USDT
from exchanges.adapters.types import InstrumentSpec, MarketType, OrderType
from orders.sizing import (
    Sized,
    SizingError,
    capital_to_quantity,
    closing_quantity,
    fit,
    lot_step_for,
    price_to_tick,
    to_step,
)

SPOT = replace(BTC_USDT, market_type=MarketType.SPOT)


def D(text: str | int) -> Decimal:  # noqa: N802  short: half of every line here is numbers
    return Decimal(text)


def fitted(quantity: str | Decimal, *, instrument: InstrumentSpec = BTC_USDT, **how: Any) -> Sized:
    fields: dict[str, Any] = {
        "order_type": OrderType.LIMIT,
        "price": D(95000),
        "stop_price": None,
        "reference_price": None,
        "reduce_only": False,
    }
    return fit(Decimal(quantity), instrument=instrument, **fields | how)


class TestToStep:
    @pytest.mark.parametrize(
        ("value", "step", "rounding", "result"),
        [
            ("0.0019", "0.001", ROUND_DOWN, "0.001"),
            ("0.002", "0.001", ROUND_DOWN, "0.002"),
            ("7", "5", ROUND_DOWN, "5"),
            ("0.123", "0", ROUND_DOWN, "0.123"),
            ("95000.04", "0.10", ROUND_HALF_UP, "95000.00"),
            ("95000.05", "0.10", ROUND_HALF_UP, "95000.10"),
            # More digits than a default context has: a rounded quotient would go up.
            ("12345678901234567890.999999999999999999", "1", ROUND_DOWN, "12345678901234567890"),
            ("99999999999999999999", "0.000000000000000001", ROUND_DOWN, "99999999999999999999"),
        ],
    )
    def test_gives_whole_steps(self, value: str, step: str, rounding: str, result: str) -> None:
        assert to_step(D(value), D(step), rounding=rounding) == D(result)


class TestPriceToTick:
    def test_goes_to_the_nearest_tick(self) -> None:
        assert str(price_to_tick(D("95000.16"), BTC_USDT)) == "95000.20"
        assert str(price_to_tick(D("95000.14999"), BTC_USDT)) == "95000.10"
        assert price_to_tick(None, BTC_USDT) is None


class TestLotStepFor:
    def test_is_the_wider_grid_of_market_orders(self) -> None:
        instrument = replace(BTC_USDT, market_lot_step=D("0.01"))

        assert lot_step_for(OrderType.MARKET, instrument) == D("0.01")
        assert lot_step_for(OrderType.LIMIT, instrument) == D("0.001")
        assert lot_step_for(OrderType.MARKET, replace(BTC_USDT, market_lot_step=D("0.0001"))) == D("0.001")
        assert lot_step_for(OrderType.MARKET, BTC_USDT) == D("0.001")


def sized(capital: str, percent: str, price: str, leverage: int, instrument: InstrumentSpec) -> Decimal:
    return capital_to_quantity(
        capital=D(capital), percent=D(percent), price=D(price), leverage=leverage, instrument=instrument
    )


class TestCapitalToQuantity:
    def test_multiplies_by_leverage_on_futures_only(self) -> None:
        assert sized("10000", "10", "50000", 5, BTC_USDT) == D("0.1")
        assert sized("10000", "10", "50000", 5, SPOT) == D("0.02")

    def test_loses_no_lot_to_a_third_that_is_multiplied_again(self) -> None:
        # 1000 / 30000 is 0.0333…; three times a rounded third is under 0.1
        assert sized("10000", "10", "30000", 3, BTC_USDT) == D("0.1")
        assert fitted(sized("10000", "10", "30000", 3, BTC_USDT), price=D(30000)).quantity == D("0.1")

    def test_counts_contracts(self) -> None:
        assert sized("10000", "100", "100", 1, replace(BTC_USDT, contract_multiplier=D("0.1"))) == D(1000)

    def test_takes_more_than_all_of_the_capital(self) -> None:
        assert sized("10000", "250", "50000", 1, BTC_USDT) == D("0.5")


class TestFit:
    def test_cuts_the_quantity_and_rounds_the_prices(self) -> None:
        found = fitted(
            "0.0129999", order_type=OrderType.STOP_LIMIT, price=D("95000.06"), stop_price=D("94999.94")
        )

        assert found == Sized(D("0.012"), D("95000.10"), D("94999.90"))

    @pytest.mark.parametrize(
        ("quantity", "how", "said"),
        [
            ("0.0009", {}, "quantity 0.0009 BTC is below the minimum of 0.001 BTC"),
            ("0", {}, "quantity 0 BTC is below the minimum of 0.001 BTC"),
            ("1000.001", {}, "quantity 1000.001 BTC is above the maximum of 1000 BTC"),
            ("0.001", {"price": D("4999.94")}, "order value 4.99 USDT is below the minimum of 5 USDT"),
            ("0.001", {"price": D("0.04")}, "the price is below the tick of 0.1"),
            (
                "0.001",
                {"order_type": OrderType.STOP_MARKET, "price": None, "stop_price": D("0.01")},
                "the stop price is below the tick of 0.1",
            ),
            (
                "0.001",
                {"order_type": OrderType.MARKET, "price": None, "reference_price": D(4000)},
                "order value 4 USDT is below the minimum of 5 USDT",
            ),
            (
                "0.001",
                {"order_type": OrderType.STOP_MARKET, "price": None, "stop_price": D(4000)},
                "order value 4 USDT is below the minimum of 5 USDT",
            ),
        ],
    )
    def test_names_the_limit_that_an_order_breaks(
        self, quantity: str, how: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(SizingError) as caught:
            fitted(quantity, **how)

        assert str(caught.value) == said

    def test_never_shows_a_value_that_looks_like_the_minimum(self) -> None:
        with pytest.raises(SizingError, match="order value 4.99 USDT is below the minimum of 5 USDT"):
            fitted("0.0019", instrument=replace(BTC_USDT, lot_step=D("0.0001"), tick_size=D("0.0001")),
                   price=D("2631.5789"))  # fmt: skip  # 4.99999991

    def test_holds_market_orders_to_a_cap_of_their_own(self) -> None:
        capped = replace(BTC_USDT, market_max_quantity=D(120))

        assert fitted("121", instrument=capped).quantity == D(121)
        with pytest.raises(SizingError, match="above the maximum of 120 BTC"):
            fitted("121", instrument=capped, order_type=OrderType.MARKET, price=None)

    def test_waives_the_smallest_value_for_what_only_reduces_on_futures(self) -> None:
        assert fitted("0.001", price=D(1000), reduce_only=True).quantity == D("0.001")
        with pytest.raises(SizingError, match="below the minimum of 5 USDT"):
            fitted("0.001", price=D(1000), reduce_only=True, instrument=SPOT)

    def test_lets_the_exchange_judge_a_value_that_nobody_knows(self) -> None:
        assert fitted("0.001", order_type=OrderType.MARKET, price=None).quantity == D("0.001")


class TestClosingQuantity:
    @pytest.mark.parametrize(
        ("position", "on_their_way", "percent", "quantity"),
        [
            ("0.5", "0", "100", "0.5"),
            ("-0.5", "0", "100", "0.5"),
            ("0.5", "0", "50", "0.25"),
            ("0.5", "0.2", "100", "0.3"),
            ("0.5", "0.2", "50", "0.25"),  # percent of the position, as far as it is free
            ("0.5", "0.4", "50", "0.1"),
            ("-0.3", "0.1", "33.3", "0.0999"),
        ],
    )
    def test_takes_its_part_of_what_is_not_being_closed_yet(
        self, position: str, on_their_way: str, percent: str, quantity: str
    ) -> None:
        found = closing_quantity(position=D(position), on_their_way=D(on_their_way), percent=D(percent))

        assert found == D(quantity)

    @pytest.mark.parametrize(
        ("position", "on_their_way", "said"),
        [
            ("0", "0", "there is no position to close"),
            ("0.5", "0.5", "nothing is left to close"),
            ("0.5", "0.7", "nothing is left to close"),
        ],
    )
    def test_says_when_there_is_nothing_to_close(self, position: str, on_their_way: str, said: str) -> None:
        with pytest.raises(SizingError, match=said):
            closing_quantity(position=D(position), on_their_way=D(on_their_way), percent=D(100))


steps = st.sampled_from(
    [D(step) for step in ("0.000000000000000001", "0.00000001", "0.001", "0.05", "1", "10")]
)
amounts = st.decimals(min_value=0, max_value=D(10) ** 19, allow_nan=False, places=18)


class TestAnyOrder:
    @given(quantity=amounts, price=amounts, lot=steps, tick=steps, minimum=amounts, least_value=amounts)
    def test_that_fits_is_on_the_grid_never_more_than_asked_for_and_never_under_a_minimum(
        self,
        quantity: Decimal,
        price: Decimal,
        lot: Decimal,
        tick: Decimal,
        minimum: Decimal,
        least_value: Decimal,
    ) -> None:
        instrument = replace(
            BTC_USDT,
            lot_step=lot,
            tick_size=tick,
            min_quantity=minimum,
            min_notional=least_value,
            max_quantity=None,
        )
        try:
            found = fitted(quantity, instrument=instrument, price=price)
        except SizingError:
            return
        assert found.price is not None
        assert 0 <= quantity - found.quantity < lot
        assert abs(found.price - price) <= tick / 2
        assert found.quantity >= minimum
        assert found.price > 0
        assert Fraction(found.quantity) % Fraction(lot) == 0
        assert Fraction(found.price) % Fraction(tick) == 0
        assert Fraction(found.quantity) * Fraction(found.price) >= Fraction(least_value) * (
            1 - Fraction(1, 10**27)
        )

    @given(
        position=st.decimals(min_value=-100, max_value=100, places=3),
        percents=st.lists(st.decimals(min_value="0.01", max_value=100, places=2), min_size=1, max_size=8),
    )
    def test_that_closes_never_closes_more_than_there_is(
        self, position: Decimal, percents: list[Decimal]
    ) -> None:
        assume(position)
        on_their_way = Decimal(0)
        for percent in percents:
            try:
                on_their_way += closing_quantity(
                    position=position, on_their_way=on_their_way, percent=percent
                )
            except SizingError:
                break
        assert 0 < on_their_way <= abs(position)
