"""The table of reconciliation, row by row, against an exchange on a socket; and what a run costs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from exchanges import access, runtime
from exchanges.adapters.types import OrderRef
from orders.clock import database_now
from orders.models import (
    Book,
    EventSource,
    EventType,
    FailedOrder,
    Home,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    Placement,
    Trade,
    TradeExecution,
)
from orders.services.settlement import apply_reports
from orders.states import OrderStatus
from tracking.differences import Disagreement
from tracking.reconciliation import Reconciled, reconcile_account
from tracking.sessions import sessions_ensure
from tracking.tests.making import SYMBOL, key_of, open_order, send, wait_until
from tracking.tests.test_on_simulator import Market, _by_hand, market, position

__all__ = ["market"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]
STOP = {"order_type": "STOP_LIMIT", "stop_price": Decimal(99000), "price": Decimal(99500)}
STOP_LIMIT = {"order_type": "STOP_LIMIT", "stop_price": Decimal(99000), "price": Decimal(98000)}
LIST_PATH = {"FUTURES": "/fapi/v1/openOrders", "SPOT": "/api/v3/openOrders"}


def reconcile(market: Market) -> Reconciled:
    return reconcile_account(account_id=market.account.pk, market_type=market.market_type)


def kinds(result: Reconciled) -> list[Disagreement]:
    assert result.errors == []
    return [one.kind for one in result.differences]


def requests(market: Market) -> Counter[str]:
    return Counter(market.simulator.ledger()["requests"])


class TestEachRow:
    def test_open_there_known_and_not_open_here_is_adopted_again(self, market: Market) -> None:
        (placement,) = market.rest()
        OpenOrder.objects.all().delete()
        OrderIntent.objects.update(home=Home.DONE)

        assert kinds(reconcile(market)) == [Disagreement.NOT_OPEN_HERE]

        order = open_order(placement)
        assert order is not None
        assert order.status == OrderStatus.NEW

    def test_open_there_known_and_not_open_here_is_left_if_it_has_ended_since(self, market: Market) -> None:
        """The list is old by the time it is read: only what the order says of itself now counts."""
        (placement,) = market.rest()
        OpenOrder.objects.all().delete()
        OrderIntent.objects.update(home=Home.DONE)
        with _slow_list(market) as running:
            market.cancel_by_hand(placement)
        assert kinds(running.result()) == [Disagreement.NOT_OPEN_HERE]
        assert open_order(placement) is None

    def test_open_there_and_not_ours_is_counted_shown_and_left_alone(self, market: Market) -> None:
        market.rest()
        _by_hand(market)

        assert kinds(reconcile(market)) == [Disagreement.EXTERNAL]

        assert Book.objects.get().external_limit_orders == 1
        assert OrderEvent.objects.filter(type=EventType.EXTERNAL).count() == 1
        assert market.simulator.order("by-hand-1")["status"] == "NEW"

    @pytest.mark.parametrize("order", [{}, STOP], ids=["limit", "stop"])
    def test_open_here_and_canceled_there_is_a_failed_order(
        self, market: Market, order: dict[str, Any]
    ) -> None:
        (placement,) = market.rest(order)
        if order:
            exchange = access.exchange_for(market.account, market.market_type)
            runtime.run(exchange.cancel_orders([placement.to_ref()]), timeout=5)
        else:
            market.cancel_by_hand(placement)

        assert kinds(reconcile(market)) == [Disagreement.NOT_OPEN_THERE]

        assert open_order(placement) is None
        assert FailedOrder.objects.get().status == "canceled"

    def test_open_here_and_filled_there_is_booked_and_finished(self, market: Market) -> None:
        (placement,) = market.rest()
        market.fill(placement, "0.4")
        market.fill(placement)

        assert kinds(reconcile(market)) == [Disagreement.NOT_OPEN_THERE]

        assert open_order(placement) is None
        assert (TradeExecution.objects.count(), Trade.objects.get().quantity) == (2, Decimal(1))
        event = OrderEvent.objects.latest("pk")
        assert (event.type, event.source) == (EventType.FILLED, EventSource.RECONCILIATION)

    def test_a_stop_that_triggered_and_filled_unheard_is_booked(self, market: Market) -> None:
        (placement,) = market.rest(STOP)
        market.simulator.set_price(SYMBOL, 99100)

        assert kinds(reconcile(market)) == [Disagreement.NOT_OPEN_THERE]

        assert open_order(placement) is None
        assert position() == Decimal(1)

    def test_a_stop_that_triggered_unheard_and_rests_is_known_to_have_triggered(self, market: Market) -> None:
        (placement,) = market.rest(STOP_LIMIT)
        market.simulator.set_price(SYMBOL, 99100)

        assert kinds(reconcile(market)) == [Disagreement.TRIGGERED]

        placement.refresh_from_db()
        assert placement.child_order_id
        assert kinds(reconcile(market)) == []

    def test_filled_more_than_we_know_is_booked(self, market: Market) -> None:
        (placement,) = market.rest()
        market.fill(placement, "0.4")

        assert kinds(reconcile(market)) == [Disagreement.FILLED_MORE]

        assert position() == Decimal("0.4")
        assert kinds(reconcile(market)) == []

    def test_same_writes_nothing(self, market: Market) -> None:
        sessions_ensure([key_of(market.account, market.market_type)])
        market.rest({}, STOP)
        reconcile(market)  # the first one brings what the stream would have told
        before = list(OpenOrder.objects.order_by("pk").values())
        events, placements = OrderEvent.objects.count(), list(Placement.objects.order_by("pk").values())

        with CaptureQueriesContext(connection) as queries:
            assert kinds(reconcile(market)) == []

        assert list(OpenOrder.objects.order_by("pk").values()) == before
        assert list(Placement.objects.order_by("pk").values()) == placements
        assert OrderEvent.objects.count() == events
        written = [one["sql"] for one in queries if one["sql"].startswith(("UPDATE", "INSERT", "DELETE"))]
        assert all("tracking_lease" in sql or "last_reconciled_at" in sql for sql in written), written

    def test_rows_that_changed_after_the_fetch_began_are_skipped(self, market: Market) -> None:
        """One ended and one arrived while the list was on its way: it opens and closes neither."""
        ended, staying = market.rest({}, {})
        (arriving,) = market.write()
        with _slow_list(market) as running:
            market.cancel_by_hand(ended)
            exchange = access.exchange_for(market.account, market.market_type)
            ref = OrderRef(symbol=SYMBOL, exchange_order_id=ended.exchange_order_id)
            heard = runtime.run(exchange.fetch_order(ref), timeout=5)
            apply_reports(
                account_id=market.account.pk, market_type=market.market_type, reports=[heard],
                source=EventSource.STREAM, now=database_now(),
            )  # fmt: skip
            send(market.account, [arriving])
            log = OrderEvent.objects.count()
        assert kinds(running.result()) == []
        assert open_order(ended) is None
        assert set(OpenOrder.objects.values_list("placement_id", "status")) == {
            (staying.pk, OrderStatus.NEW),
            (arriving.pk, OrderStatus.NEW),
        }
        assert OrderEvent.objects.count() == log


@contextmanager
def _slow_list(market: Market) -> Iterator[Any]:
    """Reconcile in a thread; the block runs while the exchange's list is made and not yet here."""
    path = LIST_PATH[market.market_type]
    market.simulator.add_fault("delay_after", seconds=1.5, match={"path": path})

    def run() -> Reconciled:
        try:
            return reconcile(market)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        wait_until(lambda: not market.simulator.faults())  # the list is made
        began = time.monotonic()
        yield running
        assert time.monotonic() - began < 1.5, "the list came before the test was done"
        running.result(20)


