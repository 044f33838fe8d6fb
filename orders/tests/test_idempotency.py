"""The same signal twice: by its id, by its bytes, one after the other and both at once."""

from __future__ import annotations

import itertools
import json
import threading
from concurrent.futures import Future, as_completed
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeVar

import pytest
from django.db import DatabaseError, connection, transaction

from exchanges.adapters import exceptions as errors
from exchanges.models import Instrument
from orders import locks
from orders.clock import database_now
from orders.models import (
    Book,
    DeliveryState,
    Home,
    KillSwitch,
    OpenOrder,
    OrderIntent,
    Placement,
    Strategy,
    StrategyAccount,
    WebhookDelivery,
)
from orders.services import deliveries, intake
from orders.services.acceptance import accept
from orders.tests.factories import (
    CLOSE,
    LIMIT,
    MARKET,
    TOKEN,
    Exchanges,
    Gate,
    SideBySide,
    accepted_only,
    elsewhere,
    let_lease_end,
    limit,
    make_follower,
    make_position,
    make_strategy,
    post,
    wait_until,
)
from orders.webhook.answers import WebhookAnswer

pytestmark = pytest.mark.django_db(transaction=True)

T = TypeVar("T")
NAMED = LIMIT | {"webhook_id": "signal-1"}


@pytest.fixture
def follower(exchanges: Exchanges) -> StrategyAccount:
    return make_follower()


def is_in_progress(answer: WebhookAnswer) -> bool:
    return (answer.status, answer.body.get("code")) == (409, "in_progress")


def move_back(delivery: WebhookDelivery, **ago: float) -> None:
    """Let a delivery have been received earlier."""
    WebhookDelivery.objects.filter(pk=delivery.pk).update(received_at=database_now() - timedelta(**ago))


