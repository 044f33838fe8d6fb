from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from exchanges import access
from exchanges.adapters import exceptions as errors
from exchanges.adapters.types import Fill
from exchanges.models import Account
from orders.models import (
    EventSource,
    FailedOrder,
    Home,
    OpenOrder,
    OrderIntent,
    Placement,
    StrategyAccount,
    Trade,
    TradeExecution,
)
from orders.services.applied import Applied
from orders.services.gaps import fill_gaps
from orders.services.settlement import apply_reports
from orders.states import OrderStatus
from orders.tests.factories import LIMIT, NOON, Exchanges, make_account, make_follower, make_report, post

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def follower(exchanges: Exchanges) -> StrategyAccount:
    return make_follower()


def resting() -> Placement:
    assert post(LIMIT | {"quantity": "1"}).status == 200
    return Placement.objects.latest("pk")


def hear(placement: Placement, status: str, filled: str) -> Applied:
    """The exchange counts so much, and brings no fill."""
    report = make_report(placement, status, filled=filled, exchange_order_id=placement.exchange_order_id)
    return apply_reports(
        account_id=placement.account_id,
        market_type="FUTURES",
        reports=[report],
        source=EventSource.STREAM,
        now=NOON,
    )


def fill(*placements: Placement) -> Applied:
    ids = [placement.pk for placement in placements]
    applied = fill_gaps(placement_ids=ids, source=EventSource.STREAM, now=NOON)
    for placement in placements:
        placement.refresh_from_db()
    return applied


class TestFillGaps:
    def test_books_what_the_stream_did_not_bring(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        placement = resting()
        exchanges.of(follower).fill(placement.client_order_id, quantity=Decimal("0.4"))
        assert hear(placement, "PARTIALLY_FILLED", "0.4").gaps == [placement.pk]

        assert fill(placement).gaps == []

        assert placement.has_gap is False
        assert TradeExecution.objects.get().exchange_order_id == placement.exchange_order_id
        assert OpenOrder.objects.get().status == OrderStatus.PARTIALLY_FILLED
        assert follower.positions.get().quantity == Decimal("0.4")

    def test_ends_the_order_that_waited_for_its_fills(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        placement = resting()
        for quantity in ("0.4", "0.6"):
            exchanges.of(follower).fill(placement.client_order_id, quantity=Decimal(quantity))
        hear(placement, "FILLED", "1")
        assert OpenOrder.objects.count() == 1

        fill(placement)

        assert (OpenOrder.objects.count(), OrderIntent.objects.get().home) == (0, Home.DONE)
        assert Trade.objects.get().quantity == Decimal(1)

    def test_counts_what_was_booked_already_once(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        placement = resting()
        fake = exchanges.of(follower)
        first = fake.fill(placement.client_order_id, quantity=Decimal("0.4"))
        apply_reports(
            account_id=follower.account_id, market_type="FUTURES", reports=[first],
            source=EventSource.STREAM, now=NOON,
        )  # fmt: skip
        fake.fill(placement.client_order_id, quantity=Decimal("0.1"))
        hear(placement, "PARTIALLY_FILLED", "0.5")

        fill(placement)

        assert sorted(TradeExecution.objects.values_list("quantity", flat=True)) == [
            Decimal("0.1"),
            Decimal("0.4"),
        ]

    def test_leaves_a_failed_order_for_the_rest_only(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        placement = resting()
        exchanges.of(follower).fill(placement.client_order_id, quantity=Decimal("0.4"))
        hear(placement, "CANCELED", "0.4")
        assert not FailedOrder.objects.exists()

        fill(placement)

        assert FailedOrder.objects.get().quantity == Decimal("0.6")

    @pytest.mark.parametrize("error", [errors.OutcomeUnknown("timed out"), errors.RateLimited("slow down")])
    def test_keeps_the_gap_when_the_exchange_does_not_answer(
        self, follower: StrategyAccount, exchanges: Exchanges, error: errors.ExchangeError
    ) -> None:
        placement = resting()
        exchanges.of(follower).fill(placement.client_order_id, quantity=Decimal("0.4"))
        hear(placement, "PARTIALLY_FILLED", "0.4")
        exchanges.of(follower).fails_with = error

        fill(placement)

        assert placement.has_gap is True
        assert not TradeExecution.objects.exists()

    def test_works_one_account_though_another_has_no_way_out(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        second = make_follower(follower.strategy, make_account("second"))
        post(LIMIT)
        mine, theirs = Placement.objects.order_by("account_id")
        for row, placement in ((follower, mine), (second, theirs)):
            exchanges.of(row).fill(placement.client_order_id)
            hear(placement, "FILLED", "0.01")

        def broken_for_one(account: Account, market_type: str) -> Any:
            if account.pk == follower.account_id:
                raise errors.UnsupportedOrder("keys cannot be read")
            return exchanges(account, market_type)

        monkeypatch.setattr(access, "exchange_for", broken_for_one)

        fill(mine, theirs)

        assert (mine.has_gap, theirs.has_gap) == (True, False)

    def test_asks_nothing_where_there_is_no_gap(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        placement = resting()
        exchanges.of(follower).account_fault = errors.AuthenticationFailed("not asked")

        assert fill(placement).placements == {}

    def test_takes_fills_of_a_stop_under_its_childs_id(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        stop = {"order_type": "STOP_MARKET", "stop_price": "80000", "side": "sell", "quantity": "1"}
        post(LIMIT | stop)
        placement = Placement.objects.get()
        fake = exchanges.of(follower)
        fake.trigger(placement.client_order_id)
        fake.fill(placement.client_order_id)
        Placement.objects.update(child_order_id="child-7")
        placement.refresh_from_db()
        hear(placement, "FILLED", "1")
        executed = fake.executions[placement.exchange_order_id]
        fake.executions[placement.exchange_order_id] = [_unnamed(one) for one in executed]

        fill(placement)

        assert TradeExecution.objects.get().exchange_order_id == "child-7"
        assert OrderIntent.objects.get().home == Home.DONE


def _unnamed(fill: Fill) -> Fill:
    """A fill as an exchange reports it that does not say which order it is of."""
    return Fill(fill.trade_id, fill.price, fill.quantity, fill.executed_at)
