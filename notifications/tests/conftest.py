from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_django.fixtures import Settings

from notifications import alerts, chats, listeners
from notifications.tests.bot_api import CHAT, TOKEN, BotApi, running_bot_api
from orders.models import StrategyAccount
from orders.tests.rows import make_strategy_account


class Bell:
    """Stands where the listener's thread is called from: counts, so that no thread outlives a test."""

    def __init__(self) -> None:
        self.rings = 0

    def ring(self) -> None:
        self.rings += 1


@pytest.fixture
def bell(monkeypatch: pytest.MonkeyPatch) -> Bell:
    made = Bell()
    monkeypatch.setattr(listeners, "_bundler", made)
    return made


@pytest.fixture
def bot_api(settings: Settings, monkeypatch: pytest.MonkeyPatch, bell: Bell) -> Iterator[BotApi]:
    """A Bot API that the settings name, and a sender that is quick with everything but its back-off."""
    monkeypatch.setattr(chats, "PACE_SECONDS", 0.05)
    monkeypatch.setattr(alerts, "LOOK_AGAIN_SECONDS", 0.05)
    with running_bot_api() as api:
        settings.TELEGRAM_BOT_TOKEN, settings.TELEGRAM_CHAT_ID = TOKEN, CHAT
        settings.TELEGRAM_API_URL = api.url
        yield api


@pytest.fixture
def owner(transactional_db: None) -> StrategyAccount:
    return make_strategy_account()
