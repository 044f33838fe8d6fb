from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.db import InternalError, OperationalError
from django.db.models.functions import Now
from psycopg.errors import IdleInTransactionSessionTimeout
from pytest_django import Settings

from exchanges.adapters.exceptions import InsufficientFunds, OutcomeUnknown
from exchanges.adapters.testing import FakeExchange
from exchanges.adapters.types import (
    Fill,
    OrderRef,
    OrderReport,
    StreamState,
    StreamStateChange,
    UnreadableMessage,
    VenueOrderStatus,
)
from exchanges.credentials import credentials_reencrypt
from exchanges.models import Account, ConfigVersion, Instrument, LastPrice
from orders.clock import database_now
from orders.models import (
    EventSource,
    EventType,
    FailedOrder,
    Home,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    Placement,
    StrategyPosition,
    Trade,
    TradeExecution,
)
from orders.services.applied import Outcome
from orders.services.settlement import apply_reports, outcomes_apply
from orders.services.waiting import pending_for
from orders.tests.factories import Gate
from tracking import applying, follower, streams
from tracking.models import OrderTrackingSession, SessionStatus, UnmatchedReport
from tracking.reconciliation import Reconciled, reconcile_account
from tracking.sessions import session_release
from tracking.sharing import processes_alive
from tracking.streams import Streams
from tracking.tests.conftest import Exchanges
from tracking.tests.making import make_account, make_order, make_resting, open_order, report, wait_until
from tracking.tests.running import streams_process
from tracking.unmatched import Retried, unmatched_retry
from tracking.watch import StreamKey

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def account(exchanges: Exchanges) -> Account:
    return make_account()


@pytest.fixture
def exchange(exchanges: Exchanges, account: Account) -> FakeExchange:
    return exchanges.of(account)


def session() -> OrderTrackingSession:
    return OrderTrackingSession.objects.get()


def is_connected() -> bool:
    """Connected, and the reconciliation that follows is done."""
    row = OrderTrackingSession.objects.first()
    return row is not None and row.status == SessionStatus.CONNECTED and row.last_reconciled_at is not None


@pytest.fixture
def connected(exchange: FakeExchange) -> Iterator[Streams]:
    with streams_process() as process:
        wait_until(is_connected)
        yield process


