from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_django.fixtures import SettingsWrapper

from notifications import alerts, chats
from notifications.tests.bot_api import CHAT, TOKEN, BotApi, running_bot_api


@pytest.fixture
def bot_api(settings: SettingsWrapper, monkeypatch: pytest.MonkeyPatch) -> Iterator[BotApi]:
    """A Bot API that the settings name, and a sender that does not wait for minutes."""
    monkeypatch.setattr(chats, "PACE_SECONDS", 0.05)
    monkeypatch.setattr(alerts, "LOOK_AGAIN_SECONDS", 0.05)
    with running_bot_api() as api:
        settings.TELEGRAM_BOT_TOKEN, settings.TELEGRAM_CHAT_ID = TOKEN, CHAT
        settings.TELEGRAM_API_URL = api.url
        yield api
