from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext
from pytest_django.fixtures import Settings

from notifications import alerts
from notifications.alerts import alerts_deliver
from notifications.models import Alert, Chat
from notifications.tests.bot_api import BotApi, flood, refusal
from notifications.tests.making import fail_orders, wait_until
from orders.events import alerts_enabled
from orders.models import DeliveryState, FailedStatus, StrategyAccount, UserProfile, WebhookDelivery
from orders.tests.rows import make_strategy_account, make_user


def outcomes() -> dict[int, str]:
    return dict(Alert.objects.values_list("failed_order_id", "outcome"))


def let_the_hold_end() -> None:
    Chat.objects.update(held_until=datetime.now(UTC) - timedelta(seconds=1))


class TestAlertsDeliver:
    def test_makes_one_message_of_thirty_failures_of_one_webhook(
        self, bot_api: BotApi, owner: StrategyAccount
    ) -> None:
        failed = fail_orders(owner, 20) + fail_orders(owner, 10, error_type="rate_limit")

        alerts_deliver()

        (message,) = bot_api.messages
        assert message.text.startswith("⚠️ 30 orders failed\n")
        assert outcomes() == {one.pk: "SENT" for one in failed}

    def test_tells_nothing_twice(self, bot_api: BotApi, owner: StrategyAccount) -> None:
        fail_orders(owner)
        alerts_deliver()
        alerts_deliver()
        fail_orders(owner, webhook_id="w2")
        alerts_deliver()

        assert [message.text.splitlines()[2][:10] for message in bot_api.messages] == [
            "test1 · w1",
            "test1 · w2",
        ]

    def test_writes_to_everybody_in_their_language(self, bot_api: BotApi, owner: StrategyAccount) -> None:
        korean = make_user("kim")
        UserProfile.objects.create(user=korean, language="ko", time_zone="Asia/Seoul")
        theirs = make_strategy_account(user=korean, group_name="김치", account_name="업비트")
        fail_orders(owner)
        fail_orders(theirs, 2)

        alerts_deliver()

        first, second = (message.text for message in bot_api.messages)
        assert first.startswith("⚠️ 1 order failed")
        assert "UTC\nmain: Insufficient balance" in first
        assert second.startswith("⚠️ 주문 2건 실패")
        assert "KST\n업비트: 잔고가 부족합니다" in second

    def test_waits_until_the_webhook_is_answered(self, bot_api: BotApi, owner: StrategyAccount) -> None:
        fail_orders(owner, 15, delivery_state=DeliveryState.WORKING)
        worker = threading.Thread(target=deliver_in_thread)
        worker.start()
        wait_until(lambda: Chat.objects.filter(held_until__lte=datetime.now(UTC)).exists())
        fail_orders(owner, 15, delivery_state=DeliveryState.WORKING)
        assert bot_api.asked == 0

        WebhookDelivery.objects.update(state=DeliveryState.ANSWERED)

        worker.join(10)
        assert [message.text.splitlines()[0] for message in bot_api.messages] == ["⚠️ 30 orders failed"]

    def test_does_not_wait_for_ever_for_a_webhook_whose_process_died(
        self, bot_api: BotApi, owner: StrategyAccount
    ) -> None:
        fail_orders(
            owner,
            delivery_state=DeliveryState.WORKING,
            created_at=datetime.now(UTC) - timedelta(seconds=31),
        )

        alerts_deliver()

        assert len(bot_api.messages) == 1

    def test_waits_as_long_as_telegram_asks(self, bot_api: BotApi, owner: StrategyAccount) -> None:
        fail_orders(owner)
        bot_api.answers = [flood(300)]
        before = datetime.now(UTC)

        alerts_deliver()
        fail_orders(owner, webhook_id="w2")
        alerts_deliver()

        assert bot_api.asked == 1
        held = Chat.objects.get().held_until - before
        assert timedelta(seconds=300) <= held < timedelta(seconds=305)
        let_the_hold_end()
        alerts_deliver()
        assert [message.text.splitlines()[0] for message in bot_api.messages] == ["⚠️ 2 orders failed"]

    def test_sits_a_short_wait_out(self, bot_api: BotApi, owner: StrategyAccount) -> None:
        fail_orders(owner)
        bot_api.answers = [flood(1)]
        before = datetime.now(UTC)

        alerts_deliver()

        assert len(bot_api.messages) == 1
        assert datetime.now(UTC) - before >= timedelta(seconds=1)

    def test_waits_longer_with_every_refusal(
        self, bot_api: BotApi, owner: StrategyAccount, caplog: pytest.LogCaptureFixture
    ) -> None:
        fail_orders(owner)
        bot_api.answers = [refusal(502, "Bad Gateway") for _ in range(7)]
        waits = []
        for _ in range(7):
            let_the_hold_end()
            alerts_deliver()
            waits.append(round((Chat.objects.get().held_until - datetime.now(UTC)).total_seconds()))

        assert waits == [30, 60, 120, 240, 480, 900, 900]
        assert "Alert of 1 failed orders waits 900 s: NetworkError: Bad Gateway" in caplog.text
        let_the_hold_end()
        alerts_deliver()
        assert len(bot_api.messages) == 1
        assert Chat.objects.get().refusals == 0

    def test_gives_up_after_a_day_and_says_so(
        self, bot_api: BotApi, owner: StrategyAccount, caplog: pytest.LogCaptureFixture
    ) -> None:
        now = datetime.now(UTC)
        (old,) = fail_orders(owner, created_at=now - timedelta(hours=24, seconds=5))
        (recent,) = fail_orders(owner, created_at=now - timedelta(hours=23, minutes=59))

        alerts_deliver()
        alerts_deliver()

        assert outcomes() == {old.pk: "DROPPED", recent.pk: "SENT"}
        assert caplog.text.count(f"Dropped the alerts of 1 failed orders, a day old: [{old.pk}]") == 1

    def test_lets_one_process_at_a_time_send(self, bot_api: BotApi, owner: StrategyAccount) -> None:
        fail_orders(owner, 3)
        bot_api.release = threading.Event()
        first = threading.Thread(target=deliver_in_thread)
        first.start()
        wait_until(lambda: bot_api.asked == 1)

        alerts_deliver()  # returns: the other one has the chat

        bot_api.release.set()
        first.join(10)
        assert (bot_api.asked, len(bot_api.messages)) == (1, 1)

    def test_leaves_out_what_a_person_removed_and_what_was_healed(
        self, bot_api: BotApi, owner: StrategyAccount
    ) -> None:
        fail_orders(owner, status=FailedStatus.REMOVED)
        (healed,) = fail_orders(owner)
        healed.delete()

        alerts_deliver()

        assert bot_api.asked == 0

    def test_does_nothing_when_telegram_is_not_configured(
        self, owner: StrategyAccount, settings: Settings
    ) -> None:
        settings.TELEGRAM_BOT_TOKEN = ""
        fail_orders(owner, alert_sent=True)

        with CaptureQueriesContext(connection) as queries:
            alerts_deliver()

        assert len(queries) == 0
        assert outcomes() == {}

    def test_never_tells_of_failures_from_before_it_was_configured(
        self, owner: StrategyAccount, request: pytest.FixtureRequest
    ) -> None:
        (failed,) = fail_orders(owner)
        bot_api: BotApi = request.getfixturevalue("bot_api")

        alerts_deliver()

        assert failed.alert_sent is False
        assert bot_api.asked == 0


class TestAlertsEnabled:
    @pytest.mark.parametrize(
        ("token", "chat", "enabled"), [("t", "c", True), ("", "c", False), ("t", "", False), ("", "", False)]
    )
    def test_needs_a_bot_and_a_chat(self, settings: Settings, token: str, chat: str, enabled: bool) -> None:
        settings.TELEGRAM_BOT_TOKEN, settings.TELEGRAM_CHAT_ID = token, chat

        assert alerts_enabled() is enabled

    def test_is_false_when_nobody_carries_alerts(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.TELEGRAM_BOT_TOKEN, settings.TELEGRAM_CHAT_ID = "t", "c"
        monkeypatch.setattr("orders.events._alert_carriers", [])

        assert alerts_enabled() is False


def deliver_in_thread() -> None:
    try:
        alerts.alerts_deliver()
    finally:
        connections.close_all()
