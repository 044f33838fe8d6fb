"""Symbols that one account's stream has to hear, where an exchange wants them subscribed one by one.

Each is subscribed once, however many orders there are on it, and unsubscribed when the last of them has
ended; whoever counts the orders says which symbols have any. After a reconnect all are subscribed again. A
subscription that fails is logged and tried again later: it never fails an order, reconciling hears of that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection

import aiohttp

from exchanges.adapters.exceptions import ExchangeError
from exchanges.adapters.secrets import Masker

logger = logging.getLogger(__name__)

AGAIN_SECONDS = (1.0, 60.0)  # after a failure, doubled each time

Tell = Callable[[str], Awaitable[None]]


class Subscriptions:
    """What is wanted, and what the connection that stands now has been told. Lives on one loop."""

    def __init__(self, *, mask: Masker | None = None) -> None:
        self.wanted: frozenset[str] = frozenset()
        self.told: set[str] = set()
        self._mask = mask or Masker()
        self._subscribe: Tell | None = None
        self._unsubscribe: Tell | None = None
        self._again: dict[str, tuple[float, float]] = {}  # symbol -> (not before, the wait after that)
        self._lock = asyncio.Lock()

    async def attach(self, *, subscribe: Tell, unsubscribe: Tell) -> None:
        """A connection stands: subscribe on it whatever is wanted."""
        self.told, self._again = set(), {}
        self._subscribe, self._unsubscribe = subscribe, unsubscribe
        await self._settle()

    def detach(self) -> None:
        """The connection is gone, and every subscription with it."""
        self.told, self._subscribe, self._unsubscribe = set(), None, None

    async def want(self, symbols: Collection[str]) -> set[str]:
        """Have exactly these symbols heard; return those that were not heard until now.

        What happened to those before was not heard: it has to be asked for.
        """
        self.wanted = frozenset(symbols)
        return await self._settle()

    def failed(self, symbol: str, why: str) -> None:
        """The exchange refused a subscription after it was sent."""
        self.told.discard(symbol)
        shortest, longest = AGAIN_SECONDS
        wait = self._again.get(symbol, (0.0, shortest))[1]
        self._again[symbol] = (time.monotonic() + wait, min(wait * 2, longest))
        logger.warning("A stream's subscription of %s failed, reconciling has to do: %s", symbol, why)

    async def _settle(self) -> set[str]:
        async with self._lock:
            new: set[str] = set()
            subscribe, unsubscribe = self._subscribe, self._unsubscribe
            if subscribe is None or unsubscribe is None:
                return new
            now = time.monotonic()
            for symbol in sorted(self.told - self.wanted):
                if await self._tell(unsubscribe, symbol):
                    self.told.discard(symbol)
            for symbol in sorted(self.wanted - self.told):
                if self._again.get(symbol, (0.0, 0.0))[0] > now:
                    continue
                self.told.add(symbol)  # first: its refusal may come while the next is sent
                if await self._tell(subscribe, symbol):
                    new.add(symbol)
            return new & self.told

    async def _tell(self, tell: Tell, symbol: str) -> bool:
        try:
            await tell(symbol)
        except (ExchangeError, aiohttp.ClientError, OSError, TimeoutError, RuntimeError) as exc:
            self.failed(symbol, self._mask(f"{type(exc).__name__}: {exc}"))
            return False
        return True
