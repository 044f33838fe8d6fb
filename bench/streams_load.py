"""What goes into the streams and what comes out at the pages: the load, and websocket clients."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from bench.latency import WebhookFailed, webhook_request
from bench.stack import HOST
from bench.streams_site import PASSWORD, account_key
from bench.wire import Connection, post
from exchanges.simulator.testing import SimulatorProcess

PRICE = 57_000  # far below the simulator's fixed price
PART = "0.001"
PARTS = 4  # fills of each order: three in part, then the last
QUANTITY = "0.004"
FIRST_FRAME_SECONDS = 30
_SOCKET = re.compile(r"/ws/positions/\?[^\"'<> ]*")


async def orders_place(connection: Connection, *, token: str, count: int, accounts: int) -> None:
    """Place so many resting orders on each account of a strategy, by one webhook."""
    order = {"symbol": "BTC/USDT", "side": "buy", "order_type": "LIMIT", "quantity": QUANTITY}
    orders = [order | {"price": str(PRICE + number)} for number in range(count)]
    reply = await connection.send(webhook_request(json.dumps({"token": token, "orders": orders}).encode()))
    answer: dict[str, Any] = json.loads(reply.body)
    placed = sum(one.get("executed", False) for one in answer.get("results", ()))
    if reply.status != 200 or placed < count * accounts:
        raise WebhookFailed(f"status {reply.status}, {placed} placed: {json.dumps(answer)[:1000]}")


@dataclass(slots=True)
class Load:
    """Has the simulator report a fill of a resting order of each account every second."""

    simulator: SimulatorProcess
    accounts: int
    fills: int = 0
    late: float = 0.0  # seconds that the load fell behind its own pace, at the worst
    _orders: list[list[int]] = field(default_factory=list)

    def find_orders(self) -> None:
        by_key: dict[str, list[int]] = defaultdict(list)
        for row in self.simulator.orders(exchange="binance-futures"):
            if row["status"] == "NEW":
                by_key[row["api_key"]].append(int(row["order_id"]))
        self._orders = [by_key[account_key(number)[0]] for number in range(self.accounts)]

    async def run(self, seconds: int) -> None:
        """One report a second for each account, evenly spread over every second."""
        port = int(self.simulator.url.rpartition(":")[2])
        connection = await Connection.open(HOST, port)
        began = time.monotonic()
        try:
            for turn in range(seconds * self.accounts):
                due = began + turn / self.accounts
                if (wait := due - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                self.late = max(self.late, time.monotonic() - due)
                await self._fill(connection, turn % self.accounts)
        finally:
            connection.close()

    async def _fill(self, connection: Connection, account: int) -> None:
        order = self._orders[account][(self.fills // self.accounts) // PARTS]
        body = {
            "exchange": "binance-futures",
            "api_key": account_key(account)[0],
            "order_id": order,
            "quantity": PART,
        }
        request = post("/_sim/fill", json.dumps(body).encode(), host=HOST)
        reply = await connection.send(request)
        if reply.status != 200:
            raise WebhookFailed(f"the simulator did not fill: {reply.body[:300]!r}")
        self.fills += 1


@dataclass(slots=True)
class Page:
    """One user's live page, as a browser has it: logged in, acknowledging each frame."""

    user: int
    frames: int = 0
    bytes: int = 0
    arrived: dict[int, float] = field(default_factory=dict)  # event id -> epoch seconds
    drawn: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            now = time.time()
            frame = json.loads(message.data)
            for event in frame["events"]:
                self.arrived.setdefault(event["id"], now)
            self.frames += 1
            self.bytes += len(message.data)
            await socket.send_json({"ack": frame["frame"]})
            self.drawn.set()


@asynccontextmanager
async def open_page(web: str, user: int) -> AsyncIterator[Page]:
    """Log in, get the page, open its socket and listen until the block ends."""
    page = Page(user)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        async with session.get(f"{web}/login/"):
            token = next(one.value for one in session.cookie_jar if one.key == "csrftoken")
        form = {"username": f"user-{user}", "password": PASSWORD, "csrfmiddlewaretoken": token}
        async with session.post(f"{web}/login/", data=form, headers={"Referer": web}) as answer:
            text = await answer.text()
        found = _SOCKET.search(text)
        if found is None:
            raise WebhookFailed(f"user-{user} got no live page: {text[:300]}")
        address = web.replace("http", "ws", 1) + found[0].replace("&amp;", "&")
        async with session.ws_connect(address, origin=web, max_msg_size=0) as socket:
            listening = asyncio.create_task(page.listen(socket))
            try:
                async with asyncio.timeout(FIRST_FRAME_SECONDS):
                    await page.drawn.wait()
                yield page
            finally:
                listening.cancel()
