"""Follow one account's user stream for ever: connect, listen, reconnect.

Reconnects at once after an orderly close by the server, otherwise after 0.5 to 30 s, growing and
jittered. Our own ping without an answer counts as a break. What cannot be read is handed on raw.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import aiohttp

from exchanges.adapters.exceptions import ExchangeError, RefusedForNow
from exchanges.adapters.secrets import Masker
from exchanges.adapters.subscriptions import Subscriptions
from exchanges.adapters.types import (
    OrderReport,
    StreamEvent,
    StreamState,
    StreamStateChange,
    UnreadableMessage,
)

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
PING_SECONDS = 20.0  # a pong must be here within half of it
_ORDERLY_CODES = frozenset({1000, 1001, 1012})  # normal, going away, service restart
ALIVE_SECONDS = 1.0  # shorter lives do not count as having worked
MAX_MESSAGE_BYTES = 4 << 20  # beyond that the connection is given up
_READ_LENGTH = 256 * 1024  # characters: what is longer is no report, and not worth the parsing
_RAW_LENGTH = 4000  # characters that are kept of what cannot be read


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
                            # No frame that makes sense, or one that is far too long: the bytes are gone.
                            # Anything else is a line that broke, a pong that did not come: no message.
                            if isinstance(message.data, aiohttp.WebSocketError):
                                yield UnreadableMessage("", self.mask(repr(message.data)))
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
                reason = _in_words(exc)
                at_least = (exc.retry_after or 0.0) if isinstance(exc, RefusedForNow) else 0.0
            except (ValueError, LookupError, TypeError, RecursionError) as exc:
                reason = f"unreadable answer to the connection: {exc!r}"
            yield StreamStateChange(StreamState.DISCONNECTED, self.mask(reason))
            has_worked = time.monotonic() - began_at >= ALIVE_SECONDS
            failures = 0 if has_worked else failures + 1
            if not (is_orderly and has_worked):
                await asyncio.sleep(max(at_least, delay_after(failures)))

    async def _events(self, message: aiohttp.WSMessage) -> list[StreamEvent]:
        if message.type is not aiohttp.WSMsgType.TEXT:
            raw = message.data if isinstance(message.data, bytes) else repr(message.data).encode()
            text = raw[:_READ_LENGTH].decode("utf-8", "replace")
            return [self._unreadable(text, f"unexpected {message.type.name} frame")]
        if len(message.data) > _READ_LENGTH:
            return [self._unreadable(message.data, f"a message of {len(message.data)} characters")]
        try:
            events = await self.read(message.data)
            for event in events:
                if isinstance(event, OrderReport):
                    _check(event)
        except _UNREADABLE as exc:
            return [self._unreadable(message.data, repr(exc))]
        return events

    def _unreadable(self, text: str, error: str) -> UnreadableMessage:
        return UnreadableMessage(self.mask(text[:_READ_LENGTH], limit=_RAW_LENGTH), self.mask(error))


# What reading a message may run into: it says something else than it should, or nests without end.
_UNREADABLE = (
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    RecursionError,
    OSError,  # a time that no calendar has
    ExchangeError,
)


_DIGITS = 20  # before the point, or zeros behind it: no market counts like that, and nobody could store it


def _check(report: OrderReport) -> None:
    """Raise ValueError where a report counts with what is no quantity: nothing is to be guessed from it."""
    quantities = [report.quantity, report.filled_quantity, *(fill.quantity for fill in report.fills)]
    prices = [report.price, report.stop_price, report.average_price, *(fill.price for fill in report.fills)]
    others = [value for fill in report.fills for value in (fill.fee, fill.realized_pnl)]
    for value in (*quantities, *prices, *others):
        if value is not None and not (value.is_finite() and (not value or abs(value.adjusted()) < _DIGITS)):
            raise ValueError(f"{value} is no quantity or price")
    if any(value is not None and value < 0 for value in (*quantities, *prices)):
        raise ValueError("a quantity or price below zero")
    if any(not (fill.quantity and fill.price and fill.trade_id) for fill in report.fills):
        raise ValueError("a fill of nothing, for nothing, or without an id")
    filled = [report.filled_quantity or 0, *(fill.quantity for fill in report.fills)]
    if report.quantity and max(filled) > report.quantity:
        raise ValueError(f"{max(filled)} filled of {report.quantity}")
    if not (report.client_order_id or report.exchange_order_id or report.child_order_id):
        raise ValueError("a report that names no order")


class SymbolStream(AccountStream):
    """A stream on which symbols are subscribed one by one."""

    def __init__(self, *, mask: Masker) -> None:
        self.mask = mask
        self.subscriptions = Subscriptions(mask=mask)

    @abstractmethod
    def open(self) -> AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]:
        """Open the socket and log in. Raises ExchangeError or what aiohttp raises."""

    @abstractmethod
    async def subscribe(self, socket: aiohttp.ClientWebSocketResponse, symbol: str) -> None:
        """Ask for one symbol. A refusal that comes as a message goes to `subscriptions.failed`."""

    @abstractmethod
    async def unsubscribe(self, socket: aiohttp.ClientWebSocketResponse, symbol: str) -> None: ...

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        async with self.open() as socket:
            try:
                await self.subscriptions.attach(
                    subscribe=partial(self.subscribe, socket), unsubscribe=partial(self.unsubscribe, socket)
                )
                yield socket
            finally:
                self.subscriptions.detach()


def _in_words(fault: Exception) -> str:
    """Say why a stream broke; the page shows it."""
    if isinstance(fault, ExchangeError):
        return fault.message
    if isinstance(fault, TimeoutError):
        return "no answer in time"
    return f"{type(fault).__name__}: {fault}"


def delay_after(failures: int) -> float:
    """Seconds to wait before the next try: between 0.5 and 30, growing, with jitter."""
    longest = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(failures, 16))
    return random.uniform(FIRST_DELAY_SECONDS, longest)
