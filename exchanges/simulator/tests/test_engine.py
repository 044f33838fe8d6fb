from __future__ import annotations

from decimal import Decimal

import pytest

from exchanges.simulator.accounts import SpotWallet
from exchanges.simulator.engine import Venue
from exchanges.simulator.instruments import DEFAULT_PRICES
from exchanges.simulator.positions import FuturesWallet
from exchanges.simulator.tests.makers import BTC, Recorder, make_venue, place
from exchanges.simulator.types import (
    Change,
    ExpiryReason,
    MarketType,
    Order,
    OrderStatus,
    OrderType,
    Reason,
    Refusal,
    Side,
    TimeInForce,
)


def spot_wallet(venue: Venue, api_key: str = "k1") -> SpotWallet:
    wallet = venue.account(api_key).wallet
    assert isinstance(wallet, SpotWallet)
    return wallet


def futures_wallet(venue: Venue, api_key: str = "k1") -> FuturesWallet:
    wallet = venue.account(api_key).wallet
    assert isinstance(wallet, FuturesWallet)
    return wallet


def position(venue: Venue, api_key: str = "k1") -> tuple[Decimal, Decimal]:
    held = futures_wallet(venue, api_key).position(venue.instruments[BTC])
    return held.amount, held.entry_price


class TestPlace:
    def test_fills_a_market_order_at_the_market_price(self) -> None:
        venue = make_venue()

        order = place(venue, type=OrderType.MARKET, quantity="0.5")

        assert (order.status, order.average_price) == (OrderStatus.FILLED, Decimal(95000))
        assert [fill.is_maker for fill in order.fills] == [False]

    def test_fills_a_crossing_limit_at_the_better_market_price(self) -> None:
        venue = make_venue()

        order = place(venue, price=96000)

        assert (order.status, order.average_price) == (OrderStatus.FILLED, Decimal(95000))

    def test_rests_what_does_not_cross_and_locks_its_money(self) -> None:
        venue = make_venue()

        order = place(venue, price=94000, quantity=2)

        assert order.status is OrderStatus.NEW
        assert spot_wallet(venue).balance("USDT").locked == 188_000
        assert spot_wallet(venue).balance("USDT").free == 812_000

    def test_gives_ids_that_are_never_reused(self) -> None:
        venue = make_venue()
        first = place(venue)
        venue.reset(DEFAULT_PRICES)

        assert place(venue).order_id > first.order_id

    def test_refuses_a_client_id_that_is_open_and_takes_one_that_is_closed(self) -> None:
        venue = make_venue()
        first = place(venue, client_order_id="same")
        with pytest.raises(Refusal, match=Reason.DUPLICATE_CLIENT_ORDER_ID):
            place(venue, client_order_id="same")
        venue.cancel(first)

        again = place(venue, client_order_id="same")

        assert venue.account("k1").find(client_order_id="same") is again
        assert len(venue.account("k1").accepted_by_client_id["same"]) == 2

    def test_lets_two_accounts_use_the_same_client_id(self) -> None:
        venue = make_venue()

        place(venue, client_order_id="same")
        place(venue, client_order_id="same", api_key="k2")

        assert len(venue.orders) == 2

    def test_expires_the_rest_of_an_ioc_order(self) -> None:
        venue = make_venue()
        venue.books[venue.instruments[BTC]].liquid = False
        place(venue, side=Side.SELL, price=95000, quantity=1, api_key="k2")

        order = place(venue, price=95000, quantity=3, time_in_force=TimeInForce.IOC)

        assert (order.status, order.filled) == (OrderStatus.EXPIRED, Decimal(1))
        assert order.expiry_reason is ExpiryReason.IOC_REMAINDER
        assert spot_wallet(venue).balance("USDT").locked == 0

    def test_expires_a_fok_order_that_cannot_be_filled_whole(self) -> None:
        venue = make_venue()

        order = place(venue, price=94000, time_in_force=TimeInForce.FOK)

        assert (order.status, order.filled) == (OrderStatus.EXPIRED, Decimal(0))

    def test_refuses_that_fok_order_on_futures(self) -> None:
        with pytest.raises(Refusal, match=Reason.FOK_UNFILLABLE):
            place(make_venue(MarketType.FUTURES), price=94000, time_in_force=TimeInForce.FOK)

    def test_refuses_a_post_only_order_that_would_take(self) -> None:
        venue = make_venue()

        with pytest.raises(Refusal, match=Reason.WOULD_TAKE):
            place(venue, price=95000, post_only=True)
        assert place(venue, price=94999, post_only=True).status is OrderStatus.NEW

    @pytest.mark.parametrize(
        ("overrides", "reason"),
        [
            ({"quantity": "0.000011"}, Reason.QUANTITY_STEP),
            ({"quantity": "0.0000000001"}, Reason.QUANTITY_PRECISION),
            ({"quantity": "0.000001"}, Reason.QUANTITY_TOO_SMALL),
            ({"quantity": "9001"}, Reason.QUANTITY_TOO_LARGE),
            ({"quantity": "0"}, Reason.QUANTITY_NOT_POSITIVE),
            ({"quantity": "-1"}, Reason.QUANTITY_NOT_POSITIVE),
            ({"quantity": "0.00005", "price": "90000"}, Reason.NOTIONAL_TOO_SMALL),
            ({"price": "94000.001"}, Reason.PRICE_TICK),
            ({"price": "94000.000000001"}, Reason.PRICE_PRECISION),
            ({"price": "0"}, Reason.PRICE_RANGE),
            ({"price": "10000"}, Reason.PRICE_TOO_LOW),
            ({"price": "500000", "side": Side.SELL}, Reason.PRICE_TOO_HIGH),
            ({"quantity": "11"}, Reason.INSUFFICIENT_FUNDS),
            ({"side": Side.SELL, "price": "89500", "quantity": "100.1"}, Reason.INSUFFICIENT_FUNDS),
            ({"type": OrderType.MARKET, "quantity": "101"}, Reason.MARKET_QUANTITY_TOO_LARGE),
        ],
    )
    def test_refuses_what_breaks_a_rule_and_does_nothing(
        self, overrides: dict[str, object], reason: Reason
    ) -> None:
        venue = make_venue()

        with pytest.raises(Refusal, match=f"^{reason.value}$"):
            place(venue, **overrides)

        assert venue.orders == {}
        assert spot_wallet(venue).balance("USDT").locked == 0

    def test_refuses_the_201st_open_order_of_a_symbol(self) -> None:
        venue = make_venue()
        for _ in range(200):
            place(venue, quantity="0.001")

        with pytest.raises(Refusal, match=Reason.TOO_MANY_ORDERS):
            place(venue, quantity="0.001")
        assert place(venue, symbol="ETH/USDT", price=3000).status is OrderStatus.NEW

    def test_buys_for_an_amount_of_quote_rounded_down_to_the_step(self) -> None:
        order = place(make_venue(), type=OrderType.MARKET, quantity=None, quote_quantity=1000)

        assert order.filled == Decimal("0.01052")


