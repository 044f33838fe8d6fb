"""Ending a web process in good order: what it has begun is answered before its connections are cut.

daphne cuts them at once when it is told to end. The work goes on and its orders stand, so a sender without a
`webhook_id` would send the same signal again, and it would be a second one.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from django.conf import settings

from orders.webhook.views import answer_all

_LOOKS = 100


def prepare() -> None:
    """Have daphne wait. Before daphne says how it ends itself: it does that when it runs."""
    if (reactor := _reactor()) is not None:
        reactor.addSystemEventTrigger("before", "shutdown", _drain)


def _reactor() -> Any:
    """Return daphne's reactor, None under another server."""
    return sys.modules.get("twisted.internet.reactor")


def _drain() -> Any:
    """Take no more connections, and answer what came by those that there are."""
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IListeningPort

    reactor = _reactor()
    for reader in reactor.getReaders():
        if IListeningPort.providedBy(reader):
            reader.stopListening()
    return Deferred.fromFuture(asyncio.ensure_future(_answer_and_write(reactor)))


async def _answer_and_write(reactor: Any) -> None:
    await answer_all(seconds=settings.WEBHOOK_TIMEOUT_SECONDS + 1)  # by then each has its 408 at least
    for _ in range(_LOOKS):
        if not reactor.getWriters():
            return
        await asyncio.sleep(0.01)  # what was answered last is still on its way out
