"""What a reconciliation says of itself: every run that could not compare everything leaves a note."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from exchanges import measures
from exchanges.adapters.exceptions import OutcomeUnknown
from exchanges.adapters.testing import FakeExchange
from exchanges.models import Account
from orders.clock import database_now
from tracking.models import OrderTrackingSession
from tracking.on_demand import orders_sync
from tracking.reconciliation import reconcile_account
from tracking.sessions import sessions_ensure
from tracking.tasks import reconcile_unwatched
from tracking.tests.conftest import Exchanges
from tracking.tests.making import FUTURES, key_of, make_account, make_resting

pytestmark = pytest.mark.django_db(transaction=True)
LOST = OutcomeUnknown("connection lost", venue="fake")


@pytest.fixture
def account(exchanges: Exchanges) -> Account:
    account = make_account()
    sessions_ensure([key_of(account)])
    return account


@pytest.fixture
def exchange(exchanges: Exchanges, account: Account) -> FakeExchange:
    return exchanges.of(account)


def run(account: Account) -> None:
    reconcile_account(account_id=account.pk, market_type=FUTURES)


def failing_run(account: Account) -> None:
    with pytest.raises(OutcomeUnknown):
        run(account)


def session(account: Account) -> OrderTrackingSession:
    return OrderTrackingSession.objects.get(account=account, market_type=FUTURES)


def failures() -> float:
    return sum(
        sample.value
        for metric in measures.REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "tradehub_reconcile_failures_total" and sample.labels == {"exchange": "binance"}
    )


class TestReconcileAccount:
    def test_notes_why_the_exchange_could_not_be_asked(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        exchange.fails_with = LOST
        before, counted = database_now(), failures()

        failing_run(account)

        found = session(account)
        assert (found.reconcile_error, found.last_reconciled_at) == ("connection lost", None)
        assert found.reconcile_failed_at is not None
        assert found.reconcile_failed_at >= before
        assert failures() == counted + 1

    def test_takes_a_run_with_errors_for_no_clean_one(self, account: Account, exchange: FakeExchange) -> None:
        run(account)
        clean = session(account).last_reconciled_at
        placement = make_resting(account)
        exchange.orders.clear()  # neither listed nor found
        counted = failures()

        run(account)

        found = session(account)
        assert found.last_reconciled_at == clean
        assert found.reconcile_error == f"{placement.client_order_id}: Order does not exist."
        assert failures() == counted + 1

    def test_forgets_the_error_with_the_next_clean_run(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        exchange.fails_with = LOST
        failing_run(account)
        exchange.fails_with = None

        run(account)

        found = session(account)
        assert (found.reconcile_error, found.reconcile_failed_at) == ("", None)
        assert found.last_reconciled_at is not None

    def test_writes_nothing_where_it_fails_as_it_did_before(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        exchange.fails_with = LOST
        failing_run(account)
        counted = failures()

        with CaptureQueriesContext(connection) as queries:
            failing_run(account)

        written = [one["sql"] for one in queries if one["sql"].startswith(("UPDATE", "INSERT", "DELETE"))]
        assert all("tracking_lease" in sql for sql in written), written
        assert failures() == counted + 1

    def test_says_since_when_it_fails_whatever_it_says(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        exchange.fails_with = LOST
        failing_run(account)
        OrderTrackingSession.objects.update(reconcile_failed_at=Now() - timedelta(hours=1))
        since = session(account).reconcile_failed_at
        exchange.fails_with = OutcomeUnknown("read timed out", venue="fake")

        failing_run(account)

        found = session(account)
        assert (found.reconcile_error, found.reconcile_failed_at) == ("read timed out", since)

    def test_leaves_secrets_out(
        self, account: Account, exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        secret = account.credentials.api_secret

        async def echo(symbol: str | None = None) -> None:
            raise RuntimeError(f"no such key \0 {secret}")

        monkeypatch.setattr(exchange, "fetch_open_orders", echo)

        with pytest.raises(RuntimeError):
            run(account)

        assert session(account).reconcile_error == "RuntimeError: no such key \ufffd ***"

    def test_does_not_hide_its_fault_behind_a_note_that_fails(
        self, account: Account, exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The database that is away is why it fails, and takes no note either."""
        exchange.fails_with = LOST
        monkeypatch.setattr(OrderTrackingSession._meta, "db_table", "no_such_table")

        failing_run(account)

    def test_a_look_alone_notes_nothing(self, account: Account, exchange: FakeExchange) -> None:
        exchange.fails_with = LOST

        with pytest.raises(OutcomeUnknown):
            reconcile_account(account_id=account.pk, market_type=FUTURES, check_only=True)

        assert session(account).reconcile_error == ""


class TestOfAnAccountThatNobodyFollows:
    @pytest.fixture
    def account(self, exchanges: Exchanges) -> Account:
        return make_account()

    def test_is_told_by_the_worker(self, account: Account, exchange: FakeExchange) -> None:
        exchange.fails_with = LOST

        assert reconcile_unwatched() == 0

        assert session(account).reconcile_error == "connection lost"

    def test_is_told_by_the_first_clean_run(self, account: Account, exchange: FakeExchange) -> None:
        assert reconcile_unwatched() == 1

        assert session(account).last_reconciled_at is not None

    def test_makes_no_stream_of_a_market_where_nothing_is_traded(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        Account.objects.update(is_active=False)
        exchange.fails_with = LOST

        orders_sync(account=account, by="operator")

        assert not OrderTrackingSession.objects.exists()
