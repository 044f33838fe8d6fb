"""Stops that trigger, or are forgotten, at the worst moment; the simulator over real sockets."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db.models import F

from orders.clock import DatabaseClock, database_now
from orders.models import (
    CancelReason,
    EventSource,
    FailedOrder,
    Home,
    OpenOrder,
    OrderIntent,
    PendingOrder,
    Placement,
)
from orders.services.cancellation import CancelsSent, cancels_send
from orders.services.failures import TRIGGERED_MEANWHILE
from orders.states import OrderStatus
from tracking.reconciliation import reconcile_account
from tracking.resolver import resolve
from tracking.tests.making import SYMBOL, long_ago, open_order
from tracking.tests.test_on_simulator import Market, futures, market, position

__all__ = ["futures", "market"]  # fixtures

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(90)]

STOP_LIMIT = {"order_type": "STOP_LIMIT", "stop_price": Decimal(99000), "price": Decimal(98000)}


def moving_back(market: Market) -> OpenOrder:
    """A stop that rests and was just claimed for a better one."""
    market.rest(STOP_LIMIT)
    OrderIntent.objects.update(is_queued=True)
    now = database_now()
    OpenOrder.objects.update(
        status=OrderStatus.CANCELING,
        cancel_reason=CancelReason.MOVE_BACK,
        ask_at=now + timedelta(seconds=10),
        updated_at=now,
    )
    order = OpenOrder.objects.select_related("intent", "placement", "account").get()
    order.placement.intent = order.intent
    return order


def send_cancel(order: OpenOrder) -> None:
    CancelsSent([order], clock=DatabaseClock.ask()).record(source=EventSource.ANSWER)


def states_there(market: Market, order: OpenOrder) -> list[str]:
    rows = market.simulator.orders(client_order_id_prefix=order.placement.client_order_id)
    return [row["status"] for row in rows]


class TestTriggersWhileItIsMovedBack:
    @pytest.fixture
    def order(self, market: Market) -> OpenOrder:
        order = moving_back(market)
        market.simulator.set_price(SYMBOL, 99100)  # it triggers, and rests at 98000
        return order

    def test_or_not_and_then_it_waits_again(self, market: Market) -> None:
        order = moving_back(market)

        send_cancel(order)
        OpenOrder.objects.update(ask_at=long_ago())
        resolve()

        assert "NEW" not in states_there(market, order)
        assert not FailedOrder.objects.exists()
        is_placed_again = Placement.objects.filter(intent=order.pk).count() == 2  # it was first in the queue
        assert PendingOrder.objects.exists() or is_placed_again

    def test_and_lives_on_where_that_can_be_told(self, futures: Market) -> None:
        order = moving_back(futures)
        futures.simulator.set_price(SYMBOL, 99100)

        send_cancel(order)
        OpenOrder.objects.update(ask_at=long_ago())
        resolve()

        assert "NEW" in states_there(futures, order)
        found = open_order(order.placement)
        assert found is not None
        assert found.status == OrderStatus.NEW
        assert Placement.objects.get().has_triggered
        assert not PendingOrder.objects.exists()

    def test_and_never_waits_for_its_price_again(self, market: Market, order: OpenOrder) -> None:
        send_cancel(order)
        OpenOrder.objects.update(ask_at=long_ago())
        resolve()

        assert not PendingOrder.objects.exists()
        if market.market_type == "SPOT":  # one id: its cancel cannot tell the two apart
            assert FailedOrder.objects.get().reason == TRIGGERED_MEANWHILE
            assert OrderIntent.objects.get().home == Home.FAILED

    def test_and_is_canceled_all_the_same_when_somebody_asks(self, market: Market, order: OpenOrder) -> None:
        OrderIntent.objects.update(cancel_requested=True)

        cancels_send(intent_ids=[order.pk], source=EventSource.ANSWER, now=database_now())

        assert "NEW" not in states_there(market, order)
        assert OrderIntent.objects.get().home == Home.DONE

    def test_and_gives_up_what_an_earlier_placement_filled(self, futures: Market) -> None:
        """What rests would buy that part twice: better without it than twice."""
        order = moving_back(futures)
        futures.simulator.set_price(SYMBOL, 99100)
        order.intent.filled_quantity = Decimal("0.4")

        send_cancel(order)

        assert "NEW" not in states_there(futures, order)


class TestIsForgotten:
    def test_while_what_it_became_is_not(self, futures: Market) -> None:
        """The conditional order is not found any more; the order that it became is, and has filled."""
        futures.rest(STOP_LIMIT | {"price": Decimal(99500)})
        Placement.objects.update(created_at=long_ago(days=4))
        futures.simulator.set_price(SYMBOL, 99100)
        gone = {"method": "GET", "path": "/fapi/v1/algoOrder"}
        futures.simulator.add_fault("reject", status=400, code=-2013, times=None, match=gone)

        for _ in range(2):
            reconcile_account(account_id=futures.account.pk, market_type="FUTURES")
            OpenOrder.objects.update(updated_at=F("updated_at") - timedelta(minutes=1))

        assert position() == Decimal(1)
        assert OrderIntent.objects.get().home == Home.DONE
