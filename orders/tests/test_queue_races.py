"""The queue where two processes, two answers or two rules meet: nothing twice, for ever or for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connections
from pytest_django.fixtures import Settings

from exchanges.adapters import exceptions as errors
from exchanges.adapters.types import VENUE_CLOSED, OrderRef, OrderRequest
from orders.clock import database_now
from orders.models import (
    EventSource,
    FailedOrder,
    OpenOrder,
    PendingOrder,
    Placement,
    PlacementOutcome,
    Strategy,
    StrategyAccount,
)
from orders.models.intent import client_order_id
from orders.services import intake
from orders.services.deliveries import take_over
from orders.services.failed_orders import failed_orders_retry_due
from orders.services.queue import due_run, errands_run, sweep
from orders.services.settlement import never_placed
from orders.states import OrderStatus
from orders.tests.factories import (
    Exchanges,
    Gate,
    SideBySide,
    accepted_only,
    elsewhere,
    incoming,
    let_lease_end,
    limit,
    make_follower,
    make_strategy,
    pass_the_queue_by,
    post,
    wait_until,
)
from orders.tests.test_queue import (
    ended,
    hear,
    hear_and_follow_up,
    intent_at,
    ladder,
    let_back_off_end,
    place,
    refuse_first,
    resting,
    the_placement,
    waiting,
)
from orders.webhook.answers import WebhookAnswer

pytestmark = pytest.mark.django_db(transaction=True)


def block(follower: StrategyAccount) -> None:
    """Let a guard deny from now on whatever this strategy has waiting."""
    row = Strategy.objects.get(pk=follower.strategy_id)
    row.symbol_blocklist = ["BTC/USDT"]
    row.save()


@pytest.fixture
def follower(exchanges: Exchanges, settings: Settings) -> StrategyAccount:
    settings.QUEUE_LIMIT_CAP = 3
    return make_follower()


class TestTakeOver:
    def test_sends_nothing_again_that_another_process_took_from_the_queue(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        fake = exchanges.of(follower)
        place(*ladder(3))
        delivery = accepted_only(limit(80_000))  # it waits; its process dies
        name = client_order_id(intent_at(80_000).uid, 1)
        fake.lose_answer(name, errors.OutcomeUnknown("read timed out"))
        hear_and_follow_up(follower, ended(exchanges, follower, 90_002))
        assert OpenOrder.objects.get(intent__price=80_000).status == OrderStatus.SUBMITTING
        fake.fill(name, announce=False)  # then the exchange would take its id once more
        let_lease_end(delivery)

        take_over(delivery.pk)

        assert sum(one.client_order_id == name for one in fake.submitted) == 1

    def test_fills_the_slots_that_its_cancels_free(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        place(*ladder(4))
        assert waiting() == [90_000]
        delivery = accepted_only({"order_type": "CANCEL", "order_id": intent_at(90_003).uid})
        let_lease_end(delivery)

        take_over(delivery.pk)

        assert (resting(), waiting()) == ([90_000, 90_001, 90_002], [])


class TestAccountFull:
    """The exchange takes no more orders of the whole account."""

    @pytest.fixture
    def asked(self, follower: StrategyAccount, exchanges: Exchanges) -> list[int]:
        """Two orders rest in BTC/USDT and fill the account; counts what it is asked to take besides."""
        place(*ladder(2))
        fake, numbers = exchanges.of(follower), [0]

        async def refuse(requests: Sequence[OrderRequest]) -> None:
            numbers[0] += len(requests)
            room = 2 - sum(one.status == "NEW" for one in fake.orders.values())
            for request in requests[max(0, room) :]:
                full = errors.TooManyOpenOrders("Reach max open orders.", account_wide=True)
                fake.fail(request.client_order_id, full)

        fake.before_placing = refuse
        return numbers

    def test_is_not_asked_again_and_again(self, asked: list[int]) -> None:
        place(*[limit(2_000 + each, symbol="ETH/USDT") for each in range(5)])

        assert asked == [3]  # as many as the lane holds; then it is known

    def test_gives_one_slot_that_frees_to_one_order(
        self, follower: StrategyAccount, exchanges: Exchanges, asked: list[int]
    ) -> None:
        place(*[limit(2_000 + each, symbol="ETH/USDT") for each in range(5)])
        asked[0] = 0

        hear_and_follow_up(follower, ended(exchanges, follower, 90_001))

        assert resting() == [2_004, 90_000]
        assert asked == [2]  # and the next best, which shows that it is full again


class TestCancelThatIsRefused:
    def test_is_not_sent_again_with_every_look_and_the_next_worst_gives_way(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        fake = exchanges.of(follower)
        place(*ladder(3))
        worst = the_placement(90_000)
        fake.fail_cancel(worst.client_order_id, errors.InvalidOrder("not now"))
        place(limit(95_000))
        assert waiting() == [95_000]

        for _ in range(3):
            alive = fake.orders[worst.exchange_order_id]
            errands_run(hear(follower, alive, source=EventSource.RESOLVER), source=EventSource.RESOLVER)

        asked = [ref.client_order_id for call in fake.cancel_calls for ref in call]
        assert asked.count(worst.client_order_id) == 1
        assert (resting(), waiting()) == ([90_000, 90_002, 95_000], [90_001])

        OpenOrder.objects.update(updated_at=database_now() - timedelta(seconds=11))
        sweep()
        asked = [ref.client_order_id for call in fake.cancel_calls for ref in call]
        assert asked.count(worst.client_order_id) == 2  # 90,001 is better: it is tried again, later


class TestOrderThatLivesBesideItsSuccessor:
    def test_is_canceled_and_what_it_filled_counts(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        fake = exchanges.of(follower)

        async def lose(requests: Sequence[OrderRequest]) -> None:
            for request in requests:
                if request.client_order_id.endswith("0001"):
                    fake.lose_answer(request.client_order_id, errors.OutcomeUnknown("read timed out"))

        fake.before_placing = lose
        place(limit(90_000) | {"quantity": "1"})
        first = Placement.objects.get()
        absent = never_placed(
            placement_ids=[first.pk], source=EventSource.RESOLVER, now=database_now(), reason="not there"
        )
        errands_run(absent, source=EventSource.RESOLVER)
        second = Placement.objects.get(number=2)
        fake.fill(first.client_order_id, quantity=Decimal("0.4"), announce=False)
        there = next(one for one in fake.orders.values() if one.client_order_id == first.client_order_id)

        errands_run(
            hear(follower, there, source=EventSource.RECONCILIATION), source=EventSource.RECONCILIATION
        )

        alive = [one for one in fake.orders.values() if one.status not in VENUE_CLOSED]
        assert [one.quantity for one in alive] == [Decimal("0.6")]
        asked = {ref.client_order_id for call in fake.cancel_calls for ref in call}
        assert asked == {first.client_order_id, second.client_order_id}
        assert Placement.objects.get(pk=first.pk).intent.filled_quantity == Decimal("0.4")


class TestCancelThatComesLate:
    def test_of_an_order_found_alive_meanwhile_puts_it_back_into_the_queue(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        fake = exchanges.of(follower)
        place(*[one | {"quantity": "1"} for one in ladder(3)])
        worst = the_placement(90_000)

        async def found_alive(refs: Sequence[OrderRef]) -> None:
            """The limiter holds the cancel; a part fills, and reconciliation fetches the order."""
            report = fake.fill(worst.client_order_id, quantity=Decimal("0.4"), announce=False)
            await elsewhere(lambda: hear(follower, report, source=EventSource.RECONCILIATION))

        fake.before_cancelling = found_alive

        place(limit(95_000))

        assert not FailedOrder.objects.exists()
        assert waiting() == [90_000]
        assert PendingOrder.objects.get().intent.remaining_quantity == Decimal("0.6")


class TestShrinkThatFailed:
    def test_is_tried_again_when_the_order_is_found_alive(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        fake = exchanges.of(follower)
        place(*[one | {"quantity": "1"} for one in ladder(3)])
        first = the_placement(90_000)
        place(limit(95_000))
        post({"order_type": "CANCEL", "order_id": intent_at(95_000).uid})
        second = the_placement(90_000)
        assert second.number == 2
        fake.fail_cancel(second.client_order_id, errors.OutcomeUnknown("read timed out"))
        late = fake.fill(first.client_order_id, quantity=Decimal("0.4"), announce=False)
        hear_and_follow_up(follower, late)
        assert OpenOrder.objects.get(intent__price=90_000).status == OrderStatus.CANCELING
        fake._cancel_failures.clear()

        report = fake.orders[Placement.objects.get(pk=second.pk).exchange_order_id]
        errands_run(hear(follower, report, source=EventSource.RESOLVER), source=EventSource.RESOLVER)

        live = [
            one
            for one in fake.orders.values()
            if one.price == 90_000 and one.client_order_id != first.client_order_id and one.status == "NEW"
        ]
        assert [one.quantity for one in live] == [Decimal("0.6")]


class TestSurplusOfAProcessThatDied:
    def test_is_taken_back_when_the_resolver_asks(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        fake = exchanges.of(follower)
        place(*[one | {"quantity": "1"} for one in ladder(3)])
        first = the_placement(90_000)
        place(limit(95_000))
        post({"order_type": "CANCEL", "order_id": intent_at(95_000).uid})
        second = the_placement(90_000)
        hear(follower, fake.fill(first.client_order_id, quantity=Decimal("0.4"), announce=False))  # and died
        order = OpenOrder.objects.get(intent__price=90_000)
        assert (order.status, order.placement_id) == (OrderStatus.NEW, second.pk)
        assert order.ask_at is not None

        report = fake.orders[Placement.objects.get(pk=second.pk).exchange_order_id]
        errands_run(hear(follower, report, source=EventSource.RESOLVER), source=EventSource.RESOLVER)

        assert the_placement(90_000).quantity == Decimal("0.6")


class TestGuardHeld:
    @pytest.fixture
    def other(self, follower: StrategyAccount) -> StrategyAccount:
        """Another strategy in the same books."""
        return make_follower(make_strategy("other", token="another-token"), follower.account)

    def test_does_not_cost_others_their_slots(
        self, follower: StrategyAccount, other: StrategyAccount, exchanges: Exchanges
    ) -> None:
        place(*ladder(3), group_name="other", token="another-token")
        place(*ladder(4, start=94_999))
        block(follower)
        for price in (95_000, 95_001, 95_002):
            hear_and_follow_up(follower, ended(exchanges, follower, price))
        assert (resting(), waiting()) == ([90_000, 90_001, 90_002], [94_999])
        before = len(exchanges.of(follower).cancelled)

        for _ in range(3):
            let_back_off_end()
            due_run()

        assert (resting(), waiting()) == ([90_000, 90_001, 90_002], [94_999])
        assert len(exchanges.of(follower).cancelled) == before

    def test_does_not_keep_others_from_the_slots_behind_it(
        self, follower: StrategyAccount, other: StrategyAccount, exchanges: Exchanges
    ) -> None:
        place(*ladder(3, start=96_000))
        place(*ladder(6, start=95_000))  # more than are looked at once
        place(*ladder(3), group_name="other", token="another-token")
        block(follower)

        hear_and_follow_up(follower, ended(exchanges, follower, 96_000))

        assert resting() == [90_002, 96_001, 96_002]


class TestSwitch:
    def test_flipped_before_sending_holds_what_the_webhook_took_for_another_strategy(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        other = make_follower(make_strategy("other", token="another-token"), follower.account)
        place(*ladder(4), group_name="other", token="another-token")
        hear(follower, ended(exchanges, follower, 90_003))  # and nobody filled its slot yet
        webhook = intake._Intake(incoming(limit(50_000)))
        accepted = webhook.accept()
        assert [placement.intent_id for placement in accepted.placements] == [intent_at(90_000).pk]
        row = Strategy.objects.get(pk=other.strategy_id)
        row.kill_switch = True
        row.save()

        webhook.carry_out(accepted)

        assert 90_000 not in [int(one.price or 0) for one in exchanges.of(follower).submitted]
        assert 90_000 in waiting()


class TestConnection:
    @pytest.mark.parametrize("with_a_submission", [False, True])
    def test_is_given_back_while_a_cancel_is_answered_slowly(
        self, follower: StrategyAccount, exchanges: Exchanges, with_a_submission: bool
    ) -> None:
        place(*ladder(3))
        if with_a_submission:  # its answer is recorded while the cancel is still on its way
            hear(follower, ended(exchanges, follower, 90_002))
        gate = Gate()
        exchanges.of(follower).before_cancelling = gate
        orders = [limit(95_000 + each) for each in range(2)]
        held: list[Any] = []

        def send() -> WebhookAnswer:
            held.append(connections["default"])
            return post({"orders": orders})

        with SideBySide() as threads:
            answer = threads.start(send)
            try:
                assert gate.reached.wait(10)
                wait_until(lambda: held[0].connection is None)
            finally:
                gate.open()
            assert answer.result(10).status == 200


class TestScheduledRetries:
    def test_that_have_to_wait_do_not_keep_others_from_theirs(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        pass_the_queue_by()
        refuse_first(exchanges, follower, 31, errors.InsufficientFunds("Balance is insufficient."))
        assert post({"orders": ladder(30)}).status == 400
        assert post(limit(80_000)).status == 400
        Placement.objects.exclude(intent__price=80_000).update(outcome=PlacementOutcome.UNRESOLVED)
        now = database_now()
        FailedOrder.objects.update(next_retry_at=now - timedelta(minutes=1), scheduled_by="trader")
        FailedOrder.objects.filter(price=80_000).update(next_retry_at=now)

        for _ in range(2):
            failed_orders_retry_due()

        assert resting() == [80_000]
        assert FailedOrder.objects.exclude(next_retry_at=None).count() == 30
