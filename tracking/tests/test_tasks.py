from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.utils.module_loading import import_string
from django_q.models import Schedule

from exchanges.adapters.exceptions import OutcomeUnknown
from exchanges.adapters.testing import FakeExchange
from exchanges.adapters.types import ListedOrder, VenueOrderStatus
from exchanges.models import Account, Instrument
from orders.states import OrderStatus
from tracking.models import OrderTrackingSession
from tracking.schedules import JOBS, schedules_register
from tracking.tasks import instruments_load, orders_resolve, reconcile_unwatched
from tracking.tests.conftest import Exchanges
from tracking.tests.making import FUTURES, long_ago, make_account, make_order, make_resting, open_order, send

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def account(exchanges: Exchanges) -> Account:
    return make_account()


@pytest.fixture
def exchange(exchanges: Exchanges, account: Account) -> FakeExchange:
    return exchanges.of(account)


def ours() -> QuerySet[Any]:
    """The schedules of this room; others register theirs."""
    found: QuerySet[Any] = Schedule.objects.filter(func__startswith="tracking.")
    return found


class TestSchedulesRegister:
    def test_names_functions_that_exist(self) -> None:
        schedules_register()

        functions = set(ours().values_list("func", flat=True))
        assert functions == {job.function for job in JOBS}
        assert all(callable(import_string(name)) for name in functions)

    def test_is_safe_to_repeat_and_leaves_the_next_run_alone(self) -> None:
        schedules_register()
        due = long_ago(seconds=5)
        Schedule.objects.update(next_run=due, minutes=99)

        schedules_register()

        assert ours().count() == len(JOBS)
        assert set(ours().values_list("next_run", flat=True)) == {due}
        assert sorted(ours().values_list("minutes", flat=True)) == sorted(job.minutes for job in JOBS)

    def test_removes_a_job_of_ours_that_is_no_more_and_nobody_elses(self) -> None:
        Schedule.objects.create(name="old", func="tracking.tasks.gone", schedule_type="I", minutes=1)
        Schedule.objects.create(name="theirs", func="somebody.elses", schedule_type="I", minutes=1)

        schedules_register()

        assert not Schedule.objects.filter(name="old").exists()
        assert Schedule.objects.filter(name="theirs").exists()

    def test_runs_what_is_wanted_twice_a_minute_half_a_minute_apart(self) -> None:
        Schedule.objects.all().delete()
        schedules_register()

        first, second = Schedule.objects.filter(func="tracking.tasks.orders_resolve").order_by("next_run")

        assert second.next_run - first.next_run == timedelta(seconds=30)


class TestOrdersResolve:
    def test_asks_about_unknown_orders(self, account: Account, exchange: FakeExchange) -> None:
        placement = make_order(account, planned_at=long_ago(seconds=22))
        exchange.lose_answer(placement.client_order_id, OutcomeUnknown("read timed out", venue="fake"))
        send(account, [placement])
        type(placement.open_order).objects.update(ask_at=long_ago(seconds=1))

        assert orders_resolve() == 1

        order = open_order(placement)
        assert order is not None
        assert order.status == OrderStatus.NEW


class TestReconcileUnwatched:
    def test_reconciles_the_accounts_of_dead_processes_only(
        self, account: Account, exchange: FakeExchange, exchanges: Exchanges
    ) -> None:
        watched = make_account()
        OrderTrackingSession.objects.create(
            account=watched,
            market_type=FUTURES,
            owner="alive",
            lease_expires_at=Now() + timedelta(minutes=5),
        )
        mine, theirs = make_resting(account), make_resting(watched)
        for placement, owner in ((mine, account), (theirs, watched)):
            exchanges.of(owner).end(placement.client_order_id, VenueOrderStatus.CANCELED, announce=False)

        assert reconcile_unwatched() == 1

        assert open_order(mine) is None
        assert open_order(theirs) is not None

    def test_goes_on_when_one_exchange_is_dead(
        self, account: Account, exchange: FakeExchange, exchanges: Exchanges
    ) -> None:
        exchange.fails_with = OutcomeUnknown("connection lost", venue="fake")
        other = make_account()
        placement = make_resting(other)
        exchanges.of(other).end(placement.client_order_id, VenueOrderStatus.CANCELED, announce=False)

        assert reconcile_unwatched() == 1

        assert open_order(placement) is None

    def test_lets_no_account_wait_for_another(
        self, account: Account, exchange: FakeExchange, exchanges: Exchanges
    ) -> None:
        """The first one's exchange answers only once the second one's has been asked."""
        other = make_account()
        asked = threading.Event()
        waits, rings = exchange.fetch_open_orders, exchanges.of(other).fetch_open_orders

        async def wait(symbol: str | None = None) -> list[ListedOrder]:
            assert await asyncio.to_thread(asked.wait, 10)
            return await waits(symbol)

        async def ring(symbol: str | None = None) -> list[ListedOrder]:
            asked.set()
            return await rings(symbol)

        exchange.fetch_open_orders = wait  # type: ignore[method-assign]
        exchanges.of(other).fetch_open_orders = ring  # type: ignore[method-assign]

        assert reconcile_unwatched() == 2


class TestInstrumentsLoad:
    def test_loads_once_for_all_accounts_of_an_exchange(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        make_account()
        source = ("binance", "SIMULATOR", "FUTURES")

        assert instruments_load() == {source}
        assert instruments_load({source}) == set()

        assert Instrument.objects.get().symbol == "BTC/USDT"

    def test_names_no_exchange_that_could_not_be_asked(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        exchange.fails_with = OutcomeUnknown("connection lost", venue="fake")

        assert instruments_load() == set()

    def test_command_says_what_changed(self, account: Account, exchange: FakeExchange) -> None:
        out = StringIO()

        call_command("instruments", stdout=out)

        assert out.getvalue() == "binance SIMULATOR FUTURES: 1 changed\n"

    def test_command_fails_when_an_exchange_cannot_be_asked(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        exchange.fails_with = OutcomeUnknown("connection lost", venue="fake")

        with pytest.raises(CommandError):
            call_command("instruments", stderr=StringIO())
