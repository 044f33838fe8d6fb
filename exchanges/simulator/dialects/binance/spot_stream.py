"""Binance spot: the WebSocket API as far as the user stream needs it. Source: fact sheet A2, A7.

Events reach the socket that subscribed, wrapped as `{"subscriptionId": 0, "event": {...}}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiohttp import web

from exchanges.simulator.accounts import SpotWallet
from exchanges.simulator.dialects.binance import auth
from exchanges.simulator.dialects.binance import params as read
from exchanges.simulator.dialects.binance.base import Desk
from exchanges.simulator.dialects.binance.spot_format import execution_report, position_event
from exchanges.simulator.dialects.binance.spot_market import rate_limits
from exchanges.simulator.dialects.binance.usage import Limits, Usage
from exchanges.simulator.streams import Connection, Event, Sockets, Subscription
from exchanges.simulator.types import Change, Fill, Order
from exchanges.simulator.wire import OrderMark, Params, WireError, encode

PATH = "/ws-api/v3"
PING_SECONDS = 20.0
CONNECTION_WEIGHT = 2
SUBSCRIBE_WEIGHT = 2


@dataclass(slots=True)
class Session:
    """One connection to the WebSocket API and what it subscribed to."""

    connection: Connection
    connected_ms: int
    subscriptions: dict[int, Subscription] = field(default_factory=dict)


class SpotStream:
    def __init__(self, desk: Desk, sockets: Sockets, limits: Limits, usage: Usage) -> None:
        self._desk = desk
        self._sockets = sockets
        self._limits = limits
        self._usage = usage
        self._subscription_ids = count()
        self._report_ids = count(1)
        self._methods: dict[str, Callable[[Session, dict[str, Any]], Any]] = {
            "ping": lambda session, params: {},
            "time": lambda session, params: {"serverTime": desk.now_ms()},
            "session.status": self._status,
            "session.logon": self._logon,
            "session.logout": self._status,
            "session.subscriptions": self._subscriptions,
            "userDataStream.subscribe": self._subscribe_by_session,
            "userDataStream.subscribe.signature": self._subscribe,
            "userDataStream.unsubscribe": self._unsubscribe,
        }

    def tell(self, order: Order, change: Change, fill: Fill | None) -> None:
        """Publish what happened to an order, then the balances it moved."""
        hub, venue = self._desk.hub, self._desk.venue
        if not hub.has_listeners(venue.name, order.api_key):
            return
        if change is Change.TRIGGERED and order.price is None:
            return  # a triggered market order is heard of by its trades
        now_ms = self._desk.now_ms()
        mark = OrderMark(order.instrument.base + order.instrument.quote, order.client_order_id)
        report = execution_report(order, change, fill, now_ms, next(self._report_ids))
        hub.publish(venue.name, order.api_key, report, mark)
        wallet = venue.account(order.api_key).wallet
        assert isinstance(wallet, SpotWallet)
        hub.publish(venue.name, order.api_key, position_event(order, wallet, now_ms), mark)

    async def serve(self, request: web.BaseRequest, path: str, query: str) -> web.StreamResponse:
        if path != PATH:
            return web.Response(status=404)
        if refusal := self._sockets.refusal(self._desk.venue.name, ""):
            return refusal
        self._usage.add_weight(CONNECTION_WEIGHT, self._desk.now_ms())
        socket, connection = await self._sockets.open(request, PING_SECONDS)
        session = Session(connection, self._desk.now_ms())
        with_limits = "returnRateLimits=false" not in query
        try:
            async for message in socket:
                if message.type is web.WSMsgType.TEXT:
                    connection.send(encode(self._answer(session, message.data, with_limits=with_limits)))
        finally:
            connection.finish()
            for subscription in session.subscriptions.values():
                self._desk.hub.unsubscribe(subscription)
        return socket

    def _answer(self, session: Session, text: str, *, with_limits: bool) -> dict[str, Any]:
        answer: dict[str, Any] = {"id": None, "status": 200}
        try:
            data = _parse(text)
            answer["id"] = data.get("id")
            method = self._methods.get(str(data.get("method")))
            if method is None:
                raise WireError(400, -1000, f"Unknown method '{data.get('method')}'.")
            self._usage.add_weight(SUBSCRIBE_WEIGHT, self._desk.now_ms())
            answer["result"] = method(session, data.get("params") or {})
        except WireError as error:
            answer["status"] = error.status
            answer["error"] = {"code": error.code, "msg": error.message}
        if with_limits:
            limit = rate_limits(self._limits)[0]
            used = self._usage.add_weight(0, self._desk.now_ms())
            answer["rateLimits"] = [limit | {"count": used}]
        return answer

    def _subscribe(self, session: Session, params: dict[str, Any]) -> dict[str, Any]:
        texts: Params = {name: read.as_text(value) for name, value in params.items()}
        api_key = texts.get("apiKey", "")
        secret = self._desk.secret(api_key)
        for name in ("timestamp", "signature"):
            read.required(texts, name)
        auth.check_signature(secret, auth.signed_ws_text(texts), texts["signature"])
        auth.check_time(texts, self._desk.now_ms())
        if any(subscription.api_key == api_key for subscription in session.subscriptions.values()):
            raise WireError(400, -2035, "User Data Stream subscription already active.")
        number = next(self._subscription_ids)

        def wrap(event: Event) -> Event:
            return {"subscriptionId": number, "event": event}

        subscription = Subscription(
            self._desk.venue.name, api_key, session.connection, wrap, lambda event: True
        )
        session.subscriptions[number] = subscription
        self._desk.hub.subscribe(subscription)
        return {"subscriptionId": number}

    def _unsubscribe(self, session: Session, params: dict[str, Any]) -> dict[str, Any]:
        """End one subscription, or all of the connection's when no id is given."""
        wanted = params.get("subscriptionId")
        numbers = list(session.subscriptions) if wanted is None else [wanted]
        for number in numbers:
            subscription = session.subscriptions.pop(number, None)
            if subscription is None:
                raise WireError(400, -2036, "User Data Stream subscription not active.")
            self._desk.hub.unsubscribe(subscription)
            event = {"e": "eventStreamTerminated", "E": self._desk.now_ms()}
            subscription.connection.send(encode(subscription.wrap(event)))
        return {}

    def _subscriptions(self, session: Session, params: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"subscriptionId": number} for number in session.subscriptions]

    def _status(self, session: Session, params: dict[str, Any]) -> dict[str, Any]:
        return {
            "apiKey": None,
            "authorizedSince": None,
            "connectedSince": session.connected_ms,
            "returnRateLimits": True,
            "serverTime": self._desk.now_ms(),
            "userDataStream": bool(session.subscriptions),
        }

    def _logon(self, session: Session, params: dict[str, Any]) -> dict[str, Any]:
        """Refuse: a session is for Ed25519 keys, and ours are all HMAC."""
        self._desk.secret(str(params.get("apiKey", "")))
        raise WireError(400, -4056, "HMAC_SHA256 API key is not supported.")

    def _subscribe_by_session(self, session: Session, params: dict[str, Any]) -> dict[str, Any]:
        raise WireError(401, -2015, "Invalid API-key, IP, or permissions for action.")


def _parse(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if not isinstance(data, dict) or not isinstance(data.get("params") or {}, dict):
        raise WireError(400, -1135, "Invalid JSON Request")
    return data
