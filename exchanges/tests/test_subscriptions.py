"""A stream whose exchange wants symbols to be subscribed one by one, over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web

from exchanges.adapters import streaming, subscriptions
from exchanges.adapters.secrets import Masker
from exchanges.adapters.streaming import SymbolStream
from exchanges.adapters.subscriptions import Subscriptions
from exchanges.adapters.testing import FakeExchange
from exchanges.adapters.types import (
    Capabilities,
    MarketType,
    OrderReport,
    OrderType,
    StreamEvent,
    StreamKind,
    StreamState,
    StreamStateChange,
    VenueOrderStatus,
)

SECRET = "login-SECRET-1234"


@dataclass
class SymbolServer:
    """An exchange whose stream says nothing of a symbol before it is subscribed."""

    url: str = ""
    frames: list[list[str]] = field(default_factory=list)  # per connection: "subscribe BTC/USDT"
    refused: set[str] = field(default_factory=set)
    sockets: list[web.WebSocketResponse] = field(default_factory=list)
    heard: set[str] = field(default_factory=set)

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.frames.append([])
        self.heard = set()
        self.sockets.append(socket)
        async for message in socket:
            word, symbol = json.loads(message.data)
            self.frames[-1].append(f"{word} {symbol}")
            if symbol in self.refused:
                await socket.send_json(["refused", symbol, f"no {symbol} for {SECRET}"])
            elif word == "subscribe":
                self.heard.add(symbol)
            else:
                self.heard.discard(symbol)
        return socket

    async def fill(self, symbol: str) -> None:
        if symbol in self.heard:
            await self.sockets[-1].send_json(["filled", symbol, ""])


class SymbolVenue(SymbolStream):
    """An adapter's side of that exchange."""

    def __init__(self, url: str) -> None:
        super().__init__(mask=Masker(SECRET))
        self._url = url

    @asynccontextmanager
    async def open(self) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        async with aiohttp.ClientSession() as session, session.ws_connect(self._url) as socket:
            yield socket

    async def subscribe(self, socket: aiohttp.ClientWebSocketResponse, symbol: str) -> None:
        await socket.send_json(["subscribe", symbol])

    async def unsubscribe(self, socket: aiohttp.ClientWebSocketResponse, symbol: str) -> None:
        await socket.send_json(["unsubscribe", symbol])

    async def read(self, text: str) -> list[StreamEvent]:
        word, symbol, why = json.loads(text)
        if word == "refused":
            self.subscriptions.failed(symbol, self.mask(why))
            return []
        return [OrderReport(MarketType.SPOT, symbol, "1", "th1", VenueOrderStatus.FILLED)]


