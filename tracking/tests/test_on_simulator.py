"""The streams process, the real adapters and real sockets, against an exchange that has bad days."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection

from exchanges import access, runtime
from exchanges.adapters.testing import make_request
from exchanges.adapters.types import OrderRef
from exchanges.models import Account, Instrument, LastPrice
from exchanges.simulator.testing import SimulatorProcess
from orders.models import (
    EventSource,
    EventType,
    FailedOrder,
    OpenOrder,
    OrderEvent,
    Placement,
    StrategyPosition,
    Trade,
    TradeExecution,
)
from orders.states import OrderStatus
from tracking.models import OrderTrackingSession, SessionStatus, UnmatchedReport
from tracking.reconciliation import reconcile_account
from tracking.resolver import resolve
from tracking.tests.making import (
    SYMBOL,
    long_ago,
    make_account,
    make_orders,
    open_order,
    send,
    wait_until,
)
from tracking.tests.running import streams_process

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(90)]
MARKETS = ("FUTURES", "SPOT")
FILL_MESSAGE = {"FUTURES": "ORDER_TRADE_UPDATE", "SPOT": "executionReport"}
DIALECT = {"FUTURES": "binance-futures", "SPOT": "binance-spot"}


class Market:
    """One account in one market of the simulator."""

    def __init__(self, simulator: SimulatorProcess, market_type: str) -> None:
        self.simulator = simulator
        self.market_type = market_type
        self.account: Account = make_account(market_type=market_type)
        credentials = self.account.credentials
        money = {"USDT": "10000000"}
        simulator.add_account(credentials.api_key, credentials.api_secret, {DIALECT[market_type]: money})

    def write(self, *orders: dict[str, Any], **options: Any) -> list[Placement]:
        return make_orders(self.account, orders or [{}], market_type=self.market_type, **options)

    def rest(self, *orders: dict[str, Any]) -> list[Placement]:
        """Orders that the exchange has taken."""
        placements = self.write(*orders)
        send(self.account, placements)
        for placement in placements:
            placement.refresh_from_db()
            assert placement.exchange_order_id, placement.exchange_words
        return placements

    def fill(self, placement: Placement, quantity: str | None = None) -> None:
        self.simulator.fill(
            placement.client_order_id,
            quantity=None if quantity is None else Decimal(quantity),
            exchange=DIALECT[self.market_type],
        )

    def cancel_by_hand(self, placement: Placement) -> None:
        exchange = access.exchange_for(self.account, self.market_type)
        ref = OrderRef(symbol=SYMBOL, exchange_order_id=placement.exchange_order_id)
        runtime.run(exchange.cancel_orders([ref]), timeout=5)

    def cut(self) -> None:
        assert self.simulator.cut_streams(api_key=self.account.credentials.api_key) == 1

    def fault(self, kind: str, **options: Any) -> None:
        self.simulator.add_fault(kind, match={"event": FILL_MESSAGE[self.market_type]}, **options)


@pytest.fixture(params=MARKETS)
def market(request: pytest.FixtureRequest, on_simulator: SimulatorProcess) -> Market:
    return Market(on_simulator, request.param)


@pytest.fixture
def futures(on_simulator: SimulatorProcess) -> Market:
    return Market(on_simulator, "FUTURES")


@pytest.fixture
def followed(market: Market) -> Iterator[Market]:
    """A market whose stream is up and whose account was reconciled."""
    with streams_process():
        wait_until(is_connected)
        yield market


def is_connected() -> bool:
    row = OrderTrackingSession.objects.first()
    return row is not None and row.status == SessionStatus.CONNECTED and row.last_reconciled_at is not None


def position() -> Decimal:
    return StrategyPosition.objects.values_list("quantity", flat=True).first() or Decimal(0)


class TestStream:
    def test_books_a_part_fill_and_then_the_rest(self, followed: Market) -> None:
        (placement,) = followed.rest()
        followed.fill(placement, "0.4")
        wait_until(lambda: position() == Decimal("0.4"), seconds=2)
        order = open_order(placement)
        assert order is not None
        assert order.status == OrderStatus.PARTIALLY_FILLED

        followed.fill(placement)

        wait_until(lambda: open_order(placement) is None, seconds=2)
        assert TradeExecution.objects.count() == 2
        assert (Trade.objects.get().quantity, position()) == (Decimal(1), Decimal(1))
        assert OrderEvent.objects.latest("pk").type == EventType.FILLED

    def test_counts_a_message_once_that_comes_twice(self, followed: Market) -> None:
        followed.fault("stream_duplicate", times=None)
        (placement,) = followed.rest()
        followed.fill(placement, "0.4")
        followed.fill(placement)

        wait_until(lambda: open_order(placement) is None, seconds=3)

        assert (TradeExecution.objects.count(), position()) == (2, Decimal(1))

    def test_does_not_care_about_the_order_of_messages(self, followed: Market) -> None:
        (placement,) = followed.rest()
        followed.fault("stream_reorder")
        followed.fill(placement, "0.4")
        followed.fill(placement)

        wait_until(lambda: open_order(placement) is None, seconds=3)

        assert (TradeExecution.objects.count(), position()) == (2, Decimal(1))

    def test_finds_a_fill_whose_message_was_lost(self, followed: Market) -> None:
        (placement,) = followed.rest()
        wait_until(lambda: OrderEvent.objects.filter(type=EventType.ACCEPTED).exists())
        followed.fault("stream_drop")
        followed.fill(placement, "0.4")
        followed.fill(placement, "0.1")

        wait_until(lambda: position() == Decimal("0.5"), seconds=5)

        assert TradeExecution.objects.count() == 2

    def test_counts_once_what_filled_while_the_stream_was_cut(self, followed: Market) -> None:
        (placement,) = followed.rest()
        followed.simulator.add_fault("stream_refuse", status=503, times=1)
        followed.cut()
        wait_until(lambda: not is_connected())
        followed.fill(placement, "0.4")
        followed.fill(placement, "0.3")

        wait_until(lambda: position() == Decimal("0.7"), seconds=10)
        wait_until(is_connected, seconds=10)
        followed.fill(placement)
        wait_until(lambda: open_order(placement) is None, seconds=3)

        assert (TradeExecution.objects.count(), position()) == (3, Decimal(1))
        assert OrderTrackingSession.objects.get().reconnect_count == 1

    def test_shows_an_order_that_was_canceled_by_hand(self, followed: Market) -> None:
        (placement,) = followed.rest()

        followed.cancel_by_hand(placement)

        wait_until(lambda: open_order(placement) is None, seconds=3)
        assert FailedOrder.objects.get().status == "canceled"

    def test_follows_a_stop_into_the_order_that_it_becomes(self, followed: Market) -> None:
        followed.rest({"side": "BUY", "order_type": "MARKET", "price": None})
        wait_until(lambda: position() == Decimal(1))
        (stop,) = followed.rest(
            {
                "side": "SELL",
                "order_type": "STOP_LIMIT",
                "stop_price": Decimal(90000),
                "price": Decimal(89000),
            }
        )

        followed.simulator.set_price(SYMBOL, 89900)

        wait_until(lambda: open_order(stop) is None, seconds=10)
        assert position() == 0
        assert not OrderEvent.objects.filter(type=EventType.EXTERNAL).exists()

    def test_shows_an_order_placed_by_hand_and_never_touches_it(self, followed: Market) -> None:
        _by_hand(followed)

        event = wait_until(OrderEvent.objects.filter(type=EventType.EXTERNAL).first, seconds=3)

        assert event.data["client_order_id"] == "by-hand-1"
        assert reconcile_account(account_id=followed.account.pk, market_type=followed.market_type).ran
        assert followed.simulator.order("by-hand-1")["status"] == "NEW"
        assert OrderEvent.objects.filter(type=EventType.EXTERNAL).count() == 1
        assert UnmatchedReport.objects.get().state == UnmatchedReport.State.EXTERNAL

    def test_knows_what_trades_and_at_which_price(self, followed: Market) -> None:
        followed.rest()

        wait_until(lambda: Instrument.objects.filter(market_type=followed.market_type).exists(), seconds=10)
        price = wait_until(LastPrice.objects.filter(symbol=SYMBOL).first, seconds=10)
        assert price.price == Decimal(95000)


class TestUnknownOutcomes:
    def test_resolver_adopts_an_order_whose_answer_was_lost(self, market: Market) -> None:
        (placement,) = market.write()
        market.simulator.add_fault("drop_answer", match={"method": "POST"})
        send(market.account, [placement])
        order = open_order(placement)
        assert order is not None
        assert order.status == OrderStatus.SUBMITTING
        market.fill(placement, "0.4")
        OpenOrder.objects.update(ask_at=long_ago(seconds=1))

        assert resolve() == 1

        order = open_order(placement)
        assert order is not None
        assert order.status == OrderStatus.PARTIALLY_FILLED
        assert position() == Decimal("0.4")
        assert market.simulator.order(placement.client_order_id)["status"] == "PARTIALLY_FILLED"

    def test_resolver_settles_an_order_that_never_arrived(self, market: Market) -> None:
        stop = {"order_type": "STOP_MARKET", "price": None, "stop_price": Decimal(99000)}
        placements = market.write({}, stop, planned_at=long_ago(seconds=60))

        assert resolve() == 2
        assert OpenOrder.objects.count() == 2
        OpenOrder.objects.update(ask_at=long_ago(seconds=1))
        assert resolve() == 2

        assert OpenOrder.objects.exists() is False
        assert FailedOrder.objects.filter(reason="Never placed on the exchange").count() == 2
        assert market.simulator.orders() == []
        assert len(placements) == 2

    def test_resolver_waits_while_the_exchange_fails(self, market: Market) -> None:
        market.write(planned_at=long_ago(seconds=60))
        market.simulator.add_fault("status", status=503, body="", match={"method": "GET"}, times=None)

        for _ in range(3):
            OpenOrder.objects.update(ask_at=long_ago(seconds=1))
            resolve()

        assert OpenOrder.objects.get().not_found_count == 0


class TestReconciliation:
    def test_settles_everything_that_was_not_heard(self, market: Market) -> None:
        filled, partly, canceled, resting = market.rest({}, {}, {}, {})
        market.fill(filled, "0.4")
        market.fill(filled)
        market.fill(partly, "0.3")
        market.cancel_by_hand(canceled)
        _by_hand(market)

        result = reconcile_account(account_id=market.account.pk, market_type=market.market_type)

        assert result.errors == []
        assert len(result.differences) == 4
        statuses = dict(OpenOrder.objects.values_list("placement_id", "status"))
        assert statuses == {partly.pk: OrderStatus.PARTIALLY_FILLED, resting.pk: OrderStatus.NEW}
        assert position() == Decimal("1.3")
        assert OrderEvent.objects.filter(type=EventType.EXTERNAL).count() == 1
        filled_event = OrderEvent.objects.get(type=EventType.FILLED)
        assert filled_event.source == EventSource.RECONCILIATION
        again = reconcile_account(account_id=market.account.pk, market_type=market.market_type)
        assert [one.ours for one in again.differences] == [None]  # the order placed by hand

    def test_check_compares_positions_too(self, futures: Market) -> None:
        (placement,) = futures.rest()
        futures.fill(placement)

        found = reconcile_account(account_id=futures.account.pk, market_type="FUTURES", check_only=True)
        assert [str(one) for one in found.positions] == [f"{SYMBOL}: position 0 here, 1 there"]

        reconcile_account(account_id=futures.account.pk, market_type="FUTURES")
        clean = reconcile_account(account_id=futures.account.pk, market_type="FUTURES", check_only=True)
        assert clean.is_clean


class TestProcess:
    def test_ends_orderly_on_sigterm(self, futures: Market) -> None:
        with _streams_command(futures) as process:
            wait_until(is_connected, seconds=30)

            process.send_signal(signal.SIGTERM)

            assert process.wait(10) == 0
        session = OrderTrackingSession.objects.get()
        assert (session.owner, session.status) == ("", SessionStatus.DISCONNECTED)

    def test_is_replaced_within_15_seconds_when_it_is_killed(self, futures: Market) -> None:
        (placement,) = futures.rest()
        with _streams_command(futures) as first:
            wait_until(is_connected, seconds=30)
            with _streams_command(futures) as second:
                futures.fill(placement, "0.4")
                wait_until(lambda: position() == Decimal("0.4"), seconds=5)
                first.kill()
                first.wait(5)
                futures.fill(placement, "0.3")  # nobody hears it

                wait_until(lambda: position() == Decimal("0.7"), seconds=20)
                futures.fill(placement)
                wait_until(lambda: open_order(placement) is None, seconds=20)
                assert second.poll() is None
        assert (TradeExecution.objects.count(), position()) == (3, Decimal(1))


@contextmanager
def _streams_command(market: Market) -> Iterator[subprocess.Popen[bytes]]:
    """`manage.py streams` on the test's own database."""
    process = subprocess.Popen(
        [sys.executable, "manage.py", "streams"],
        cwd=django_settings.BASE_DIR,
        env=_environment(market.simulator.url),
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


def _environment(simulator_url: str) -> dict[str, str]:
    database = connection.settings_dict
    if connection.vendor == "sqlite":
        url = f"sqlite:///{database['NAME']}"
    else:
        url = "postgres://{USER}@{HOST}:{PORT}/{NAME}".format_map(database)
    return os.environ | {
        "DATABASE_URL": url,
        "SIMULATOR_URL": simulator_url,
        "DEBUG": "true",
        "SECRET_KEY": django_settings.SECRET_KEY,
        "FIELD_ENCRYPTION_KEYS": ",".join(django_settings.FIELD_ENCRYPTION_KEYS),
        "LOG_LEVEL": "WARNING",
    }


def _by_hand(market: Market) -> None:
    """Place an order past our records, as a person on the exchange's own page would."""
    exchange = access.exchange_for(market.account, market.market_type)
    (placed,) = runtime.run(exchange.place_orders([make_request("by-hand-1")]), timeout=5)
    assert not isinstance(placed, Exception), placed
