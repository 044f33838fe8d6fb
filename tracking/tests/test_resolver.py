from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.db.models import F

from exchanges import runtime
from exchanges.adapters.exceptions import OrderNotFound, OutcomeUnknown
from exchanges.adapters.testing import FakeExchange
from exchanges.adapters.types import (
    Fill,
    ListedOrder,
    OrderRef,
    OrderReport,
    UnreadableOrder,
    VenueOrderStatus,
)
from exchanges.models import Account
from orders.clock import database_now
from orders.models import (
    DeliveryState,
    EventSource,
    EventType,
    FailedOrder,
    Home,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    Placement,
    PlacementOutcome,
    StrategyPosition,
    TradeExecution,
)
from orders.services.cancellation import cancels_send
from orders.services.settlement import apply_reports
from orders.states import OrderStatus
from tracking import resolver
from tracking.fetching import Question, orders_fetch
from tracking.resolver import gaps_sweep, resolve
from tracking.tests.conftest import Exchanges
from tracking.tests.making import (
    FUTURES,
    long_ago,
    make_account,
    make_order,
    make_orders,
    make_resting,
    open_order,
    send,
    wait_until,
)
from tracking.watch import StreamKey

pytestmark = pytest.mark.django_db(transaction=True)
# Planned 60 s ago: `send_by` and everything that is added to it has passed.
HOPELESS = {"seconds": 60}
# Planned 22 s ago: due to be asked about, and a request may still be under way.
EARLY = {"seconds": 22}


@pytest.fixture
def account(exchanges: Exchanges) -> Account:
    return make_account()


@pytest.fixture
def exchange(exchanges: Exchanges, account: Account) -> FakeExchange:
    return exchanges.of(account)


def lost(exchange: FakeExchange, account: Account, placement: Placement) -> None:
    """Send an order whose answer never comes back."""
    exchange.lose_answer(placement.client_order_id, OutcomeUnknown("read timed out", venue="fake"))
    send(account, [placement])


def hear(account: Account, exchange: FakeExchange, placement: Placement) -> None:
    """Hear how an order stands now, fills and all."""
    (answer,) = runtime.run(orders_fetch(exchange, [Question(placement.to_ref(), Decimal(0))]), 5)
    assert isinstance(answer, OrderReport)
    apply_reports(
        account_id=account.pk,
        market_type=FUTURES,
        reports=[answer],
        source=EventSource.RESOLVER,
        now=database_now(),
    )


def due_now() -> None:
    OpenOrder.objects.filter(ask_at__isnull=False).update(ask_at=long_ago(seconds=1))


def resolve_again() -> None:
    due_now()
    resolve()


