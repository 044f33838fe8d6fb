"""Who else could send the same orders: a floor nobody can be faster than, and three plain ccxt bots.

They send straight to a simulator of their own and write nothing down.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import ccxt.async_support

from bench.scenarios import Order, Scenario, account_key
from bench.wire import Connection, post
from exchanges.simulator.testing import SimulatorProcess

T = TypeVar("T")
BATCH = 5  # the most orders that the exchange takes in one request
RECV_WINDOW_MS = 5000


class Refused(Exception):
    """An order of a client was not accepted: its times would mean nothing."""


class Client(ABC):
    """Sends a round of orders. `share`: of the rounds that it takes part in, because some are slow."""

    title: str
    key: str
    share: float = 1.0
    _serial = itertools.count(1)

    @abstractmethod
    async def open(self, simulator: SimulatorProcess) -> None:
        """Connect; what a bot does once when it starts."""

    @abstractmethod
    async def place(self, orders: Sequence[Order], ids: Sequence[str]) -> None:
        """Send the orders under these client order ids. Raises Refused when one was not accepted."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""

    def fits(self, scenario: Scenario) -> bool:
        """Tell whether this client would do anything of its own here."""
        return True

    def ids(self, number: int) -> list[str]:
        return [f"{self.key}-{next(self._serial)}" for _ in range(number)]


class Floor(Client):
    """Kept-alive connections opened beforehand, signed requests, full batches, all side by side."""

    title = "floor client"
    key = "floor"

    def __init__(self) -> None:
        self._connections: list[Connection] = []
        self._mount = ""
        self._host = ""

    async def open(self, simulator: SimulatorProcess) -> None:
        url = urlsplit(simulator.futures_url)
        assert url.hostname is not None
        assert url.port is not None
        self._mount, self._host = url.path, url.netloc
        most = -(-30 // BATCH) * 2
        self._connections = [await Connection.open(url.hostname, url.port) for _ in range(most)]

    async def place(self, orders: Sequence[Order], ids: Sequence[str]) -> None:
        rows = [(order.account, _wire_order(order, name)) for order, name in zip(orders, ids, strict=True)]
        groups = [
            (account, chunk)
            for account in sorted({account for account, _ in rows})
            for chunk in _chunks([row for owner, row in rows if owner == account], BATCH)
        ]
        replies = [
            connection.send(self._request(account, chunk))
            for connection, (account, chunk) in zip(self._connections, groups, strict=False)
        ]
        for reply in await asyncio.gather(*replies):
            _check(reply.status, reply.body)

    async def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _request(self, account: int, orders: list[dict[str, str]]) -> bytes:
        key, secret = account_key(account)
        if len(orders) == 1:
            path, text = "/fapi/v1/order", "&".join(f"{name}={value}" for name, value in orders[0].items())
        else:
            batch = json.dumps(orders, separators=(",", ":"))
            path, text = "/fapi/v1/batchOrders", f"batchOrders={quote(batch, safe='')}"
        text += f"&recvWindow={RECV_WINDOW_MS}&timestamp={time.time_ns() // 1_000_000}"
        signature = hmac.digest(secret.encode(), text.encode(), "sha256").hex()
        target = f"{self._mount}{path}?{text}&signature={signature}"
        return post(target, host=self._host, headers={"X-MBX-APIKEY": key})


class CcxtBot(Client):
    """A bot on ccxt, one exchange object per account, markets loaded before the first order."""

    def __init__(self) -> None:
        self._exchanges: list[Any] = []

    async def open(self, simulator: SimulatorProcess) -> None:
        for number in range(2):  # no scenario uses more
            key, secret = account_key(number)
            exchange = ccxt.async_support.binanceusdm(
                {
                    "apiKey": key,
                    "secret": secret,
                    "enableRateLimit": False,
                    "options": {"fetchCurrencies": False, "fetchMarkets": {"types": ["linear"]}},
                }
            )
            base = f"{simulator.futures_url}/fapi"
            exchange.urls["api"] |= {
                f"fapi{access}{suffix}": f"{base}/{version}"
                for access in ("Public", "Private")
                for suffix, version in (("", "v1"), ("V2", "v2"), ("V3", "v3"))
            }
            self._exchanges.append(exchange)
            await exchange.load_markets()

    async def close(self) -> None:
        for exchange in self._exchanges:
            await exchange.close()

    async def _place_one(self, order: Order, name: str) -> None:
        placed = await self._exchanges[order.account].create_order(
            f"{order.symbol}:USDT",
            order.kind.lower(),
            order.side.lower(),
            float(order.quantity),
            None if order.price is None else float(order.price),
            {"clientOrderId": name},
        )
        if not placed["id"]:
            raise Refused(str(placed))


class CcxtAllAtOnce(CcxtBot):
    title = "ccxt, all at once"
    key = "ccxt-gather"
    share = 0.5

    async def place(self, orders: Sequence[Order], ids: Sequence[str]) -> None:
        await asyncio.gather(*(self._place_one(*pair) for pair in zip(orders, ids, strict=True)))

    def fits(self, scenario: Scenario) -> bool:
        return scenario.total > 1


class CcxtBatches(CcxtBot):
    title = "ccxt, batches in a row"
    key = "ccxt-batches"
    share = 0.25

    async def place(self, orders: Sequence[Order], ids: Sequence[str]) -> None:
        pairs = list(zip(orders, ids, strict=True))
        for account in sorted({order.account for order in orders}):
            for chunk in _chunks([pair for pair in pairs if pair[0].account == account], BATCH):
                placed = await self._exchanges[account].create_orders([_ccxt_order(*pair) for pair in chunk])
                if not all(row["id"] for row in placed):
                    raise Refused(str(placed))

    def fits(self, scenario: Scenario) -> bool:
        return scenario.total > 1


class CcxtOneByOne(CcxtBot):
    title = "ccxt, one after the other"
    key = "ccxt-serial"
    share = 0.2

    async def place(self, orders: Sequence[Order], ids: Sequence[str]) -> None:
        for order, name in zip(orders, ids, strict=True):
            await self._place_one(order, name)


CLIENTS: tuple[type[Client], ...] = (Floor, CcxtAllAtOnce, CcxtBatches, CcxtOneByOne)


def _wire_order(order: Order, name: str) -> dict[str, str]:
    row = {
        "symbol": order.symbol.replace("/", ""),
        "side": order.side,
        "type": order.kind,
        "quantity": str(order.quantity),
    }
    if order.price is not None:
        row |= {"timeInForce": "GTC", "price": str(order.price)}
    return row | {"newClientOrderId": name, "newOrderRespType": "RESULT"}


def _ccxt_order(order: Order, name: str) -> dict[str, Any]:
    return {
        "symbol": f"{order.symbol}:USDT",
        "type": order.kind.lower(),
        "side": order.side.lower(),
        "amount": float(order.quantity),
        "price": None if order.price is None else float(order.price),
        "params": {"clientOrderId": name},
    }


def _check(status: int, body: bytes) -> None:
    answer = json.loads(body, parse_float=Decimal)
    rows = answer if isinstance(answer, list) else [answer]
    if status != 200 or any("orderId" not in row for row in rows):
        raise Refused(body.decode("utf-8", "replace")[:500])


def _chunks(items: list[T], size: int) -> list[list[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
