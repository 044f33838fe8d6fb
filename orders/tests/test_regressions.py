"""What a reading of the money path found, each held by a test."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from exchanges import access
from exchanges.adapters.base import Exchange
from exchanges.models import Account, ConfigVersion
from orders.clock import database_now
from orders.models import (
    FailedOrder,
    OpenOrder,
    OrderIntent,
    PendingOrder,
    Placement,
    StrategyAccount,
    WebhookDelivery,
)
from orders.services import acceptance, deliveries, intake
from orders.services.queue import sweep
from orders.services.switches import kill_switch_set
from orders.tests.factories import (
    LIMIT,
    MARKET,
    Exchanges,
    incoming,
    make_account,
    make_follower,
    pass_the_queue_by,
    post,
)
from orders.webhook.answers import WebhookAnswer

pytestmark = pytest.mark.django_db


@pytest.fixture
def follower(exchanges: Exchanges) -> StrategyAccount:
    return make_follower()


def die_before_sending(monkeypatch: pytest.MonkeyPatch, payload: dict[str, Any]) -> WebhookDelivery:
    """Leave a delivery behind as a process does that dies right after its commit."""
    with monkeypatch.context() as patch:
        patch.setattr(
            intake._Intake, "carry_out", lambda self, accepted: WebhookAnswer(200, {"success": True})
        )
        post(payload)
    delivery = WebhookDelivery.objects.latest("pk")
    ended = database_now() - timedelta(seconds=1)
    WebhookDelivery.objects.filter(pk=delivery.pk).update(lease_expires_at=ended, lease_owner="the dead")
    return delivery


class TestTakeOver:
    def test_sends_nothing_that_a_switch_forbids_by_now(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pass_the_queue_by()
        delivery = die_before_sending(monkeypatch, LIMIT)
        kill_switch_set(engaged=True, reason="a test", by="test")

        answer = deliveries.take_over(delivery.pk)

        assert answer is not None
        assert answer.status == 400
        assert exchanges.of(follower).submitted == []
        failed = FailedOrder.objects.get()
        assert failed.error_type == "risk_limit"
        assert "kill switch" in failed.reason

    def test_sends_no_market_order_whose_moment_has_passed(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        delivery = die_before_sending(monkeypatch, MARKET)
        long_ago = database_now() - timedelta(hours=8)
        WebhookDelivery.objects.filter(pk=delivery.pk).update(received_at=long_ago)

        deliveries.take_over(delivery.pk)

        assert exchanges.of(follower).submitted == []
        assert "too old" in FailedOrder.objects.get().reason

    def test_repeats_the_cancels_of_a_delivery_that_had_started(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post(LIMIT)
        delivery = die_before_sending(monkeypatch, {"order_type": "CANCEL_ALL_ORDER"})
        WebhookDelivery.objects.filter(pk=delivery.pk).update(started_at=database_now())

        deliveries.take_over(delivery.pk)

        assert not OpenOrder.objects.exists()
        assert OrderIntent.objects.get(order_type="LIMIT").home == "DONE"


class TestSwitchFlippedAfterTheCommit:
    def test_holds_the_orders_back(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = acceptance.accept

        def accept_then_switch(**arguments: Any) -> Any:
            accepted = real(**arguments)
            kill_switch_set(engaged=True, reason="a test", by="test")
            return accepted

        monkeypatch.setattr(intake, "accept", accept_then_switch)

        answer = post({"orders": [LIMIT, MARKET]})

        limit, market = answer.body["results"]
        assert exchanges.of(follower).submitted == []
        assert not OpenOrder.objects.exists()
        assert (limit["success"], limit["queued"], market["success"]) == (True, True, False)
        pending = PendingOrder.objects.get()
        assert (pending.waits_until, pending.intent.home) == (None, "QUEUE")
        failed = FailedOrder.objects.get()
        assert (failed.order_type, failed.error_type) == ("MARKET", "risk_limit")

        kill_switch_set(engaged=False, reason="a test", by="test")
        sweep()

        assert OpenOrder.objects.get().intent_id == pending.pk

    def test_leaves_failed_orders_of_what_passes_the_queue_by(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pass_the_queue_by()
        real = acceptance.accept

        def accept_then_switch(**arguments: Any) -> Any:
            accepted = real(**arguments)
            kill_switch_set(engaged=True, reason="a test", by="test")
            return accepted

        monkeypatch.setattr(intake, "accept", accept_then_switch)

        answer = post(LIMIT)

        assert answer.status == 400
        assert exchanges.of(follower).submitted == []
        assert FailedOrder.objects.get().error_type == "risk_limit"
        assert not OpenOrder.objects.exists()

    def test_that_forbids_nothing_lets_them_go(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = acceptance.accept

        def accept_then_bump(**arguments: Any) -> Any:
            accepted = real(**arguments)
            ConfigVersion.bump()
            return accepted

        monkeypatch.setattr(intake, "accept", accept_then_bump)

        assert post(LIMIT).status == 200
        assert OpenOrder.objects.get().status == "NEW"


class TestResend:
    def test_of_an_alert_whose_first_copy_is_unanswered_does_not_trade_again(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """TradingView sends again 5 s after a gateway's error; the dead process's lease still runs."""
        delivery = die_before_sending(monkeypatch, LIMIT)
        now = database_now()
        WebhookDelivery.objects.filter(pk=delivery.pk).update(
            received_at=now - timedelta(seconds=5), lease_expires_at=now + timedelta(seconds=5)
        )

        again = post(LIMIT)

        assert (again.status, again.body["code"]) == (409, "in_progress")
        assert OrderIntent.objects.count() == 1


class TestWebhookId:
    def test_is_free_again_after_a_day(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        assert post(LIMIT | {"webhook_id": "w1"}).status == 200
        assert post(LIMIT | {"webhook_id": "w1"}).body["duplicate"] is True
        WebhookDelivery.objects.update(received_at=database_now() - timedelta(hours=25))

        answer = post(LIMIT | {"webhook_id": "w1"})

        assert answer.status == 200
        assert "duplicate" not in answer.body
        assert OrderIntent.objects.count() == 2

    def test_is_free_after_a_day_for_a_refusal_too(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        assert post(LIMIT | {"webhook_id": "w1"}).status == 200
        WebhookDelivery.objects.update(received_at=database_now() - timedelta(hours=25))

        answer = post(LIMIT | {"webhook_id": "w1", "price": "-1"})

        assert (answer.status, answer.body["code"]) == (400, "invalid_payload")


class TestUnreadableKeys:
    def test_of_one_account_stop_that_account_only(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = make_follower(follower.strategy, make_account("other"))
        real = access.exchange_for

        def broken(account: Account, market_type: str) -> Exchange:
            if account == other.account:
                raise RuntimeError("its keys")
            return real(account, market_type)

        monkeypatch.setattr(access, "exchange_for", broken)

        answer = post(LIMIT)

        assert answer.status == 200
        assert [result["executed"] for result in answer.body["results"]] == [True, False]
        assert Placement.objects.filter(outcome="PLACED").count() == 1
        pending = PendingOrder.objects.get()
        assert (pending.strategy_account, pending.intent.retry_count) == (other, 0)
        assert pending.reason == "the account cannot be used: RuntimeError"

    def test_fail_an_order_that_passes_the_queue_by(
        self, follower: StrategyAccount, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pass_the_queue_by()

        def broken(account: Account, market_type: str) -> Exchange:
            raise RuntimeError("its keys")

        monkeypatch.setattr(access, "exchange_for", broken)

        assert post(LIMIT).status == 400
        assert FailedOrder.objects.get().strategy_account == follower


class TestIncoming:
    def test_that_was_given_up_is_never_written_down(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        request = incoming(LIMIT)
        assert request.abandon() is True

        answer = intake.webhook_receive(request)

        assert answer.status == 503
        assert not OrderIntent.objects.exists()
        assert not WebhookDelivery.objects.exists()

    def test_that_is_committed_cannot_be_given_up(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        request = incoming(LIMIT)
        intake.webhook_receive(request)

        assert request.abandon() is False


class TestStrangers:
    def test_are_stopped_whatever_names_they_try(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        statuses = [
            post({"group_name": f"g{n}", "token": "wrong", "padding": "x" * 4000}).status for n in range(62)
        ]

        assert statuses[:60] == [401] * 60
        assert statuses[60:] == [429, 429]
        assert (
            max(len(payload) for payload in WebhookDelivery.objects.values_list("payload", flat=True)) <= 1024
        )
