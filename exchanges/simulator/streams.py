"""Private streams: who listens to which account, and what goes wrong on the way.

Publishing is synchronous and ordered; every connection has a task that writes what waits in
its outbox, late by the simulated network if there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from exchanges.simulator.faults import FaultKind, Faults
from exchanges.simulator.wire import OrderMark, encode

Event = dict[str, Any]
NO_ORDER = OrderMark("", "")
REORDER_SECONDS = 1.0  # a message held back goes out after the next of its name, or after this long


class Connection:
    """One WebSocket and what waits to be sent on it."""

    def __init__(
        self, socket: web.WebSocketResponse, request: web.BaseRequest, delay: Callable[[], float]
    ) -> None:
        self.socket = socket
        self._request = request
        self._delay = delay
        self._waiting: asyncio.Queue[tuple[float, str | bytes]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._writer = self._loop.create_task(self._write())

    def send(self, message: str | bytes, *, late: float = 0.0) -> None:
        """Send a text frame or a binary one, by the network's delay and so many seconds `late`.

        What comes after it waits, too.
        """
        self._waiting.put_nowait((self._loop.time() + self._delay() + late, message))

    def write(self, data: bytes) -> None:
        """Put bytes on the wire as they are, whether they make a frame or not."""
        if self._request.transport is not None:
            self._request.transport.write(data)

    def cut(self) -> None:
        """End the connection without a goodbye, as a broken network does."""
        self._writer.cancel()
        if self._request.transport is not None:
            self._request.transport.abort()

    async def close(self) -> None:
        self._writer.cancel()
        await self.socket.close()

    def finish(self) -> None:
        """Stop writing; the socket is gone."""
        self._writer.cancel()

    async def _write(self) -> None:
        while True:
            due, message = await self._waiting.get()
            if (wait := due - self._loop.time()) > 0:
                await asyncio.sleep(wait)
            try:
                if isinstance(message, bytes):
                    await self.socket.send_bytes(message)
                else:
                    await self.socket.send_str(message)
            except (ConnectionError, RuntimeError):
                return  # closed under our hands: nobody listens any more


@dataclass(slots=True, eq=False)
class Subscription:
    """One account heard on one connection; `wrap` puts the event into the stream's frame."""

    exchange: str
    api_key: str
    connection: Connection
    wrap: Callable[[Event], Event]
    wants: Callable[[str], bool]
    # By event name: a fill comes with events of other names, which change places with nothing.
    held_back: dict[str, tuple[str, asyncio.TimerHandle]] = field(default_factory=dict)

    def hold_back(self, name: str, text: str) -> None:
        timer = asyncio.get_running_loop().call_later(REORDER_SECONDS, self.release, name)
        self.held_back[name] = (text, timer)

    def release(self, name: str) -> None:
        """Send the message of this name that is held back, if there is one."""
        if name in self.held_back:
            text, timer = self.held_back.pop(name)
            timer.cancel()
            self.connection.send(text)


class Hub:
    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._subscriptions: dict[tuple[str, str], list[Subscription]] = {}

    def __len__(self) -> int:
        return sum(len(group) for group in self._subscriptions.values())

    def subscribe(self, subscription: Subscription) -> None:
        key = (subscription.exchange, subscription.api_key)
        self._subscriptions.setdefault(key, []).append(subscription)

    def unsubscribe(self, subscription: Subscription) -> None:
        key = (subscription.exchange, subscription.api_key)
        group = self._subscriptions.get(key, [])
        if subscription in group:
            group.remove(subscription)
        if not group:
            self._subscriptions.pop(key, None)

    def has_listeners(self, exchange: str, api_key: str) -> bool:
        return (exchange, api_key) in self._subscriptions

    def listeners(self, *, exchange: str = "", api_key: str = "") -> list[Subscription]:
        return [
            subscription
            for (at, key), group in self._subscriptions.items()
            if exchange in ("", at) and api_key in ("", key)
            for subscription in group
        ]

    def publish(self, exchange: str, api_key: str, event: Event, mark: OrderMark = NO_ORDER) -> None:
        """Send an event (its name is in `e`) to everyone who hears this account."""
        for subscription in self._subscriptions.get((exchange, api_key), ()):
            name = str(event.get("e", ""))
            if subscription.wants(name):
                self._send(subscription, name, encode(subscription.wrap(event)), mark)

    def cut(self, *, exchange: str = "", api_key: str = "") -> int:
        """Break the connections of matching listeners; return how many listeners that were."""
        found = self.listeners(exchange=exchange, api_key=api_key)
        for subscription in found:
            subscription.connection.cut()
        return len(found)

    def _send(self, subscription: Subscription, name: str, text: str, mark: OrderMark) -> None:
        fault = None
        if self._faults.active:
            fault = self._faults.for_event(subscription.exchange, subscription.api_key, name, mark)
        kind = fault.kind if fault is not None else None
        if kind is FaultKind.STREAM_DROP:
            return
        if kind is FaultKind.STREAM_GARBLE:
            text = text[: len(text) // 2]
        if kind is FaultKind.STREAM_REORDER and name not in subscription.held_back:
            subscription.hold_back(name, text)
            return
        is_late = fault is not None and kind is FaultKind.STREAM_DELAY
        subscription.connection.send(text, late=fault.seconds if fault is not None and is_late else 0.0)
        if kind is FaultKind.STREAM_DUPLICATE:
            subscription.connection.send(text)
        subscription.release(name)


class Sockets:
    """Opens the server's side of WebSockets; `delay` is the network's, one way, in seconds."""

    def __init__(self, faults: Faults, delay: Callable[[], float]) -> None:
        self._faults = faults
        self._delay = delay

    def refusal(self, exchange: str, api_key: str) -> web.Response | None:
        if not self._faults.active:
            return None
        fault = self._faults.refusing_stream(exchange, api_key)
        return None if fault is None else web.Response(status=fault.status, text=fault.body)

    async def open(
        self, request: web.BaseRequest, ping_seconds: float
    ) -> tuple[web.WebSocketResponse, Connection]:
        socket = web.WebSocketResponse(heartbeat=ping_seconds, compress=False)
        await socket.prepare(request)
        return socket, Connection(socket, request, self._delay)