class TestResolveOfSubmittingOrders:
    def test_adopts_an_order_whose_answer_was_lost(self, account: Account, exchange: FakeExchange) -> None:
        placement = make_order(account)
        lost(exchange, account, placement)
        due_now()

        assert resolve() == 1

        order = open_order(placement)
        assert order is not None
        assert (order.status, order.ask_at) == (OrderStatus.NEW, None)
        event = OrderEvent.objects.latest("pk")
        assert (event.type, event.source) == (EventType.ACCEPTED, EventSource.RESOLVER)
        assert [request.client_order_id for request in exchange.submitted] == [placement.client_order_id]

    def test_books_the_fills_of_an_order_that_filled_meanwhile(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        placement = make_order(account)
        lost(exchange, account, placement)
        exchange.fill(placement.client_order_id, quantity=Decimal("0.3"), announce=False)
        exchange.fill(placement.client_order_id, announce=False)
        due_now()

        resolve()

        assert open_order(placement) is None
        assert TradeExecution.objects.count() == 2
        assert StrategyPosition.objects.get().quantity == Decimal(1)

    def test_settles_the_others_where_one_answer_cannot_be_written_down(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        booked = make_resting(account)
        exchange.fill(booked.client_order_id, announce=False)
        hear(account, exchange, booked)
        taken = TradeExecution.objects.get()
        bad, good = make_order(account), make_order(account)
        for placement in (bad, good):
            lost(exchange, account, placement)
        exchange.fill(bad.client_order_id, announce=False)

        async def somebody_elses(ref: OrderRef) -> list[Fill]:
            (fill,) = await fetch(ref)
            return [replace(fill, trade_id=taken.trade_id, exchange_order_id=taken.exchange_order_id)]

        fetch, exchange.fetch_executions = exchange.fetch_executions, somebody_elses  # type: ignore[method-assign]
        due_now()

        resolve()

        assert (_status(bad), _status(good)) == (OrderStatus.SUBMITTING, OrderStatus.NEW)
        assert TradeExecution.objects.count() == 1
        order = open_order(bad)
        assert order is not None
        assert order.ask_at is not None  # it is asked for again
        assert order.ask_at > database_now()

    def test_asks_nothing_before_it_is_time(self, account: Account, exchange: FakeExchange) -> None:
        make_order(account)

        assert resolve() == 0

    def test_does_not_believe_not_found_while_a_request_may_be_on_its_way(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        placement = make_order(account, planned_at=long_ago(**EARLY))

        for _ in range(3):
            resolve_again()

        order = open_order(placement)
        assert order is not None
        assert (order.status, order.not_found_count) == (OrderStatus.SUBMITTING, 0)
        assert order.ask_at is not None
        assert order.ask_at > database_now()

    def test_needs_to_be_told_twice_that_an_order_was_never_placed(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        placement = make_order(account, planned_at=long_ago(**HOPELESS))

        resolve()

        order = open_order(placement)
        assert order is not None
        assert (order.status, order.not_found_count) == (OrderStatus.SUBMITTING, 1)
        resolve_again()
        assert open_order(placement) is None
        failed = FailedOrder.objects.get()
        assert (failed.reason, failed.quantity) == ("Never placed on the exchange", Decimal(1))
        placement.refresh_from_db()
        assert placement.outcome == PlacementOutcome.NEVER_PLACED
        assert exchange.submitted == []  # nothing was sent on the way

    @pytest.mark.parametrize(("hours", "counted"), [(70, 1), (72, 0), (2400, 0)])
    def test_leaves_to_a_person_what_the_exchange_may_have_forgotten(
        self,
        account: Account,
        exchange: FakeExchange,
        caplog: pytest.LogCaptureFixture,
        hours: int,
        counted: int,
    ) -> None:
        placement = make_order(account, planned_at=long_ago(hours=hours), is_queued=True)

        resolve_again()

        order = open_order(placement)
        assert order is not None
        assert (order.status, order.not_found_count) == (OrderStatus.SUBMITTING, counted)
        if not counted:
            resolve_again()
            assert open_order(placement) is not None
            assert exchange.submitted == []
            assert "a person has to decide" in caplog.text
            assert order.ask_at is not None
            assert order.ask_at > database_now()  # it may be heard of yet

    def test_ends_a_canceled_order_that_was_never_placed_without_a_failure(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        make_order(account, planned_at=long_ago(**HOPELESS))
        OrderIntent.objects.update(cancel_requested=True)

        resolve()
        resolve_again()

        assert OrderIntent.objects.get().home == Home.DONE
        assert FailedOrder.objects.exists() is False

    def test_places_a_limit_of_an_unanswered_delivery_anew_and_a_market_never(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        limit, market = make_orders(
            account,
            [{}, {"order_type": "MARKET", "price": None}],
            planned_at=long_ago(**HOPELESS),
            delivery_state=DeliveryState.WORKING,
        )

        resolve()
        resolve_again()

        assert [request.client_order_id for request in exchange.submitted] == [
            limit.client_order_id[:-1] + "2"
        ]
        assert FailedOrder.objects.get().intent_id == market.intent_id

    def test_finishes_what_a_dead_process_had_proven(self, account: Account, exchange: FakeExchange) -> None:
        (limit,) = make_orders(
            account, [{}], planned_at=long_ago(**HOPELESS), delivery_state=DeliveryState.WORKING
        )
        Placement.objects.update(outcome=PlacementOutcome.NEVER_PLACED)

        resolve()

        assert [one.client_order_id for one in exchange.submitted] == [limit.client_order_id[:-1] + "2"]

    def test_believes_the_open_orders_over_the_query(self, account: Account, exchange: FakeExchange) -> None:
        placement = make_order(account, planned_at=long_ago(**HOPELESS))
        lost(exchange, account, placement)
        _query_finds_nothing(exchange)

        async def nothing(symbol: str, *, since_ms: int) -> list[ListedOrder]:
            return []

        exchange.fetch_recent_orders = nothing  # type: ignore[method-assign]
        resolve_again()

        order = open_order(placement)
        assert order is not None
        assert order.status == OrderStatus.NEW

    def test_believes_the_history_over_the_query(self, account: Account, exchange: FakeExchange) -> None:
        placement = make_order(account, planned_at=long_ago(**HOPELESS))
        lost(exchange, account, placement)
        exchange.fill(placement.client_order_id, announce=False)
        _query_finds_nothing(exchange)

        resolve_again()

        assert open_order(placement) is None
        assert StrategyPosition.objects.get().quantity == Decimal(1)

    @pytest.mark.parametrize(("ours", "counted"), [(True, 0), (False, 1)])
    def test_believes_nothing_while_a_row_with_its_id_cannot_be_read(
        self, account: Account, exchange: FakeExchange, ours: bool, counted: int
    ) -> None:
        placement = make_order(account, planned_at=long_ago(**HOPELESS))
        name = placement.client_order_id if ours else "web_1"
        exchange.unreadable = [UnreadableOrder(("5", name), "{}", "unknown status 'HALTED'")]

        resolve_again()

        order = open_order(placement)
        assert order is not None
        assert (order.status, order.not_found_count) == (OrderStatus.SUBMITTING, counted)

    def test_believes_nothing_while_a_list_cannot_be_had(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        placement = make_order(account, planned_at=long_ago(**HOPELESS))

        async def broken(symbol: str, *, since_ms: int) -> list[ListedOrder]:
            raise OutcomeUnknown("connection lost", venue="fake")

        exchange.fetch_recent_orders = broken  # type: ignore[method-assign]
        for _ in range(3):
            resolve_again()

        order = open_order(placement)
        assert order is not None
        assert order.not_found_count == 0

    def test_asks_about_an_order_once_however_many_processes_run(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        make_order(account, planned_at=long_ago(**HOPELESS))
        asked = 0
        fetch = exchange.fetch_order

        async def counted(ref: OrderRef) -> OrderReport:
            nonlocal asked
            asked += 1
            # A second process comes by while the first one waits for its answer.
            assert OpenOrderDue.count_in_thread() == 0
            return await fetch(ref)

        exchange.fetch_order = counted  # type: ignore[method-assign]
        resolve()

        assert asked == 1

    def test_settles_one_account_although_another_exchange_is_dead(
        self, account: Account, exchange: FakeExchange, exchanges: Exchanges
    ) -> None:
        other = make_account()
        dead = make_order(other, planned_at=long_ago(**HOPELESS))
        exchanges.of(other).fails_with = OutcomeUnknown("connection lost", venue="fake")
        placement = make_order(account)
        lost(exchange, account, placement)
        due_now()

        resolve()

        found, waiting = open_order(placement), open_order(dead)
        assert found is not None
        assert found.status == OrderStatus.NEW
        assert waiting is not None
        assert (waiting.status, waiting.not_found_count) == (OrderStatus.SUBMITTING, 0)

    def test_settles_accounts_side_by_side(
        self, account: Account, exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What follows may ask an exchange again. Both wait for each other here."""
        other = make_account()
        for one in (account, other):
            make_order(one, planned_at=long_ago(**HOPELESS))
        meeting = threading.Barrier(2, timeout=10)
        settle = resolver._settle

        def meet(key: StreamKey, cases: Sequence[Any], answers: Sequence[Any]) -> None:
            meeting.wait()
            settle(key, cases, answers)

        monkeypatch.setattr(resolver, "_settle", meet)
        assert resolve() == 2
        assert set(OpenOrder.objects.values_list("not_found_count", flat=True)) == {1}

    def test_settles_one_account_although_another_exchange_never_answers(
        self,
        account: Account,
        exchange: FakeExchange,
        exchanges: Exchanges,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(resolver, "ASK_SECONDS", 2.0)
        other = make_account()
        stuck = make_orders(other, [{}, {}], planned_at=long_ago(**HOPELESS))
        lost(exchanges.of(other), other, stuck[1])
        released = threading.Event()
        _hangs_about(exchanges.of(other), stuck[0], released)
        placement = make_order(account)
        lost(exchange, account, placement)
        due_now()

        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(_resolve_in_thread)
            try:
                # While the one hangs, the other one's order is adopted.
                wait_until(lambda: _status(placement) == OrderStatus.NEW)
                assert not asking.done()
                assert asking.result(10) == 3
            finally:
                released.set()

        waiting = open_order(stuck[0])
        assert waiting is not None
        assert (waiting.status, waiting.not_found_count) == (OrderStatus.SUBMITTING, 0)
        assert waiting.ask_at is not None
        assert waiting.ask_at > database_now()
        # And what the hanging exchange did say of its other order counts.
        assert _status(stuck[1]) == OrderStatus.NEW

    def test_believes_nothing_while_a_list_does_not_come(
        self, account: Account, exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(resolver, "ASK_SECONDS", 0.2)
        placement = make_order(account, planned_at=long_ago(**HOPELESS))

        async def endless(symbol: str, *, since_ms: int) -> list[ListedOrder]:
            await asyncio.sleep(30)
            return []

        exchange.fetch_recent_orders = endless  # type: ignore[method-assign]
        for _ in range(3):
            resolve_again()

        order = open_order(placement)
        assert order is not None
        assert (order.status, order.not_found_count) == (OrderStatus.SUBMITTING, 0)


class TestResolveOfCancelingOrders:
    def test_cancels_again_what_is_still_alive(self, account: Account, exchange: FakeExchange) -> None:
        placement = self._canceling(account, exchange)
        exchange._cancel_failures.clear()
        due_now()

        resolve()

        assert len(exchange.cancelled) == 2
        assert open_order(placement) is None
        assert OrderIntent.objects.get().home == Home.DONE
        assert FailedOrder.objects.exists() is False

    def test_finishes_what_has_ended(self, account: Account, exchange: FakeExchange) -> None:
        placement = self._canceling(account, exchange)
        exchange.fill(placement.client_order_id, quantity=Decimal("0.4"), announce=False)
        exchange.end(placement.client_order_id, VenueOrderStatus.CANCELED, announce=False)
        due_now()

        resolve()

        assert open_order(placement) is None
        assert StrategyPosition.objects.get().quantity == Decimal("0.4")
        assert FailedOrder.objects.exists() is False

    def test_never_takes_one_that_is_not_found_for_never_placed(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        placement = self._canceling(account, exchange)
        Placement.objects.update(send_by=F("send_by") - timedelta(minutes=5))
        exchange.orders.clear()

        for _ in range(3):
            resolve_again()

        order = open_order(placement)
        assert order is not None
        assert order.status == OrderStatus.CANCELING

    @staticmethod
    def _canceling(account: Account, exchange: FakeExchange) -> Placement:
        """An order whose cancel went unanswered."""
        placement = make_resting(account)
        OrderIntent.objects.update(cancel_requested=True)
        exchange.fail_cancel(placement.client_order_id, OutcomeUnknown("read timed out", venue="fake"))
        cancels_send(intent_ids=[placement.intent_id], source=EventSource.WEBHOOK, now=database_now())
        order = open_order(placement)
        assert order is not None
        assert order.status == OrderStatus.CANCELING
        return placement


class TestResolveOfGaps:
    @pytest.mark.parametrize(("ended_ago", "waits"), [(0, 2), (20, 10), (3600, 30)])
    def test_asks_less_and_less_often_for_fills_that_do_not_come(
        self, account: Account, exchange: FakeExchange, ended_ago: int, waits: int
    ) -> None:
        placement = make_resting(account, planned_at=long_ago(seconds=20))
        Placement.objects.update(send_by=long_ago(days=2))  # it rested for long before it filled
        ended = exchange.fill(placement.client_order_id, announce=False)
        exchange.orders[ended.exchange_order_id] = replace(ended, updated_at=long_ago(seconds=ended_ago))

        async def none_yet(ref: OrderRef) -> list[Fill]:
            return []

        exchange.fetch_executions = none_yet  # type: ignore[method-assign]
        OpenOrder.objects.update(ask_at=long_ago(seconds=1))

        assert resolve() == 1

        order = open_order(placement)
        assert order is not None
        assert order.ask_at is not None
        assert order.placement.has_gap
        wait = (order.ask_at - database_now()).total_seconds()
        assert waits * 0.5 < wait < waits + 5


class TestGapsSweep:
    def test_books_a_fill_that_was_never_heard(self, account: Account, exchange: FakeExchange) -> None:
        placement = make_resting(account)
        exchange.fill(placement.client_order_id, quantity=Decimal("0.3"), announce=False)
        second = exchange.fill(placement.client_order_id, quantity=Decimal("0.2"), announce=False)
        apply_reports(
            account_id=account.pk,
            market_type=FUTURES,
            reports=[second],
            source=EventSource.STREAM,
            now=database_now(),
        )
        placement.refresh_from_db()
        assert placement.has_gap

        assert gaps_sweep() == 1

        assert gaps_sweep() == 0
        assert StrategyPosition.objects.get().quantity == Decimal("0.5")

    def test_of_one_account_that_cannot_be_had_keep_no_other_from_its_own(
        self, account: Account, exchange: FakeExchange, exchanges: Exchanges
    ) -> None:
        other = make_account()
        for one in (account, other):
            placement = make_resting(one)
            exchanges.of(one).fill(placement.client_order_id, quantity=Decimal("0.5"), announce=False)
            counted = F("filled_quantity") + Decimal("0.5")
            Placement.objects.filter(pk=placement.pk).update(exchange_filled_quantity=counted)

        async def unreadable(ref: OrderRef) -> list[Fill]:
            raise ValueError("an answer that nobody expected")

        exchange.fetch_executions = unreadable  # type: ignore[method-assign]

        assert gaps_sweep() == 2

        assert StrategyPosition.objects.get().account == other


class OpenOrderDue:
    """What another process would find to ask about."""

    @staticmethod
    def count_in_thread() -> int:
        def count() -> int:
            try:
                return OpenOrder.objects.filter(ask_at__lte=database_now()).count()
            finally:
                connection.close()

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(count).result()


def _hangs_about(exchange: FakeExchange, placement: Placement, released: threading.Event) -> None:
    """Let the exchange answer about everything but this order, until `released`."""
    fetch = exchange.fetch_order

    async def hang(ref: OrderRef) -> OrderReport:
        while ref.client_order_id == placement.client_order_id and not released.is_set():
            await asyncio.sleep(0.02)
        return await fetch(ref)

    exchange.fetch_order = hang  # type: ignore[method-assign]


def _resolve_in_thread() -> int:
    try:
        return resolve()
    finally:
        connection.close()


def _status(placement: Placement) -> str | None:
    order = open_order(placement)
    return order.status if order is not None else None


def _query_finds_nothing(exchange: FakeExchange) -> None:
    async def nothing(ref: OrderRef) -> OrderReport:
        raise OrderNotFound("Order does not exist.", venue="fake")

    exchange.fetch_order = nothing  # type: ignore[method-assign]
