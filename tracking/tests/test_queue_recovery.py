"""The queue after a process died, an answer was lost or a stream was silent: who fills the slots then."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from exchanges.adapters import exceptions as errors
from exchanges.adapters.types import OrderRef, VenueOrderStatus
from orders.clock import database_now
from orders.models import (
    CancelReason,
    FailedOrder,
    Home,
    OpenOrder,
    OrderIntent,
    PendingOrder,
    Placement,
    StrategyAccount,
)
from orders.services.queue import sweep
from orders.states import OrderStatus
from orders.tests.conftest import _nothing_remembered, exchanges
from orders.tests.factories import (
    Exchanges,
    Gate,
    accepted_only,
    elsewhere,
    let_lease_end,
    limit,
    make_account,
    make_follower,
    post,
    wait_until,
)
from tracking.resolver import cancels_sweep, gaps_sweep, resolve
from tracking.tasks import deliveries_take_over
from tracking.tests.running import streams_process

__all__ = ["_nothing_remembered", "exchanges"]
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def follower(exchanges: Exchanges, settings: Settings) -> StrategyAccount:
    """A book with three slots, in which 90000, 90001 and 90002 rest."""
    settings.QUEUE_LIMIT_CAP = 3
    row = make_follower()
    assert post({"orders": [limit(90_000 + each, quantity="1") for each in range(3)]}).status == 200
    return row


def prices(rows: Any) -> list[int]:
    return sorted(int(price) for price in rows.values_list("intent__price", flat=True))


def resting() -> list[int]:
    return prices(OpenOrder.objects.filter(status__in=("NEW", "PARTIALLY_FILLED")))


def waiting() -> list[int]:
    return prices(PendingOrder.objects.all())


def placement_at(price: int) -> Placement:
    return Placement.objects.get(open_order__intent__price=price)


def let_deadlines_pass() -> None:
    """As if every placement was planned, and every cancel sent, long ago."""
    long_ago = database_now() - timedelta(seconds=120)
    OpenOrder.objects.exclude(ask_at=None).update(ask_at=long_ago)
    Placement.objects.update(send_by=long_ago)


class TestGapsSweep:
    def test_that_books_the_end_of_a_moved_back_order_fills_its_slot(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        fake = exchanges.of(follower)
        worst = placement_at(90_000)

        async def fill_a_part(refs: Any) -> None:
            fake.fill(worst.client_order_id, quantity=Decimal("0.4"), announce=False)

        fake.before_cancelling = fill_a_part
        executions = fake.fetch_executions

        async def none_yet(ref: OrderRef) -> list[Any]:
            return []

        fake.fetch_executions = none_yet  # type: ignore[method-assign]
        post(limit(95_000))
        assert (resting(), waiting()) == ([90_001, 90_002], [95_000])
        fake.fetch_executions = executions  # type: ignore[method-assign]

        assert gaps_sweep() == 1

        assert (resting(), waiting()) == ([90_001, 90_002, 95_000], [90_000])
        assert PendingOrder.objects.get().intent.remaining_quantity == Decimal("0.6")


class TestCancelsSweep:
    def test_fills_the_slots_that_it_frees(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        post(limit(80_000))
        assert waiting() == [80_000]
        OrderIntent.objects.filter(price=90_002).update(cancel_requested=True)  # and its process died

        assert cancels_sweep() == 1

        assert (resting(), waiting()) == ([80_000, 90_000, 90_001], [])


class TestProcessThatDied:
    def test_before_it_sent_what_it_had_moved_back(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        delivery = accepted_only(limit(95_000))
        order = OpenOrder.objects.get(intent__price=90_000)
        assert (order.status, order.cancel_reason) == (OrderStatus.CANCELING, CancelReason.MOVE_BACK)
        assert not exchanges.of(follower).cancelled

        let_lease_end(delivery)
        deliveries_take_over()
        let_deadlines_pass()
        resolve()

        assert (resting(), waiting()) == ([90_001, 90_002, 95_000], [90_000])
        assert len(exchanges.of(follower).submitted) == 4
        assert not FailedOrder.objects.exists()

    def test_after_its_cancel_was_carried_out(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        delivery = accepted_only(limit(95_000))
        exchanges.of(follower).end(
            placement_at(90_000).client_order_id, VenueOrderStatus.CANCELED, announce=False
        )
        let_lease_end(delivery)
        let_deadlines_pass()

        resolve()
        deliveries_take_over()

        assert (resting(), waiting()) == ([90_001, 90_002, 95_000], [90_000])


class TestProcessThatWasFrozen:
    """It has claimed an order that is to be moved back, and thaws when its cancel may not leave any more."""

    @pytest.fixture(autouse=True)
    def _impatient(self, follower: StrategyAccount, settings: Settings) -> None:
        settings.EXCHANGE_TIMEOUT_SECONDS = 0.3

    def test_leaves_alone_what_others_have_found_alive(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        fake = exchanges.of(follower)

        def others() -> None:
            fake.fill(placement_at(90_002).client_order_id, announce=False)  # its slot is the better one's
            OpenOrder.objects.update(ask_at=database_now() - timedelta(seconds=1))
            resolve()
            assert (resting(), waiting()) == ([90_000, 90_001, 95_000], [])

        async def freeze(refs: Any) -> None:
            fake.before_cancelling = None
            await asyncio.sleep(0.4)
            await elsewhere(others)

        fake.before_cancelling = freeze

        post(limit(95_000))

        assert [ref.client_order_id for call in fake.cancel_calls for ref in call] == [
            placement_at(90_000).client_order_id
        ]
        assert fake.cancelled == []
        assert (resting(), waiting()) == ([90_000, 90_001, 95_000], [])
        assert not FailedOrder.objects.exists()

    def test_leaves_it_to_be_found_alive_and_moved_back_anew(
        self, follower: StrategyAccount, exchanges: Exchanges, settings: Settings
    ) -> None:
        fake = exchanges.of(follower)

        async def freeze(refs: Any) -> None:
            fake.before_cancelling, settings.EXCHANGE_TIMEOUT_SECONDS = None, 10
            await asyncio.sleep(0.4)

        fake.before_cancelling = freeze

        post(limit(95_000))

        assert (resting(), waiting(), fake.cancelled) == ([90_001, 90_002], [95_000], [])
        assert OpenOrder.objects.get(status=OrderStatus.CANCELING).intent.price == 90_000
        wait_until(lambda: resolve() > 0, seconds=5)
        assert (resting(), waiting()) == ([90_001, 90_002, 95_000], [90_000])
        assert len(fake.cancelled) == 1
        assert not FailedOrder.objects.exists()

    def test_still_cancels_what_was_asked_for(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        fake = exchanges.of(follower)

        async def freeze(refs: Any) -> None:
            await asyncio.sleep(0.4)

        fake.before_cancelling = freeze

        post({"order_type": "CANCEL", "order_id": placement_at(90_002).client_order_id})

        assert len(fake.cancelled) == 1
        assert (resting(), waiting()) == ([90_000, 90_001], [])


class TestResolver:
    def test_sends_again_what_is_proven_absent(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        fake = exchanges.of(follower)

        async def never_arrives(requests: Any) -> None:
            fake.before_placing = None
            raise errors.OutcomeUnknown("read timed out")

        post({"order_type": "CANCEL", "order_id": placement_at(90_002).client_order_id})
        fake.before_placing = never_arrives
        answer = post(limit(94_000))
        assert answer.body["results"][0]["resolving"] is True
        first = placement_at(94_000)

        for _ in range(2):  # absence counts when it was told twice
            let_deadlines_pass()
            resolve()

        again = placement_at(94_000)
        assert (first.number, again.number) == (1, 2)
        assert (resting(), waiting()) == ([90_000, 90_001, 94_000], [])
        assert sum(one.client_order_id == again.client_order_id for one in fake.submitted) == 1
        assert not FailedOrder.objects.exists()

    def test_finds_what_was_to_be_moved_back_filled(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        fake = exchanges.of(follower)
        worst = placement_at(90_000)
        fake.fail_cancel(worst.client_order_id, errors.OutcomeUnknown("read timed out"))
        post(limit(95_000))
        assert waiting() == [95_000]
        fake.fill(worst.client_order_id, announce=False)
        let_deadlines_pass()

        resolve()

        assert (resting(), waiting()) == ([90_001, 90_002, 95_000], [])
        assert OrderIntent.objects.get(price=90_000).home == Home.DONE
        assert not FailedOrder.objects.exists()

    def test_finds_it_alive_and_moves_it_back_after_all(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        fake = exchanges.of(follower)
        worst = placement_at(90_000)
        fake.fail_cancel(worst.client_order_id, errors.OutcomeUnknown("read timed out"))
        post(limit(95_000))
        fake._cancel_failures.clear()
        let_deadlines_pass()

        resolve()
        sweep()

        assert (resting(), waiting()) == ([90_001, 90_002, 95_000], [90_000])
        assert len(fake.submitted) == 4


class TestStreamsProcess:
    def test_sends_what_is_due_while_another_account_does_not_answer(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        post({"order_type": "CANCEL", "order_id": placement_at(90_002).client_order_id})
        other = make_follower(follower.strategy, make_account("second"))
        for row in (follower, other):
            exchanges.of(row).fails_with = errors.RateLimited("Too many requests.", retry_after=60)
        post(limit(95_000))
        assert PendingOrder.objects.exclude(waits_until=None).count() == 2
        for row in (follower, other):
            exchanges.of(row).fails_with = None
        gate = Gate()
        exchanges.of(follower).before_placing = gate
        with streams_process():
            let_back_off_end(follower)
            try:
                assert gate.reached.wait(10)

                let_back_off_end(other)

                wait_until(lambda: OpenOrder.objects.filter(strategy_account=other, status="NEW"), seconds=3)
                assert OpenOrder.objects.filter(strategy_account=follower, status="SUBMITTING").exists()
            finally:
                gate.open()
            wait_until(
                lambda: OpenOrder.objects.filter(
                    strategy_account=follower, intent__price=95_000, status="NEW"
                )
            )


def let_back_off_end(row: StrategyAccount) -> None:
    ended = database_now() - timedelta(seconds=1)
    PendingOrder.objects.filter(strategy_account=row).exclude(waits_until=None).update(waits_until=ended)
