"""The adapters over real sockets, against an exchange that has bad days."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import pytest

from exchanges.adapters import exceptions as exc
from exchanges.adapters.binance.adapter import BinanceExchange
from exchanges.adapters.binance.futures import BinanceFutures
from exchanges.adapters.binance.spot import BinanceSpot
from exchanges.adapters.exceptions import ErrorType
from exchanges.adapters.hosts import Hosts
from exchanges.adapters.testing import make_request
from exchanges.adapters.types import (
    Credentials,
    Endpoints,
    OrderRef,
    OrderReport,
    OrderType,
    Side,
    StreamEvent,
    StreamState,
    StreamStateChange,
    VenueOrderStatus,
)
from exchanges.simulator.testing import SimulatorProcess

D = Decimal
BTC = "BTC/USDT"
ORDER, BATCH, ALGO = "/fapi/v1/order", "/fapi/v1/batchOrders", "/fapi/v1/algoOrder"
KEY, SECRET = "apikey-RECOGNISABLE-1234", "secret-RECOGNISABLE-5678"
STOP = {"order_type": OrderType.STOP_MARKET, "price": None, "stop_price": D(96000)}


@pytest.fixture
def futures(simulator: SimulatorProcess, hosts: Hosts) -> BinanceFutures:
    simulator.add_account(KEY, SECRET)
    endpoints = Endpoints(simulator.futures_url, simulator.futures_ws_url)
    return BinanceFutures(Credentials(KEY, SECRET), endpoints, hosts=lambda: hosts, timeout_seconds=2.0)


@pytest.fixture
def spot(simulator: SimulatorProcess, hosts: Hosts) -> BinanceSpot:
    simulator.add_account(KEY, SECRET)
    endpoints = Endpoints(simulator.spot_url, simulator.spot_ws_url)
    return BinanceSpot(Credentials(KEY, SECRET), endpoints, hosts=lambda: hosts, timeout_seconds=2.0)


class Follower:
    """Listens to a user stream in the background."""

    def __init__(self, exchange: BinanceExchange) -> None:
        self.events: list[StreamEvent] = []
        self._exchange = exchange

    async def __aenter__(self) -> Follower:
        self._task = asyncio.create_task(self._listen())
        await self.until(lambda: self.connections == 1)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self) -> None:
        async with aclosing(self._exchange.user_stream()) as stream:
            async for event in stream:
                self.events.append(event)

    @property
    def connections(self) -> int:
        return self.events.count(StreamStateChange(StreamState.CONNECTED))

    @property
    def reports(self) -> list[OrderReport]:
        return [event for event in self.events if isinstance(event, OrderReport)]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(8):
            while not condition():
                await asyncio.sleep(0.01)


async def place(exchange: BinanceExchange, name: str, **overrides: Any) -> OrderReport:
    (report,) = await exchange.place_orders([make_request(name, **overrides)])
    assert isinstance(report, OrderReport), report
    return report


class TestConditionalOrders:
    async def test_are_followed_through_trigger_child_and_fill(
        self, simulator: SimulatorProcess, futures: BinanceFutures
    ) -> None:
        async with Follower(futures) as follower:
            placed = await place(futures, "stop1", **STOP)
            simulator.set_price(BTC, 96100)
            await follower.until(lambda: any(one.fills for one in follower.reports))
            await follower.until(lambda: any(one.child_order_id for one in follower.reports))
        ref = OrderRef(BTC, "stop1", placed.exchange_order_id, conditional=True)
        report = await futures.fetch_order(ref)
        assert (report.exchange_order_id, report.status) == (
            placed.exchange_order_id,
            VenueOrderStatus.FILLED,
        )
        assert (report.triggered, report.filled_quantity) == (True, D("0.01"))
        assert report.child_order_id not in ("", placed.exchange_order_id)

        told = next(one for one in follower.reports if one.child_order_id)
        filled = next(one for one in follower.reports if one.fills)
        assert told.exchange_order_id == placed.exchange_order_id
        assert told.child_order_id == filled.exchange_order_id == report.child_order_id
        assert filled.client_order_id == "stop1"

        (fill,) = await futures.fetch_executions(ref)
        assert fill == filled.fills[0]  # both ways name it alike: nothing is counted twice
        assert await futures.fetch_open_orders() == []

    async def test_can_be_cancelled_after_their_trigger(
        self, simulator: SimulatorProcess, futures: BinanceFutures
    ) -> None:
        limit = {"order_type": OrderType.STOP_LIMIT, "stop_price": D(96000), "price": D(95500)}
        placed = await place(futures, "stop2", **limit)
        simulator.set_price(BTC, 96100)
        (open_now,) = await futures.fetch_open_orders(BTC)
        assert isinstance(open_now, OrderReport)
        assert open_now.client_order_id == "stop2"
        ref = OrderRef(BTC, "stop2", placed.exchange_order_id, conditional=True)
        (report,) = await futures.cancel_orders([ref])
        assert isinstance(report, OrderReport), report
        assert (report.status, report.triggered) == (VenueOrderStatus.CANCELED, True)
        assert report.exchange_order_id == placed.exchange_order_id
        assert await futures.fetch_open_orders(BTC) == []

    async def test_are_refused_when_they_would_trigger_at_once(self, futures: BinanceFutures) -> None:
        (result,) = await futures.place_orders([make_request("stop3", **STOP | {"stop_price": D(90000)})])
        assert isinstance(result, exc.InvalidOrder)
        assert result.venue_code == "-2021"

    async def test_on_spot_keep_their_id_when_they_trigger(
        self, simulator: SimulatorProcess, spot: BinanceSpot
    ) -> None:
        placed = await place(spot, "stop4", **STOP)
        simulator.set_price(BTC, 96100)
        report = await spot.fetch_order(OrderRef(BTC, "stop4", conditional=True))
        assert (report.exchange_order_id, report.status) == (
            placed.exchange_order_id,
            VenueOrderStatus.FILLED,
        )
        assert (report.conditional, report.triggered) == (True, True)
        assert report.child_order_id == report.exchange_order_id  # it stays the same order


class TestLostAnswers:
    async def test_are_unknown_and_the_order_exists_once(
        self, simulator: SimulatorProcess, futures: BinanceFutures
    ) -> None:
        await futures.warm_up()  # kept connections: the library would love to try again
        simulator.add_fault("drop_answer", match={"path": ORDER})
        (result,) = await futures.place_orders([make_request("lost1")])
        assert isinstance(result, exc.OutcomeUnknown)
        simulator.clear_faults()
        simulator.order("lost1")  # accepted once, and only once
        assert (await futures.fetch_order(OrderRef(BTC, "lost1"))).status is VenueOrderStatus.NEW

    async def test_of_a_cancel_are_unknown(
        self, simulator: SimulatorProcess, futures: BinanceFutures
    ) -> None:
        await place(futures, "lost2")
        simulator.add_fault("drop_answer", match={"method": "DELETE"}, times=1)
        (result,) = await futures.cancel_orders([OrderRef(BTC, "lost2")])
        assert isinstance(result, exc.OutcomeUnknown)
        assert (await futures.fetch_order(OrderRef(BTC, "lost2"))).status is VenueOrderStatus.CANCELED

    async def test_are_unknown_when_they_take_too_long(
        self, simulator: SimulatorProcess, futures: BinanceFutures
    ) -> None:
        simulator.add_fault("delay_after", match={"path": ORDER}, seconds=4, times=1)
        (result,) = await futures.place_orders([make_request("slow1")])
        assert isinstance(result, exc.OutcomeUnknown)
        assert result.error_type is ErrorType.TIMEOUT
        simulator.order("slow1")


class TestRefusals:
    @pytest.mark.parametrize(
        ("overrides", "code", "expected"),
        [
            ({"symbol": "NOPE/USDT"}, "-1121", exc.InvalidSymbol),
            ({"quantity": D("0.0105")}, "-1111", exc.InvalidOrder),
            ({"quantity": D("0.0001")}, "-1111", exc.InvalidOrder),
            ({"quantity": D("900"), "price": D("94000")}, "-2019", exc.InsufficientFunds),
            ({"side": Side.SELL, "reduce_only": True, "price": D(99000)}, "-2022", exc.InvalidOrder),
        ],
    )
    async def test_have_the_codes_of_futures(
        self, futures: BinanceFutures, overrides: dict[str, Any], code: str, expected: type[Exception]
    ) -> None:
        (result,) = await futures.place_orders([make_request("bad1", **overrides)])
        assert isinstance(result, expected), result
        assert result.venue_code == code

    @pytest.mark.parametrize(
        ("overrides", "code", "expected"),
        [
            ({"symbol": "NOPE/USDT"}, "-1121", exc.InvalidSymbol),
            ({"quantity": D("0.0000001")}, "-1013", exc.InvalidOrder),
            ({"quantity": D("90"), "price": D("94000")}, "-2010", exc.InsufficientFunds),
        ],
    )
    async def test_have_the_codes_of_spot(
        self, spot: BinanceSpot, overrides: dict[str, Any], code: str, expected: type[Exception]
    ) -> None:
        (result,) = await spot.place_orders([make_request("bad1", **overrides)])
        assert isinstance(result, expected), result
        assert result.venue_code == code

    async def test_of_the_key_are_told_as_such(self, simulator: SimulatorProcess, hosts: Hosts) -> None:
        endpoints = Endpoints(simulator.futures_url, simulator.futures_ws_url)
        stranger = BinanceFutures(Credentials("nobody-knows-me", "x"), endpoints, hosts=lambda: hosts)
        with pytest.raises(exc.AuthenticationFailed):
            await stranger.check_account()

    async def test_show_no_secret_even_if_the_exchange_does(
        self, simulator: SimulatorProcess, futures: BinanceFutures
    ) -> None:
        simulator.add_fault("echo_secret", match={"path": ORDER}, times=1)
        (result,) = await futures.place_orders([make_request("echo1")])
        assert isinstance(result, exc.ExchangeError)
        assert "***" in result.message
        assert "RECOGNISABLE" not in result.message

    async def test_of_one_order_leave_the_others_of_its_batch(
        self, simulator: SimulatorProcess, futures: BinanceFutures
    ) -> None:
        simulator.add_fault(
            "reject",
            match={"client_order_id_prefix": "bad"},
            times=None,
            code=-2019,
            msg="Margin is insufficient.",
        )
        names = [f"{'bad' if i % 6 == 0 else 'good'}{i}" for i in range(30)]
        results = await futures.place_orders([make_request(name) for name in names])
        kinds = [type(one) for one in results]
        assert kinds == [exc.InsufficientFunds if i % 6 == 0 else OrderReport for i in range(30)]
        assert len(simulator.orders(exchange="binance-futures")) == 25


class TestLimits:
    async def test_are_obeyed_when_the_exchange_says_wait(
        self, simulator: SimulatorProcess, futures: BinanceFutures
    ) -> None:
        body = '{"code": -1003, "msg": "Too many requests."}'
        simulator.add_fault("status", match={"path": ORDER}, status=429, retry_after=7, body=body)
        (first,) = await futures.place_orders([make_request("wait1")])
        assert isinstance(first, exc.RateLimited)
        assert first.retry_after == 7
        (second,) = await futures.place_orders([make_request("wait2")])
        assert isinstance(second, exc.RateLimited)
        assert simulator.orders() == []


class TestClock:
    async def test_is_learned_from_an_exchange_whose_clock_is_off(
        self, simulator: SimulatorProcess, futures: BinanceFutures, spot: BinanceSpot
    ) -> None:
        simulator.set_clock_offset(-90_000)
        await place(futures, "clock1")
        await place(spot, "clock1")
        async with Follower(spot) as follower:
            await place(spot, "clock2")
            await follower.until(lambda: bool(follower.reports))


class TestUserStream:
    @pytest.mark.parametrize("market", ["futures", "spot"])
    async def test_comes_back_after_a_cut(
        self, simulator: SimulatorProcess, futures: BinanceFutures, spot: BinanceSpot, market: str
    ) -> None:
        exchange = {"futures": futures, "spot": spot}[market]
        async with Follower(exchange) as follower:
            assert simulator.cut_streams() == 1
            await follower.until(lambda: follower.connections == 2)
            await place(exchange, "after-cut")
            await follower.until(lambda: bool(follower.reports))

    async def test_comes_back_when_its_listen_key_expires(
        self, simulator: SimulatorProcess, futures: BinanceFutures
    ) -> None:
        async with Follower(futures) as follower:
            assert simulator.expire_listen_key(KEY)
            await follower.until(lambda: follower.connections == 2)
            await place(futures, "after-expiry")
            await follower.until(lambda: bool(follower.reports))

    async def test_is_heard_within_a_fraction_of_a_second(
        self, simulator: SimulatorProcess, futures: BinanceFutures
    ) -> None:
        async with Follower(futures) as follower:
            await place(futures, "quick1")
            await follower.until(lambda: bool(follower.reports))
            began = time.monotonic()
            await asyncio.to_thread(simulator.fill, "quick1")
            await follower.until(lambda: follower.reports[-1].status is VenueOrderStatus.FILLED)
            assert time.monotonic() - began < 1
