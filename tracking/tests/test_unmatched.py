from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from exchanges import measures
from exchanges.adapters.testing import FakeExchange
from exchanges.adapters.types import (
    Fill,
    Liquidity,
    OrderReport,
    UnreadableMessage,
    UnreadableOrder,
    VenueOrderStatus,
)
from exchanges.models import Account
from orders.clock import database_now
from orders.models import EventSource, EventType, OrderEvent, Placement, StrategyPosition
from orders.models.intent import client_order_id
from tracking.applying import reports_apply
from tracking.models import UnmatchedReport
from tracking.stored_reports import from_json, to_json
from tracking.tests.conftest import Exchanges
from tracking.tests.making import SYMBOL, key_of, make_account, make_order, make_resting, report, send
from tracking.unmatched import (
    Retried,
    unmatched_keep,
    unmatched_retry,
)
from tracking.unreadable import unreadable_keep, unreadable_orders_keep

pytestmark = pytest.mark.django_db(transaction=True)
State = UnmatchedReport.State
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


@pytest.fixture
def account(exchanges: Exchanges) -> Account:
    return make_account()


@pytest.fixture
def exchange(exchanges: Exchanges, account: Account) -> FakeExchange:
    return exchanges.of(account)


def hear(account: Account, *reports: OrderReport) -> None:
    reports_apply(key=key_of(account), reports=reports, source=EventSource.STREAM)


def retry(account: Account, *, settled_before: datetime | None = None) -> Retried:
    return unmatched_retry(key=key_of(account), source=EventSource.STREAM, settled_before=settled_before)


def a_fill(trade_id: str = "t1", **overrides: object) -> Fill:
    fill = Fill(trade_id, Decimal(90000), Decimal("0.4"), NOON, liquidity=Liquidity.MAKER)
    return replace(fill, **overrides)  # type: ignore[arg-type]  # a test's own overrides


def externals() -> list[OrderEvent]:
    return list(OrderEvent.objects.filter(type=EventType.EXTERNAL).order_by("pk"))


def unreadable_so_far() -> float:
    return sum(
        sample.value
        for metric in measures.REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "tradehub_unreadable_total" and sample.labels == {"exchange": "binance"}
    )


class TestJson:
    def test_gives_back_what_was_written_digit_by_digit(self) -> None:
        original = report(
            price=Decimal("0.00000012345678901"),
            filled_quantity=Decimal("0.4"),
            fills=(a_fill(fee=Decimal("0.00010")),),
            updated_at=NOON,
        )

        written = to_json(original)

        assert written["price"] == "1.2345678901E-7"
        assert from_json(written) == original


