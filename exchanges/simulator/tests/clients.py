"""A bare signing client: what goes over the wire is what the test says."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlencode

import aiohttp
from yarl import URL

Json = Any
WS_API = "/ws-api/v3"  # of spot


class Reply(NamedTuple):
    status: int
    data: Json
    headers: dict[str, str]

    @property
    def code(self) -> int | None:
        return self.data.get("code") if isinstance(self.data, dict) else None


def sign(secret: str, text: str) -> str:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


class WireClient:
    """Signs like Binance's documentation says. `base` is the dialect's address."""

    def __init__(
        self, session: aiohttp.ClientSession, base: str, api_key: str = "k1", secret: str = "s1"
    ) -> None:
        self._session = session
        self.base = base
        self.api_key = api_key
        self._secret = secret

    async def call(self, method: str, path: str, **params: object) -> Reply:
        """Send a signed request with its parameters in the query."""
        return await self.send(method, f"{path}?{self._signed(params)}")

    async def call_by_form(self, method: str, path: str, **params: object) -> Reply:
        """Send a signed request with its parameters in the body."""
        return await self.send(method, path, body=self._signed(params))

    async def get(self, path: str) -> Reply:
        """Send an unsigned GET."""
        return await self.send("GET", path)

    async def send(self, method: str, path: str, *, body: str | None = None) -> Reply:
        headers = {"X-MBX-APIKEY": self.api_key}
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        url = URL(self.base + path, encoded=True)
        async with self._session.request(method, url, data=body, headers=headers) as response:
            text = await response.text()
            data = json.loads(text) if text.startswith(("{", "[")) else text
            return Reply(response.status, data, dict(response.headers))

    def _signed(self, params: dict[str, object]) -> str:
        text = urlencode({"timestamp": time.time_ns() // 1_000_000} | params)
        return f"{text}&signature={sign(self._secret, text)}"

    async def listen(self, path: str) -> aiohttp.ClientWebSocketResponse:
        return await self._session.ws_connect(self.base.replace("http", "ws", 1) + path)


@asynccontextmanager
async def wire_client(base: str, api_key: str = "k1", secret: str = "s1") -> AsyncIterator[WireClient]:
    async with aiohttp.ClientSession() as session:
        yield WireClient(session, base, api_key, secret)


async def next_event(socket: aiohttp.ClientWebSocketResponse, seconds: float = 5) -> Json:
    message = await asyncio.wait_for(socket.receive(), seconds)
    assert message.type is aiohttp.WSMsgType.TEXT, message
    return json.loads(message.data)


def subscription(api_key: str = "k1", secret: str = "s1", **overrides: Any) -> dict[str, Any]:
    params = {"apiKey": api_key, "timestamp": time.time_ns() // 1_000_000} | overrides
    text = "&".join(f"{name}={params[name]}" for name in sorted(params))
    return params | {"signature": sign(secret, text)}


async def ask(socket: aiohttp.ClientWebSocketResponse, method: str, params: Any = None) -> Any:
    await socket.send_json({"id": "1", "method": method, "params": params or {}})
    return await next_event(socket)


def limit_order(client_order_id: str = "th-1", **overrides: str) -> dict[str, str]:
    """Return the parameters of a limit order that rests."""
    return {
        "symbol": "BTCUSDT",
        "side": "BUY",
        "type": "LIMIT",
        "timeInForce": "GTC",
        "quantity": "0.01",
        "price": "90000",
        "newClientOrderId": client_order_id,
    } | overrides
