"""Facts that other rooms may hear, told after the commit that made them true."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db import transaction

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EventsLogged:
    """New lines stand in the order event log: whoever shows it should look."""


@dataclass(frozen=True, slots=True)
class OrderFailed:
    """An intent became a failed order and wants a person's eye."""

    failed_order_id: int
    webhook_id: str


@dataclass(frozen=True, slots=True)
class OrderFilled:
    """An order is filled completely."""

    intent_id: int


@dataclass(frozen=True, slots=True)
class GuardTripped:
    """A loss guard stopped a strategy account from opening positions."""

    trip_id: int


Fact = EventsLogged | OrderFailed | OrderFilled | GuardTripped
_listeners: dict[type, list[Callable[[Any], None]]] = {}
_alert_carriers: list[Callable[[], bool]] = []


def subscribe(kind: type, listener: Callable[[Any], None]) -> None:
    """Hear every fact of a kind. Listeners must not block: they run in the thread that committed."""
    listeners = _listeners.setdefault(kind, [])
    if listener not in listeners:
        listeners.append(listener)


def publish(*facts: object) -> None:
    """Tell facts once the current transaction is committed; a listener's fault never reaches the order."""
    for fact in facts:
        for listener in _listeners.get(type(fact), []):
            transaction.on_commit(partial(listener, fact), robust=True)


def carry_alerts(is_ready: Callable[[], bool]) -> None:
    """Promise to tell a person of every failed order written with `alert_sent` while `is_ready()` says so.

    The row is what is promised, not the fact: a carrier also finds those whose process died at its commit.
    `is_ready` is asked on the way of every order: no query, no waiting.
    """
    if is_ready not in _alert_carriers:
        _alert_carriers.append(is_ready)


def alerts_enabled() -> bool:
    """Tell whether a failed order that is written now will have its alert."""
    return any(is_ready() for is_ready in _alert_carriers)
