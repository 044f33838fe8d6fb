from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pytest

from exchanges.adapters.types import Fill
from orders.models import Placement, StrategyAccount, StrategyPosition, Trade, TradeExecution
from orders.services.ledger import NewFill, booked_trades, fills_book
from orders.tests.factories import (
    NOON,
    Queries,
    make_account,
    make_fill,
    make_follower,
    make_placement,
    make_placements,
    make_strategy,
)
from orders.writes import Writes

pytestmark = pytest.mark.django_db


@pytest.fixture
def follower() -> StrategyAccount:
    return make_follower()


def book(placement: Placement, *fills: Fill) -> None:
    """Book fills the way settlement does: the placement counts them too."""
    placement.filled_quantity += sum((fill.quantity for fill in fills), Decimal(0))
    placement.save()
    fills_write([NewFill(placement, fill, f"x{placement.pk:08d}") for fill in fills])


def fills_write(fills: Sequence[NewFill]) -> None:
    writes = Writes()
    fills_book(fills, writes, now=NOON)
    writes.run()


def position(symbol: str = "BTC/USDT") -> tuple[Decimal, Decimal | None, Decimal]:
    row = StrategyPosition.objects.get(symbol=symbol)
    return row.quantity, row.average_price, row.realized_pnl


class TestFillsBook:
    def test_folds_a_fill_that_comes_late_in_where_it_belongs(self, follower: StrategyAccount) -> None:
        buy, sell = make_placements(follower, [{"side": "BUY"}, {"side": "SELL"}])
        book(buy, make_fill(1, 100, trade_id="1", seconds=1))
        book(sell, make_fill(1, 130, trade_id="3", seconds=3))
        assert position() == (Decimal(0), None, Decimal(30))

        book(buy, make_fill(1, 200, trade_id="2", seconds=2))  # the average was 150 when 1 was sold

        assert position() == (Decimal(1), Decimal(150), Decimal(-20))
        assert Trade.objects.get(intent=sell.intent).realized_pnl == Decimal(-20)
        assert list(
            TradeExecution.objects.order_by("executed_at").values_list(
                "trade_id", "realized_pnl", "position_quantity", "position_average_price"
            )
        ) == [
            ("1", Decimal(0), Decimal(1), Decimal(100)),
            ("2", Decimal(0), Decimal(2), Decimal(150)),
            ("3", Decimal(-20), Decimal(1), Decimal(150)),
        ]
        row = StrategyPosition.objects.get()
        assert (row.last_executed_at, row.last_trade_id) == (make_fill(1, seconds=3).executed_at, "3")

    def test_folds_what_comes_before_everything(self, follower: StrategyAccount) -> None:
        placement = make_placement(follower)
        book(placement, make_fill(1, 200, trade_id="2", seconds=2))

        book(placement, make_fill(1, 100, trade_id="1", seconds=1))

        assert position() == (Decimal(2), Decimal(150), Decimal(0))

    def test_sorts_trade_ids_of_one_instant_as_numbers(self, follower: StrategyAccount) -> None:
        buy, sell = make_placements(follower, [{"side": "BUY"}, {"side": "SELL"}])
        book(sell, make_fill(1, 130, trade_id="10"))

        book(buy, make_fill(1, 100, trade_id="9"))  # bought first, though "10" < "9"

        assert position() == (Decimal(0), None, Decimal(30))
        assert TradeExecution.objects.get(trade_id="10").realized_pnl == Decimal(30)

    @pytest.mark.parametrize("late", [0, 1])
    def test_keeps_both_of_two_orders_that_met_each_other(self, follower: StrategyAccount, late: int) -> None:
        first, buy, sell, last = make_placements(
            follower, [{"side": side} for side in ("BUY", "BUY", "SELL", "BUY")]
        )
        book(first, make_fill(1, 100, trade_id="1", seconds=0))
        met = [
            (buy, make_fill(1, 120, trade_id="5", seconds=1)),
            (sell, make_fill(1, 120, trade_id="5", seconds=1)),
        ]
        book(*met[1 - late])
        book(last, make_fill(1, 130, trade_id="6", seconds=2))

        book(*met[late])

        # 1 at 100, 1 more at 120, 1 sold at 120 of 2 at 110, 1 more at 130 beside 1 at 110
        assert position() == (Decimal(2), Decimal(120), Decimal(10))

    @pytest.mark.parametrize("sold_first", [False, True])
    def test_folds_orders_that_met_each_other_by_their_ids(
        self, follower: StrategyAccount, sold_first: bool
    ) -> None:
        first, buy, sell = make_placements(follower, [{"side": side} for side in ("BUY", "BUY", "SELL")])
        book(first, make_fill(1, 100, trade_id="1", seconds=0))

        for placement in (sell, buy) if sold_first else (buy, sell):
            book(placement, make_fill(1, 120, trade_id="5", seconds=1))

        assert position() == (Decimal(1), Decimal(110), Decimal(10))

    def test_keeps_strategies_on_one_account_apart(self, follower: StrategyAccount) -> None:
        other = make_follower(make_strategy("test2", token="another-token"), follower.account)
        mine, theirs = make_placement(follower), make_placement(other, side="SELL")

        fills_write(
            [
                NewFill(mine, make_fill(1, 100, trade_id="1"), "x1"),
                NewFill(theirs, make_fill(1, 100, trade_id="1"), "x2"),
            ]
        )

        assert dict(StrategyPosition.objects.values_list("strategy_account_id", "quantity")) == {
            follower.pk: Decimal(1),
            other.pk: Decimal(-1),
        }

    def test_sums_fees_by_asset(self, follower: StrategyAccount) -> None:
        placement = make_placement(follower)
        book(placement, make_fill("0.1", fee=Decimal("0.10"), fee_asset="USDT"))
        book(placement, make_fill("0.1", fee=Decimal("0.20"), fee_asset="USDT"), make_fill("0.1"))
        book(placement, make_fill("0.1", fee=Decimal("-0.00001"), fee_asset="BNB"))

        assert Trade.objects.get().fees == {"USDT": "0.3", "BNB": "-0.00001"}

    def test_does_nothing_without_fills(self) -> None:
        with Queries() as queries:
            fills_write([])

        assert queries.count == 0


class TestBookedTrades:
    def test_are_read_with_one_query_for_any_number_of_placements(self, follower: StrategyAccount) -> None:
        placements = make_placements(follower, [{}] * 5)
        for number, placement in enumerate(placements[:4]):
            book(placement, make_fill("0.1", trade_id=f"a{number}"), make_fill("0.1", trade_id=f"b{number}"))

        with Queries() as queries:
            found = booked_trades(placements)

        assert found == {one.pk: {f"a{number}", f"b{number}"} for number, one in enumerate(placements[:4])}
        assert queries.count == 1

    def test_ask_nothing_where_nothing_was_filled(self, follower: StrategyAccount) -> None:
        placement = make_placement(make_follower(make_strategy("test3", token="x3"), make_account("second")))

        with Queries() as queries:
            assert booked_trades([placement]) == {}

        assert queries.count == 0
