from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from exchanges.models import Account
from orders import queue_selectors
from orders.listing import BookRow, WaitingRow
from orders.models import Book, StrategyAccount
from orders.queue_selectors import waiting_count, waiting_orders
from orders.selectors import Visible
from orders.tests.rows import (
    NOON,
    make_instrument,
    make_open_order,
    make_pending_order,
    make_strategy_account,
    make_user,
)

EVERYBODY = Visible(user_id=None)


@pytest.fixture
def owner(db: None) -> StrategyAccount:
    return make_strategy_account()


def rows_of(visible: Visible = EVERYBODY) -> list[WaitingRow]:
    return [row for row in waiting_orders(visible, now=NOON) if isinstance(row, WaitingRow)]


def book_of(visible: Visible = EVERYBODY) -> BookRow:
    [book] = [row for row in waiting_orders(visible, now=NOON) if isinstance(row, BookRow)]
    return book


def places(rows: list[WaitingRow]) -> list[tuple[int | None, str, str]]:
    return [(row.place, row.side, str(row.price)) for row in rows]


class TestPlaces:
    def test_go_by_price_with_the_sides_in_turn(self, owner: StrategyAccount) -> None:
        for price in (94000, 95000, 93000):
            make_pending_order(owner, price=Decimal(price))
        for price in (98000, 97000):
            make_pending_order(
                owner, side="SELL", price=Decimal(price), queued_at=NOON + timedelta(seconds=1)
            )

        assert places(rows_of()) == [
            (1, "BUY", "95000"),
            (2, "SELL", "97000"),
            (3, "BUY", "94000"),
            (4, "SELL", "98000"),
            (5, "BUY", "93000"),
        ]

    def test_count_each_lane_of_each_book_for_itself(self, owner: StrategyAccount) -> None:
        make_pending_order(owner, order_type="STOP_MARKET", price=None, stop_price=Decimal(99000))
        make_pending_order(owner)
        make_pending_order(owner, symbol="ETH/USDT")

        told = [(row.symbol, row.lane, row.place) for row in rows_of()]

        assert told == [("BTC/USDT", "LIMIT", 1), ("BTC/USDT", "STOP", 1), ("ETH/USDT", "LIMIT", 1)]

    def test_are_nobodys_while_an_order_is_put_off(self, owner: StrategyAccount) -> None:
        later = NOON + timedelta(seconds=30)
        make_pending_order(owner, waits_until=later, reason="Too many requests", price=Decimal(99000))
        make_pending_order(owner)

        first, second = rows_of()

        assert (first.place, second.place) == (1, None)
        assert (second.waits_until, second.reason) == (later, "Too many requests")

    def test_count_the_orders_of_others_too(self, owner: StrategyAccount) -> None:
        other = make_strategy_account(user=make_user("other"), group_name="other")
        other.account, mine = owner.account, Visible(owner.strategy.user_id)
        other.save()
        make_pending_order(other, price=Decimal(96000))
        make_pending_order(owner, price=Decimal(95000))

        [row] = rows_of(mine)

        assert (row.place, row.strategy) == (2, "test1")
        assert book_of(mine).waiting == 1


class TestRow:
    def test_tells_what_is_left_and_why_it_waits(self, owner: StrategyAccount) -> None:
        make_instrument()
        pending = make_pending_order(
            owner,
            quantity=Decimal("0.5"),
            filled_quantity=Decimal("0.2"),
            retry_count=2,
            is_retry=True,
        )

        [row] = rows_of()

        assert row.key == f"waiting-{pending.pk}"
        assert (row.quantity, row.retry_count, row.is_retry) == (Decimal("0.3"), 2, True)
        assert (row.strategy, row.account, row.tick_size) == ("test1", "main", Decimal("0.1"))


class TestBookRow:
    def test_tells_how_many_slots_are_taken(self, owner: StrategyAccount) -> None:
        make_pending_order(owner)
        for _ in range(3):
            make_open_order(owner)
        make_open_order(owner, order_type="STOP_MARKET", price=None, stop_price=Decimal(90000))
        make_open_order(owner, order_type="MARKET", price=None)  # takes none
        make_open_order(owner, symbol="ETH/USDT")  # another book
        Book.objects.update(external_limit_orders=2)

        book = book_of()

        assert (book.limit_resting, book.limit_cap) == (5, 20)
        assert (book.stop_resting, book.stop_cap) == (1, 5)
        assert (book.waiting, book.shown, book.hidden) == (1, 1, 0)

    def test_knows_the_caps_of_the_account_and_the_exchange(self, owner: StrategyAccount) -> None:
        make_instrument(max_conditional_orders=2)
        make_pending_order(owner)
        Account.objects.update(queue_limit_cap=12)

        assert (book_of().limit_cap, book_of().stop_cap) == (12, 2)

    def test_believes_what_the_exchange_said_for_a_while(self, owner: StrategyAccount) -> None:
        make_pending_order(owner)
        Book.objects.update(limit_fits=7, limit_fits_until=NOON + timedelta(seconds=1))
        assert book_of().limit_cap == 7
        Book.objects.update(limit_fits_until=NOON)
        assert book_of().limit_cap == 20


class TestLongLines:
    def test_show_their_heads_and_say_how_many_more_there_are(
        self, owner: StrategyAccount, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queue_selectors, "SHOWN_PER_LANE", 4)
        monkeypatch.setattr(queue_selectors, "FEWEST_PER_LANE", 4)
        for number in range(11):
            make_pending_order(owner, price=Decimal(90000 + number))

        assert [row.price for row in rows_of()] == [90010, 90009, 90008, 90007]
        assert (book_of().waiting, book_of().hidden) == (11, 7)

    def test_are_counted_up_to_a_point(self, owner: StrategyAccount, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(queue_selectors, "MANY_WAITING", 3)
        for _ in range(3):
            make_pending_order(owner)
        assert waiting_count(waiting_orders(EVERYBODY, now=NOON)) == "3"

        for _ in range(3):
            make_pending_order(owner)

        assert book_of().waiting == 4
        assert waiting_count(waiting_orders(EVERYBODY, now=NOON)) == "3+"

    def test_share_the_page_with_other_books(self, owner: StrategyAccount) -> None:
        for book in range(40):
            for _ in range(9):
                make_pending_order(owner, symbol=f"C{book}/USDT")

        rows = rows_of()

        assert len(rows) == 40 * 7  # 300 // 40

    def test_are_read_in_as_many_queries_as_short_ones(self, owner: StrategyAccount) -> None:
        counts = []
        for number in (1, 40):
            for serial in range(number):
                make_pending_order(owner, symbol=f"C{number}{serial}/USDT")
                make_pending_order(owner, waits_until=NOON)
            with CaptureQueriesContext(connection) as queries:
                waiting_orders(EVERYBODY, now=NOON)
            counts.append(len(queries))

        assert counts == [2, 2]


class TestVisible:
    def test_lets_a_person_see_only_their_own(self, owner: StrategyAccount) -> None:
        other = make_strategy_account(user=make_user("other"), group_name="other", account_name="theirs")
        make_pending_order(owner)
        make_pending_order(other)

        mine = waiting_orders(Visible(owner.strategy.user_id), now=NOON)
        not_mine = waiting_orders(Visible(owner.strategy.user_id, strategy_account_id=other.pk), now=NOON)

        assert [row.account for row in mine] == ["main", "main"]
        assert not_mine == []
