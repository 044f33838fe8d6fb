"""CANCEL and CANCEL_ALL_ORDER by webhook: own orders only, wherever they are, and for good."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from exchanges.adapters import exceptions as errors
from exchanges.adapters.types import VenueOrderStatus
from orders.models import (
    CancelReason,
    EventType,
    FailedOrder,
    Home,
    OpenOrder,
    OrderEvent,
    OrderIntent,
    Placement,
    StrategyAccount,
)
from orders.states import OrderStatus
from orders.tests.factories import (
    MARKET,
    Exchanges,
    elsewhere,
    limit,
    make_account,
    make_follower,
    make_strategy,
    post,
)

pytestmark = pytest.mark.django_db(transaction=True)

CANCEL_ALL: dict[str, Any] = {"order_type": "CANCEL_ALL_ORDER"}


@pytest.fixture
def follower(exchanges: Exchanges) -> StrategyAccount:
    return make_follower()


def place(*orders: dict[str, Any], **named: Any) -> list[Placement]:
    """Place orders by webhook and return their placements in the order given."""
    assert post({"orders": list(orders)} | named).status == 200
    return list(Placement.objects.order_by("-pk")[: len(orders)])[::-1]


def cancel(**order: Any) -> dict[str, Any]:
    answer = post({"order_type": "CANCEL"} | order)
    assert answer.status == 200
    result: dict[str, Any] = answer.body["results"][0]
    return result


def resting_ids() -> list[int]:
    return list(OpenOrder.objects.order_by("pk").values_list("placement_id", flat=True))


class TestCancel:
    @pytest.mark.parametrize("kind", ["client_order_id", "exchange_order_id", "uid"])
    def test_takes_any_id_of_the_order(
        self, follower: StrategyAccount, exchanges: Exchanges, kind: str
    ) -> None:
        kept, gone = place(limit(), limit(90_001))
        names = {
            "client_order_id": {"client_order_id": gone.client_order_id},
            "exchange_order_id": {"order_id": gone.exchange_order_id},
            "uid": {"order_id": gone.intent.uid},
        }

        result = cancel(**names[kind])

        assert result == {
            "order_index": 0,
            "success": True,
            "queued": False,
            "executed": True,
            "result": {
                "message": "1 canceled",
                "canceled": 1,
                "canceling": 0,
                "client_order_ids": [gone.client_order_id],
                "account_id": follower.account_id,
                "account_name": "main",
            },
        }
        assert resting_ids() == [kept.pk]
        assert [ref.client_order_id for ref in exchanges.of(follower).cancelled] == [gone.client_order_id]
        assert OrderIntent.objects.get(pk=gone.intent_id).home == Home.DONE
        assert not FailedOrder.objects.exists()

    @pytest.mark.parametrize("order_id", ["nobody-knows-it", "0"])
    def test_of_nothing_is_a_success_that_says_so(
        self, follower: StrategyAccount, exchanges: Exchanges, order_id: str
    ) -> None:
        (kept,) = place(limit())

        result = cancel(order_id=order_id)

        assert (result["success"], result["executed"]) == (True, False)
        assert result["result"]["message"] == "nothing to cancel"
        assert resting_ids() == [kept.pk]
        assert exchanges.of(follower).cancelled == []

    def test_of_an_ended_order_is_of_nothing(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        (done,) = place(MARKET)

        assert cancel(order_id=done.client_order_id)["result"]["message"] == "nothing to cancel"
        assert OrderIntent.objects.get().cancel_requested is False

    def test_of_another_strategys_order_is_of_nothing(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        make_follower(make_strategy("test2", token="token-of-test2"), follower.account)
        (theirs,) = place(limit(), group_name="test2", token="token-of-test2")

        assert cancel(order_id=theirs.client_order_id)["result"]["message"] == "nothing to cancel"
        assert cancel(order_id=theirs.exchange_order_id)["result"]["message"] == "nothing to cancel"
        assert resting_ids() == [theirs.pk]
        assert exchanges.of(follower).cancelled == []

    def test_of_several_in_one_payload_answers_each(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        first, second = place(limit(), limit(90_001))
        ids = [first.client_order_id, second.client_order_id, first.client_order_id]

        answer = post({"order_type": "CANCEL", "orders": [{"order_id": one} for one in ids]})

        assert [one["result"]["client_order_ids"] for one in answer.body["results"]] == [[one] for one in ids]
        assert [one["result"]["canceled"] for one in answer.body["results"]] == [1, 1, 1]
        assert resting_ids() == []
        assert sorted(ref.client_order_id or "" for ref in exchanges.of(follower).cancelled) == sorted(
            ids[:2]
        )

    def test_says_what_is_still_being_canceled(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        (placement,) = place(limit())
        exchanges.of(follower).fail_cancel(placement.client_order_id, errors.OutcomeUnknown("timed out"))

        result = cancel(order_id=placement.client_order_id)

        assert result["result"]["message"] == "0 canceled, 1 still being canceled"
        order = OpenOrder.objects.get()
        assert (order.status, order.cancel_reason) == (OrderStatus.CANCELING, CancelReason.REQUESTED)
        assert order.ask_at is not None

    def test_that_meets_an_order_that_was_just_filled_books_the_fill(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        (placement,) = place(limit())
        exchanges.of(follower).fill(placement.client_order_id)

        cancel(order_id=placement.client_order_id)

        order = OpenOrder.objects.get()  # the end is known, its fill is still to be fetched
        placement.refresh_from_db()
        assert order.status == OrderStatus.CANCELING
        assert placement.has_gap
        assert not FailedOrder.objects.exists()

    def test_that_meets_an_order_ended_by_hand_is_done(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        (placement,) = place(limit())
        exchanges.of(follower).end(placement.client_order_id, VenueOrderStatus.CANCELED)

        result = cancel(order_id=placement.client_order_id)

        assert result["result"]["message"] == "1 canceled"
        assert OrderIntent.objects.get().home == Home.DONE
        assert not FailedOrder.objects.exists()

    def test_of_an_order_nobody_has_heard_of_yet_holds_it(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        exchanges.of(follower).fails_with = errors.OutcomeUnknown("read timed out")
        (placement,) = place(limit())

        result = cancel(order_id=placement.client_order_id)

        assert result["result"]["message"] == "0 canceled, 1 still being canceled"
        assert OrderIntent.objects.get().cancel_requested is True
        assert OpenOrder.objects.get().status == OrderStatus.SUBMITTING
        assert exchanges.of(follower).cancelled == []  # what may not exist is not canceled yet

    def test_twice_asks_the_exchange_again_only_for_what_still_lives(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        (placement,) = place(limit())
        cancel(order_id=placement.client_order_id)

        assert cancel(order_id=placement.client_order_id)["result"]["message"] == "nothing to cancel"
        assert len(exchanges.of(follower).cancelled) == 1
        requested = OrderEvent.objects.filter(type=EventType.CANCEL_REQUESTED)
        assert [event.account_id for event in requested] == [follower.account_id]


class TestCancelAll:
    def test_takes_everything_of_this_strategy_and_nothing_else(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        make_follower(make_strategy("test2", token="token-of-test2"), follower.account)
        mine = place(limit(), limit(90_001, symbol="ETH/USDT"), limit(market_type="SPOT"))
        theirs = place(limit(), group_name="test2", token="token-of-test2")

        answer = post(CANCEL_ALL)

        assert answer.body["results"][0]["result"]["message"] == "3 canceled"
        assert answer.body["results"][0]["result"]["client_order_ids"] == [
            one.client_order_id for one in mine
        ]
        assert resting_ids() == [one.pk for one in theirs]
        assert answer.body["summary"]["immediate_orders"] == 1

    @pytest.mark.parametrize(
        ("narrowed", "left"),
        [
            ({"symbol": "ETHUSDT"}, {0, 1}),
            ({"side": "sell"}, {0, 2}),
            ({"symbol": "BTC/USDT", "side": "buy"}, {1, 2}),
            ({"symbol": "BTC/USDT", "market_type": "SPOT"}, {0, 1, 2}),
        ],
    )
    def test_can_be_narrowed(
        self, follower: StrategyAccount, exchanges: Exchanges, narrowed: dict[str, str], left: set[int]
    ) -> None:
        placements = place(limit(), limit(side="sell"), limit(3000, symbol="ETH/USDT"))

        post(CANCEL_ALL | narrowed)

        assert set(resting_ids()) == {placements[index].pk for index in left}

    def test_spares_the_new_orders_of_its_own_payload(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        (old,) = place(limit())

        answer = post({"orders": [limit(90_001), CANCEL_ALL, MARKET]})

        assert [one["success"] for one in answer.body["results"]] == [True, True, True]
        order = OpenOrder.objects.get()
        assert order.placement_id != old.pk
        assert order.intent.price == Decimal(90_001)
        assert OrderIntent.objects.get(pk=old.intent_id).home == Home.DONE

    def test_goes_to_the_exchange_before_the_orders_of_its_account(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        place(limit())
        fake = exchanges.of(follower)
        placed_before_the_cancel: list[int] = []

        async def look(_: Any) -> None:
            placed_before_the_cancel.append(len(fake.place_calls))

        fake.before_cancelling = look

        post({"orders": [limit(90_001), MARKET, CANCEL_ALL]})

        assert placed_before_the_cancel == [1]  # the old order alone
        assert len(fake.place_calls) == 3

    def test_works_every_account_though_one_is_dead(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        second = make_follower(follower.strategy, make_account("second"))
        place(limit())
        exchanges.of(follower).fails_with = errors.OutcomeUnknown("timed out")

        answer = post(CANCEL_ALL)

        assert [one["result"]["message"] for one in answer.body["results"]] == [
            "0 canceled, 1 still being canceled",
            "1 canceled",
        ]
        assert set(OpenOrder.objects.values_list("account_id", flat=True)) == {follower.account_id}
        assert len(exchanges.of(second).cancelled) == 1

    def test_of_nothing_is_200(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        answer = post(CANCEL_ALL)

        assert (answer.status, answer.body["success"]) == (200, True)
        assert answer.body["results"][0]["result"]["message"] == "nothing to cancel"
        assert exchanges.all_calls() == 0

    def test_holds_an_order_that_is_on_its_way_while_it_runs(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        """The order's webhook waits for the exchange, the cancel comes, then the answer arrives."""
        fake = exchanges.of(follower)
        answers: list[Any] = []

        async def meanwhile(_: Any) -> None:
            fake.before_placing = None
            answers.append(await elsewhere(lambda: post(CANCEL_ALL)))

        fake.before_placing = meanwhile

        post(limit())

        assert answers[0].body["results"][0]["result"]["message"] == "0 canceled, 1 still being canceled"
        assert (OrderIntent.objects.get().home, OpenOrder.objects.count()) == (Home.DONE, 0)
        assert [ref.client_order_id for ref in fake.cancelled] == [Placement.objects.get().client_order_id]
        assert not FailedOrder.objects.exists()
