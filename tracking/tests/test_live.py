from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from orders.listing import EventRow
from orders.models import EventType, LossTrip, PendingOrder, StrategyAccount
from orders.selectors import Visible
from orders.tests.rows import (
    NOON,
    log_event,
    make_failed_order,
    make_open_order,
    make_pending_order,
    make_position,
    make_strategy_account,
    make_trade,
    set_price,
)
from tracking.live import Do, Frame, LiveView, Step, affected_by

TOLD = EventRow(
    id=1, type=EventType.FILLED, source="STREAM", symbol="BTC/USDT", side="BUY", order_type="LIMIT",
    quantity=Decimal(1), filled_quantity=Decimal(1), price=None, strategy="", account="", after="",
    message="", created_at=NOON,
)  # fmt: skip


@pytest.fixture
def owner(db: None) -> StrategyAccount:
    return make_strategy_account()


@pytest.fixture
def view(owner: StrategyAccount) -> LiveView:
    return LiveView(Visible(user_id=None), language="en")


class TestAffectedBy:
    def test_is_everything_but_the_streams_for_a_fill(self) -> None:
        assert affected_by(TOLD) == {"orders", "waiting", "failed", "positions", "trades"}

    def test_leaves_out_positions_and_trades_where_nothing_was_filled(self) -> None:
        accepted = replace(TOLD, type=EventType.ACCEPTED, filled_quantity=Decimal(0))

        assert affected_by(accepted) == {"orders", "failed"}

    def test_is_everything_for_an_event_that_we_do_not_know(self) -> None:
        unknown = replace(TOLD, type="NEWER_THAN_THIS_PAGE")

        assert affected_by(unknown) == {
            "positions",
            "orders",
            "waiting",
            "externals",
            "failed",
            "trades",
            "streams",
            "stops",
        }

    @pytest.mark.parametrize(
        ("kind", "names"),
        [
            (EventType.QUEUED, {"orders", "waiting", "failed"}),
            (EventType.RETRY, {"orders", "waiting", "failed"}),
            (EventType.SUBMITTING, {"orders", "waiting"}),
            (EventType.REMOVED, {"failed"}),
        ],
    )
    def test_is_where_an_order_comes_from_and_where_it_goes(self, kind: EventType, names: set[str]) -> None:
        assert affected_by(replace(TOLD, type=kind)) == names


class TestNews:
    def test_is_empty_and_costs_one_query_while_nothing_happens(
        self, owner: StrategyAccount, view: LiveView
    ) -> None:
        make_open_order(owner)
        view.snapshot(now=NOON)

        with CaptureQueriesContext(connection) as queries:
            frame = view.news(now=NOON)

        assert frame.is_empty
        assert len(queries) == 1

    @pytest.mark.parametrize(("kind", "count"), [(EventType.SUBMITTING, 2), (EventType.FILLED, 6)])
    def test_costs_as_many_queries_whatever_there_is_to_show(
        self, owner: StrategyAccount, view: LiveView, kind: EventType, count: int
    ) -> None:
        counts = []
        for number in (3, 30):
            for serial in range(number):
                make_position(owner, symbol=f"C{number}{serial}/USDT")
                make_open_order(owner)
                make_trade(owner)
                make_failed_order(owner)
            view.snapshot(now=NOON)
            for _ in range(number):
                log_event(owner, type=kind)
            with CaptureQueriesContext(connection) as queries:
                view.news(now=NOON)
            counts.append(len(queries))

        assert counts == [count, count]

    def test_draws_a_list_anew_when_its_rows_change_places(
        self, owner: StrategyAccount, view: LiveView
    ) -> None:
        first, second = make_position(owner, symbol="A/USDT"), make_position(owner, symbol="B/USDT")
        view.snapshot(now=NOON)
        first.quantity = Decimal(0)  # closed ones stand below
        first.save()
        log_event(owner, type=EventType.FILLED)

        frame = view.news(now=NOON)

        [drawn] = [step for step in frame.steps if step.at == "positions-rows"]
        assert drawn.do == Do.FILL
        assert drawn.html.index(f"position-{second.pk}") < drawn.html.index(f"position-{first.pk}")

    def test_looks_at_prices_once_a_second_and_only_with_an_open_position(
        self, owner: StrategyAccount, view: LiveView
    ) -> None:
        view.snapshot(now=NOON)
        with CaptureQueriesContext(connection) as queries:
            view.news(now=NOON + timedelta(seconds=1))
        assert not any("lastprice" in query["sql"] for query in queries)
        make_position(owner)
        view.snapshot(now=NOON)
        set_price("95000")

        assert view.news(now=NOON + timedelta(seconds=0.9)).is_empty
        assert not view.news(now=NOON + timedelta(seconds=1)).is_empty

    def test_notices_within_half_a_minute_what_no_event_tells(
        self, owner: StrategyAccount, view: LiveView
    ) -> None:
        make_open_order(owner)
        view.snapshot(now=NOON)
        owner.strategy.group_name = "renamed"
        owner.strategy.save()

        assert view.news(now=NOON + timedelta(seconds=29)).is_empty
        frame = view.news(now=NOON + timedelta(seconds=30))

        assert "renamed" in frame.steps[0].html

    def test_adds_up_profit_per_quote_asset(self, owner: StrategyAccount, view: LiveView) -> None:
        for symbol, quantity in (("BTC/USDT", "1"), ("ETH/USDT", "2"), ("SOL/KRW", "3")):
            make_position(
                owner,
                symbol=symbol,
                quantity=Decimal(quantity),
                average_price=Decimal(10),
                realized_pnl=Decimal(5),
            )
            set_price("11", symbol=symbol)

        summary: Any = view.first_page(now=NOON)["summary"]

        assert [(money.asset, money.unrealized, money.realized) for money in summary.money] == [
            ("KRW", Decimal(3), Decimal(5)),
            ("USDT", Decimal(3), Decimal(10)),
        ]


