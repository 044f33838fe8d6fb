from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from pytest_django import DjangoCaptureOnCommitCallbacks

from exchanges.adapters import exceptions as errors
from exchanges.adapters.exceptions import ErrorType, ExchangeError
from exchanges.adapters.types import OrderReport
from orders import events
from orders.models import (
    CancelReason,
    DeliveryState,
    EventSource,
    EventType,
    FailedOrder,
    FailedStatus,
    Home,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    PendingOrder,
    Placement,
    PlacementOutcome,
    StrategyAccount,
    StrategyPosition,
    Trade,
    TradeExecution,
)
from orders.services.applied import FORGOTTEN, Applied, NeverPlaced, Outcome
from orders.services.failures import TRIGGERED_MEANWHILE
from orders.services.settlement import _settle, apply_reports, never_placed, outcomes_apply
from orders.states import OrderStatus
from orders.tests.factories import (
    FUTURES,
    NOON,
    Queries,
    cost_on_postgresql,
    events_of,
    make_account,
    make_delivery,
    make_fill,
    make_follower,
    make_placement,
    make_placements,
    make_report,
    open_order,
)

pytestmark = pytest.mark.django_db

LATER = NOON + timedelta(seconds=5)
ONE = Decimal(1)


@pytest.fixture
def follower() -> StrategyAccount:
    return make_follower()


def settle(
    placement: Placement,
    *results: OrderReport | ExchangeError | NeverPlaced,
    source: str = EventSource.STREAM,
) -> Applied:
    """Apply outcomes of one placement, all in one transaction, and read the placement again."""
    outcomes = [Outcome(placement.pk, result) for result in results]
    applied = outcomes_apply(outcomes, source=source, now=LATER)
    placement.refresh_from_db()
    return applied


def resting(follower: StrategyAccount, **fields: Any) -> Placement:
    placement = make_placement(follower, **fields)
    settle(placement, make_report(placement, "NEW", filled=0), source=EventSource.ANSWER)
    return placement


def canceling(follower: StrategyAccount, reason: str = CancelReason.REQUESTED, **fields: Any) -> Placement:
    placement = resting(follower, **fields)
    OrderIntent.objects.filter(pk=placement.intent_id).update(
        cancel_requested=reason == CancelReason.REQUESTED
    )
    OpenOrder.objects.filter(pk=placement.intent_id).update(
        status=OrderStatus.CANCELING, cancel_reason=reason, ask_at=LATER
    )
    placement.refresh_from_db()
    return placement


def intent_of(placement: Placement) -> OrderIntent:
    return OrderIntent.objects.get(pk=placement.intent_id)


def status_of(placement: Placement) -> str | None:
    order = open_order(placement)
    return order.status if order else None


def position_of(placement: Placement) -> tuple[Decimal, Decimal | None, Decimal]:
    row = StrategyPosition.objects.get(
        strategy_account=placement.intent.strategy_account, symbol=placement.intent.symbol
    )
    return row.quantity, row.average_price, row.realized_pnl


class TestStopThatIsMovedBack:
    """Its end was told, but not whether it had triggered by then."""

    STOP: dict[str, Any] = {"order_type": "STOP_LIMIT", "stop_price": Decimal(1), "is_queued": True}

    @pytest.fixture
    def placement(self, follower: StrategyAccount) -> Placement:
        placement = canceling(follower, CancelReason.MOVE_BACK, **self.STOP)
        OpenOrder.objects.update(updated_at=LATER)
        settle(placement, make_report(placement, "CANCELED", filled=0, triggered=None))
        return placement

    def test_is_asked_about_until_the_answer_knows_of_the_end(self, placement: Placement) -> None:
        lagging = make_report(placement, "NEW", filled=0, triggered=False)
        settle(placement, lagging, source=EventSource.RESOLVER)

        found = open_order(placement)
        assert found is not None
        assert found.ask_at is not None
        assert (found.status, found.ask_at > LATER) == (OrderStatus.CANCELING, True)
        assert not PendingOrder.objects.exists()

        told = make_report(placement, "CANCELED", filled=0, triggered=True, child_order_id="c1")
        settle(placement, told, source=EventSource.RESOLVER)

        assert FailedOrder.objects.get().reason == TRIGGERED_MEANWHILE
        assert not PendingOrder.objects.exists()

    def test_waits_again_when_it_had_not_triggered(self, placement: Placement) -> None:
        settle(
            placement,
            make_report(placement, "CANCELED", filled=0, triggered=False),
            source=EventSource.RESOLVER,
        )

        assert PendingOrder.objects.get().intent_id == placement.intent_id

    def test_lives_on_when_the_answer_says_so_a_minute_later(self, placement: Placement) -> None:
        OpenOrder.objects.update(updated_at=LATER - timedelta(minutes=2))

        alive = make_report(placement, "NEW", filled=0, triggered=False)
        settle(placement, alive, source=EventSource.RESOLVER)

        assert (status_of(placement), placement.exchange_status) == (OrderStatus.NEW, "NEW")
        assert not PendingOrder.objects.exists()

    def test_is_no_excuse_for_an_end_long_after_it_was_found_alive(self, follower: StrategyAccount) -> None:
        placement = canceling(follower, CancelReason.MOVE_BACK, **self.STOP)
        settle(placement, make_report(placement, "NEW", filled=0), source=EventSource.RESOLVER)
        OpenOrder.objects.update(updated_at=LATER - timedelta(days=3))

        settle(placement, make_report(placement, "NEW", triggered=True, child_order_id="c1"))
        words = make_report(
            placement, "EXPIRED", filled=0, triggered=True, child_order_id="c1", reason="margin"
        )
        settle(placement, words)

        failed = FailedOrder.objects.get()
        assert (failed.reason, failed.exchange_error) == ("Expired on the exchange", "margin")


