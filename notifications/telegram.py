"""Messages to Telegram, through python-telegram-bot.

Source: core.telegram.org/bots/api "sendMessage", "Making requests" and "ResponseParameters".
"""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import timedelta

os.environ.setdefault("PTB_TIMEDELTA", "true")  # the library's coming type of retry_after; silences a warning

from django.conf import settings
from telegram import Bot, LinkPreviewOptions
from telegram.constants import ParseMode
from telegram.error import ChatMigrated, RetryAfter, TelegramError
from telegram.request import HTTPXRequest

logger = logging.getLogger(__name__)

MAX_LENGTH = 4096  # characters, after Telegram has read the markup
TIMEOUT_SECONDS = 10.0
MASK = "***"


class NotDelivered(Exception):
    """Telegram did not take the message, or nobody knows. `retry_after`: seconds that it asks us to wait."""

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def send(text: str) -> None:
    """Send HTML to the system's chat with the system's bot. Blocks; raises NotDelivered."""
    try:
        asyncio.run(_send(text))
    except RetryAfter as error:
        wait = error.retry_after
        seconds = wait.total_seconds() if isinstance(wait, timedelta) else float(wait)
        raise NotDelivered(mask(str(error)), retry_after=seconds) from None
    except TelegramError as error:  # `from None`: a cause quotes the URL, and the URL holds the token
        raise NotDelivered(mask(f"{type(error).__name__}: {error}")) from None


async def _send(text: str) -> None:
    request = HTTPXRequest(
        connect_timeout=TIMEOUT_SECONDS, read_timeout=TIMEOUT_SECONDS, write_timeout=TIMEOUT_SECONDS
    )
    async with request:
        bot = Bot(
            settings.TELEGRAM_BOT_TOKEN,
            base_url=f"{settings.TELEGRAM_API_URL.rstrip('/')}/bot",
            request=request,
            get_updates_request=request,
        )
        try:
            await _send_to(bot, settings.TELEGRAM_CHAT_ID, text)
        except ChatMigrated as moved:
            logger.warning("The chat is a supergroup now: set TELEGRAM_CHAT_ID=%s", moved.new_chat_id)
            await _send_to(bot, moved.new_chat_id, text)


async def _send_to(bot: Bot, chat_id: str | int, text: str) -> None:
    no_preview = LinkPreviewOptions(is_disabled=True)
    await bot.send_message(chat_id, text, parse_mode=ParseMode.HTML, link_preview_options=no_preview)


def mask(text: str) -> str:
    """Strike the bot's token out of a text."""
    secret = settings.TELEGRAM_BOT_TOKEN.rpartition(":")[2]
    return text.replace(secret, MASK) if secret else text


class _TokenFilter(logging.Filter):
    """The library and its HTTP client log the URLs that they ask, and the token is part of them."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = mask(record.getMessage()), ()
        return True


for name in ("httpx", "telegram.Bot"):
    logging.getLogger(name).addFilter(_TokenFilter())
