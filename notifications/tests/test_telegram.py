from __future__ import annotations

import io
import logging
import threading
import traceback

import pytest
from django.core.management import CommandError, call_command
from pytest_django.fixtures import Settings

from notifications import telegram
from notifications.tests.bot_api import CHAT, OTHER_CHAT, TOKEN, BotApi, flood, refusal

SECRET = TOKEN.partition(":")[2]


class TestSend:
    def test_reaches_the_chat(self, bot_api: BotApi) -> None:
        telegram.send("<b>1 &lt; 2</b>")

        assert [(message.chat_id, message.text) for message in bot_api.messages] == [(CHAT, "1 < 2")]

    def test_says_how_long_telegram_asks_to_wait(self, bot_api: BotApi) -> None:
        bot_api.answers = [flood(37)]

        with pytest.raises(telegram.NotDelivered) as caught:
            telegram.send("x")

        assert caught.value.retry_after == 37.0
        assert bot_api.messages == []

    @pytest.mark.parametrize("status", [400, 403, 404, 500, 502])
    def test_fails_when_telegram_refuses(self, bot_api: BotApi, status: int) -> None:
        bot_api.answers = [refusal(status, "Something is wrong")]

        with pytest.raises(telegram.NotDelivered, match="Something is wrong") as caught:
            telegram.send("x")

        assert caught.value.retry_after == 0.0

    def test_follows_a_group_that_became_a_supergroup(
        self, bot_api: BotApi, caplog: pytest.LogCaptureFixture
    ) -> None:
        bot_api.answers = [
            refusal(400, "Bad Request: group chat was upgraded", migrate_to_chat_id=OTHER_CHAT)
        ]

        telegram.send("x")

        assert [message.chat_id for message in bot_api.messages] == [str(OTHER_CHAT)]
        assert f"set TELEGRAM_CHAT_ID={OTHER_CHAT}" in caplog.text

    def test_does_not_wait_for_a_silent_server(
        self, bot_api: BotApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bot_api.release = threading.Event()
        monkeypatch.setattr(telegram, "TIMEOUT_SECONDS", 0.2)
        try:
            with pytest.raises(telegram.NotDelivered, match="TimedOut"):
                telegram.send("x")
        finally:
            bot_api.release.set()

    @pytest.mark.parametrize("down", [True, False])
    def test_never_shows_the_token(
        self, bot_api: BotApi, settings: Settings, caplog: pytest.LogCaptureFixture, down: bool
    ) -> None:
        settings.TELEGRAM_BOT_TOKEN = TOKEN + "-wrong"
        if down:
            settings.TELEGRAM_API_URL = "http://127.0.0.1:1"
        with caplog.at_level(logging.DEBUG), pytest.raises(telegram.NotDelivered) as caught:
            telegram.send("x")

        shown = caplog.text + "".join(traceback.format_exception(caught.value))
        assert SECRET not in shown
        assert down or "/bot123456789:***/sendMessage" in shown  # the library did log the address


class TestNotifyTest:
    def test_sends_a_message(self, bot_api: BotApi) -> None:
        out = io.StringIO()

        call_command("notify_test", stdout=out)

        assert out.getvalue() == f"Sent to chat {CHAT}.\n"
        assert [message.text for message in bot_api.messages] == [
            "✅ tradehub reaches this chat. Alerts about failed orders will arrive here."
        ]

    def test_says_why_nothing_arrived(self, bot_api: BotApi, settings: Settings) -> None:
        settings.TELEGRAM_CHAT_ID = "-1"

        with pytest.raises(CommandError, match="Not delivered. BadRequest: Chat not found"):
            call_command("notify_test")

    def test_names_the_settings_that_are_missing(self, bot_api: BotApi, settings: Settings) -> None:
        settings.TELEGRAM_CHAT_ID = ""

        with pytest.raises(CommandError, match="TELEGRAM_CHAT_ID"):
            call_command("notify_test")

        assert bot_api.asked == 0
