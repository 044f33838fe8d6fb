"""Breakers as rows: which exchange cannot be reached, seen from which machine.

One row per base URL and machine. What one process finds, the others of the same machine believe: they
share its way to the exchange. A machine that has lost its network stops nobody else's.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import transaction

from exchanges import runtime, sharing
from exchanges.adapters.breaker import BreakerNews, BreakerState, is_ahead
from exchanges.adapters.exceptions import UnsupportedOrder
from exchanges.adapters.types import Environment
from exchanges.metadata import HOSTS, endpoints_for
from exchanges.models import Breaker

logger = logging.getLogger(__name__)

_outbox: sharing.Outbox[BreakerNews] = sharing.Outbox()
_listeners: list[Callable[[Breaker, str], None]] = []


def node() -> str:
    """Return this machine's name, as rows carry it."""
    return socket.gethostname()[:64]


def on_change(listener: Callable[[Breaker, str], None]) -> None:
    """Have `listener(row, state before)` called when a breaker opens or closes, in the same transaction."""
    _listeners.append(listener)


def breaker_states() -> list[dict[str, Any]]:
    """Return every breaker that was ever open, those that nobody asks about any more left out.

    Keys: exchange, environments and market_types (lists of text: whom the URL serves), base_url, node, state
    (CLOSED, OPEN, HALF_OPEN), failures, opened_at, retry_at (aware, None while closed), changed_at, reason.
    """
    return [
        {
            "exchange": row.exchange,
            "environments": sorted({environment for environment, _ in served_by(row.base_url)}),
            "market_types": sorted({market for _, market in served_by(row.base_url)}),
            "base_url": row.base_url,
            "node": row.node,
            "state": row.state,
            "failures": row.failures,
            "opened_at": row.opened_at,
            "retry_at": row.retry_at,
            "changed_at": row.changed_at,
            "reason": row.reason,
        }
        for row in Breaker.objects.known()
    ]


def served_by(base_url: str) -> list[tuple[str, str]]:
    """Return (environment, market type) of everything that is sent to this URL under today's settings."""
    found = []
    for exchange, market in HOSTS:
        for environment in Environment:
            try:
                endpoints = endpoints_for(
                    exchange,
                    market,
                    environment,
                    simulator_url=settings.SIMULATOR_URL,
                    overrides=settings.EXCHANGE_URLS,
                )
            except UnsupportedOrder:
                continue
            if endpoints.rest == base_url:
                found.append((environment.value, market.value))
    return found


def breaker_record(news: BreakerNews) -> None:
    """Write a change down, and tell the listeners if it opened or closed; older news changes nothing."""
    changed_at = datetime.fromtimestamp(news.changed_at, UTC)
    fields = {
        "exchange": news.venue,
        "state": news.state.value,
        "failures": news.failures,
        "opened_at": _time(news.opened_at),
        "retry_at": _time(news.retry_at),
        "changed_at": changed_at,
        "reason": news.reason,
    }
    with transaction.atomic():
        Breaker.objects.bulk_create(
            [Breaker(base_url=news.base_url, node=node(), changed_at=datetime.fromtimestamp(0, UTC))],
            ignore_conflicts=True,
        )
        row = Breaker.objects.select_for_update().get(base_url=news.base_url, node=node())
        if row.changed_at >= changed_at and not is_ahead(row.changed_at.timestamp()):
            return
        before = row.state
        for name, value in fields.items():
            setattr(row, name, value)
        row.save()
        if (before == BreakerState.CLOSED) != (row.state == BreakerState.CLOSED):
            logger.warning("%s: the circuit breaker is %s now. %s", row.base_url, row.state, row.reason)
            for listener in _listeners:
                listener(row, before)


def breakers_adopt() -> int:
    """Let this process believe what others of this machine found; return how many rows there are."""
    rows = list(Breaker.objects.known().filter(node=node()))
    for row in rows:
        runtime.adopt_breaker(
            BreakerNews(
                base_url=row.base_url,
                venue=row.exchange,
                state=BreakerState(row.state),
                failures=row.failures,
                changed_at=row.changed_at.timestamp(),
                opened_at=row.opened_at.timestamp() if row.opened_at else None,
                retry_at=row.retry_at.timestamp() if row.retry_at else None,
                reason=row.reason,
            )
        )
    return len(rows)


def _time(epoch: float | None) -> datetime | None:
    return None if epoch is None else datetime.fromtimestamp(epoch, UTC)


def _look() -> None:
    _outbox.write(breaker_record)
    breakers_adopt()


sharing.share(_look)
runtime.on_breaker(_outbox.put)
