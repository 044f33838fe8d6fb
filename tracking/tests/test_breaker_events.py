"""What becomes of orders while an exchange cannot be reached, and who is told of it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest

from exchanges import access, runtime, sharing
from exchanges.adapters.binance.futures import BinanceFutures
from exchanges.adapters.breaker import BreakerState
from exchanges.adapters.exceptions import CircuitOpen, ExchangeError
from exchanges.models import Account, Breaker
from exchanges.simulator.testing import SimulatorProcess
from orders.clock import database_now
from orders.models import EventType, FailedOrder, Home, OpenOrder, OrderEvent, OrderIntent, PendingOrder
from orders.services.cancellation import cancels_send
from tracking.reconciliation import reconcile_account
from tracking.tests.making import FUTURES, make_account, make_orders, send, wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, on_simulator: SimulatorProcess) -> Iterator[SimulatorProcess]:
    """Breakers that try again soon, and the thread that writes them down."""
    monkeypatch.setattr(runtime.options, "breaker_seconds", 1.0)
    monkeypatch.setattr(sharing, "LOOK_SECONDS", 0.1)
    runtime.stop()
    sharing.watch()
    yield on_simulator
    sharing.stop()


def fail_three_times(account: Account) -> None:
    for _ in range(3):
        with pytest.raises(ExchangeError):
            reconcile_account(account_id=account.pk, market_type=FUTURES)


class TestADeadExchange:
    def test_lets_queued_orders_wait_fails_market_orders_and_takes_cancels(
        self, quick: SimulatorProcess
    ) -> None:
        account = make_account()
        keys = account.credentials
        quick.add_account(keys.api_key, keys.api_secret, {"binance-futures": {"USDT": "1000000"}})
        (resting,) = make_orders(account, [{}])
        send(account, [resting])
        resting.refresh_from_db()
        assert resting.exchange_order_id
        quick.add_fault("status", status=502, body="<html>Bad Gateway</html>", times=None)
        fail_three_times(account)
        with pytest.raises(CircuitOpen):
            reconcile_account(account_id=account.pk, market_type=FUTURES)
        quick.clear_faults()

        queued, market = make_orders(
            account, [{"price": Decimal(80000)}, {"order_type": "MARKET", "price": None}]
        )
        OrderIntent.objects.filter(pk=queued.intent_id).update(is_queued=True)
        queued.intent.is_queued = True
        runtime.options.breaker_seconds = 3600  # it stays open for as long as we look
        send(account, [queued, market])

        assert OrderIntent.objects.get(pk=queued.intent_id).home == Home.QUEUE
        waiting = PendingOrder.objects.get()
        assert waiting.waits_until is not None
        assert OrderIntent.objects.get(pk=queued.intent_id).retry_count == 0  # no try: it outlives the outage
        failed = FailedOrder.objects.get()
        assert (failed.intent_id, failed.error_type) == (market.intent_id, "network_error")
        assert "not sent: binance cannot be reached" in failed.exchange_error
        assert {row["client_order_id"] for row in quick.orders()} == {resting.client_order_id}

        OrderIntent.objects.filter(pk=resting.intent_id).update(cancel_requested=True)
        cancels_send(intent_ids=[resting.intent_id], source="OPERATOR", now=database_now())
        assert quick.order(resting.client_order_id)["status"] == "CANCELED"
        assert OpenOrder.objects.exists() is False

    def test_is_told_to_those_who_trade_there_and_forgotten_when_it_is_back(
        self, quick: SimulatorProcess
    ) -> None:
        account, live = make_account(), make_account(environment="LIVE")
        keys = account.credentials
        quick.add_account(keys.api_key, keys.api_secret, {"binance-futures": {"USDT": "1000000"}})
        quick.add_fault("status", status=502, body="<html>Bad Gateway</html>", times=None)
        fail_three_times(account)

        quick.clear_faults()
        opened = wait_until(lambda: OrderEvent.objects.filter(type=EventType.BREAKER).first())

        assert (opened.user_id, opened.before, opened.after) == (account.user_id, "CLOSED", "OPEN")
        assert opened.message.startswith("binance cannot be reached: queued orders wait")
        assert OrderEvent.objects.filter(user_id=live.user_id).exists() is False

        def is_back() -> bool:
            try:
                return reconcile_account(account_id=account.pk, market_type=FUTURES).ran
            except CircuitOpen:
                return False

        wait_until(is_back)
        for _ in range(2):
            assert is_back()
        wait_until(lambda: Breaker.objects.get().state == BreakerState.CLOSED)
        closed = OrderEvent.objects.filter(type=EventType.BREAKER).latest("pk")
        assert (closed.user_id, closed.after, closed.message) == (
            account.user_id,
            "CLOSED",
            "binance answers again",
        )

    def test_stops_no_other_exchange(self, quick: SimulatorProcess) -> None:
        futures, spot = make_account(), make_account(market_type="SPOT")
        for account in (futures, spot):
            keys = account.credentials
            quick.add_account(keys.api_key, keys.api_secret, {"binance-spot": {"USDT": "1000000"}})
        match = {"exchange": "binance-futures"}
        quick.add_fault("status", status=502, body="<html>", times=None, match=match)
        fail_three_times(futures)
        assert reconcile_account(account_id=spot.pk, market_type="SPOT").is_clean


def test_the_simulators_breaker_is_not_the_live_exchanges(quick: SimulatorProcess) -> None:
    """Same exchange, same market, another environment: another URL, another breaker."""
    account, live = make_account(), make_account(environment="LIVE")

    async def breakers_of() -> set[int]:
        return {
            id(one._rest.host.breaker)
            for one in (access.exchange_for(account, FUTURES), access.exchange_for(live, FUTURES))
            if isinstance(one, BinanceFutures)
        }

    assert len(runtime.run(breakers_of(), 5)) == 2
