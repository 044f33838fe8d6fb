"""What several streams hear is written down together, and one account's trouble stays its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

import pytest
from django.db import OperationalError, connection, transaction

from exchanges.adapters.types import OrderReport
from exchanges.models import Account
from orders import locks
from orders.models import EventSource, Placement, StrategyPosition, TradeExecution
from orders.services.applied import Applied
from orders.services.settlement import apply_reports, apply_reports_together
from tracking import applier, applying
from tracking.applier import Applier
from tracking.models import UnmatchedReport
from tracking.tests.conftest import Exchanges
from tracking.tests.making import key_of, make_account, make_resting, report
from tracking.threads import Threads

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass
class Filled:
    """A resting order, and the report of a fill of it that nobody has heard yet."""

    account: Account
    placement: Placement
    report: OrderReport


@pytest.fixture
def orders(exchanges: Exchanges) -> list[Filled]:
    found = []
    for _ in range(3):
        account = make_account()
        placement = make_resting(account)
        heard = exchanges.of(account).fill(placement.client_order_id, quantity=Decimal("0.4"), announce=False)
        found.append(Filled(account, placement, heard))
    return found


@pytest.fixture
def ledger() -> Iterator[Threads]:
    threads = Threads("ledger", 4)
    yield threads
    threads.close()


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many streams were in each transaction that was tried for several."""
    real, tried = apply_reports_together, []

    def counted(batches: list[object], **kwargs: object) -> list[Applied]:
        tried.append(len(batches))
        return real(batches, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(applying, "apply_reports_together", counted)
    return tried


def run(ledger: Threads, work: Callable[[Applier], Awaitable[list[object]]]) -> list[object]:
    async def main() -> list[object]:
        return await work(Applier(ledger))

    return asyncio.run(main())


def apply_all(*filled: Filled) -> Callable[[Applier], Awaitable[list[object]]]:
    async def work(one: Applier) -> list[object]:
        jobs = (one.apply(key_of(each.account), [each.report]) for each in filled)
        return list(await asyncio.gather(*jobs, return_exceptions=True))

    return work


def booked() -> set[int]:
    return set(TradeExecution.objects.values_list("account_id", flat=True))


class TestApply:
    def test_writes_what_has_gathered_in_one_transaction(
        self, orders: list[Filled], ledger: Threads, together: list[int]
    ) -> None:
        results = run(ledger, apply_all(*orders))

        assert together == [3]
        for filled, result in zip(orders, results, strict=True):
            assert isinstance(result, Applied)
            assert result.placement_ids == [filled.placement.pk]  # each is told of its own only
        assert list(StrategyPosition.objects.values_list("quantity", flat=True)) == [Decimal("0.4")] * 3

    def test_tells_each_stream_what_is_left_of_its_own(
        self, orders: list[Filled], ledger: Threads, exchanges: Exchanges
    ) -> None:
        first, second, third = orders
        last = exchanges.of(first.account).fill(first.placement.client_order_id, announce=False)
        strange = report(exchange_order_id="999")

        async def work(one: Applier) -> list[object]:
            return list(
                await asyncio.gather(
                    one.apply(key_of(first.account), [first.report, last]),
                    one.apply(key_of(second.account), [second.report]),
                    one.apply(key_of(third.account), [strange]),
                )
            )

        of_first, of_second, of_third = run(ledger, work)

        assert isinstance(of_first, Applied)
        assert isinstance(of_second, Applied)
        assert isinstance(of_third, Applied)
        assert of_first.freed_books == {first.placement.intent.book_id}
        assert of_second.freed_books == set()
        assert of_third.unmatched == [strange]
        kept = UnmatchedReport.objects.get()
        assert (kept.account_id, kept.exchange_order_id) == (third.account.pk, "999")

    def test_keeps_one_accounts_ids_from_matching_anothers(
        self, orders: list[Filled], ledger: Threads
    ) -> None:
        first, second, _ = orders
        # The exchanges in memory count their orders alike.
        swapped = [replace(one.report, exchange_order_id="x", fills=()) for one in (second, first)]

        async def work(one: Applier) -> list[object]:
            return list(
                await asyncio.gather(
                    one.apply(key_of(first.account), swapped[:1]),
                    one.apply(key_of(second.account), swapped[1:]),
                )
            )

        for result in run(ledger, work):
            assert isinstance(result, Applied)
            assert result.placement_ids == []
            assert len(result.unmatched) == 1
        assert booked() == set()

    @pytest.mark.services  # SQLite runs each part of a write by itself
    def test_costs_the_queries_of_one_account(self, orders: list[Filled]) -> None:
        def queries(*filled: Filled) -> int:
            count = 0

            def counted(execute: object, *args: object) -> object:
                nonlocal count
                count += 1
                return execute(*args)  # type: ignore[operator]

            with connection.execute_wrapper(counted):
                applying.batches_apply(
                    [(key_of(each.account), [each.report]) for each in filled],
                    source=EventSource.STREAM,
                    wait_seconds=1.0,
                )
            return count

        alone = queries(orders[0])
        assert queries(*orders[1:]) == alone


class TestTrouble:
    def test_of_one_account_holds_up_no_other(
        self,
        orders: list[Filled],
        ledger: Threads,
        together: list[int],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        bad = orders[1].account.pk

        def check(account_ids: set[int]) -> None:
            if bad in account_ids:
                raise ValueError("nobody foresaw this")

        breaks_for(check, monkeypatch)

        results = run(ledger, apply_all(*orders))

        assert [type(result) for result in results] == [Applied, ValueError, Applied]
        assert booked() == {orders[0].account.pk, orders[2].account.pk}

    def test_leaves_the_account_by_itself_for_a_while(
        self,
        orders: list[Filled],
        ledger: Threads,
        together: list[int],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        bad = orders[1].account.pk
        broken = True

        def check(account_ids: set[int]) -> None:
            if broken and bad in account_ids:
                raise ValueError("nobody foresaw this")

        breaks_for(check, monkeypatch)

        async def work(one: Applier) -> list[object]:
            nonlocal broken
            await apply_all(*orders)(one)
            broken = False
            return await apply_all(*orders)(one)

        results = run(ledger, work)

        assert together == [2]  # of those that went well: the one that failed comes alone
        assert [type(result) for result in results] == [Applied] * 3
        assert booked() == {each.account.pk for each in orders}

    def test_takes_an_account_back_when_its_time_apart_is_over(
        self,
        orders: list[Filled],
        ledger: Threads,
        together: list[int],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(applier, "APART_SECONDS", -1.0)
        bad, broken = orders[1].account.pk, True

        def check(account_ids: set[int]) -> None:
            if broken and bad in account_ids:
                raise ValueError("nobody foresaw this")

        breaks_for(check, monkeypatch)

        async def work(one: Applier) -> list[object]:
            nonlocal broken
            await apply_all(*orders)(one)
            broken = False
            return await apply_all(*orders)(one)

        run(ledger, work)

        assert together == [3]  # the first time nothing came of it

    def test_of_the_database_is_everybodys_and_is_not_tried_account_by_account(
        self, orders: list[Filled], ledger: Threads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried: list[set[int]] = []

        def away(account_ids: set[int]) -> None:
            tried.append(account_ids)
            raise OperationalError("server closed the connection")

        breaks_for(away, monkeypatch)

        results = run(ledger, apply_all(*orders))

        assert [type(result) for result in results] == [OperationalError] * 3
        assert len(tried) == 1

    @pytest.mark.services  # PostgreSQL's row locks
    def test_of_an_order_that_somebody_holds_is_that_accounts_alone(
        self, orders: list[Filled], ledger: Threads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(applier, "LOCK_SECONDS", 0.3)
        held, let_go = threading.Event(), threading.Event()

        def hold() -> None:
            try:
                with transaction.atomic():
                    list(locks.intents_for_update(pk=orders[1].placement.intent_id))
                    held.set()
                    assert let_go.wait(30)
            finally:
                connection.close()

        holder = threading.Thread(target=hold)
        holder.start()
        try:
            assert held.wait(5)
            results = run(ledger, apply_all(*orders))
        finally:
            let_go.set()
            holder.join()

        assert [type(result) for result in results] == [Applied, OperationalError, Applied]
        assert booked() == {orders[0].account.pk, orders[2].account.pk}

        (again,) = run(ledger, apply_all(orders[1]))
        assert isinstance(again, Applied)
        assert StrategyPosition.objects.filter(quantity=Decimal("0.4")).count() == 3


def breaks_for(check: Callable[[set[int]], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `check` look at the accounts of whatever is to be applied, alone and together."""
    alone = apply_reports
    many: Callable[..., list[Applied]] = vars(applying)["apply_reports_together"]  # counted perhaps

    def of_one(*, account_id: int, **kwargs: object) -> Applied:
        check({account_id})
        return alone(account_id=account_id, **kwargs)  # type: ignore[arg-type]

    def of_many(batches: list[object], **kwargs: object) -> list[Applied]:
        check({batch.account_id for batch in batches})  # type: ignore[attr-defined]
        return many(batches, **kwargs)

    monkeypatch.setattr(applying, "apply_reports", of_one)
    monkeypatch.setattr(applying, "apply_reports_together", of_many)