class TestAccepted:
    def test_rests_under_the_id_that_the_exchange_gave(self, follower: StrategyAccount) -> None:
        placement = make_placement(follower)

        applied = settle(placement, make_report(placement, "NEW", filled=0), source=EventSource.ANSWER)

        order = OpenOrder.objects.get()
        assert (order.status, order.ask_at, order.updated_at) == (OrderStatus.NEW, None, LATER)
        assert (placement.outcome, placement.exchange_order_id) == (
            PlacementOutcome.PLACED,
            f"x{placement.pk}",
        )
        assert (intent_of(placement).home, intent_of(placement).filled_quantity) == (Home.EXCHANGE, 0)
        event = OrderEvent.objects.get()
        assert (event.type, event.source, event.before, event.after) == (
            EventType.ACCEPTED,
            EventSource.ANSWER,
            OrderStatus.SUBMITTING,
            OrderStatus.NEW,
        )
        assert (event.user_id, event.account_id, event.intent_id) == (
            follower.strategy.user_id,
            follower.account_id,
            placement.intent_id,
        )
        assert (applied.failed, applied.gaps, applied.freed_books) == ({}, [], set())
        assert not TradeExecution.objects.exists()
        assert not FailedOrder.objects.exists()

    def test_is_new_when_the_answer_only_acknowledges(self, follower: StrategyAccount) -> None:
        placement = make_placement(follower)

        settle(placement, make_report(placement, "NEW", is_acknowledgement=True))

        assert status_of(placement) == OrderStatus.NEW

    def test_twice_is_once(self, follower: StrategyAccount) -> None:
        placement = resting(follower)

        settle(placement, make_report(placement, "NEW", filled=0))

        assert events_of(placement) == ["ACCEPTED"]

    def test_and_rejected_after_all_is_a_failed_order(self, follower: StrategyAccount) -> None:
        placement = resting(follower)

        applied = settle(placement, make_report(placement, "REJECTED", filled=0, reason="post only"))

        failed = FailedOrder.objects.get()
        assert (failed.status, failed.exchange_error, failed.quantity) == (
            FailedStatus.REJECTED,
            "post only",
            ONE,
        )
        assert applied.failed == {placement.intent_id: failed}
        assert (open_order(placement), intent_of(placement).home) == (None, Home.FAILED)
        assert events_of(placement) == ["ACCEPTED", "REJECTED"]

    def test_and_triggered_says_so_and_keeps_both_ids(self, follower: StrategyAccount) -> None:
        placement = resting(follower, order_type="STOP_MARKET", price=None, stop_price=Decimal(1))

        settle(placement, make_report(placement, "NEW", filled=0, triggered=True, child_order_id="c1"))

        assert (placement.exchange_order_id, placement.child_order_id) == (f"x{placement.pk}", "c1")
        assert events_of(placement) == ["ACCEPTED", "TRIGGERED"]
        assert status_of(placement) == OrderStatus.NEW


REFUSALS = [
    (
        errors.InsufficientFunds("Account has insufficient balance"),
        "insufficient_balance",
        "Insufficient balance",
    ),
    (errors.InvalidOrder("Filter failure: LOT_SIZE"), "unknown", "The exchange refused the order"),
    (errors.InvalidSymbol("no such"), "invalid_symbol", "The exchange does not know this symbol"),
    (
        errors.AuthenticationFailed("Invalid API-key"),
        "authentication",
        "The exchange refused the account's credentials",
    ),
    (
        errors.InvalidOrderQuantity("below"),
        "invalid_quantity",
        "Quantity or price does not fit the exchange's rules",
    ),
    (errors.RateLimited("Too many requests"), "rate_limit", "The exchange's rate limit is reached"),
    (errors.ExchangeBusy("busy"), "network_error", "The exchange could not be reached"),
    (errors.TooManyOpenOrders("MAX_NUM_ORDERS"), "limit_exceeded", "A limit of the exchange is reached"),
    (errors.CircuitOpen("paused"), "network_error", "The exchange could not be reached"),
    (errors.UnsupportedOrder("no stops here"), "unknown", "The exchange refused the order"),
    (errors.NotSent("Execution timeout (5s)"), "timeout", "Execution timeout (5s)"),
]