class TestStops:
    def trip(self, owner: StrategyAccount, **fields: Any) -> LossTrip:
        return LossTrip.objects.create(
            strategy_account=owner,
            limit=Decimal(10),
            value=Decimal(15),
            reason="it fell",
            tripped_at=NOON,
            **{"kind": "DRAWDOWN"} | fields,
        )

    def test_are_shown_from_the_event_on_until_they_are_resumed(
        self, owner: StrategyAccount, view: LiveView
    ) -> None:
        view.snapshot(now=NOON)
        trip = self.trip(owner)
        log_event(owner, type=EventType.GUARD)

        added = view.news(now=NOON)
        trip.resumed_at = NOON
        trip.save()
        log_event(owner, type=EventType.GUARD)
        gone = view.news(now=NOON)

        (step,) = [step for step in added.steps if step.at == "stops-rows"]
        assert "Drawdown limit reached" in step.html
        assert "15.00 %" in step.html
        assert (Do.REMOVE, f"stop-{trip.pk}") in [(step.do, step.at) for step in gone.steps]

    def test_of_a_day_go_with_its_end(self, owner: StrategyAccount, view: LiveView) -> None:
        trip = self.trip(owner, kind="DAILY_LOSS", day="2026-07-21", ends_at=NOON + timedelta(seconds=20))
        assert "Daily loss limit reached" in str(view.snapshot(now=NOON).steps)

        later = view.news(now=NOON + timedelta(seconds=31))

        assert (Do.REMOVE, f"stop-{trip.pk}") in [(step.do, step.at) for step in later.steps]

    def test_are_their_owners_only(self, owner: StrategyAccount) -> None:
        self.trip(owner)
        stranger = LiveView(Visible(user_id=owner.strategy.user_id + 1), language="en")

        assert "it fell" not in str(stranger.snapshot(now=NOON).steps)
        assert "stop-" not in str(stranger.snapshot(now=NOON).steps)


def html_at(frame: Frame, at: str) -> str:
    return "".join(step.html for step in frame.steps if step.at == at)


class TestWaiting:
    def test_moves_up_when_the_next_one_gets_its_slot(self, owner: StrategyAccount, view: LiveView) -> None:
        best = make_pending_order(owner, price=Decimal(95000))
        second = make_pending_order(owner, price=Decimal(94000))
        view.snapshot(now=NOON)
        PendingOrder.objects.filter(pk=best.pk).delete()
        log_event(owner, type=EventType.SUBMITTING)

        frame = view.news(now=NOON)

        assert Step(Do.REMOVE, f"waiting-{best.pk}") in frame.steps
        assert '<span class="place next"' in html_at(frame, f"waiting-{second.pk}")
        assert html_at(frame, "waiting-count") == "1"
        assert "1 waiting" in html_at(frame, f"waiting-book-{second.book_id}")

    def test_is_not_read_for_events_that_nothing_waiting_can_mean(
        self, owner: StrategyAccount, view: LiveView
    ) -> None:
        view.snapshot(now=NOON)
        log_event(owner, type=EventType.SUBMITTING)

        with CaptureQueriesContext(connection) as queries:
            view.news(now=NOON)

        assert not any("pendingorder" in query["sql"] for query in queries)

    def test_is_read_again_when_an_order_that_was_put_off_is_due(
        self, owner: StrategyAccount, view: LiveView
    ) -> None:
        pending = make_pending_order(owner, waits_until=NOON + timedelta(seconds=4))
        assert "Tries again at" in html_at(view.snapshot(now=NOON), "waiting-rows")
        pending.waits_until = None
        pending.save()

        assert view.news(now=NOON + timedelta(seconds=3)).is_empty
        frame = view.news(now=NOON + timedelta(seconds=5))

        assert "In the queue" in html_at(frame, f"waiting-{pending.pk}")


class TestShowFailed:
    def test_narrows_the_list_from_the_next_look_on(self, owner: StrategyAccount, view: LiveView) -> None:
        bitcoin, ether = make_failed_order(owner), make_failed_order(owner, symbol="ETH/USDT")
        view.snapshot(now=NOON)

        view.show_failed({"symbol": "ETH/USDT"})
        frame = view.news(now=NOON)

        assert Step(Do.REMOVE, f"failed-{bitcoin.pk}") in frame.steps
        assert html_at(frame, "failed-count") == "1"
        assert f'id="failed-{ether.pk}"' in html_at(view.snapshot(now=NOON), "failed-rows")
        assert view.news(now=NOON).is_empty

    def test_changes_nothing_but_a_sentence_where_it_makes_no_sense(
        self, owner: StrategyAccount, view: LiveView
    ) -> None:
        make_failed_order(owner)
        view.snapshot(now=NOON)

        view.show_failed({"created_after": "yesterday"})
        frame = view.news(now=NOON)

        assert frame.steps == (Step(Do.FILL, "failed-problem", "A date looks like 2026-07-21."),)

    def test_speaks_the_readers_language(self, owner: StrategyAccount) -> None:
        korean = LiveView(Visible(user_id=None), language="ko")
        korean.snapshot(now=NOON)
        korean.show_failed({"error_type": "bad luck"})

        assert html_at(korean.news(now=NOON), "failed-problem") == "그런 사유는 없습니다."
