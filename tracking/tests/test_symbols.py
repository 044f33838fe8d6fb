"""Symbols are subscribed for as long as any unfinished order is on them, where an exchange wants that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import pytest
from pytest_django import DjangoAssertNumQueries

from exchanges.adapters.testing import BTC_USDT, FAKE_CAPABILITIES, FakeExchange
from exchanges.adapters.types import StreamKind, VenueOrderStatus
from exchanges.models import Account
from orders.models import OpenOrder, OrderIntent, StrategyPosition
from orders.services.waiting import pending_for
from tracking import streams
from tracking.models import OrderTrackingSession, SessionStatus
from tracking.streams import Streams
from tracking.tests.conftest import Exchanges
from tracking.tests.making import key_of, make_account, make_order, make_resting, open_order, wait_until
from tracking.tests.running import streams_process
from tracking.watch import StreamKey, symbols_in_use

pytestmark = pytest.mark.django_db(transaction=True)

BTC, ETH = "BTC/USDT", "ETH/USDT"


@pytest.fixture
def account(exchanges: Exchanges) -> Account:
    return make_account()


@pytest.fixture
def exchange(exchanges: Exchanges, account: Account) -> FakeExchange:
    specs = [BTC_USDT, replace(BTC_USDT, symbol=ETH, venue_symbol="ETHUSDT", base_asset="ETH")]
    fake = FakeExchange(capabilities=replace(FAKE_CAPABILITIES, stream=StreamKind.SYMBOLS), instruments=specs)
    exchanges.by_key[account.pk, "FUTURES"] = fake
    return fake


@pytest.fixture
def process(exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch) -> Iterator[Streams]:
    monkeypatch.setattr(streams, "LOOK_SECONDS", 0.1)
    with streams_process() as running:
        wait_until(is_connected)
        yield running


def is_connected() -> bool:
    row = OrderTrackingSession.objects.first()
    return row is not None and row.status == SessionStatus.CONNECTED and row.last_reconciled_at is not None


class TestSymbolsInUse:
    def test_counts_unfinished_orders_open_and_waiting(self, account: Account) -> None:
        for _ in range(2):
            make_order(account)
        waiting = make_order(account, symbol=ETH)
        OpenOrder.objects.filter(placement=waiting).delete()
        intent = OrderIntent.objects.get(pk=waiting.intent_id)
        pending_for(intent, account_id=account.pk, now=intent.created_at).save(force_insert=True)
        other = make_account()

        found = symbols_in_use([key_of(account), key_of(other)])

        assert found == {key_of(account): Counter({BTC: 2, ETH: 1}), key_of(other): Counter()}

    def test_keeps_markets_apart(self, account: Account) -> None:
        make_order(account)
        assert symbols_in_use([StreamKey(account.pk, "SPOT")]) == {StreamKey(account.pk, "SPOT"): Counter()}

    def test_costs_two_queries(
        self, account: Account, django_assert_num_queries: DjangoAssertNumQueries
    ) -> None:
        keys = [key_of(account), *(key_of(make_account()) for _ in range(5))]
        make_order(account)
        with django_assert_num_queries(2):
            symbols_in_use(keys)


class TestStreams:
    def test_subscribes_once_for_two_orders_and_unsubscribes_with_the_last(
        self, account: Account, exchange: FakeExchange, process: Streams, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = make_resting(account), make_resting(account)
        wait_until(lambda: exchange.subscribed == [("subscribe", BTC)])

        exchange.fill(first.client_order_id)
        wait_until(lambda: open_order(first) is None)
        looked_again(monkeypatch)
        assert exchange.subscribed == [("subscribe", BTC)]

        exchange.end(second.client_order_id, VenueOrderStatus.CANCELED)
        wait_until(lambda: exchange.subscribed == [("subscribe", BTC), ("unsubscribe", BTC)])

    def test_asks_for_what_happened_before_the_symbol_was_heard(
        self, account: Account, exchange: FakeExchange, process: Streams
    ) -> None:
        placement = make_resting(account)
        exchange.fill(placement.client_order_id, quantity=Decimal("0.4"))  # nobody hears it, most likely

        wait_until(lambda: StrategyPosition.objects.filter(quantity=Decimal("0.4")).exists(), seconds=5)

    def test_subscribes_again_after_a_reconnect(
        self, account: Account, exchange: FakeExchange, process: Streams
    ) -> None:
        placement = make_resting(account)
        wait_until(lambda: exchange.subscribed == [("subscribe", BTC)])

        before = exchange._listeners[0]
        account.credentials = type(account.credentials)("another key", "another secret")
        account.save()  # the stream is opened anew
        wait_until(lambda: exchange._listeners and exchange._listeners[0] is not before)

        wait_until(lambda: exchange.subscribed == [("subscribe", BTC)] * 2)
        exchange.fill(placement.client_order_id)
        wait_until(lambda: open_order(placement) is None)

    def test_fails_no_order_when_a_subscription_fails(
        self, account: Account, exchange: FakeExchange, process: Streams, caplog: pytest.LogCaptureFixture
    ) -> None:
        exchange.refused_symbols = {BTC}
        placement = make_resting(account)

        wait_until(lambda: exchange.subscribed == [("subscribe", BTC)])
        wait_until(lambda: f"subscription of {BTC} failed" in caplog.text)

        assert open_order(placement) is not None
        assert is_connected()

    def test_asks_nothing_of_an_exchange_that_hears_every_symbol(
        self, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(streams, "LOOK_SECONDS", 0.1)
        account = make_account()
        exchange = exchanges.of(account)
        with streams_process():
            wait_until(is_connected)
            make_resting(account)
            looked_again(monkeypatch)
        assert exchange.subscribed == []


def looked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait until the process has looked at the database twice more: in between it looked at the symbols."""
    looks, real = 0, streams._look

    def counted(seen: streams._Seen) -> streams._Seen:
        nonlocal looks
        looks += 1
        return real(seen)

    monkeypatch.setattr(streams, "_look", counted)
    wait_until(lambda: looks >= 3)
