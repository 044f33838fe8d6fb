"""The queue on bad days: what is put off, what comes back, what a switch holds, what a cancel catches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from exchanges.adapters import exceptions as errors
from exchanges.adapters.exceptions import ExchangeError
from exchanges.adapters.types import OrderReport, OrderRequest, VenueOrderStatus
from exchanges.models import Account
from orders import events
from orders.clock import database_now
from orders.models import (
    Book,
    CancelReason,
    EventSource,
    EventType,
    ExecutionMode,
    FailedOrder,
    Home,
    KillSwitch,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    PendingOrder,
    Placement,
    Strategy,
    StrategyAccount,
    UserProfile,
)
from orders.services import claims, queue
from orders.services.applied import Applied
from orders.services.deliveries import take_over
from orders.services.queue import due_run, errands_run, rebalance, sweep
from orders.services.settlement import apply_reports
from orders.states import OrderStatus
from orders.tests.factories import (
    CLOSE,
    LIMIT,
    Exchanges,
    Gate,
    SideBySide,
    accepted_only,
    elsewhere,
    let_lease_end,
    limit,
    make_account,
    make_follower,
    make_position,
    make_report,
    make_strategy,
    pass_the_queue_by,
    post,
)

pytestmark = pytest.mark.django_db(transaction=True)

CANCEL_ALL: dict[str, Any] = {"order_type": "CANCEL_ALL_ORDER"}


@pytest.fixture
def follower(exchanges: Exchanges, settings: Settings) -> StrategyAccount:
    """Books with three slots for LIMIT orders and one for STOP orders."""
    settings.QUEUE_LIMIT_CAP = 3
    return make_follower()


def ladder(number: int, start: int = 90_000) -> list[dict[str, Any]]:
    return [limit(start + each) for each in range(number)]


def place(*orders: dict[str, Any], **named: Any) -> dict[str, Any]:
    answer = post({"orders": list(orders)} | named)
    assert answer.status == 200, answer.body
    return answer.body


def resting(follower: StrategyAccount | None = None) -> list[int]:
    rows = OpenOrder.objects.filter(status__in=("NEW", "PARTIALLY_FILLED"))
    if follower is not None:
        rows = rows.filter(strategy_account=follower)
    return sorted(int(price) for price in rows.values_list("intent__price", flat=True) if price is not None)


def waiting(follower: StrategyAccount | None = None) -> list[int]:
    rows = (
        PendingOrder.objects.all()
        if follower is None
        else PendingOrder.objects.filter(strategy_account=follower)
    )
    return sorted(int(price) for price in rows.values_list("intent__price", flat=True) if price is not None)


def intent_at(price: int) -> OrderIntent:
    return OrderIntent.objects.get(price=price)


def the_placement(price: int) -> Placement:
    """The placement of the open order at this price."""
    return Placement.objects.get(open_order__intent__price=price)


def let_back_off_end() -> None:
    ended = database_now() - timedelta(seconds=1)
    PendingOrder.objects.exclude(waits_until=None).update(waits_until=ended)


def hear(follower: StrategyAccount, *reports: OrderReport, source: str = EventSource.STREAM) -> Applied:
    """Apply what the stream says, without the errands that follow."""
    return apply_reports(
        account_id=follower.account_id,
        market_type="FUTURES",
        reports=reports,
        source=source,
        now=database_now(),
    )


def hear_and_follow_up(follower: StrategyAccount, *reports: OrderReport) -> Applied:
    return errands_run(hear(follower, *reports), source=EventSource.STREAM)


def refuse_first(exchanges: Exchanges, follower: StrategyAccount, number: int, error: ExchangeError) -> None:
    """Let an exchange refuse the first so many orders that reach it from now on."""
    fake, left = exchanges.of(follower), [number]

    async def refuse(requests: Sequence[OrderRequest]) -> None:
        for request in requests:
            if left[0]:
                left[0] -= 1
                fake.fail(request.client_order_id, error)

    fake.before_placing = refuse


def sent(exchanges: Exchanges, follower: StrategyAccount) -> int:
    return len(exchanges.of(follower).submitted)


class TestRefusedForNow:
    def test_waits_and_goes_out_under_a_new_id(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        refuse_first(exchanges, follower, 1, errors.RateLimited("Too many requests."))
        before = database_now()

        (result,) = place(LIMIT)["results"]

        assert (result["success"], result["queued"], result["retry_scheduled"]) == (True, True, True)
        pending = PendingOrder.objects.get()
        assert (pending.intent.retry_count, pending.reason) == (1, "Too many requests.")
        assert pending.waits_until is not None
        assert timedelta(seconds=1) <= pending.waits_until - before < timedelta(seconds=2.5)
        assert due_run() == 0  # not yet

        let_back_off_end()

        assert due_run() == 1
        assert (resting(), waiting()) == ([90_000], [])
        numbers = Placement.objects.order_by("number").values_list("number", "outcome")
        assert list(numbers) == [(1, "NEVER_PLACED"), (2, "PLACED")]
        first, second = exchanges.of(follower).submitted
        assert first.client_order_id != second.client_order_id

    def test_waits_as_long_as_the_exchange_asks_for(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        refuse_first(exchanges, follower, 1, errors.RateLimited("Too many requests.", retry_after=90))
        before = database_now()

        place(LIMIT)

        waits_until = PendingOrder.objects.get().waits_until
        assert waits_until is not None
        assert waits_until - before >= timedelta(seconds=90)

    def test_waits_twice_as_long_each_time_and_fails_after_five_tries(
        self,
        follower: StrategyAccount,
        exchanges: Exchanges,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        exchanges.of(follower).fails_with = errors.ExchangeBusy("busy")
        heard: list[events.OrderFailed] = []
        monkeypatch.setitem(events._listeners, events.OrderFailed, [heard.append])
        waits: list[float] = []

        place(LIMIT)
        while pending := PendingOrder.objects.first():
            assert pending.waits_until is not None
            assert len(waits) < 5
            waits.append((pending.waits_until - pending.queued_at).total_seconds())
            let_back_off_end()
            due_run()

        assert sent(exchanges, follower) == 5
        assert all(least <= wait <= least * 1.5 for least, wait in zip((1, 2, 4, 8), waits, strict=True)), (
            waits
        )
        failed = FailedOrder.objects.get()
        assert (failed.intent.home, failed.intent.retry_count) == (Home.FAILED, 5)
        assert [fact.failed_order_id for fact in heard] == [failed.pk]

    def test_on_one_account_does_not_slow_the_other(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        other = make_follower(follower.strategy, make_account("second"))
        exchanges.of(follower).fails_with = errors.RateLimited("Too many requests.", retry_after=60)

        summary = place(*ladder(5))["summary"]

        assert (summary["exchange_submitted"], summary["remaining_in_queue"]) == (3, 7)
        assert resting(other) == [90_002, 90_003, 90_004]
        assert waiting(follower) == [90_000 + each for each in range(5)]

        hear_and_follow_up(other, ended(exchanges, other, 90_004))

        assert resting(other) == [90_001, 90_002, 90_003]
        assert resting(follower) == []

    def test_sends_no_worse_order_in_its_place_than_the_next_best(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        refuse_first(exchanges, follower, 1, errors.RateLimited("Too many requests."))

        place(*ladder(6))

        put_off = PendingOrder.objects.exclude(waits_until=None).get()
        assert resting() == sorted({90_002, 90_003, 90_004, 90_005} - {int(put_off.intent.price)})[-3:]
        assert len(resting()) == 3

        let_back_off_end()
        due_run()

        assert resting() == [90_003, 90_004, 90_005]
        assert waiting() == [90_000, 90_001, 90_002]


class TestFull:
    def test_closes_the_lane_at_what_fits_and_counts_no_try(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        fake = exchanges.of(follower)
        self.take_at_most(fake, 2)

        place(*ladder(5))

        assert len(resting()) == 2
        assert len(waiting()) == 3
        assert set(OrderIntent.objects.values_list("retry_count", flat=True)) == {0}
        assert set(PendingOrder.objects.values_list("waits_until", flat=True)) == {None}
        book = Book.objects.get()
        assert (book.limit_fits, book.stop_fits, book.is_account_full) == (2, None, False)
        asked = sent(exchanges, follower)
        assert asked <= 4  # a full lane is not asked again and again

        sweep()
        assert sent(exchanges, follower) == asked

    def test_keeps_it_full_to_what_fits_when_a_slot_frees(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        fake = exchanges.of(follower)
        self.take_at_most(fake, 2)
        place(*ladder(5))
        asked = sent(exchanges, follower)

        best = max(resting())
        hear_and_follow_up(follower, ended(exchanges, follower, best))

        assert len(resting()) == 2
        assert sent(exchanges, follower) == asked + 1
        assert not FailedOrder.objects.exists()

    def test_leaves_the_stop_lane_open(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        self.take_at_most(exchanges.of(follower), 2)
        place(*ladder(5))
        stop = {"symbol": "BTC/USDT", "side": "sell", "order_type": "STOP_MARKET", "stop_price": "80000",
                "quantity": "0.01"}  # fmt: skip

        assert place(stop)["summary"]["executed_from_queue"] == 1

    def test_of_the_whole_account_lets_the_other_book_go_on_when_a_slot_frees(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        place(*ladder(2))
        fake = exchanges.of(follower)
        self.take_at_most(fake, 2, account_wide=True)
        place(limit(2_000, symbol="ETH/USDT"))
        assert Book.objects.get(symbol="ETH/USDT").is_account_full
        assert waiting() == [2_000]

        hear_and_follow_up(follower, ended(exchanges, follower, 90_001))

        assert (resting(), waiting()) == ([2_000, 90_000], [])

    @staticmethod
    def take_at_most(fake: Any, most: int, *, account_wide: bool = False) -> None:
        async def refuse(requests: Sequence[OrderRequest]) -> None:
            room = most - sum(one.status in ("NEW", "PARTIALLY_FILLED") for one in fake.orders.values()
                              if one.order_type == "LIMIT")  # fmt: skip
            for request in requests:
                if request.order_type != "LIMIT":
                    continue
                if room <= 0:
                    full = errors.TooManyOpenOrders("Reach max open orders.", account_wide=account_wide)
                    fake.fail(request.client_order_id, full)
                room -= 1

        fake.before_placing = refuse


def ended(exchanges: Exchanges, follower: StrategyAccount, price: int) -> OrderReport:
    """Fill the resting order at this price and return the report with its fill, which nobody heard yet."""
    return exchanges.of(follower).fill(the_placement(price).client_order_id, announce=False)


class TestAway:
    def test_keeps_orders_waiting_without_counting_tries(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        fake = exchanges.of(follower)
        fake.fails_with = errors.NotSent(
            "no connection could be made", error_type=errors.ErrorType.NETWORK_ERROR
        )
        place(*ladder(4))

        for _ in range(7):
            let_back_off_end()
            due_run()

        assert len(waiting()) == 4
        assert set(OrderIntent.objects.values_list("retry_count", flat=True)) == {0}
        assert not FailedOrder.objects.exists()
        assert len(PendingOrder.objects.exclude(waits_until=None)) >= 3

        fake.fails_with = None
        let_back_off_end()
        due_run()

        assert (resting(), waiting()) == ([90_001, 90_002, 90_003], [90_000])

    def test_gives_up_when_an_order_has_no_id_left(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        exchanges.of(follower).fails_with = errors.NotSent(
            "no connection could be made", error_type=errors.ErrorType.NETWORK_ERROR
        )
        place(limit(90_000))
        Placement.objects.update(number=9_998)
        let_back_off_end()

        due_run()

        last = Placement.objects.get(number=9_999)
        assert len(last.client_order_id) == 32
        failed = FailedOrder.objects.get()
        assert (failed.intent, waiting()) == (last.intent, [])
        assert "no connection could be made" in failed.exchange_error

    def test_without_an_answer_leaves_it_submitting_and_its_slot_taken(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        refuse_first(exchanges, follower, 3, errors.OutcomeUnknown("read timed out"))

        place(*ladder(4))
        sweep()

        assert list(OpenOrder.objects.values_list("status", flat=True)) == [OrderStatus.SUBMITTING] * 3
        assert waiting() == [90_000]
        assert sent(exchanges, follower) == 3


class TestDueRun:
    def test_by_two_at_once_sends_once(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        refuse_first(exchanges, follower, 3, errors.RateLimited("Too many requests."))
        place(*ladder(3))
        assert waiting() == [90_000, 90_001, 90_002]
        let_back_off_end()

        with SideBySide() as threads:
            runs = [threads.start(due_run) for _ in range(4)]
            assert sum(run.result(20) for run in runs) >= 1

        assert resting() == [90_000, 90_001, 90_002]
        assert sent(exchanges, follower) == 6
        assert Placement.objects.count() == 6

    def test_leaves_alone_what_is_not_due(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        refuse_first(exchanges, follower, 2, errors.RateLimited("Too many requests."))
        place(*ladder(2))
        first = PendingOrder.objects.order_by("pk")[0]
        PendingOrder.objects.filter(pk=first.pk).update(waits_until=database_now() - timedelta(seconds=1))

        due_run()

        assert len(resting()) == 1
        assert PendingOrder.objects.get().waits_until is not None


class TestOneBookThatCannotBePlanned:
    """Its next placement cannot be written, whatever the reason: the others must not wait for that."""

    @pytest.fixture
    def healthy(self, follower: StrategyAccount, exchanges: Exchanges) -> StrategyAccount:
        healthy = make_follower(follower.strategy, make_account("second"))
        away = errors.NotSent("no connection could be made", error_type=errors.ErrorType.NETWORK_ERROR)
        for one in (follower, healthy):
            exchanges.of(one).fails_with = away
        place(limit(90_000))
        for one in (follower, healthy):
            exchanges.of(one).fails_with = None
        assert len(waiting()) == 2
        bad, good = Placement.objects.order_by("account_id")
        Placement.objects.create(
            intent=good.intent,
            account_id=good.account_id,
            number=9,
            client_order_id=bad.client_order_id[:-4] + "0002",
            quantity=good.quantity,
            send_by=good.send_by,
            created_at=good.created_at,
        )
        return healthy

    def test_does_not_keep_the_sweep_from_the_others(
        self, follower: StrategyAccount, healthy: StrategyAccount
    ) -> None:
        PendingOrder.objects.update(waits_until=None)

        sweep()

        assert (resting(healthy), waiting(follower)) == ([90_000], [90_000])

    def test_does_not_keep_the_others_from_their_next_turn(
        self, follower: StrategyAccount, healthy: StrategyAccount
    ) -> None:
        let_back_off_end()
        first = database_now() - timedelta(minutes=1)
        PendingOrder.objects.filter(account=follower.account).update(waits_until=first)

        due_run()

        assert (resting(healthy), waiting(follower)) == ([90_000], [90_000])


class TestMovedBack:
    def test_and_filled_by_then_is_a_fill(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        place(*ladder(3))
        fake = exchanges.of(follower)
        worst = the_placement(90_000)
        reports: list[OrderReport] = []

        async def fill_first(refs: Any) -> None:
            reports.append(fake.fill(worst.client_order_id, announce=False))

        fake.before_cancelling = fill_first

        place(limit(95_000))
        hear_and_follow_up(follower, *reports)

        assert (resting(), waiting()) == ([90_001, 90_002, 95_000], [])
        worst.refresh_from_db()
        assert (worst.filled_quantity, worst.intent.home) == (Decimal("0.01"), Home.DONE)
        assert not FailedOrder.objects.exists()
        assert Placement.objects.count() == 4

    def test_with_a_part_filled_meanwhile_waits_with_the_rest_once_that_is_booked(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        place(*[one | {"quantity": "1"} for one in ladder(3)])
        fake = exchanges.of(follower)
        worst = the_placement(90_000)

        async def fill_a_part(refs: Any) -> None:
            fake.fill(worst.client_order_id, quantity=Decimal("0.4"), announce=False)

        fake.before_cancelling = fill_a_part
        hide = fake.fetch_executions
        fake.fetch_executions = none_yet  # type: ignore[method-assign]

        place(limit(95_000))

        order = OpenOrder.objects.get(pk=worst.intent_id)
        assert (order.status, order.cancel_reason) == (OrderStatus.CANCELING, CancelReason.MOVE_BACK)
        assert waiting() == [95_000]  # the slot is not free before the end is booked
        sweep()
        assert waiting() == [95_000]

        fake.fetch_executions = hide  # type: ignore[method-assign]
        errands_run(Applied(gaps=[worst.pk]), source=EventSource.RESOLVER)

        assert (resting(), waiting()) == ([90_001, 90_002, 95_000], [90_000])
        back = PendingOrder.objects.get().intent
        assert (back.filled_quantity, back.remaining_quantity) == (Decimal("0.4"), Decimal("0.6"))
        fake.before_cancelling = None
        post({"order_type": "CANCEL", "order_id": intent_at(95_000).uid})
        assert the_placement(90_000).quantity == Decimal("0.6")

    def test_whose_cancel_failed_is_asked_again_and_nothing_goes_out_before(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        place(*ladder(3))
        exchanges.of(follower).fail_cancel(
            the_placement(90_000).client_order_id, errors.OutcomeUnknown("read timed out")
        )

        place(limit(95_000))
        sweep()

        order = OpenOrder.objects.get(intent__price=90_000)
        assert order.status == OrderStatus.CANCELING
        assert order.ask_at is not None
        assert waiting() == [95_000]
        assert sent(exchanges, follower) == 3

    def test_asked_to_be_canceled_meanwhile_does_not_wait(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        place(*ladder(3))
        worst = intent_at(90_000)

        async def cancel_it(refs: Any) -> None:
            exchanges.of(follower).before_cancelling = None
            await elsewhere(lambda: post({"order_type": "CANCEL", "order_id": worst.uid}))

        exchanges.of(follower).before_cancelling = cancel_it

        place(limit(95_000))

        worst.refresh_from_db()
        assert worst.home == Home.DONE
        assert (resting(), waiting()) == ([90_001, 90_002, 95_000], [])

    def test_once_in_vain_and_canceled_by_hand_hours_later_is_not_placed_again(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        place(*[one | {"quantity": "1"} for one in ladder(3)])
        fake = exchanges.of(follower)
        worst = the_placement(90_000)
        fake.fail_cancel(worst.client_order_id, errors.OutcomeUnknown("read timed out"))
        place(limit(95_000))
        worst.refresh_from_db()
        alive = make_report(worst, "NEW", filled=0, exchange_order_id=worst.exchange_order_id)
        hear(follower, alive, source=EventSource.RESOLVER)
        OpenOrder.objects.update(updated_at=database_now() - timedelta(hours=3))

        hear(follower, fake.fill(worst.client_order_id, quantity=Decimal("0.4"), announce=False))
        hear_and_follow_up(
            follower, fake.end(worst.client_order_id, VenueOrderStatus.CANCELED, announce=False)
        )

        assert intent_at(90_000).home == Home.FAILED
        assert [one.status for one in FailedOrder.objects.all()] == ["canceled"]
        assert the_placement(95_000)


async def none_yet(ref: Any) -> list[Any]:
    return []


class TestLateFill:
    """The end of the first placement was told without a fill, and then the fill comes after all."""

    def late(
        self, exchanges: Exchanges, follower: StrategyAccount, first: Placement, amount: str
    ) -> OrderReport:
        fake = exchanges.of(follower)
        first.refresh_from_db()
        return fake.fill(first.client_order_id, quantity=Decimal(amount), announce=False)

    def moved_back(self, exchanges: Exchanges, follower: StrategyAccount) -> Placement:
        place(*[one | {"quantity": "1"} for one in ladder(3)])
        first = the_placement(90_000)
        place(limit(95_000))
        assert waiting() == [90_000]
        return first

    def test_shrinks_the_waiting_order(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        first = self.moved_back(exchanges, follower)

        hear_and_follow_up(follower, self.late(exchanges, follower, first, "0.4"))

        assert waiting() == [90_000]
        post({"order_type": "CANCEL", "order_id": intent_at(95_000).uid})
        again = the_placement(90_000)
        assert (again.number, again.quantity) == (2, Decimal("0.6"))

    def test_of_all_of_it_ends_the_waiting_order(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        first = self.moved_back(exchanges, follower)

        hear_and_follow_up(follower, self.late(exchanges, follower, first, "1"))

        assert waiting() == []
        assert intent_at(90_000).home == Home.DONE

    def test_takes_the_new_placement_back_and_places_what_is_left(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        first = self.moved_back(exchanges, follower)
        post({"order_type": "CANCEL", "order_id": intent_at(95_000).uid})
        assert the_placement(90_000).quantity == Decimal(1)

        hear_and_follow_up(follower, self.late(exchanges, follower, first, "0.4"))

        third = the_placement(90_000)
        assert (third.number, third.quantity) == (3, Decimal("0.6"))
        assert OpenOrder.objects.get(placement=third).status == OrderStatus.NEW
        live = [one for one in exchanges.of(follower).orders.values()
                if one.price == 90_000 and one.status == "NEW"]  # fmt: skip
        assert [one.quantity for one in live] == [Decimal("0.6")]
        assert (resting(), waiting()) == ([90_000, 90_001, 90_002], [])

    def test_of_all_of_it_takes_the_new_placement_back_for_good(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        first = self.moved_back(exchanges, follower)
        post({"order_type": "CANCEL", "order_id": intent_at(95_000).uid})

        hear_and_follow_up(follower, self.late(exchanges, follower, first, "1"))

        assert (resting(), waiting()) == ([90_001, 90_002], [])
        intent = intent_at(90_000)
        assert (intent.home, intent.filled_quantity) == (Home.DONE, Decimal(1))
        assert not FailedOrder.objects.exists()

    def test_while_the_new_placement_is_on_its_way_takes_it_back_when_it_is_known(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        first = self.moved_back(exchanges, follower)
        report = self.late(exchanges, follower, first, "0.4")

        async def hear_late(requests: Sequence[OrderRequest]) -> None:
            exchanges.of(follower).before_placing = None
            await elsewhere(lambda: hear_and_follow_up(follower, report))

        exchanges.of(follower).before_placing = hear_late

        post({"order_type": "CANCEL", "order_id": intent_at(95_000).uid})

        again = the_placement(90_000)
        assert (again.number, again.quantity) == (3, Decimal("0.6"))
        assert (resting(), waiting()) == ([90_000, 90_001, 90_002], [])

    def test_of_all_of_it_while_the_new_placement_is_refused_ends_it(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        first = self.moved_back(exchanges, follower)
        report = self.late(exchanges, follower, first, "1")
        fake = exchanges.of(follower)

        async def hear_late(requests: Sequence[OrderRequest]) -> None:
            fake.before_placing = None
            await elsewhere(lambda: hear_and_follow_up(follower, report))
            for one in requests:
                fake.fail(one.client_order_id, errors.RateLimited("Too many requests."))

        fake.before_placing = hear_late

        post({"order_type": "CANCEL", "order_id": intent_at(95_000).uid})

        intent = intent_at(90_000)
        assert (intent.home, intent.filled_quantity) == (Home.DONE, Decimal(1))
        assert (resting(), waiting()) == ([90_001, 90_002], [])
        assert not FailedOrder.objects.exists()
        place(limit(80_000))  # its slot is not kept for anybody
        assert (resting(), waiting()) == ([80_000, 90_001, 90_002], [])


SWITCHES: dict[str, Callable[[bool], Any]] = {
    "system": lambda on: KillSwitch.objects.update_or_create(pk=1, defaults={"engaged": on}),
    "user": lambda on: [
        UserProfile.objects.update_or_create(user=one.user, defaults={"kill_switch": on})
        for one in Strategy.objects.all()
    ],
    "strategy": lambda on: Strategy.objects.update(kill_switch=on),
    "account": lambda on: Account.objects.update(kill_switch=on),
    "strategy paused": lambda on: Strategy.objects.update(is_active=not on),
    "account paused": lambda on: StrategyAccount.objects.update(is_active=not on),
}


class TestGuardsAtTheDoor:
    """A guard may say no to what waits already: a limit was lowered since, or a loss guard has tripped."""

    def test_let_it_wait_on_with_a_reason_and_a_line_and_go_when_they_agree_again(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        place(*ladder(4))
        assert waiting() == [90_000]
        follower.max_order_notional = Decimal(899)
        follower.save()

        errands_run(hear(follower, ended(exchanges, follower, 90_003)), source=EventSource.STREAM)
        PendingOrder.objects.update(waits_until=database_now())
        due_run()  # judged again; told once

        assert waiting() == [90_000]
        pending = PendingOrder.objects.get()
        assert pending.waits_until is not None
        assert pending.reason == "order value 900 USDT is above the limit of 899 USDT"
        told = OrderEvent.objects.get(type=EventType.QUEUED, source=EventSource.GUARD)
        assert (told.intent_id, told.message) == (pending.intent_id, pending.reason)

        follower.max_order_notional = None
        follower.save()
        PendingOrder.objects.update(waits_until=database_now())
        due_run()

        assert (waiting(), 90_000 in resting()) == ([], True)


class TestSwitches:
    @pytest.mark.parametrize("level", SWITCHES)
    def test_flipped_while_a_slot_frees_let_nothing_leave(
        self, follower: StrategyAccount, exchanges: Exchanges, level: str
    ) -> None:
        place(*ladder(5))
        report = ended(exchanges, follower, 90_004)
        applied = hear(follower, report)
        SWITCHES[level](True)

        errands_run(applied, source=EventSource.STREAM)
        sweep()
        due_run()
        rebalance(book_ids=Book.objects.values_list("pk", flat=True))

        assert sent(exchanges, follower) == 3
        assert (resting(), waiting()) == ([90_002, 90_003], [90_000, 90_001])
        assert not exchanges.of(follower).cancelled

        SWITCHES[level](False)
        sweep()

        assert (resting(), waiting()) == ([90_001, 90_002, 90_003], [90_000])

    @pytest.mark.services  # SQLite has one writer at a time
    @pytest.mark.parametrize("level", SWITCHES)
    def test_flipped_after_the_plan_take_back_what_was_claimed(
        self, follower: StrategyAccount, exchanges: Exchanges, level: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place(*ladder(5))
        hear(follower, ended(exchanges, follower, 90_004))
        lockable = claims.lockable

        def flip_first(intent_ids: Any, **options: Any) -> Any:
            with SideBySide() as threads:
                threads.start(lambda: SWITCHES[level](True)).result(10)
            return lockable(intent_ids, **options)

        monkeypatch.setattr(queue, "lockable", flip_first)

        sweep()

        assert sent(exchanges, follower) == 3
        assert (resting(), waiting()) == ([90_002, 90_003], [90_000, 90_001])
        assert not OpenOrder.objects.filter(status=OrderStatus.SUBMITTING).exists()

    def test_of_one_strategy_hold_only_its_orders(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        other = make_follower(make_strategy("other", token="another-token"), follower.account)
        place(*ladder(4))
        place(limit(80_000), group_name="other", token="another-token")
        assert waiting() == [80_000, 90_000]
        applied = hear(follower, ended(exchanges, follower, 90_003))
        Strategy.objects.filter(pk=follower.strategy_id).update(kill_switch=True)

        errands_run(applied, source=EventSource.STREAM)

        assert (resting(), waiting()) == ([80_000, 90_001, 90_002], [90_000])
        assert OpenOrder.objects.get(intent__price=80_000).strategy_account == other


class TestCancel:
    def test_of_waiting_orders_ends_them_here(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        place(*ladder(5))
        calls = exchanges.all_calls()
        one = intent_at(90_000)

        answer = post({"order_type": "CANCEL", "order_id": one.uid})

        assert answer.body["results"][0]["result"]["message"] == "1 canceled"
        assert exchanges.all_calls() == calls
        assert (resting(), waiting()) == ([90_002, 90_003, 90_004], [90_001])
        one.refresh_from_db()
        assert (one.home, one.cancel_requested) == (Home.DONE, True)
        types = OrderEvent.objects.filter(intent=one).order_by("pk").values_list("type", flat=True)
        assert list(types) == [EventType.QUEUED, EventType.CANCEL_REQUESTED, EventType.CANCELED]

    def test_all_leaves_none_and_none_comes_back(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        place(*ladder(5))

        post(CANCEL_ALL)
        sweep()
        due_run()

        assert (resting(), waiting()) == ([], [])
        assert sent(exchanges, follower) == 3
        assert len(exchanges.of(follower).cancelled) == 3
        assert set(OrderIntent.objects.values_list("home", flat=True)) == {Home.DONE}
        assert not FailedOrder.objects.exists()

    def test_all_of_one_strategy_gives_its_slots_to_the_other(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        make_follower(make_strategy("other", token="another-token"), follower.account)
        place(*ladder(4))
        place(*ladder(3, 80_000), group_name="other", token="another-token")

        post(CANCEL_ALL)

        assert (resting(), waiting()) == ([80_000, 80_001, 80_002], [])

    def test_all_and_new_orders_in_one_payload_swap_the_book(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        place(*ladder(5))

        place(CANCEL_ALL, *ladder(4, 80_000))

        assert (resting(), waiting()) == ([80_001, 80_002, 80_003], [80_000])

    @pytest.mark.parametrize("round_", range(8))
    def test_all_while_a_slot_frees_leaves_nothing_behind(
        self, follower: StrategyAccount, exchanges: Exchanges, round_: int
    ) -> None:
        place(*ladder(8))
        report = ended(exchanges, follower, 90_007)

        with SideBySide() as threads:
            freed = threads.start(lambda: hear_and_follow_up(follower, report))
            canceled = threads.start(lambda: post(CANCEL_ALL))
            freed.result(30)
            assert canceled.result(30).status == 200

        assert (resting(), waiting()) == ([], [])
        assert not OpenOrder.objects.exists()
        live = [one for one in exchanges.of(follower).orders.values() if one.status == "NEW"]
        assert live == []
        assert set(OrderIntent.objects.values_list("home", flat=True)) == {Home.DONE}
        assert not FailedOrder.objects.exists()

    def test_all_while_the_next_is_on_its_way_cancels_it_when_it_is_known(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        place(*ladder(5))
        report = ended(exchanges, follower, 90_004)
        gate = Gate()
        exchanges.of(follower).before_placing = gate

        with SideBySide() as threads:
            freed = threads.start(lambda: hear_and_follow_up(follower, report))
            assert gate.reached.wait(10)
            post(CANCEL_ALL)
            assert OpenOrder.objects.get().status == OrderStatus.SUBMITTING
            gate.open()
            freed.result(30)

        assert not OpenOrder.objects.exists()
        assert waiting() == []
        assert [one.status for one in exchanges.of(follower).orders.values() if one.status == "NEW"] == []


class TestImmediateOrders:
    def test_take_slots_and_are_never_moved_back(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        direct = make_strategy("direct", token="another-token", execution_mode=ExecutionMode.IMMEDIATE)
        make_follower(direct, follower.account)
        place(*ladder(2, 80_000), group_name="direct", token="another-token")

        place(*ladder(3))

        assert (resting(), waiting()) == ([80_000, 80_001, 90_002], [90_000, 90_001])
        assert not exchanges.of(follower).cancelled

    def test_go_out_though_the_book_is_full(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        direct = make_strategy("direct", token="another-token", execution_mode=ExecutionMode.IMMEDIATE)
        make_follower(direct, follower.account)
        place(*ladder(4))

        place(limit(80_000), group_name="direct", token="another-token")

        assert (resting(), waiting()) == ([80_000, 90_001, 90_002, 90_003], [90_000])
        sweep()
        assert (resting(), waiting()) == ([80_000, 90_001, 90_002, 90_003], [90_000])

    def test_were_queued_before_stay_in_the_queue(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        place(*ladder(4))
        pass_the_queue_by()

        hear_and_follow_up(follower, ended(exchanges, follower, 90_003))

        assert (resting(), waiting()) == ([90_000, 90_001, 90_002], [])


def stop(price: int, **fields: Any) -> dict[str, Any]:
    return {"symbol": "BTC/USDT", "side": "sell", "order_type": "STOP_MARKET", "stop_price": str(price),
            "quantity": "0.01"} | fields  # fmt: skip


class TestStops:
    def resting_stops(self) -> list[int]:
        return sorted(
            int(price)
            for price in OpenOrder.objects.filter(status="NEW").values_list("intent__stop_price", flat=True)
            if price is not None
        )

    def test_have_a_lane_of_their_own_and_the_nearest_trigger_rests(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        assert place(stop(80_000))["summary"]["executed_from_queue"] == 1
        assert place(stop(70_000))["summary"]["remaining_in_queue"] == 1

        assert place(stop(85_000))["summary"]["executed_from_queue"] == 1

        assert self.resting_stops() == [85_000]
        assert PendingOrder.objects.count() == 2

    def test_that_triggered_are_not_moved_back(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        place(stop(80_000))
        placement = Placement.objects.get()
        hear(follower, exchanges.of(follower).trigger(placement.client_order_id, announce=False))

        place(stop(85_000))

        assert self.resting_stops() == [80_000]
        assert not exchanges.of(follower).cancelled

    def test_that_are_listed_as_plain_orders_have_triggered(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        place(stop(80_000))
        placement = Placement.objects.get()
        child = make_report(placement, "NEW", filled=0, exchange_order_id="child-7", conditional=False)
        hear(follower, child)
        hear(follower, child)

        place(stop(85_000))

        assert self.resting_stops() == [80_000]
        assert not exchanges.of(follower).cancelled
        assert OrderEvent.objects.filter(type=EventType.TRIGGERED).count() == 1
        placement.refresh_from_db()
        assert placement.child_order_id == "child-7"
        assert placement.exchange_order_id not in ("", "child-7")


class TestCloses:
    def test_wait_and_are_counted_as_on_their_way(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        make_position(follower, "1")
        close = CLOSE | {"order_type": "LIMIT", "qty_per": -20}

        place(*[close | {"price": str(99_000 + each)} for each in range(5)])

        assert (resting(), waiting()) == ([99_000, 99_001, 99_002], [99_003, 99_004])
        assert post(close | {"price": "99000"}).status == 400  # nothing is left to close
        hear_and_follow_up(follower, ended(exchanges, follower, 99_000))
        request = exchanges.of(follower).submitted[-1]
        assert (request.price, request.side, request.reduce_only) == (Decimal(99_003), "SELL", True)
        assert waiting() == [99_004]

    def test_that_come_to_nothing_give_their_slot_away(
        self, follower: StrategyAccount, exchanges: Exchanges, settings: Settings
    ) -> None:
        settings.QUEUE_LIMIT_CAP = 1
        nothing = CLOSE | {"order_type": "LIMIT", "price": "99000"}

        answer = post({"orders": [nothing, LIMIT]})

        assert answer.status == 200
        assert (resting(), waiting()) == ([90_000], [])
        assert [one["success"] for one in answer.body["results"]] == [False, True]
        assert answer.body["summary"]["exchange_submitted"] == 1


class TestProcessThatDied:
    def test_before_sending_leaves_its_orders_to_whoever_takes_over(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        delivery = accepted_only({"orders": ladder(5)})
        assert (OpenOrder.objects.count(), waiting()) == (3, [90_000, 90_001])
        let_lease_end(delivery)

        answer = take_over(delivery.pk)

        assert answer is not None
        summary = answer.body["summary"]
        assert (summary["exchange_submitted"], summary["remaining_in_queue"]) == (3, 2)
        assert (resting(), waiting()) == ([90_002, 90_003, 90_004], [90_000, 90_001])

    def test_leaves_slots_that_others_give_to_its_waiting_orders(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        place(*ladder(3))
        delivery = accepted_only(limit(80_000))
        hear_and_follow_up(follower, ended(exchanges, follower, 90_002))
        assert resting() == [80_000, 90_000, 90_001]
        let_lease_end(delivery)

        answer = take_over(delivery.pk)

        assert answer is not None
        assert answer.body["summary"]["exchange_submitted"] == 1
        assert sent(exchanges, follower) == 4