class TestMatching:
    def make_book(self) -> tuple[Venue, list[Order]]:
        """Return a venue without synthetic market and k2's asks, best last placed."""
        venue = make_venue()
        venue.books[venue.instruments[BTC]].liquid = False
        asks = [
            place(venue, api_key="k2", side=Side.SELL, price=price, quantity=1)
            for price in (95002, 95001, 95001, 95000)
        ]
        return venue, asks

    def test_takes_the_best_price_first_then_the_oldest(self) -> None:
        venue, asks = self.make_book()

        order = place(venue, price=95001, quantity="2.5")

        assert [(fill.price, fill.quantity) for fill in order.fills] == [
            (Decimal(95000), Decimal(1)),
            (Decimal(95001), Decimal(1)),
            (Decimal(95001), Decimal("0.5")),
        ]
        assert [ask.filled for ask in asks] == [0, 1, Decimal("0.5"), 1]

    def test_gives_both_sides_the_same_trade(self) -> None:
        venue, asks = self.make_book()

        order = place(venue, price=95000, quantity=1)

        assert order.fills[0].trade_id == asks[3].fills[0].trade_id
        assert (order.fills[0].is_maker, asks[3].fills[0].is_maker) == (False, True)

    def test_rests_what_the_book_leaves(self) -> None:
        venue, _ = self.make_book()

        order = place(venue, price=95000, quantity=3)

        assert (order.status, order.remaining) == (OrderStatus.PARTIALLY_FILLED, Decimal(2))

    def test_expires_the_resting_one_of_two_own_orders_that_meet(self) -> None:
        venue, asks = self.make_book()

        order = place(venue, api_key="k2", price=95000, quantity=1)

        assert asks[3].status is OrderStatus.EXPIRED_IN_MATCH
        assert (order.status, order.filled) == (OrderStatus.NEW, Decimal(0))
        assert spot_wallet(venue, "k2").balance("BTC").locked == 3

    def test_expires_a_market_order_that_finds_nobody(self) -> None:
        venue = make_venue()
        venue.books[venue.instruments[BTC]].liquid = False

        order = place(venue, type=OrderType.MARKET)

        assert (order.status, order.expiry_reason) == (OrderStatus.EXPIRED, ExpiryReason.MARKET_REMAINDER)

    def test_prefers_a_resting_order_to_the_market_at_the_same_price(self) -> None:
        venue = make_venue()
        venue.books[venue.instruments[BTC]].liquid = False
        ask = place(venue, api_key="k2", side=Side.SELL, price=95000, quantity=1)
        venue.books[venue.instruments[BTC]].liquid = True

        order = place(venue, type=OrderType.MARKET, quantity=2)

        assert ask.status is OrderStatus.FILLED
        assert [fill.quantity for fill in order.fills] == [1, 1]


