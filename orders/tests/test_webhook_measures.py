"""What a webhook leaves behind for the figures: when its first order left, and how it was answered."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from exchanges import measures
from exchanges.adapters import exceptions as errors
from exchanges.adapters.departure import departures
from exchanges.windows import merged
from orders.models import StrategyAccount, WebhookDelivery
from orders.tests.factories import (
    LIMIT,
    MARKET,
    Exchanges,
    elsewhere,
    limit,
    make_account,
    make_follower,
    post,
    wait_until,
)
from orders.tests.test_webhook_door import request, signed

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def follower(exchanges: Exchanges) -> StrategyAccount:
    return make_follower()


@pytest.fixture(autouse=True)
def nothing_recent() -> Iterator[None]:
    measures.recent.forget()
    yield
    measures.recent.forget()


def recent(name: str) -> int:
    return sum(merged([measures.recent.windows()], now=time.time()).get(name, {}).values())


def leaves(exchanges: Exchanges, account: Any) -> list[bool]:
    """Have this account's exchange tell when orders leave, as the adapters do; return whether it could."""
    told: list[bool] = []

    async def leave(requests: Sequence[Any]) -> None:
        hear = departures.get()
        told.append(hear is not None)
        if hear is not None:
            hear(time.monotonic())

    exchange = exchanges.of(account)
    exchange.before_placing = exchange.before_cancelling = leave
    return told


class TestFirstByte:
    async def test_is_noted_with_the_delivery_once(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        told = leaves(exchanges, follower)

        status, _, body = await request(signed({"orders": [MARKET, LIMIT]}))

        timings = (await WebhookDelivery.objects.aget()).timings
        assert (status, told) == (200, [True, True])  # MARKET orders go first, in a call of their own
        assert timings["planned_ms"] <= timings["first_sent_ms"] <= timings["submitted_ms"]
        assert body["timing"]["first_sent_ms"] == timings["first_sent_ms"]

    async def test_is_heard_from_every_account_where_cancels_go_before(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        other = await elsewhere(lambda: make_follower(follower.strategy, make_account("other")))
        await elsewhere(lambda: post(limit(80_000)))
        told = [leaves(exchanges, one) for one in (follower, other)]

        await request(signed({"symbol": "BTC/USDT", "orders": [{"order_type": "CANCEL_ALL_ORDER"}, LIMIT]}))

        assert [set(one) for one in told] == [{True}, {True}]

    async def test_is_not_noted_where_nothing_left(self, follower: StrategyAccount) -> None:
        await request(signed(LIMIT | {"price": "nonsense"}))

        assert "first_sent_ms" not in (await WebhookDelivery.objects.aget()).timings
        wait_until(lambda: recent("webhook") == 1)
        assert recent("webhook_to_exchange") == 0


class TestCounting:
    async def test_counts_answers_by_status(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        def count(status: str) -> float:
            name = "tradehub_webhook_seconds_count"
            return measures.REGISTRY.get_sample_value(name, {"status": status}) or 0

        before = {status: count(status) for status in ("200", "400", "401")}
        leaves(exchanges, follower)
        await request(signed(LIMIT))
        await request(signed({"orders": []}))
        await request(b'{"group_name": "test1", "token": "wrong", "symbol": "BTC/USDT"}')

        wait_until(lambda: recent("webhook") == 3)
        assert {status: count(status) - before[status] for status in before} == {"200": 1, "400": 1, "401": 1}
        assert recent("webhook_to_exchange") == 1

    def test_counts_what_became_of_each_order(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        post({"orders": [limit(90_000), limit(90_001)]})
        exchanges.of(follower).fails_with = errors.InsufficientFunds("no money")
        post({"orders": [limit(90_002), limit(90_003), limit(90_004)]})

        assert (recent("submission:accepted"), recent("submission:refused")) == (2, 3)

    def test_counts_rebalances(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        from orders.services.queue import Rebalanced, totals

        totals.count(Rebalanced(duration_ms=12.5))

        assert recent("rebalance") == 1
