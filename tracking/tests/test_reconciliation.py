from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from exchanges.adapters.exceptions import (
    ExchangeError,
    InsufficientFunds,
    InvalidSymbol,
    OrderNotFound,
    OutcomeUnknown,
)
from exchanges.adapters.testing import FakeExchange
from exchanges.adapters.types import (
    Fill,
    ListedOrder,
    OrderRef,
    OrderReport,
    UnreadableOrder,
    VenueOrderStatus,
    VenuePosition,
)
from exchanges.models import Account
from orders.clock import database_now
from orders.models import (
    CancelReason,
    EventSource,
    EventType,
    FailedOrder,
    Home,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    PendingOrder,
    Placement,
    StrategyPosition,
    Trade,
    TradeExecution,
)
from orders.services.applied import Outcome
from orders.services.settlement import apply_reports, outcomes_apply
from orders.states import OrderStatus
from tracking import comparing
from tracking.differences import Disagreement
from tracking.leases import lease_acquire
from tracking.models import OrderTrackingSession, UnmatchedReport
from tracking.pacing import Pace, pacer
from tracking.reconciliation import Reconciled, reconcile_account
from tracking.sessions import sessions_ensure
from tracking.tests.conftest import Exchanges
from tracking.tests.making import (
    FUTURES,
    SYMBOL,
    key_of,
    make_account,
    make_order,
    make_orders,
    make_resting,
    open_order,
    report,
    send,
)
from tracking.unmatched import unmatched_keep

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def account(exchanges: Exchanges) -> Account:
    return make_account()


@pytest.fixture
def exchange(exchanges: Exchanges, account: Account) -> FakeExchange:
    return exchanges.of(account)


def reconcile(account: Account, **options: bool) -> Reconciled:
    return reconcile_account(account_id=account.pk, market_type=FUTURES, **options)


def kinds(result: Reconciled) -> list[Disagreement]:
    return [one.kind for one in result.differences]


