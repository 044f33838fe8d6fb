from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from orders import selectors
from orders.failed_listing import failed_orders
from orders.failed_selectors import FailedFilter
from orders.models import FailedStatus, OpenOrder, StrategyAccount
from orders.selectors import Visible
from orders.states import OrderStatus
from orders.tests.rows import (
    NOON,
    log_event,
    make_failed_order,
    make_instrument,
    make_open_order,
    make_position,
    make_strategy_account,
    make_trade,
    make_user,
    set_price,
)

EVERYBODY = Visible(user_id=None)


@pytest.fixture
def owner(db: None) -> StrategyAccount:
    return make_strategy_account()


class TestPositions:
    def test_values_a_long_position_at_the_last_price(self, owner: StrategyAccount) -> None:
        make_instrument(contract_multiplier=Decimal(10))
        make_position(owner, quantity=Decimal("0.5"), average_price=Decimal("94000.1"))
        set_price("95000.2")

        [row] = selectors.positions(EVERYBODY, now=NOON)

        assert row.unrealized_pnl == Decimal("5000.5")  # 1000.1 × 0.5 × 10
        assert row.last_price == Decimal("95000.2")
        assert (row.strategy, row.account, row.quote_asset) == ("test1", "main", "USDT")

    def test_values_a_short_position_the_other_way_round(self, owner: StrategyAccount) -> None:
        make_position(owner, quantity=Decimal("-2"), average_price=Decimal(100), symbol="ETH/USDT")
        set_price("110", symbol="ETH/USDT")

        [row] = selectors.positions(EVERYBODY, now=NOON)

        assert (row.unrealized_pnl, row.unrealized_percent) == (Decimal(-20), Decimal(-10))

    def test_keeps_every_digit(self, owner: StrategyAccount) -> None:
        make_position(owner, quantity=Decimal("0.123456789012345678"), average_price=Decimal("0.1"))
        set_price("0.3")

        [row] = selectors.positions(EVERYBODY, now=NOON)

        assert row.unrealized_pnl == Decimal("0.0246913578024691356")

    def test_says_nothing_about_profit_without_a_price(self, owner: StrategyAccount) -> None:
        make_position(owner)

        [row] = selectors.positions(EVERYBODY, now=NOON)

        assert (row.last_price, row.unrealized_pnl) == (None, None)

    def test_calls_a_price_stale_that_missed_two_refreshes(self, owner: StrategyAccount) -> None:
        make_position(owner)
        set_price("95000", seen_at=NOON - timedelta(seconds=63))

        [row] = selectors.positions(EVERYBODY, now=NOON)

        assert row.last_price_is_stale is True

    def test_takes_the_price_of_the_same_market_only(self, owner: StrategyAccount) -> None:
        make_position(owner, market_type="SPOT")
        set_price("95000")  # of the futures market

        [row] = selectors.positions(EVERYBODY, now=NOON)

        assert row.last_price is None

    def test_keeps_a_closed_position_for_a_day_below_the_open_ones(self, owner: StrategyAccount) -> None:
        make_position(owner, symbol="AAA/USDT", quantity=Decimal(0), realized_pnl=Decimal(12))
        make_position(
            owner,
            symbol="OLD/USDT",
            quantity=Decimal(0),
            last_executed_at=NOON - timedelta(hours=25),
        )
        make_position(owner, symbol="BTC/USDT")

        rows = selectors.positions(EVERYBODY, now=NOON)

        assert [(row.symbol, row.is_flat) for row in rows] == [("BTC/USDT", False), ("AAA/USDT", True)]


class TestOpenOrders:
    def test_tells_what_was_asked_for_and_how_much_of_it_is_filled(self, owner: StrategyAccount) -> None:
        make_instrument()
        make_open_order(
            owner,
            status=OrderStatus.PARTIALLY_FILLED,
            quantity=Decimal("0.3"),
            filled_quantity=Decimal("0.2"),
        )

        [row] = selectors.open_orders(EVERYBODY, now=NOON)

        assert (row.filled_quantity, row.quantity, row.filled_percent) == (Decimal("0.2"), Decimal("0.3"), 66)
        assert (row.status, row.tick_size) == (OrderStatus.PARTIALLY_FILLED, Decimal("0.1"))
        assert row.client_order_id == OpenOrder.objects.get().placement.client_order_id

    def test_shows_the_newest_first(self, owner: StrategyAccount) -> None:
        older, newer = make_open_order(owner), make_open_order(owner)

        rows = selectors.open_orders(EVERYBODY, now=NOON)

        assert [row.key for row in rows] == [f"order-{newer.pk}", f"order-{older.pk}"]


