"""Closing positions by webhook: sized from what is there, less what is being closed already."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from exchanges.adapters import exceptions as errors
from exchanges.adapters.types import OrderRequest, Side
from orders.models import (
    EventSource,
    FailedOrder,
    Home,
    OrderIntent,
    StrategyAccount,
    StrategyPosition,
)
from orders.services.settlement import apply_reports
from orders.tests.factories import (
    CLOSE,
    NOON,
    SPOT,
    Exchanges,
    make_account,
    make_follower,
    make_position,
    make_strategy,
    post,
)
from orders.webhook.answers import WebhookAnswer

pytestmark = pytest.mark.django_db


@pytest.fixture
def follower(exchanges: Exchanges) -> StrategyAccount:
    return make_follower()


def sent(exchanges: Exchanges, follower: StrategyAccount, market: str = "FUTURES") -> list[OrderRequest]:
    return exchanges.of(follower, market).submitted


def quantity_of(follower: StrategyAccount) -> Decimal:
    quantity: Decimal = StrategyPosition.objects.get(strategy_account=follower).quantity
    return quantity


def error(answer: WebhookAnswer) -> str:
    assert (answer.status, answer.body["code"]) == (400, "all_orders_failed")
    message: str = answer.body["error"]
    return message


class TestClose:
    @pytest.mark.parametrize(("position", "side"), [("0.5", Side.SELL), ("-0.5", Side.BUY)])
    @pytest.mark.parametrize("said", [None, "buy", "sell"])
    def test_takes_all_of_it_on_the_side_that_the_position_tells(
        self, follower: StrategyAccount, exchanges: Exchanges, position: str, side: Side, said: str | None
    ) -> None:
        make_position(follower, position)

        assert post(CLOSE | {"side": said}).status == 200

        (request,) = sent(exchanges, follower)
        assert (request.side, request.quantity, request.reduce_only) == (side, Decimal("0.5"), True)
        assert quantity_of(follower) == 0
        intent = OrderIntent.objects.get()
        assert (intent.closes_position, intent.home) == (True, Home.DONE)

    def test_takes_its_percentage_and_cuts_it_to_the_lot(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        make_position(follower, "0.333")

        post(CLOSE | {"qty_per": "-33.3"})

        assert sent(exchanges, follower)[0].quantity == Decimal("0.110")

    def test_with_a_limit_rests_at_its_price(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        make_position(follower, "0.5")

        post(CLOSE | {"order_type": "LIMIT", "price": "100000"})

        (request,) = sent(exchanges, follower)
        assert (request.price, request.side, request.quantity) == (
            Decimal(100_000),
            Side.SELL,
            Decimal("0.5"),
        )

    @pytest.mark.parametrize("position", [None, "0"])
    def test_without_a_position_says_so_and_sends_nothing(
        self, follower: StrategyAccount, exchanges: Exchanges, position: str | None
    ) -> None:
        if position is not None:
            make_position(follower, position)

        assert error(post(CLOSE)) == "There is no position to close"
        assert sent(exchanges, follower) == []
        assert FailedOrder.objects.get().error_type == "invalid_quantity"

    @pytest.mark.parametrize("kind", [{}, {"order_type": "LIMIT", "price": "100000"}])
    def test_twice_in_one_payload_sells_once(
        self, follower: StrategyAccount, exchanges: Exchanges, kind: dict[str, Any]
    ) -> None:
        make_position(follower, "0.5")

        answer = post({"orders": [CLOSE | kind, CLOSE | kind]})

        assert [one["success"] for one in answer.body["results"]] == [True, False]
        assert answer.body["results"][1]["result"]["error"].startswith("Nothing is left to close")
        assert [request.quantity for request in sent(exchanges, follower)] == [Decimal("0.5")]

    def test_at_the_market_goes_before_one_that_rests(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        make_position(follower, "0.5")

        answer = post({"orders": [CLOSE | {"order_type": "LIMIT", "price": "100000"}, CLOSE]})

        assert [one["success"] for one in answer.body["results"]] == [False, True]
        assert [request.order_type for request in sent(exchanges, follower)] == ["MARKET"]

    @pytest.mark.parametrize("outcome", ["rests", "unknown"])
    def test_twice_in_two_webhooks_sells_once(
        self, follower: StrategyAccount, exchanges: Exchanges, outcome: str
    ) -> None:
        make_position(follower, "0.5")
        if outcome == "rests":
            exchanges.of(follower).fills_market_orders = False
        else:
            exchanges.of(follower).fails_with = errors.OutcomeUnknown("read timed out")
        post(CLOSE)

        assert error(post(CLOSE)).startswith("Nothing is left to close")
        assert [request.quantity for request in sent(exchanges, follower)] == [Decimal("0.5")]

    def test_again_takes_what_a_part_filled_one_left(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        make_position(follower, "0.5")
        exchanges.of(follower).fills_market_orders = False
        post(CLOSE | {"qty_per": -60})

        post(CLOSE)

        assert [request.quantity for request in sent(exchanges, follower)] == [Decimal("0.3"), Decimal("0.2")]

    def test_again_takes_everything_when_the_first_was_refused(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        make_position(follower, "0.5")
        exchanges.of(follower).fails_with = errors.InsufficientFunds("no")
        post(CLOSE)
        exchanges.of(follower).fails_with = None

        assert post(CLOSE).status == 200
        assert quantity_of(follower) == 0

    def test_of_a_rest_under_the_smallest_value_is_sent_as_it_only_reduces(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        make_position(follower, "0.001")
        exchanges.of(follower).prices["BTC/USDT"] = Decimal(1000)

        assert post(CLOSE).status == 200
        assert sent(exchanges, follower)[0].reduce_only is True

    def test_of_dust_under_the_smallest_quantity_names_it(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        make_position(follower, "0.0004")

        assert error(post(CLOSE)) == "Quantity 0.0004 BTC is below the minimum of 0.001 BTC"
        assert sent(exchanges, follower) == []

    def test_on_spot_is_not_reduce_only(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        make_position(follower, "0.5", market_type=SPOT)

        post(CLOSE | {"market_type": SPOT})

        assert sent(exchanges, follower, SPOT)[0].reduce_only is False

    def test_takes_the_position_of_its_own_market_and_symbol(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        make_position(follower, "0.5", market_type=SPOT)
        make_position(follower, "3", symbol="ETH/USDT")

        assert error(post(CLOSE)) == "There is no position to close"
        assert exchanges.all_calls() == 0

    def test_is_sized_at_each_account_on_its_own(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        second = make_follower(follower.strategy, make_account("second"))
        make_position(follower, "0.5")
        make_position(second, "-0.2")

        answer = post({"orders": [CLOSE]})

        assert [one["success"] for one in answer.body["results"]] == [True, True]
        assert [(one.side, one.quantity) for one in sent(exchanges, follower)] == [
            (Side.SELL, Decimal("0.5"))
        ]
        assert [(one.side, one.quantity) for one in sent(exchanges, second)] == [(Side.BUY, Decimal("0.2"))]


class TestFlatten:
    """[CANCEL_ALL_ORDER, MARKET -100]: what a strategy sends to be out, whatever rests."""

    FLATTEN: dict[str, Any] = {"orders": [{"order_type": "CANCEL_ALL_ORDER"}, CLOSE]}

    def test_closes_a_position_whose_target_was_resting(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        make_position(follower, "0.5")
        post(CLOSE | {"order_type": "LIMIT", "price": "100000"})

        answer = post(self.FLATTEN)

        assert [one["success"] for one in answer.body["results"]] == [True, True]
        assert len(exchanges.of(follower).cancelled) == 1
        assert sent(exchanges, follower)[-1].quantity == Decimal("0.5")
        assert quantity_of(follower) == 0

    def test_does_not_sell_what_a_close_of_unknown_fate_may_have_sold(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        make_position(follower, "0.5")
        exchanges.of(follower).fails_with = errors.OutcomeUnknown("read timed out")
        post(CLOSE)
        exchanges.of(follower).fails_with = None

        answer = post(self.FLATTEN)

        assert [one["success"] for one in answer.body["results"]] == [True, False]
        assert answer.body["results"][1]["result"]["error"].startswith("Nothing is left to close")
        assert len(sent(exchanges, follower)) == 1


class TestFeesInTheAssetItself:
    """Spot exchanges take the fee of a buy out of what was bought: there is less to sell."""

    def buy(self, follower: StrategyAccount, exchanges: Exchanges, quantity: str, fee: str) -> None:
        fake = exchanges.of(follower, SPOT)
        fake.fills_market_orders = False
        order = {"symbol": "BTC/USDT", "side": "buy", "order_type": "MARKET", "market_type": SPOT}
        assert post(order | {"quantity": quantity}).status == 200
        bought = fake.submitted[-1].client_order_id
        report = fake.fill(bought, fee=Decimal(fee), fee_asset="BTC")
        apply_reports(
            account_id=follower.account_id, market_type=SPOT, reports=[report],
            source=EventSource.STREAM, now=NOON,
        )  # fmt: skip
        fake.fills_market_orders = True

    def test_leave_that_much_less_to_close(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        self.buy(follower, exchanges, "1", "0.001")
        self.buy(follower, exchanges, "1", "0.0015")

        post(CLOSE | {"market_type": SPOT})

        assert sent(exchanges, follower, SPOT)[-1].quantity == Decimal("1.997")  # 1.9975, to the lot

    def test_are_shared_by_the_closes_of_one_payload(
        self, follower: StrategyAccount, exchanges: Exchanges
    ) -> None:
        self.buy(follower, exchanges, "1", "0.1")

        post({"orders": [CLOSE | {"market_type": SPOT, "qty_per": -50}] * 3})

        assert [one.quantity for one in sent(exchanges, follower, SPOT)[1:]] == [Decimal("0.45")] * 2


class TestStrategiesOnOneAccount:
    """The exchange knows one net position: reduce-only where that covers the close, else plain."""

    @pytest.mark.parametrize(
        ("mine", "theirs", "reduce_only"),
        [
            ("0.5", "0.3", True),  # net 0.8
            ("0.5", "0", True),
            ("0.5", "-0.3", False),  # net 0.2: the exchange would cut a reduce-only to 0.2
            ("0.5", "-0.5", False),  # net 0
            ("0.5", "-0.7", False),  # net is short
            ("-0.5", "-0.1", True),
            ("-0.5", "0.1", False),
        ],
    )
    def test_close_their_own_position_only(
        self, follower: StrategyAccount, exchanges: Exchanges, mine: str, theirs: str, reduce_only: bool
    ) -> None:
        other = make_follower(make_strategy("test2", token="token-of-test2"), follower.account)
        make_position(follower, mine)
        make_position(other, theirs)

        post(CLOSE)

        (request,) = sent(exchanges, follower)
        assert (request.quantity, request.reduce_only) == (Decimal("0.5"), reduce_only)
        assert quantity_of(follower) == 0
        assert quantity_of(other) == Decimal(theirs)

    def test_do_not_count_each_others_closes(self, follower: StrategyAccount, exchanges: Exchanges) -> None:
        other = make_follower(make_strategy("test2", token="token-of-test2"), follower.account)
        make_position(follower, "0.5")
        make_position(other, "0.5")
        exchanges.of(follower).fills_market_orders = False
        post(CLOSE)

        answer = post(CLOSE | {"group_name": "test2", "token": "token-of-test2"})

        assert answer.status == 200
        assert [request.quantity for request in sent(exchanges, follower)] == [Decimal("0.5")] * 2
