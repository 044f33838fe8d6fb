"""Whatever happens on a venue, nothing is made from nothing: money, coins, contracts."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from exchanges.simulator.accounts import SpotWallet
from exchanges.simulator.engine import Venue
from exchanges.simulator.instruments import FUTURES_BALANCE, SPOT_BALANCES
from exchanges.simulator.positions import FuturesWallet
from exchanges.simulator.tests.makers import BTC, make_venue, place
from exchanges.simulator.types import MarketType, Order, OrderStatus, OrderType, Refusal, Side, TimeInForce

KEYS = ("k1", "k2", "k3")
# Realised profit and fees are rounded to 8 decimals, once per fill.
ROUNDING = Decimal("0.00001")

prices = st.integers(90000, 100000).map(Decimal)
quantities = st.integers(1, 5000).map(lambda thousandths: Decimal(thousandths) / 1000)
places = st.fixed_dictionaries(
    {
        "what": st.just("place"),
        "api_key": st.sampled_from(KEYS),
        "side": st.sampled_from(Side),
        "type": st.sampled_from(OrderType),
        "price": prices,
        "quantity": quantities,
        "time_in_force": st.sampled_from(TimeInForce),
        "post_only": st.booleans(),
        "reduce_only": st.booleans(),
        "stop_price": st.none() | prices,
        "triggers_above": st.booleans(),
    }
)
moves = st.fixed_dictionaries({"what": st.just("move"), "price": prices, "slice": st.none() | quantities})
cancels = st.fixed_dictionaries({"what": st.just("cancel"), "index": st.integers(0, 50)})
fills = st.fixed_dictionaries({"what": st.just("fill"), "index": st.integers(0, 50), "quantity": quantities})
liquidities = st.fixed_dictionaries({"what": st.just("liquid"), "is_liquid": st.booleans()})
stories = st.lists(places | moves | cancels | fills | liquidities, max_size=40)


def act(venue: Venue, step: dict[str, Any]) -> None:
    """Do one step; a refusal is part of the story."""
    orders = list(venue.orders.values())
    try:
        match step["what"]:
            case "place":
                details = {name: value for name, value in step.items() if name != "what"}
                if venue.market_type is MarketType.SPOT:
                    details["reduce_only"] = False
                if details["type"] is OrderType.MARKET:
                    details["post_only"] = False
                place(venue, **details)
            case "move":
                part = step["slice"]
                venue.slicer = None if part is None else lambda order: min(part, order.remaining)
                venue.set_price(BTC, step["price"])
            case "cancel" if orders:
                venue.cancel(orders[step["index"] % len(orders)])
            case "fill" if orders:
                venue.fill(orders[step["index"] % len(orders)], step["quantity"], None)
            case "liquid":
                venue.books[venue.instruments[BTC]].liquid = step["is_liquid"]
    except Refusal:
        pass


def check_order(order: Order) -> None:
    assert order.filled == sum(fill.quantity for fill in order.fills)
    assert order.filled_quote == sum(fill.price * fill.quantity for fill in order.fills)
    assert 0 <= order.filled <= order.quantity
    assert (order.status is OrderStatus.FILLED) == (order.remaining == 0)
    if order.price is not None:
        worst = max if order.side is Side.BUY else min
        assert all(worst(fill.price, order.price) == order.price for fill in order.fills)


class TestSpot:
    @settings(max_examples=150, deadline=None)
    @given(stories)
    def test_conserves_every_asset(self, story: list[dict[str, Any]]) -> None:
        venue = make_venue(maker="0.001", taker="0.002")
        for key in KEYS:
            venue.account(key)

        for step in story:
            act(venue, step)

        wallets = [venue.account(key).wallet for key in KEYS]
        for asset in ("BTC", "USDT"):
            held = venue.counterparty.get(asset, Decimal(0)) + venue.fees_paid.get(asset, Decimal(0))
            for wallet in wallets:
                assert isinstance(wallet, SpotWallet)
                balance = wallet.balance(asset)
                assert balance.free >= 0
                held += balance.free + balance.locked
            assert held == SPOT_BALANCES[asset] * len(KEYS)
        for order in venue.orders.values():
            check_order(order)

    @settings(max_examples=100, deadline=None)
    @given(stories)
    def test_locks_exactly_what_open_orders_need(self, story: list[dict[str, Any]]) -> None:
        venue = make_venue()

        for step in story:
            act(venue, step)

        for key, account in venue.accounts.items():
            buys = [order for order in account.open.values() if order.side is Side.BUY]
            sells = [order for order in account.open.values() if order.side is Side.SELL]
            wallet = account.wallet
            assert isinstance(wallet, SpotWallet), key
            assert wallet.balance("BTC").locked == sum(order.remaining for order in sells)
            assert wallet.balance("USDT").locked == sum(
                order.remaining * (order.price or order.stop_price or 0) for order in buys
            )


class TestFutures:
    @settings(max_examples=150, deadline=None)
    @given(stories)
    def test_conserves_contracts_and_money(self, story: list[dict[str, Any]]) -> None:
        venue = make_venue(MarketType.FUTURES, maker="0.0002", taker="0.0004")
        instrument = venue.instruments[BTC]
        for key in KEYS:
            venue.account(key)

        for step in story:
            act(venue, step)

        contracts = venue.counterparty.get("BTC", Decimal(0))
        # What everybody would have if all positions were closed at no matter which price: zero.
        money = venue.counterparty.get("USDT", Decimal(0)) + venue.fees_paid.get("USDT", Decimal(0))
        for key in KEYS:
            wallet = venue.account(key).wallet
            assert isinstance(wallet, FuturesWallet)
            position = wallet.position(instrument)
            contracts += position.amount
            money += wallet.balance - FUTURES_BALANCE - position.cost
        assert contracts == 0
        assert abs(money) < ROUNDING
        for order in venue.orders.values():
            check_order(order)

    @settings(max_examples=100, deadline=None)
    @given(stories)
    def test_counts_open_orders_and_margin_back_to_nothing(self, story: list[dict[str, Any]]) -> None:
        venue = make_venue(MarketType.FUTURES)
        instrument = venue.instruments[BTC]

        for step in story:
            act(venue, step)
        for account in venue.accounts.values():
            for order in list(account.open.values()):
                venue.cancel(order)
            assert (account.open_count(instrument), account.stop_count(instrument)) == (0, 0)
            assert isinstance(account.wallet, FuturesWallet)
            assert account.wallet.initial_margin(instrument) == account.wallet.position_margin(instrument)