class TestReconcileAccount:
    def test_writes_nothing_where_both_agree(self, account: Account, exchange: FakeExchange) -> None:
        placement = make_resting(account)
        events, before = OrderEvent.objects.count(), open_order(placement)

        result = reconcile(account)

        assert result.is_clean
        after = open_order(placement)
        assert before is not None
        assert after is not None
        assert (after.status, after.updated_at) == (before.status, before.updated_at)
        assert OrderEvent.objects.count() == events

    def test_finishes_an_order_that_was_canceled_by_hand(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        placement = make_resting(account)
        exchange.end(placement.client_order_id, VenueOrderStatus.CANCELED, announce=False)

        assert kinds(reconcile(account)) == [Disagreement.NOT_OPEN_THERE]

        assert open_order(placement) is None
        failed = FailedOrder.objects.get()
        assert (failed.status, failed.quantity) == ("canceled", Decimal(1))
        assert reconcile(account).is_clean

    def test_books_all_fills_of_an_order_that_filled_unheard(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        placement = make_resting(account)
        exchange.fill(placement.client_order_id, quantity=Decimal("0.4"), announce=False)
        exchange.fill(placement.client_order_id, announce=False)

        reconcile(account)

        assert open_order(placement) is None
        assert TradeExecution.objects.count() == 2
        assert StrategyPosition.objects.get().quantity == Decimal(1)
        assert Trade.objects.get().average_price == Decimal(90000)
        last = OrderEvent.objects.latest("pk")
        assert (last.type, last.source) == (EventType.FILLED, EventSource.RECONCILIATION)

    def test_books_a_part_fill_of_an_order_that_rests(self, account: Account, exchange: FakeExchange) -> None:
        placement = make_resting(account)
        exchange.fill(placement.client_order_id, quantity=Decimal("0.4"), announce=False)

        assert kinds(reconcile(account)) == [Disagreement.FILLED_MORE]
        assert reconcile(account).is_clean

        order = open_order(placement)
        assert order is not None
        assert order.status == OrderStatus.PARTIALLY_FILLED
        assert StrategyPosition.objects.get().quantity == Decimal("0.4")

    def test_adopts_a_submitting_order_whose_answer_was_lost(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        placement = make_order(account)
        exchange.lose_answer(placement.client_order_id, OutcomeUnknown("read timed out", venue="fake"))
        send(account, [placement])

        assert kinds(reconcile(account)) == [Disagreement.FOUND]

        order = open_order(placement)
        assert order is not None
        assert (order.status, order.ask_at) == (OrderStatus.NEW, None)
        assert order.placement.exchange_order_id != ""

    def test_leaves_a_submitting_order_alone_that_is_not_there(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        placement = make_order(account)

        assert reconcile(account).is_clean

        order = open_order(placement)
        assert order is not None
        assert order.status == OrderStatus.SUBMITTING

    def test_revives_an_order_that_we_took_for_dead(self, account: Account, exchange: FakeExchange) -> None:
        placement = make_resting(account)
        OpenOrder.objects.all().delete()
        OrderIntent.objects.update(home=Home.FAILED)

        assert kinds(reconcile(account)) == [Disagreement.NOT_OPEN_HERE]

        order = open_order(placement)
        assert order is not None
        assert order.status == OrderStatus.NEW

    def test_skips_what_changed_here_while_the_list_was_on_its_way(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        ended, arrived = make_resting(account), make_order(account)
        later: list[Callable[[], None]] = [
            lambda: send(account, [arrived]),
            lambda: _apply(account, exchange.end(ended.client_order_id, VenueOrderStatus.CANCELED)),
        ]
        _meanwhile(exchange, later)
        asked = _count_queries_of_orders(exchange)

        result = reconcile(account)

        assert result.differences == []
        assert asked == []
        order = open_order(arrived)
        assert order is not None
        assert order.status == OrderStatus.NEW
        assert open_order(ended) is None
        assert FailedOrder.objects.count() == 1

    def test_shows_an_order_placed_by_hand_once_and_never_touches_it(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        exchange.orders["900"] = report()

        for _ in range(3):
            assert kinds(reconcile(account)) == [Disagreement.EXTERNAL]

        event = OrderEvent.objects.get(type=EventType.EXTERNAL)
        assert (event.user_id, event.account_id, event.symbol) == (account.user_id, account.pk, SYMBOL)
        assert event.data["exchange_order_id"] == "900"
        assert UnmatchedReport.objects.get().state == UnmatchedReport.State.EXTERNAL
        assert exchange.cancelled == []

    def test_costs_the_same_for_two_orders_and_for_two_hundred(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        sessions_ensure([key_of(account)])
        calls = _count_calls(exchange)
        send(account, make_orders(account, [{} for _ in range(2)]))
        reconcile(account)
        with CaptureQueriesContext(connection) as few:
            reconcile(account)
        send(account, make_orders(account, [{} for _ in range(198)]))
        calls.clear()

        with CaptureQueriesContext(connection) as many:
            result = reconcile(account)

        assert result.is_clean
        assert OpenOrder.objects.filter(status=OrderStatus.NEW).count() == 200
        assert len(many) == len(few)
        assert len(many) <= 12
        assert calls == ["fetch_open_orders"]

    def test_does_not_run_while_another_process_runs_it(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        placement = make_resting(account)
        exchange.end(placement.client_order_id, VenueOrderStatus.CANCELED, announce=False)
        lease_acquire(name=f"reconcile:{account.pk}:{FUTURES}", owner="another", seconds=10)

        assert reconcile(account).ran is False

        assert open_order(placement) is not None

    def test_leaves_everything_when_the_exchange_cannot_be_asked(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        placement = make_resting(account)
        exchange.fails_with = OutcomeUnknown("connection lost", venue="fake")

        with pytest.raises(OutcomeUnknown):
            reconcile(account)

        assert open_order(placement) is not None
        exchange.fails_with = None
        assert reconcile(account).ran is True  # and the next run is not locked out

    def test_keeps_an_order_that_the_exchange_neither_lists_nor_finds(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        placement = make_resting(account)
        exchange.orders.clear()

        result = reconcile(account)

        assert open_order(placement) is not None
        assert len(result.errors) == 1

    def test_lets_an_order_go_that_the_exchange_has_forgotten_after_days(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        placement = make_resting(account)
        self._grow_old()
        exchange.orders.clear()

        for _ in range(3):
            result = reconcile(account)
            assert result.errors == [f"{placement.client_order_id}: Order does not exist."]
            assert open_order(placement) is not None  # it must be said twice, and not at once
        self._wait_a_minute()
        assert reconcile(account).errors == []

        assert open_order(placement) is None
        assert FailedOrder.objects.get().exchange_error == "The exchange does not know this order any more"

    def test_places_nothing_anew_that_was_being_moved_back_and_is_not_found(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        """Nobody has told that it ended."""
        placement = make_resting(account)
        self._grow_old()
        OrderIntent.objects.update(is_queued=True)
        OpenOrder.objects.update(status=OrderStatus.CANCELING, cancel_reason=CancelReason.MOVE_BACK)
        exchange.orders.clear()

        reconcile(account)
        self._wait_a_minute()
        reconcile(account)

        assert (open_order(placement), PendingOrder.objects.count()) == (None, 0)
        assert OrderIntent.objects.get().home == Home.FAILED

    def test_books_what_a_forgotten_order_has_traded(
        self, account: Account, exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        placement = make_resting(account)
        self._grow_old()
        exchange.fill(placement.client_order_id, quantity=Decimal("0.4"), announce=False)
        traded = asyncio.run(exchange.fetch_executions(placement.to_ref()))

        async def remembered(ref: OrderRef) -> list[Fill]:
            return traded

        monkeypatch.setattr(exchange, "fetch_executions", remembered)
        exchange.orders.clear()
        reconcile(account)
        assert not TradeExecution.objects.exists()
        self._wait_a_minute()
        reconcile(account)

        assert TradeExecution.objects.get().quantity == Decimal("0.4")
        assert FailedOrder.objects.get().quantity == Decimal("0.6")

    def test_keeps_a_forgotten_order_while_nobody_tells_what_it_traded(
        self, account: Account, exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def silent(ref: OrderRef) -> list[Fill]:
            raise OutcomeUnknown("connection lost", venue="fake")

        placement = make_resting(account)
        self._grow_old()
        exchange.orders.clear()
        monkeypatch.setattr(exchange, "fetch_executions", silent)

        reconcile(account)
        self._wait_a_minute()
        assert reconcile(account).errors == [f"{placement.client_order_id}: connection lost"]

        assert open_order(placement) is not None

    @pytest.mark.parametrize(
        "error",
        [InvalidSymbol("Invalid symbol.", venue="fake"), OutcomeUnknown("connection lost", venue="fake")],
    )
    def test_compares_the_other_symbols_where_one_cannot_be_listed(
        self,
        account: Account,
        exchange: FakeExchange,
        monkeypatch: pytest.MonkeyPatch,
        error: ExchangeError,
    ) -> None:
        """A symbol that is traded no more is one of those that short budgets are spent on."""
        filled, dead = make_resting(account), make_resting(account, symbol="ETH/USDT")
        exchange.fill(filled.client_order_id, quantity=Decimal(1), announce=False)
        listed = exchange.fetch_open_orders

        async def by_symbol(symbol: str | None = None) -> list[ListedOrder]:
            if symbol == "ETH/USDT":
                raise error
            return await listed(symbol)

        monkeypatch.setattr(exchange, "fetch_open_orders", by_symbol)
        monkeypatch.setattr(pacer, "pace", lambda *_: Pace((SYMBOL, "ETH/USDT"), 0.0))

        result = reconcile(account)

        told = [] if isinstance(error, InvalidSymbol) else [f"ETH/USDT: {error}"]
        assert result.errors == told
        assert (open_order(filled), TradeExecution.objects.count()) == (None, 1)
        assert open_order(dead) is not None

    def test_fails_where_no_symbol_can_be_listed(
        self, account: Account, exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_resting(account)
        exchange.fails_with = OutcomeUnknown("connection lost", venue="fake")
        monkeypatch.setattr(pacer, "pace", lambda *_: Pace((SYMBOL, "ETH/USDT"), 0.0))

        with pytest.raises(OutcomeUnknown):
            reconcile(account)

    def test_lets_an_old_order_go_whose_symbol_is_traded_no_more(
        self, account: Account, exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def unknown(ref: OrderRef) -> OrderReport:
            raise InvalidSymbol("Invalid symbol.", venue="fake")

        placement = make_resting(account)
        self._grow_old()
        exchange.orders.clear()
        monkeypatch.setattr(exchange, "fetch_order", unknown)

        assert len(reconcile(account).errors) == 1
        self._wait_a_minute()
        assert reconcile(account).errors == []

        assert open_order(placement) is None

    def test_keeps_an_old_order_that_was_not_found_once_and_then_seen_again(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        placement = make_resting(account)
        self._grow_old()
        for _ in range(3):
            hidden = dict(exchange.orders)
            exchange.orders.clear()
            assert len(reconcile(account).errors) == 1
            exchange.orders.update(hidden)
            self._wait_a_minute()
            assert reconcile(account).is_clean

        assert open_order(placement) is not None
        assert FailedOrder.objects.exists() is False

    def test_keeps_an_old_order_that_is_found_by_its_id_between(
        self, account: Account, exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The list does not show it at all: only the answers about the order itself count."""
        placement = make_resting(account)
        self._grow_old()

        async def nothing(symbol: str | None = None) -> list[ListedOrder]:
            return []

        monkeypatch.setattr(exchange, "fetch_open_orders", nothing)
        for _ in range(3):
            hidden = dict(exchange.orders)
            exchange.orders.clear()
            assert len(reconcile(account).errors) == 1
            exchange.orders.update(hidden)
            self._wait_a_minute()
            assert reconcile(account).errors == []

        assert open_order(placement) is not None

    def test_keeps_an_old_order_that_is_listed_and_not_found(
        self, account: Account, exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        placement = make_resting(account)
        self._grow_old()
        exchange.fill(placement.client_order_id, quantity=Decimal("0.4"), announce=False)

        async def nothing(ref: OrderRef) -> OrderReport:
            raise OrderNotFound("Order does not exist.", venue="fake")

        monkeypatch.setattr(exchange, "fetch_order", nothing)
        for _ in range(3):
            assert len(reconcile(account).errors) == 1
            self._wait_a_minute()

        assert open_order(placement) is not None

    def _grow_old(self) -> None:
        Placement.objects.update(created_at=database_now() - timedelta(days=4))

    def _wait_a_minute(self) -> None:
        OpenOrder.objects.update(updated_at=F("updated_at") - timedelta(minutes=1))

    def test_goes_on_where_a_row_of_the_list_cannot_be_read(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        filled, rests = make_resting(account), make_resting(account)
        exchange.fill(filled.client_order_id, announce=False)
        exchange.unreadable = [unreadable("5", "web_1", symbol="")]

        for _ in range(3):
            result = reconcile(account)
            assert result.errors == []

        assert (open_order(filled), TradeExecution.objects.count()) == (None, 1)
        assert open_order(rests) is not None
        kept = UnmatchedReport.objects.get()  # once, however often it is listed
        assert (kept.state, kept.exchange_order_id) == (UnmatchedReport.State.UNREADABLE, "5")
        assert kept.report == {"text": '{"status": "HALTED"}'}

    @pytest.mark.parametrize("name", ["client_order_id", "exchange_order_id", "child_order_id"])
    def test_takes_an_order_for_open_that_an_unreadable_row_names(
        self, account: Account, exchange: FakeExchange, name: str
    ) -> None:
        placement = make_resting(account)
        Placement.objects.update(child_order_id="991", created_at=database_now() - timedelta(days=4))
        placement.refresh_from_db()
        exchange.orders.clear()
        exchange.unreadable = [unreadable(getattr(placement, name))]

        for _ in range(3):
            result = reconcile(account)
            assert result.differences == []
            assert result.errors == [f"{placement.client_order_id}: Order does not exist."]

        assert open_order(placement) is not None
        assert reconcile(account, check_only=True).is_clean is False

    def test_asks_the_order_itself_where_its_row_cannot_be_read(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        placement, other = make_resting(account), make_resting(account, symbol="ETH/USDT")
        exchange.fill(placement.client_order_id, announce=False)
        exchange.unreadable = [unreadable(placement.exchange_order_id)]

        result = reconcile(account)

        assert (result.differences, result.errors) == ([], [])
        assert open_order(placement) is None
        assert StrategyPosition.objects.get().quantity == Decimal(1)
        assert open_order(other) is not None

    def test_does_not_let_an_order_of_others_go_whose_row_cannot_be_read(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        exchange.orders["900"] = report()
        reconcile(account)
        del exchange.orders["900"]
        exchange.unreadable = [unreadable("900", "by-hand")]

        reconcile(account)

        external = UnmatchedReport.objects.get(state=UnmatchedReport.State.EXTERNAL)
        assert external.is_open is True

    @pytest.mark.parametrize("reason", CancelReason.values)
    def test_takes_a_message_that_waited_for_no_news(
        self, account: Account, exchange: FakeExchange, reason: str
    ) -> None:
        """It says NEW from before the cancel, which is still on its way."""
        placement = make_resting(account)
        self._let_wait(account, placement)
        OpenOrder.objects.update(
            status=OrderStatus.CANCELING, cancel_reason=reason, ask_at=database_now() + timedelta(minutes=1)
        )

        reconcile(account)

        assert UnmatchedReport.objects.get().state == UnmatchedReport.State.MATCHED
        order = open_order(placement)
        assert order is not None
        assert order.status == OrderStatus.CANCELING
        assert exchange.cancelled == []

    @pytest.mark.parametrize("is_alive", [True, False])
    def test_asks_before_a_message_that_waited_revives_an_order(
        self, account: Account, exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch, is_alive: bool
    ) -> None:
        placement = make_order(account)
        refused = Outcome(placement.pk, InsufficientFunds("no money"))
        outcomes_apply([refused], source=EventSource.ANSWER, now=database_now())
        self._let_wait(account, placement)
        if is_alive:
            exchange._keep(report(client_order_id=placement.client_order_id), announce=False)

        async def nothing(symbol: str | None = None) -> list[ListedOrder]:
            return []  # made before the order was there

        monkeypatch.setattr(exchange, "fetch_open_orders", nothing)
        asked = _count_queries_of_orders(exchange)

        reconcile(account)

        assert [ref.client_order_id for ref in asked] == [placement.client_order_id]
        assert (open_order(placement) is not None) is is_alive
        assert FailedOrder.objects.exists() is not is_alive

    def _let_wait(self, account: Account, placement: Placement) -> None:
        alive = report(
            client_order_id=placement.client_order_id, exchange_order_id=placement.exchange_order_id
        )
        unmatched_keep(key=key_of(account), reports=[alive], source=EventSource.STREAM)

    def test_says_when_it_ran(self, account: Account, exchange: FakeExchange) -> None:
        sessions_ensure([key_of(account)])

        reconcile(account)

        assert OrderTrackingSession.objects.get().last_reconciled_at is not None


class TestReconcileCommand:
    def test_check_prints_differences_changes_nothing_and_exits_1(
        self, account: Account, exchange: FakeExchange, capsys: pytest.CaptureFixture[str]
    ) -> None:
        placement = make_resting(account)
        exchange.end(placement.client_order_id, VenueOrderStatus.CANCELED, announce=False)
        exchange.positions = [VenuePosition(SYMBOL, Decimal("0.5"), Decimal(90000))]
        events = OrderEvent.objects.count()

        with pytest.raises(SystemExit) as ended:
            call_command("reconcile", "--check")

        assert ended.value.code == 1
        printed = capsys.readouterr().out
        assert f"{placement.client_order_id}: open here, not there" in printed
        assert f"{SYMBOL}: position 0 here, 0.5 there" in printed
        assert open_order(placement) is not None
        assert OrderEvent.objects.count() == events
        assert UnmatchedReport.objects.exists() is False

    def test_check_is_content_where_both_agree(
        self, account: Account, exchange: FakeExchange, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make_resting(account)

        call_command("reconcile", "--check")

        assert "agrees" in capsys.readouterr().out

    def test_settles_what_differs_for_one_account_only(
        self, account: Account, exchange: FakeExchange, exchanges: Exchanges
    ) -> None:
        other = make_account()
        mine, theirs = make_resting(account), make_resting(other)
        for one, fake in ((mine, exchange), (theirs, exchanges.of(other))):
            fake.end(one.client_order_id, VenueOrderStatus.CANCELED, announce=False)

        call_command("reconcile", "--account", str(account.pk))

        assert open_order(mine) is None
        assert open_order(theirs) is not None

    def test_goes_on_when_one_account_trips_over_a_fault_of_ours(
        self,
        account: Account,
        exchange: FakeExchange,
        exchanges: Exchanges,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async def trip(symbol: str | None = None) -> list[ListedOrder]:
            raise KeyError("origQty")

        monkeypatch.setattr(exchange, "fetch_open_orders", trip)
        other = make_account()
        placement = make_resting(other)
        exchanges.of(other).end(placement.client_order_id, VenueOrderStatus.CANCELED, announce=False)

        with pytest.raises(CommandError, match="1 of 2 could not be reconciled"):
            call_command("reconcile")

        assert open_order(placement) is None
        name = f"account {account.pk} FUTURES"
        assert f"{name}: a fault of ours: KeyError: 'origQty'\n" in capsys.readouterr().err
        (record,) = (one for one in caplog.records if name in one.getMessage())
        assert record.exc_info is not None

    def test_says_in_words_that_an_exchange_does_not_answer(
        self,
        account: Account,
        exchange: FakeExchange,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        async def hang(symbol: str | None = None) -> list[ListedOrder]:
            await asyncio.sleep(30)
            return []

        monkeypatch.setattr(exchange, "fetch_open_orders", hang)
        monkeypatch.setattr(comparing, "LIST_SECONDS", 0.1)

        with pytest.raises(CommandError):
            call_command("reconcile")

        assert capsys.readouterr().err == f"account {account.pk} FUTURES: no answer within 0.1 s\n"

    def test_exits_2_when_an_exchange_cannot_be_asked(self, account: Account, exchange: FakeExchange) -> None:
        exchange.fails_with = OutcomeUnknown("connection lost", venue="fake")

        with pytest.raises(CommandError) as failed:
            call_command("reconcile")

        assert failed.value.returncode == 2

    def test_check_finds_what_differs_of_an_account_that_nobody_trades_any_more(
        self, account: Account, exchange: FakeExchange, capsys: pytest.CaptureFixture[str]
    ) -> None:
        account.strategy_accounts.all().delete()
        exchange.orders["900"] = report()

        with pytest.raises(SystemExit) as ended:
            call_command("reconcile", "--check", "--account", str(account.pk))

        assert ended.value.code == 1
        assert "web" not in capsys.readouterr().err

    def test_check_exits_2_rather_than_1_when_it_could_not_look_everywhere(
        self, account: Account, exchange: FakeExchange, exchanges: Exchanges
    ) -> None:
        placement = make_resting(account)
        exchange.end(placement.client_order_id, VenueOrderStatus.CANCELED, announce=False)
        exchanges.of(make_account()).fails_with = OutcomeUnknown("connection lost", venue="fake")
        with pytest.raises(CommandError) as failed:
            call_command("reconcile", "--check")
        assert failed.value.returncode == 2

    def test_writes_down_who_asked_and_nothing_for_a_look(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        call_command("reconcile", "--check")
        assert OrderEvent.objects.exists() is False
        call_command("reconcile")
        event = OrderEvent.objects.get()
        assert (event.type, event.message) == (EventType.OPERATOR, "manage.py reconcile of every account")
        assert " at " in event.data["by"]

    @pytest.mark.parametrize("text", ["abc", "1.5", ""])
    def test_wants_a_number(self, account: Account, text: str) -> None:
        with pytest.raises(CommandError, match="--account"):
            call_command("reconcile", f"--account={text}")

    def test_exits_2_for_an_account_that_we_cannot_talk_to(self, exchanges: Exchanges) -> None:
        account = make_account(exchange="bybit")
        account.strategy_accounts.all().delete()

        with pytest.raises(CommandError, match="nothing to compare: no adapter for bybit") as failed:
            call_command("reconcile", "--account", str(account.pk))

        assert failed.value.returncode == 2
        assert OrderEvent.objects.exists() is False

    def test_says_that_nothing_is_traded(self, capsys: pytest.CaptureFixture[str]) -> None:
        call_command("reconcile")

        assert "nothing to compare: no strategy trades on an active account" in capsys.readouterr().out

    def test_exits_2_for_an_account_that_does_not_exist(self, account: Account) -> None:
        with pytest.raises(CommandError, match="no account 999999"):
            call_command("reconcile", "--account", "999999")


def _apply(account: Account, *reports: OrderReport) -> None:
    apply_reports(
        account_id=account.pk,
        market_type=FUTURES,
        reports=reports,
        source=EventSource.STREAM,
        now=database_now(),
    )


def unreadable(*names: str, symbol: str = SYMBOL) -> UnreadableOrder:
    return UnreadableOrder(names, '{"status": "HALTED"}', "a status that we do not know: HALTED", symbol)


def _meanwhile(exchange: FakeExchange, steps: Sequence[Callable[[], None]]) -> None:
    """Let things happen after the exchange made its list and before we read it."""
    import asyncio

    fetch = exchange.fetch_open_orders

    async def slow(symbol: str | None = None) -> list[ListedOrder]:
        listed = await fetch(symbol)
        for step in steps:
            await asyncio.to_thread(_in_thread, step)
        return listed

    exchange.fetch_open_orders = slow  # type: ignore[method-assign]


def _in_thread(step: Callable[[], None]) -> None:
    try:
        step()
    finally:
        connection.close()


def _count_queries_of_orders(exchange: FakeExchange) -> list[OrderRef]:
    asked: list[OrderRef] = []
    fetch = exchange.fetch_order

    async def counted(ref: OrderRef) -> OrderReport:
        asked.append(ref)
        return await fetch(ref)

    exchange.fetch_order = counted  # type: ignore[method-assign]
    return asked


def _count_calls(exchange: FakeExchange) -> list[str]:
    calls: list[str] = []

    def counting(name: str) -> Any:
        method = getattr(exchange, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return await method(*args, **kwargs)

        return call

    for name in ("fetch_open_orders", "fetch_order", "fetch_executions", "fetch_recent_orders"):
        setattr(exchange, name, counting(name))
    return calls