class TestSetPrice:
    def test_fills_resting_orders_that_the_price_reaches_at_their_own_price(self) -> None:
        venue = make_venue()
        reached, beyond = place(venue, price=94000), place(venue, price=93000)

        venue.set_price(BTC, Decimal(94000))

        assert (reached.status, reached.average_price) == (OrderStatus.FILLED, Decimal(94000))
        assert reached.fills[0].is_maker
        assert beyond.status is OrderStatus.NEW

    def test_fills_in_parts_if_a_slicer_says_so_best_and_oldest_first(self) -> None:
        venue = make_venue()
        best, older, younger = (place(venue, price=price) for price in (94001, 94000, 94000))
        venue.slicer = lambda order: Decimal("0.6")

        for _ in range(2):
            venue.set_price(BTC, Decimal(93000))

        assert [best.filled, older.filled, younger.filled] == [1, Decimal("0.6"), 0]

    @pytest.mark.parametrize(
        ("side", "above", "before", "at"), [(Side.BUY, True, 95999, 96000), (Side.SELL, False, 94001, 94000)]
    )
    def test_triggers_a_stop_at_its_price(self, side: Side, above: bool, before: int, at: int) -> None:
        venue = make_venue()
        stop = place(venue, type=OrderType.MARKET, side=side, stop_price=at, triggers_above=above)

        venue.set_price(BTC, Decimal(before))
        assert stop.status is OrderStatus.NEW
        assert stop.is_waiting_stop
        venue.set_price(BTC, Decimal(at))

        assert (stop.status, stop.average_price) == (OrderStatus.FILLED, Decimal(at))

    def test_rests_a_triggered_stop_limit_until_its_price_comes(self) -> None:
        venue = make_venue()
        told = Recorder(venue)
        stop = place(
            venue,
            client_order_id="stop",
            side=Side.SELL,
            price=94500,
            stop_price=94000,
            triggers_above=False,
        )

        venue.set_price(BTC, Decimal(93900))
        assert stop.status is OrderStatus.NEW
        venue.set_price(BTC, Decimal(94600))

        assert (stop.status, stop.average_price) == (OrderStatus.FILLED, Decimal(94500))
        assert [change for _, change, _ in told.news] == [Change.NEW, Change.TRIGGERED, Change.TRADE]

    def test_expires_a_triggered_market_buy_that_became_too_dear(self) -> None:
        venue = make_venue()
        spot_wallet(venue).balance("USDT").free = Decimal(96000)
        stop = place(venue, type=OrderType.MARKET, stop_price=96000, triggers_above=True)

        venue.set_price(BTC, Decimal(97000))

        assert (stop.status, stop.expiry_reason) == (OrderStatus.EXPIRED, ExpiryReason.FUNDS)
        assert spot_wallet(venue).balance("USDT").free == 96000

    def test_refuses_a_stop_that_would_trigger_at_once_and_a_sixth_one(self) -> None:
        venue = make_venue()
        with pytest.raises(Refusal, match=Reason.WOULD_TRIGGER):
            place(venue, price=96000, stop_price=95000, triggers_above=True)
        for _ in range(5):
            place(venue, price=96000, stop_price=96000, triggers_above=True)

        with pytest.raises(Refusal, match=Reason.TOO_MANY_STOPS):
            place(venue, price=96000, stop_price=96000, triggers_above=True)


