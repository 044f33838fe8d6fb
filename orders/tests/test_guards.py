"""The guards in a webhook: what is denied, in which words, and that nothing of it was sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction

from exchanges.models import Account, ConfigVersion, LastPrice
from orders import config, prices
from orders.clock import database_now
from orders.models import (
    EventType,
    FailedOrder,
    Home,
    LossTrip,
    OrderEvent,
    OrderIntent,
    ProfitPeak,
    Strategy,
    StrategyAccount,
    TradeExecution,
    UserProfile,
)
from orders.services.guards import denials
from orders.services.losses import drawdowns_resume, losses_sweep
from orders.tests.factories import (
    CLOSE,
    FUTURES,
    LIMIT,
    MARKET,
    SPOT,
    Exchanges,
    Queries,
    SideBySide,
    limit,
    make_account,
    make_follower,
    make_placement,
    make_placements,
    make_position,
    make_strategy,
    post,
)
from orders.webhook.answers import WebhookAnswer

pytestmark = pytest.mark.django_db(transaction=True)
SELL = LIMIT | {"side": "sell", "price": "99000"}


@pytest.fixture
def follower(exchanges: Exchanges) -> StrategyAccount:
    return make_follower()


def guard(follower: StrategyAccount, **limits: Any) -> None:
    """Set limits, each where it belongs."""
    for name, value in limits.items():
        row: Any = follower.strategy if hasattr(follower.strategy, name) else follower
        setattr(row, name, value)
        row.full_clean()
        row.save()


def denied(answer: WebhookAnswer) -> list[str]:
    """The sentences of the orders that a guard denied, after a look at what each left behind."""
    rows = list(FailedOrder.objects.filter(error_type="risk_limit").order_by("pk"))
    failed = [one for one in answer.body["results"] if not one["success"]]
    assert [row.intent.home for row in rows] == [Home.FAILED] * len(rows)
    assert not any(row.intent.placements.exists() for row in rows)
    assert len(failed) == len(rows)
    events = OrderEvent.objects.filter(intent__in=[row.intent_id for row in rows]).order_by("pk")
    assert {event.type for event in events} <= {EventType.FAILED}
    return [event.message for event in events]


def sent(exchanges: Exchanges, follower: StrategyAccount, market: str = FUTURES) -> int:
    return len(exchanges.of(follower, market).submitted)


def fill(
    follower: StrategyAccount, pnl: str | int, *, at: datetime, fee: str = "0", asset: str = "USDT"
) -> None:
    """A fill that realized so much."""
    placement = make_placement(follower, home=Home.DONE)
    placement.open_order.delete()
    TradeExecution.objects.create(
        intent=placement.intent, placement=placement, strategy_account=follower, account=follower.account,
        market_type=FUTURES, symbol="BTC/USDT", exchange_order_id=f"x{placement.pk}",
        trade_id=str(placement.pk), side="SELL", price=Decimal(90_000), quantity=Decimal(1),
        realized_pnl=Decimal(pnl), fee=Decimal(fee), fee_asset=asset, executed_at=at, recorded_at=at,
    )  # fmt: skip


def set_price(price: int, symbol: str = "BTC/USDT") -> None:
    LastPrice.objects.update_or_create(
        exchange="binance", environment="SIMULATOR", market_type=FUTURES, symbol=symbol,
        defaults={"price": Decimal(price), "seen_at": database_now()},
    )  # fmt: skip


class TestOrdersPerMinute:
    def test_are_counted_per_strategy_within_one_webhook(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        guard(follower, max_orders_per_minute=10)

        answer = post({"orders": [limit(90_000 - number) for number in range(12)]})

        assert denied(answer) == [
            "order 11 of strategy test1 within a minute; the limit is 10",
            "order 11 of strategy test1 within a minute; the limit is 10",
        ]
        assert answer.status == 200
        assert sent(exchanges, follower) == 10
        assert FailedOrder.objects.count() == 2
        assert FailedOrder.objects.all()[0].reason == (
            "Order 11 of strategy test1 within a minute; the limit is 10"
        )

    def test_are_counted_over_webhooks_and_free_again_a_minute_later(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        guard(follower, max_orders_per_minute=2)

        post({"orders": [LIMIT] * 2})
        assert len(denied(post(LIMIT))) == 1
        assert len(FailedOrder.objects.all()) == 1
        OrderIntent.objects.update(created_at=database_now() - timedelta(seconds=61))

        assert post(LIMIT).body["results"][0]["success"] is True

    def test_do_not_count_what_was_denied(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        guard(follower, max_orders_per_minute=2)
        post({"orders": [LIMIT] * 9})
        OrderIntent.objects.filter(home=Home.EXCHANGE).update(
            created_at=database_now() - timedelta(seconds=61)
        )

        assert post(LIMIT).body["results"][0]["success"] is True

    def test_are_counted_per_account_over_strategies(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        Account.objects.update(max_orders_per_minute=3)
        make_follower(make_strategy("other", token="another-token-of-ours"), follower.account)

        post({"orders": [LIMIT] * 2})
        answer = post({"orders": [LIMIT] * 2} | {"group_name": "other", "token": "another-token-of-ours"})

        assert denied(answer) == ["order 4 of account main within a minute; the limit is 3"]

    def test_are_300_by_default(self, follower: StrategyAccount) -> None:
        assert (
            Strategy.objects.get().max_orders_per_minute,
            Account.objects.get().max_orders_per_minute,
        ) == (
            300,
            300,
        )

    def test_never_deny_a_close(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        guard(follower, max_orders_per_minute=1)
        make_position(follower, "0.5")
        post(LIMIT)

        assert post(CLOSE).body["results"][0]["success"] is True
        assert denied(post(SELL | {"quantity": "0.6"})) != []

    def test_cost_no_query(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        counts = []
        for most in (None, 300):
            guard(follower, max_orders_per_minute=most)
            Account.objects.update(max_orders_per_minute=most)
            post(LIMIT)
            with Queries() as queries:
                post({"orders": [limit(90_000 + number) for number in range(3)]})
            counts.append(queries.count)

        assert counts[0] == counts[1]


class TestSymbols:
    def test_on_no_allowlist_are_denied(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        guard(follower, symbol_allowlist=["ETHUSDT"])

        answer = post({"orders": [LIMIT, limit(2_000, symbol="ETH/USDT")]})

        assert denied(answer) == ["symbol BTC/USDT is not on the strategy's allowlist of 1"]
        assert [one.symbol for one in exchanges.of(follower).submitted] == ["ETH/USDT"]

    def test_on_the_blocklist_are_denied_and_can_be_closed(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        guard(follower, symbol_blocklist=["BTC/USDT"])
        make_position(follower, "0.5")

        assert denied(post(LIMIT)) == ["symbol BTC/USDT is on the strategy's blocklist"]
        assert sent(exchanges, follower) == 0
        assert post(CLOSE).status == 200
        assert sent(exchanges, follower) == 1


class TestOrderNotional:
    def test_above_the_limit_is_denied(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        guard(follower, max_order_notional=Decimal(1_000))

        answer = post({"orders": [limit(quantity="0.011"), limit(quantity="0.012")]})

        assert denied(answer) == ["order value 1080 USDT is above the limit of 1000 USDT"]
        assert sent(exchanges, follower) == 1

    def test_of_a_market_order_is_not_what_its_sender_says(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        guard(follower, max_order_notional=Decimal(949))

        answer = post(MARKET | {"price": "600"})

        assert denied(answer) == ["order value 950 USDT is above the limit of 949 USDT"]

    def test_does_not_stop_a_plain_order_that_only_reduces(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        guard(follower, max_order_notional=Decimal(100))
        make_position(follower, "0.01")

        assert post(SELL).status == 200
        # The first one takes all that is held; this one would open the other side.
        assert denied(post(SELL)) == ["order value 990 USDT is above the limit of 100 USDT"]
        assert sent(exchanges, follower) == 1


class TestPositionNotional:
    def test_lets_the_first_ten_of_thirty_pass(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        guard(follower, max_position_notional=Decimal(9_000))

        answer = post({"orders": [LIMIT] * 30})

        assert denied(answer) == ["position value 9900 USDT would be above the limit of 9000 USDT"] * 20
        assert sent(exchanges, follower) == 10

    def test_counts_what_is_held_and_what_rests_and_what_waits(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        guard(follower, max_position_notional=Decimal(4_000))
        make_position(follower, "0.01")  # 950 at the last price
        set_price(95_000)
        make_placements(follower, [{"quantity": Decimal("0.01")}])  # 900
        make_placement(follower, quantity=Decimal("0.01"), home=Home.QUEUE)  # 900

        answer = post({"orders": [LIMIT, limit(quantity="0.006")]})

        assert denied(answer) == ["position value 4190 USDT would be above the limit of 4000 USDT"]

    def test_does_not_count_what_the_same_webhook_cancels(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        guard(follower, max_position_notional=Decimal(1_000))
        post(LIMIT)

        answer = post({"orders": [{"order_type": "CANCEL_ALL_ORDER"}, LIMIT]})

        assert denied(answer) == []
        assert sent(exchanges, follower) == 2

    def test_lets_a_turn_pass_that_closes_first(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        guard(follower, max_position_notional=Decimal(1_000))
        make_position(follower, "-0.01")

        answer = post({"orders": [CLOSE, MARKET]})

        assert denied(answer) == []
        assert sent(exchanges, follower) == 2

    def test_is_kept_by_two_webhooks_at_the_same_instant(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        guard(follower, max_position_notional=Decimal(9_000))
        post(limit(quantity="0.001", price="10000"))  # 10 USDT, and everything is warm

        with SideBySide() as threads:
            answers = [threads.start(lambda: post({"orders": [LIMIT] * 8})) for _ in range(4)]
            assert {answer.result().status for answer in answers} <= {200, 400}

        assert sent(exchanges, follower) == 1 + 9


class TestPriceDeviation:
    def test_of_limits_and_stops_is_denied(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        guard(follower, max_price_deviation_percent=Decimal(10))
        stop = {"order_type": "STOP_MARKET", "stop_price": "80000", "symbol": "BTC/USDT", "side": "sell",
                "quantity": "0.01"}  # fmt: skip

        answer = post({"orders": [LIMIT, limit(80_000), stop, MARKET]})

        assert sorted(denied(answer)) == [
            "price 80000 is 15.79 % from the last price 95000; the limit is 10 %",
            "stop price 80000 is 15.79 % from the last price 95000; the limit is 10 %",
        ]
        assert sent(exchanges, follower) == 2

    def test_lets_a_protecting_stop_of_a_position_pass(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        guard(follower, max_price_deviation_percent=Decimal(10))
        make_position(follower, "0.01")

        answer = post({"order_type": "STOP_MARKET", "stop_price": "80000", "symbol": "BTC/USDT",
                       "side": "sell", "quantity": "0.01"})  # fmt: skip

        assert denied(answer) == []


class TestMaxSymbols:
    def test_denies_a_symbol_too_many(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        guard(follower, max_symbols=1)
        make_position(follower, "0.5", symbol="ETH/USDT")

        answer = post({"orders": [LIMIT, limit(2_000, symbol="ETH/USDT")]})

        assert denied(answer) == ["BTC/USDT would be symbol 2 with a position; the limit is 1"]

    def test_counts_symbols_that_only_have_orders(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        guard(follower, max_symbols=1)

        answer = post({"orders": [LIMIT, LIMIT, limit(2_000, symbol="ETH/USDT")]})

        assert denied(answer) == ["ETH/USDT would be symbol 2 with a position; the limit is 1"]

    def test_does_not_count_flat_positions(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        guard(follower, max_symbols=1)
        make_position(follower, "0", symbol="ETH/USDT")

        assert denied(post(LIMIT)) == []


class TestDailyLoss:
    @pytest.fixture(autouse=True)
    def _seoul(self, follower: StrategyAccount) -> None:
        UserProfile.objects.create(user=follower.strategy.user, time_zone="Asia/Seoul")

    def test_stops_opening_until_the_users_midnight(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        guard(follower, daily_loss_limit=Decimal(100))
        make_position(follower, "0.5")
        fill(follower, -99, at=database_now(), fee="1")

        (sentence,) = denied(post(LIMIT))

        assert sentence.startswith(
            "realized loss of today 100 is at the limit of 100; nothing is opened until"
        )
        assert sentence.endswith(" 00:00 KST")
        assert sent(exchanges, follower) == 0
        assert post(CLOSE).body["results"][0]["success"] is True

    def test_leaves_one_trip_one_line_and_no_second_after_more_orders(
        self, follower: StrategyAccount
    ) -> None:
        guard(follower, daily_loss_limit=Decimal(100))
        fill(follower, -150, at=database_now())

        post(LIMIT)
        post(LIMIT)
        losses_sweep()

        trip = LossTrip.objects.get()
        assert (trip.kind, trip.limit, trip.value, trip.resumed_at) == ("DAILY_LOSS", 100, 150, None)
        assert trip.ends_at is not None
        assert trip.ends_at.astimezone(UTC).hour == 15  # Seoul's midnight
        event = OrderEvent.objects.get(type=EventType.GUARD)
        assert (event.message, event.user_id, event.strategy_account_id) == (
            trip.reason,
            follower.strategy.user_id,
            follower.pk,
        )

    @pytest.mark.parametrize(
        ("filled_at", "stops"),
        [
            (datetime(2026, 7, 20, 15, 0, tzinfo=UTC), True),  # midnight in Seoul
            (datetime(2026, 7, 20, 14, 59, 59, tzinfo=UTC), False),
        ],
    )
    def test_counts_the_fills_since_the_users_midnight(
        self, follower: StrategyAccount, filled_at: datetime, stops: bool
    ) -> None:
        guard(follower, daily_loss_limit=Decimal(100))
        fill(follower, -150, at=filled_at)

        assert losses_sweep(now=datetime(2026, 7, 21, 14, 59, tzinfo=UTC)) == int(stops)

    def test_counts_no_fees_of_another_asset(self, follower: StrategyAccount) -> None:
        guard(follower, daily_loss_limit=Decimal(100))
        fill(follower, -99, at=database_now(), fee="50", asset="BNB")

        assert losses_sweep() == 0

    def test_is_over_the_next_day_without_anybody(self, follower: StrategyAccount) -> None:
        guard(follower, daily_loss_limit=Decimal(100))
        yesterday = database_now() - timedelta(days=1)
        fill(follower, -150, at=yesterday)
        assert losses_sweep(now=yesterday) == 1

        assert denied(post(LIMIT)) == []
        assert drawdowns_resume(strategy_account_ids=[follower.pk], by="operator", reason="") == 0

    def test_stays_tripped_when_the_limit_is_raised(self, follower: StrategyAccount) -> None:
        guard(follower, daily_loss_limit=Decimal(100))
        fill(follower, -150, at=database_now())
        losses_sweep()

        guard(follower, daily_loss_limit=None)

        assert len(denied(post(LIMIT))) == 1

    def test_trips_again_on_another_day(self, follower: StrategyAccount) -> None:
        guard(follower, daily_loss_limit=Decimal(100))
        for days in (2, 0):
            moment = database_now() - timedelta(days=days)
            fill(follower, -150, at=moment)
            assert losses_sweep(now=moment) == 1

        assert LossTrip.objects.count() == 2


class TestDrawdown:
    @pytest.fixture(autouse=True)
    def _guarded(self, follower: StrategyAccount) -> None:
        guard(follower, max_drawdown_percent=Decimal(10))

    def test_stops_opening_and_lets_closes_pass(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        make_position(follower, "0.2", average="95000", realized_pnl=Decimal(-500))
        set_price(92_500)  # 500 unrealized: 1,000 of 10,000

        assert denied(post(LIMIT)) == [
            "drawdown of 10 % is at the limit of 10 %; nothing is opened until a person resumes it"
        ]
        assert LossTrip.objects.get().kind == "DRAWDOWN"
        assert post(CLOSE).body["results"][0]["success"] is True

    def test_is_measured_from_the_best_equity(self, follower: StrategyAccount) -> None:
        position = make_position(follower, "0", realized_pnl=Decimal(2_000))
        assert losses_sweep() == 0
        assert ProfitPeak.objects.get().profit == 2_000

        position.realized_pnl = Decimal(801)
        position.save()
        assert losses_sweep() == 0  # 9.99 % of 12,000
        position.realized_pnl = Decimal(800)
        position.save()

        assert losses_sweep() == 1
        assert ProfitPeak.objects.get().profit == 2_000

    def test_is_no_fall_when_capital_is_taken_away(self, follower: StrategyAccount) -> None:
        make_position(follower, "0", realized_pnl=Decimal(100))
        losses_sweep()

        guard(follower, allocated_capital=Decimal(5_000))

        assert losses_sweep() == 0

    def test_lasts_until_a_person_resumes_it(self, follower: StrategyAccount) -> None:
        position = make_position(follower, "0", realized_pnl=Decimal(-1_500))
        losses_sweep()
        position.realized_pnl = Decimal(5_000)  # better days do not end it
        position.save()
        guard(follower, max_drawdown_percent=None)  # nor does another limit
        assert len(denied(post(LIMIT))) == 1

        assert (
            drawdowns_resume(strategy_account_ids=[follower.pk], by="operator", reason="talked it over") == 1
        )

        trip = LossTrip.objects.get()
        assert (trip.resumed_by, trip.resume_reason) == ("operator", "talked it over")
        assert trip.resumed_at is not None
        event = OrderEvent.objects.filter(type=EventType.GUARD).latest("pk")
        assert (event.message, event.data["by"], event.data["reason"]) == (
            "Resumed after a drawdown of 15 %",
            "operator",
            "talked it over",
        )
        assert post(LIMIT).body["results"][0]["success"] is True
        assert drawdowns_resume(strategy_account_ids=[follower.pk], by="operator", reason="") == 0

    def test_starts_anew_from_where_it_was_resumed(self, follower: StrategyAccount) -> None:
        position = make_position(follower, "0", realized_pnl=Decimal(-1_500))
        losses_sweep()
        drawdowns_resume(strategy_account_ids=[follower.pk], by="operator", reason="")

        assert losses_sweep() == 0
        position.realized_pnl = Decimal(-2_350)  # 10 % of 8,500
        position.save()
        assert losses_sweep() == 1
        assert LossTrip.objects.count() == 2

    def test_trips_once_when_two_notice_it(self, follower: StrategyAccount) -> None:
        make_position(follower, "0", realized_pnl=Decimal(-1_500))

        with SideBySide() as threads:
            found = [threads.start(losses_sweep) for _ in range(4)]
            assert sum(one.result() for one in found) == 1

        assert LossTrip.objects.count() == 1
        assert OrderEvent.objects.filter(type=EventType.GUARD).count() == 1

    def test_bites_in_every_process_with_the_next_webhook(self, follower: StrategyAccount) -> None:
        before = ConfigVersion.current()
        make_position(follower, "0", realized_pnl=Decimal(-1_500))

        losses_sweep()

        assert ConfigVersion.current() > before

    def test_of_one_account_stops_no_other(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        other = make_follower(follower.strategy, make_account("second"))
        make_position(follower, "0", realized_pnl=Decimal(-1_500))
        losses_sweep()

        answer = post(LIMIT)

        assert [one["success"] for one in answer.body["results"]] == [False, True]
        assert (sent(exchanges, follower), sent(exchanges, other)) == (0, 1)


class TestQueries:
    def test_do_not_grow_with_orders_fills_or_accounts(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        guard(
            follower, max_position_notional=Decimal(10**9), max_symbols=9, daily_loss_limit=Decimal(10**9),
            max_drawdown_percent=Decimal(99), max_order_notional=Decimal(10**9),
        )  # fmt: skip
        Strategy.objects.update(execution_mode="IMMEDIATE")
        counts = []
        for number in (1, 30):
            for _ in range(number):
                fill(follower, -1, at=database_now())
            post(LIMIT)
            set_price(95_000)
            prices.forget()  # on a slow machine it would be old for one of the two
            with Queries() as queries:
                assert post({"orders": [LIMIT] * number}).status == 200
            counts.append(queries.count)
            print(*queries.statements, sep="\n")  # noqa: T201  shown on failure

        assert counts[0] == counts[1]

    def test_are_five_at_most_for_all_guards_together(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        counts = []
        for limits in (
            {},
            {"max_position_notional": Decimal(10**9), "max_symbols": 9, "daily_loss_limit": Decimal(10**9),
             "max_drawdown_percent": Decimal(99)},
        ):  # fmt: skip
            guard(follower, **limits)
            post(LIMIT)
            with Queries() as queries:
                post(LIMIT)
            counts.append(queries.count)

        assert counts[1] - counts[0] <= 5


class TestDenials:
    """What the queue and a retry ask before an order goes to an exchange after all."""

    def intents(self, follower: StrategyAccount, number: int = 1, **fields: Any) -> list[OrderIntent]:
        orders = [{"quantity": Decimal("0.01"), "home": Home.QUEUE} | fields] * number
        return [placement.intent for placement in make_placements(follower, orders)]

    def test_cost_nothing_where_nothing_is_set(self, follower: StrategyAccount) -> None:
        intents, version, now = self.intents(follower), ConfigVersion.current(), database_now()
        config.guards_of_all(version=version)

        with Queries() as queries:
            assert denials(intents, now=now, version=version) == {}

        assert queries.count == 0

    def test_name_what_a_loss_guard_stops_but_no_close(self, follower: StrategyAccount) -> None:
        guard(follower, max_drawdown_percent=Decimal(10))
        make_position(follower, "0", realized_pnl=Decimal(-1_500))
        (opens,) = self.intents(follower)
        closes = [*self.intents(follower, closes_position=True), *self.intents(follower, reduce_only=True)]

        with transaction.atomic():
            found = denials([opens, *closes], now=database_now())

        assert found == {
            opens.pk: "drawdown of 15 % is at the limit of 10 %; nothing is opened until a person resumes it"
        }
        assert LossTrip.objects.count() == 1

    def test_count_what_leaves_on_top_of_what_rests_and_not_what_waits(
        self, follower: StrategyAccount
    ) -> None:
        guard(follower, max_position_notional=Decimal(3_000))
        self.intents(follower, home=Home.EXCHANGE)
        waiting = self.intents(follower, 5)

        found = denials(waiting[:4], now=database_now())

        assert list(found) == [waiting[2].pk, waiting[3].pk]
        assert found[waiting[2].pk] == "position value 3600 USDT would be above the limit of 3000 USDT"

    def test_look_at_no_rate_and_no_price(self, follower: StrategyAccount) -> None:
        guard(follower, max_orders_per_minute=1, max_price_deviation_percent=Decimal(1), max_symbols=1)
        make_position(follower, "1", symbol="ETH/USDT")

        assert denials(self.intents(follower, 3), now=database_now()) == {}

    def test_value_a_market_order_by_the_last_price(self, follower: StrategyAccount) -> None:
        guard(follower, max_order_notional=Decimal(949))
        set_price(95_000)
        (market,) = self.intents(follower, order_type="MARKET", price=None)

        assert denials([market], now=database_now()) == {
            market.pk: "order value 950 USDT is above the limit of 949 USDT"
        }


class TestSpot:
    def test_sells_what_is_held_whatever_has_tripped(self, exchanges: Exchanges) -> None:
        follower = make_follower(make_strategy(market_type=SPOT))
        guard(follower, max_drawdown_percent=Decimal(10))
        make_position(follower, "0.05", market_type=SPOT, realized_pnl=Decimal(-2_000))

        answer = post({"orders": [MARKET | {"side": "sell"}, MARKET | {"side": "sell", "quantity": "0.05"}]})

        assert len(denied(answer)) == 1  # the second one would sell what is not there
        assert sent(exchanges, follower, SPOT) == 1