class TestReportsOfOthers:
    def test_are_looked_at_although_they_came_while_others_were(
        self, account: Account, exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second report is stored after the look at the waiting ones has begun, and before it ended."""
        really, stored = unmatched_retry, threading.Event()

        def slow(**asked: Any) -> Retried:
            found = really(**asked)
            if found.external == 1 and not stored.is_set():
                exchange._keep(report(exchange_order_id="901", client_order_id="web_2"), announce=True)
                wait_until(UnmatchedReport.objects.filter(client_order_id="web_2").exists)
                stored.set()
            return found

        monkeypatch.setattr(follower, "unmatched_retry", slow)
        with streams_process():
            wait_until(is_connected)
            exchange._keep(report(client_order_id="web_1"), announce=True)
            external = UnmatchedReport.objects.filter(state=UnmatchedReport.State.EXTERNAL)
            wait_until(lambda: external.count() == 2)
        assert stored.is_set()


class TestStreams:
    def test_follows_an_account_and_gives_it_back(self, account: Account, exchange: FakeExchange) -> None:
        with streams_process() as process:
            wait_until(is_connected)
            assert session().owner == process.owner
            assert session().lease_expires_at is not None
        assert (session().owner, session().lease_expires_at) == ("", None)
        assert session().status == SessionStatus.DISCONNECTED
        told = OrderEvent.objects.filter(type=EventType.STREAM, user_id=account.user_id).order_by("pk")
        assert [event.after for event in told] == ["connected", "disconnected"]

    def test_loads_instruments_and_prices(self, account: Account, exchange: FakeExchange) -> None:
        make_resting(account)
        with streams_process():
            wait_until(Instrument.objects.filter(symbol="BTC/USDT").exists)
            assert wait_until(LastPrice.objects.first).price == Decimal(95000)

    def test_leaves_an_account_to_the_process_that_holds_its_lease(
        self, account: Account, exchange: FakeExchange, exchanges: Exchanges
    ) -> None:
        OrderTrackingSession.objects.create(
            account=account,
            market_type="FUTURES",
            owner="another",
            lease_expires_at=Now() + timedelta(minutes=5),
        )
        free = make_account()
        with streams_process():
            wait_until(lambda: OrderTrackingSession.objects.filter(account=free, status="connected").exists())
            held = OrderTrackingSession.objects.get(account=account)
            assert (held.owner, held.status) == ("another", SessionStatus.DISCONNECTED)

            OrderTrackingSession.objects.filter(account=account).update(lease_expires_at=Now())

            wait_until(
                lambda: OrderTrackingSession.objects.filter(account=account, status="connected").exists()
            )

    def test_stops_following_what_another_process_took(
        self, account: Account, connected: Streams, exchange: FakeExchange
    ) -> None:
        OrderTrackingSession.objects.update(owner="another", lease_expires_at=Now() + timedelta(minutes=5))

        wait_until(lambda: not exchange._listeners)

        assert session().owner == "another"

    def test_follows_a_new_account_and_leaves_one_that_was_switched_off(
        self, account: Account, connected: Streams, exchange: FakeExchange, exchanges: Exchanges
    ) -> None:
        new = make_account()
        wait_until(lambda: OrderTrackingSession.objects.filter(account=new, status="connected").exists())

        Account.objects.filter(pk=account.pk).update(is_active=False)

        wait_until(lambda: OrderTrackingSession.objects.filter(account=account, owner="").exists())
        assert not exchange._listeners

    def test_opens_the_stream_anew_when_the_credentials_change(
        self, account: Account, connected: Streams, exchange: FakeExchange
    ) -> None:
        before = exchange._listeners[0]
        account.credentials = type(account.credentials)("other key", "other secret")
        account.save()

        wait_until(lambda: exchange._listeners and exchange._listeners[0] is not before)

        assert session().owner == connected.owner

    def test_keeps_the_stream_when_the_credentials_are_only_encrypted_anew(
        self, account: Account, connected: Streams, exchange: FakeExchange, settings: Settings
    ) -> None:
        before, stored = exchange._listeners[0], account.encrypted_api_key
        settings.FIELD_ENCRYPTION_KEYS = [Fernet.generate_key().decode(), *settings.FIELD_ENCRYPTION_KEYS]

        assert credentials_reencrypt() == 1

        assert Account.objects.get().encrypted_api_key != stored
        for _ in range(2):  # a look is done when the next one has begun
            wait_until(lambda: connected._seen.version == ConfigVersion.current())
            ConfigVersion.bump()
        assert exchange._listeners == [before]
        assert session().reconnect_count == 0

    def test_follows_again_what_a_step_that_failed_half_way_had_left(
        self,
        account: Account,
        connected: Streams,
        exchange: FakeExchange,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        failed: list[str] = []

        def away_once() -> int:
            if not failed and not exchange._listeners:
                failed.append("the old stream has ended, the new one has not begun")
                raise OperationalError("the connection was lost")
            return processes_alive()

        monkeypatch.setattr(streams, "RENEW_SECONDS", 0.1)
        monkeypatch.setattr(streams, "processes_alive", away_once)
        account.credentials = type(account.credentials)("other key", "other secret")
        account.save()
        wait_until(lambda: failed)

        wait_until(lambda: exchange._listeners)

        assert session().owner == connected.owner

    def test_gives_back_what_it_could_not_give_back_at_once(
        self,
        account: Account,
        connected: Streams,
        exchange: FakeExchange,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        failed: list[str] = []

        def away_once(*, key: StreamKey, owner: str, reason: str) -> None:
            if not failed:
                failed.append(reason)
                raise OperationalError("the connection was lost")
            session_release(key=key, owner=owner, reason=reason)

        monkeypatch.setattr(streams, "RENEW_SECONDS", 0.1)
        monkeypatch.setattr(follower, "session_release", away_once)
        Account.objects.filter(pk=account.pk).update(is_active=False)
        wait_until(lambda: failed)

        wait_until(lambda: session().owner == "")  # else nobody could follow it when it is wanted again


class TestFollower:
    def test_books_two_fills_into_one_trade_within_a_second(
        self, account: Account, connected: Streams, exchange: FakeExchange
    ) -> None:
        placement = make_resting(account)
        exchange.fill(placement.client_order_id, quantity=Decimal("0.4"))
        wait_until(lambda: StrategyPosition.objects.filter(quantity=Decimal("0.4")).exists(), seconds=1)
        exchange.fill(placement.client_order_id)

        wait_until(lambda: open_order(placement) is None, seconds=1)

        assert TradeExecution.objects.count() == 2
        assert Trade.objects.get().quantity == Decimal(1)
        assert StrategyPosition.objects.get().quantity == Decimal(1)
        last = OrderEvent.objects.latest("pk")
        assert (last.type, last.source) == (EventType.FILLED, EventSource.STREAM)

    def test_counts_duplicated_and_reordered_messages_once(
        self, account: Account, connected: Streams, exchange: FakeExchange
    ) -> None:
        placement = make_resting(account)
        first = exchange.fill(placement.client_order_id, quantity=Decimal("0.4"), announce=False)
        second = exchange.fill(placement.client_order_id, announce=False)

        for message in (second, first, second, first):
            exchange.push(message)
        exchange.push(report(exchange_order_id="999"))  # heard last

        wait_until(lambda: UnmatchedReport.objects.filter(exchange_order_id="999").exists())
        wait_until(lambda: open_order(placement) is None)
        assert TradeExecution.objects.count() == 2
        assert StrategyPosition.objects.get().quantity == Decimal(1)

    def test_waits_a_moment_for_a_missing_fill_before_it_asks(
        self, account: Account, connected: Streams, exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(follower, "GAP_GRACE_SECONDS", 5.0)  # a slow machine is no missing fill
        placement = make_resting(account)
        first = exchange.fill(placement.client_order_id, quantity=Decimal("0.4"), announce=False)
        second = exchange.fill(placement.client_order_id, quantity=Decimal("0.2"), announce=False)
        asked = _executions_asked(exchange)

        exchange.push(second)
        wait_until(lambda: StrategyPosition.objects.filter(quantity=Decimal("0.2")).exists())
        exchange.push(first)
        wait_until(lambda: StrategyPosition.objects.filter(quantity=Decimal("0.6")).exists())
        wait_until(lambda: not any(one._gaps for one in connected.followers.values()), seconds=3)
        exchange.fill(placement.client_order_id)
        wait_until(lambda: open_order(placement) is None)

        assert asked == []

    def test_fetches_a_fill_that_was_never_heard(
        self, account: Account, connected: Streams, exchange: FakeExchange
    ) -> None:
        placement = make_resting(account)
        wait_until(lambda: not _busy(connected))
        exchange.fill(placement.client_order_id, quantity=Decimal("0.4"), announce=False)
        exchange.fill(placement.client_order_id, quantity=Decimal("0.1"))

        # Well before the next reconciliation, and while the order rests, so that no resolver asks.
        wait_until(lambda: StrategyPosition.objects.filter(quantity=Decimal("0.5")).exists(), seconds=5)

        assert TradeExecution.objects.count() == 2

    def test_checks_every_report_by_rest_when_asked_to(
        self, account: Account, connected: Streams, exchange: FakeExchange, settings: Settings
    ) -> None:
        settings.TRACKING_VERIFY = "always"
        placement = make_resting(account)
        real = exchange.fill(placement.client_order_id, quantity=Decimal("0.4"), announce=False)
        lie = Fill("made-up", Decimal(1), Decimal("0.9"), real.fills[0].executed_at)

        exchange.push(
            report(
                exchange_order_id=placement.exchange_order_id,
                client_order_id=placement.client_order_id,
                status=VenueOrderStatus.PARTIALLY_FILLED,
                filled_quantity=Decimal("0.9"),
                fills=(lie,),
            )
        )

        wait_until(TradeExecution.objects.exists)
        assert StrategyPosition.objects.get().quantity == Decimal("0.4")

    def test_reconciles_after_a_reconnect_and_counts_nothing_twice(
        self, account: Account, connected: Streams, exchange: FakeExchange
    ) -> None:
        placement = make_resting(account)
        wait_until(lambda: OrderEvent.objects.filter(type=EventType.ACCEPTED).exists())
        exchange.push(StreamStateChange(StreamState.DISCONNECTED, "cut"))
        wait_until(lambda: session().status == SessionStatus.DISCONNECTED)
        unheard = exchange.fill(placement.client_order_id, announce=False)

        exchange.push(StreamStateChange(StreamState.CONNECTED))
        wait_until(lambda: open_order(placement) is None, seconds=3)
        exchange.push(unheard)
        exchange.push(report(exchange_order_id="999"))

        wait_until(lambda: UnmatchedReport.objects.filter(exchange_order_id="999").exists())
        assert TradeExecution.objects.count() == 1
        assert session().reconnect_count == 1

    @pytest.mark.parametrize(
        "fails", [OutcomeUnknown("gateway timeout", venue="fake"), TimeoutError(), ValueError(), None]
    )
    def test_reconciles_again_soon_until_nothing_that_was_missed_is_left(
        self,
        account: Account,
        connected: Streams,
        exchange: FakeExchange,
        monkeypatch: pytest.MonkeyPatch,
        fails: Exception | None,
    ) -> None:
        """A fill that came during a cut is on the page within ten seconds, also if the first look fails."""
        placement = make_resting(account)
        wait_until(lambda: OrderEvent.objects.filter(type=EventType.ACCEPTED).exists())
        runs = 0

        def twice_in_vain(**asked: Any) -> Reconciled:
            nonlocal runs
            runs += 1
            if runs > 2:
                return reconcile_account(**asked)
            if fails is None:
                return Reconciled(errors=["an order could not be asked for"])
            raise fails

        monkeypatch.setattr(follower, "reconcile_account", twice_in_vain)
        exchange.push(StreamStateChange(StreamState.DISCONNECTED, "cut"))
        wait_until(lambda: session().status == SessionStatus.DISCONNECTED)
        exchange.fill(placement.client_order_id, announce=False)

        exchange.push(StreamStateChange(StreamState.CONNECTED))

        wait_until(lambda: open_order(placement) is None, seconds=7)
        assert TradeExecution.objects.count() == 1

    def test_keeps_the_pace_of_a_stream_that_is_down_until_a_run_is_clean(
        self, account: Account, exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(follower, "FAILED_AGAIN_SECONDS", 0.2)
        monkeypatch.setattr(follower, "RECONCILE_DOWN_SECONDS", 2.0)
        runs: list[float] = []

        def clean_at_last(**asked: Any) -> Reconciled:
            runs.append(time.monotonic())
            return Reconciled(errors=[] if len(runs) > 4 else ["an order could not be asked for"])

        monkeypatch.setattr(follower, "reconcile_account", clean_at_last)
        with streams_process():
            wait_until(lambda: len(runs) > 4)
            time.sleep(2.5)
        assert len(runs) == 5  # then as usual, half a minute later
        assert runs[-1] - runs[-2] >= 0.9

    def test_reports_an_order_that_was_canceled_by_hand(
        self, account: Account, connected: Streams, exchange: FakeExchange
    ) -> None:
        placement = make_resting(account)

        exchange.end(placement.client_order_id, VenueOrderStatus.CANCELED)

        wait_until(lambda: open_order(placement) is None, seconds=1)
        assert FailedOrder.objects.get().status == "canceled"

    def test_keeps_what_cannot_be_read_and_goes_on(
        self, account: Account, connected: Streams, exchange: FakeExchange
    ) -> None:
        placement = make_resting(account)

        exchange.push(UnreadableMessage('{"X": "HALTED"}', "unknown status"))
        exchange.fill(placement.client_order_id)

        wait_until(lambda: open_order(placement) is None)
        assert UnmatchedReport.objects.get().state == UnmatchedReport.State.UNREADABLE

    def test_looks_what_an_unreadable_message_may_have_told(
        self, account: Account, connected: Streams, exchange: FakeExchange
    ) -> None:
        """Seen with a message that was broken off: its fill was found half a minute later."""
        wait_until(lambda: session().last_reconciled_at is not None)  # after the connect; not again soon
        placement = make_resting(account)
        wait_until(lambda: OrderEvent.objects.filter(type=EventType.ACCEPTED).exists())
        exchange.fill(placement.client_order_id, announce=False)

        exchange.push(UnreadableMessage('{"e":"ORDER_TRADE_UPD', "Unterminated string"))

        wait_until(lambda: open_order(placement) is None, seconds=3)
        assert TradeExecution.objects.count() == 1

    def test_asks_at_once_when_an_order_lives_that_has_ended_here(
        self, account: Account, connected: Streams, exchange: FakeExchange
    ) -> None:
        """Where request weight is short the next whole list may be an hour away."""
        wait_until(lambda: session().last_reconciled_at is not None)  # after the connect; not again soon
        placement = make_order(account)
        refused = Outcome(placement.pk, InsufficientFunds("no money"))
        outcomes_apply([refused], source=EventSource.ANSWER, now=database_now())
        assert FailedOrder.objects.count() == 1

        alive = report(client_order_id=placement.client_order_id, price=Decimal(90000))
        exchange._keep(alive, announce=True)

        wait_until(lambda: OrderEvent.objects.filter(type=EventType.LIVE_AGAIN).exists(), seconds=3)
        assert OpenOrder.objects.get(placement=placement).status == "NEW"
        assert FailedOrder.objects.count() == 0

    def test_keeps_a_report_that_cannot_be_applied_and_applies_the_others(
        self, account: Account, connected: Streams, exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = apply_reports

        def breaks(*, reports: list[OrderReport], **kwargs: object) -> object:
            if any(one.exchange_order_id == "poison" for one in reports):
                raise ValueError("nobody foresaw this")
            return real(reports=reports, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(applying, "apply_reports", breaks)
        placement = make_resting(account)
        filled = exchange.fill(placement.client_order_id, announce=False)
        _push_at_once(exchange, [report(exchange_order_id="poison"), filled])

        wait_until(lambda: open_order(placement) is None)
        row = wait_until(UnmatchedReport.objects.first)
        assert row.state == UnmatchedReport.State.UNREADABLE
        assert "nobody foresaw this" in row.error

    @pytest.mark.parametrize("how", ["closed", "slept too long"])
    def test_loses_nothing_while_the_database_is_away(
        self,
        account: Account,
        connected: Streams,
        exchange: FakeExchange,
        monkeypatch: pytest.MonkeyPatch,
        how: str,
    ) -> None:
        real, failures = apply_reports, 0

        def away(**kwargs: object) -> object:
            nonlocal failures
            if failures < 3:
                failures += 1
                if how == "closed":
                    raise OperationalError("server closed the connection")
                raise InternalError("idle in transaction") from IdleInTransactionSessionTimeout()
            return real(**kwargs)  # type: ignore[arg-type]

        placement = make_resting(account)
        wait_until(lambda: connected.followers and not _busy(connected))
        monkeypatch.setattr(applying, "apply_reports", away)
        exchange.fill(placement.client_order_id)

        wait_until(lambda: open_order(placement) is None)
        assert failures == 3
        assert StrategyPosition.objects.get().quantity == Decimal(1)

    def test_writes_a_burst_down_in_a_few_transactions(
        self, account: Account, connected: Streams, exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, calls = apply_reports, []

        def counted(**kwargs: object) -> object:
            calls.append(len(kwargs["reports"]))  # type: ignore[arg-type]
            return real(**kwargs)  # type: ignore[arg-type]

        placement = make_resting(account, quantity=Decimal(100))
        fills = [
            exchange.fill(placement.client_order_id, quantity=Decimal(1), announce=False) for _ in range(100)
        ]
        wait_until(lambda: not _busy(connected))
        monkeypatch.setattr(applying, "apply_reports", counted)
        _push_at_once(exchange, fills)

        wait_until(lambda: open_order(placement) is None)
        assert TradeExecution.objects.count() == 100
        assert sum(calls) >= 100
        assert len(calls) <= 10

    def test_starts_the_stream_again_when_the_adapter_fails(
        self, account: Account, exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(follower, "RESTART_SECONDS", (0.01, 0.05))
        real, tries = exchange.user_stream, 0

        def broken() -> object:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise RuntimeError("an adapter's own fault")
            return real()

        exchange.user_stream = broken  # type: ignore[method-assign,assignment]
        with streams_process():
            wait_until(is_connected)
        told = OrderEvent.objects.filter(type=EventType.STREAM).order_by("pk")
        assert [event.after for event in told][:2] == ["error", "connected"]
        assert "an adapter's own fault" in told[0].message

    def test_calls_an_order_placed_by_hand_external(
        self, account: Account, connected: Streams, exchange: FakeExchange
    ) -> None:
        exchange.push(report())

        wait_until(OrderEvent.objects.filter(type=EventType.EXTERNAL).exists, seconds=2)


def _busy(process: Streams) -> bool:
    return any(not one._queue.empty() for one in process.followers.values())


def _push_at_once(exchange: FakeExchange, messages: Sequence[OrderReport]) -> None:
    """Put messages into the stream in one turn of its loop: the follower finds all of them at once."""

    def push() -> None:
        for message in messages:
            exchange.push(message)

    exchange._listeners[0][0].call_soon_threadsafe(push)


def _executions_asked(exchange: FakeExchange) -> list[OrderRef]:
    asked: list[OrderRef] = []
    fetch = exchange.fetch_executions

    async def counted(ref: OrderRef) -> list[Fill]:
        asked.append(ref)
        return await fetch(ref)

    exchange.fetch_executions = counted  # type: ignore[method-assign]
    return asked


class TestDueOrders:
    def test_of_one_account_do_not_wait_for_the_slow_exchange_of_another(
        self, exchanges: Exchanges, settings: Settings
    ) -> None:
        settings.QUEUE_LIMIT_CAP = 1
        slow, quick = make_account(), make_account()
        gate = Gate()
        exchanges.of(slow).before_placing = gate
        with streams_process():
            make_due(slow)
            assert gate.reached.wait(10)
            try:
                order = make_due(quick)
                wait_until(lambda: OpenOrder.objects.filter(intent=order, status="NEW").exists(), seconds=5)
            finally:
                gate.open()


def make_due(account: Account) -> OrderIntent:
    """An order of this account whose back-off has ended."""
    intent = make_order(account).intent
    OpenOrder.objects.all().filter(intent=intent).delete()
    Placement.objects.filter(intent=intent).delete()
    OrderIntent.objects.filter(pk=intent.pk).update(home=Home.QUEUE, is_queued=True)
    ended = database_now() - timedelta(seconds=1)
    pending_for(intent, account_id=account.pk, now=ended, waits_until=ended).save(force_insert=True)
    return intent
