"""The alert of an exchange that is away, and the one that it is back."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from django.utils import timezone
from pytest_django.fixtures import Settings

from exchanges.adapters.breaker import BreakerNews, BreakerState
from exchanges.breakers import breaker_record
from exchanges.models import Breaker
from notifications.alerts import alerts_deliver
from notifications.models import BreakerAlert
from notifications.tests.bot_api import BotApi
from notifications.tests.conftest import Bell

pytestmark = pytest.mark.django_db(transaction=True)
URL = "https://fapi.binance.com"


def breaker_is(state: BreakerState, *, at: float = 0.0, base_url: str = URL) -> None:
    now = time.time() + at
    is_open = state is not BreakerState.CLOSED
    breaker_record(
        BreakerNews(
            base_url=base_url,
            venue="binance",
            state=state,
            failures=3,
            changed_at=now,
            opened_at=now if is_open else None,
            retry_at=now + 30 if is_open else None,
            reason="no answer within 10 s <script>" if is_open else "",
        )
    )


class TestBreakerAlerts:
    def test_tell_once_that_it_is_away_and_once_that_it_is_back(self, bot_api: BotApi, bell: Bell) -> None:
        breaker_is(BreakerState.OPEN)
        assert bell.rings == 1
        alerts_deliver()
        for state in (BreakerState.OPEN, BreakerState.HALF_OPEN):
            breaker_is(state, at=1)
            alerts_deliver()
        breaker_is(BreakerState.CLOSED, at=3)
        assert bell.rings == 2
        alerts_deliver()
        alerts_deliver()

        away, back = (message.text.splitlines() for message in bot_api.messages)
        assert away[0] == "⛔ Binance cannot be reached"
        assert away[1].startswith("FUTURES LIVE · https://fapi.binance.com · ")
        assert away[2] == "no answer within 10 s <script>"  # escaped on the wire
        assert away[3].startswith("→ Queued orders wait.")
        assert back[0] == "✅ Binance answers again"
        assert len(bot_api.messages) == 2

    def test_speak_the_installations_language(self, bot_api: BotApi, settings: Settings) -> None:
        settings.LANGUAGE_CODE = "ko"
        breaker_is(BreakerState.OPEN)
        alerts_deliver()
        assert bot_api.messages[0].text.startswith("⛔ Binance에 연결할 수 없습니다")

    def test_are_one_for_all_machines(self, bot_api: BotApi) -> None:
        breaker_is(BreakerState.OPEN)
        Breaker.objects.update(node="first")
        breaker_is(BreakerState.OPEN)
        Breaker.objects.exclude(node="first").update(node="second")
        alerts_deliver()
        Breaker.objects.filter(node="first").update(state=BreakerState.CLOSED, retry_at=None)
        alerts_deliver()

        (message,) = bot_api.messages
        assert "seen from first, second" in message.text

    def test_say_nothing_of_what_is_over_before_it_was_told(self, bot_api: BotApi) -> None:
        breaker_is(BreakerState.OPEN)
        breaker_is(BreakerState.CLOSED, at=1)
        alerts_deliver()
        assert bot_api.messages == []

    def test_do_not_call_back_what_nobody_tries_any_more(self, bot_api: BotApi) -> None:
        breaker_is(BreakerState.OPEN)
        alerts_deliver()
        Breaker.objects.update(retry_at=timezone.now() - timedelta(minutes=11))
        alerts_deliver()
        assert len(bot_api.messages) == 1
        assert BreakerAlert.objects.exists() is False
