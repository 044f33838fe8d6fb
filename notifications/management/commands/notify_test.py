from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from notifications import chats, formatting, telegram


class Command(BaseCommand):
    help = "Send a test message to the system's Telegram chat, at once and from this process."

    def handle(self, *args: Any, **options: Any) -> None:
        if not chats.is_configured():
            raise CommandError("Set TELEGRAM_BOT_TOKEN and TELEGRAM_CHAT_ID first (see .env.example).")
        try:
            telegram.send(formatting.test_message(language=settings.LANGUAGE_CODE))
        except telegram.NotDelivered as error:
            raise CommandError(f"Not delivered. {error}") from None
        self.stdout.write(f"Sent to chat {settings.TELEGRAM_CHAT_ID}.")
