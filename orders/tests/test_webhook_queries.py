"""How many statements a webhook costs; BEGIN, COMMIT and savepoints are not counted."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_django.fixtures import Settings

from exchanges.adapters import exceptions as errors
from orders.models import OpenOrder, PendingOrder, Placement, StrategyAccount
from orders.tests.factories import (
    CLOSE,
    FUTURES,
    LIMIT,
    MARKET,
    SPOT,
    Exchanges,
    Queries,
    cost_on_postgresql,
    limit,
    make_account,
    make_follower,
    make_position,
    post,
)

pytestmark = pytest.mark.django_db

# Of orders that only wait, and of orders that send others back to the queue and then follow them.
WAITING, SWAPPING = 6, 22
STOP = {
    "order_type": "STOP_MARKET",
    "stop_price": "80000",
    "symbol": "BTC/USDT",
    "side": "sell",
    "quantity": "0.01",
}


@pytest.fixture
def follower(exchanges: Exchanges) -> StrategyAccount:
    """Everything that is remembered between webhooks is warm: caches, books, the books' leverage."""
    row = make_follower()
    warm()
    return row


def warm() -> None:
    for symbol in ("BTC/USDT", "ETH/USDT"):
        assert post(LIMIT | {"symbol": symbol, "price": "2000"}).status == 200


@pytest.fixture(autouse=True)
def room(settings: Settings) -> None:
    """Slots for every order of these tests: what waits costs more and is measured by itself."""
    settings.QUEUE_LIMIT_CAP = 1000


def cost(payload: dict[str, Any], *, status: int = 200) -> int:
    with Queries() as queries:
        answer = post(payload)
    assert answer.status == status, answer.body
    print(*(statement[:150] for statement in queries.statements), sep="\n")  # noqa: T201  shown on failure
    return queries.count


class TestWebhook:
    @pytest.mark.parametrize(
        ("order", "statements"),
        [(LIMIT, 11), (STOP, 11), (MARKET, 11)],
    )
    def test_costs_the_same_for_1_and_for_30_orders(
        self, follower: StrategyAccount, order: dict[str, Any], statements: int
    ) -> None:
        cost(order)  # a first MARKET order also makes the position and asks for the price

        counts = {number: cost({"orders": [order] * number}) for number in (1, 30)}

        assert cost_on_postgresql(counts, statements), counts

    def test_costs_the_same_for_30_different_prices(self, follower: StrategyAccount) -> None:
        counts = {
            number: cost({"orders": [limit(90_000 + each) for each in range(number)]}) for number in (1, 30)
        }

        assert cost_on_postgresql(counts, 11), counts

    def test_costs_the_same_for_30_that_wait(self, follower: StrategyAccount, settings: Settings) -> None:
        settings.QUEUE_LIMIT_CAP = 20
        post({"orders": [limit()] * 20})

        counts = {number: cost({"orders": [limit(80_000)] * number}) for number in (1, 30)}

        assert cost_on_postgresql(counts, WAITING), counts
        assert PendingOrder.objects.count() == 32  # the one that was there first too

    def test_costs_the_same_for_15_that_take_the_slots_of_others(
        self, follower: StrategyAccount, settings: Settings
    ) -> None:
        settings.QUEUE_LIMIT_CAP = 20
        post({"orders": [limit()] * 20})

        counts = {number: cost({"orders": [limit(90_000 + number)] * number}) for number in (1, 15)}

        assert cost_on_postgresql(counts, SWAPPING), counts
        assert OpenOrder.objects.filter(intent__price__gt=90_000).count() == 16

    def test_costs_at_most_4_more_for_a_further_book(self, follower: StrategyAccount) -> None:
        one_book = cost({"orders": [limit()] * 2})

        two_books = cost({"orders": [limit(), limit(2000, symbol="ETH/USDT")]})
        assert two_books - one_book <= 4

    def test_costs_at_most_4_more_for_a_further_account(self, follower: StrategyAccount) -> None:
        one_book = cost({"orders": [limit()] * 15})
        make_follower(follower.strategy, make_account("second"))
        warm()

        two_books = cost({"orders": [limit()] * 15})

        assert two_books - one_book <= 4

    def test_costs_the_same_when_30_are_refused(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        exchanges.of(follower).fails_with = errors.InsufficientFunds("no")

        counts = {number: cost({"orders": [limit()] * number}, status=400) for number in (1, 30)}

        assert cost_on_postgresql(counts, 11), counts

    def test_costs_the_same_when_30_cannot_be_sized(self, follower: StrategyAccount) -> None:
        too_small = limit(quantity="0.0001")

        found = {number: cost({"orders": [too_small] * number}, status=400) for number in (1, 30)}

        assert cost_on_postgresql(found, 5), found

    @pytest.mark.parametrize(("market", "statements"), [(FUTURES, 13), (SPOT, 14)])
    def test_costs_the_same_for_30_closes(
        self, follower: StrategyAccount, exchanges: Exchanges, market: str, statements: int
    ) -> None:
        make_position(follower, "100", market_type=market)
        part = CLOSE | {"order_type": "LIMIT", "price": "99000", "qty_per": -1, "market_type": market}
        cost(part)  # the market's book is made and remembered

        counts = {number: cost({"orders": [part] * number}) for number in (1, 30)}

        assert cost_on_postgresql(counts, statements), counts

    @pytest.mark.parametrize("kind", ["CANCEL", "CANCEL_ALL_ORDER"])
    def test_costs_the_same_for_30_cancels(self, follower: StrategyAccount, kind: str) -> None:
        counts = {}
        for number in (1, 30):
            post({"orders": [limit()] * number})
            placed = Placement.objects.order_by("-pk")[:number]
            cancels = [{"order_type": "CANCEL", "order_id": one.client_order_id} for one in placed]
            counts[number] = cost({"orders": cancels if kind == "CANCEL" else [{"order_type": kind}]})

        assert cost_on_postgresql(counts, 17), counts

    def test_costs_three_statements_at_most_to_be_refused(self, follower: StrategyAccount) -> None:
        assert cost(LIMIT | {"token": "wrong"}, status=401) <= 3
        assert cost(LIMIT | {"price": "-1"}, status=400) <= 3
