"""The guards alone: each over facts that are given."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchanges.adapters.types import OrderType, Side
from orders import risk
from orders.risk import Facts, Guards, Money, Order, Resting, Trip, check, drawdown, judge, losses

NOON = datetime(2026, 7, 21, 12, tzinfo=UTC)
KEY = (1, "FUTURES", "BTC/USDT")
D = Decimal


def order(**fields: Any) -> Order:
    """A LIMIT buy of 0.01 BTC at 90,000, worth 900; what belongs to Guards goes there."""
    guards = {name: fields.pop(name) for name in list(fields) if name in Guards.__dataclass_fields__
              and name not in Order.__dataclass_fields__}  # fmt: skip
    defaults: dict[str, Any] = {
        "market_type": "FUTURES", "symbol": "BTC/USDT", "side": Side.BUY, "order_type": OrderType.LIMIT,
        "quantity": D("0.01"), "price": D(90_000), "last_price": D(95_000), "quote_asset": "USDT",
    }  # fmt: skip
    own = Guards(1, strategy_id=5, account_id=7, strategy="test1", account="main", **guards)
    return Order(own, **(defaults | fields))


def facts(**fields: Any) -> Facts:
    return Facts(NOON, **fields)


def said(one: Order, known: Facts | None = None) -> str | None:
    denial = check(one, known or facts())
    return denial.sentence if denial else None


class TestSymbols:
    @pytest.mark.parametrize("word", ["BTC/USDT", "BTCUSDT"])
    def test_on_the_allowlist_pass(self, word: str) -> None:
        assert said(order(allowlist=frozenset({risk.bare(word)}))) is None

    def test_not_on_the_allowlist_are_denied(self) -> None:
        sentence = said(order(allowlist=frozenset({"ETHUSDT"})))

        assert sentence == "symbol BTC/USDT is not on the strategy's allowlist of 1"

    def test_on_the_blocklist_are_denied_even_when_allowed(self) -> None:
        both = frozenset({"BTCUSDT"})

        assert said(order(allowlist=both, blocklist=both)) == "symbol BTC/USDT is on the strategy's blocklist"

    def test_all_pass_empty_lists(self) -> None:
        assert said(order()) is None


class TestOrderNotional:
    def test_lets_an_order_pass_that_is_worth_the_limit(self) -> None:
        assert said(order(order_notional=D(900))) is None

    def test_denies_one_that_is_worth_more(self) -> None:
        sentence = said(order(order_notional=D("899.99")))

        assert sentence == "order value 900 USDT is above the limit of 899.99 USDT"

    def test_values_a_market_order_by_the_last_price(self) -> None:
        market = order(order_type=OrderType.MARKET, price=None, order_notional=D(940))

        assert said(market) == "order value 950 USDT is above the limit of 940 USDT"

    def test_denies_a_market_order_that_nobody_can_value(self) -> None:
        market = order(order_type=OrderType.MARKET, price=None, last_price=None, order_notional=D(940))

        assert said(market) == "no last price of BTC/USDT is known to hold against the limit of 940 per order"

    def test_values_a_sell_below_the_market_by_what_it_would_fetch(self) -> None:
        sell = order(side=Side.SELL, price=D(1), order_notional=D(900))

        assert said(sell) == "order value 950 USDT is above the limit of 900 USDT"

    def test_values_a_stop_by_its_trigger(self) -> None:
        stop = order(
            order_type=OrderType.STOP_MARKET, price=None, stop_price=D(99_000), order_notional=D(980)
        )

        assert said(stop) == "order value 990 USDT is above the limit of 980 USDT"

    def test_counts_the_contract_multiplier(self) -> None:
        assert said(order(multiplier=D(10), order_notional=D(1_000))) is not None


class TestPositionNotional:
    LIMIT = D(2_000)

    def test_counts_the_position_and_what_rests_on_its_side(self) -> None:
        known = facts(
            positions={KEY: D("0.01")},
            marks={KEY: D(95_000)},
            resting={(KEY, Side.BUY): Resting(D("0.002"), D(180)), (KEY, Side.SELL): Resting(D(9), D(9_999))},
        )

        sentence = said(order(position_notional=self.LIMIT), known)

        assert sentence == "position value 2030 USDT would be above the limit of 2000 USDT"
        assert said(order(position_notional=D(2_030)), known) is None

    def test_takes_off_what_the_order_closes_first(self) -> None:
        known = facts(positions={KEY: D("-0.01")}, marks={KEY: D(95_000)})

        assert said(order(position_notional=self.LIMIT, quantity=D("0.03")), known) is None
        assert said(order(position_notional=self.LIMIT, quantity=D("0.04")), known) is not None


class TestPriceDeviation:
    @pytest.mark.parametrize(
        ("price", "passes"), [(85_500, True), (85_499, False), (104_500, True), (104_501, False)]
    )
    def test_holds_a_limit_against_the_last_price_on_both_sides(self, price: int, passes: bool) -> None:
        assert (said(order(price=D(price), price_deviation_percent=D(10))) is None) is passes

    def test_names_price_distance_and_limit(self) -> None:
        sentence = said(order(price=D(80_000), price_deviation_percent=D(10)))

        assert sentence == "price 80000 is 15.79 % from the last price 95000; the limit is 10 %"

    def test_looks_at_both_prices_of_a_stop_limit(self) -> None:
        stop = order(
            order_type=OrderType.STOP_LIMIT, price=D(95_000), stop_price=D(80_000),
            price_deviation_percent=D(10),
        )  # fmt: skip

        assert said(stop) == "stop price 80000 is 15.79 % from the last price 95000; the limit is 10 %"

    def test_does_not_look_at_market_orders(self) -> None:
        market = order(order_type=OrderType.MARKET, price=None, price_deviation_percent=D(1))

        assert said(market) is None

    def test_denies_what_nobody_can_judge(self) -> None:
        sentence = said(order(last_price=None, price_deviation_percent=D(10)))

        assert sentence == "no last price of BTC/USDT is known to hold against the limit of 10 %"


class TestMaxSymbols:
    def test_denies_one_symbol_too_many(self) -> None:
        opened = {1: frozenset({("FUTURES", "ETH/USDT"), ("FUTURES", "XRP/USDT")})}

        sentence = said(order(symbols=2), facts(opened=opened))

        assert sentence == "BTC/USDT would be symbol 3 with a position; the limit is 2"

    def test_lets_more_of_a_symbol_pass_that_is_held(self) -> None:
        assert said(order(symbols=1), facts(opened={1: frozenset({("FUTURES", "BTC/USDT")})})) is None


class TestRates:
    def test_of_the_strategy(self) -> None:
        one = order(strategy_orders_per_minute=300)

        assert said(one, facts(strategy_orders={5: 299})) is None
        assert said(one, facts(strategy_orders={5: 300})) == (
            "order 301 of strategy test1 within a minute; the limit is 300"
        )

    def test_of_the_account(self) -> None:
        one = order(account_orders_per_minute=10)

        assert said(one, facts(account_orders={7: 10})) == (
            "order 11 of account main within a minute; the limit is 10"
        )


class TestDailyLoss:
    def test_denies_from_the_limit_on_until_the_users_midnight(self) -> None:
        one = order(daily_loss=D(100), time_zone="Asia/Seoul")

        assert said(one, facts(money={1: Money(D("-99.99"))})) is None
        assert said(one, facts(money={1: Money(D(-100))})) == (
            "realized loss of today 100 is at the limit of 100; nothing is opened until 07-22 00:00 KST"
        )

    def test_ends_at_the_users_midnight(self) -> None:
        guards = order(daily_loss=D(100), time_zone="Asia/Seoul").guards

        (found,) = losses(guards, Money(D(-150)), NOON)

        assert (found.day, found.ends_at) == ("2026-07-21", datetime(2026, 7, 21, 15, tzinfo=UTC))

    def test_takes_utc_where_the_zone_is_nonsense(self) -> None:
        guards = order(daily_loss=D(100), time_zone="Mars/Olympus").guards

        (found,) = losses(guards, Money(D(-150)), NOON)

        assert found.ends_at == datetime(2026, 7, 22, tzinfo=UTC)

    def test_has_days_of_23_hours(self) -> None:
        noon = datetime(2026, 3, 29, 10, tzinfo=UTC)

        begins = risk.day_begins("Europe/Berlin", noon)
        (found,) = losses(order(daily_loss=D(1), time_zone="Europe/Berlin").guards, Money(D(-1)), noon)

        assert found.ends_at is not None
        assert (found.ends_at - begins).total_seconds() == 23 * 3600


class TestDrawdown:
    def test_is_the_fall_from_the_best_equity(self) -> None:
        assert drawdown(capital=D(10_000), profit=D(-1_000), peak=D(0)) == 10
        assert drawdown(capital=D(10_000), profit=D(900), peak=D(2_000)) == D(1_100) * 100 / D(12_000)
        assert drawdown(capital=D(10_000), profit=D(5), peak=D(5)) == 0

    def test_is_everything_where_there_is_no_capital(self) -> None:
        assert drawdown(capital=D(0), profit=D(-1), peak=D(0)) == 100

    def test_denies_from_the_limit_on(self) -> None:
        one = order(drawdown_percent=D(10), capital=D(10_000))

        assert said(one, facts(money={1: Money(profit=D(-999))})) is None
        assert said(one, facts(money={1: Money(profit=D(-1_000))})) == (
            "drawdown of 10 % is at the limit of 10 %; nothing is opened until a person resumes it"
        )

    @given(profits=st.lists(st.integers(-9_000, 50_000), min_size=1, max_size=20))
    def test_is_never_negative_and_zero_at_the_best(self, profits: list[int]) -> None:
        peak = D(max([0, *profits]))

        for profit in profits:
            assert 0 <= drawdown(capital=D(10_000), profit=D(profit), peak=peak) <= 100
        assert drawdown(capital=D(10_000), profit=peak, peak=peak) == 0


class TestTrips:
    def test_that_hold_deny_whatever_the_limits_say_now(self) -> None:
        trip = Trip("DRAWDOWN", "drawdown of 20 % …", None)

        assert said(order(trips=(trip,))) == "drawdown of 20 % …"

    def test_of_a_day_that_is_over_deny_nothing(self) -> None:
        assert said(order(trips=(Trip("DAILY_LOSS", "loss", NOON),))) is None


EVERYTHING_DENIED = {
    "allowlist": frozenset({"X"}), "blocklist": frozenset({"BTCUSDT"}), "order_notional": D(1),
    "position_notional": D(1), "price_deviation_percent": D("0.1"), "symbols": 1,
    "strategy_orders_per_minute": 1, "account_orders_per_minute": 1,
    "trips": (Trip("DRAWDOWN", "fell", None),),
}  # fmt: skip
BUSY = facts(
    strategy_orders={5: 9}, account_orders={7: 9}, positions={KEY: D("-0.05")},
    opened={1: frozenset({("FUTURES", "ETH/USDT")})}, money={1: Money(D(-9), D(-9))},
)  # fmt: skip


class TestClosing:
    def test_is_never_denied_where_it_says_so(self) -> None:
        assert said(order(closes=True, quantity=D(99), **EVERYTHING_DENIED), BUSY) is None

    def test_is_never_denied_where_it_takes_no_more_than_is_held(self) -> None:
        assert said(order(quantity=D("0.05"), **EVERYTHING_DENIED), BUSY) is None
        assert said(order(quantity=D("0.051"), **EVERYTHING_DENIED), BUSY) == "fell"

    def test_is_none_where_others_take_what_is_held_already(self) -> None:
        resting = {(KEY, Side.BUY): Resting(D("0.045"), D(1))}

        assert said(order(quantity=D("0.01"), **EVERYTHING_DENIED), replace(BUSY, resting=resting)) == "fell"

    @given(
        held=st.decimals(-5, 5, places=2),
        quantity=st.decimals("0.01", 5, places=2),
        side=st.sampled_from(Side),
    )
    def test_only_reduces_leaves_no_larger_position_on_the_other_side(
        self, held: Decimal, quantity: Decimal, side: Side
    ) -> None:
        one = order(side=side, quantity=quantity, **EVERYTHING_DENIED)
        after = held + (quantity if side is Side.BUY else -quantity)

        passes = said(one, facts(positions={KEY: held})) is None

        assert passes == (held != 0 and after * held >= 0 and abs(after) < abs(held))


class TestJudge:
    def test_counts_the_orders_of_one_webhook_on_top_of_each_other(self) -> None:
        orders = [order(position_notional=D(9_000))] * 30

        found = judge(orders, facts(positions={}))

        assert [denial is None for denial in found] == [True] * 10 + [False] * 20
        assert found[10] is not None
        assert found[10].sentence == "position value 9900 USDT would be above the limit of 9000 USDT"
        assert found[10].guard == "max_position_notional"

    def test_lets_smaller_ones_pass_after_one_that_was_denied(self) -> None:
        big, small = (order(position_notional=D(1_000), quantity=D(q)) for q in ("0.02", "0.01"))

        assert [one is None for one in judge([big, small, small], facts(positions={}))] == [
            False,
            True,
            False,
        ]

    def test_counts_rates_and_symbols(self) -> None:
        orders = [
            order(symbol=name, symbols=2, strategy_orders_per_minute=3) for name in ("A", "B", "C", "A", "B")
        ]

        found = judge(orders, facts())

        assert [one.guard if one else None for one in found] == [
            None, None, "max_symbols", None, "max_orders_per_minute of the strategy",
        ]  # fmt: skip

    def test_starts_from_what_an_unsized_close_leaves(self) -> None:
        close = order(
            closes=True, closes_percent=D(100), side=None, order_type=OrderType.MARKET, quantity=D(0)
        )
        sell = order(side=Side.SELL, position_notional=D(900), price=D(96_000))
        known = facts(positions={KEY: D("0.01")}, marks={KEY: D(95_000)})

        assert judge([sell], known) == [None]  # it closes what is held
        assert judge([close, sell], known)[1] is not None  # it opens the other side

    @given(
        st.lists(st.tuples(st.sampled_from(Side), st.integers(1, 50)), max_size=25),
        st.integers(-3_000, 3_000),
    )
    def test_never_lets_either_side_come_above_its_limit(
        self, asked: list[tuple[Side, int]], held: int
    ) -> None:
        limit, one = D(1_000), D(1)
        orders = [
            order(side=side, quantity=D(quantity), price=D(10), last_price=D(10), position_notional=limit)
            for side, quantity in asked
        ]

        found = judge(orders, facts(positions={KEY: D(held) / 10}, marks={KEY: D(10)}))

        for side, sign in ((Side.BUY, one), (Side.SELL, -one)):
            passed = [o.quantity for o, denial in zip(orders, found, strict=True)
                      if denial is None and o.side is side]  # fmt: skip
            if passed:
                assert (sign * D(held) / 10 + sum(passed)) * 10 <= limit
