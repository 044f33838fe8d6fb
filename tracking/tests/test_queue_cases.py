"""The queue's eleven cases, from the webhook's bytes to a simulated exchange behind real sockets.

What rests is asked of the exchange itself, what waits is read from our rows, and whatever happened each
placement was accepted once.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from pytest_django.fixtures import Settings

from exchanges.simulator.testing import SimulatorProcess
from orders.models import (
    FailedOrder,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    PendingOrder,
    Placement,
    StrategyAccount,
    WebhookDelivery,
)
from orders.services.queue import rebalance
from orders.tests.conftest import _nothing_remembered
from orders.tests.factories import make_account, make_follower, post
from orders.webhook.answers import WebhookAnswer
from tracking.models import OrderTrackingSession, SessionStatus
from tracking.tests.making import wait_until
from tracking.tests.running import streams_process

__all__ = ["_nothing_remembered"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]

RESTING = {"NEW", "PARTIALLY_FILLED"}


def buy(price: int, quantity: str = "0.01") -> dict[str, Any]:
    return {"symbol": "BTC/USDT", "side": "buy", "order_type": "LIMIT", "price": str(price),
            "quantity": quantity}  # fmt: skip


def sell(price: int) -> dict[str, Any]:
    return buy(price) | {"side": "sell"}


def buys(start: int, number: int) -> list[dict[str, Any]]:
    """LIMIT buys at `number` prices from `start` upwards."""
    return [buy(start + each) for each in range(number)]


def prices(start: int, number: int) -> list[Decimal]:
    return [Decimal(start + each) for each in range(number)]


class Desk:
    """A strategy at the simulator, the accounts that follow it, and what each sees."""

    def __init__(self, simulator: SimulatorProcess) -> None:
        self.simulator = simulator
        self.main = self.open_account(make_follower())

    def open_account(self, follower: StrategyAccount) -> StrategyAccount:
        credentials = follower.account.credentials
        money = {"binance-futures": {"USDT": "10000000"}}
        self.simulator.add_account(credentials.api_key, credentials.api_secret, money)
        return follower

    def second(self) -> StrategyAccount:
        return self.open_account(make_follower(self.main.strategy, make_account("second")))

    def post(self, *orders: dict[str, Any]) -> dict[str, Any]:
        answer: WebhookAnswer = post({"orders": list(orders)})
        assert answer.status == 200, answer.body
        summary: dict[str, Any] = answer.body["summary"]
        return summary

    def resting(
        self, follower: StrategyAccount | None = None, *, side: str = "", conditional: bool = False
    ) -> list[Decimal]:
        """What rests at the exchange by its own account, by price."""
        api_key = (follower or self.main).account.credentials.api_key
        ledger = self.simulator.ledger(api_key=api_key)
        rows = ledger["conditional_orders" if conditional else "orders"]
        price = "stop_price" if conditional else "price"
        return sorted(
            Decimal(row[price]) for row in rows if row["status"] in RESTING and side in ("", row["side"])
        )

    def waiting(self, follower: StrategyAccount | None = None) -> list[Decimal]:
        rows = PendingOrder.objects.filter(strategy_account=follower or self.main)
        found = rows.order_by("intent__price").values_list("intent__price", flat=True)
        return [price for price in found if price is not None]

    def each_was_sent_once(self) -> None:
        """Every placement that stands written down was accepted once, and nothing else ever was."""
        accepted: Counter[str] = Counter(self.simulator.ledger()["accepted"])
        placed = Placement.objects.filter(outcome="PLACED").values_list("client_order_id", flat=True)
        assert accepted == Counter(placed)


@pytest.fixture
def desk(on_simulator: SimulatorProcess) -> Desk:
    return Desk(on_simulator)


@pytest.fixture
def full(desk: Desk) -> Desk:
    """20 LIMIT buys rest, from 90000 to 90019."""
    assert desk.post(*buys(90_000, 20))["exchange_submitted"] == 20
    return desk


def figures(summary: dict[str, Any]) -> tuple[int, int, int]:
    """What was sent out of the queue, what waits, what failed."""
    assert summary["executed_from_queue"] == summary["exchange_submitted"]
    return summary["exchange_submitted"], summary["remaining_in_queue"], summary["failed_orders"]


class TestCases:
    def test_1_the_twentieth_is_sent(self, desk: Desk) -> None:
        desk.post(*buys(90_000, 19))

        summary = desk.post(buy(80_000))

        assert figures(summary) == (1, 0, 0)
        assert desk.resting() == [Decimal(80_000), *prices(90_000, 19)]
        assert desk.waiting() == []
        desk.each_was_sent_once()

    def test_2_one_below_all_that_rest_waits(self, full: Desk) -> None:
        requests = full.simulator.ledger()["requests"]

        summary = full.post(buy(80_000))

        assert figures(summary) == (0, 1, 0)
        assert (full.resting(), full.waiting()) == (prices(90_000, 20), [Decimal(80_000)])
        assert full.simulator.ledger()["requests"] == requests  # nobody was asked anything
        full.each_was_sent_once()

    def test_2_one_at_the_price_of_the_worst_waits_too(self, full: Desk) -> None:
        assert figures(full.post(buy(90_000))) == (0, 1, 0)

        assert full.resting() == prices(90_000, 20)
        assert len(Placement.objects.all()) == 20

    def test_3_one_above_the_worst_takes_its_slot(self, full: Desk) -> None:
        summary = full.post(buy(90_500))

        assert figures(summary) == (1, 0, 0)
        assert full.resting() == [*prices(90_001, 19), Decimal(90_500)]
        assert full.waiting() == [Decimal(90_000)]
        back = PendingOrder.objects.get().intent
        assert (back.home, back.retry_count, back.remaining_quantity) == ("QUEUE", 0, Decimal("0.01"))
        assert list(OrderEvent.objects.filter(intent=back).order_by("pk").values_list("type", flat=True)) == [
            "SUBMITTING", "ACCEPTED", "CANCELING", "QUEUED",
        ]  # fmt: skip
        assert not FailedOrder.objects.exists()
        full.each_was_sent_once()

    def test_3_and_goes_back_when_a_slot_frees(self, full: Desk) -> None:
        full.post(buy(90_500))
        back = PendingOrder.objects.get().intent
        best = OrderIntent.objects.get(price=90_500)

        post({"order_type": "CANCEL", "order_id": best.uid})

        assert (full.resting(), full.waiting()) == (prices(90_000, 20), [])
        assert [one.number for one in back.placements.order_by("number")] == [1, 2]
        full.each_was_sent_once()

    def test_4_of_thirty_the_best_twenty_are_sent(self, desk: Desk) -> None:
        summary = desk.post(*buys(90_000, 30))

        assert figures(summary) == (20, 10, 0)
        assert (desk.resting(), desk.waiting()) == (prices(90_010, 20), prices(90_000, 10))
        assert Placement.objects.count() == 20
        desk.each_was_sent_once()

    def test_5_market_orders_go_at_once_beside_the_queue(self, desk: Desk) -> None:
        market = {"symbol": "BTC/USDT", "side": "buy", "order_type": "MARKET", "quantity": "0.01"}

        summary = desk.post(*[market] * 10, *buys(90_000, 20))

        assert figures(summary) == (20, 0, 0)
        assert (summary["immediate_orders"], summary["queued_orders"]) == (10, 20)
        assert summary["successful_orders"] == 30
        assert desk.resting() == prices(90_000, 20)
        assert Counter(row["type"] for row in desk.simulator.orders()) == {"MARKET": 10, "LIMIT": 20}
        desk.each_was_sent_once()

    def test_6_two_webhooks_at_the_same_instant_leave_the_right_ones(self, desk: Desk) -> None:
        batches = [buys(90_000, 25)[::2][:10], []]
        batches[1] = [one for one in buys(90_000, 25) if one not in batches[0]]
        assert [len(batch) for batch in batches] == [10, 15]
        start = threading.Barrier(2)
        answers: list[WebhookAnswer] = []

        def send(batch: list[dict[str, Any]]) -> None:
            try:
                start.wait(10)
                answers.append(post({"orders": batch}))
            finally:
                connection.close()

        threads = [threading.Thread(target=send, args=(batch,)) for batch in batches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert [answer.status for answer in answers] == [200, 200]
        assert (desk.resting(), desk.waiting()) == (prices(90_005, 20), prices(90_000, 5))
        desk.each_was_sent_once()

    def test_9_a_stop_has_a_lane_of_its_own(self, full: Desk) -> None:
        stop = {"symbol": "BTC/USDT", "side": "sell", "order_type": "STOP_MARKET", "stop_price": "80000",
                "quantity": "0.01"}  # fmt: skip

        summary = full.post(stop)

        assert figures(summary) == (1, 0, 0)
        assert full.resting() == prices(90_000, 20)
        assert full.resting(conditional=True) == [Decimal(80_000)]
        full.each_was_sent_once()

    def test_9_of_eight_stops_the_five_with_the_nearest_triggers_are_sent(self, full: Desk) -> None:
        stops = [
            {"symbol": "BTC/USDT", "side": "sell", "order_type": "STOP_MARKET",
             "stop_price": str(80_000 + each), "quantity": "0.01"}
            for each in range(8)
        ]  # fmt: skip

        summary = full.post(*stops)

        assert figures(summary) == (5, 3, 0)
        assert full.resting(conditional=True) == prices(80_003, 5)
        assert full.resting() == prices(90_000, 20)
        full.each_was_sent_once()

    def test_10_both_sides_hold_slots(self, desk: Desk) -> None:
        assert figures(desk.post(*buys(90_000, 30))) == (20, 10, 0)

        summary = desk.post(*[sell(99_000 + each) for each in range(5)])

        assert figures(summary) == (5, 0, 0)
        assert desk.resting(side="SELL") == prices(99_000, 5)
        assert desk.resting(side="BUY") == prices(90_015, 15)
        assert desk.waiting() == prices(90_000, 15)
        assert not FailedOrder.objects.exists()
        desk.each_was_sent_once()


class TestCase7:
    """Planning fails: the database refuses, in the middle of the transaction."""

    def spoil(self) -> None:
        """Let the next read of what waits fail by the database's own words."""
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE orders_pendingorder RENAME TO orders_pendingorder_away")

    def mend(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE orders_pendingorder_away RENAME TO orders_pendingorder")

    @pytest.fixture
    def spoiled(self, full: Desk) -> Iterator[Desk]:
        self.spoil()
        try:
            yield full
        finally:
            self.mend()

    def test_nothing_waits_and_nothing_was_sent(self, spoiled: Desk) -> None:
        orders = spoiled.simulator.orders()
        deliveries = WebhookDelivery.objects.count()

        answer = post({"orders": [buy(80_000), buy(95_000 - 1)], "webhook_id": "again"})

        assert (answer.status, answer.body["success"]) == (503, False)
        assert "nothing was done" in answer.body["error"]
        assert spoiled.simulator.orders() == orders
        assert (OrderIntent.objects.count(), Placement.objects.count()) == (20, 20)
        assert WebhookDelivery.objects.count() == deliveries

        self.mend()
        try:
            assert not PendingOrder.objects.exists()
            assert set(OpenOrder.objects.values_list("status", flat=True)) == {"NEW"}
            again = post({"orders": [buy(80_000), buy(95_000 - 1)], "webhook_id": "again"})
        finally:
            self.spoil()  # what `spoiled` mends
        assert figures(again.body["summary"]) == (1, 1, 0)


class TestCase8:
    def test_five_refused_of_thirty_at_one_of_two_accounts(self, desk: Desk, settings: Settings) -> None:
        settings.QUEUE_LIMIT_CAP = 30
        second = desk.second()
        enough_for_25 = Decimal(25 * 904) / second.leverage
        key = second.account.credentials.api_key
        desk.simulator.set_balances(key, {"binance-futures": {"USDT": str(enough_for_25)}})

        answer = post({"orders": buys(90_000, 30)})

        summary = answer.body["summary"]
        assert (answer.status, figures(summary)) == (200, (55, 0, 5))
        assert (summary["accounts"], summary["queued_orders"], summary["successful_orders"]) == (2, 60, 55)
        assert desk.resting() == prices(90_000, 30)
        assert len(desk.resting(second)) == 25
        failed = FailedOrder.objects.all()
        assert {(one.strategy_account, one.error_type) for one in failed} == {
            (second, "insufficient_balance")
        }
        assert len(failed) == 5
        assert not PendingOrder.objects.exists()
        desk.each_was_sent_once()


class TestCase11:
    def test_the_best_waiting_one_takes_a_filled_ones_slot_within_a_second(self, full: Desk) -> None:
        full.post(buy(80_000), buy(80_001))
        filled = OpenOrder.objects.get(intent__price=90_007)
        with streams_process():
            wait_until(is_followed)

            full.simulator.fill(filled.placement.client_order_id)
            started = time.monotonic()
            wait_until(lambda: Decimal(80_001) in full.resting(), seconds=5)

            assert time.monotonic() - started < 1
            wait_until(lambda: full.waiting() == [Decimal(80_000)], seconds=2)
            wait_until(lambda: OrderIntent.objects.get(price=80_001).home == "EXCHANGE", seconds=2)
        assert len(full.resting()) == 20
        assert OrderIntent.objects.get(pk=filled.pk).home == "DONE"
        full.each_was_sent_once()


def is_followed() -> bool:
    row = OrderTrackingSession.objects.first()
    return row is not None and row.status == SessionStatus.CONNECTED and row.last_reconciled_at is not None


class TestRebalance:
    def test_tells_what_it_did(self, full: Desk, settings: Settings) -> None:
        full.post(*buys(80_000, 3))
        settings.QUEUE_LIMIT_CAP = 22

        run = rebalance(book_ids=[OpenOrder.objects.values_list("book_id", flat=True)[0]])

        told = run.as_json()
        assert told.pop("duration_ms") > 0
        assert told == {"success": True, "executed": 2, "canceled": 0, "failed_orders": []}
        assert full.waiting() == [Decimal(80_000)]
        full.each_was_sent_once()
