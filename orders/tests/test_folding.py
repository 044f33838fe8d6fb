from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchanges.adapters.types import Side
from orders.folding import PositionState, fold, fold_key

NOON = datetime(2026, 7, 21, 12, tzinfo=UTC)
Deal = tuple[str, str, str]  # side, quantity, price


def folded(*deals: Deal) -> PositionState:
    state = PositionState()
    for side, quantity, price in deals:
        state = fold(state, side=Side(side), quantity=Decimal(quantity), price=Decimal(price))
    return state


def position(quantity: str, average: str | None, realized: str = "0") -> PositionState:
    return PositionState(Decimal(quantity), None if average is None else Decimal(average), Decimal(realized))


class TestFold:
    @pytest.mark.parametrize(
        ("deals", "after"),
        [
            ([("BUY", "1", "100")], position("1", "100")),
            ([("SELL", "1", "100")], position("-1", "100")),
            # adding averages
            ([("BUY", "1", "100"), ("BUY", "3", "200")], position("4", "175")),
            ([("SELL", "1", "100"), ("SELL", "1", "50")], position("-2", "75")),
            # reducing realises and keeps the average
            ([("BUY", "2", "100"), ("SELL", "0.5", "120")], position("1.5", "100", "10")),
            ([("SELL", "2", "100"), ("BUY", "0.5", "120")], position("-1.5", "100", "-10")),
            # to the end
            ([("BUY", "2", "100"), ("SELL", "2", "90")], position("0", None, "-20")),
            ([("SELL", "2", "100"), ("BUY", "2", "90")], position("0", None, "20")),
            # crossing zero closes and opens the rest at the fill's price
            ([("BUY", "1", "100"), ("SELL", "3", "110")], position("-2", "110", "10")),
            ([("SELL", "1", "100"), ("BUY", "3", "110")], position("2", "110", "-10")),
            # and again from flat, the PnL goes on
            ([("BUY", "1", "100"), ("SELL", "1", "110"), ("SELL", "1", "50")], position("-1", "50", "10")),
        ],
    )
    def test_follows_the_deals(self, deals: list[Deal], after: PositionState) -> None:
        assert folded(*deals) == after

    def test_knows_no_floating_point(self) -> None:
        state = folded(("BUY", "0.1", "0.1"), ("BUY", "0.2", "0.1"), ("SELL", "0.3", "0.3"))

        assert (state.quantity, str(state.realized_pnl)) == (Decimal(0), "0.06")


deals = st.lists(
    st.tuples(
        st.sampled_from(Side),
        st.decimals(min_value="0.001", max_value=50, places=3),
        st.decimals(min_value="0.1", max_value=100000, places=1),
    ),
    max_size=40,
)


class TestAnyDeals:
    @given(deals)
    def test_leave_what_was_bought_less_what_was_sold_and_the_money_that_moved(
        self, made: list[tuple[Side, Decimal, Decimal]]
    ) -> None:
        state = PositionState()
        for side, quantity, price in made:
            state = fold(state, side=side, quantity=quantity, price=price)

        signed = [(one[1] if one[0] is Side.BUY else -one[1], one[2]) for one in made]
        assert state.quantity == sum((quantity for quantity, _ in signed), Decimal(0))
        assert (state.average_price is None) == (state.quantity == 0)
        # Whatever the order of the deals: paid and received, and what is still held at its average.
        cash = -sum((Fraction(quantity) * Fraction(price) for quantity, price in signed), Fraction(0))
        held = Fraction(state.quantity) * Fraction(state.average_price or 0)
        assert abs(Fraction(state.realized_pnl) - (cash + held)) < Fraction(1, 10**15)

    @given(deals)
    def test_realise_what_an_average_kept_in_fractions_realises(
        self, made: list[tuple[Side, Decimal, Decimal]]
    ) -> None:
        state = PositionState()
        held, entry, realized = Fraction(0), Fraction(0), Fraction(0)
        for side, quantity, price in made:
            state = fold(state, side=side, quantity=quantity, price=price)
            left = Fraction(quantity)
            direction = 1 if side is Side.BUY else -1
            closed = min(left, abs(held)) if held * direction < 0 else Fraction(0)
            realized += closed * (Fraction(price) - entry) * -direction
            held += direction * closed
            left -= closed
            if left:
                entry = (abs(held) * entry + left * Fraction(price)) / (abs(held) + left)
                held += direction * left

        assert Fraction(state.quantity) == held
        assert abs(Fraction(state.realized_pnl) - realized) < Fraction(1, 10**15)
        if held:
            assert abs(Fraction(state.average_price or 0) - entry) < Fraction(1, 10**15)

    @given(deals)
    def test_lose_nothing_when_everything_is_sold_for_what_it_cost(
        self, made: list[tuple[Side, Decimal, Decimal]]
    ) -> None:
        state = PositionState()
        for side, quantity, _ in made:
            state = fold(state, side=side, quantity=quantity, price=Decimal(7))
        if state.quantity:
            side = Side.SELL if state.quantity > 0 else Side.BUY
            state = fold(state, side=side, quantity=abs(state.quantity), price=Decimal(7))

        assert (state.quantity, state.average_price) == (Decimal(0), None)
        assert abs(state.realized_pnl) < Decimal("1e-18")


class TestFoldKey:
    def test_sorts_by_time_then_by_the_number_that_a_trade_id_is_then_by_order(self) -> None:
        later = NOON + timedelta(microseconds=1)
        made = [
            fold_key(later, "1", "1"),
            fold_key(NOON, "10", "1"),
            fold_key(NOON, "9", "2"),
            fold_key(NOON, "9", "1"),
        ]

        assert sorted(made) == list(reversed(made))
