"""The alert of orders that bear an id of our shape and are not ours."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone
from pytest_django.fixtures import Settings

from notifications.alerts import alerts_deliver
from notifications.models import AlertOutcome, StrangerAlert
from notifications.tests.bot_api import BotApi
from notifications.tests.conftest import Bell
from orders.models import EventSource
from orders.tests.rows import make_strategy_account
from tracking.models import UnmatchedReport
from tracking.tests.making import report
from tracking.unmatched import unmatched_keep, unmatched_retry
from tracking.watch import StreamKey

pytestmark = pytest.mark.django_db(transaction=True)


def name(number: int) -> str:
    return f"th{number:026d}0001"


@pytest.fixture
def key() -> StreamKey:
    return StreamKey(make_strategy_account().account_id, "FUTURES")


def seen(key: StreamKey, *client_order_ids: str) -> None:
    """Hear of orders that no placement explains, and find that they are not ours."""
    reports = [
        report(client_order_id=one, exchange_order_id=str(number))
        for number, one in enumerate(client_order_ids, 900)
    ]
    unmatched_keep(key=key, reports=reports, source=EventSource.STREAM)
    unmatched_retry(key=key, source=EventSource.STREAM)


class TestStrangerAlerts:
    def test_tell_once_of_all_that_were_found(self, key: StreamKey, bot_api: BotApi, bell: Bell) -> None:
        seen(key, *(name(number) for number in range(7)))
        assert bell.rings == 1
        alerts_deliver()
        seen(key, *(name(number) for number in range(7)))
        alerts_deliver()

        (message,) = bot_api.messages
        lines = message.text.splitlines()
        assert lines[0].startswith("❓ 7 orders that tradehub did not place bear ids like its own · ")
        assert lines[1].endswith(f" · BTC/USDT · {name(0)}")
        assert lines[6] == "• and 2 more"
        assert lines[7].startswith("→ Another installation trades with the same keys")
        assert StrangerAlert.objects.filter(outcome=AlertOutcome.SENT).count() == 7

    def test_say_nothing_of_orders_placed_by_hand(self, key: StreamKey, bot_api: BotApi, bell: Bell) -> None:
        seen(key, "web_1")
        alerts_deliver()
        assert UnmatchedReport.objects.get().state == UnmatchedReport.State.EXTERNAL
        assert (bell.rings, bot_api.messages) == (0, [])

    def test_speak_the_installations_language(
        self, key: StreamKey, bot_api: BotApi, settings: Settings
    ) -> None:
        settings.LANGUAGE_CODE = "ko"
        seen(key, name(1))
        alerts_deliver()
        assert "tradehub 형식의 ID를 가진 주문 1건" in bot_api.messages[0].text

    def test_are_dropped_after_a_day(self, key: StreamKey, bot_api: BotApi) -> None:
        seen(key, name(1))
        UnmatchedReport.objects.update(received_at=timezone.now() - timedelta(days=2))
        alerts_deliver()
        assert bot_api.messages == []
        assert StrangerAlert.objects.get().outcome == AlertOutcome.DROPPED