class TestCost:
    def test_is_the_same_for_two_orders_and_for_two_hundred(self, market: Market) -> None:
        """Queries and requests, limit orders and stops; a run without differences."""
        sessions_ensure([key_of(market.account, market.market_type)])
        orders = {"10S": 10_000, "1M": 100_000} if market.market_type == "FUTURES" else {"10S": 10_000}
        market.simulator.set_limits(orders=orders)
        exchange = access.exchange_for(market.account, market.market_type)
        runtime.run(exchange.load_instruments(), timeout=20)  # it learns these limits
        market.rest({}, STOP)
        reconcile(market)
        few, few_asked = self.measured(market)

        small = {"quantity": Decimal("0.1")}
        market.rest(*(small for _ in range(194)), *(STOP | small for _ in range(4)))
        reconcile(market)
        many, many_asked = self.measured(market)

        assert OpenOrder.objects.filter(status=OrderStatus.NEW).count() == 200
        assert many == few <= 14
        assert many_asked == few_asked
        assert sum(many_asked.values()) == (2 if market.market_type == "FUTURES" else 1)

    @staticmethod
    def measured(market: Market) -> tuple[int, Counter[str]]:
        before = requests(market)
        with CaptureQueriesContext(connection) as queries:
            assert kinds(reconcile(market)) == []
        return len(queries), requests(market) - before
