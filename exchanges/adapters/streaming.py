"""Follow one account's user stream for ever: connect, listen, reconnect.

Reconnects at once after an orderly close by the server, otherwise after 0.5 to 30 s, growing and
jittered. Our own ping without an answer counts as a break. What cannot be read is handed on raw.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager

import aiohttp

from exchanges.adapters.exceptions import ExchangeError, RefusedForNow
from exchanges.adapters.secrets import Masker
from exchanges.adapters.types import StreamEvent, StreamState, StreamStateChange, UnreadableMessage

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
PING_SECONDS = 20.0  # a pong must be here within half of it
_ORDERLY_CODES = frozenset({1000, 1001, 1012})  # normal, going away, service restart
ALIVE_SECONDS = 1.0  # shorter lives do not count as having worked
_RAW_LENGTH = 4000


class OrderlyEnd(Exception):
    """The server said that this connection has served its time."""


class AccountStream(ABC):
    """One exchange's side of it: how to connect and what its messages mean."""

    mask: Masker

    @abstractmethod
    def connect(self) -> AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]:
        """Open the socket, and leave it subscribed. Raises ExchangeError or what aiohttp raises."""

    @abstractmethod
    async def read(self, text: str) -> list[StreamEvent]:
        """Turn one message into events. Raises ValueError and its kin; OrderlyEnd at the end."""

    async def follow(self) -> AsyncGenerator[StreamEvent, None]:
        failures = 0
        while True:
            yield StreamStateChange(StreamState.CONNECTING)
            began_at, is_orderly, at_least = time.monotonic(), False, 0.0
            try:
                async with self.connect() as socket:
                    began_at = time.monotonic()
                    yield StreamStateChange(StreamState.CONNECTED)
                    async for message in socket:
                        if message.type is aiohttp.WSMsgType.ERROR:
                            break
                        for event in await self._events(message):
                            yield event
                    reason = f"closed by the server (code {socket.close_code})"
                    if (fault := socket.exception()) is not None:
                        reason = f"{type(fault).__name__}: {fault}"
                    is_orderly = socket.close_code in _ORDERLY_CODES
            except OrderlyEnd as exc:
                reason, is_orderly = str(exc), True
            except (ExchangeError, aiohttp.ClientError, OSError, TimeoutError) as exc:
                reason = f"{type(exc).__name__}: {exc}"
                at_least = (exc.retry_after or 0.0) if isinstance(exc, RefusedForNow) else 0.0
            yield StreamStateChange(StreamState.DISCONNECTED, self.mask(reason))
            has_worked = time.monotonic() - began_at >= ALIVE_SECONDS
            failures = 0 if has_worked else failures + 1
            if not (is_orderly and has_worked):
                await asyncio.sleep(max(at_least, delay_after(failures)))

    async def _events(self, message: aiohttp.WSMessage) -> list[StreamEvent]:
        if message.type is not aiohttp.WSMsgType.TEXT:
            return [
                UnreadableMessage(repr(message.data)[:_RAW_LENGTH], f"unexpected {message.type.name} frame")
            ]
        try:
            return await self.read(message.data)
        except (ValueError, KeyError, TypeError, ArithmeticError, AttributeError, ExchangeError) as exc:
            return [UnreadableMessage(self.mask(message.data, limit=_RAW_LENGTH), self.mask(repr(exc)))]


def delay_after(failures: int) -> float:
    """Seconds to wait before the next try: between 0.5 and 30, growing, with jitter."""
    longest = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(failures, 16))
    return random.uniform(FIRST_DELAY_SECONDS, longest)