class TestFailedOrders:
    def test_leaves_out_removed_ones(self, owner: StrategyAccount) -> None:
        make_failed_order(owner, status=FailedStatus.REMOVED)

        assert failed_orders(EVERYBODY, now=NOON) == []

    def test_shows_one_that_is_submitting_for_too_long_as_resolving(self, owner: StrategyAccount) -> None:
        failed = make_failed_order(owner)
        unknown = make_open_order(
            owner, status=OrderStatus.SUBMITTING, submitted_at=NOON - timedelta(seconds=6)
        )
        make_open_order(owner, status=OrderStatus.SUBMITTING, submitted_at=NOON - timedelta(seconds=4))

        rows = failed_orders(EVERYBODY, now=NOON)

        assert [(row.key, row.is_resolving) for row in rows] == [
            (f"resolving-{unknown.pk}", True),
            (f"failed-{failed.pk}", False),
        ]

    def test_shows_the_markets_price_beside_its_own(self, owner: StrategyAccount) -> None:
        make_failed_order(owner)
        make_open_order(owner, status=OrderStatus.SUBMITTING, submitted_at=NOON - timedelta(seconds=63))
        set_price("95321.4", seen_at=NOON - timedelta(seconds=63))

        resolving, failed = failed_orders(EVERYBODY, now=NOON)

        assert (failed.last_price, failed.last_price_is_stale) == (Decimal("95321.4"), True)
        assert resolving.last_price == failed.last_price
        assert (resolving.needs_decision, failed.needs_decision) == (True, False)

    def test_can_be_sent_again_until_all_retries_are_used_up(self, owner: StrategyAccount) -> None:
        for retries in (4, 5):
            make_failed_order(owner, retry_count=retries)

        assert [row.can_retry for row in failed_orders(EVERYBODY, now=NOON)] == [False, True]

    @pytest.mark.parametrize(
        ("only", "found"),
        [
            (FailedFilter(symbol="ETH/USDT"), ["ETH/USDT", "ETH/USDT"]),
            (FailedFilter(error_type="timeout"), ["ETH/USDT"]),
            (FailedFilter(created_after=NOON), ["ETH/USDT"]),
            (FailedFilter(created_before=NOON), ["ETH/USDT", "BTC/USDT"]),
            (FailedFilter(strategy_account_id=0), []),
        ],
    )
    def test_are_those_that_are_asked_for(
        self, owner: StrategyAccount, only: FailedFilter, found: list[str]
    ) -> None:
        make_failed_order(owner, created_at=NOON - timedelta(seconds=1))
        make_failed_order(owner, symbol="ETH/USDT", error_type="timeout")
        make_open_order(
            owner,
            symbol="ETH/USDT",
            status=OrderStatus.SUBMITTING,
            submitted_at=NOON - timedelta(seconds=6),
        )

        assert [row.symbol for row in failed_orders(EVERYBODY, now=NOON, only=only)] == found


class TestEventRows:
    def test_tells_of_which_order_it_speaks(self, owner: StrategyAccount) -> None:
        order = make_open_order(owner)
        log_event(owner, intent=order.intent, data={"filled_quantity": "0.2"}, message="words")

        [row] = selectors.event_rows(EVERYBODY.events(), limit=9)

        assert (row.side, row.quantity, row.filled_quantity) == ("BUY", Decimal("0.5"), Decimal("0.2"))
        assert (row.strategy, row.account, row.message) == ("test1", "main", "words")

    def test_tells_what_the_log_says_of_an_order_that_is_not_ours(self, owner: StrategyAccount) -> None:
        data = {"side": "SELL", "quantity": "3", "price": None, "filled_quantity": "0"}
        log_event(owner, type="EXTERNAL", strategy_account=None, symbol="BTC/USDT", data=data)

        [row] = selectors.event_rows(EVERYBODY.events(), limit=9)

        assert (row.side, row.quantity, row.price) == ("SELL", Decimal(3), None)

    def test_outlives_the_order_that_it_speaks_of(self, owner: StrategyAccount) -> None:
        log_event(owner, intent_id=987654, symbol="BTC/USDT", data={"filled_quantity": "soon"})

        [row] = selectors.event_rows(EVERYBODY.events(), limit=9)

        assert (row.symbol, row.quantity, row.filled_quantity) == ("BTC/USDT", None, None)


READS: list[tuple[Callable[..., list[Any]], Callable[[StrategyAccount, int], object]]] = [
    (selectors.positions, lambda owner, n: make_position(owner, symbol=f"C{n}/USDT")),
    (selectors.open_orders, lambda owner, n: make_open_order(owner)),
    (selectors.recent_trades, lambda owner, n: make_trade(owner)),
    (failed_orders, lambda owner, n: make_failed_order(owner)),
]


class TestVisible:
    @pytest.mark.parametrize(("read", "make"), READS)
    def test_lets_a_person_see_only_their_own_strategy_accounts(
        self, owner: StrategyAccount, read: Callable[..., list[Any]], make: Callable[..., object]
    ) -> None:
        other = make_strategy_account(user=make_user("other"), group_name="other")
        make(owner, 1)
        make(other, 2)

        mine = read(Visible(user_id=owner.strategy.user_id), now=NOON)
        theirs = read(Visible(user_id=other.strategy.user_id), now=NOON)
        all_rows = read(EVERYBODY, now=NOON)
        not_mine = read(Visible(owner.strategy.user_id, strategy_account_id=other.pk), now=NOON)

        assert [row.strategy for row in mine] == ["test1"]
        assert [row.strategy for row in theirs] == ["other"]
        assert len(all_rows) == 2
        assert not_mine == []

    def test_narrows_events_to_a_strategy_account_and_its_stream(self, owner: StrategyAccount) -> None:
        second = make_strategy_account(group_name="test2", account_name="second")
        mine = log_event(owner)
        stream = log_event(owner, strategy_account=None, type="STREAM")
        log_event(second)
        log_event(second, strategy_account=None, type="STREAM")
        log_event(owner, user_id=owner.strategy.user_id + 1)

        events = Visible(owner.strategy.user_id, strategy_account_id=owner.pk).events().order_by("id")

        assert [event.pk for event in events] == [mine.pk, stream.pk]


class TestQueries:
    @pytest.mark.parametrize(("read", "make"), READS)
    def test_do_not_grow_with_the_rows(
        self, owner: StrategyAccount, read: Callable[..., list[Any]], make: Callable[..., object]
    ) -> None:
        counts = []
        for number in (3, 30):
            for serial in range(number):
                make(owner, number * 100 + serial)
            with CaptureQueriesContext(connection) as queries:
                rows = read(EVERYBODY, now=NOON)
            counts.append((len(queries), len(rows)))

        expected = 2 if read is failed_orders else 1
        assert counts == [(expected, 3), (expected, 33)]
