"""Deliveries whose process died: who takes over, what is sent, and who may record the answer."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from exchanges.adapters import exceptions as errors
from exchanges.adapters.types import OrderReport
from exchanges.models import Account
from orders.clock import database_now
from orders.models import (
    DeliveryState,
    EventSource,
    FailedOrder,
    Home,
    KillSwitch,
    OpenOrder,
    OrderIntent,
    PendingOrder,
    Placement,
    PlacementOutcome,
    Strategy,
    StrategyAccount,
    WebhookDelivery,
)
from orders.services import deliveries, intake, submission
from orders.services.acceptance import accept
from orders.services.applied import Outcome
from orders.services.deliveries import delivery_answer, delivery_start, keeper, take_over, take_over_expired
from orders.services.settlement import apply_reports, never_placed, outcomes_apply
from orders.states import OrderStatus
from orders.tests.factories import (
    LIMIT,
    MARKET,
    Exchanges,
    SideBySide,
    accepted_only,
    elsewhere,
    let_lease_end,
    limit,
    make_account,
    make_follower,
    pass_the_queue_by,
    post,
    wait_until,
)
from orders.webhook.answers import WebhookAnswer
from tests.processes import ROOT

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def follower(exchanges: Exchanges) -> StrategyAccount:
    return make_follower()


def died_before_sending(*orders: dict[str, Any]) -> WebhookDelivery:
    delivery = accepted_only({"orders": list(orders)})
    let_lease_end(delivery)
    return delivery


def died_after_sending(*orders: dict[str, Any]) -> WebhookDelivery:
    """It had marked that bytes may leave; whether any did, nobody knows."""
    delivery = died_before_sending(*orders)
    WebhookDelivery.objects.filter(pk=delivery.pk).update(started_at=database_now())
    return delivery


def absent(*placements: Placement) -> list[int]:
    """Prove that placements never happened; return the intents that are to be placed anew."""
    applied = never_placed(
        placement_ids=[one.pk for one in placements],
        source=EventSource.RESOLVER,
        now=database_now(),
        reason="unknown there",
    )
    return applied.to_place_anew


def answered(answer: WebhookAnswer | None) -> WebhookAnswer:
    assert answer is not None
    return answer


class TestTakeOverOfWhatWasNeverStarted:
    def test_sends_everything_once_and_records_the_answer(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        second = make_follower(follower.strategy, make_account("second"))
        delivery = died_before_sending(limit(), limit(90_001), MARKET)

        answer = answered(take_over(delivery.pk))

        assert (answer.status, answer.body["summary"]["successful_orders"]) == (200, 6)
        for one in (follower, second):
            calls = exchanges.of(one).place_calls
            assert [[request.order_type for request in call] for call in calls] == [
                ["MARKET"],
                ["LIMIT", "LIMIT"],
            ]
        delivery.refresh_from_db()
        assert (delivery.state, delivery.response_status, delivery.response) == (
            DeliveryState.ANSWERED, 200, answer.body,
        )  # fmt: skip
        assert (delivery.lease_owner, delivery.started_at is not None) == (deliveries.owner(), True)
        assert take_over(delivery.pk) is None
        assert len(exchanges.of(follower).submitted) == 3

    def test_keeps_the_ids_and_gives_new_deadlines(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        delivery = died_before_sending(LIMIT)
        before = Placement.objects.get()
        Placement.objects.update(send_by=database_now() - timedelta(minutes=1))

        take_over(delivery.pk)

        after = Placement.objects.get()
        assert (after.client_order_id, after.number) == (before.client_order_id, 1)
        assert after.send_by > database_now() + timedelta(seconds=5)
        assert after.outcome == PlacementOutcome.PLACED

    def test_by_two_at_once_sends_once(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        delivery = died_before_sending(LIMIT)

        with SideBySide() as threads:
            taken = [threads.start(lambda: take_over(delivery.pk)) for _ in range(6)]
            answers = [one.result(20) for one in taken]

        assert len([answer for answer in answers if answer is not None]) == 1
        assert len(exchanges.of(follower).submitted) == 1

    def test_waits_for_the_lease_of_a_process_that_lives(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        delivery = accepted_only(LIMIT)

        assert take_over(delivery.pk) is None
        assert exchanges.all_calls() == 0
        delivery.refresh_from_db()
        assert (delivery.state, delivery.started_at) == (DeliveryState.WORKING, None)

    def test_sends_no_order_whose_cancel_came_meanwhile(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        delivery = died_before_sending(limit(), limit(90_001, symbol="ETH/USDT"))
        post({"order_type": "CANCEL_ALL_ORDER", "symbol": "BTC/USDT"})

        answer = answered(take_over(delivery.pk))

        assert [one.symbol for one in exchanges.of(follower).submitted] == ["ETH/USDT"]
        assert answer.body["results"][0]["result"]["message"] == "canceled before it was placed"
        assert set(OrderIntent.objects.values_list("symbol", "home")) == {
            ("BTC/USDT", Home.DONE), ("ETH/USDT", Home.EXCHANGE),
        }  # fmt: skip
        assert not FailedOrder.objects.exists()

    @pytest.mark.parametrize(
        ("switch", "said"),
        [
            (
                lambda: KillSwitch.objects.update_or_create(pk=1, defaults={"engaged": True}),
                "The kill switch was on when the order was to be sent",
            ),
            (
                lambda: Strategy.objects.update(kill_switch=True),
                "The kill switch was on when the order was to be sent",
            ),
            (
                lambda: Strategy.objects.update(is_active=False),
                "The strategy was switched off when the order was to be sent",
            ),
            (
                lambda: Account.objects.update(kill_switch=True),
                "The kill switch was on when the order was to be sent",
            ),
            (
                lambda: StrategyAccount.objects.update(is_active=False),
                "The account was switched off when the order was to be sent",
            ),
        ],
    )
    def test_sends_nothing_that_a_switch_forbids_by_now(
        self, follower: StrategyAccount, exchanges: Exchanges, switch: Any, said: str
    ) -> None:
        delivery = died_before_sending(limit(), MARKET)
        switch()

        answer = answered(take_over(delivery.pk))

        waits, failed = answer.body["results"]
        assert (answer.status, waits["queued"], failed["result"]["error"]) == (200, True, said)
        assert exchanges.all_calls() == 0
        assert list(FailedOrder.objects.values_list("error_type", "reason")) == [("risk_limit", said)]
        assert PendingOrder.objects.get().reason.lower() == said.lower()
        assert not OpenOrder.objects.exists()

    def test_leaves_failed_orders_of_what_passes_the_queue_by(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        pass_the_queue_by()
        delivery = died_before_sending(limit(), MARKET)
        KillSwitch.objects.update_or_create(pk=1, defaults={"engaged": True})

        answer = answered(take_over(delivery.pk))

        assert answer.status == 400
        assert exchanges.all_calls() == 0
        assert list(FailedOrder.objects.values_list("error_type", flat=True)) == ["risk_limit"] * 2
        assert not OpenOrder.objects.exists()

    def test_carries_out_its_cancels_first(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        post(LIMIT)
        delivery = died_before_sending({"order_type": "CANCEL_ALL_ORDER"}, limit(90_001))

        answer = answered(take_over(delivery.pk))

        assert answer.body["results"][0]["result"]["message"] == "1 canceled"
        assert [order.intent.price for order in OpenOrder.objects.all()] == [Decimal(90_001)]

    def test_of_orders_that_could_not_be_sized_only_answers(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        delivery = died_before_sending(limit(quantity="0.0001"))

        answer = answered(take_over(delivery.pk))

        assert (answer.status, answer.body["code"]) == (400, "all_orders_failed")
        assert exchanges.all_calls() == 0


class TestTakeOverOfWhatWasStarted:
    def test_sends_nothing_and_waits_until_every_fate_is_known(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        delivery = died_after_sending(limit(), MARKET)

        assert take_over(delivery.pk) is None
        assert exchanges.all_calls() == 0
        delivery.refresh_from_db()
        assert delivery.state == DeliveryState.WORKING
        assert list(OpenOrder.objects.values_list("status", flat=True)) == [OrderStatus.SUBMITTING] * 2

    def test_answers_from_the_rows_once_everything_is_known(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        post({"webhook_id": "first", "orders": [limit()]})
        delivery = WebhookDelivery.objects.get()
        first_answer = delivery.response
        WebhookDelivery.objects.update(state=DeliveryState.WORKING, response=None, response_status=None)
        let_lease_end(delivery)

        answer = answered(take_over(delivery.pk))

        assert answer.status == 200
        assert first_answer is not None
        assert answer.body == first_answer | {"timing": {}}
        assert len(exchanges.of(follower).submitted) == 1

    def test_places_a_limit_anew_under_the_next_number_and_never_a_market_order(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        pass_the_queue_by()
        delivery = died_after_sending(limit(), MARKET)
        resting, market = Placement.objects.order_by("intent__order_type")

        assert absent(resting, market) == [resting.intent_id]
        answer = answered(take_over(delivery.pk))

        (request,) = exchanges.of(follower).submitted
        assert request.client_order_id == resting.client_order_id[:-4] + "0002"
        assert [one["success"] for one in answer.body["results"]] == [True, False]
        assert answer.body["results"][1]["result"]["error_type"] == "timeout"
        assert FailedOrder.objects.get().order_type == "MARKET"
        order = OpenOrder.objects.get()
        assert (order.status, order.placement.number, order.placement.outcome) == (
            OrderStatus.NEW, 2, PlacementOutcome.PLACED,
        )  # fmt: skip
        resting.refresh_from_db()
        assert resting.outcome == PlacementOutcome.NEVER_PLACED

    def test_sends_a_queued_limit_under_the_next_number_in_its_turn(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        delivery = died_after_sending(limit())
        placement = Placement.objects.get()

        assert absent(placement) == []
        assert PendingOrder.objects.get().reason == "unknown there"
        answer = answered(take_over(delivery.pk))

        (request,) = exchanges.of(follower).submitted
        assert request.client_order_id == placement.client_order_id[:-4] + "0002"
        assert answer.body["summary"]["executed_from_queue"] == 1
        assert not PendingOrder.objects.exists()

    def test_tells_the_exchange_of_cancels_that_its_process_had_only_written_down(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        post(LIMIT)
        delivery = died_after_sending({"order_type": "CANCEL_ALL_ORDER"})
        assert OpenOrder.objects.get().status == OrderStatus.NEW

        answer = answered(take_over(delivery.pk))

        assert answer.body["results"][0]["result"]["message"] == "1 canceled"
        assert len(exchanges.of(follower).cancelled) == 1
        assert OrderIntent.objects.get(order_type="LIMIT").home == Home.DONE


class TestPlaceAnew:
    def prepared(self, follower: StrategyAccount) -> Placement:
        pass_the_queue_by()
        died_after_sending(LIMIT)
        placement = Placement.objects.get()
        assert absent(placement) == [placement.intent_id]
        return placement

    def place(self, *placements: Placement) -> None:
        submission.place_anew(intent_ids=[one.intent_id for one in placements], source=EventSource.RESOLVER)

    def test_twice_places_once(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        placement = self.prepared(follower)

        self.place(placement)
        self.place(placement)

        assert len(exchanges.of(follower).submitted) == 1
        assert list(Placement.objects.order_by("number").values_list("number", flat=True)) == [1, 2]

    def test_by_two_at_once_places_once(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        placement = self.prepared(follower)

        with SideBySide() as threads:
            for one in [threads.start(lambda: self.place(placement)) for _ in range(5)]:
                one.result(20)

        assert len(exchanges.of(follower).submitted) == 1

    def test_leaves_alone_what_is_not_proven_absent(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        died_after_sending(LIMIT)

        self.place(Placement.objects.get())

        assert exchanges.all_calls() == 0
        assert Placement.objects.count() == 1

    def test_leaves_alone_what_is_to_be_canceled(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        placement = self.prepared(follower)
        post({"order_type": "CANCEL_ALL_ORDER"})

        self.place(placement)

        assert exchanges.all_calls() == 0

    def test_sends_nothing_while_a_switch_forbids_it(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        placement = self.prepared(follower)
        KillSwitch.objects.update_or_create(pk=1, defaults={"engaged": True})

        self.place(placement)

        assert exchanges.all_calls() == 0
        assert FailedOrder.objects.get().reason == "The kill switch was on when the order was to be sent"
        assert (OpenOrder.objects.count(), OrderIntent.objects.get().home) == (0, Home.FAILED)

    def test_holds_an_answer_to_the_first_attempt_that_comes_after_all_for_nothing(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        placement = self.prepared(follower)
        self.place(placement)

        outcomes_apply(
            [Outcome(placement.pk, errors.NotSent("the deadline had passed"))],
            source=EventSource.ANSWER,
            now=database_now(),
        )

        assert OpenOrder.objects.get().status == OrderStatus.NEW
        assert not FailedOrder.objects.exists()

    def test_cancels_what_came_alive_after_its_cancel_was_asked_for(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        delivery = died_after_sending(LIMIT)
        absent(Placement.objects.get())
        fake = exchanges.of(follower)

        async def meanwhile(_: Any) -> None:
            await elsewhere(lambda: post({"order_type": "CANCEL_ALL_ORDER"}))

        fake.before_placing = meanwhile

        take_over(delivery.pk)

        assert len(fake.cancelled) == 1
        assert OrderIntent.objects.get().home == Home.DONE


# A new process, as a fork makes one: its first webhooks ask for its name at the same instant.
NAMES = """
import django, os, socket, threading, time
django.setup()
from orders.services import deliveries