class TestCancel:
    def test_gives_back_what_was_locked_for_the_rest(self) -> None:
        venue = make_venue()
        order = place(venue, price=90000, quantity=2)
        venue.fill(order, Decimal("0.5"), None)

        venue.cancel(order)

        assert (order.status, order.filled) == (OrderStatus.CANCELED, Decimal("0.5"))
        usdt = spot_wallet(venue).balance("USDT")
        assert (usdt.free, usdt.locked) == (Decimal(955_000), Decimal(0))
        assert venue.account("k1").open == {}

    def test_refuses_an_order_that_has_ended(self) -> None:
        venue = make_venue()
        order = place(venue, type=OrderType.MARKET)

        with pytest.raises(Refusal, match=Reason.UNKNOWN_ORDER):
            venue.cancel(order)

    def test_never_lets_a_canceled_order_fill(self) -> None:
        venue = make_venue()
        order = place(venue, price=94000)
        venue.cancel(order)

        venue.set_price(BTC, Decimal(90000))

        assert order.filled == 0


class TestFill:
    def test_refuses_more_than_is_left_and_a_price_past_the_limit(self) -> None:
        venue = make_venue()
        order = place(venue, price=94000, quantity=1)

        with pytest.raises(Refusal, match=Reason.QUANTITY_TOO_LARGE):
            venue.fill(order, Decimal("1.1"), None)
        with pytest.raises(Refusal, match=Reason.PRICE_RANGE):
            venue.fill(order, None, Decimal(94001))
        venue.fill(order, None, Decimal(93000))

        assert order.average_price == 93000
        assert spot_wallet(venue).balance("USDT").locked == 0


class TestFees:
    def test_come_off_what_is_received_on_spot(self) -> None:
        venue = make_venue(maker="0.001", taker="0.002")

        place(venue, type=OrderType.MARKET, quantity=1)
        place(venue, side=Side.SELL, price=100000, quantity=1)
        venue.set_price(BTC, Decimal(100000))

        assert spot_wallet(venue).balance("BTC").free == Decimal("99.998")
        assert spot_wallet(venue).balance("USDT").free == 1_000_000 - 95_000 + 100_000 - 100
        assert venue.fees_paid == {"BTC": Decimal("0.002"), "USDT": Decimal(100)}

    def test_come_off_the_margin_balance_on_futures(self) -> None:
        venue = make_venue(MarketType.FUTURES, maker="0.0002", taker="0.0004")

        order = place(venue, type=OrderType.MARKET, quantity=1)

        assert (order.fills[0].fee, order.fills[0].fee_asset) == (Decimal(38), "USDT")
        assert futures_wallet(venue).balance == 999_962