class TestWebhookId:
    def test_gets_the_first_answer_again_and_sends_nothing(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        first = post(NAMED)

        again = post(NAMED)

        assert again.status == 200
        assert again.body == json.loads(json.dumps(first.body)) | {"duplicate": True}
        assert len(exchanges.of(follower).submitted) == 1
        assert (OrderIntent.objects.count(), WebhookDelivery.objects.count()) == (1, 1)

    def test_counts_and_not_what_else_is_sent_with_it(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        post(NAMED)

        again = post(MARKET | {"webhook_id": "signal-1"})

        assert again.body["duplicate"] is True
        assert again.body["results"][0]["result"]["client_order_id"].startswith("th")
        assert len(exchanges.of(follower).submitted) == 1

    def test_may_come_in_the_header(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        post(LIMIT, idempotency_key="key-7")

        assert post(LIMIT, idempotency_key="key-7").body["duplicate"] is True
        assert post(LIMIT | {"webhook_id": "key-7"}).body["duplicate"] is True
        assert post(LIMIT, idempotency_key="key-8").body.get("duplicate") is None
        assert len(exchanges.of(follower).submitted) == 2

    def test_is_each_strategys_own(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        make_follower(make_strategy("test2", token="token-of-test2"), follower.account)
        post(NAMED)

        other = post(NAMED | {"group_name": "test2", "token": "token-of-test2"})

        assert (other.status, other.body.get("duplicate")) == (200, None)
        assert len(exchanges.of(follower).submitted) == 2

    @pytest.mark.parametrize(
        ("first", "status"),
        [
            (NAMED | {"price": "-1"}, 400),
            (NAMED | {"symbol": "NO/SUCH"}, 400),
            (NAMED | {"quantity": "0.0001"}, 400),
        ],
    )
    def test_keeps_a_refusal_too(
        self, follower: StrategyAccount, exchanges: Exchanges, first: dict[str, Any], status: int
    ) -> None:
        refused = post(first)

        again = post(NAMED)

        assert (refused.status, again.status) == (status, status)
        assert again.body == json.loads(json.dumps(refused.body)) | {"duplicate": True}
        assert exchanges.all_calls() == 0

    def test_tells_nothing_to_a_wrong_token(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        post(NAMED)

        answer = post(NAMED | {"token": "wrong"})

        assert answer.status == 401
        assert "results" not in answer.body

    def test_gets_the_first_answer_also_while_the_kill_switch_is_on(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        post(NAMED)
        KillSwitch.objects.update_or_create(pk=1, defaults={"engaged": True})

        again = post(NAMED)

        assert (again.status, again.body["duplicate"]) == (200, True)

    def test_at_the_same_instant_works_once_and_409_for_all_others(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        fake, gate, ready = exchanges.of(follower), Gate(), threading.Barrier(6)
        fake.before_placing = gate

        def send() -> WebhookAnswer:
            ready.wait(10)
            return post(NAMED)

        with SideBySide() as threads:
            sent = [threads.start(send) for _ in range(6)]
            assert gate.reached.wait(10)
            losers = first_done(sent, 5)
            gate.open()
            (winner,) = [answer for answer in first_done(sent, 6) if answer not in losers]

        assert [is_in_progress(answer) for answer in losers] == [True] * 5
        assert [answer.body["webhook_id"] for answer in losers] == ["signal-1"] * 5
        assert winner.status == 200
        assert "duplicate" not in winner.body
        assert len(fake.submitted) == 1
        assert OrderIntent.objects.count() == 1
        assert post(NAMED).body["duplicate"] is True

    def test_of_a_process_that_died_before_it_sent_is_carried_out_once(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        delivery = accepted_only(NAMED | {"orders": [limit(), MARKET]})
        assert is_in_progress(post(NAMED))
        assert exchanges.all_calls() == 0
        let_lease_end(delivery)

        answer = post(NAMED)

        assert (answer.status, answer.body["duplicate"]) == (200, True)
        assert [one["executed"] for one in answer.body["results"]] == [True, True]
        assert sorted(one.client_order_id for one in exchanges.of(follower).submitted) == sorted(
            Placement.objects.values_list("client_order_id", flat=True)
        )
        delivery.refresh_from_db()
        assert (delivery.state, delivery.lease_owner) == (DeliveryState.ANSWERED, deliveries.owner())
        assert post(NAMED).body == answer.body
        assert len(exchanges.of(follower).submitted) == 2


def first_done(futures: list[Future[T]], number: int) -> list[T]:
    """The results of the first so many."""
    done = itertools.islice(as_completed(futures, timeout=20), number)
    return [future.result() for future in done]


class TestResend:
    """The very bytes again, without a name."""

    def test_of_what_was_answered_is_a_new_signal(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        first, second = post(LIMIT), post(LIMIT)

        assert (first.status, second.status, "duplicate" in second.body) == (200, 200, False)
        assert len(exchanges.of(follower).submitted) == 2

    def test_of_what_a_living_process_works_on_is_a_new_signal(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        accepted_only(LIMIT)

        assert post(LIMIT).status == 200
        assert len(exchanges.of(follower).submitted) == 1

    def test_of_what_died_unanswered_gets_what_became_of_it(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        delivery = accepted_only(LIMIT)
        let_lease_end(delivery)

        answer = post(LIMIT)

        assert (answer.status, answer.body["duplicate"]) == (200, True)
        assert answer.body["webhook_id"] == delivery.webhook_id
        assert len(exchanges.of(follower).submitted) == 1
        assert OrderIntent.objects.count() == 1

    def test_of_what_is_unanswered_though_its_sender_has_given_up_waits(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        """TradingView's resend comes 5 s after a 5xx, while the lease of a dead process goes on for 10."""
        delivery = accepted_only(LIMIT)
        move_back(delivery, seconds=4)

        answer = post(LIMIT)

        assert is_in_progress(answer)
        assert answer.body["webhook_id"] == delivery.webhook_id
        assert exchanges.all_calls() == 0
        assert OrderIntent.objects.count() == 1

    def test_after_half_a_minute_is_a_new_signal(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        delivery = accepted_only(LIMIT)
        let_lease_end(delivery)
        move_back(delivery, seconds=31)

        answer = post(LIMIT)

        assert (answer.status, "duplicate" in answer.body) == (200, False)
        assert answer.body["webhook_id"] != delivery.webhook_id

    def test_after_a_503_is_carried_out(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(**_: Any) -> None:
            raise DatabaseError("gone")

        with monkeypatch.context() as broken:
            broken.setattr(intake, "accept", away)
            assert post(LIMIT).status == 503

        assert post(LIMIT).status == 200
        assert len(exchanges.of(follower).submitted) == 1

    def test_with_one_byte_more_is_another_signal(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        let_lease_end(accepted_only(LIMIT))

        assert "duplicate" not in post(LIMIT | {"n": 1}).body

    def test_of_a_commit_whose_confirmation_was_lost_is_not_asked_for(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def committed_and_lost(**fields: Any) -> None:
            accept(**fields)
            raise DatabaseError("connection lost while it said COMMIT")

        monkeypatch.setattr(intake, "accept", committed_and_lost)

        answer = post(LIMIT)

        assert answer.status == 200
        assert len(exchanges.of(follower).submitted) == 1
        assert OpenOrder.objects.get().status == "NEW"

    def test_of_what_broke_inside_the_transaction_is_safe(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("orders.services.acceptance._write", broken)

        assert post(LIMIT).status == 503
        assert not WebhookDelivery.objects.exists()
        assert exchanges.all_calls() == 0


class TestDedupeWindow:
    @pytest.fixture(autouse=True)
    def window(self, follower: StrategyAccount) -> None:
        Strategy.objects.update(dedupe_window_seconds=60)

    def test_takes_an_identical_payload_for_the_same_signal(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        first = post(LIMIT)

        again = post(LIMIT)

        assert again.body == json.loads(json.dumps(first.body)) | {"duplicate": True}
        assert len(exchanges.of(follower).submitted) == 1

    def test_ends(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        post(LIMIT)
        move_back(WebhookDelivery.objects.get(), seconds=61)

        assert "duplicate" not in post(LIMIT).body
        assert len(exchanges.of(follower).submitted) == 2

    def test_is_for_identical_payloads(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        post(LIMIT)

        assert "duplicate" not in post(limit(90_001)).body

    def test_says_nothing_to_a_payload_with_a_name(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        body = json.dumps(LIMIT | {"token": TOKEN}).encode()
        post(body, idempotency_key="a")

        assert "duplicate" not in post(body, idempotency_key="b").body


class TestConfiguration:
    """A switch that is flipped while a webhook is planned bites."""

    def flip_before_accept(self, monkeypatch: pytest.MonkeyPatch, flip: Any, *, times: int = 1) -> None:
        calls: list[int] = []

        def flipped_first(**fields: Any) -> Any:
            calls.append(1)
            if len(calls) <= times:
                flip()
            return accept(**fields)

        monkeypatch.setattr(intake, "accept", flipped_first)

    @pytest.mark.parametrize(
        ("flip", "answer"),
        [
            (
                lambda: KillSwitch.objects.update_or_create(pk=1, defaults={"engaged": True}),
                (403, "kill_switch"),
            ),
            (lambda: Strategy.objects.update(is_active=False), (403, "strategy_off")),
            (lambda: StrategyAccount.objects.update(is_active=False), (403, "accounts_off")),
        ],
    )
    def test_that_is_switched_off_between_planning_and_commit_sends_nothing(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch,
        flip: Any, answer: tuple[int, str],
    ) -> None:  # fmt: skip
        self.flip_before_accept(monkeypatch, flip)

        found = post(LIMIT)

        assert (found.status, found.body["code"]) == answer
        assert exchanges.all_calls() == 0
        assert not OrderIntent.objects.exists()

    def test_that_rotates_the_token_meanwhile_is_401(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def rotate() -> None:
            strategy = Strategy.objects.get()
            strategy.set_token("the-next-token")
            strategy.save()

        self.flip_before_accept(monkeypatch, rotate)

        assert post(LIMIT).status == 401
        assert exchanges.all_calls() == 0

    def test_that_changes_the_capital_meanwhile_sizes_by_the_new_one(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.flip_before_accept(
            monkeypatch, lambda: StrategyAccount.objects.update(allocated_capital=Decimal(20_000))
        )

        post({"symbol": "BTC/USDT", "side": "buy", "order_type": "LIMIT", "price": "50000", "qty_per": 10})

        assert exchanges.of(follower).submitted[0].quantity == Decimal("0.040")

    def test_that_never_stands_still_is_503(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.flip_before_accept(monkeypatch, Strategy.objects.get().save, times=99)

        assert post(LIMIT).status == 503
        assert not WebhookDelivery.objects.exists()
        assert exchanges.all_calls() == 0

    def test_that_is_switched_off_while_the_book_is_waited_for_sends_nothing(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post(LIMIT)  # the book exists and is remembered
        entered = threading.Event()

        def announced(**fields: Any) -> Any:
            entered.set()
            return accept(**fields)

        monkeypatch.setattr(intake, "accept", announced)

        def somebody_waits() -> bool:
            if connection.vendor != "postgresql":
                return entered.is_set()
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
                    " WHERE NOT l.granted AND a.datname = current_database()"
                )
                return bool(cursor.fetchone()[0])

        with SideBySide() as threads:
            with transaction.atomic():
                list(locks.books_for_update([Book.objects.get().pk]))
                waiting = threads.start(lambda: post(limit(90_001)))
                wait_until(somebody_waits)
                KillSwitch.objects.update_or_create(pk=1, defaults={"engaged": True})
            answer = waiting.result(20)

        assert (answer.status, answer.body["code"]) == (403, "kill_switch")
        assert OrderIntent.objects.count() == 1

    def test_that_is_switched_off_while_the_exchange_lists_its_instruments_sends_nothing(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Instrument.objects.filter(symbol="ETH/USDT").delete()
        fake = exchanges.of(follower)
        listed = fake.load_instruments

        async def meanwhile() -> Any:
            def flip() -> None:
                KillSwitch.objects.update_or_create(pk=1, defaults={"engaged": True})

            await elsewhere(flip)
            return await listed()

        monkeypatch.setattr(fake, "load_instruments", meanwhile)

        answer = post(limit(3000, symbol="ETH/USDT"))

        assert (answer.status, answer.body["code"]) == (403, "kill_switch")
        assert fake.place_calls == []


class TestManyAtOnce:
    def test_closes_sell_once(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        make_position(follower, "0.5")
        ready = threading.Barrier(5)

        def close() -> WebhookAnswer:
            ready.wait(10)
            return post(CLOSE)

        with SideBySide() as threads:
            answers = [one.result(20) for one in [threads.start(close) for _ in range(5)]]

        assert sorted(answer.status for answer in answers) == [200, 400, 400, 400, 400]
        assert sum(one.quantity for one in exchanges.of(follower).submitted) == Decimal("0.5")
        assert follower.positions.get().quantity == 0

    def test_orders_of_one_book_all_rest_and_none_twice(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        with SideBySide() as threads:
            sent = [threads.start(lambda n=n: post(limit(90_000 + n))) for n in range(12)]  # type: ignore[misc]
            answers = [one.result(30) for one in sent]

        assert [answer.status for answer in answers] == [200] * 12
        submitted = [one.client_order_id for one in exchanges.of(follower).submitted]
        assert len(submitted) == len(set(submitted)) == 12
        assert OpenOrder.objects.filter(status="NEW").count() == 12

    def test_cancel_all_leaves_nothing_alive_whatever_it_meets(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        exchanges.of(follower).lose_answer("nobody", errors.OutcomeUnknown("-"))
        with SideBySide() as threads:
            sent = [threads.start(lambda n=n: post(limit(90_000 + n))) for n in range(6)]  # type: ignore[misc]
            for one in sent:
                one.result(30)
            cancels = [threads.start(lambda: post({"order_type": "CANCEL_ALL_ORDER"})) for _ in range(3)]
            assert {one.result(30).status for one in cancels} == {200}

        assert not OpenOrder.objects.exists()
        assert set(OrderIntent.objects.values_list("home", flat=True)) == {Home.DONE}
