"""Every way in which the outcome of a submission gets lost, at both markets, against an exchange on a socket.

What counts at the end is the exchange's ledger: no order lives twice, none is forgotten.
"""

from __future__ import annotations

import time
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db.models import F
from pytest_django.fixtures import Settings

from exchanges import access, runtime
from exchanges.adapters.types import OrderReport
from orders.clock import database_now
from orders.models import (
    EventSource,
    FailedOrder,
    Home,
    OpenOrder,
    OrderIntent,
    PendingOrder,
    Placement,
    PlacementOutcome,
)
from orders.services.cancellation import cancels_send
from orders.states import OrderStatus
from tracking.resolver import resolve
from tracking.tests.making import long_ago, open_order, send
from tracking.tests.test_on_simulator import Market, futures, market, position

__all__ = ["futures", "market"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]

LIMIT: dict[str, Any] = {}
STOP = {"order_type": "STOP_LIMIT", "stop_price": Decimal(99000), "price": Decimal(99500)}
MARKET = {"order_type": "MARKET", "price": None}
KINDS = {"limit": LIMIT, "stop": STOP, "market": MARKET}
UNKNOWN = '{"code":-1007,"msg":"Timeout waiting for response from backend server."}'
# The order is there, and we were not told.
THERE: dict[str, dict[str, Any]] = {
    "reset after acceptance": {"kind": "drop_answer"},
    "time-out after acceptance": {"kind": "delay_after", "seconds": 3},
    "5xx": {"kind": "status", "status": 502, "body": "<html>Bad Gateway</html>", "stage": "after"},
    "unreadable answer": {"kind": "status", "status": 200, "body": "<html>welcome</html>", "stage": "after"},
    "status unknown": {"kind": "status", "status": 504, "body": UNKNOWN, "stage": "after"},
}
# Nothing is there, and we cannot know.
NOT_THERE: dict[str, dict[str, Any]] = {
    "time-out before acceptance": {"kind": "delay_before", "seconds": 3},
    "reset before acceptance": {"kind": "drop_answer", "stage": "before"},
    "5xx": {"kind": "status", "status": 502, "body": "<html>Bad Gateway</html>", "stage": "before"},
    "unreadable answer": {"kind": "status", "status": 200, "body": "<html>welcome</html>", "stage": "before"},
    "status unknown": {"kind": "status", "status": 504, "body": UNKNOWN, "stage": "before"},
}


@pytest.fixture(autouse=True)
def _impatient(settings: Settings) -> None:
    settings.EXCHANGE_TIMEOUT_SECONDS = 0.7


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    return KINDS[request.param]


def lose(market: Market, placement: Placement, fault: dict[str, Any]) -> None:
    """Send an order while the exchange has this fault, and find that nobody knows."""
    market.simulator.add_fault(**fault, match={"method": "POST"})
    send(market.account, [placement])
    order = open_order(placement)
    assert order is not None
    assert order.status == OrderStatus.SUBMITTING
    assert order.ask_at is not None


def write(market: Market, kind: dict[str, Any], *, queued: bool = False) -> Placement:
    (placement,) = market.write(kind)
    OrderIntent.objects.update(is_queued=queued)
    placement.intent.is_queued = queued
    return placement


def let_time_pass() -> None:
    """As if it was planned so long ago that no request can be accepted any more."""
    OpenOrder.objects.update(ask_at=long_ago(seconds=1))
    Placement.objects.update(send_by=long_ago(seconds=60))


def is_adopted(market: Market, placement: Placement, kind: dict[str, Any]) -> None:
    ledger = market.simulator.ledger()
    assert ledger["accepted"] == {placement.client_order_id: 1}
    if kind is MARKET:
        assert OpenOrder.objects.exists() is False
        assert position() == Decimal(1)
    else:
        order = open_order(placement)
        assert order is not None
        assert (order.status, order.ask_at) == (OrderStatus.NEW, None)
    assert FailedOrder.objects.exists() is False


class TestAnOrderThatIsThere:
    @pytest.mark.parametrize("fault", THERE)
    def test_is_adopted(self, market: Market, kind: dict[str, Any], fault: str) -> None:
        placement = write(market, kind)
        lose(market, placement, THERE[fault])
        OpenOrder.objects.update(ask_at=long_ago(seconds=1))

        assert resolve() == 1

        is_adopted(market, placement, kind)

    def test_is_adopted_although_its_process_died_before_it_heard(
        self, market: Market, kind: dict[str, Any]
    ) -> None:
        placement = write(market, kind)
        exchange = access.exchange_for(market.account, market.market_type)
        request = placement.to_request(planned_at_monotonic=time.monotonic(), send_by_monotonic=None)
        (placed,) = runtime.run(exchange.place_orders([request]), 5)
        assert isinstance(placed, OrderReport)
        let_time_pass()

        assert resolve() == 1

        is_adopted(market, placement, kind)

    def test_is_adopted_when_it_is_sent_again_and_called_a_duplicate(self, futures: Market) -> None:
        """Futures burn no id, but two requests under one id are one order: the second one is refused."""
        placement = write(futures, LIMIT)
        exchange = access.exchange_for(futures.account, futures.market_type)
        request = placement.to_request(planned_at_monotonic=time.monotonic(), send_by_monotonic=None)
        runtime.run(exchange.place_orders([request]), 5)
        send(futures.account, [placement])
        order = open_order(placement)
        assert order is not None
        assert order.status == OrderStatus.SUBMITTING
        OpenOrder.objects.update(ask_at=long_ago(seconds=1))

        assert resolve() == 1

        is_adopted(futures, placement, LIMIT)

    def test_is_canceled_when_that_was_asked_for_meanwhile(self, market: Market) -> None:
        placement = write(market, LIMIT, queued=True)
        lose(market, placement, THERE["5xx"])
        OrderIntent.objects.update(cancel_requested=True)
        OpenOrder.objects.update(ask_at=long_ago(seconds=1))

        resolve()

        assert market.simulator.order(placement.client_order_id)["status"] == "CANCELED"
        assert OrderIntent.objects.get().home == Home.DONE
        assert PendingOrder.objects.exists() is False