class TestPositions:
    def trade(self, venue: Venue, side: Side, quantity: object, price: int) -> Order:
        venue.set_price(BTC, Decimal(price))
        return place(venue, type=OrderType.MARKET, side=side, quantity=quantity)

    def test_average_when_adding_and_realise_when_reducing(self) -> None:
        venue = make_venue(MarketType.FUTURES)

        self.trade(venue, Side.BUY, 1, 90000)
        self.trade(venue, Side.BUY, 1, 92000)
        reduced = self.trade(venue, Side.SELL, "0.5", 95000)

        assert position(venue) == (Decimal("1.5"), Decimal(91000))
        assert reduced.fills[0].realized_pnl == 2000
        assert futures_wallet(venue).balance == 1_002_000

    def test_turn_round_when_crossing_zero(self) -> None:
        venue = make_venue(MarketType.FUTURES)

        self.trade(venue, Side.SELL, 1, 95000)
        turned = self.trade(venue, Side.BUY, 3, 94000)

        assert position(venue) == (Decimal(2), Decimal(94000))
        assert turned.fills[0].realized_pnl == 1000

    def test_margin_limits_new_orders_by_leverage(self) -> None:
        venue = make_venue(MarketType.FUTURES)
        instrument = venue.instruments[BTC]
        futures_wallet(venue).set_leverage(instrument, 1)
        with pytest.raises(Refusal, match=Reason.INSUFFICIENT_FUNDS):
            place(venue, price=95000, quantity=11)

        futures_wallet(venue).set_leverage(instrument, 10)
        place(venue, price=94000, quantity=100)

        assert futures_wallet(venue).available_balance == 1_000_000 - 940_000

    def test_margin_is_free_again_after_a_cancel(self) -> None:
        venue = make_venue(MarketType.FUTURES)
        order = place(venue, price=94000, quantity=100)

        venue.cancel(order)

        assert futures_wallet(venue).available_balance == 1_000_000


class TestReduceOnly:
    def test_is_refused_without_a_position_to_reduce(self) -> None:
        venue = make_venue(MarketType.FUTURES)
        place(venue, type=OrderType.MARKET, quantity=1)

        with pytest.raises(Refusal, match=Reason.REDUCE_ONLY):
            place(venue, side=Side.BUY, reduce_only=True)

    def test_never_turns_a_position_round(self) -> None:
        venue = make_venue(MarketType.FUTURES)
        place(venue, type=OrderType.MARKET, quantity=1)

        order = place(venue, type=OrderType.MARKET, side=Side.SELL, quantity=3, reduce_only=True)

        assert (order.status, order.filled) == (OrderStatus.EXPIRED, Decimal(1))
        assert position(venue)[0] == 0

    def test_ends_when_its_position_is_closed_by_another_order(self) -> None:
        venue = make_venue(MarketType.FUTURES)
        place(venue, type=OrderType.MARKET, quantity=1)
        resting = place(venue, side=Side.SELL, price=96000, quantity=1, reduce_only=True)

        place(venue, type=OrderType.MARKET, side=Side.SELL, quantity=1)

        assert (resting.status, resting.expiry_reason) == (OrderStatus.EXPIRED, ExpiryReason.REDUCE_ONLY)

    def test_needs_no_margin_and_no_minimum_notional(self) -> None:
        venue = make_venue(MarketType.FUTURES)
        place(venue, type=OrderType.MARKET, symbol="XRP/USDT", quantity=10)
        futures_wallet(venue).balance = Decimal(0)

        order = place(venue, symbol="XRP/USDT", side=Side.SELL, price="2.3", quantity=1, reduce_only=True)

        assert order.status is OrderStatus.NEW
