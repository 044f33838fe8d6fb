"""Alerts of exchanges that cannot be reached, and that can again: what the chat does not know yet, in words.

The breakers' rows are the news, so a process that dies loses none. What is over before it could be told is
not told: nobody needs to hear of yesterday's minute.
"""

from __future__ import annotations

from collections import defaultdict

from django.conf import settings
from django.utils import timezone

from exchanges.adapters.breaker import BreakerState
from exchanges.breakers import served_by
from exchanges.models import Breaker, ExchangeName
from notifications import formatting
from notifications.models import BreakerAlert


def waiting() -> list[formatting.Outage]:
    """Return what has to be told: outages that began, and those that ended."""
    rows: dict[str, list[Breaker]] = defaultdict(list)
    for row in Breaker.objects.known():
        rows[row.base_url].append(row)
    told = dict(BreakerAlert.objects.values_list("base_url", "is_down"))
    gone = [url for url, is_down in told.items() if is_down and url not in rows]
    if gone:  # nobody tries it any more: whether it is back nobody knows
        BreakerAlert.objects.filter(base_url__in=gone).delete()
    news = []
    for url, known in rows.items():
        down = [row for row in known if row.state != BreakerState.CLOSED]
        if bool(down) != told.get(url, False):
            news.append(_outage(url, down or known, is_down=bool(down)))
    return news


def _outage(url: str, rows: list[Breaker], *, is_down: bool) -> formatting.Outage:
    first = min(rows, key=lambda row: row.opened_at or row.changed_at)
    return formatting.Outage(
        base_url=url,
        exchange=dict(ExchangeName.choices).get(first.exchange, first.exchange),
        served=tuple(served_by(url)),
        nodes=tuple(sorted(row.node for row in rows)),
        at=(first.opened_at or first.changed_at) if is_down else max(row.changed_at for row in rows),
        reason=first.reason,
        is_down=is_down,
    )


def message_of(outage: formatting.Outage) -> str:
    return formatting.exchange_unreachable(
        outage, language=settings.LANGUAGE_CODE, time_zone=settings.TIME_ZONE
    )


def done(outage: formatting.Outage) -> None:
    BreakerAlert.objects.update_or_create(
        base_url=outage.base_url, defaults={"is_down": outage.is_down, "at": timezone.now()}
    )
