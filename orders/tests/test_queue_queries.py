"""How many statements a rebalance costs, and what the reading of a long queue costs the database."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from pytest_django.fixtures import Settings

from orders.clock import database_now
from orders.models import (
    Book,
    EventSource,
    Home,
    OpenOrder,
    OrderIntent,
    PendingOrder,
    StrategyAccount,
)
from orders.services.claims import Claim
from orders.services.guards import denials
from orders.services.queue import Rebalanced, rebalance
from orders.services.settlement import apply_reports
from orders.services.waiting import pending_for
from orders.tests.factories import (
    FUTURES,
    NOON,
    Exchanges,
    Queries,
    cost_on_postgresql,
    limit,
    make_delivery,
    make_follower,
    post,
)

pytestmark = pytest.mark.django_db

MOST = 12


@pytest.fixture
def follower(exchanges: Exchanges) -> StrategyAccount:
    """The configuration, the guards, the book and its leverage are remembered."""
    row = make_follower()
    assert post(limit(90_000)).status == 200
    denials(list(OrderIntent.objects.all()), now=database_now())
    return row


def book_of(follower: StrategyAccount) -> Book:
    return Book.objects.get(account=follower.account, symbol="BTC/USDT", market_type=FUTURES)


def let_wait(follower: StrategyAccount, number: int, *, best: int = 80_000, book: Book | None = None) -> None:
    """Write waiting LIMIT buys of different prices in no order, the best one at `best`."""
    book = book or book_of(follower)
    delivery, now = make_delivery(follower.strategy), database_now()
    intents = OrderIntent.objects.bulk_create(
        OrderIntent(
            uid=f"{delivery.pk:013d}{each:013d}", delivery=delivery, order_index=each,
            user_id=follower.strategy.user_id, strategy_account=follower, book=book, symbol=book.symbol,
            market_type=FUTURES, side="BUY", order_type="LIMIT", price=Decimal(best) - each * 7919 % number,
            quantity=Decimal("0.01"), home=Home.QUEUE, is_queued=True, created_at=now, updated_at=now,
        )
        for each in range(number)
    )  # fmt: skip
    PendingOrder.objects.bulk_create(
        pending_for(intent, account_id=follower.account_id, now=now) for intent in intents
    )


def rest(follower: StrategyAccount, number: int, *, from_price: int = 90_000) -> None:
    """Let so many more LIMIT buys rest at the exchange."""
    orders = [limit(from_price + one) for one in range(number)]
    for start in range(0, number, 30):  # as many as one webhook takes
        assert post({"orders": orders[start : start + 30]}).body["success"] is True


def free(follower: StrategyAccount, exchanges: Exchanges, number: int) -> set[int]:
    """Fill so many resting orders and record it; returns the freed books."""
    fake = exchanges.of(follower)
    open_orders = OpenOrder.objects.filter(account=follower.account).select_related("placement")
    reports = [fake.fill(one.placement.client_order_id) for one in open_orders.order_by("-pk")[:number]]
    applied = apply_reports(
        account_id=follower.account_id,
        market_type=FUTURES,
        reports=reports,
        source=EventSource.STREAM,
        now=database_now(),
    )
    assert len(applied.freed_books) == 1
    return applied.freed_books


def cost(books: set[int], *, freed: set[int] | None = None) -> tuple[int, Rebalanced]:
    with Queries() as queries:
        run = rebalance(book_ids=books, freed=freed or set())
    print(*(statement[:150] for statement in queries.statements), sep="\n")  # noqa: T201  shown on failure
    return queries.count, run


class TestRebalance:
    def test_costs_the_same_for_1_and_for_30_orders_moved(
        self, follower: StrategyAccount, exchanges: Exchanges, settings: Settings
    ) -> None:
        settings.QUEUE_LIMIT_CAP = 60
        rest(follower, 59)
        let_wait(follower, 200)
        counts = {}
        for number in (1, 30):
            freed = free(follower, exchanges, number)

            counts[number], run = cost(freed, freed=freed)

            assert run.executed == number
        assert cost_on_postgresql(counts, 10), counts
        assert max(counts.values()) <= MOST or connection.vendor != "postgresql"

    def test_costs_the_same_with_500_waiting_as_with_5(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        rest(follower, 19)
        counts = {}
        for number in (5, 500):
            let_wait(follower, number)
            freed = free(follower, exchanges, 1)
            counts[number], run = cost(freed, freed=freed)
            assert run.executed == 1
        assert cost_on_postgresql(counts, 10), counts

    def test_costs_the_same_for_1_and_for_20_books(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        books = {book_of(follower).pk}
        for number in range(19):  # of one account: several answer one by one, and are recorded so
            book = Book.objects.create(
                account=follower.account, market_type=FUTURES, symbol=f"B{number}/USDT", leverage=1
            )
            let_wait(follower, 2, book=book)
            books.add(book.pk)
        let_wait(follower, 2)
        counts = {}
        ours = {book_of(follower).pk}
        for wanted in (ours, books - ours):
            counts[len(wanted)], run = cost(wanted)
            assert run.executed == 2 * len(wanted)
        assert cost_on_postgresql(counts, 9), counts

    @pytest.mark.parametrize("better", [1, 30])
    def test_costs_two_rounds_where_better_orders_take_the_slots(
        self, follower: StrategyAccount, exchanges: Exchanges, settings: Settings, better: int
    ) -> None:
        settings.QUEUE_LIMIT_CAP = 40
        rest(follower, 39)
        let_wait(follower, better, best=95_000)

        count, run = cost({book_of(follower).pk})

        assert (run.canceled, run.executed) == (better, better)
        if connection.vendor == "postgresql":
            # Claim, cancel, record: 9. Claim what takes the slots, send, record: 7. Nothing more to do: 2.
            assert count == 18

    def test_costs_one_statement_where_nothing_waits(self, follower: StrategyAccount) -> None:
        count, run = cost({book_of(follower).pk})

        assert count == 1
        assert run.executed == 0

    def test_costs_three_statements_where_nothing_is_to_be_done(self, follower: StrategyAccount) -> None:
        rest(follower, 19)
        let_wait(follower, 10, best=40_000)

        count, run = cost({book_of(follower).pk})

        assert count == (3 if connection.vendor == "postgresql" else 4)
        assert run.executed == run.canceled == 0


class TestReading:
    @pytest.mark.parametrize("waiting", [5, 500])
    def test_reads_no_more_than_the_caps(self, follower: StrategyAccount, waiting: int) -> None:
        let_wait(follower, waiting)
        book = Book.objects.select_related("account").get(pk=book_of(follower).pk)
        claim = Claim(now=database_now(), source=EventSource.QUEUE)

        claim.plan([book], version=0)

        assert len(claim.states[book.pk].orders) == 1 + min(waiting, 20)

    @pytest.mark.services  # PostgreSQL's way to read it
    def test_goes_along_the_index_and_stops_at_the_caps(self, follower: StrategyAccount) -> None:
        let_wait(follower, 5_000)
        with connection.cursor() as cursor:
            for table in ("orders_pendingorder", "orders_orderintent", "orders_openorder"):
                cursor.execute(f"ANALYZE {table}")
        book = Book.objects.select_related("account").get(pk=book_of(follower).pk)
        with Queries() as queries:
            Claim(now=NOON + timedelta(days=1), source=EventSource.QUEUE).plan([book], version=0)
        (reading,) = [sql for sql in queries.statements if "LATERAL" in sql]

        nodes = plan_of(reading)

        waiting = [node for node in nodes if node.get("Relation Name") == "orders_pendingorder"]
        assert [(node["Node Type"], node["Index Name"]) for node in waiting] == [
            ("Index Scan", "pending_by_rank")
        ]
        assert sum(node["Actual Rows"] * node["Actual Loops"] for node in waiting) <= 20 + 4
        assert not any("Sort" in node["Node Type"] for node in nodes)


def plan_of(sql: str) -> list[dict[str, Any]]:
    """Run a query and return every node of the plan that it was run with."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
        answer = cursor.fetchone()[0]
    found = [(answer if isinstance(answer, list) else json.loads(answer))[0]["Plan"]]
    for node in found:
        found += node.get("Plans", ())
    return found
