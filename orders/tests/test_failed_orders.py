"""Retrying, removing and scheduling failed orders, and what must not be placed twice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from exchanges.adapters.exceptions import (
    DuplicateClientOrderId,
    ExchangeBusy,
    InvalidOrderQuantity,
    NotSent,
    OutcomeUnknown,
)
from orders import events
from orders.clock import database_now
from orders.models import (
    DeliveryState,
    EventSource,
    EventType,
    FailedOrder,
    FailedStatus,
    Home,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    PendingOrder,
    Placement,
    PlacementOutcome,
    Strategy,
    StrategyAccount,
    WebhookDelivery,
)
from orders.selectors import Visible
from orders.services import queue
from orders.services.applied import Outcome
from orders.services.failed_orders import (
    BulkAction,
    Refused,
    failed_order_remove,
    failed_order_retry,
    failed_order_schedule,
    failed_orders_bulk,
    failed_orders_retry_due,
)
from orders.services.retries import MAX_RETRIES, Code, RetryResult
from orders.services.settlement import never_placed, outcomes_apply
from orders.services.switches import kill_switch_set
from orders.states import OrderStatus
from orders.tests.factories import (
    Exchanges,
    Queries,
    SideBySide,
    elsewhere,
    events_of,
    make_account,
    make_fill,
    make_follower,
    make_placement,
    make_position,
    make_report,
    make_strategy,
    make_user,
)
from orders.tests.failing import NO_MONEY, failed_of, intent_of, make_failed, next_client_id, refuse

pytestmark = pytest.mark.django_db


@pytest.fixture
def follower(exchanges: Exchanges) -> StrategyAccount:
    return make_follower()


def retry(failed: FailedOrder) -> RetryResult:
    return failed_order_retry(failed_order_id=failed.pk, by="ann")


def report(placement: Placement, status: str, *fills: Any, **fields: Any) -> None:
    outcomes_apply(
        [Outcome(placement.pk, make_report(placement, status, *fills, **fields))],
        source=EventSource.STREAM,
        now=database_now(),
    )


class TestRetry:
    def test_places_the_same_order_under_the_next_number(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        failed = make_failed(follower)

        result = retry(failed)

        (sent,) = exchanges.of(follower).submitted
        assert (sent.client_order_id, sent.quantity, sent.price) == (
            next_client_id(failed),
            Decimal(1),
            Decimal(90_000),
        )
        intent, placement = intent_of(failed), Placement.objects.get(number=2)
        assert result.as_json() == {"success": True, "order_id": placement.exchange_order_id}
        assert (intent.home, intent.retry_count, placement.is_retry) == (Home.EXCHANGE, 1, True)
        assert OpenOrder.objects.get().status == OrderStatus.NEW
        assert FailedOrder.objects.exists() is False

    def test_says_in_the_log_who_did_it(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        failed = make_failed(follower)

        retry(failed)

        placement = Placement.objects.get(number=2)
        assert events_of(placement) == ["REJECTED", "RETRY", "SUBMITTING", "ACCEPTED"]
        event = OrderEvent.objects.get(type=EventType.RETRY)
        assert event.data == {"by": "ann", "failed_order_id": failed.pk, "retry_count": 0}
        assert (event.user_id, event.account_id) == (follower.strategy.user_id, follower.account_id)

    def test_sends_a_market_order_because_a_person_asked(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        failed = make_failed(follower, order_type="MARKET", price=None)

        result = retry(failed)

        assert result.order_id
        assert intent_of(failed).home == Home.DONE

    def test_tells_the_exchange_the_leverage_that_the_first_try_did_not_get_to_tell(
        self, exchanges: Exchanges
    ) -> None:
        follower = make_follower(leverage=7)

        retry(make_failed(follower))

        assert exchanges.of(follower).leverage == {"BTC/USDT": 7}

    def test_places_only_what_is_left(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        placement = make_placement(follower)
        report(placement, "PARTIALLY_FILLED", make_fill("0.4"), filled="0.4")
        report(placement, "EXPIRED", filled="0.4")

        retry(FailedOrder.objects.get())

        (sent,) = exchanges.of(follower).submitted
        assert sent.quantity == Decimal("0.6")
        exchanges.of(follower).fill(sent.client_order_id)
        second = Placement.objects.get(number=2)
        report(second, "FILLED", make_fill("0.6"), filled="0.6")
        second.intent.refresh_from_db()
        assert (second.intent.filled_quantity, second.intent.home) == (Decimal(1), Home.DONE)

    def test_sends_an_order_of_the_queue_through_the_queue(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        failed = make_failed(follower, is_queued=True)

        result = retry(failed)

        placement = Placement.objects.get(number=2)  # a slot was free
        assert result.as_json() == {"success": True, "order_id": placement.exchange_order_id}
        assert placement.is_retry is True
        assert intent_of(failed).retry_count == 1
        assert (PendingOrder.objects.exists(), FailedOrder.objects.exists()) == (False, False)

    def test_leaves_it_waiting_where_better_orders_have_the_slots(
        self, follower: StrategyAccount, exchanges: Exchanges, settings: Settings
    ) -> None:
        settings.QUEUE_LIMIT_CAP = 1
        resting = make_placement(follower, is_queued=True, price=Decimal(94_000))
        report(resting, "NEW")
        failed = make_failed(follower, is_queued=True)

        result = retry(failed)

        assert result.as_json() == {"success": True, "queued": True}
        assert PendingOrder.objects.get(intent=failed.intent_id).is_retry is True
        assert (intent_of(failed).home, intent_of(failed).retry_count) == (Home.QUEUE, 0)
        assert exchanges.all_calls() == 0

        report(resting, "CANCELED", filled=0)
        queue.rebalance(book_ids=[intent_of(failed).book_id])

        assert (intent_of(failed).home, intent_of(failed).retry_count) == (Home.EXCHANGE, 1)

    def test_counts_when_a_retry_from_the_queue_is_refused(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        failed = make_failed(follower, is_queued=True)
        exchanges.of(follower).fail(next_client_id(failed), NO_MONEY)

        assert retry(failed).code == Code.FAILED_AGAIN
        assert FailedOrder.objects.get().retry_count == 1

    def test_fails_again_as_a_new_failed_order_with_its_own_alert(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(events, "_alert_carriers", [lambda: True])
        told: list[events.OrderFailed] = []
        monkeypatch.setitem(events._listeners, events.OrderFailed, [told.append])
        failed = make_failed(follower)
        exchanges.of(follower).fail(next_client_id(failed), NO_MONEY)

        result = retry(failed)

        again = FailedOrder.objects.get()
        assert (again.pk > failed.pk, again.retry_count, again.alert_sent) == (True, 1, True)
        assert result.as_json() == {
            "success": False,
            "error": NO_MONEY.message,
            "code": "failed_again",
            "error_type": "insufficient_balance",
            "failed_order_id": again.pk,
        }
        assert intent_of(again).retry_count == 1

    def test_says_when_nobody_knows(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        failed = make_failed(follower)
        lost = OutcomeUnknown("read timed out")
        exchanges.of(follower).lose_answer(next_client_id(failed), lost)

        assert retry(failed).as_json() == {"success": True, "resolving": True}
        assert intent_of(failed).retry_count == 0
        report(Placement.objects.get(number=2), "NEW")
        assert intent_of(failed).retry_count == 1

    @pytest.mark.parametrize(
        ("error", "count"),
        [
            (NO_MONEY, 1),
            (ExchangeBusy("busy"), 1),
            (NotSent("the deadline had passed"), 0),
            (InvalidOrderQuantity("under the minimum"), 0),
            (DuplicateClientOrderId("Duplicate order sent."), 0),
        ],
    )
    def test_counts_only_what_the_exchange_answered(
        self, follower: StrategyAccount, exchanges: Exchanges, error: Any, count: int
    ) -> None:
        failed = make_failed(follower)
        exchanges.of(follower).fail(next_client_id(failed), error)

        retry(failed)

        assert intent_of(failed).retry_count == count

    def test_costs_no_try_when_our_process_died(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        failed = make_failed(follower)
        exchanges.of(follower).lose_answer(next_client_id(failed), OutcomeUnknown("gone"))
        retry(failed)
        second = Placement.objects.get(number=2)

        never_placed(
            placement_ids=[second.pk], source=EventSource.RESOLVER, now=database_now(), reason="absent"
        )

        again = FailedOrder.objects.get()
        assert (again.retry_count, intent_of(again).retry_count) == (0, 0)

    def test_counts_an_answer_once_however_often_it_is_told(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        failed = make_failed(follower)
        retry(failed)

        for _ in range(3):
            report(Placement.objects.get(number=2), "NEW")

        assert intent_of(failed).retry_count == 1

    def test_is_possible_five_times(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        failed = make_failed(follower)
        exchanges.of(follower).fails_with = NO_MONEY
        for number in range(1, MAX_RETRIES + 1):
            assert retry(failed).code == Code.FAILED_AGAIN
            failed = FailedOrder.objects.get()
            assert failed.retry_count == number

        result = retry(failed)

        assert (result.success, result.code) == (False, "retries_used_up")
        assert FailedOrder.objects.get() == failed
        assert len(exchanges.of(follower).submitted) == MAX_RETRIES


class TestRefusedRetry:
    def refused(self, failed: FailedOrder, exchanges: Exchanges, code: Code) -> RetryResult:
        before = OrderIntent.objects.values().get(pk=failed.intent_id)
        result = retry(failed)
        assert (result.success, result.code) == (False, code)
        assert result.error
        assert exchanges.all_calls() == 0
        assert OrderIntent.objects.values().get(pk=failed.intent_id) == before
        assert Placement.objects.filter(number=2).exists() is False
        assert OrderEvent.objects.filter(type=EventType.RETRY).exists() is False
        return result

    def test_when_it_does_not_exist(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        assert failed_order_retry(failed_order_id=12345, by="ann").code == "not_found"

    def test_when_it_was_removed(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        failed = make_failed(follower)
        failed_order_remove(failed_order_id=failed.pk, by="ann")
        self.refused(failed, exchanges, Code.REMOVED)

    def test_when_its_cancel_was_asked_for(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        failed = make_failed(follower)
        OrderIntent.objects.update(cancel_requested=True)
        self.refused(failed, exchanges, Code.CANCEL_REQUESTED)

    def test_while_its_webhook_is_being_worked(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        failed = make_failed(follower)
        WebhookDelivery.objects.update(state=DeliveryState.WORKING)
        self.refused(failed, exchanges, Code.IN_PROGRESS)

    @pytest.mark.parametrize(
        "state",
        [
            {"outcome": PlacementOutcome.UNRESOLVED},
            {"outcome": PlacementOutcome.PLACED, "exchange_status": "NEW"},  # it lives after all
            {"exchange_filled_quantity": Decimal("0.1")},  # it has a fill that we do not have
        ],
    )
    def test_while_an_earlier_try_may_be_alive(
        self, follower: StrategyAccount, exchanges: Exchanges, state: dict[str, Any]
    ) -> None:
        failed = make_failed(follower)
        Placement.objects.update(**state)
        self.refused(failed, exchanges, Code.OUTCOME_UNKNOWN)

    def test_when_it_never_had_a_size(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        failed = make_failed(follower)
        OrderIntent.objects.update(quantity=0)
        self.refused(failed, exchanges, Code.NOTHING_LEFT)

    @pytest.mark.parametrize(
        "switch",
        [
            lambda follower: kill_switch_set(engaged=True, reason="", by="operator"),
            lambda follower: Strategy.objects.update(is_active=False),
            lambda follower: StrategyAccount.objects.update(is_active=False),
        ],
    )
    def test_when_a_switch_is_off(
        self, follower: StrategyAccount, exchanges: Exchanges, switch: Callable[[StrategyAccount], Any]
    ) -> None:
        failed = make_failed(follower)
        switch(follower)
        assert (
            "off" in self.refused(failed, exchanges, Code.STOPPED).error or "on when" in retry(failed).error
        )

    def test_of_a_close_when_the_position_is_smaller_by_now(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        make_position(follower, "0.5")
        failed = make_failed(follower, side="SELL", closes_position=True)
        self.refused(failed, exchanges, Code.POSITION_CHANGED)

    def test_of_the_second_of_two_closes_of_the_same_position(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        make_position(follower, "1")
        close: dict[str, Any] = {"side": "SELL", "closes_position": True}
        one, other = make_failed(follower, **close), make_failed(follower, **close)

        results = bulk(BulkAction.RETRY, one, other)

        assert [results[pk].code for pk in (one.pk, other.pk)] == ["", "position_changed"]
        assert retry(other).code == "position_changed"  # the first rests: it is on its way
        assert len(exchanges.of(follower).submitted) == 1


class TestLateFill:
    def test_shrinks_what_a_retry_places(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        placement = make_placement(follower)
        report(placement, "EXPIRED", filled=0)
        report(placement, "EXPIRED", make_fill("0.3"), filled="0.3")
        failed = FailedOrder.objects.get()
        assert (failed.quantity, failed.order_params["quantity"]) == (Decimal("0.7"), "0.7")

        retry(failed)

        assert exchanges.of(follower).submitted[0].quantity == Decimal("0.7")

    def test_of_all_of_it_leaves_nothing_to_retry(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        placement = make_placement(follower)
        report(placement, "EXPIRED", filled=0)
        failed = FailedOrder.objects.get()
        report(placement, "EXPIRED", make_fill(1), filled=1)

        assert retry(failed).code == "not_found"
        assert intent_of(failed).home == Home.DONE
        assert exchanges.all_calls() == 0

    @pytest.mark.django_db(transaction=True)
    def test_while_the_retry_is_on_its_way_is_not_forgotten(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        placement = make_placement(follower)
        report(placement, "EXPIRED", filled=0)

        async def late(_: Any) -> None:
            await elsewhere(lambda: report(placement, "EXPIRED", make_fill("0.3"), filled="0.3"))

        exchanges.of(follower).before_placing = late

        retry(FailedOrder.objects.get())

        assert OrderIntent.objects.get().filled_quantity == Decimal("0.3")


class TestRemove:
    def test_keeps_the_row_for_the_audit(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        failed = make_failed(follower)
        failed_order_schedule(failed_order_id=failed.pk, at=soon(), by="bob")

        failed_order_remove(failed_order_id=failed.pk, by="ann")

        failed.refresh_from_db()
        assert (failed.status, failed.next_retry_at) == (FailedStatus.REMOVED, None)
        assert intent_of(failed).home == Home.FAILED
        assert OrderEvent.objects.get(type=EventType.REMOVED).data["by"] == "ann"

    def test_is_logged_once_however_often_it_is_asked_for(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        failed = make_failed(follower)
        for _ in range(2):
            failed_order_remove(failed_order_id=failed.pk, by="ann")
        assert OrderEvent.objects.filter(type=EventType.REMOVED).count() == 1

    def test_of_nothing_is_refused(self, db: None) -> None:
        with pytest.raises(Refused) as caught:
            failed_order_remove(failed_order_id=1, by="ann")
        assert caught.value.code == "not_found"


def soon(seconds: float = 60) -> Any:
    return database_now() + timedelta(seconds=seconds)


def let_time_come() -> None:
    FailedOrder.objects.exclude(next_retry_at=None).update(next_retry_at=soon(-1))


class TestSchedule:
    def test_is_retried_when_its_time_has_come(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        failed = make_failed(follower)
        failed_order_schedule(failed_order_id=failed.pk, at=soon(), by="ann")
        assert (failed_orders_retry_due(), exchanges.all_calls()) == (0, 0)

        let_time_come()

        assert failed_orders_retry_due() == 1
        assert intent_of(failed).home == Home.EXCHANGE
        assert OrderEvent.objects.get(type=EventType.RETRY).data["by"] == "schedule of ann"
        assert failed_orders_retry_due() == 0

    def test_is_taken_back(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        failed = make_failed(follower)
        failed_order_schedule(failed_order_id=failed.pk, at=soon(), by="ann")

        failed_order_schedule(failed_order_id=failed.pk, at=None, by="ann")

        failed.refresh_from_db()
        assert failed.next_retry_at is None
        messages = OrderEvent.objects.filter(type=EventType.OPERATOR).order_by("pk")
        assert [event.message[:15] for event in messages] == ["Retry scheduled", "Scheduled retry"]

    @pytest.mark.parametrize("seconds", [-1, 0, 31 * 86_400])
    def test_is_refused_for_the_past_and_the_far_future(
        self, follower: StrategyAccount, exchanges: Exchanges, seconds: float
    ) -> None:
        failed = make_failed(follower)
        with pytest.raises(Refused, match="future"):
            failed_order_schedule(failed_order_id=failed.pk, at=soon(seconds), by="ann")
        failed.refresh_from_db()
        assert failed.next_retry_at is None

    def test_is_refused_for_what_cannot_be_retried(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        failed = make_failed(follower)
        OrderIntent.objects.update(retry_count=MAX_RETRIES)
        with pytest.raises(Refused, match="used up"):
            failed_order_schedule(failed_order_id=failed.pk, at=soon(), by="ann")

    def test_that_meets_a_switch_is_given_up_and_says_so(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        failed = make_failed(follower)
        failed_order_schedule(failed_order_id=failed.pk, at=soon(), by="ann")
        let_time_come()
        kill_switch_set(engaged=True, reason="", by="operator")

        failed_orders_retry_due()

        kill_switch_set(engaged=False, reason="", by="operator")
        failed.refresh_from_db()
        assert failed.next_retry_at is None
        assert (failed_orders_retry_due(), exchanges.all_calls()) == (0, 0)
        assert "Scheduled retry not made: Not sent: the kill switch" in "".join(
            OrderEvent.objects.filter(intent=failed.intent_id).values_list("message", flat=True)
        )

    def test_that_meets_an_unknown_outcome_waits(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        failed = make_failed(follower)
        failed_order_schedule(failed_order_id=failed.pk, at=soon(), by="ann")
        let_time_come()
        Placement.objects.update(outcome=PlacementOutcome.UNRESOLVED)

        failed_orders_retry_due()
        assert exchanges.all_calls() == 0
        Placement.objects.update(outcome=PlacementOutcome.NEVER_PLACED)
        let_time_come()

        failed_orders_retry_due()
        assert intent_of(failed).home == Home.EXCHANGE


def bulk(action: BulkAction, *failed: FailedOrder) -> dict[int, RetryResult]:
    ids = [one.pk for one in failed]
    return failed_orders_bulk(action=action, failed_order_ids=ids, by="ann", visible=Visible(user_id=None))


class TestBulk:
    def test_gives_each_its_own_result(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        good, removed, refused = (make_failed(follower) for _ in range(3))
        failed_order_remove(failed_order_id=removed.pk, by="ann")
        exchanges.of(follower).fail(next_client_id(refused), NO_MONEY)

        results = bulk(BulkAction.RETRY, refused, removed, good)

        assert list(results) == [refused.pk, removed.pk, good.pk]
        assert [results[one.pk].code for one in (good, removed, refused)] == ["", "removed", "failed_again"]

    def test_touches_nothing_of_somebody_else(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        theirs = make_follower(
            make_strategy("theirs", user=make_user("them"), token="t"), make_account("theirs")
        )
        mine, other = make_failed(follower), make_failed(theirs)

        for action in BulkAction:
            results = failed_orders_bulk(
                action=action,
                failed_order_ids=[other.pk],
                by="ann",
                visible=Visible(user_id=follower.strategy.user_id),
            )
            assert results[other.pk].code == "not_found"

        other.refresh_from_db()
        assert (other.status, intent_of(other).home) == ("pending_retry", Home.FAILED)
        assert failed_of(mine.intent) == mine

    def test_costs_as_many_queries_for_thirty_as_for_three(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        counts = []
        for number in (3, 30):
            failed = [make_failed(follower) for _ in range(number)]
            with Queries() as queries:
                results = bulk(BulkAction.RETRY, *failed)
            assert all(result.order_id for result in results.values())
            counts.append(queries.count)

        assert counts[1] <= counts[0]  # the first run also told the leverage


class TestTwoAtOnce:
    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("is_queued", [False, True])
    def test_place_one_order(self, follower: StrategyAccount, exchanges: Exchanges, is_queued: bool) -> None:
        failed = make_failed(follower, is_queued=is_queued)

        with SideBySide() as side:
            presses = [side.start(lambda: retry(failed)) for _ in range(6)]
            results = [press.result(30) for press in presses]

        assert sorted(result.success for result in results) == [False] * 5 + [True]
        assert {result.code for result in results if not result.success} == {"not_found"}
        assert Placement.objects.filter(number__gt=2).exists() is False
        assert len(exchanges.of(follower).submitted) <= 1

    @pytest.mark.django_db(transaction=True)
    def test_retry_and_remove_do_not_both_happen(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        for _ in range(5):
            failed = make_failed(follower)

            def remove(failed: FailedOrder = failed) -> bool:
                try:
                    failed_order_remove(failed_order_id=failed.pk, by="bob")
                except Refused:
                    return False
                return True

            with SideBySide() as side:
                removed, retried = side.start(remove), side.start(lambda f=failed: retry(f))  # type: ignore[misc]  # a default binds the loop's value
                assert removed.result(30) != retried.result(30).success

    @pytest.mark.django_db(transaction=True)
    def test_schedules_run_by_several_processes_place_one_order(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        failed = make_failed(follower)
        failed_order_schedule(failed_order_id=failed.pk, at=soon(), by="ann")
        let_time_come()

        with SideBySide() as side:
            for run in [side.start(failed_orders_retry_due) for _ in range(4)]:
                run.result(30)

        assert len(exchanges.of(follower).submitted) == 1


def test_refuse_makes_what_the_tests_start_from(exchanges: Exchanges) -> None:
    failed = refuse(make_placement(make_follower()))
    assert (failed.reason, failed.status, failed.quantity) == ("Insufficient balance", "pending_retry", 1)
