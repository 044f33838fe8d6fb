"""The webhook's answers: every status, the bad input of the specification, and what was not done."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connection
from pytest_django.fixtures import Settings

from exchanges.adapters import exceptions as errors
from exchanges.adapters.testing import BTC_USDT
from exchanges.adapters.types import OrderReport, OrderRequest, OrderType, Side, VenueOrderStatus
from exchanges.models import Account, AccountType, Instrument, LastPrice
from orders.clock import database_now
from orders.models import (
    DeliveryState,
    FailedOrder,
    Home,
    KillSwitch,
    OpenOrder,
    OrderIntent,
    PendingOrder,
    Placement,
    Strategy,
    StrategyAccount,
    UserProfile,
    WebhookDelivery,
)
from orders.services import intake
from orders.states import OrderStatus
from orders.tests.factories import (
    ADDRESS,
    FUTURES,
    LIMIT,
    MARKET,
    SPOT,
    TOKEN,
    Exchanges,
    limit,
    make_account,
    make_follower,
    make_instrument,
    make_strategy,
    pass_the_queue_by,
    post,
)
from orders.webhook.answers import WebhookAnswer

pytestmark = pytest.mark.django_db


@pytest.fixture
def follower(exchanges: Exchanges) -> StrategyAccount:
    return make_follower()


def refused(answer: WebhookAnswer) -> tuple[int, str]:
    """Status and code of an answer, after a look at what every refusal has."""
    assert answer.body["success"] is False
    assert answer.body["error"]
    return answer.status, answer.body["code"]


def faults(answer: WebhookAnswer) -> list[tuple[int | None, str]]:
    return [(fault["order_index"], fault["field"]) for fault in answer.body["errors"]]


def nothing_was_done(exchanges: Exchanges) -> None:
    assert not OrderIntent.objects.exists()
    assert not Placement.objects.exists()
    assert exchanges.all_calls() == 0


def the_delivery() -> WebhookDelivery:
    return WebhookDelivery.objects.get()


class TestSingleOrder:
    def test_rests_on_the_exchange_and_is_answered_with_its_ids(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        answer = post(LIMIT)

        intent, placement = OrderIntent.objects.get(), Placement.objects.get()
        body = dict(answer.body)
        timing = body.pop("timing")
        assert answer.status == 200
        assert body == {
            "action": "single_order",
            "strategy": "test1",
            "success": True,
            "webhook_id": the_delivery().webhook_id,
            "results": [
                {
                    "order_index": 0,
                    "success": True,
                    "queued": False,
                    "executed": True,
                    "result": {
                        "order_id": placement.exchange_order_id,
                        "client_order_id": placement.client_order_id,
                        "account_id": follower.account_id,
                        "account_name": "main",
                    },
                }
            ],
            "summary": {
                "total_orders": 1,
                "accounts": 1,
                "immediate_orders": 0,
                "queued_orders": 1,
                "executed_from_queue": 1,
                "remaining_in_queue": 0,
                "successful_orders": 1,
                "failed_orders": 0,
                "exchange_submitted": 1,
            },
        }
        assert list(timing) == ["validated_ms", "planned_ms", "submitted_ms", "total_ms"]
        assert list(timing.values()) == sorted(timing.values())
        assert placement.client_order_id == f"th{intent.uid}0001"
        assert len(placement.client_order_id) == 32
        assert (intent.home, OpenOrder.objects.get().status) == (Home.EXCHANGE, OrderStatus.NEW)
        (request,) = exchanges.of(follower).submitted
        assert replace(request, send_by_monotonic=None) == OrderRequest(
            client_order_id=placement.client_order_id,
            symbol="BTC/USDT",
            side=Side.BUY,
            order_type=OrderType.LIMIT,
            quantity=Decimal("0.01"),
            price=Decimal(90000),
        )
        assert request.send_by_monotonic is not None

    def test_is_recorded_with_its_answer_and_without_its_token(self, follower: StrategyAccount) -> None:
        answer = post(LIMIT | {"comment": f"my {TOKEN}"})

        delivery = the_delivery()
        assert (delivery.strategy, delivery.source_address) == (follower.strategy, ADDRESS)
        assert json.loads(delivery.payload) == {
            "group_name": "test1", "token": "[redacted]", **LIMIT, "comment": "my [redacted]",
        }  # fmt: skip
        assert (delivery.state, delivery.response_status, delivery.response) == (
            DeliveryState.ANSWERED, 200, answer.body,
        )  # fmt: skip
        assert delivery.timings == answer.body["timing"]
        assert delivery.received_at <= (delivery.started_at or delivery.received_at)
        assert delivery.started_at is not None
        assert delivery.answered_at is not None
        assert delivery.started_at <= delivery.answered_at
        assert delivery.timed_out is False

    def test_of_market_is_immediate_and_makes_a_trade(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        answer = post(MARKET)

        assert answer.body["summary"] | {"accounts": 1} == {
            "total_orders": 1, "accounts": 1, "immediate_orders": 1, "queued_orders": 0,
            "executed_from_queue": 0, "remaining_in_queue": 0, "successful_orders": 1, "failed_orders": 0,
            "exchange_submitted": 0,
        }  # fmt: skip
        assert OrderIntent.objects.get().home == Home.DONE
        assert follower.positions.get().quantity == Decimal("0.01")

    def test_needs_no_group_name_and_takes_the_token_from_the_header(self, follower: StrategyAccount) -> None:
        answer = post(json.dumps(LIMIT).encode(), token=TOKEN)

        assert (answer.status, answer.body["strategy"]) == (200, "test1")
        assert TOKEN not in str(WebhookDelivery.objects.values().get())

    @pytest.mark.parametrize(
        "symbol", ["BTC/USDT", "btc/usdt", "BTCUSDT", "BINANCE:BTCUSDT", "BINANCE:BTCUSDT.P", "BTCUSDT.P"]
    )
    def test_knows_the_symbol_in_tradingviews_spelling(self, follower: StrategyAccount, symbol: str) -> None:
        assert post(LIMIT | {"symbol": symbol}).status == 200
        assert OrderIntent.objects.get().symbol == "BTC/USDT"

    def test_is_sized_from_capital_leverage_and_price(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        StrategyAccount.objects.update(leverage=3)

        post({key: LIMIT[key] for key in LIMIT if key != "quantity"} | {"qty_per": 10, "price": "30000.04"})

        (request,) = exchanges.of(follower).submitted
        assert (request.quantity, request.price) == (Decimal("0.099"), Decimal("30000.00"))
        assert exchanges.of(follower).leverage == {"BTC/USDT": 3}

    def test_of_market_is_sized_from_its_own_price_else_from_the_last(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        order = {"symbol": "BTC/USDT", "side": "buy", "order_type": "MARKET", "qty_per": 10}

        post(order | {"price": 50_000})
        post(order)

        first, second = exchanges.of(follower).submitted
        assert (first.quantity, first.price) == (Decimal("0.020"), None)
        assert second.quantity == Decimal("0.010")  # 1000 / 95000

    def test_of_market_uses_a_fresh_stored_price_before_it_asks(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        LastPrice.objects.create(
            exchange="binance", environment="SIMULATOR", market_type=FUTURES, symbol="BTC/USDT",
            price=Decimal(20_000), seen_at=database_now() - timedelta(seconds=5),
        )  # fmt: skip

        post({"symbol": "BTC/USDT", "side": "buy", "order_type": "MARKET", "qty_per": 10})

        assert exchanges.of(follower).submitted[0].quantity == Decimal("0.050")

    @pytest.mark.parametrize("market", [SPOT, FUTURES])
    def test_goes_to_the_market_that_it_names(
        self, follower: StrategyAccount, exchanges: Exchanges, market: str
    ) -> None:
        post(LIMIT | {"market_type": market.lower()})

        assert len(exchanges.of(follower, market).submitted) == 1
        assert exchanges.all_calls() == 1


class TestBatch:
    def test_leaves_25_good_beside_5_bad(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        pass_the_queue_by()
        fake = exchanges.of(follower)

        async def refuse(requests: Any) -> None:
            for request in requests:
                if request.price >= 90_025:
                    fake.fail(request.client_order_id, errors.InsufficientFunds("Margin is insufficient."))

        fake.before_placing = refuse

        answer = post({"orders": [limit(90_000 + number) for number in range(30)]})

        assert answer.status == 200
        assert answer.body["action"] == "batch_order"
        assert answer.body["summary"] == {
            "total_orders": 30, "accounts": 1, "immediate_orders": 0, "queued_orders": 30,
            "executed_from_queue": 25, "remaining_in_queue": 0, "successful_orders": 25, "failed_orders": 5,
            "exchange_submitted": 25,
        }  # fmt: skip
        assert [one["order_index"] for one in answer.body["results"]] == list(range(30))
        assert [one["success"] for one in answer.body["results"]] == [True] * 25 + [False] * 5
        failed = FailedOrder.objects.order_by("pk")
        assert [one["failed_order_id"] for one in answer.body["results"][25:]] == [one.pk for one in failed]
        assert answer.body["results"][29]["result"] == {
            "account_id": follower.account_id, "account_name": "main", "error": "Margin is insufficient.",
            "error_type": "insufficient_balance", "alert_sent": False,
        }  # fmt: skip
        assert len({request.client_order_id for request in fake.submitted}) == 30

    def test_sends_market_orders_first_and_then_the_rest(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        stop = {"order_type": "STOP_MARKET", "stop_price": "80000", "side": "sell", "quantity": "0.01"}

        post({"symbol": "BTC/USDT", "orders": [limit(1000), stop, MARKET, MARKET | {"side": "sell"}]})

        calls = exchanges.of(follower).place_calls
        assert [[request.order_type for request in call] for call in calls] == [
            ["MARKET", "MARKET"],
            ["LIMIT", "STOP_MARKET"],
        ]
        assert [request.side for request in calls[0]] == ["BUY", "SELL"]

    def test_sends_the_second_step_when_the_first_failed(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        fake = exchanges.of(follower)

        async def refuse_market(requests: Any) -> None:
            if requests[0].order_type == "MARKET":
                raise errors.InsufficientFunds("no money")

        fake.before_placing = refuse_market

        answer = post({"orders": [MARKET, limit()]})

        assert [one["success"] for one in answer.body["results"]] == [False, True]
        assert OpenOrder.objects.get().status == OrderStatus.NEW

    def test_serves_every_account_on_its_own(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        second = make_follower(follower.strategy, make_account("second"), allocated_capital=Decimal(50_000))
        exchanges.of(follower).fails_with = errors.AuthenticationFailed("Invalid API-key.")

        answer = post({"orders": [limit(quantity="0.01"), limit(90_001, quantity="0.02")]})

        assert answer.status == 200
        assert [
            (one["order_index"], one["result"]["account_name"], one["success"])
            for one in answer.body["results"]
        ] == [
            (0, "main", False),
            (0, "second", True),
            (1, "main", False),
            (1, "second", True),
        ]  # fmt: skip
        assert answer.body["summary"] | {} == {
            "total_orders": 2, "accounts": 2, "immediate_orders": 0, "queued_orders": 4,
            "executed_from_queue": 2, "remaining_in_queue": 0, "successful_orders": 2, "failed_orders": 2,
            "exchange_submitted": 2,
        }  # fmt: skip
        assert set(OpenOrder.objects.values_list("account_id", flat=True)) == {second.account_id}
        assert {one.strategy_account for one in FailedOrder.objects.all()} == {follower}

    def test_says_what_failed_at_the_symbol_one_account_does_not_trade(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        make_follower(follower.strategy, make_account("elsewhere", environment="TESTNET"))

        answer = post(LIMIT)

        good, bad = answer.body["results"]
        assert (good["success"], bad["success"]) == (True, False)
        assert bad["result"]["error_type"] == "invalid_symbol"
        assert bad["result"]["error"] == "BTC/USDT is not traded at binance FUTURES"

    def test_of_one_is_still_a_batch(self, follower: StrategyAccount) -> None:
        assert post({"orders": [LIMIT]}).body["action"] == "batch_order"

    def test_gives_the_slots_of_the_5_bad_to_the_next_best(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        fake = exchanges.of(follower)

        async def refuse(requests: Any) -> None:
            for request in requests:
                if request.price >= 90_025:
                    fake.fail(request.client_order_id, errors.InsufficientFunds("Margin is insufficient."))

        fake.before_placing = refuse

        answer = post({"orders": [limit(90_000 + number) for number in range(30)]})

        assert answer.body["summary"] == {
            "total_orders": 30, "accounts": 1, "immediate_orders": 0, "queued_orders": 30,
            "executed_from_queue": 20, "remaining_in_queue": 5, "successful_orders": 25, "failed_orders": 5,
            "exchange_submitted": 20,
        }  # fmt: skip
        prices = OpenOrder.objects.order_by("intent__price").values_list("intent__price", flat=True)
        assert list(prices) == [Decimal(90_005 + number) for number in range(20)]
        assert FailedOrder.objects.count() == 5
        assert len({request.client_order_id for request in fake.submitted}) == 25

    def test_that_passes_the_queue_by_goes_straight_to_the_exchange(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        pass_the_queue_by()

        summary = post({"orders": [limit()] * 30}).body["summary"]

        assert (summary["executed_from_queue"], summary["remaining_in_queue"]) == (30, 0)
        assert OpenOrder.objects.count() == 30


class TestBadPayload:
    @pytest.mark.parametrize("body", [b"", b"not json", b"[]", b'{"token": "\\ud800"}', b"\xff"])
    def test_that_is_no_json_is_400_and_recorded(
        self, follower: StrategyAccount, exchanges: Exchanges, body: bytes
    ) -> None:
        answer = post(body)

        assert refused(answer) == (400, "invalid_json")
        assert faults(answer) == [(None, "body")]
        delivery = the_delivery()
        assert (delivery.strategy, delivery.response_status, delivery.payload) == (None, 400, "")
        nothing_was_done(exchanges)

    def test_names_the_faults_of_two_orders_at_once(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        answer = post({"orders": [limit(price="NaN"), limit(), limit(side="up", price="-1")]})

        assert refused(answer) == (400, "invalid_payload")
        assert faults(answer) == [(0, "price"), (2, "side"), (2, "price")]
        assert answer.body["error"] == (
            "order 0, price: must be a number; order 2, side: must be buy or sell (or long, short);"
            " order 2, price: must be above zero"
        )
        assert answer.body["webhook_id"] == the_delivery().webhook_id
        nothing_was_done(exchanges)

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"price": "NaN"}, "price"),
            ({"price": "1e400"}, "price"),
            ({"price": -1}, "price"),
            ({"quantity": "1e-999999999"}, "quantity"),
            ({"orders": [LIMIT] * 31}, "orders"),
            ({"order_type": "ICEBERG"}, "order_type"),
            ({"market_type": "moon"}, "market_type"),
            ({"webhook_id": ["a"]}, "webhook_id"),
            ({"webhook_id": "x" * 129}, "webhook_id"),
            ({"webhook_id": "a\0b"}, "webhook_id"),
        ],
    )
    def test_is_400_that_names_the_field(
        self, follower: StrategyAccount, exchanges: Exchanges, change: dict[str, Any], field: str
    ) -> None:
        answer = post(LIMIT | change)

        assert refused(answer) == (400, "invalid_payload")
        assert [name for _, name in faults(answer)] == [field]
        assert (the_delivery().state, the_delivery().response_status) == (DeliveryState.ANSWERED, 400)
        nothing_was_done(exchanges)

    def test_of_an_unknown_symbol_is_400_for_every_order_that_has_one(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        answer = post({"orders": [limit(symbol="DOGE/USDT"), limit(), limit(symbol="FOO")]})

        assert refused(answer) == (400, "unknown_symbol")
        assert faults(answer) == [(0, "symbol"), (2, "symbol")]
        assert "DOGE/USDT" in answer.body["error"]
        nothing_was_done(exchanges)

    def test_of_a_symbol_that_was_listed_just_now_is_none(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        fake = exchanges.of(follower)
        fake.instruments.append(
            replace(BTC_USDT, symbol="SOL/USDT", venue_symbol="SOLUSDT", base_asset="SOL")
        )

        assert post(limit(symbol="SOLUSDT")).status == 200
        assert OrderIntent.objects.get().symbol == "SOL/USDT"

    def test_of_a_symbol_that_fits_several_instruments_names_them(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        make_instrument(replace(BTC_USDT, symbol="BTC/USDT2"))

        answer = post(limit(symbol="BTCUSDT"))

        assert refused(answer) == (400, "unknown_symbol")
        assert "BTCUSDT fits several instruments: BTC/USDT, BTC/USDT2" in answer.body["error"]
        nothing_was_done(exchanges)

    def test_of_a_stale_signal_is_400(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        Strategy.objects.update(max_signal_age_seconds=60)
        now = database_now()

        old = post(LIMIT | {"timestamp": (now - timedelta(seconds=90)).isoformat()})

        assert refused(old) == (400, "stale_signal")
        assert "90 s old; this strategy takes 60 s at most" in old.body["error"]
        nothing_was_done(exchanges)
        assert (
            post(LIMIT | {"timestamp": int((now - timedelta(seconds=20)).timestamp() * 1000)}).status == 200
        )
        assert post(LIMIT).status == 200

    def test_of_a_time_nobody_can_read_is_400_only_where_its_age_matters(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        assert post(LIMIT | {"timestamp": "soon"}).status == 200

        Strategy.objects.update(max_signal_age_seconds=60)

        answer = post(LIMIT | {"timestamp": "soon"})
        assert refused(answer) == (400, "invalid_payload")
        assert [error["field"] for error in answer.body["errors"]] == ["timestamp"]


class TestAccounts:
    def test_none_of_the_right_kind_is_400_that_names_the_kind(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        answer = post({"orders": [limit(), limit(market_type="DOMESTIC_STOCK", symbol="005930")]})

        assert refused(answer) == (400, "no_account")
        assert faults(answer) == [(1, "market_type")]
        assert "need a STOCK account" in answer.body["error"]
        nothing_was_done(exchanges)

    def test_none_at_all_is_400(self, exchanges: Exchanges) -> None:
        make_strategy()

        answer = post(LIMIT)

        assert refused(answer) == (400, "no_account")
        assert "no CRYPTO account follows this strategy" in answer.body["error"]

    def test_of_the_other_kind_are_left_alone(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        stock = make_follower(follower.strategy, make_account("stocks", account_type=AccountType.STOCK))

        answer = post(LIMIT)

        assert answer.body["summary"]["accounts"] == 1
        assert not OrderIntent.objects.filter(strategy_account=stock).exists()

    @pytest.mark.parametrize("switch", ["follower", "account", "account_kill_switch"])
    def test_all_switched_off_is_403(
        self, follower: StrategyAccount, exchanges: Exchanges, switch: str
    ) -> None:
        if switch == "follower":
            StrategyAccount.objects.update(is_active=False)
        elif switch == "account":
            Account.objects.update(is_active=False)
        else:
            Account.objects.update(kill_switch=True)

        code = "kill_switch" if switch == "account_kill_switch" else "accounts_off"
        assert refused(post(LIMIT)) == (403, code)
        nothing_was_done(exchanges)

    def test_switched_off_beside_one_that_is_on_is_skipped(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        off = make_follower(follower.strategy, make_account("off", is_active=False))

        answer = post(LIMIT)

        assert answer.body["summary"]["accounts"] == 1
        assert exchanges.of(off).place_calls == []


class TestSwitches:
    @pytest.mark.parametrize(
        ("switch", "code"),
        [
            ("system", "kill_switch"),
            ("user", "kill_switch"),
            ("strategy", "kill_switch"),
            ("strategy_off", "strategy_off"),
        ],
    )
    def test_that_are_off_refuse_with_403_at_once(
        self, follower: StrategyAccount, exchanges: Exchanges, switch: str, code: str
    ) -> None:
        assert post(LIMIT).status == 200
        calls = exchanges.all_calls()
        if switch == "system":
            KillSwitch.objects.update_or_create(pk=1, defaults={"engaged": True})
        elif switch == "user":
            UserProfile.objects.create(user=follower.strategy.user, kill_switch=True)
        elif switch == "strategy":
            Strategy.objects.update(kill_switch=True)
        else:
            Strategy.objects.update(is_active=False)

        assert refused(post(LIMIT | {"price": "90001"})) == (403, code)
        assert exchanges.all_calls() == calls

    @pytest.mark.parametrize(
        ("allowed", "address", "status"),
        [
            ([], ADDRESS, 200),
            (["203.0.113.0/24"], ADDRESS, 200),
            (["203.0.113.0/24"], "::ffff:203.0.113.7", 200),
            (["tradingview"], "52.89.214.238", 200),
            (["tradingview"], ADDRESS, 403),
            (["198.51.100.1"], ADDRESS, 403),
            (["198.51.100.1"], None, 403),
        ],
    )
    def test_let_in_who_is_on_the_allowlist(
        self, follower: StrategyAccount, exchanges: Exchanges, settings: Settings,
        allowed: list[str], address: str | None, status: int,
    ) -> None:  # fmt: skip
        settings.WEBHOOK_ALLOWED_IPS = allowed

        answer = post(LIMIT, address=address)

        assert answer.status == status
        if status == 403:
            assert refused(answer) == (403, "sender_not_allowed")
            nothing_was_done(exchanges)


class TestWhoSends:
    @pytest.mark.parametrize(
        "named",
        [
            {"token": "wrong"},
            {"token": ""},
            {"token": None},
            {"token": TOKEN + " "},
            {"token": [TOKEN]},
            {"group_name": "test2"},
            {"group_name": "nobody", "token": "wrong"},
            {"group_name": ["test1"]},
        ],
    )
    def test_with_a_wrong_word_is_401_with_one_and_the_same_answer(
        self, follower: StrategyAccount, exchanges: Exchanges, named: dict[str, Any]
    ) -> None:
        make_strategy("test2", token="token-of-test2")

        answer = post(LIMIT | named)

        assert (answer.status, answer.body) == (
            401,
            {"success": False, "error": "Unknown strategy or wrong token.", "code": "unauthorized"},
        )
        nothing_was_done(exchanges)
        assert the_delivery().strategy is None
        assert "wrong" not in the_delivery().payload
        assert TOKEN not in the_delivery().payload

    def test_with_a_rotated_token_is_401_on_the_very_next_webhook(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        assert post(LIMIT).status == 200
        strategy = follower.strategy
        strategy.set_token("the-next-token")
        strategy.save()

        assert refused(post(LIMIT)) == (401, "unauthorized")
        assert post(LIMIT | {"token": "the-next-token"}).status == 200

    def test_too_often_wrong_is_429_and_a_correct_token_still_passes(self, follower: StrategyAccount) -> None:
        answers = [post(LIMIT | {"token": "wrong"}) for _ in range(12)]

        assert [answer.status for answer in answers] == [401] * 10 + [429] * 2
        assert refused(answers[-1]) == (429, "too_many_failures")
        assert answers[-1].headers == {"Retry-After": "60"}
        assert post(LIMIT).status == 200
        assert post(LIMIT | {"token": "wrong", "group_name": "another"}).status == 401
        assert post(LIMIT | {"token": "wrong"}, address="198.51.100.9").status == 401
        assert WebhookDelivery.objects.filter(response_status=429).count() == 0


class TestCouldNotBeSized:
    @pytest.mark.parametrize(
        ("order", "said"),
        [
            (limit(quantity="0.0009"), "quantity 0.0009 BTC is below the minimum of 0.001 BTC"),
            (limit(price="4000", quantity="0.001"), "order value 4 USDT is below the minimum of 5 USDT"),
            (limit(quantity="1001"), "quantity 1001 BTC is above the maximum of 1000 BTC"),
            (
                limit(quantity=None, qty_per="0.0001"),
                "quantity 0.00000011 BTC is below the minimum of 0.001 BTC",
            ),
            (
                {"symbol": "BTC/USDT", "side": "sell", "order_type": "MARKET", "qty_per": -100},
                "there is no position to close",
            ),
        ],
    )
    def test_is_400_with_a_failed_order_that_names_the_limit(
        self, follower: StrategyAccount, exchanges: Exchanges, order: dict[str, Any], said: str
    ) -> None:
        answer = post(order)

        failed = FailedOrder.objects.get()
        assert (answer.status, answer.body["code"], answer.body["success"]) == (
            400,
            "all_orders_failed",
            False,
        )
        assert answer.body["error"].lower() == said.lower()
        assert answer.body["results"][0]["failed_order_id"] == failed.pk
        assert answer.body["results"][0]["result"]["error_type"] == "invalid_quantity"
        assert failed.reason.lower() == said.lower()
        assert OrderIntent.objects.get().home == Home.FAILED
        assert exchanges.all_calls() == 0
        assert not Placement.objects.exists()
        assert not OpenOrder.objects.exists()

    def test_lets_the_others_go(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        answer = post({"orders": [limit(quantity="0.0001"), limit()]})

        assert (answer.status, [one["success"] for one in answer.body["results"]]) == (200, [False, True])
        assert len(exchanges.of(follower).submitted) == 1

    def test_on_a_halted_instrument_says_so_also_of_a_close_without_a_side(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        Instrument.objects.update(is_trading=False)

        answer = post({"symbol": "BTC/USDT", "order_type": "MARKET", "qty_per": -100})

        assert refused(answer) == (400, "all_orders_failed")
        assert answer.body["error"] == "BTC/USDT is halted at binance FUTURES"
        assert FailedOrder.objects.get().error_type == "invalid_symbol"

    def test_asks_a_dead_exchange_for_its_price_only_once(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake = exchanges.of(follower)
        asked: list[Any] = []

        async def dead(symbols: Any) -> dict[str, Decimal]:
            asked.append(symbols)
            raise errors.OutcomeUnknown("no answer")

        monkeypatch.setattr(fake, "fetch_tickers", dead)
        order = {"symbol": "BTC/USDT", "side": "buy", "order_type": "MARKET", "qty_per": 1}

        answer = post({"orders": [order] * 30})

        assert refused(answer) == (400, "all_orders_failed")
        assert answer.body["error"] == "No last price of BTC/USDT is known to size the order by"
        assert {failed.error_type for failed in FailedOrder.objects.all()} == {"network_error"}
        assert len(asked) == 1


class TestExchangeInTrouble:
    def test_down_is_resolving_and_nothing_is_sent_twice(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        exchanges.of(follower).fails_with = errors.OutcomeUnknown("read timed out")

        answer = post({"orders": [limit(), MARKET]})

        assert answer.status == 200
        assert [(one["success"], one["executed"], one["resolving"]) for one in answer.body["results"]] == [
            (True, False, True),
            (True, False, True),
        ]
        assert answer.body["summary"]["exchange_submitted"] == 0
        assert list(OpenOrder.objects.values_list("status", flat=True)) == [OrderStatus.SUBMITTING] * 2
        assert not FailedOrder.objects.exists()
        assert [len(call) for call in exchanges.of(follower).place_calls] == [1, 1]

    def test_that_takes_no_connection_lets_a_limit_wait_and_a_market_order_fail(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        exchanges.of(follower).fails_with = errors.NotSent("no connection could be made")

        answer = post({"orders": [limit(), MARKET]})

        waits, failed = answer.body["results"]
        assert (answer.status, waits["success"], failed["success"]) == (200, True, False)
        pending = PendingOrder.objects.get()
        assert (waits["queued"], waits["executed"], waits["retry_scheduled"]) == (True, False, True)
        assert waits["pending_order_id"] == pending.pk
        assert "no connection could be made" in waits["result"]["message"]
        assert answer.body["summary"]["remaining_in_queue"] == 1
        assert (pending.reason, pending.intent.retry_count) == ("no connection could be made", 0)
        assert pending.waits_until is not None
        assert FailedOrder.objects.get().order_type == "MARKET"
        assert not OpenOrder.objects.exists()

    def test_that_takes_no_connection_leaves_failed_orders(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        pass_the_queue_by()
        exchanges.of(follower).fails_with = errors.NotSent("no connection could be made")

        answer = post({"orders": [limit(), MARKET]})

        assert refused(answer) == (400, "all_orders_failed")
        assert answer.body["error"] == "no connection could be made"
        assert FailedOrder.objects.count() == 2
        assert not OpenOrder.objects.exists()

    def test_that_breaks_in_an_unforeseen_way_is_an_unknown_outcome(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        async def broken(requests: Any) -> None:
            raise ZeroDivisionError("a fault of our own")

        exchanges.of(follower).before_placing = broken

        answer = post(LIMIT)

        assert answer.body["results"][0]["resolving"] is True
        assert OpenOrder.objects.get().status == OrderStatus.SUBMITTING

    def test_that_ends_an_order_at_once_without_a_fill_is_a_failure(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake = exchanges.of(follower)
        fake.fills_market_orders = False
        place = fake.place_orders

        async def expire(requests: Any) -> Any:
            return [
                replace(one, status=VenueOrderStatus.EXPIRED, reason="no liquidity")
                for one in await place(requests)
                if isinstance(one, OrderReport)
            ]

        monkeypatch.setattr(fake, "place_orders", expire)

        answer = post(MARKET)

        failed = FailedOrder.objects.get()
        assert refused(answer) == (400, "all_orders_failed")
        assert answer.body["results"][0]["failed_order_id"] == failed.pk
        assert failed.status == "expired"


class TestNothingWritten:
    def test_is_503_when_the_database_is_away(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*_: Any, **__: Any) -> None:
            raise DatabaseError("server closed the connection unexpectedly")

        monkeypatch.setattr("orders.webhook.authentication.authenticate", away)

        answer = post(LIMIT)

        assert refused(answer) == (503, "unavailable")
        assert "server closed" not in str(answer.body)
        nothing_was_done(exchanges)

    @pytest.mark.services
    @pytest.mark.django_db(transaction=True)
    def test_is_a_restart_of_the_database_no_reason_to_refuse(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        """Every connection that lies in the pool is dead by then."""
        assert post(LIMIT).status == 200
        at = connection.settings_dict
        with psycopg.connect(
            host=at["HOST"], port=at["PORT"], user=at["USER"], password=at["PASSWORD"], dbname=at["NAME"]
        ) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

        assert post(LIMIT).status == 200
        assert OpenOrder.objects.count() == 2

    def test_is_503_when_planning_breaks(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError(TOKEN)

        monkeypatch.setattr(intake, "make_plan", broken)

        answer = post(LIMIT)

        assert refused(answer) == (503, "unavailable")
        assert TOKEN not in str(answer.body)
        nothing_was_done(exchanges)
        assert not WebhookDelivery.objects.exists()

    def test_is_no_5xx_any_more_after_the_commit(
        self, follower: StrategyAccount, exchanges: Exchanges, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any, **__: Any) -> None:
            raise DatabaseError("gone")

        monkeypatch.setattr("orders.services.submission.outcomes_apply", broken)

        answer = post(LIMIT)

        assert (answer.status, answer.body) == (
            408,
            {
                "success": False,
                "error": "Order execution timeout",
                "code": "timeout",
                "webhook_id": the_delivery().webhook_id,
            },
        )
        assert the_delivery().state == DeliveryState.WORKING
        assert OpenOrder.objects.get().status == OrderStatus.SUBMITTING
        assert len(exchanges.of(follower).submitted) == 1
