"""What every adapter promises, kept by the fake as by the real ones (these against the simulator)."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest

from exchanges.adapters import exceptions as exc
from exchanges.adapters.base import Exchange
from exchanges.adapters.binance.adapter import BinanceExchange
from exchanges.adapters.binance.futures import BinanceFutures
from exchanges.adapters.binance.spot import BinanceSpot
from exchanges.adapters.hosts import Hosts
from exchanges.adapters.testing import FakeExchange, make_request
from exchanges.adapters.types import (
    Credentials,
    Endpoints,
    MarketType,
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
_serial = itertools.count(1)


@dataclass
class Venue:
    """An adapter, and the means to let things happen at its exchange."""

    exchange: Exchange
    fill: Callable[[str, Decimal], Any]

    @property
    def market_type(self) -> MarketType:
        (market_type,) = self.exchange.capabilities.market_types
        return market_type

    async def place(self, **overrides: Any) -> OrderReport:
        (report,) = await self.exchange.place_orders([make_request(new_id(), **overrides)])
        assert isinstance(report, OrderReport), report
        return report


def new_id() -> str:
    return f"th{time.time_ns()}x{next(_serial)}"


@pytest.fixture(params=["fake", "binance-futures", "binance-spot"])
async def venue(request: pytest.FixtureRequest, hosts: Hosts) -> AsyncIterator[Venue]:
    if request.param == "fake":
        fake = FakeExchange()
        yield Venue(fake, lambda name, quantity: fake.fill(name, quantity=quantity))
        return
    simulator: SimulatorProcess = request.getfixturevalue("simulator")
    adapter: type[BinanceExchange] = BinanceFutures
    endpoints = Endpoints(simulator.futures_url, simulator.futures_ws_url)
    if request.param == "binance-spot":
        adapter, endpoints = BinanceSpot, Endpoints(simulator.spot_url, simulator.spot_ws_url)
    # The simulator's windows are the real ones: this run places more than they allow.
    rules = replace(adapter.rules, order_windows=())
    exchange = adapter(Credentials("k1", "s1"), endpoints, hosts=lambda: hosts, rules=rules)
    yield Venue(
        exchange, lambda name, quantity: simulator.fill(name, quantity=quantity, exchange=request.param)
    )


def all_good(results: list[OrderReport | exc.ExchangeError]) -> list[OrderReport]:
    assert [one for one in results if not isinstance(one, OrderReport)] == []
    return [one for one in results if isinstance(one, OrderReport)]


class TestPlaceOrders:
    async def test_returns_a_report_that_says_what_was_asked_for(self, venue: Venue) -> None:
        order = make_request(new_id(), price=D("90000.1"), quantity=D("0.012"))
        (report,) = await venue.exchange.place_orders([order])
        assert isinstance(report, OrderReport)
        assert report.exchange_order_id
        assert (report.client_order_id, report.symbol) == (order.client_order_id, BTC)
        assert (report.market_type, report.status) == (venue.market_type, VenueOrderStatus.NEW)
        assert (report.side, report.order_type) == (Side.BUY, OrderType.LIMIT)
        assert (report.price, report.quantity) == (D("90000.1"), D("0.012"))
        assert report.filled_quantity == 0
        assert report.average_price is None

    async def test_answers_thirty_in_order(self, venue: Venue) -> None:
        orders = [make_request(new_id(), price=D(90000 - i)) for i in range(30)]
        reports = all_good(await venue.exchange.place_orders(orders))
        assert [one.client_order_id for one in reports] == [one.client_order_id for one in orders]
        assert {one.status for one in reports} == {VenueOrderStatus.NEW}
        assert len(await venue.exchange.fetch_open_orders(BTC)) == 30

    async def test_has_nothing_to_say_about_nothing(self, venue: Venue) -> None:
        assert await venue.exchange.place_orders([]) == []

    async def test_fills_a_market_order(self, venue: Venue) -> None:
        report = await venue.place(order_type=OrderType.MARKET, price=None)
        assert (report.status, report.filled_quantity) == (VenueOrderStatus.FILLED, D("0.01"))
        assert report.average_price == 95000

    async def test_refuses_an_id_that_is_open_already(self, venue: Venue) -> None:
        first = await venue.place()
        (again,) = await venue.exchange.place_orders([make_request(first.client_order_id)])
        assert isinstance(again, exc.DuplicateClientOrderId)
        assert len(await venue.exchange.fetch_open_orders(BTC)) == 1

    async def test_keeps_a_late_order_at_home(self, venue: Venue) -> None:
        orders = [make_request(new_id(), send_by_monotonic=time.monotonic() - 0.001) for _ in range(7)]
        results = await venue.exchange.place_orders(orders)
        assert [type(one) for one in results] == [exc.NotSent] * 7
        assert await venue.exchange.fetch_open_orders(BTC) == []

    async def test_lets_a_stop_order_wait(self, venue: Venue) -> None:
        report = await venue.place(order_type=OrderType.STOP_MARKET, price=None, stop_price=D(96000))
        assert (report.status, report.conditional, report.triggered) == (VenueOrderStatus.NEW, True, False)
        assert report.stop_price == 96000
        (listed,) = await venue.exchange.fetch_open_orders(BTC)
        assert isinstance(listed, OrderReport)
        assert (listed.client_order_id, listed.conditional) == (report.client_order_id, True)


class TestCancelOrders:
    async def test_ends_each_and_says_how_much_was_filled(self, venue: Venue) -> None:
        placed = [await venue.place(price=D(90000 - i)) for i in range(12)]
        venue.fill(placed[3].client_order_id, D("0.004"))
        refs = [OrderRef(BTC, one.client_order_id, one.exchange_order_id) for one in placed]
        reports = all_good(await venue.exchange.cancel_orders(refs))
        assert [one.client_order_id for one in reports] == [one.client_order_id for one in placed]
        assert {one.status for one in reports} == {VenueOrderStatus.CANCELED}
        assert [one.filled_quantity for one in reports] == [D("0.004") if i == 3 else 0 for i in range(12)]
        assert await venue.exchange.fetch_open_orders(BTC) == []

    async def test_says_not_found_of_what_is_gone_and_cancels_the_rest(self, venue: Venue) -> None:
        placed = await venue.place()
        refs = [OrderRef(BTC, "nobody"), OrderRef(BTC, placed.client_order_id)]
        gone, cancelled = await venue.exchange.cancel_orders(refs)
        assert isinstance(gone, exc.OrderNotFound)
        assert isinstance(cancelled, OrderReport)
        (again,) = await venue.exchange.cancel_orders(refs[1:])
        assert isinstance(again, exc.OrderNotFound)

    async def test_ends_a_waiting_stop_order(self, venue: Venue) -> None:
        placed = await venue.place(order_type=OrderType.STOP_MARKET, price=None, stop_price=D(96000))
        ref = OrderRef(BTC, placed.client_order_id, placed.exchange_order_id, conditional=True)
        (report,) = await venue.exchange.cancel_orders([ref])
        assert isinstance(report, OrderReport)
        assert (report.status, report.filled_quantity) == (VenueOrderStatus.CANCELED, D(0))
        assert (await venue.exchange.fetch_order(ref)).status is VenueOrderStatus.CANCELED


class TestFetchOrder:
    @pytest.mark.parametrize("by", ["client", "exchange"])
    async def test_finds_an_order_by_either_id(self, venue: Venue, by: str) -> None:
        placed = await venue.place()
        venue.fill(placed.client_order_id, D("0.004"))
        ref = OrderRef(BTC, placed.client_order_id)
        if by == "exchange":
            ref = OrderRef(BTC, exchange_order_id=placed.exchange_order_id)
        report = await venue.exchange.fetch_order(ref)
        assert report.client_order_id == placed.client_order_id
        assert (report.status, report.filled_quantity) == (VenueOrderStatus.PARTIALLY_FILLED, D("0.004"))
        assert report.average_price == 90000

    async def test_raises_when_there_is_none(self, venue: Venue) -> None:
        with pytest.raises(exc.OrderNotFound):
            await venue.exchange.fetch_order(OrderRef(BTC, "nobody"))


class TestFetchExecutions:
    async def test_returns_every_fill_oldest_first(self, venue: Venue) -> None:
        placed = await venue.place()
        for quantity in (D("0.001"), D("0.002"), D("0.007")):
            venue.fill(placed.client_order_id, quantity)
        fills = await venue.exchange.fetch_executions(OrderRef(BTC, placed.client_order_id))
        assert [fill.quantity for fill in fills] == [D("0.001"), D("0.002"), D("0.007")]
        assert len({fill.trade_id for fill in fills}) == 3
        assert {fill.exchange_order_id for fill in fills} == {placed.exchange_order_id}
        assert {fill.price for fill in fills} == {90000}


class TestFetchRecentOrders:
    async def test_lists_those_that_have_ended_too(self, venue: Venue) -> None:
        since_ms = int(time.time() * 1000) - 5000
        market = await venue.place(order_type=OrderType.MARKET, price=None)
        resting = await venue.place()
        stop = await venue.place(order_type=OrderType.STOP_MARKET, price=None, stop_price=D(96000))
        found = {
            report.client_order_id: report.status
            for report in await venue.exchange.fetch_recent_orders(BTC, since_ms=since_ms)
            if isinstance(report, OrderReport)
        }
        assert found[market.client_order_id] is VenueOrderStatus.FILLED
        assert found[resting.client_order_id] is VenueOrderStatus.NEW
        assert found[stop.client_order_id] is VenueOrderStatus.NEW


class TestFetchTickers:
    async def test_prices_what_it_knows(self, venue: Venue) -> None:
        assert await venue.exchange.fetch_tickers([BTC, "NOPE/USDT"]) == {BTC: D(95000)}


class TestAccount:
    async def test_can_be_used(self, venue: Venue) -> None:
        await venue.exchange.warm_up()
        await venue.exchange.check_account()
        balances = {one.asset: one for one in await venue.exchange.fetch_balances()}
        assert balances["USDT"].free > 0
        specs = {spec.symbol: spec for spec in await venue.exchange.load_instruments()}
        assert specs[BTC].market_type is venue.market_type
        assert specs[BTC].tick_size > 0


class TestUserStream:
    async def test_tells_of_every_step_of_an_order(self, venue: Venue) -> None:
        events: list[StreamEvent] = []

        async def listen() -> None:
            async with aclosing(venue.exchange.user_stream()) as stream:
                async for event in stream:
                    events.append(event)

        async def until(condition: Callable[[], bool]) -> None:
            async with asyncio.timeout(5):
                while not condition():
                    await asyncio.sleep(0.01)

        def reports() -> list[OrderReport]:
            return [event for event in events if isinstance(event, OrderReport)]

        task = asyncio.create_task(listen())
        await until(lambda: StreamStateChange(StreamState.CONNECTED) in events)
        placed = await venue.place()
        await asyncio.to_thread(venue.fill, placed.client_order_id, D("0.004"))
        await asyncio.to_thread(venue.fill, placed.client_order_id, D("0.006"))
        other = await venue.place()
        await venue.exchange.cancel_orders([OrderRef(BTC, other.client_order_id)])
        await until(lambda: len(reports()) >= 5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        assert events[:2] == [
            StreamStateChange(StreamState.CONNECTING), StreamStateChange(StreamState.CONNECTED),
        ]  # fmt: skip
        assert [(one.client_order_id, one.status.value, one.filled_quantity) for one in reports()] == [
            (placed.client_order_id, "NEW", 0),
            (placed.client_order_id, "PARTIALLY_FILLED", D("0.004")),
            (placed.client_order_id, "FILLED", D("0.01")),
            (other.client_order_id, "NEW", 0),
            (other.client_order_id, "CANCELED", 0),
        ]
        assert [[fill.quantity for fill in one.fills] for one in reports()] == [
            [], [D("0.004")], [D("0.006")], [], [],
        ]  # fmt: skip
        assert reports()[0].exchange_order_id == placed.exchange_order_id
