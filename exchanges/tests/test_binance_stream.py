"""What the user streams say, and that they are followed for ever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from exchanges.adapters import streaming
from exchanges.adapters.binance import stream as binance_stream
from exchanges.adapters.binance.futures import BinanceFutures
from exchanges.adapters.binance.spot import BinanceSpot
from exchanges.adapters.binance.stream import algo_update, execution_report, order_trade_update
from exchanges.adapters.hosts import Hosts
from exchanges.adapters.streaming import delay_after
from exchanges.adapters.types import (
    Credentials,
    Endpoints,
    Fill,
    Liquidity,
    OrderReport,
    OrderType,
    Side,
    StreamEvent,
    StreamState,
    StreamStateChange,
    UnreadableMessage,
    VenueOrderStatus,
)
from exchanges.simulator.dialects.binance.futures_stream import VALID_SECONDS
from exchanges.tests.scripted import Reply, ScriptedServer, payload

LISTEN_KEY = "pqia91ma19a5s61cv6a81va65sdf19v8a65a1a5s61cv6a81va65sdf19v8a65a1"
API_KEY = "apikey-RECOGNISABLE-1234"


class TestExecutionReport:
    def test_reads_a_fill(self) -> None:
        report = execution_report(payload("spot_execution_report")["event"], "ETH/BTC")
        assert (report.exchange_order_id, report.client_order_id) == ("4293153", "th01JD0005")
        assert (report.status, report.side) == (VenueOrderStatus.PARTIALLY_FILLED, Side.BUY)
        assert (report.filled_quantity, report.average_price) == (Decimal("0.4"), Decimal("0.1026441"))
        assert report.fills == (
            Fill(
                trade_id="77",
                price=Decimal("0.1026441"),
                quantity=Decimal("0.4"),
                executed_at=datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
                fee=Decimal("0.0003"),
                fee_asset="BNB",
                liquidity=Liquidity.MAKER,
                exchange_order_id="4293153",
            ),
        )

    def test_names_the_order_and_not_the_cancel(self) -> None:
        report = execution_report(payload("spot_execution_report_canceled")["event"], "ETH/BTC")
        assert (report.client_order_id, report.status) == ("th01JD0005", VenueOrderStatus.CANCELED)
        assert (report.filled_quantity, report.fills) == (Decimal("0.4"), ())

    def test_keeps_the_exchanges_words_for_a_rejection(self) -> None:
        event = payload("spot_execution_report")["event"] | {
            "x": "REJECTED", "X": "REJECTED", "r": "INSUFFICIENT_BALANCE",
        }  # fmt: skip
        assert execution_report(event, "ETH/BTC").reason == "INSUFFICIENT_BALANCE"

    def test_guesses_no_status(self) -> None:
        with pytest.raises(KeyError, match="a status that we do not know: HALF_DONE"):
            execution_report(payload("spot_execution_report")["event"] | {"X": "HALF_DONE"}, "ETH/BTC")


class TestOrderTradeUpdate:
    def test_reads_a_fill_with_the_exchanges_own_profit(self) -> None:
        report = order_trade_update(payload("futures_order_trade_update"), "BTC/USDT")
        assert (report.exchange_order_id, report.client_order_id) == ("8886774", "th01JD0006")
        assert (report.status, report.filled_quantity) == (VenueOrderStatus.FILLED, Decimal("0.010"))
        assert report.average_price == Decimal("95000.5")
        assert report.reduce_only
        assert report.reason == ""
        assert report.fills == (
            Fill(
                trade_id="1234",
                price=Decimal("95000.5"),
                quantity=Decimal("0.004"),
                executed_at=datetime(2023, 11, 14, 22, 13, 20, 1000, UTC),
                fee=Decimal("0.0760004"),
                fee_asset="USDT",
                liquidity=Liquidity.TAKER,
                realized_pnl=Decimal("1.25"),
                exchange_order_id="8886774",
            ),
        )

    @pytest.mark.parametrize(
        ("word", "status"),
        [
            ("EXPIRED", VenueOrderStatus.EXPIRED),
            ("EXPIRED_IN_MATCH", VenueOrderStatus.EXPIRED),
            ("CANCELED", VenueOrderStatus.CANCELED),
        ],
    )
    def test_reads_an_end_without_a_fill(self, word: str, status: VenueOrderStatus) -> None:
        event = payload("futures_order_trade_update")
        # No commission fields at all where nothing was traded.
        event["o"] = {k: v for k, v in event["o"].items() if k not in ("n", "N")}
        event["o"] |= {"x": word, "X": word, "l": "0", "t": 0, "er": "2"}
        report = order_trade_update(event, "BTC/USDT")
        assert (report.status, report.fills, report.reason) == (status, (), "2")


class TestAlgoUpdate:
    def read(self, **overrides: Any) -> OrderReport:
        event = payload("futures_algo_update")
        event["o"] |= overrides
        return algo_update(event, "BTC/USDT")

    def test_tells_of_the_trigger_and_names_the_child_but_no_fills(self) -> None:
        report = self.read()
        assert (report.exchange_order_id, report.client_order_id) == ("2148719", "th01JD0007")
        assert (report.status, report.triggered, report.conditional) == (VenueOrderStatus.NEW, True, True)
        assert (report.child_order_id, report.filled_quantity) == ("991", None)
        assert (report.order_type, report.stop_price) == (OrderType.STOP_MARKET, Decimal(96000))

    @pytest.mark.parametrize("word", ["CANCELED", "REJECTED", "EXPIRED"])
    def test_ends_one_that_never_triggered_without_fills(self, word: str) -> None:
        report = self.read(X=word, ai="", rm="why")
        assert (report.status.value, report.filled_quantity, report.triggered) == (word, Decimal(0), False)
        assert report.reason == "why"

    def test_leaves_the_end_to_the_child(self) -> None:
        report = self.read(X="FINISHED")
        assert (report.status, report.filled_quantity) == (VenueOrderStatus.NEW, None)

    def test_does_not_guess_how_one_ended_that_names_no_child(self) -> None:
        with pytest.raises(ValueError, match="names no child"):
            self.read(X="FINISHED", ai="")


class TestDelayAfter:
    @pytest.mark.parametrize(("failures", "longest"), [(0, 0.5), (1, 1), (3, 4), (6, 30), (1000, 30)])
    def test_grows_up_to_30_seconds_and_never_falls_under_half_a_second(
        self, failures: int, longest: float
    ) -> None:
        delays = [delay_after(failures) for _ in range(200)]
        assert min(delays) >= 0.5
        assert max(delays) <= longest
        if failures:
            assert len(set(delays)) > 100


class Listener:
    """Collects what a stream yields, and waits for it."""

    def __init__(self, events: Any) -> None:
        self.events: list[StreamEvent] = []
        self._stream = events
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async with aclosing(self._stream) as events:
            async for event in events:
                self.events.append(event)

    async def until(self, condition: Callable[[list[StreamEvent]], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition(self.events):
                assert not self._task.done(), self._task
                await asyncio.sleep(0.005)

    async def until_state(self, state: StreamState, times: int = 1) -> None:
        await self.until(
            lambda events: [e.state for e in events if isinstance(e, StreamStateChange)].count(state) >= times
        )

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def listening(exchange: Any) -> AsyncIterator[Listener]:
    listener = Listener(exchange.user_stream())
    try:
        yield listener
    finally:
        await listener.stop()


@pytest.fixture(autouse=True)
def _quick_reconnects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "delay_after", lambda failures: 0.02)


@pytest.fixture
def futures(server: ScriptedServer, hosts: Hosts) -> BinanceFutures:
    server.script["GET", "/fapi/v1/exchangeInfo"] = Reply(payload("futures_exchange_info"))
    server.script["GET", "/fapi/v1/time"] = Reply({"serverTime": 1700000000000})
    server.script["POST", "/fapi/v1/listenKey"] = Reply({"listenKey": LISTEN_KEY})
    server.script["PUT", "/fapi/v1/listenKey"] = Reply({"listenKey": LISTEN_KEY})
    credentials = Credentials(API_KEY, "secret-12345")
    return BinanceFutures(credentials, Endpoints(server.url, server.ws_url), hosts=lambda: hosts)


@pytest.fixture
def spot(server: ScriptedServer, hosts: Hosts) -> BinanceSpot:
    server.script["GET", "/api/v3/exchangeInfo"] = Reply(payload("spot_exchange_info"))
    server.script["GET", "/api/v3/time"] = Reply({"serverTime": 1700000000000})
    server.greeting = lambda said: [{"id": said["id"], "status": 200, "result": {"subscriptionId": 0}}]
    credentials = Credentials(API_KEY, "secret-12345")
    endpoints = Endpoints(server.url, f"{server.ws_url}/ws-api/v3")
    return BinanceSpot(credentials, endpoints, hosts=lambda: hosts)


class TestFuturesUserStream:
    async def test_connects_with_a_listen_key_and_hears_orders(
        self, server: ScriptedServer, futures: BinanceFutures
    ) -> None:
        async with listening(futures) as listener:
            await listener.until_state(StreamState.CONNECTED)
            server.tell(payload("futures_order_trade_update"))
            server.tell(payload("futures_algo_update"))
            await listener.until(lambda events: len(events) == 4)
        assert server.heard == [f"/private/ws/{LISTEN_KEY}"]
        assert len(server.sent_to("/fapi/v1/time")) == 1  # the first order need not find out that it is off
        (post,) = server.sent_to("/fapi/v1/listenKey")
        assert (post.query, post.headers["X-MBX-APIKEY"]) == ("", API_KEY)
        states, reports = listener.events[:2], listener.events[2:]
        assert states == [StreamStateChange(StreamState.CONNECTING), StreamStateChange(StreamState.CONNECTED)]
        assert [r.client_order_id for r in reports if isinstance(r, OrderReport)] == [
            "th01JD0006", "th01JD0007",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "message",
        [
            "not json",
            {"e": "SOMETHING_NEW", "E": 1},
            {"no": "event"},
            ["a", "list"],
            "17",
            {"e": "ORDER_TRADE_UPDATE", "o": {"s": "BTCUSDT"}},
            payload("futures_order_trade_update")
            | {"o": payload("futures_order_trade_update")["o"] | {"X": "HALF_DONE"}},
            payload("futures_order_trade_update")
            | {"o": payload("futures_order_trade_update")["o"] | {"s": "WHATUSDT"}},
        ],
    )
    async def test_hands_on_what_it_cannot_read_and_goes_on(
        self, server: ScriptedServer, futures: BinanceFutures, message: Any
    ) -> None:
        async with listening(futures) as listener:
            await listener.until_state(StreamState.CONNECTED)
            server.tell(message)
            server.tell(payload("futures_order_trade_update"))
            await listener.until(lambda events: len(events) == 4)
        unreadable, report = listener.events[2:]
        assert isinstance(unreadable, UnreadableMessage)
        assert unreadable.text == (message if isinstance(message, str) else json.dumps(message))
        assert unreadable.error
        assert isinstance(report, OrderReport)

    async def test_hides_secrets_in_what_it_cannot_read(
        self, server: ScriptedServer, futures: BinanceFutures
    ) -> None:
        async with listening(futures) as listener:
            await listener.until_state(StreamState.CONNECTED)
            server.tell({"e": "NEWS", "key": API_KEY, "listenKey": LISTEN_KEY})
            await listener.until(lambda events: len(events) == 3)
        assert API_KEY not in repr(listener.events)
        assert LISTEN_KEY not in repr(listener.events)

    async def test_passes_over_what_is_not_about_our_orders(
        self, server: ScriptedServer, futures: BinanceFutures
    ) -> None:
        async with listening(futures) as listener:
            await listener.until_state(StreamState.CONNECTED)
            for word in ("ACCOUNT_UPDATE", "TRADE_LITE", "MARGIN_CALL"):
                server.tell({"e": word})
            coin_margined = payload("futures_order_trade_update") | {"st": 2}
            server.tell(coin_margined)
            server.tell(payload("futures_order_trade_update"))
            await listener.until(lambda events: len(events) >= 3)
        assert len(listener.events) == 3

    async def test_renews_its_key(
        self, server: ScriptedServer, futures: BinanceFutures, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(binance_stream.FuturesStream, "renew_seconds", 0.02)
        async with listening(futures) as listener:
            await listener.until_state(StreamState.CONNECTED)
            await listener.until(lambda events: server.paths().count("PUT /fapi/v1/listenKey") >= 2)
        assert len(server.heard) == 1  # on the same connection

    async def test_connects_anew_when_its_key_is_gone(
        self, server: ScriptedServer, futures: BinanceFutures, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gone = Reply({"code": -1125, "msg": "This listenKey does not exist."}, status=400)
        server.script["PUT", "/fapi/v1/listenKey"] = gone
        monkeypatch.setattr(binance_stream.FuturesStream, "renew_seconds", 0.02)
        async with listening(futures) as listener:
            await listener.until_state(StreamState.CONNECTED, times=2)
        assert server.paths().count("POST /fapi/v1/listenKey") >= 2

    async def test_connects_anew_when_its_key_expires(
        self, server: ScriptedServer, futures: BinanceFutures
    ) -> None:
        async with listening(futures) as listener:
            await listener.until_state(StreamState.CONNECTED)
            server.tell({"e": "listenKeyExpired", "E": 1, "listenKey": LISTEN_KEY})
            await listener.until_state(StreamState.CONNECTED, times=2)
        assert StreamStateChange(StreamState.DISCONNECTED, "the listen key expired") in listener.events

    @pytest.mark.parametrize("code", [1000, None])
    async def test_connects_anew_after_an_end_of_any_kind(
        self, server: ScriptedServer, futures: BinanceFutures, code: int | None
    ) -> None:
        async with listening(futures) as listener:
            await listener.until_state(StreamState.CONNECTED)
            server.hang_up(code=code)
            await listener.until_state(StreamState.CONNECTED, times=2)
            server.tell(payload("futures_order_trade_update"))
            await listener.until(lambda events: isinstance(events[-1], OrderReport))
        words = [event.state.value for event in listener.events if isinstance(event, StreamStateChange)]
        assert words == ["CONNECTING", "CONNECTED", "DISCONNECTED", "CONNECTING", "CONNECTED"]

    async def test_loses_no_time_after_an_orderly_end(
        self, server: ScriptedServer, futures: BinanceFutures, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(streaming, "delay_after", lambda failures: 3600.0)
        monkeypatch.setattr(streaming, "ALIVE_SECONDS", 0.0)
        async with listening(futures) as listener:
            await listener.until_state(StreamState.CONNECTED)
            server.hang_up(code=1001)
            await listener.until_state(StreamState.CONNECTED, times=2)

    def test_renews_its_key_at_half_its_life(self) -> None:
        assert binance_stream.FuturesStream.renew_seconds * 2 == VALID_SECONDS

    async def test_takes_a_ping_without_an_answer_for_a_break(
        self, server: ScriptedServer, futures: BinanceFutures, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(binance_stream, "PING_SECONDS", 0.05)
        server.is_deaf = True
        async with listening(futures) as listener:
            await listener.until_state(StreamState.CONNECTED, times=2)
        assert not [event for event in listener.events if isinstance(event, UnreadableMessage)]

    async def test_keeps_trying_while_the_exchange_is_away(
        self, server: ScriptedServer, futures: BinanceFutures
    ) -> None:
        away = Reply({"code": -1001, "msg": "Internal error; unable to process your request."}, status=503)
        server.script["POST", "/fapi/v1/listenKey"] = [away, away, Reply({"listenKey": LISTEN_KEY})]
        async with listening(futures) as listener:
            await listener.until_state(StreamState.CONNECTED)
        broken = [event for event in listener.events if isinstance(event, StreamStateChange) and event.reason]
        words_there = "Internal error; unable to process your request."
        assert [event.reason for event in broken] == [words_there, words_there]
        words = [event.state.value for event in listener.events if isinstance(event, StreamStateChange)]
        assert words == [
            "CONNECTING",
            "DISCONNECTED",
            "CONNECTING",
            "DISCONNECTED",
            "CONNECTING",
            "CONNECTED",
        ]

    async def test_leaves_no_socket_open_when_it_is_closed(
        self, server: ScriptedServer, futures: BinanceFutures
    ) -> None:
        async with listening(futures) as listener:
            await listener.until_state(StreamState.CONNECTED)
        async with asyncio.timeout(5):
            while not all(socket.closed for socket in server.sockets):
                await asyncio.sleep(0.005)


class TestSpotUserStream:
    async def test_subscribes_with_a_signature_and_hears_orders(
        self, server: ScriptedServer, spot: BinanceSpot
    ) -> None:
        async with listening(spot) as listener:
            await listener.until_state(StreamState.CONNECTED)
            server.tell({"subscriptionId": 0, "event": {"e": "outboundAccountPosition", "B": []}})
            server.tell(payload("spot_execution_report"))
            await listener.until(lambda events: len(events) == 3)
        path, request = server.heard
        assert path == "/ws-api/v3"
        assert request["method"] == "userDataStream.subscribe.signature"
        assert set(request["params"]) == {"apiKey", "recvWindow", "timestamp", "signature"}
        assert abs(request["params"]["timestamp"] - 1700000000000) < 5000  # the server's time, not ours
        report = listener.events[2]
        assert isinstance(report, OrderReport)
        assert (report.symbol, report.client_order_id) == ("ETH/BTC", "th01JD0005")

    async def test_says_why_a_subscription_was_refused_and_tries_again(
        self, server: ScriptedServer, spot: BinanceSpot
    ) -> None:
        refused = {"code": -2015, "msg": "Invalid API-key, IP, or permissions for action."}
        server.greeting = lambda said: [{"id": said["id"], "status": 401, "error": refused}]
        async with listening(spot) as listener:
            await listener.until_state(StreamState.DISCONNECTED, times=2)
        assert StreamState.CONNECTED not in [
            e.state for e in listener.events if isinstance(e, StreamStateChange)
        ]
        assert "Invalid API-key" in repr(listener.events)

    @pytest.mark.parametrize("word", ["serverShutdown", "eventStreamTerminated"])
    async def test_connects_anew_when_the_server_says_goodbye(
        self, server: ScriptedServer, spot: BinanceSpot, word: str
    ) -> None:
        async with listening(spot) as listener:
            await listener.until_state(StreamState.CONNECTED)
            server.tell({"subscriptionId": 0, "event": {"e": word, "E": 1}})
            await listener.until_state(StreamState.CONNECTED, times=2)