class TestUnmatchedRetry:
    def test_applies_a_report_that_was_faster_than_the_answer(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        placement = make_order(account)
        early = report(
            exchange_order_id="1",
            client_order_id="",  # an exchange that tells its own id only
            status=VenueOrderStatus.PARTIALLY_FILLED,
            filled_quantity=Decimal("0.4"),
            fills=(a_fill(),),
        )
        hear(account, early)
        assert retry(account).waiting == 1
        assert externals() == []
        send(account, [placement])  # the exchange calls it 1

        assert retry(account).waiting == 0

        assert StrategyPosition.objects.get().quantity == Decimal("0.4")
        assert UnmatchedReport.objects.get().state == State.MATCHED
        assert externals() == []

    def test_waits_while_an_order_of_its_book_is_unresolved(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        make_order(account)
        hear(account, report())

        assert (retry(account).waiting, retry(account).external) == (1, 0)

        assert UnmatchedReport.objects.get().state == State.WAITING

    def test_does_not_wait_for_an_unresolved_order_of_another_book(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        make_order(account, symbol="ETH/USDT")
        hear(account, report(symbol=SYMBOL))

        assert retry(account).external == 1

    def test_calls_a_report_external_when_nothing_can_explain_it(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        make_resting(account)
        hear(account, report(fills=(a_fill(),), filled_quantity=Decimal("0.4")))

        assert retry(account).external == 1

        order, fill = externals()
        assert (order.user_id, order.symbol, order.data["price"]) == (account.user_id, SYMBOL, "80000")
        assert (fill.data["trade_id"], fill.data["fill_quantity"]) == ("t1", "0.4")
        assert StrategyPosition.objects.exists() is False

    def test_tells_an_external_order_once_however_often_it_is_reported(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        partly = replace(
            report(),
            status=VenueOrderStatus.PARTIALLY_FILLED,
            fills=(a_fill(),),
            filled_quantity=Decimal("0.4"),
        )
        for one in (report(), report(), partly, partly, report()):
            hear(account, one)
            retry(account)

        assert [event.data.get("trade_id") for event in externals()] == [None, "t1"]
        row = UnmatchedReport.objects.get()
        assert (row.state, row.report["status"]) == (State.EXTERNAL, "PARTIALLY_FILLED")

    def test_tells_each_fill_of_an_external_order_once(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        partly = report(status=VenueOrderStatus.PARTIALLY_FILLED, filled_quantity=Decimal("0.4"))
        hear(account, replace(partly, fills=(a_fill("t1"),)))
        retry(account)

        more = replace(partly, filled_quantity=Decimal("0.8"), fills=(a_fill("t1"), a_fill("t2")))
        hear(account, more)

        assert [event.data.get("trade_id") for event in externals()] == [None, "t1", "t2"]

    def test_tells_when_an_external_order_ends(self, account: Account, exchange: FakeExchange) -> None:
        hear(account, report())
        retry(account)

        hear(account, report(status=VenueOrderStatus.CANCELED))
        hear(account, report(status=VenueOrderStatus.NEW))  # late: it re-opens nothing

        assert [event.after for event in externals()] == ["NEW", "CANCELED"]
        assert UnmatchedReport.objects.get().report["status"] == "CANCELED"

    def test_waits_with_a_possible_child_of_a_stop_until_the_account_was_reconciled(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        make_resting(account, order_type="STOP_MARKET", price=None, stop_price=Decimal(80000), side="SELL")
        hear(account, report(client_order_id=""))

        first = retry(account, settled_before=database_now() - timedelta(hours=1))
        assert (first.waiting, first.waits_for_stop) == (1, True)

        assert retry(account, settled_before=database_now() + timedelta(seconds=1)).external == 1

    def test_books_the_fill_of_a_child_order_once_its_parent_is_known(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        stop = make_resting(
            account, order_type="STOP_MARKET", price=None, stop_price=Decimal(80000), side="SELL"
        )
        hear(
            account,
            report(
                exchange_order_id="child-7",
                client_order_id="",
                status=VenueOrderStatus.FILLED,
                filled_quantity=Decimal(1),
                fills=(a_fill(quantity=Decimal(1)),),
            ),
        )
        retry(account)
        told = report(
            exchange_order_id=stop.exchange_order_id,
            client_order_id=stop.client_order_id,
            conditional=True,
            triggered=True,
            child_order_id="child-7",
            filled_quantity=None,
        )
        hear(account, told)

        assert retry(account).waiting == 0

        assert StrategyPosition.objects.get().quantity == Decimal(-1)
        assert Placement.objects.get().filled_quantity == Decimal(1)
        assert externals() == []

    def test_sounds_the_alarm_for_an_id_of_our_shape_that_we_never_made(
        self, account: Account, exchange: FakeExchange, caplog: pytest.LogCaptureFixture
    ) -> None:
        make_order(account)  # even while another order of its book is unresolved
        stranger = client_order_id("01J00000000000000000000000", 1)
        hear(account, report(client_order_id=stranger))

        retry(account)

        (event,) = externals()
        assert event.data["alert"] is True
        assert event.data["client_order_id"] == stranger
        assert stranger in caplog.text

    def test_leaves_the_reports_of_other_accounts_alone(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        other = make_account()
        hear(other, report())

        assert retry(account) == Retried()

        assert UnmatchedReport.objects.get().state == State.WAITING


class TestUnmatchedKeep:
    def test_stores_a_repeated_report_once(self, account: Account, exchange: FakeExchange) -> None:
        make_order(account)
        for _ in range(3):
            unmatched_keep(key=key_of(account), reports=[report(), report()], source=EventSource.STREAM)

        assert UnmatchedReport.objects.count() == 1

    def test_looks_up_what_it_hears_of_and_reads_no_history(
        self, account: Account, exchange: FakeExchange
    ) -> None:
        """An account that somebody trades on by hand has thousands of orders that ended."""
        hear(account, report(exchange_order_id="7"))
        retry(account)
        kept = UnmatchedReport.objects.get()
        ended = {
            "account": account,
            "market_type": kept.market_type,
            "symbol": SYMBOL,
            "state": State.EXTERNAL,
        }
        UnmatchedReport.objects.bulk_create(
            UnmatchedReport(
                **ended, exchange_order_id=str(number), report=kept.report, received_at=kept.received_at
            )
            for number in range(1000, 4000)
        )
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE tracking_unmatchedreport")

        with CaptureQueriesContext(connection) as queries:
            canceled = report(exchange_order_id="7", status=VenueOrderStatus.CANCELED)
            unmatched_keep(key=key_of(account), reports=[canceled], source=EventSource.STREAM)

        lookups = [one["sql"] for one in queries if 'exchange_order_id" IN' in one["sql"]]
        assert len(lookups) == 3
        assert all("unmatched_by_order" in plan_of(sql) for sql in lookups)


def plan_of(sql: str) -> str:
    explain = "EXPLAIN" if connection.vendor == "postgresql" else "EXPLAIN QUERY PLAN"
    with connection.cursor() as cursor:
        cursor.execute(f"{explain} {sql}")
        return "\n".join(str(line) for line in cursor.fetchall())


class TestUnreadableKeep:
    def test_keeps_the_text_as_it_came_and_logs_it_loudly(
        self, account: Account, caplog: pytest.LogCaptureFixture
    ) -> None:
        message = UnreadableMessage('{"e": "???"}', "unknown status 'HALTED'")

        unreadable_keep(key=key_of(account), message=message)

        row = UnmatchedReport.objects.get()
        assert (row.state, row.report, row.error) == (
            State.UNREADABLE,
            {"text": '{"e": "???"}'},
            "unknown status 'HALTED'",
        )
        assert [record.levelname for record in caplog.records] == ["ERROR"]

    def test_counts_it_by_exchange(self, account: Account) -> None:
        before = unreadable_so_far()

        for text in ("this", "that"):
            unreadable_keep(key=key_of(account), message=UnreadableMessage(text, "no JSON"))

        assert unreadable_so_far() == before + 2

    def test_cuts_an_oversized_message(self, account: Account) -> None:
        unreadable_keep(key=key_of(account), message=UnreadableMessage("x" * 1_000_000, "too long"))

        assert len(UnmatchedReport.objects.get().report["text"]) == 20_000


class TestUnreadableOrdersKeep:
    def test_counts_a_row_of_the_list_once_however_often_it_is_listed(self, account: Account) -> None:
        listed = [UnreadableOrder(("900",), '{"status": "???"}', "unknown status '???'", SYMBOL)]
        before = unreadable_so_far()

        for _ in range(3):
            unreadable_orders_keep(key=key_of(account), listed=listed)

        assert unreadable_so_far() == before + 1
