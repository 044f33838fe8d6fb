"""The system's chat: whether there is one, and whose turn it is to write to it."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from notifications.models import Chat

SYSTEM = "system"
LEASE_SECONDS = 60.0  # longer than one message can take
PACE_SECONDS = 3.0  # Telegram takes 20 messages a minute for a group
BACK_OFF_SECONDS = 30.0
BACK_OFF_MAX_SECONDS = 900.0


def is_configured() -> bool:
    """Tell whether messages have anywhere to go."""
    return bool(settings.TELEGRAM_BOT_TOKEN and settings.TELEGRAM_CHAT_ID)


def turn_take() -> float:
    """Take the chat for one message, or return how many seconds it is still held (0: it is ours).

    A process that is frozen for longer than the lease sends beside its successor: a message told twice
    is better than one that is lost.
    """
    now = timezone.now()
    chat, _ = Chat.objects.get_or_create(name=SYSTEM, defaults={"held_until": now})
    free = Chat.objects.filter(pk=chat.pk, held_until__lte=now)
    if free.update(held_until=now + timedelta(seconds=LEASE_SECONDS)):
        return 0.0
    return max(0.1, (chat.held_until - now).total_seconds())


def turn_end(*, hold_seconds: float) -> None:
    """Hand the chat back; nobody writes to it for so long. Telegram's patience is as good as new."""
    _hold(hold_seconds, refusals=0)


def turn_end_refused(*, retry_after_seconds: float) -> float:
    """Hand the chat back after a refusal: wait as long as Telegram asks, else longer with every refusal.

    Returns the seconds that nobody writes.
    """
    refusals = Chat.objects.values_list("refusals", flat=True).get(name=SYSTEM)
    seconds = retry_after_seconds or min(BACK_OFF_SECONDS * 2 ** min(refusals, 8), BACK_OFF_MAX_SECONDS)
    _hold(seconds, refusals=min(refusals + 1, 1000))
    return seconds


def _hold(seconds: float, *, refusals: int) -> None:
    until = timezone.now() + timedelta(seconds=seconds)
    Chat.objects.filter(name=SYSTEM).update(held_until=until, refusals=refusals)
