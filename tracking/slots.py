"""Slots that came free: one look for all accounts whether anything waits for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from django.db import InterfaceError, OperationalError

from orders.services.applied import Applied
from orders.services.queue import accounts_ready
from tracking.threads import Threads

logger = logging.getLogger(__name__)

GATHER_SECONDS = 0.05  # between two looks; the first is not held back


class _Freed(NamedTuple):
    account_id: int
    books: Applied
    fill: Callable[[Applied], None]


class FreedSlots:
    """Looks once for the books of many streams, and lets those fill theirs where something waits.

    Filling asks the exchange, so each account does that by itself. A look that fails is made up for by the
    sweep over all books.
    """

    def __init__(self, ledger: Threads) -> None:
        self._ledger = ledger
        self._waiting: list[_Freed] = []
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")

    def look(self, account_id: int, books: Applied, fill: Callable[[Applied], None]) -> None:
        """Have `fill(books)` called soon if orders are ready for these books of an account."""
        self._waiting.append(_Freed(account_id, books, fill))
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="freed slots")

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            if (wait := self._looked_at + GATHER_SECONDS - loop.time()) > 0:
                await asyncio.sleep(wait)
            self._looked_at = loop.time()
            found, self._waiting = self._waiting, []
            freed = {book_id for one in found for book_id in one.books.freed_books}
            settled = {book_id for one in found for book_id in one.books.settled_books}
            try:
                ready = await self._ledger.run(accounts_ready, book_ids=freed | settled, freed=freed)
            except (OperationalError, InterfaceError) as exc:
                logger.warning("The database is away, freed slots are filled by the sweep: %s", exc)
                continue
            for one in found:
                if one.account_id in ready:
                    one.fill(one.books)