class TestAnOrderThatIsNotThere:
    @pytest.mark.parametrize("fault", NOT_THERE)
    @pytest.mark.parametrize(
        ("kind", "queued"),
        [(LIMIT, False), (LIMIT, True), (STOP, False), (STOP, True), (MARKET, False)],
        ids=["limit", "queued limit", "stop", "queued stop", "market"],
    )
    def test_is_believed_the_second_time(
        self, market: Market, kind: dict[str, Any], fault: str, queued: bool
    ) -> None:
        placement = write(market, kind, queued=queued)
        lose(market, placement, NOT_THERE[fault])
        let_time_pass()

        resolve()
        order = open_order(placement)
        assert order is not None
        assert (order.status, order.not_found_count) == (OrderStatus.SUBMITTING, 1)
        let_time_pass()
        resolve()

        placement.refresh_from_db()
        assert placement.outcome == PlacementOutcome.NEVER_PLACED
        if queued:
            self.is_back_in_the_queue(market, placement)
        else:
            failed = FailedOrder.objects.get()
            assert (failed.reason, failed.quantity) == ("Never placed on the exchange", Decimal(1))
            assert market.simulator.ledger()["accepted"] == {}

    @staticmethod
    def is_back_in_the_queue(market: Market, placement: Placement) -> None:
        """From where it is sent under a new id, once; never under the old one."""
        assert FailedOrder.objects.exists() is False
        accepted = market.simulator.ledger()["accepted"]
        assert placement.client_order_id not in accepted
        intent = OrderIntent.objects.get()
        if intent.home == Home.QUEUE:
            assert accepted == {}
        else:
            assert intent.home == Home.EXCHANGE
            assert accepted == {placement.client_order_id[:-4] + "0002": 1}

    @pytest.mark.parametrize("queued", [False, True], ids=["immediate", "queued"])
    def test_is_done_when_its_cancel_was_asked_for(self, market: Market, queued: bool) -> None:
        placement = write(market, LIMIT, queued=queued)
        lose(market, placement, NOT_THERE["5xx"])
        OrderIntent.objects.update(cancel_requested=True)
        for _ in range(2):
            let_time_pass()
            resolve()

        assert OrderIntent.objects.get().home == Home.DONE
        assert FailedOrder.objects.exists() is False
        assert PendingOrder.objects.exists() is False
        assert market.simulator.ledger()["accepted"] == {}

    def test_is_not_believed_before_its_request_is_void(self, market: Market, kind: dict[str, Any]) -> None:
        """The process died before it sent, or is frozen right before: it may still send."""
        write(market, kind)
        for _ in range(3):
            OpenOrder.objects.update(ask_at=long_ago(seconds=1))
            resolve()
        order = OpenOrder.objects.get()
        assert (order.status, order.not_found_count) == (OrderStatus.SUBMITTING, 0)


class TestACancelPastItsDeadline:
    def canceling(self, market: Market, fault: dict[str, Any], kind: dict[str, Any]) -> Placement:
        (placement,) = market.rest(kind)
        OrderIntent.objects.update(cancel_requested=True)
        market.simulator.add_fault(**fault, match={"method": "DELETE"})
        cancels_send(intent_ids=[placement.intent_id], source=EventSource.WEBHOOK, now=database_now())
        order = open_order(placement)
        assert order is not None
        assert order.status == OrderStatus.CANCELING
        OpenOrder.objects.update(ask_at=F("ask_at") - timedelta(minutes=1))
        return placement

    @pytest.mark.parametrize("kind", [LIMIT, STOP], ids=["limit", "stop"])
    @pytest.mark.parametrize("faults", [THERE, NOT_THERE], ids=["arrived", "lost"])
    def test_is_settled_whether_it_arrived_or_not(
        self, market: Market, kind: dict[str, Any], faults: dict[str, dict[str, Any]]
    ) -> None:
        placement = self.canceling(market, faults["5xx"], kind)

        resolve()

        assert open_order(placement) is None
        assert OrderIntent.objects.get().home == Home.DONE
        ledger = market.simulator.ledger()
        rows = [*ledger["orders"], *ledger["conditional_orders"]]
        assert {row["status"] for row in rows} == {"CANCELED"}
        assert FailedOrder.objects.exists() is False

    def test_counts_what_filled_on_the_way(self, market: Market) -> None:
        placement = self.canceling(market, NOT_THERE["5xx"], LIMIT)
        market.fill(placement, "0.4")

        resolve()

        assert open_order(placement) is None
        assert position() == Decimal("0.4")
        assert market.simulator.order(placement.client_order_id)["status"] == "CANCELED"