before, hostname = deliveries.owner(), socket.gethostname
if os.fork():
    os.wait()
else:
    socket.gethostname = lambda: time.sleep(0.05) or hostname()
    together, names = threading.Barrier(16), set()

    def ask():
        together.wait()
        names.add(deliveries.owner())

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(len(names), before in names, flush=True)
    os._exit(0)
"""


class TestOwner:
    def test_is_one_name_from_the_first_webhook_on_and_a_childs_is_its_own(self) -> None:
        """Seen in a benchmark: a webhook of the first burst was written under a name that was nobody's."""
        environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tradehub.settings", "DEBUG": "true"}
        told = subprocess.run(
            [sys.executable, "-c", NAMES],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.split() == ["1", "False"], told.stderr


class TestDeliveryStart:
    def test_marks_the_delivery_once(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        delivery = accepted_only(LIMIT)
        WebhookDelivery.objects.update(lease_owner=deliveries.owner())

        assert [delivery_start(delivery.pk), delivery_start(delivery.pk)] == [True, False]

    @pytest.mark.parametrize("lost", ["ended", "taken"])
    def test_refuses_when_the_lease_is_lost_and_nothing_is_sent(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch, lost: str
    ) -> None:
        slept_once: list[int] = []

        def slept(delivery_id: int, **arguments: Any) -> bool:
            if slept_once:
                return delivery_start(delivery_id, **arguments)
            slept_once.append(delivery_id)
            if lost == "ended":
                let_lease_end(WebhookDelivery.objects.get(pk=delivery_id))
            else:
                WebhookDelivery.objects.filter(pk=delivery_id).update(lease_owner="another process")
            return delivery_start(delivery_id, **arguments)

        with monkeypatch.context() as patched:
            patched.setattr(deliveries, "delivery_start", slept)
            answer = post(LIMIT)

        delivery = WebhookDelivery.objects.get()
        if lost == "taken":
            assert (answer.status, answer.body["code"]) == (409, "in_progress")
            assert exchanges.all_calls() == 0
            assert (delivery.state, delivery.started_at) == (DeliveryState.WORKING, None)
        else:  # nobody else was there to take it over
            assert (answer.status, answer.body["duplicate"]) == (200, True)
            assert len(exchanges.of(follower).submitted) == 1

    def test_that_fails_withdraws_nothing_from_whoever_has_the_delivery_now(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """We slept, another process is just sending the orders, and a switch was turned meanwhile."""

        def slept(delivery_id: int, **how: Any) -> bool:
            WebhookDelivery.objects.filter(pk=delivery_id).update(lease_owner="another process")
            KillSwitch.objects.update_or_create(pk=1, defaults={"engaged": True})
            return delivery_start(delivery_id, **how)

        monkeypatch.setattr(deliveries, "delivery_start", slept)

        answer = post(LIMIT)

        assert (answer.status, answer.body["code"]) == (409, "in_progress")
        assert OpenOrder.objects.get().status == OrderStatus.SUBMITTING
        assert Placement.objects.get().outcome == PlacementOutcome.UNRESOLVED
        assert not FailedOrder.objects.exists()


class TestDeliveryAnswer:
    ANSWER = WebhookAnswer(200, {"success": True, "note": "mine"})

    def test_is_recorded_by_the_leases_holder(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        delivery = accepted_only(LIMIT)
        WebhookDelivery.objects.update(lease_owner=deliveries.owner())

        delivery_answer(delivery.pk, self.ANSWER, timings={"total_ms": 1.5}, timed_out=True)

        delivery.refresh_from_db()
        assert (delivery.state, delivery.response_status, delivery.response) == (
            DeliveryState.ANSWERED, 200, self.ANSWER.body,
        )  # fmt: skip
        assert (delivery.timings, delivery.timed_out) == ({"total_ms": 1.5}, True)
        assert delivery.answered_at is not None

    def test_is_not_recorded_by_anybody_else(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        delivery = accepted_only(LIMIT)

        delivery_answer(delivery.pk, self.ANSWER, timings={})

        delivery.refresh_from_db()
        assert (delivery.state, delivery.response) == (DeliveryState.WORKING, None)

    def test_is_recorded_once(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        post(LIMIT)
        delivery = WebhookDelivery.objects.get()

        delivery_answer(delivery.pk, self.ANSWER, timings={})

        delivery.refresh_from_db()
        assert delivery.response != self.ANSWER.body


class TestTakeOverExpired:
    def test_takes_every_delivery_whose_lease_ended(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        died_before_sending(limit())
        died_before_sending(limit(90_001))
        alive = accepted_only(limit(90_002))

        assert take_over_expired() == 2

        assert [one.price for one in exchanges.of(follower).submitted] == [Decimal(90_000), Decimal(90_001)]
        alive.refresh_from_db()
        assert alive.state == DeliveryState.WORKING

    def test_lets_no_strategy_wait_for_another(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both wait for each other: one after the other they never would meet."""
        first, second = died_before_sending(limit()), died_before_sending(limit(90_001))
        WebhookDelivery.objects.filter(pk=second.pk).update(strategy=None)
        meeting = threading.Barrier(2, timeout=10)
        met: list[int] = []

        def meet(pk: int) -> None:
            meeting.wait()
            met.append(pk)

        monkeypatch.setattr(deliveries, "take_over", meet)
        take_over_expired()
        assert sorted(met) == [first.pk, second.pk]

    def test_is_not_stopped_by_one_that_cannot_be_carried_out(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken = died_before_sending(limit())
        died_before_sending(limit(90_001))

        def break_on_one(pk: int) -> WebhookAnswer | None:
            if pk == broken.pk:
                raise ZeroDivisionError
            return take_over(pk)

        monkeypatch.setattr(deliveries, "take_over", break_on_one)

        assert take_over_expired() == 1
        assert [one.price for one in exchanges.of(follower).submitted] == [Decimal(90_001)]


class TestLeaseKeeper:
    def test_renews_what_is_held_and_alive(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        delivery = accepted_only(LIMIT)
        WebhookDelivery.objects.update(
            lease_owner=deliveries.owner(), lease_expires_at=database_now() + timedelta(seconds=1)
        )

        keeper._renew([delivery.pk])

        delivery.refresh_from_db()
        assert delivery.lease_expires_at is not None
        assert delivery.lease_expires_at > database_now() + timedelta(seconds=8)

    @pytest.mark.parametrize("lost", ["ended", "taken"])
    def test_does_not_bring_back_what_was_lost(
        self, follower: StrategyAccount, exchanges: Exchanges, lost: str
    ) -> None:
        delivery = accepted_only(LIMIT)
        if lost == "ended":
            WebhookDelivery.objects.update(lease_owner=deliveries.owner())
            let_lease_end(delivery)
        before = WebhookDelivery.objects.get().lease_expires_at

        keeper._renew([delivery.pk])

        assert WebhookDelivery.objects.get().lease_expires_at == before

    def test_holds_a_delivery_while_its_exchange_is_slow(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        held: list[bool] = []

        async def look(_: Any) -> None:
            held.append(bool(keeper._held))

        exchanges.of(follower).before_placing = look

        post(LIMIT)

        assert held == [True]
        wait_until(lambda: not keeper._held)


class TestSendBy:
    def test_on_the_socket_is_what_stands_in_the_row_however_long_the_commit_took(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A commit that waited for a lock must not lend its orders more time than the resolver knows of."""
        waited: list[timedelta] = []

        def slow(**fields: Any) -> Any:
            planned = accept(**fields)
            started = database_now()
            wait_until(lambda: database_now() - started > timedelta(seconds=0.4))
            waited.append(database_now() - fields["now"])
            return planned

        monkeypatch.setattr(intake, "accept", slow)
        fake = exchanges.of(follower)
        late: list[timedelta] = []

        async def look(requests: Any) -> None:
            left = timedelta(seconds=requests[0].send_by_monotonic - time.monotonic())
            late.append(await elsewhere(lambda: database_now() + left - Placement.objects.get().send_by))

        fake.before_placing = look

        post(LIMIT)

        assert waited[0] > timedelta(seconds=0.4)
        assert abs(late[0]) < timedelta(seconds=0.2)

    def test_that_has_passed_leaves_nothing_to_send(
        self, follower: StrategyAccount, exchanges: Exchanges, settings: Any
    ) -> None:
        settings.SUBMIT_WITHIN_SECONDS = 0

        answer = post({"orders": [limit(), MARKET]})

        waits, failed = answer.body["results"]
        assert (waits["queued"], waits["retry_scheduled"], failed["success"]) == (True, True, False)
        assert exchanges.of(follower).submitted == []
        assert set(Placement.objects.values_list("outcome", flat=True)) == {PlacementOutcome.NEVER_PLACED}
        assert PendingOrder.objects.get().intent.retry_count == 0
        assert not OpenOrder.objects.exists()

    def test_that_has_passed_fails_what_passes_the_queue_by(
        self, follower: StrategyAccount, exchanges: Exchanges, settings: Any
    ) -> None:
        pass_the_queue_by()
        settings.SUBMIT_WITHIN_SECONDS = 0

        answer = post({"orders": [limit(), MARKET]})

        assert (answer.status, answer.body["code"]) == (400, "all_orders_failed")
        assert exchanges.of(follower).submitted == []
        assert set(Placement.objects.values_list("outcome", flat=True)) == {PlacementOutcome.NEVER_PLACED}
        assert not OpenOrder.objects.exists()


class TestLateAnswers:
    def test_of_a_process_that_slept_settle_nothing_twice(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The order is adopted from the stream while its own answer is still on its way."""
        fake = exchanges.of(follower)
        place = fake.place_orders

        async def heard_first(requests: Any) -> Any:
            reports = await place(requests)
            (report,) = [one for one in reports if isinstance(one, OrderReport)]

            def hear() -> None:
                apply_reports(
                    account_id=follower.account_id,
                    market_type="FUTURES",
                    reports=[report],
                    source=EventSource.STREAM,
                    now=database_now(),
                )

            await elsewhere(hear)
            return reports

        monkeypatch.setattr(fake, "place_orders", heard_first)

        answer = post(MARKET)

        assert answer.body["results"][0]["success"] is True
        assert follower.positions.get().quantity == Decimal("0.01")
        assert OrderIntent.objects.get().home == Home.DONE