@pytest.fixture
async def server() -> AsyncIterator[SymbolServer]:
    found = SymbolServer()
    app = web.Application()
    app.router.add_get("/", found.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield found
    await runner.cleanup()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(streaming, "LONGEST_DELAY_SECONDS", 0.05)


class Listening:
    """A stream that is followed in a task of its own."""

    def __init__(self, venue: SymbolVenue) -> None:
        self.venue = venue
        self.events: list[StreamEvent] = []

    async def follow(self) -> None:
        stream: AsyncGenerator[StreamEvent, None] = self.venue.follow()
        async with aclosing(stream) as events:
            async for event in events:
                self.events.append(event)

    def connects(self) -> int:
        return sum(event == StreamStateChange(StreamState.CONNECTED) for event in self.events)

    def reports(self) -> list[str]:
        return [event.symbol for event in self.events if isinstance(event, OrderReport)]


@asynccontextmanager
async def listening(server: SymbolServer) -> AsyncIterator[Listening]:
    found = Listening(SymbolVenue(server.url))
    task = asyncio.create_task(found.follow())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another task or at the server
            await asyncio.sleep(0.01)


class TestSymbolStream:
    async def test_subscribes_once_and_unsubscribes_once(self, server: SymbolServer) -> None:
        async with listening(server) as stream:
            await until(lambda: stream.connects() == 1)
            assert await stream.venue.subscriptions.want({"BTC/USDT"}) == {"BTC/USDT"}
            assert await stream.venue.subscriptions.want({"BTC/USDT"}) == set()
            await until(lambda: server.heard == {"BTC/USDT"})
            await server.fill("BTC/USDT")
            await until(lambda: stream.reports() == ["BTC/USDT"])

            await stream.venue.subscriptions.want(set())
            await until(lambda: server.heard == set())
            assert server.frames == [["subscribe BTC/USDT", "unsubscribe BTC/USDT"]]

    async def test_subscribes_everything_again_after_a_reconnect(
        self, server: SymbolServer, quick: None
    ) -> None:
        async with listening(server) as stream:
            await until(lambda: stream.connects() == 1)
            await stream.venue.subscriptions.want({"BTC/USDT", "ETH/USDT"})
            await until(lambda: server.heard == {"BTC/USDT", "ETH/USDT"})

            transport = server.sockets[0]._req.transport  # type: ignore[union-attr]
            assert transport is not None
            transport.abort()

            await until(lambda: stream.connects() == 2)
            await until(lambda: server.frames[1:] == [["subscribe BTC/USDT", "subscribe ETH/USDT"]])
            await server.fill("ETH/USDT")
            await until(lambda: stream.reports() == ["ETH/USDT"])

    async def test_logs_a_refusal_and_hears_the_others(
        self, server: SymbolServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.refused = {"BTC/USDT"}
        async with listening(server) as stream:
            await until(lambda: stream.connects() == 1)
            await stream.venue.subscriptions.want({"BTC/USDT", "ETH/USDT"})
            await until(lambda: server.heard == {"ETH/USDT"})
            await until(lambda: "BTC/USDT failed" in caplog.text)
            await server.fill("ETH/USDT")
            await until(lambda: stream.reports() == ["ETH/USDT"])
            assert stream.connects() == 1
        assert SECRET not in caplog.text

    async def test_tries_a_refused_symbol_again_later(
        self, server: SymbolServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(subscriptions, "AGAIN_SECONDS", (0.2, 1.0))
        server.refused = {"BTC/USDT"}
        async with listening(server) as stream:
            await until(lambda: stream.connects() == 1)
            await stream.venue.subscriptions.want({"BTC/USDT"})
            await until(lambda: stream.venue.subscriptions.told == set())
            assert await stream.venue.subscriptions.want({"BTC/USDT"}) == set()  # too soon
            server.refused = set()

            found: set[str] = set()
            async with asyncio.timeout(5):
                while not found:
                    found = await stream.venue.subscriptions.want({"BTC/USDT"})
                    await asyncio.sleep(0.02)

            await until(lambda: server.heard == {"BTC/USDT"})
            assert server.frames == [["subscribe BTC/USDT", "subscribe BTC/USDT"]]


class TestSubscriptions:
    async def test_remembers_what_is_wanted_until_there_is_a_connection(self) -> None:
        told: list[str] = []

        async def tell(symbol: str) -> None:
            told.append(symbol)

        found = Subscriptions()
        assert await found.want({"BTC/USDT"}) == set()
        assert told == []

        await found.attach(subscribe=tell, unsubscribe=tell)
        assert told == ["BTC/USDT"]

    async def test_survives_a_socket_that_is_closed_under_it(self) -> None:
        async def broken(symbol: str) -> None:
            raise ConnectionResetError("Cannot write to closing transport")

        found = Subscriptions()
        await found.attach(subscribe=broken, unsubscribe=broken)

        assert await found.want({"BTC/USDT"}) == set()
        assert found.told == set()


class TestFakeExchange:
    async def test_says_nothing_of_a_symbol_that_is_not_subscribed(self) -> None:
        capabilities = Capabilities(
            frozenset({MarketType.FUTURES}), frozenset(OrderType), stream=StreamKind.SYMBOLS
        )
        exchange = FakeExchange(capabilities=capabilities)
        unheard, heard = (
            OrderReport(MarketType.FUTURES, symbol, "1", "th1", VenueOrderStatus.NEW)
            for symbol in ("ETH/USDT", "BTC/USDT")
        )
        async with aclosing(exchange.user_stream()) as events:
            assert [await anext(events) for _ in range(2)][-1] == StreamStateChange(StreamState.CONNECTED)
            await exchange.follow_symbols({"BTC/USDT"})

            exchange.push(unheard)
            exchange.push(heard)

            assert await anext(events) == heard
