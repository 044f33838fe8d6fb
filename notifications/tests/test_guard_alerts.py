"""The alert of a loss guard: told once, in its owner's language and time zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import transaction
from pytest_django.fixtures import Settings

from notifications.alerts import alerts_deliver
from notifications.models import AlertOutcome, GuardAlert
from notifications.tests.bot_api import BotApi
from notifications.tests.conftest import Bell
from orders import events
from orders.models import LossTrip, StrategyAccount, UserProfile


def trip(owner: StrategyAccount, **fields: Any) -> LossTrip:
    """A drawdown of 15 %, as the house writes it."""
    defaults = {
        "kind": "DRAWDOWN", "limit": Decimal(10), "value": Decimal(15), "reason": "it fell",
        "tripped_at": datetime.now(UTC), "alert_sent": events.alerts_enabled(),
    }  # fmt: skip
    with transaction.atomic():
        made = LossTrip.objects.create(strategy_account=owner, **defaults | fields)
        events.publish(events.GuardTripped(made.pk))
    return made


class TestGuardAlerts:
    def test_are_sent_once_and_ring_the_bell_when_it_trips(
        self, bot_api: BotApi, bell: Bell, owner: StrategyAccount
    ) -> None:
        UserProfile.objects.create(user=owner.strategy.user, language="en", time_zone="Asia/Seoul")

        trip(owner)
        assert bell.rings == 1
        alerts_deliver()
        alerts_deliver()

        (message,) = bot_api.messages
        lines = message.text.splitlines()
        assert lines[0] == "🛑 A loss guard stopped a strategy"
        assert lines[1].startswith("test1 · main · ")
        assert lines[1].endswith(" KST")
        assert lines[2] == "Drawdown 15 %, limit 10 %"
        assert "Nothing is opened until a person resumes it" in lines[3]
        assert GuardAlert.objects.get().outcome == AlertOutcome.SENT

    def test_speak_korean(self, bot_api: BotApi, owner: StrategyAccount) -> None:
        UserProfile.objects.create(user=owner.strategy.user, language="ko")

        trip(owner)
        alerts_deliver()

        assert "손실 제한으로 전략이 멈췄습니다" in bot_api.messages[0].text

    def test_name_the_end_of_a_daily_loss(self, bot_api: BotApi, owner: StrategyAccount) -> None:
        UserProfile.objects.create(user=owner.strategy.user, language="en", time_zone="Asia/Seoul")
        ends_at = datetime.now(UTC).replace(hour=15, minute=0, second=0)
        trip(owner, kind="DAILY_LOSS", limit=Decimal(100), value=Decimal("120.456"), ends_at=ends_at)

        alerts_deliver()

        text = bot_api.messages[0].text
        assert "Realized loss of today 120.46, limit 100" in text
        assert "00:00 KST" in text

    def test_are_given_up_after_a_day(self, bot_api: BotApi, owner: StrategyAccount) -> None:
        trip(owner)
        LossTrip.objects.update(tripped_at=datetime.now(UTC) - timedelta(days=1, seconds=1))

        alerts_deliver()

        assert bot_api.messages == []
        assert GuardAlert.objects.get().outcome == AlertOutcome.DROPPED

    def test_are_not_promised_where_there_is_no_chat(
        self, bell: Bell, owner: StrategyAccount, settings: Settings
    ) -> None:
        settings.TELEGRAM_BOT_TOKEN = ""

        trip(owner)

        assert (LossTrip.objects.get().alert_sent, bell.rings) == (False, 0)
