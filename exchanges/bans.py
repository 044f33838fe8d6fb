"""Bans as rows: what an exchange tells one process, every process that sends obeys.

An exchange bans an address, not a process, and whoever goes on asking is banned for longer. So the
first one that is sent away (418, or 429 with its Retry-After) writes it down, and every process looks
for such rows (`exchanges.sharing`). Processes behind another address wait as well: rather that than a
ban that grows.

Times are this machine's wall clock, as the exchange's "for so many seconds" is counted by it.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

from django.utils import timezone

from exchanges import runtime, sharing
from exchanges.models import Ban

logger = logging.getLogger(__name__)

_outbox: sharing.Outbox[tuple[str, float, str]] = sharing.Outbox()


def ban_record(base_url: str, until: float, reason: str) -> None:
    """Write a ban down; a longer one that is known already stands. `until` in epoch seconds."""
    ends_at = datetime.fromtimestamp(until, UTC)
    defaults = {"until": ends_at, "reason": reason}
    _, is_new = Ban.objects.get_or_create(base_url=base_url, defaults=defaults)
    if not is_new:
        Ban.objects.filter(base_url=base_url, until__lt=ends_at).update(until=ends_at, reason=reason)


def bans_obey() -> int:
    """Let this process's adapters hold back where a ban is in force; return how many there are."""
    bans = list(Ban.objects.filter(until__gt=timezone.now()))
    for ban in bans:
        runtime.obey_ban(ban.base_url, ban.until.timestamp(), ban.reason)
    return len(bans)


def _hear(base_url: str, until: float, reason: str) -> None:
    _outbox.put((base_url, until, reason))


def _write(news: tuple[str, float, str]) -> None:
    base_url, until, reason = news
    if until > time.time():
        logger.warning("%s sends us away for %.0f s: %s", base_url, until - time.time(), reason)
        ban_record(base_url, until, reason)


def _look() -> None:
    _outbox.write(_write)
    bans_obey()


sharing.share(_look)
runtime.on_ban(_hear)