class TestRefused:
    @pytest.mark.parametrize(("error", "error_type", "reason"), REFUSALS)
    def test_is_a_failed_order_of_which_nothing_exists(
        self, follower: StrategyAccount, error: ExchangeError, error_type: str, reason: str
    ) -> None:
        placement = make_placement(follower, stop_price=Decimal("89000.5"), reduce_only=True)

        applied = settle(placement, error, source=EventSource.ANSWER)

        failed = FailedOrder.objects.get()
        assert (failed.error_type, failed.reason, failed.exchange_error) == (
            error_type,
            reason,
            error.message,
        )
        assert (failed.status, failed.quantity) == (FailedStatus.PENDING_RETRY, ONE)
        assert (failed.uid, failed.webhook_id) == (
            placement.intent.uid,
            placement.intent.delivery.webhook_id,
        )
        assert failed.order_params == {
            "symbol": "BTC/USDT", "market_type": FUTURES, "side": "BUY", "order_type": "LIMIT",
            "reduce_only": True, "quantity": "1", "price": "90000", "stop_price": "89000.5",
        }  # fmt: skip
        assert placement.outcome == PlacementOutcome.NEVER_PLACED
        assert (open_order(placement), intent_of(placement).home) == (None, Home.FAILED)
        assert events_of(placement) == ["REJECTED"]
        assert applied.freed_books == {placement.intent.book_id}
        assert not TradeExecution.objects.exists()

    def test_alerts_after_the_commit(
        self, follower: StrategyAccount, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        heard: list[events.OrderFailed] = []
        monkeypatch.setitem(events._listeners, events.OrderFailed, [heard.append])
        placement = make_placement(follower)

        with django_capture_on_commit_callbacks() as callbacks:
            settle(placement, errors.InsufficientFunds("no money"))
        assert heard == []
        for callback in callbacks:
            callback()

        assert heard == [
            events.OrderFailed(FailedOrder.objects.get().pk, placement.intent.delivery.webhook_id)
        ]

    def test_is_simply_canceled_when_its_cancel_was_asked_for(self, follower: StrategyAccount) -> None:
        placement = make_placement(follower, cancel_requested=True)

        settle(placement, errors.InsufficientFunds("no money"))

        assert (open_order(placement), intent_of(placement).home) == (None, Home.DONE)
        assert not FailedOrder.objects.exists()
        assert events_of(placement) == ["CANCELED"]

    @pytest.mark.parametrize("error", [errors.NotSent("late"), errors.OutcomeUnknown("lost")])
    def test_changes_nothing_once_the_order_is_known_to_exist(
        self, follower: StrategyAccount, error: ExchangeError
    ) -> None:
        placement = resting(follower)

        settle(placement, error)

        assert (status_of(placement), placement.outcome) == (OrderStatus.NEW, PlacementOutcome.PLACED)
        assert events_of(placement) == ["ACCEPTED"]
        assert not FailedOrder.objects.exists()

    def test_leaves_25_good_beside_5_bad(self, follower: StrategyAccount) -> None:
        placements = make_placements(follower, [{}] * 30)
        bad = placements[::6]
        outcomes = [
            Outcome(one.pk, errors.InsufficientFunds("no money"))
            if one in bad
            else Outcome(one.pk, make_report(one, "NEW", filled=0))
            for one in placements
        ]

        applied = outcomes_apply(outcomes, source=EventSource.ANSWER, now=LATER)

        assert OpenOrder.objects.filter(status=OrderStatus.NEW).count() == 25
        assert set(FailedOrder.objects.values_list("intent_id", flat=True)) == {one.intent_id for one in bad}
        assert set(applied.failed) == {one.intent_id for one in bad}


class TestUnknown:
    @pytest.mark.parametrize(
        "error",
        [errors.OutcomeUnknown("read timed out"), errors.DuplicateClientOrderId("Duplicate order sent.")],
    )
    def test_stays_submitting_and_is_asked_about_soon(
        self, follower: StrategyAccount, error: ExchangeError
    ) -> None:
        placement = make_placement(follower)

        applied = settle(placement, error, source=EventSource.ANSWER)

        order = OpenOrder.objects.get()
        assert (order.status, order.ask_at) == (OrderStatus.SUBMITTING, LATER + timedelta(seconds=1))
        assert placement.outcome == PlacementOutcome.UNRESOLVED
        assert (applied.failed, applied.freed_books) == ({}, set())
        assert events_of(placement) == ["UNKNOWN"]
        assert not FailedOrder.objects.exists()

    def test_is_adopted_when_the_order_is_heard_of(self, follower: StrategyAccount) -> None:
        placement = make_placement(follower)
        settle(placement, errors.OutcomeUnknown("read timed out"))

        settle(placement, make_report(placement, "NEW", filled=0))

        order = OpenOrder.objects.get()
        assert (order.status, order.ask_at) == (OrderStatus.NEW, None)
        assert events_of(placement) == ["UNKNOWN", "ACCEPTED"]

    def test_is_canceled_as_soon_as_it_is_heard_of_when_that_was_asked_for(
        self, follower: StrategyAccount
    ) -> None:
        placement = make_placement(follower, cancel_requested=True)

        applied = settle(placement, make_report(placement, "NEW", filled=0))

        assert applied.to_cancel == [placement.intent_id]
        assert status_of(placement) == OrderStatus.NEW


class TestFilled:
    def test_at_once_is_done_with_a_trade_and_a_position(self, follower: StrategyAccount) -> None:
        placement = make_placement(follower, order_type="MARKET", price=None, side="SELL")
        fills = (
            make_fill("0.4", 90_000, trade_id="7", fee=Decimal("0.1"), fee_asset="USDT", seconds=1),
            make_fill("0.6", 90_010, trade_id="8", fee=Decimal("0.2"), fee_asset="BNB", seconds=1),
        )

        applied = settle(
            placement, make_report(placement, "FILLED", *fills, filled=1), source=EventSource.ANSWER
        )

        intent = intent_of(placement)
        assert (open_order(placement), intent.home, intent.filled_quantity) == (None, Home.DONE, ONE)
        trade = Trade.objects.get()
        assert (trade.quantity, trade.notional, trade.average_price, trade.side) == (
            ONE, Decimal(90_006), Decimal(90_006), "SELL",
        )  # fmt: skip
        assert trade.fees == {"USDT": "0.1", "BNB": "0.2"}
        assert position_of(placement) == (Decimal(-1), Decimal(90_006), Decimal(0))
        assert list(TradeExecution.objects.order_by("pk").values_list("trade_id", "position_quantity")) == [
            ("7", Decimal("-0.4")),
            ("8", Decimal(-1)),
        ]
        assert events_of(placement) == ["FILLED"]
        assert applied.freed_books == {intent.book_id}
        assert not FailedOrder.objects.exists()

    def test_in_two_parts_is_one_trade_of_two_executions(self, follower: StrategyAccount) -> None:
        placement = resting(follower)

        settle(
            placement,
            make_report(placement, "PARTIALLY_FILLED", make_fill("0.4", trade_id="1"), filled="0.4"),
        )
        assert status_of(placement) == OrderStatus.PARTIALLY_FILLED
        assert position_of(placement) == (Decimal("0.4"), Decimal(90_000), Decimal(0))
        settle(
            placement,
            make_report(placement, "FILLED", make_fill("0.6", 90_100, trade_id="2", seconds=1), filled=1),
        )

        assert (status_of(placement), intent_of(placement).home) == (None, Home.DONE)
        assert Trade.objects.get().average_price == Decimal(90_060)
        assert TradeExecution.objects.count() == 2
        assert position_of(placement) == (ONE, Decimal(90_060), Decimal(0))
        assert events_of(placement) == ["ACCEPTED", "PARTIALLY_FILLED", "FILLED"]

    def test_tells_that_it_is_filled_once(
        self, follower: StrategyAccount, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        heard: list[events.OrderFilled] = []
        monkeypatch.setitem(events._listeners, events.OrderFilled, [heard.append])
        placement = resting(follower)
        done = make_report(placement, "FILLED", make_fill(1, trade_id="1"), filled=1)

        with django_capture_on_commit_callbacks(execute=True):
            settle(placement, done, done)
            settle(placement, done)

        assert heard == [events.OrderFilled(placement.intent_id)]

    def test_counts_a_fill_once_whatever_order_id_it_comes_under(self, follower: StrategyAccount) -> None:
        placement = resting(follower, order_type="STOP_MARKET", price=None, stop_price=Decimal(1))
        fill = make_fill("0.4", trade_id="1", exchange_order_id="child")

        settle(
            placement, make_report(placement, "PARTIALLY_FILLED", fill, filled="0.4", child_order_id="child")
        )
        settle(
            placement,
            make_report(placement, "PARTIALLY_FILLED", make_fill("0.4", trade_id="1"), filled="0.4"),
        )

        assert TradeExecution.objects.get().exchange_order_id == "child"
        assert intent_of(placement).filled_quantity == Decimal("0.4")

    def test_is_judged_by_quantities_as_well_as_by_the_word(self, follower: StrategyAccount) -> None:
        placement = resting(follower)

        settle(placement, make_report(placement, "CANCELED", make_fill(1), filled=1))

        assert (status_of(placement), intent_of(placement).home) == (None, Home.DONE)
        assert not FailedOrder.objects.exists()

    def test_without_a_quantity_means_all_of_it_and_waits_for_the_fills(
        self, follower: StrategyAccount
    ) -> None:
        placement = resting(follower)

        applied = settle(placement, make_report(placement, "FILLED"))

        assert applied.gaps == [placement.pk]
        assert (status_of(placement), intent_of(placement).home) == (OrderStatus.NEW, Home.EXCHANGE)

    def test_of_more_than_was_asked_for_counts_and_is_loud(
        self, follower: StrategyAccount, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Somebody made it larger over there."""
        placement = resting(follower)

        settle(placement, make_report(placement, "FILLED", make_fill(3, trade_id="7"), filled=3))
        settle(placement, make_report(placement, "FILLED", make_fill(3, trade_id="7"), filled=3))

        assert (position_of(placement)[0], intent_of(placement).home) == (Decimal(3), Home.DONE)
        assert events_of(placement).count("IMPOSSIBLE_REPORT") == 1
        assert "More of" in caplog.text

    def test_counts_two_orders_that_met_each_other(self, follower: StrategyAccount) -> None:
        buy, sell = make_placements(follower, [{"side": "BUY"}, {"side": "SELL"}])

        for placement in (buy, sell):
            settle(placement, make_report(placement, "FILLED", make_fill(1, trade_id="5"), filled=1))

        assert TradeExecution.objects.count() == 2
        assert position_of(buy) == (Decimal(0), None, Decimal(0))

    def test_ends_an_order_that_was_being_canceled(self, follower: StrategyAccount) -> None:
        placement = canceling(follower)

        settle(placement, make_report(placement, "FILLED", make_fill(1), filled=1))

        assert (status_of(placement), intent_of(placement).home) == (None, Home.DONE)
        assert events_of(placement)[-1] == "FILLED"


class TestGap:
    def test_is_told_and_nothing_is_invented(self, follower: StrategyAccount) -> None:
        placement = resting(follower)

        applied = settle(placement, make_report(placement, "PARTIALLY_FILLED", filled="0.4"))

        assert applied.gaps == [placement.pk]
        assert status_of(placement) == OrderStatus.PARTIALLY_FILLED
        assert (placement.exchange_filled_quantity, placement.filled_quantity) == (Decimal("0.4"), Decimal(0))
        assert not TradeExecution.objects.exists()

    def test_keeps_an_ended_order_until_all_its_fills_are_booked(self, follower: StrategyAccount) -> None:
        placement = resting(follower)

        settle(placement, make_report(placement, "FILLED", make_fill("0.6", trade_id="2"), filled=1))
        order = OpenOrder.objects.get()
        assert (order.status, order.ask_at) == (OrderStatus.NEW, LATER + timedelta(seconds=1))
        assert intent_of(placement).home == Home.EXCHANGE
        applied = settle(
            placement,
            make_report(placement, "PARTIALLY_FILLED", make_fill("0.4", trade_id="1"), filled="0.4"),
        )

        assert (status_of(placement), intent_of(placement).home, applied.gaps) == (None, Home.DONE, [])
        assert Trade.objects.get().quantity == ONE
        assert events_of(placement)[-1] == "FILLED"

    @pytest.mark.parametrize("source", [EventSource.RECONCILIATION, EventSource.RESOLVER])
    @pytest.mark.parametrize("really", ["0", "0.4"])
    def test_of_which_the_exchange_knows_nothing_ends_with_the_order(
        self, follower: StrategyAccount, source: str, really: str
    ) -> None:
        """A message counted what was never traded; what is answered of an ended order is final."""
        placement = resting(follower)
        fills = [make_fill(really)] if Decimal(really) else []

        settle(placement, make_report(placement, "NEW", filled=5))
        assert status_of(placement) is not None
        settle(placement, make_report(placement, "CANCELED", *fills, filled=really))
        assert status_of(placement) is not None  # a message again: it may be old
        applied = settle(placement, make_report(placement, "CANCELED", *fills, filled=really), source=source)

        assert (status_of(placement), intent_of(placement).home, applied.gaps) == (None, Home.FAILED, [])
        assert intent_of(placement).filled_quantity == Decimal(really)
        assert FailedOrder.objects.get().quantity == ONE - Decimal(really)

    def test_stays_where_the_end_is_only_concluded(self, follower: StrategyAccount) -> None:
        """The exchange has forgotten the order, not what was traded."""
        placement = resting(follower)
        settle(placement, make_report(placement, "PARTIALLY_FILLED", filled="0.4"))

        forgotten = replace(make_report(placement, "CANCELED", filled=0), reason=FORGOTTEN)
        applied = settle(placement, forgotten, source=EventSource.RECONCILIATION)

        assert (applied.gaps, status_of(placement)) == ([placement.pk], OrderStatus.PARTIALLY_FILLED)

    def test_that_is_closed_within_the_same_transaction_is_none(self, follower: StrategyAccount) -> None:
        placement = resting(follower)

        applied = settle(
            placement,
            make_report(placement, "FILLED", make_fill("0.6", trade_id="2"), filled=1),
            make_report(placement, "PARTIALLY_FILLED", make_fill("0.4", trade_id="1"), filled="0.4"),
        )

        assert (applied.gaps, status_of(placement), intent_of(placement).home) == ([], None, Home.DONE)

    def test_of_an_unanswered_order_makes_it_known(self, follower: StrategyAccount) -> None:
        placement = make_placement(follower)

        settle(placement, make_report(placement, "CANCELED", filled="0.4"))

        assert (status_of(placement), placement.outcome) == (OrderStatus.NEW, PlacementOutcome.PLACED)
        assert not FailedOrder.objects.exists()

    def test_keeps_a_canceling_order_canceling(self, follower: StrategyAccount) -> None:
        placement = canceling(follower)

        settle(placement, make_report(placement, "CANCELED", filled="0.4"))

        assert status_of(placement) == OrderStatus.CANCELING


class TestEndedThere:
    @pytest.mark.parametrize(
        ("status", "failed_as", "reason"),
        [
            ("CANCELED", FailedStatus.CANCELED, "Canceled on the exchange, not by us"),
            ("EXPIRED", FailedStatus.EXPIRED, "Expired on the exchange"),
            ("REJECTED", FailedStatus.REJECTED, "Rejected by the exchange"),
        ],
    )
    def test_without_being_asked_is_a_failed_order_for_the_unfilled_remainder(
        self, follower: StrategyAccount, status: str, failed_as: str, reason: str
    ) -> None:
        placement = resting(follower)
        settle(placement, make_report(placement, "PARTIALLY_FILLED", make_fill("0.4"), filled="0.4"))

        settle(placement, make_report(placement, status, filled="0.4", reason="its words"))

        failed = FailedOrder.objects.get()
        assert (failed.status, failed.reason, failed.exchange_error) == (failed_as, reason, "its words")
        assert (failed.quantity, failed.order_params["quantity"]) == (Decimal("0.6"), "0.6")
        assert Trade.objects.get().quantity == Decimal("0.4")
        assert (status_of(placement), intent_of(placement).home) == (None, Home.FAILED)
        assert events_of(placement) == ["ACCEPTED", "PARTIALLY_FILLED", status]

    def test_by_refusing_it_in_the_answer_never_existed(self, follower: StrategyAccount) -> None:
        placement = make_placement(follower)

        settle(placement, make_report(placement, "REJECTED", filled=0), source=EventSource.ANSWER)

        assert placement.outcome == PlacementOutcome.NEVER_PLACED
        assert FailedOrder.objects.get().status == FailedStatus.REJECTED

    def test_leaves_no_failed_order_of_a_market_order_with_any_fill(self, follower: StrategyAccount) -> None:
        placement = make_placement(follower, order_type="MARKET", price=None)

        settle(placement, make_report(placement, "EXPIRED", make_fill("0.1"), filled="0.1"))

        assert (status_of(placement), intent_of(placement).home) == (None, Home.DONE)
        assert Trade.objects.get().quantity == Decimal("0.1")
        assert not FailedOrder.objects.exists()

    def test_leaves_one_of_a_market_order_without(self, follower: StrategyAccount) -> None:
        placement = make_placement(follower, order_type="MARKET", price=None)

        settle(placement, make_report(placement, "EXPIRED", filled=0))

        assert FailedOrder.objects.get().status == FailedStatus.EXPIRED
        assert intent_of(placement).home == Home.FAILED

    @pytest.mark.parametrize("make", [make_placement, resting, canceling])
    def test_as_asked_leaves_none_from_whatever_state(
        self, follower: StrategyAccount, make: Callable[..., Placement]
    ) -> None:
        placement = make(follower)
        OrderIntent.objects.filter(pk=placement.intent_id).update(cancel_requested=True)

        settle(placement, make_report(placement, "CANCELED", make_fill("0.4"), filled="0.4"))

        assert (status_of(placement), intent_of(placement).home) == (None, Home.DONE)
        assert not FailedOrder.objects.exists()
        assert Trade.objects.get().quantity == Decimal("0.4")
        assert events_of(placement)[-1] == "CANCELED"


class TestCanceling:
    @pytest.mark.parametrize("source", [EventSource.STREAM, EventSource.ANSWER])
    def test_ignores_an_old_message_that_it_lives(self, follower: StrategyAccount, source: str) -> None:
        placement = canceling(follower)

        applied = settle(placement, make_report(placement, "NEW", filled=0), source=source)

        order = OpenOrder.objects.get()
        assert (order.status, order.ask_at, applied.to_cancel) == (OrderStatus.CANCELING, LATER, [])
        assert events_of(placement) == ["ACCEPTED"]

    def test_counts_a_fill_that_the_cancel_raced(self, follower: StrategyAccount) -> None:
        placement = canceling(follower)

        settle(placement, make_report(placement, "PARTIALLY_FILLED", make_fill("0.4"), filled="0.4"))

        assert status_of(placement) == OrderStatus.CANCELING
        assert position_of(placement)[0] == Decimal("0.4")

    @pytest.mark.parametrize("source", [EventSource.RESOLVER, EventSource.RECONCILIATION])
    def test_is_canceled_again_when_it_is_found_alive(self, follower: StrategyAccount, source: str) -> None:
        placement = canceling(follower)

        applied = settle(placement, make_report(placement, "NEW", filled=0), source=source)

        assert applied.to_cancel == [placement.intent_id]
        assert status_of(placement) == OrderStatus.CANCELING

    def test_to_be_moved_back_is_simply_alive_again(self, follower: StrategyAccount) -> None:
        placement = canceling(follower, CancelReason.MOVE_BACK)

        applied = settle(placement, make_report(placement, "NEW", filled=0), source=EventSource.RESOLVER)

        assert (status_of(placement), applied.to_cancel) == (OrderStatus.NEW, [])
        assert events_of(placement)[-1] == "LIVE_AGAIN"


class TestLateFill:
    def failed(self, follower: StrategyAccount) -> Placement:
        placement = resting(follower)
        settle(placement, make_report(placement, "CANCELED", filled=0))
        return placement

    def test_is_booked_and_shrinks_the_failed_order(self, follower: StrategyAccount) -> None:
        placement = self.failed(follower)

        settle(placement, make_report(placement, "CANCELED", make_fill("0.4"), filled="0.4"))

        failed = FailedOrder.objects.get()
        assert (failed.quantity, failed.order_params["quantity"]) == (Decimal("0.6"), "0.6")
        assert position_of(placement)[0] == Decimal("0.4")
        assert (intent_of(placement).home, status_of(placement)) == (Home.FAILED, None)
        assert events_of(placement)[-1] == "LATE_FILL"

    def test_of_all_that_was_left_heals_it(self, follower: StrategyAccount) -> None:
        placement = self.failed(follower)

        settle(placement, make_report(placement, "CANCELED", make_fill(1), filled=1))

        assert not FailedOrder.objects.exists()
        assert (intent_of(placement).home, intent_of(placement).filled_quantity) == (Home.DONE, ONE)

    def test_heard_in_the_transaction_of_the_end_leaves_one_failed_order_of_the_rest(
        self, follower: StrategyAccount
    ) -> None:
        placement = resting(follower)

        applied = settle(
            placement,
            make_report(placement, "CANCELED", filled=0),
            make_report(placement, "CANCELED", make_fill("0.4"), filled="0.4"),
        )

        failed = FailedOrder.objects.get()
        assert (failed.quantity, failed.order_params["quantity"]) == (Decimal("0.6"), "0.6")
        assert applied.failed == {placement.intent_id: failed}

    def test_of_everything_heard_in_the_transaction_of_the_end_leaves_none(
        self, follower: StrategyAccount
    ) -> None:
        placement = resting(follower)

        applied = settle(
            placement,
            make_report(placement, "CANCELED", filled=0),
            make_report(placement, "CANCELED", make_fill(1), filled=1),
        )

        assert (FailedOrder.objects.count(), applied.failed) == (0, {})
        assert (intent_of(placement).home, intent_of(placement).filled_quantity) == (Home.DONE, ONE)

    def test_of_what_was_never_placed_as_we_thought_counts_as_well(self, follower: StrategyAccount) -> None:
        placement = make_placement(follower)
        settle(placement, NeverPlaced("absent"), source=EventSource.RESOLVER)

        settle(placement, make_report(placement, "FILLED", make_fill(1), filled=1))

        assert (placement.outcome, intent_of(placement).home) == (PlacementOutcome.PLACED, Home.DONE)
        assert not FailedOrder.objects.exists()
        assert position_of(placement)[0] == ONE

    def test_in_part_of_what_was_never_placed_as_we_thought_asks_for_the_rest(
        self, follower: StrategyAccount
    ) -> None:
        placement = make_placement(follower)
        settle(placement, NeverPlaced("absent"), source=EventSource.RESOLVER)

        part = make_report(placement, "PARTIALLY_FILLED", make_fill("0.4"), filled="0.4")
        applied = settle(placement, part)

        assert applied.doubted == [placement.pk]  # whoever follows the account asks at once

    def test_of_a_canceled_order_only_counts(self, follower: StrategyAccount) -> None:
        placement = canceling(follower)
        settle(placement, make_report(placement, "CANCELED", filled=0))

        settle(placement, make_report(placement, "CANCELED", make_fill("0.4"), filled="0.4"))

        assert (intent_of(placement).home, position_of(placement)[0]) == (Home.DONE, Decimal("0.4"))
        assert not FailedOrder.objects.exists()

    def test_that_is_only_counted_there_is_a_gap(self, follower: StrategyAccount) -> None:
        placement = self.failed(follower)

        applied = settle(placement, make_report(placement, "CANCELED", filled="0.4"))

        assert applied.gaps == [placement.pk]
        assert FailedOrder.objects.get().quantity == ONE


class TestImpossible:
    @pytest.mark.parametrize(
        ("ended", "then"),
        [("CANCELED", "EXPIRED"), ("EXPIRED", "CANCELED"), ("CANCELED", "REJECTED")],
    )
    def test_end_after_the_end_is_loud_and_changes_nothing(
        self, follower: StrategyAccount, caplog: pytest.LogCaptureFixture, ended: str, then: str
    ) -> None:
        placement = resting(follower)
        settle(placement, make_report(placement, ended, filled=0))
        before = FailedOrder.objects.values().get(), intent_of(placement).home, placement.exchange_status

        with caplog.at_level(logging.ERROR):
            settle(placement, make_report(placement, then, filled=0, raw={"X": then}))

        after = FailedOrder.objects.values().get(), intent_of(placement).home, placement.exchange_status
        assert before == after
        assert f"Report {then} for {placement.client_order_id}" in caplog.text
        event = OrderEvent.objects.order_by("-pk")[0]
        assert (event.type, event.before, event.after) == (EventType.IMPOSSIBLE_REPORT, ended, then)
        assert event.data["raw"] == {"X": then}

    @pytest.mark.parametrize("status", ["NEW", "PARTIALLY_FILLED"])
    def test_life_after_the_end_is_an_old_message(self, follower: StrategyAccount, status: str) -> None:
        placement = resting(follower)
        settle(placement, make_report(placement, "CANCELED", filled=0))

        settle(placement, make_report(placement, status, filled=0))

        assert (status_of(placement), intent_of(placement).home) == (None, Home.FAILED)
        assert events_of(placement) == ["ACCEPTED", "CANCELED"]

    def test_life_after_never_having_been_placed_is_loud_and_changes_nothing(
        self, follower: StrategyAccount
    ) -> None:
        placement = make_placement(follower)
        settle(placement, errors.InsufficientFunds("no money"))

        applied = settle(placement, make_report(placement, "NEW", filled=0), source=EventSource.STREAM)

        assert applied.doubted == [placement.pk]  # whoever follows the account asks
        assert (status_of(placement), intent_of(placement).home) == (None, Home.FAILED)
        assert FailedOrder.objects.count() == 1
        assert events_of(placement)[-1] == "IMPOSSIBLE_REPORT"

    def test_the_same_end_twice_is_silent(self, follower: StrategyAccount) -> None:
        placement = resting(follower)
        for _ in range(3):
            settle(placement, make_report(placement, "CANCELED", filled=0))

        assert events_of(placement) == ["ACCEPTED", "CANCELED"]
        assert FailedOrder.objects.count() == 1


class TestAdoption:
    def dead(self, follower: StrategyAccount, **fields: Any) -> Placement:
        placement = make_placement(follower, **fields)
        settle(placement, NeverPlaced("absent"), source=EventSource.RESOLVER)
        return placement

    @pytest.mark.parametrize("source", [EventSource.RECONCILIATION, EventSource.RESOLVER])
    def test_brings_back_what_the_exchange_has_alive(self, follower: StrategyAccount, source: str) -> None:
        placement = self.dead(follower)

        applied = settle(placement, make_report(placement, "NEW", filled=0), source=source)

        assert (status_of(placement), placement.outcome) == (OrderStatus.NEW, PlacementOutcome.PLACED)
        assert intent_of(placement).home == Home.EXCHANGE
        assert not FailedOrder.objects.exists()
        assert events_of(placement)[-1] == "LIVE_AGAIN"
        assert applied.to_cancel == []

    def test_of_what_was_given_up_in_the_same_moment(self, follower: StrategyAccount) -> None:
        placement = make_placement(follower)

        alive = make_report(placement, "NEW", filled=0)
        settle(placement, NeverPlaced("absent"), alive, source=EventSource.RESOLVER)

        assert (status_of(placement), placement.outcome) == (OrderStatus.NEW, PlacementOutcome.PLACED)
        assert intent_of(placement).home == Home.EXCHANGE
        assert not FailedOrder.objects.exists()

    def test_cancels_what_was_to_be_canceled(self, follower: StrategyAccount) -> None:
        placement = self.dead(follower, cancel_requested=True)

        applied = settle(
            placement, make_report(placement, "NEW", filled=0), source=EventSource.RECONCILIATION
        )

        assert applied.to_cancel == [placement.intent_id]
        assert status_of(placement) == OrderStatus.NEW

    def test_brings_back_what_the_exchange_had_only_seemed_to_forget(self, follower: StrategyAccount) -> None:
        placement = resting(follower)
        gone = make_report(placement, "CANCELED", filled=0, reason=FORGOTTEN)
        settle(placement, gone, source=EventSource.RECONCILIATION)
        assert FailedOrder.objects.exists()
        alive = make_report(placement, "NEW", filled=0)

        settle(placement, alive, source=EventSource.STREAM)
        assert FailedOrder.objects.exists()  # a message may be old
        settle(placement, alive, source=EventSource.RECONCILIATION)
        settle(placement, alive, source=EventSource.STREAM)

        assert status_of(placement) == OrderStatus.NEW
        assert intent_of(placement).home == Home.EXCHANGE
        assert not FailedOrder.objects.exists()

    def test_does_not_believe_life_after_an_end_that_the_exchange_told(
        self, follower: StrategyAccount
    ) -> None:
        placement = resting(follower)
        settle(placement, make_report(placement, "CANCELED", filled=0))

        settle(placement, make_report(placement, "NEW", filled=0), source=EventSource.RECONCILIATION)

        assert (status_of(placement), intent_of(placement).home) == (None, Home.FAILED)

    def test_believes_a_life_that_goes_on_long_after_the_end(
        self, follower: StrategyAccount, caplog: pytest.LogCaptureFixture
    ) -> None:
        """No answer is that old: what a message told was wrong."""
        placement = resting(follower)
        settle(placement, make_report(placement, "CANCELED", filled=0))
        OrderIntent.objects.update(updated_at=LATER - timedelta(minutes=2))
        alive = make_report(placement, "NEW", filled=0)

        settle(placement, alive)
        assert status_of(placement) is None  # a message may be as old as the end
        settle(placement, alive, source=EventSource.RECONCILIATION)

        assert (status_of(placement), intent_of(placement).home) == (OrderStatus.NEW, Home.EXCHANGE)
        assert events_of(placement)[-2:] == ["IMPOSSIBLE_REPORT", "LIVE_AGAIN"]
        assert "cannot follow CANCELED" in caplog.text

    def test_does_not_believe_an_answer_that_is_applied_long_after_it_was_given(
        self, follower: StrategyAccount
    ) -> None:
        """Whoever asked was frozen, or waited for others' answers; the order has ended since."""
        placement = canceling(follower, CancelReason.MOVE_BACK, is_queued=True)
        settle(placement, make_report(placement, "CANCELED", filled=0))
        assert intent_of(placement).home == Home.QUEUE
        ended_at = LATER - timedelta(minutes=2)
        OrderIntent.objects.update(updated_at=ended_at)
        alive = [Outcome(placement.pk, make_report(placement, "NEW", filled=0))]

        _settle(
            [alive], source=EventSource.RECONCILIATION, now=LATER, asked_at=ended_at - timedelta(seconds=1)
        )
        assert (status_of(placement), intent_of(placement).home) == (None, Home.QUEUE)

        _settle([alive], source=EventSource.RECONCILIATION, now=LATER, asked_at=LATER)
        assert intent_of(placement).home == Home.EXCHANGE

    def test_rests_on_when_it_was_made_larger_over_there(self, follower: StrategyAccount) -> None:
        placement = resting(follower)
        larger = make_report(placement, "PARTIALLY_FILLED", make_fill(1), filled=1, quantity=Decimal(2))

        settle(placement, larger)

        assert (status_of(placement), intent_of(placement).home) == (
            OrderStatus.PARTIALLY_FILLED,
            Home.EXCHANGE,
        )

    def test_and_the_end_in_one_transaction_leave_a_failed_order(self, follower: StrategyAccount) -> None:
        placement = self.dead(follower)

        applied = settle(
            placement,
            make_report(placement, "NEW", filled=0),
            make_report(placement, "EXPIRED", filled=0),
            source=EventSource.RECONCILIATION,
        )

        failed = FailedOrder.objects.get()
        assert (failed.status, applied.failed) == (FailedStatus.EXPIRED, {placement.intent_id: failed})
        assert (status_of(placement), intent_of(placement).home) == (None, Home.FAILED)

    def test_and_a_fill_in_one_transaction_leave_it_partially_filled(self, follower: StrategyAccount) -> None:
        placement = self.dead(follower)

        settle(
            placement,
            make_report(placement, "NEW", filled=0),
            make_report(placement, "PARTIALLY_FILLED", make_fill("0.4"), filled="0.4"),
            source=EventSource.RECONCILIATION,
        )

        assert status_of(placement) == OrderStatus.PARTIALLY_FILLED
        assert OpenOrder.objects.count() == 1


class TestNeverPlaced:
    def settle_absent(self, placement: Placement) -> Applied:
        applied = never_placed(
            placement_ids=[placement.pk], source=EventSource.RESOLVER, now=LATER, reason="unknown there"
        )
        placement.refresh_from_db()
        return applied

    @pytest.mark.parametrize("order_type", ["LIMIT", "MARKET", "STOP_MARKET", "STOP_LIMIT"])
    def test_of_an_answered_delivery_is_a_failed_order(
        self, follower: StrategyAccount, order_type: str
    ) -> None:
        placement = make_placement(follower, order_type=order_type)

        applied = self.settle_absent(placement)

        failed = FailedOrder.objects.get()
        assert (failed.reason, failed.error_type, failed.exchange_error) == (
            "Never placed on the exchange",
            ErrorType.TIMEOUT,
            "unknown there",
        )
        assert (placement.outcome, intent_of(placement).home) == (PlacementOutcome.NEVER_PLACED, Home.FAILED)
        assert (applied.to_place_anew, applied.freed_books) == ([], {placement.intent.book_id})
        assert events_of(placement) == ["REJECTED"]

    def test_of_an_unanswered_delivery_is_a_failed_market_order(self, follower: StrategyAccount) -> None:
        delivery = make_delivery(follower.strategy, state=DeliveryState.WORKING)
        (placement,) = make_placements(follower, [{"order_type": "MARKET"}], delivery=delivery)

        applied = self.settle_absent(placement)

        assert applied.to_place_anew == []
        assert FailedOrder.objects.get().order_type == "MARKET"

    @pytest.mark.parametrize("order_type", ["LIMIT", "STOP_MARKET", "STOP_LIMIT"])
    def test_of_an_unanswered_delivery_is_to_be_placed_anew(
        self, follower: StrategyAccount, order_type: str
    ) -> None:
        delivery = make_delivery(follower.strategy, state=DeliveryState.WORKING)
        (placement,) = make_placements(follower, [{"order_type": order_type}], delivery=delivery)

        applied = self.settle_absent(placement)

        assert applied.to_place_anew == [placement.intent_id]
        assert (status_of(placement), placement.outcome) == (
            OrderStatus.SUBMITTING,
            PlacementOutcome.NEVER_PLACED,
        )
        assert intent_of(placement).home == Home.EXCHANGE
        assert not FailedOrder.objects.exists()

    def test_is_canceled_when_that_was_asked_for(self, follower: StrategyAccount) -> None:
        delivery = make_delivery(follower.strategy, state=DeliveryState.WORKING)
        (placement,) = make_placements(follower, [{"cancel_requested": True}], delivery=delivery)

        applied = self.settle_absent(placement)

        assert (applied.to_place_anew, intent_of(placement).home) == ([], Home.DONE)
        assert events_of(placement) == ["CANCELED"]
        assert not FailedOrder.objects.exists()

    def test_is_not_believed_of_an_order_that_was_heard_of(self, follower: StrategyAccount) -> None:
        placement = resting(follower)

        applied = self.settle_absent(placement)

        assert (status_of(placement), placement.outcome) == (OrderStatus.NEW, PlacementOutcome.PLACED)
        assert applied.freed_books == set()
        assert not FailedOrder.objects.exists()


class TestApplyReports:
    def apply(self, follower: StrategyAccount, *reports: OrderReport, market_type: str = FUTURES) -> Applied:
        return apply_reports(
            account_id=follower.account_id,
            market_type=market_type,
            reports=reports,
            source=EventSource.STREAM,
            now=LATER,
        )

    def test_finds_a_placement_by_our_id_their_id_and_the_childs(self, follower: StrategyAccount) -> None:
        placement = resting(follower)
        named = make_report(
            placement, "PARTIALLY_FILLED", make_fill("0.1"), filled="0.1", child_order_id="c1"
        )

        self.apply(follower, named)
        for exchange_order_id, cumulative in ((f"x{placement.pk}", "0.2"), ("c1", "0.3")):
            applied = self.apply(
                follower,
                make_report(
                    placement,
                    "PARTIALLY_FILLED",
                    make_fill("0.1"),
                    filled=cumulative,
                    client_order_id="",
                    exchange_order_id=exchange_order_id,
                ),
            )
            assert applied.unmatched == []

        assert intent_of(placement).filled_quantity == Decimal("0.3")

    def test_tells_a_stops_number_from_the_same_number_of_a_plain_order(
        self, follower: StrategyAccount
    ) -> None:
        """Binance numbers conditional orders apart from the others."""
        stop = resting(follower, order_type="STOP_MARKET", price=None, stop_price=Decimal(1))
        plain = resting(follower)
        Placement.objects.filter(pk__in=[stop.pk, plain.pk]).update(exchange_order_id="4711")

        for placement, is_conditional in ((stop, True), (plain, False)):
            words = {"client_order_id": "", "exchange_order_id": "4711", "conditional": is_conditional}
            applied = self.apply(follower, make_report(placement, "CANCELED", filled=0, **words))
            assert (applied.placement_ids, applied.unmatched) == ([placement.pk], [])

    def test_takes_no_plain_order_for_the_stop_of_the_same_number(self, follower: StrategyAccount) -> None:
        stop = resting(follower, order_type="STOP_MARKET", price=None, stop_price=Decimal(1))
        by_hand = make_report(
            stop, "FILLED", make_fill(1), filled=1, client_order_id="by-hand", conditional=False
        )

        assert self.apply(follower, by_hand).unmatched == [by_hand]
        assert status_of(stop) == OrderStatus.NEW

    def test_gives_back_what_names_none(self, follower: StrategyAccount) -> None:
        placement = resting(follower)
        by_hand = make_report(placement, "NEW", client_order_id="by-hand", exchange_order_id="77")
        elsewhere = make_report(
            placement, "FILLED", make_fill(1), filled=1, client_order_id="", symbol="ETH/USDT"
        )

        applied = self.apply(follower, by_hand, elsewhere)

        assert applied.unmatched == [by_hand, elsewhere]
        assert status_of(placement) == OrderStatus.NEW
        assert not TradeExecution.objects.exists()

    def test_looks_in_the_account_and_market_that_the_report_is_of(self, follower: StrategyAccount) -> None:
        placement = resting(follower)
        other = make_follower(follower.strategy, make_account("other"))
        report = make_report(placement, "FILLED", make_fill(1), filled=1)

        assert self.apply(other, report).unmatched == [report]
        assert self.apply(follower, report, market_type="SPOT").unmatched == [report]
        assert not TradeExecution.objects.exists()

    def test_never_matches_an_empty_id(self, follower: StrategyAccount) -> None:
        placement = make_placement(follower)
        report = make_report(placement, "FILLED", filled=1, client_order_id="", exchange_order_id="")

        assert self.apply(follower, report).unmatched == [report]
        assert status_of(placement) == OrderStatus.SUBMITTING


def accepted(placement: Placement) -> OrderReport:
    return make_report(placement, "NEW", filled=0)


def part_filled(placement: Placement) -> OrderReport:
    return make_report(placement, "PARTIALLY_FILLED", make_fill("0.1"), filled="0.2")


def filled(placement: Placement) -> OrderReport:
    return make_report(placement, "FILLED", make_fill("0.9"), filled=1)


def ended(placement: Placement) -> OrderReport:
    return make_report(placement, "EXPIRED", filled="0.1")


class TestQueries:
    """The statements of one `outcomes_apply`, for 1 and for 30 orders of one symbol."""

    @pytest.mark.parametrize(
        ("make", "statements"),
        [
            (accepted, 3),
            (lambda _: errors.InsufficientFunds("no money"), 3),
            (lambda _: errors.OutcomeUnknown("lost"), 3),
            (lambda _: NeverPlaced("absent"), 3),
            (part_filled, 6),
            (filled, 6),
            (ended, 3),
        ],
    )
    def test_do_not_depend_on_the_number_of_orders(
        self, follower: StrategyAccount, make: Callable[[Placement], Any], statements: int
    ) -> None:
        counts = {}
        for number in (1, 30):
            placements = make_placements(follower, [{}] * number)
            if make in (part_filled, filled, ended):
                for placement in placements:
                    settle(
                        placement, make_report(placement, "PARTIALLY_FILLED", make_fill("0.1"), filled="0.1")
                    )
            outcomes = [Outcome(one.pk, make(one)) for one in placements]
            with Queries() as queries:
                outcomes_apply(outcomes, source=EventSource.STREAM, now=LATER)
            counts[number] = queries.count

        assert cost_on_postgresql(counts, statements), counts
