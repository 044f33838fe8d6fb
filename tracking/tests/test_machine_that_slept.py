"""A machine that sleeps after orders were written down: its clock stands still, the exchange's does not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from exchanges import access, runtime
from orders.clock import DatabaseClock, database_now
from orders.models import CancelReason, EventSource, Home, OpenOrder, Placement
from orders.services import submission
from orders.services.cancellation import CancelsSent
from orders.states import OrderStatus
from tracking.tests.test_on_simulator import Market, market

__all__ = ["market"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]
BOTH_STEPS: list[dict[str, Any]] = [{"order_type": "MARKET", "price": None}, {"price": Decimal(80000)}]


@contextmanager
def slept(market: Market, milliseconds: int = 60_000) -> Iterator[None]:
    """The world went on, and our monotonic clock did not."""
    market.simulator.set_clock_offset(milliseconds)
    try:
        yield
    finally:
        market.simulator.set_clock_offset(0)


def plan(market: Market) -> submission.Dispatch:
    """A webhook's orders, committed and not yet sent: two steps of one account."""
    clock = DatabaseClock(database_now())
    placements = market.write(*BOTH_STEPS)
    return submission.Dispatch(placements, {market.account.pk: market.account}, clock.at, clock)


def learn_clock(market: Market) -> None:
    exchange: Any = access.exchange_for(market.account, market.market_type)
    runtime.run(exchange._rest.read_clock(not_before=time.monotonic()), timeout=5)


def accepted(market: Market) -> dict[str, int]:
    found: dict[str, int] = market.simulator.ledger()["accepted"]
    return found


class TestOrdersPlannedBeforeTheSleep:
    def test_are_held_back_in_every_step(self, market: Market) -> None:
        learn_clock(market)
        work = plan(market)

        with slept(market):
            submission.dispatch(work)

        assert accepted(market) == {}
        for placement in Placement.objects.select_related("intent"):
            assert placement.intent.home != Home.EXCHANGE

    def test_are_held_back_by_a_process_that_has_not_asked_for_the_time_yet(self, market: Market) -> None:
        work = plan(market)

        with slept(market):
            submission.dispatch(work)

        assert accepted(market) == {}

    def test_are_held_back_where_the_sleep_was_noticed_before_they_were_sent(self, market: Market) -> None:
        learn_clock(market)
        work = plan(market)

        with slept(market):
            learn_clock(market)  # as who keeps connections warm does
            submission.dispatch(work)

        assert accepted(market) == {}

    def test_do_not_hold_back_those_planned_after_it(self, market: Market) -> None:
        learn_clock(market)
        work = plan(market)

        with slept(market):
            submission.dispatch(work)
            (placement,) = market.rest({"price": Decimal(80000)})
            assert accepted(market) == {placement.client_order_id: 1}


class TestCancelsPlannedBeforeTheSleep:
    @pytest.mark.parametrize(
        ("reason", "status"), [(CancelReason.MOVE_BACK, "NEW"), (CancelReason.REQUESTED, "CANCELED")]
    )
    def test_are_held_back_unless_they_were_asked_for(self, market: Market, reason: str, status: str) -> None:
        learn_clock(market)
        (placement,) = market.rest()
        clock = DatabaseClock(database_now())
        order = OpenOrder.objects.select_related("intent", "account").get()
        order.placement, order.status, order.cancel_reason = placement, OrderStatus.CANCELING, reason
        order.updated_at, order.ask_at = clock.read, clock.read + timedelta(seconds=10)
        order.save()

        with slept(market):
            CancelsSent([order], clock=clock).record(source=EventSource.ANSWER)

        (there,) = market.simulator.orders(client_order_id_prefix=placement.client_order_id)
        assert there["status"] == status
