"""Binance USDⓈ-M futures: listen keys and the user stream. Source: fact sheet B5."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from exchanges.simulator.dialects.binance.base import Desk, Route, Routes, Security
from exchanges.simulator.dialects.binance.futures_format import (
    account_event,
    order_event,
    trade_lite_event,
)
from exchanges.simulator.positions import FuturesWallet
from exchanges.simulator.streams import Connection, Event, Sockets, Subscription
from exchanges.simulator.types import Change, Fill, Order
from exchanges.simulator.wire import Call, OrderMark, WireError, encode, parse_form

VALID_SECONDS = 3600.0
PING_SECONDS = 180.0
# The path before the key; the first two are today's, the others what older clients still open.
KEY_PATHS = ("/private/ws/", "/private/stream/", "/ws/", "/stream/")


@dataclass(slots=True, eq=False)
class ListenKey:
    key: str
    api_key: str
    timer: asyncio.TimerHandle | None = None
    subscriptions: list[Subscription] = field(default_factory=list)


class ListenKeys:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._by_key: dict[str, ListenKey] = {}
        self._by_account: dict[str, ListenKey] = {}
        self.routes: Routes = {
            ("POST", "/fapi/v1/listenKey"): Route(self.open, Security.KEY),
            ("PUT", "/fapi/v1/listenKey"): Route(self.extend, Security.KEY),
            ("DELETE", "/fapi/v1/listenKey"): Route(self.close, Security.KEY),
        }

    def open(self, call: Call) -> dict[str, Any]:
        """Return the account's key, a new one if none is valid; either way good for an hour."""
        found = self._by_account.get(call.api_key)
        if found is None:
            found = ListenKey(secrets.token_hex(32), call.api_key)
            self._by_key[found.key] = self._by_account[call.api_key] = found
        self._start_timer(found)
        return {"listenKey": found.key}

    def extend(self, call: Call) -> dict[str, Any]:
        found = self._by_account.get(call.api_key)
        if found is None:
            raise WireError(400, -1125, "This listenKey does not exist.")
        self._start_timer(found)
        return {"listenKey": found.key}

    def close(self, call: Call) -> dict[str, Any]:
        found = self._by_account.get(call.api_key)
        if found is not None:
            self._forget(found)
        return {}

    def find(self, key: str) -> ListenKey | None:
        return self._by_key.get(key)

    def expire(self, api_key: str) -> bool:
        """End an account's key as time does: its streams are told, then stay silent."""
        found = self._by_account.get(api_key)
        if found is None:
            return False
        event = {"e": "listenKeyExpired", "E": self._desk.now_ms(), "listenKey": found.key}
        for subscription in found.subscriptions:
            subscription.connection.send(encode(subscription.wrap(event)))
        self._forget(found)
        return True

    def clear(self) -> None:
        for found in list(self._by_key.values()):
            self._forget(found)

    def _start_timer(self, found: ListenKey) -> None:
        if found.timer is not None:
            found.timer.cancel()
        loop = asyncio.get_running_loop()
        found.timer = loop.call_later(VALID_SECONDS, self.expire, found.api_key)

    def _forget(self, found: ListenKey) -> None:
        if found.timer is not None:
            found.timer.cancel()
        for subscription in found.subscriptions:
            self._desk.hub.unsubscribe(subscription)
        self._by_key.pop(found.key, None)
        self._by_account.pop(found.api_key, None)


class FuturesStream:
    """Turns the engine's news into stream events, and serves the streams."""

    def __init__(self, desk: Desk, listen_keys: ListenKeys, sockets: Sockets) -> None:
        self._desk = desk
        self._listen_keys = listen_keys
        self._sockets = sockets

    def tell(self, order: Order, change: Change, fill: Fill | None) -> None:
        """Publish what happened to an order; the account's new state goes ahead of a fill."""
        hub, venue = self._desk.hub, self._desk.venue
        if change is Change.TRIGGERED or not hub.has_listeners(venue.name, order.api_key):
            return
        now_ms = self._desk.now_ms()
        mark = OrderMark(order.instrument.base + order.instrument.quote, order.client_order_id)
        if fill is not None:
            wallet = venue.account(order.api_key).wallet
            assert isinstance(wallet, FuturesWallet)
            position = wallet.position(order.instrument, order.position_side)
            price = venue.price(order.instrument)
            hub.publish(venue.name, order.api_key, trade_lite_event(order, fill, now_ms), mark)
            hub.publish(
                venue.name, order.api_key, account_event(order, wallet, position, price, now_ms), mark
            )
        hub.publish(venue.name, order.api_key, order_event(order, change.value, fill, now_ms), mark)

    async def serve(self, request: web.BaseRequest, path: str, query: str) -> web.StreamResponse:
        keys, is_wrapped, events = _wanted(path, query)
        listen_keys = [found for key in keys if (found := self._listen_keys.find(key)) is not None]
        if not listen_keys:
            return web.Response(status=400, text='{"code":-1125,"msg":"This listenKey does not exist."}')
        for found in listen_keys:
            if refusal := self._sockets.refusal(self._desk.venue.name, found.api_key):
                return refusal
        socket, connection = await self._sockets.open(request, PING_SECONDS)
        subscriptions = [
            self._subscribe(found, connection, is_wrapped=is_wrapped, events=events) for found in listen_keys
        ]
        try:
            async for message in socket:
                if message.type is web.WSMsgType.TEXT:
                    connection.send(encode({"result": None, "id": _request_id(message.data)}))
        finally:
            connection.finish()
            for found, subscription in zip(listen_keys, subscriptions, strict=True):
                self._desk.hub.unsubscribe(subscription)
                found.subscriptions.remove(subscription)
        return socket

    def _subscribe(
        self, found: ListenKey, connection: Connection, *, is_wrapped: bool, events: set[str]
    ) -> Subscription:
        def wrap(event: Event) -> Event:
            return {"stream": found.key, "data": event} if is_wrapped else event

        def wants(event: str) -> bool:
            return not events or event in events

        subscription = Subscription(self._desk.venue.name, found.api_key, connection, wrap, wants)
        found.subscriptions.append(subscription)
        self._desk.hub.subscribe(subscription)
        return subscription


def _wanted(path: str, query: str) -> tuple[list[str], bool, set[str]]:
    """Return the listen keys, whether frames are wrapped, and the events (empty: all)."""
    params = parse_form(query)
    named = params.get("listenKey") or params.get("streams") or ""
    keys = [key for key in named.replace("@", "/").split("/") if key]
    for prefix in KEY_PATHS:
        if path.startswith(prefix):
            keys.append(path.removeprefix(prefix))
    events = {event for event in params.get("events", "").split("/") if event}
    return keys, "stream" in path.split("/"), events


def _request_id(text: str) -> Any:
    try:
        data = json.loads(text)
    except ValueError:
        return None
    return data.get("id") if isinstance(data, dict) else None
